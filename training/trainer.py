"""The training loop.

An epoch is: planned crops, updates, validation on whole tiles, then files. `resume.pt` is written last but
for the event, so a process killed anywhere leaves either the epoch before or this one, whole. Every random
draw is a function of (seed, epoch, sample number) or (seed, epoch, process): a resumed run repeats an
uninterrupted one.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.errors import DeviceError
from napari_glacier.core.files import replacing
from napari_glacier.core.metrics import ConfusionMatrix
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.checkpoint import ModelCard, save_checkpoint
from napari_glacier.nn.device import describe_device
from training.augment import Augmenter
from training.data import BatchPlan, CropDataset, Scan, close_loader, make_loader, scan, whole_tiles
from training.distributed import Team
from training.losses import build_loss
from training.optim import Direction, LearningRate, Progress, build_optimizer, set_learning_rate
from training.precision import Precision
from training.reporting import Reporter, Row
from training.sampler import Crop, CropSampler
from training.start import Start, model_arguments

# With several processes asking whether to stop is a message to all, so it is asked less often.
_STEPS_BETWEEN_STOP_CHECKS = 5

Batch = tuple[Tensor, Tensor]


class NonFiniteLossError(RuntimeError):
    """The loss became infinite or not a number."""


class Step(NamedTuple):
    """What an update gives: loss, its components (both over all processes) and this process's confusion counts."""

    loss: Tensor
    components: dict[str, Tensor]
    confusion_KK: Tensor


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
        self.scan: Scan = team.from_first(lambda: scan(start.data.train, self.scheme.num_classes))
        self.normalisation = start.normalisation or self.scan.normalisation

        self.network = start.build_model().to(team.device).to(memory_format=torch.channels_last)
        self.model = team.wrap(self.network)
        self.loss = build_loss(config.loss, self.scheme.num_classes)
        self.optimizer = build_optimizer(self.network, config.optim, team.device)
        self.precision = Precision(config.train.amp, team.device)
        direction: Direction = "max" if config.train.monitor == "val_mcc" else "min"
        self.learning_rate = LearningRate(config.optim, direction)
        self.progress = Progress(direction, config.train.patience, config.train.min_delta)
        self.micro_batch = config.train.batch_size
        self.rows: list[Row] = []
        if folder.resume_path.is_file():
            self._load()
        elif team.is_first and folder.events():
            folder.truncate_events(0)

        per_update = config.train.batch_size * config.train.accumulate
        self.sampler = CropSampler(self.scan.index, config.sampling, config.seed, per_update)
        self.steps = self.sampler.num_crops // per_update
        augmenter = Augmenter(config.augmentation, config.sampling.crop_px, config.data.channels)
        crops = CropDataset(start.data.train, self.normalisation, augmenter, config.sampling.crop_px, config.seed)
        self.plan = BatchPlan(config.train.batch_size, team.rank, team.size)
        self.loader = make_loader(crops, self.plan, config.data.workers, pin_memory=team.device.type == "cuda")

    def fit(self) -> str:
        """Train to the last epoch, until patience runs out, or until told to stop; return done or stopped."""
        try:
            return self._fit()
        finally:
            close_loader(self.loader)

    def _fit(self) -> str:
        self._announce()
        for epoch in range(len(self.rows) + 1, self.config.train.epochs + 1):
            if self.progress.exhausted:
                break
            started = time.monotonic()
            trained = self._train_epoch(epoch)
            if trained is None:
                return self._finish("stopped", f"Stopped in epoch {epoch}; resume goes on from epoch {epoch - 1}.")
            validated, metrics = self._validate()
            lr = self.learning_rate.plateau_lr
            monitored = validated[self.config.train.monitor]
            best = self.progress.end_epoch(epoch, monitored)
            self.learning_rate.end_epoch(monitored)
            seconds = time.monotonic() - started
            left = (self.config.train.epochs - epoch) * seconds
            row = {"epoch": epoch, "epochs": self.config.train.epochs, "lr": lr, **trained, **validated}
            self.rows.append(row | {"seconds": round(seconds, 3), "eta_s": round(left, 1), "best": best})
            self._save(metrics)
        return self._finish("done", self._summary())

    def _train_epoch(self, epoch: int) -> Row | None:
        """Make an epoch's updates; None when told to stop before they were all made."""
        self.plan.crops = crops = self.sampler.plan(epoch)
        per_update = len(crops) // self.steps
        batches = iter(self.loader)
        self._seed_dropout(epoch)
        self.model.train()
        done: list[Step] = []
        started = time.monotonic()
        for step in range(self.steps):
            lr = self.learning_rate.at_step((epoch - 1) * self.steps + step)
            set_learning_rate(self.optimizer, lr)
            done.append(self._update(list(itertools.islice(batches, self.config.train.accumulate))))
            # One step late, so that a GPU is never waited for.
            self._check_finite(done[-2:-1], crops[(step - 1) * per_update : step * per_update])
            if self.report.step_due():
                pace = (step + 1) * per_update / (time.monotonic() - started)
                loss = done[-1].loss.item()
                fields = {"loss": loss if abs(loss) < float("inf") else None, "lr": lr, "samples_per_s": round(pace, 2)}
                self.report.step(epoch=epoch, step=step + 1, steps=self.steps, **fields)
            if self._asked_to_stop(step):
                return None
        self._check_finite(done[-1:], crops[-per_update:])
        return self._training_row(done) | {"samples_per_s": round(len(crops) / (time.monotonic() - started), 2)}

    def _update(self, batches: Sequence[Batch]) -> Step:
        """One optimiser step; where memory runs out the micro-batch is halved and the step made again."""
        while True:
            try:
                return self._try_update(batches)
            except torch.OutOfMemoryError as error:
                if self.micro_batch == 1 or self.team.size > 1:
                    raise DeviceError(
                        f"{self.team.device} has too little memory for {self.micro_batch} crop(s) of "
                        f"{self.config.sampling.crop_px} px. Lower train.batch_size or sampling.crop_px."
                    ) from error
            self.micro_batch = max(self.micro_batch // 2, 1)
            torch.cuda.empty_cache()
            self.report.message(
                f"The device ran out of memory: {self.micro_batch} crops at a time from now on, with more "
                "accumulation, so the effective batch stays the same.",
                "warning",
            )

    def _try_update(self, batches: Sequence[Batch]) -> Step:
        self.optimizer.zero_grad(set_to_none=True)
        pieces = [
            (image[i : i + self.micro_batch], target[i : i + self.micro_batch])
            for image, target in batches
            for i in range(0, len(image), self.micro_batch)
        ]
        num_crops = sum(len(image) for image, _ in pieces)
        results = []
        for number, (image, target) in enumerate(pieces, start=1):
            last = number == len(pieces)
            with nullcontext() if last or self.team.size == 1 else self.model.no_sync():  # type: ignore[operator]
                results.append(self._forward_backward(image, target, len(image) / num_crops))
        self.precision.step(self.optimizer, self.network, self.config.optim.clip_norm)
        return Step(
            torch.stack([r.loss for r in results]).sum(),
            {name: torch.stack([r.components[name] for r in results]).sum() for name in results[0].components},
            torch.stack([r.confusion_KK for r in results]).sum(0),
        )

    def _forward_backward(self, image: Tensor, target: Tensor, share: float) -> Step:
        image = image.to(self.team.device, memory_format=torch.channels_last, non_blocking=True)
        target = target.to(self.team.device, non_blocking=True)
        with self.precision.autocast():
            logits = self.model(image)
        loss, components = self.loss.value(self.team.sum_with_gradient(self.loss.sums(logits, target)))
        self.precision.backward(loss * share)
        confusion_KK = count_confusion(logits.detach().argmax(1), target, self.scheme.num_classes)
        return Step(loss.detach() * share, {k: v * share for k, v in components.items()}, confusion_KK)

    @torch.no_grad()
    def _validate(self) -> tuple[Row, dict[str, Any]]:
        """Score whole validation tiles: the epoch's numbers, and the full tables."""
        self.network.eval()
        num_classes = self.scheme.num_classes
        sums = torch.zeros(self.loss.num_sums, dtype=torch.float64)
        # Truth of all pixels, and of the valid ones.
        counts = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
        for image, mask, valid in self._validation_batches():
            with self.precision.autocast():
                logits = self.network(image.to(self.team.device, memory_format=torch.channels_last))
            target = mask.masked_fill(~valid, IGNORE_INDEX)
            sums += self.loss.sums(logits, target.to(self.team.device)).double().cpu()
            # Nodata is always written as background, so that is what it is scored as.
            predicted = logits.argmax(1).cpu().masked_fill(~valid, 0)
            counts[0] += count_confusion(predicted, mask, num_classes)
            counts[1] += count_confusion(predicted, target, num_classes)
        sums, counts = self._total(sums), self._total(counts)
        every, valid_only = (_matrix(c) for c in counts)
        names = self.scheme.class_names
        tables = {"all_pixels": every.summary(names), "valid_pixels": valid_only.summary(names)}
        loss, components = self.loss.value(sums)
        row = {"val_loss": loss.item()} | {f"val_{name}": value.item() for name, value in components.items()}
        row |= {f"val_{key}": tables["all_pixels"][key] for key in ("mcc", "iou", "f1")}
        return row | {"val_mcc_valid": tables["valid_pixels"]["mcc"]}, tables

    def _validation_batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        mine = range(self.team.rank, len(self.data.val), self.team.size)
        # No gradients are kept, so as many pixels as a training batch are sure to fit.
        max_pixels = self.micro_batch * self.config.sampling.crop_px**2
        return whole_tiles(self.data.val, mine, self.normalisation, max_pixels)

    def _training_row(self, steps: Sequence[Step]) -> Row:
        matrix = _matrix(self._total(torch.stack([s.confusion_KK for s in steps]).sum(0).cpu()))
        names = self.scheme.class_names
        table = matrix.summary(names)
        row = {"train_loss": torch.stack([s.loss for s in steps]).mean().item()}
        for name in steps[0].components:
            row[f"train_{name}"] = torch.stack([s.components[name] for s in steps]).mean().item()
        row |= {f"train_{key}": table[key] for key in ("mcc", "iou", "f1")}
        # The mix that was learnt from: counted after augmentation, without what became nodata.
        seen_K = matrix.counts.sum(1) / max(int(matrix.counts.sum()), 1)
        return row | {f"mix_{name}": round(float(share), 5) for name, share in zip(names, seen_K, strict=True)}

    def _total(self, values: Tensor) -> Tensor:
        return values if self.team.size == 1 else self.team.sum_in_place(values.to(self.team.device)).cpu()

    def _asked_to_stop(self, step: int) -> bool:
        if self.team.size > 1 and step % _STEPS_BETWEEN_STOP_CHECKS and step + 1 < self.steps:
            return False
        return self.team.any(self._should_stop())

    def _seed_dropout(self, epoch: int) -> None:
        # Three small numbers folded into one seed without collisions.
        torch.manual_seed((self.config.seed * 1_000_003 + epoch) * 4096 + self.team.rank)

    def _check_finite(self, steps: Sequence[Step], crops: Sequence[Crop]) -> None:
        if all(torch.isfinite(step.loss) for step in steps):
            return
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
            self.report.message(f"Resumed after epoch {len(self.rows)}.")
        else:
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
            )
        shares = "  ".join(
            f"{name} {mix['class_mix_achieved'][name]:.0%} (target {mix['class_mix_target'][name]:.0%})"
            for name in self.scheme.class_names
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
        )

    def _save(self, tables: dict[str, Any]) -> None:
        """Write the epoch's files; the order makes a kill between any two of them harmless."""
        if not self.team.is_first:
            return
        row, card = self.rows[-1], self._card()
        if row["best"]:
            save_checkpoint(self.folder.best_path, self.network, card)
            size_mb = self.folder.best_path.stat().st_size / 1e6
            self.report.metrics({"epoch": row["epoch"], "checkpoint_mb": round(size_mb, 2), **tables})
            if size_mb > self.config.train.max_size_mb and row["epoch"] == 1:
                limit = f"{self.config.train.max_size_mb:g} MB"
                self.report.message(f"The checkpoint takes {size_mb:.0f} MB; train.max_size_mb is {limit}.", "warning")
        save_checkpoint(self.folder.last_path, self.network, card)
        state = {
            "version": 1,
            "epoch": row["epoch"],
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state(),
            "learning_rate": self.learning_rate.state(),
            "progress": self.progress.state(),
            "micro_batch": self.micro_batch,
            "rows": self.rows,
            "normalisation": self.normalisation.as_dict(),
            "fingerprint": self.scan.fingerprint,
        }
        with replacing(self.folder.resume_path) as temporary:
            torch.save(state, temporary)
        self.report.epoch(self.rows)

    def _load(self) -> None:
        state = torch.load(self.folder.resume_path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load(state["precision"])
        self.learning_rate.load(state["learning_rate"])
        self.progress.load(state["progress"])
        self.micro_batch = min(state["micro_batch"], self.config.train.batch_size)
        self.rows = state["rows"]
        self.normalisation = Normalisation.from_dict(state["normalisation"])
        if self.team.is_first:
            self.folder.truncate_events(len(self.rows))
        if state["fingerprint"] != self.scan.fingerprint:
            self.report.message("The training tiles or masks have changed since this run was started.", "warning")

    def _finish(self, kind: str, message: str) -> str:
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
        return kind

    def _summary(self) -> str:
        best = self.rows[self.progress.best_epoch - 1]
        early = ", stopped early" if len(self.rows) < self.config.train.epochs else ""
        return (
            f"Done after {len(self.rows)} epochs{early}. Best epoch {best['epoch']}: validation MCC "
            f"{best['val_mcc']:.4f} over all pixels, {best['val_mcc_valid']:.4f} over valid ones."
        )


def count_confusion(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count (truth, prediction) pairs where the truth is not ignored; int64 (K, K), rows are the truth."""
    counted = truth != IGNORE_INDEX
    pair = truth[counted].long() * num_classes + predicted[counted]
    return torch.bincount(pair, minlength=num_classes**2).view(num_classes, num_classes)


def _matrix(counts_KK: Tensor) -> ConfusionMatrix:
    matrix = ConfusionMatrix(len(counts_KK))
    matrix.counts += counts_KK.numpy()
    return matrix
