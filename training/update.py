"""One update of the weights: forward and backward in pieces that fit the device, then the optimiser's step.

Shapes: N crops, C channels, K classes, H rows, W columns.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.errors import DeviceError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.nn.memory import is_out_of_memory
from training.averaging import WeightAverage
from training.distill import Teachers
from training.distributed import Team
from training.losses import CombinedLoss
from training.precision import Precision
from training.reporting import Reporter
from training.validation import count_confusion

# Written where one of several processes ran out of memory, for when all begin again: crops, and of how many processes.
_MICRO_BATCH_FILE = "micro_batch.txt"

Batch = tuple[Tensor, Tensor]


class Step(NamedTuple):
    """What an update gives: loss, its components (both over all processes) and this process's confusion counts."""

    loss: Tensor
    components: dict[str, Tensor]
    confusion_KK: Tensor


class Updater:
    """Makes updates.

    Parameters
    ----------
    network, model : nn.Module
        The bare network, and what wraps it for several processes.
    loss : CombinedLoss
    optimizer : torch.optim.Optimizer
    precision : Precision
    team : Team
    average : WeightAverage or None
    report : Reporter
    clip_norm : float
    micro_batch : int
        Crops of this process that go through the network at once; halved where memory runs out.
    note_path : Path
        Folder for the note by which several processes agree on a smaller micro-batch when they begin again.

    Attributes
    ----------
    teachers : Teachers or None
        To distil from.
    """

    def __init__(
        self,
        network: nn.Module,
        model: nn.Module,
        *,
        loss: CombinedLoss,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        team: Team,
        average: WeightAverage | None,
        report: Reporter,
        clip_norm: float,
        micro_batch: int,
        note_path: Path,
    ) -> None:
        self._network, self._model, self._loss, self._optimizer = network, model, loss, optimizer
        self._precision, self._team, self._average, self._report = precision, team, average, report
        self._clip_norm = clip_norm
        self._note_path = note_path / _MICRO_BATCH_FILE
        self.micro_batch = micro_batch
        self.teachers: Teachers | None = None

    def __call__(self, batches: Sequence[Batch], epoch: int) -> Step:
        """Make one optimiser step of some batches of image (N, C, H, W) and target (N, H, W).

        Each piece of a batch weighs as much as it has counted pixels, over all processes: of losses that are means
        over pixels that is the mean over the whole step. Losses of whole classes (overlap, MCC, Lovász) are taken
        within each piece. Where memory runs out the micro-batch is halved and the gradients are made again.

        Raises
        ------
        DeviceError
            If not even a single crop fits.
        """
        results = self._gradients(batches, epoch)
        self._precision.step(self._optimizer, self._network, self._clip_norm)
        if self._average is not None:
            self._average.update()
        return Step(
            torch.stack([r.loss for r in results]).sum(),
            {name: torch.stack([r.components[name] for r in results]).sum() for name in results[0].components},
            torch.stack([r.confusion_KK for r in results]).sum(0),
        )

    def heed_note(self) -> None:
        """Take the smaller micro-batch that an earlier attempt of the same number of processes left word of."""
        noted = self._noted()
        if noted is not None and noted < self.micro_batch:
            self._use_micro_batch(noted)

    def _gradients(self, batches: Sequence[Batch], epoch: int) -> list[Step]:
        while True:
            try:
                return self._forward_backward(batches, epoch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.micro_batch == 1:
                    size = "x".join(map(str, batches[0][1].shape[-2:]))
                    raise DeviceError(
                        f"{self._team.device} has too little memory for one crop of {size} px. Lower "
                        "sampling.crop_px, or choose a smaller model."
                    ) from error
                if self._team.size > 1:
                    # The others are in the middle of the step: all begin again together, from the last epoch. Each
                    # attempt costs one of a few restarts, so the second one goes further down.
                    smaller = max(self.micro_batch // (2 if self._noted() is None else 4), 1)
                    write_text_atomically(self._note_path, f"{smaller} {self._team.size}\n")
                    raise
            torch.cuda.empty_cache()
            self._use_micro_batch(self.micro_batch // 2)

    def _use_micro_batch(self, micro_batch: int) -> None:
        self.micro_batch = micro_batch
        self._report.message(
            f"The device ran out of memory: {micro_batch} crops at a time from now on, with more accumulation; the "
            "effective batch stays the same.",
            "warning",
        )

    def _noted(self) -> int | None:
        if not self._note_path.is_file():
            return None
        micro_batch, size = map(int, self._note_path.read_text(encoding="utf-8").split())
        return micro_batch if size == self._team.size else None

    def _forward_backward(self, batches: Sequence[Batch], epoch: int) -> list[Step]:
        self._optimizer.zero_grad(set_to_none=True)
        pieces = [
            (image[i : i + self.micro_batch], target[i : i + self.micro_batch])
            for image, target in batches
            for i in range(0, len(image), self.micro_batch)
        ]
        counted = self._team.total(torch.stack([(target != IGNORE_INDEX).sum() for _, target in pieces]).double())
        shares = (counted / counted.sum().clamp_min(1.0)).tolist()
        results = []
        for number, ((image, target), share) in enumerate(zip(pieces, shares, strict=True), start=1):
            last = number == len(pieces)
            with nullcontext() if last or self._team.size == 1 else self._model.no_sync():  # type: ignore[operator]
                results.append(self._piece(image, target, share, epoch))
        return results

    def _piece(self, image: Tensor, target: Tensor, share: float, epoch: int) -> Step:
        image = image.to(self._team.device, memory_format=torch.channels_last, non_blocking=True)
        target = target.to(self._team.device, non_blocking=True)
        with self._precision.autocast():
            teacher = self.teachers.soft_targets(image) if self.teachers is not None else None
            outputs = self._model(image)
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        sums = torch.stack([self._loss.sums(output, target, teacher) for output in (logits, *auxiliary)])
        main_sums, *auxiliary_sums = self._team.sum_with_gradient(sums)
        loss, components = self._loss.value(main_sums, epoch)
        if auxiliary_sums:
            weights = cast("tuple[float, ...]", self._network.auxiliary_weights)
            for weight, of_head in zip(weights, auxiliary_sums, strict=True):
                loss = loss + weight * self._loss.value(of_head, epoch)[0]
        self._precision.backward(loss * share)
        confusion_KK = count_confusion(logits.detach().argmax(1), target, logits.shape[1])
        return Step(loss.detach() * share, {k: v * share for k, v in components.items()}, confusion_KK)
