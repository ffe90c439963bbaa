"""The training loop.

An epoch is: planned crops, updates, validation on whole tiles, then files. `resume.pt` is written last but
for the event, so a process killed anywhere leaves either the epoch before or this one, whole. Every random
draw is a function of (seed, epoch, sample number) or (seed, epoch, process): a resumed run repeats an
uninterrupted one.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.channels import Normalisation
from napari_glacier.core.errors import CheckpointError
from napari_glacier.core.models.training_memory import peak_memory_gb
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.checkpoint import ModelCard, save_checkpoint
from napari_glacier.nn.device import describe_device
from training.augment import Augmenter
from training.averaging import WeightAverage
from training.data import BatchPlan, CropDataset, Scan, close_loader, make_loader, scan
from training.distill import Teachers
from training.distributed import Team
from training.loggers import make_loggers
from training.losses import build_loss, column_of
from training.optim import Direction, LearningRate, Progress, build_optimizer, set_learning_rate
from training.pixels import make_mixer
from training.precision import Precision
from training.reporting import Reporter, Row
from training.resume import read_state, write_state
from training.sampler import CropSampler
from training.start import Start, model_arguments
from training.update import Batch, Step, Updater
from training.validation import NonFiniteLossError, Validator, matrix_of

# With several processes asking whether to stop is a message to all, so it is asked less often.
_STEPS_BETWEEN_STOP_CHECKS = 5
# To look at a loss, a GPU has to be waited for.
_STEPS_BETWEEN_LOSS_CHECKS = 10
_DIRECTIONS: dict[str, Direction] = {"val_mcc": "max", "val_loss": "min", "none": "none"}
# A class mix that misses the target by more than this is said.
_MIX_TOLERANCE = 0.03


class Trainer:
    """Trains one model into a run folder.

    Parameters
    ----------
    start : Start
        From `prepare`.
    folder : RunFolder
        With a `resume.pt`, training goes on from it.
    team : Team
    should_stop : callable
        Asked after every step.
    """

    def __init__(self, start: Start, folder: RunFolder, team: Team, should_stop: Callable[[], bool]) -> None:
        config = self.config = start.config
        self.data, self.folder, self.team, self._should_stop = start.data, folder, team, should_stop
        self.report = Reporter(folder, team.is_first)
        self.scheme = start.data.scheme
        self.scan: Scan = team.from_first(lambda: scan(start.data.train, self.scheme, config.data.normalize))
        self.normalisation = start.normalisation or self.scan.normalisation
        per_crop, accumulate = config.sampling.pixels_per_crop, config.train.accumulate
        # Single pixels make up batches of their own: crops may be as many as there are.
        multiple_of = config.train.batch_size * accumulate if per_crop is None else team.size
        self.sampler = CropSampler(self.scan.index, config.sampling, config.seed, multiple_of)
        if per_crop is None:
            self.steps = self.sampler.num_crops // multiple_of
        else:
            self.steps = max(self.sampler.num_crops * per_crop // (config.train.pixels * accumulate), 1)

        self.network = start.build_model().to(team.device).to(memory_format=torch.channels_last)
        self.precision = Precision(config.train.amp, team.device)
        self.precision.prepare(self.network)
        self.model = team.wrap(self.network)
        self.average = WeightAverage(self.network, config.train.ema) if config.train.ema else None
        self.loss = build_loss(config.loss, self.scheme, config.distill.temperature if config.distill else 1.0)
        self.optimizer = build_optimizer(self.network, config.optim, team.device)
        direction = _DIRECTIONS[config.train.monitor]
        self.learning_rate = LearningRate(config.optim, direction, config.train.epochs * self.steps)
        self.progress = Progress(direction, config.train.patience, config.train.min_delta)
        self.update = Updater(
            self.network,
            self.model,
            loss=self.loss,
            optimizer=self.optimizer,
            precision=self.precision,
            team=team,
            average=self.average,
            report=self.report,
            clip_norm=config.optim.clip_norm,
            micro_batch=(config.train.batch_size if per_crop is None else config.train.pixels) // team.size,
            note_path=folder.path,
        )
        self._seen_tiles = tuple(sorted({*start.seen_tiles, *self.scan.seen_tiles}))
        self.rows: list[Row] = []
        self._warnings = [*start.notes.warnings, *self.scan.warnings]
        if folder.resume_path.is_file():
            self._load()
        if team.is_first and folder.events():
            # Of a run that had not finished an epoch nothing is kept.
            folder.truncate_events(len(self.rows) or -1)
        if team.is_first:
            self.report.loggers += make_loggers(config.loggers, folder, config)
        if start.teachers is not None and config.distill is not None:
            self.update.teachers = Teachers(
                start.teachers, config.distill.temperature, config.data.channels, self.normalisation, team.device
            )
        augmenter = Augmenter(config.augmentation, config.sampling.crop_px, config.data.channels)
        crops = CropDataset(start.data.train, self.normalisation, augmenter, config.sampling.crop_px, config.seed)
        self.plan = BatchPlan(config.train.batch_size, team.rank, team.size)
        self.loader = make_loader(crops, self.plan, config.data.workers, pin_memory=team.device.type == "cuda")
        self.mixer = make_mixer(config, self.network, team)
        # No gradients are kept, so as many pixels as a training batch mostly fit.
        self.validate = Validator(
            start.data.val,
            scheme=self.scheme,
            normalisation=self.normalisation,
            loss=self.loss,
            precision=self.precision,
            team=team,
            report=self.report,
            max_pixels=(self.update.micro_batch if per_crop is None else 1) * config.sampling.crop_px**2,
        )

    def fit(self) -> None:
        """Train to the last epoch, until patience runs out, or until told to stop."""
        try:
            self._fit()
        finally:
            close_loader(self.loader)
            self.report.close()

    def _fit(self) -> None:
        self._announce()
        self.update.heed_note()
        if not self.rows:
            # A run stopped in its first epoch can be resumed, too.
            self._write_state()
        for epoch in range(len(self.rows) + 1, self.config.train.epochs + 1):
            if self.progress.exhausted:
                break
            started = time.monotonic()
            trained = self._train_epoch(epoch)
            if trained is None:
                self._finish("stopped", f"Stopped in epoch {epoch}. Resuming begins this epoch again.")
                return
            validated, tables = self.validate(self._result())
            lr = self.learning_rate.at_step(epoch * self.steps - 1)
            monitored = validated.get(self.config.train.monitor, 0.0)
            best = self.progress.end_epoch(epoch, monitored)
            self.learning_rate.end_epoch(monitored)
            seconds = time.monotonic() - started
            left = (self.config.train.epochs - epoch) * seconds
            row = {"epoch": epoch, "epochs": self.config.train.epochs, "lr": lr, **trained, **validated}
            self.rows.append(row | {"seconds": round(seconds, 3), "eta_s": round(left, 1), "best": best})
            self._save(tables)
            if epoch in (1, self.config.train.epochs):
                self._tell_memory(epoch)
        self._finish("done", self._summary())

    def _tell_memory(self, epoch: int) -> None:
        """Say how much was needed at most, by which the next run of the recipe is judged before it begins."""
        device = self.team.device
        on_gpu = torch.cuda.max_memory_reserved(device) / 1e9 if device.type == "cuda" else 0.0
        self.report.event("memory", epoch=epoch, host_gb=round(peak_memory_gb(), 3), device_gb=round(on_gpu, 3))

    def _train_epoch(self, epoch: int) -> Row | None:
        """Make an epoch's updates; None when told to stop before they were all made."""
        self.plan.crops = self.sampler.plan(epoch)
        per_update = len(self.plan.crops) / self.steps
        accumulate = self.config.train.accumulate
        crops: Iterator[Batch] = iter(self.loader)
        batches = crops if self.mixer is None else self.mixer(crops, epoch, self.steps * accumulate)
        self._seed_dropout(epoch)
        self.model.train()
        done: list[Step] = []
        started = time.monotonic()
        for step in range(self.steps):
            lr = self.learning_rate.at_step((epoch - 1) * self.steps + step)
            set_learning_rate(self.optimizer, lr)
            done.append(self.update(list(itertools.islice(batches, accumulate)), epoch))
            if (step + 1) % _STEPS_BETWEEN_LOSS_CHECKS == 0:
                self._check_finite(done, step + 1 - _STEPS_BETWEEN_LOSS_CHECKS)
            if self.report.step_due():
                pace = (step + 1) * per_update / (time.monotonic() - started)
                loss = done[-1].loss.item()
                fields = {"loss": loss if abs(loss) < float("inf") else None, "lr": lr, "samples_per_s": round(pace, 2)}
                self.report.step(
                    epoch=epoch, epochs=self.config.train.epochs, step=step + 1, steps=self.steps, **fields
                )
            if self._asked_to_stop(step):
                return None
        self._check_finite(done, self.steps - self.steps % _STEPS_BETWEEN_LOSS_CHECKS)
        pace = len(self.plan.crops) / (time.monotonic() - started)
        return self._training_row(done) | {"samples_per_s": round(pace, 2)}

    def _result(self) -> nn.Module:
        """The network that is validated and saved: the running mean of the weights, where one is kept."""
        if self.average is None:
            return self.network
        self.average.take_buffers()
        return self.average.network

    def _training_row(self, steps: Sequence[Step]) -> Row:
        matrix = matrix_of(self.team.total(torch.stack([s.confusion_KK for s in steps]).sum(0).cpu()))
        names = self.scheme.class_names
        table = matrix.summary(names)
        row = {"train_loss": torch.stack([s.loss for s in steps]).mean().item()}
        for name in steps[0].components:
            row[f"train_{column_of(name)}"] = torch.stack([s.components[name] for s in steps]).mean().item()
        row |= {f"train_{key}": table[key] for key in ("mcc", "iou", "f1")}
        # The mix that was learnt from: counted after augmentation, without what became nodata.
        seen_K = matrix.counts.sum(1) / max(int(matrix.counts.sum()), 1)
        return row | {f"mix_{name}": round(float(share), 5) for name, share in zip(names, seen_K, strict=True)}

    def _asked_to_stop(self, step: int) -> bool:
        # After the last step the epoch is worth its validation.
        if step + 1 == self.steps or (self.team.size > 1 and step % _STEPS_BETWEEN_STOP_CHECKS):
            return False
        return self.team.any(self._should_stop())

    def _seed_dropout(self, epoch: int) -> None:
        # Three small numbers folded into one seed without collisions.
        torch.manual_seed((self.config.seed * 1_000_003 + epoch) * 4096 + self.team.rank)

    def _check_finite(self, done: Sequence[Step], first: int) -> None:
        """Look at the losses from step `first` on."""
        if first == len(done):
            return
        odd = (~torch.stack([step.loss for step in done[first:]]).isfinite()).nonzero().flatten().tolist()
        if not odd:
            return
        crops = self.plan.crops
        if self.mixer is None:
            per_update = len(crops) // self.steps
            step = first + odd[0]
            crops = crops[step * per_update : (step + 1) * per_update]
        tiles = sorted({self.data.train.tiles[crop.tile].id for crop in crops})
        raise NonFiniteLossError(
            f"The loss is not finite in a batch of the tiles {', '.join(tiles)}. Look there for odd values, or lower "
            "optim.lr. The checkpoints of the last finished epoch are kept."
        )

    def _announce(self) -> None:
        data, sampler = self.data, self.sampler
        mix = {
            "class_mix_target": dict(zip(self.scheme.class_names, sampler.target_mix.tolist(), strict=True)),
            "class_mix_achieved": dict(
                zip(self.scheme.class_names, sampler.mix_of(sampler.plan(len(self.rows) + 1)).tolist(), strict=True)
            ),
        }
        if self.rows:
            self.report.catch_up(self.rows)
        self.report.event(
            "start",
            config=self.config.model_dump(mode="json"),
            device=describe_device(self.team.device),
            processes=self.team.size,
            precision=self.precision.name,
            num_train=len(data.train),
            num_val=len(data.val),
            parameters=sum(p.numel() for p in self.network.parameters()),
            crops_per_epoch=sampler.num_crops,
            **mix,
            **({"resumed_from": len(self.rows)} if self.rows else {}),
        )
        if self.rows:
            self.report.message(f"Resumed after epoch {len(self.rows)}.")
        said = {event.get("message") for event in self.folder.events()}
        for kind, texts in (("log", data.notes.messages), ("warning", self._warnings)):
            for text in dict.fromkeys(texts):
                if text not in said:
                    self.report.message(text, kind)
        missed = np.abs(sampler.target_mix - sampler.expected_mix).max()
        if self.config.sampling.kind == "balanced" and missed > _MIX_TOLERANCE:
            self.report.message(
                f"Crops of {self.config.sampling.crop_px} px of these tiles cannot have the class mix wanted, and miss "
                f"it by {missed:.0%} of all pixels. Smaller crops come nearer, or another sampling.target_mix.",
                "warning",
            )
        shares = "  ".join(
            f"{name} {share:.0%}" + (f" (target {mix['class_mix_target'][name]:.0%})" if sampler.aims_at_mix else "")
            for name, share in mix["class_mix_achieved"].items()
        )
        self.report.message(
            f"{len(data.train)} tiles train, {len(data.val)} validate; {sampler.num_crops} crops an epoch on "
            f"{describe_device(self.team.device)}, {self.precision.name}. Class mix: {shares}"
        )

    def _card(self) -> ModelCard:
        row, config = self.rows[-1], self.config
        metrics = {key: value for key, value in row.items() if key.startswith("val_")}
        return ModelCard(
            name=self.folder.path.name,
            architecture=config.model.name,
            arguments={k: v for k, v in model_arguments(config).items() if k != "encoder_weights"},
            channels=tuple(config.data.channels),
            normalisation=self.normalisation,
            scheme=self.scheme,
            recipe=config.recipe,
            training_data_fingerprint=self.scan.fingerprint,
            training_data=f"{len(self.data.train)} tiles of {self.data.train.dataset.root.name}",
            metrics=metrics,
            epoch=row["epoch"],
            synthetic=self.data.synthetic,
            val_tiles=tuple(tile.id for tile in self.data.val.tiles),
            seen_tiles=self._seen_tiles,
            # What has no bands, seismic images say, is not lit from one side.
            upright=config.augmentation.flips == config.augmentation.rot90 == 0
            and not set(CANONICAL_BANDS).isdisjoint(config.data.channels),
        )

    def _save(self, tables: dict[str, Any]) -> None:
        """Write the epoch's files; the order makes a kill between any two of them harmless."""
        if not self.team.is_first:
            return
        row, card = self.rows[-1], self._card()
        if row["best"]:
            save_checkpoint(self.folder.best_path, self._result(), card)
            size_mb = self.folder.best_path.stat().st_size / 1e6
            self.report.metrics({"epoch": row["epoch"], "checkpoint_mb": round(size_mb, 2), **tables})
            if size_mb > self.config.train.max_size_mb and row["epoch"] == 1:
                limit = f"{self.config.train.max_size_mb:g} MB"
                self.report.message(f"The checkpoint takes {size_mb:.0f} MB; train.max_size_mb is {limit}.", "warning")
        save_checkpoint(self.folder.last_path, self._result(), card)
        self._write_state()
        self.report.epoch(self.rows)

    def _write_state(self) -> None:
        if not self.team.is_first:
            return
        state = {
            "epoch": len(self.rows),
            "model": self.network.state_dict(),
            "average": self.average.state() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state(),
            "learning_rate": self.learning_rate.state(),
            "progress": self.progress.state(),
            "micro_batch": self.update.micro_batch,
            "processes": self.team.size,
            "rows": self.rows,
            "normalisation": self.normalisation.as_dict(),
            "fingerprint": self.scan.fingerprint,
            "seen_tiles": self._seen_tiles,
        }
        write_state(self.folder.resume_path, state)

    def _load(self) -> None:
        state = read_state(self.folder.resume_path)
        try:
            self.network.load_state_dict(state["model"])
            if self.average is not None:
                self.average.load(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.precision.load(state["precision"])
            self.learning_rate.load(state["learning_rate"])
            self.progress.load(state["progress"])
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{self.folder.resume_path} does not fit the model that {self.folder.config_path.name} describes. "
                f"Start a new run with model.init_from={self.folder.path}."
            ) from error
        if state["processes"] == self.team.size:
            self.update.micro_batch = min(state["micro_batch"], self.update.micro_batch)
        self.rows = state["rows"]
        self.normalisation = Normalisation.from_dict(state["normalisation"])
        self._seen_tiles = tuple(sorted({*state["seen_tiles"], *self.scan.seen_tiles}))
        if state["fingerprint"] != self.scan.fingerprint:
            self._warnings.append("The training tiles or masks have changed since this run was started.")

    def _finish(self, kind: str, message: str) -> None:
        epoch = self.progress.best_epoch
        best = self.rows[epoch - 1] if epoch else None
        self.report.draw(self.rows)
        self.report.finish(
            kind,
            message,
            best_epoch=epoch,
            best_val_mcc=best["val_mcc"] if best else None,
            checkpoint=self.folder.best_path.name if best else None,
        )

    def _summary(self) -> str:
        best = self.rows[self.progress.best_epoch - 1]
        early = ", stopped early" if len(self.rows) < self.config.train.epochs else ""
        which = "Last" if self.config.train.monitor == "none" else "Best"
        epochs = "1 epoch" if len(self.rows) == 1 else f"{len(self.rows)} epochs"
        return (
            f"Done after {epochs}{early}. {which} epoch {best['epoch']}: validation MCC "
            f"{best['val_mcc']:.4f} over all pixels, {best['val_mcc_valid']:.4f} over valid ones."
        )
