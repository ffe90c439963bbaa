"""Scoring a network on whole validation tiles.

Shapes: N batch, C channels, H rows, W columns, T tiles, K classes.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme
from napari_glacier.core.errors import DeviceError
from napari_glacier.core.metrics import ConfusionMatrix
from napari_glacier.nn.memory import is_out_of_memory
from training.data import TileBatch, TileSet, whole_tiles
from training.distributed import Team
from training.losses import CombinedLoss, column_of
from training.precision import Precision
from training.reporting import Reporter, Row


class NonFiniteLossError(RuntimeError):
    """The loss became infinite or not a number."""


class Validator:
    """Gives an epoch's validation numbers.

    Parameters
    ----------
    tiles : TileSet
        Shared out among the processes of `team`.
    scheme : ClassScheme
    normalisation : Normalisation
    loss : CombinedLoss
    precision : Precision
    team : Team
    report : Reporter
    max_pixels : int
        Of a batch; halved where memory runs out.
    """

    def __init__(
        self,
        tiles: TileSet,
        *,
        scheme: ClassScheme,
        normalisation: Normalisation,
        loss: CombinedLoss,
        precision: Precision,
        team: Team,
        report: Reporter,
        max_pixels: int,
    ) -> None:
        self._tiles, self._scheme, self._normalisation = tiles, scheme, normalisation
        self._loss, self._precision, self._team, self._report = loss, precision, team, report
        self._max_pixels = max_pixels

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> tuple[Row, dict[str, Any]]:
        """Score the network: the epoch's numbers, and the full tables.

        Raises
        ------
        NonFiniteLossError
            If the loss of some tile is not finite; in all processes alike.
        """
        # Each process has its own running statistics; what counts are those of the network that is saved.
        self._team.share_buffers(network)
        network.eval()
        num_classes = self._scheme.num_classes
        sums = torch.zeros(self._loss.num_sums, dtype=torch.float64)
        # Truth of all pixels, and of the valid ones.
        counts = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
        odd_T = torch.zeros(len(self._tiles), dtype=torch.int64)
        for batch in self._batches():
            target = batch.mask_NHW.masked_fill(~batch.valid_NHW, IGNORE_INDEX)
            part, predicted = self._score(network, batch.image_NCHW, target)
            sums += part
            odd_T[list(batch.numbers)] += int(not part.isfinite().all())
            # Nodata is always written as background, so that is what it is scored as.
            predicted = predicted.masked_fill(~batch.valid_NHW, 0)
            counts[0] += count_confusion(predicted, batch.mask_NHW, num_classes)
            counts[1] += count_confusion(predicted, target, num_classes)
        sums, counts, odd_T = (self._team.total(values) for values in (sums, counts, odd_T))
        loss, components = self._loss.value(sums)
        self._check_finite(loss, odd_T)
        names = self._scheme.class_names
        every, valid_only = (matrix_of(c).summary(names) for c in counts)
        components.pop("kl", None)  # teachers are asked in training only
        row = {"val_loss": loss.item()} | {f"val_{column_of(name)}": value.item() for name, value in components.items()}
        row |= {f"val_{key}": every[key] for key in ("mcc", "iou", "f1")} | {"val_mcc_valid": valid_only["mcc"]}
        return row, {"all_pixels": every, "valid_pixels": valid_only}

    def _batches(self) -> Iterator[TileBatch]:
        mine = range(self._team.rank, len(self._tiles), self._team.size)
        return whole_tiles(self._tiles, mine, self._normalisation, self._max_pixels)

    def _score(self, network: nn.Module, image_NCHW: Tensor, target_NHW: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the loss and the classes predicted, on the CPU; in halves where memory runs out."""
        device, num_images = self._team.device, len(image_NCHW)
        try:
            with self._precision.autocast():
                logits = network(image_NCHW.to(device, memory_format=torch.channels_last))
            sums = self._loss.sums(logits, target_NHW.to(device))
            # In this order: Apple's GPUs have no float64.
            return sums.cpu().double(), logits.argmax(1).cpu()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if num_images == 1:
                raise DeviceError(
                    f"{device} has too little memory to validate a tile of {target_NHW.shape[-2]} x "
                    f"{target_NHW.shape[-1]} pixels. Close other programs on it, or cut the validation tiles smaller."
                ) from error
        torch.cuda.empty_cache()
        half = num_images // 2
        self._max_pixels = half * target_NHW[0].numel()
        self._report.message(f"The device ran out of memory: {half} validation tiles at a time now.", "warning")
        pieces = [self._score(network, image_NCHW[p], target_NHW[p]) for p in (slice(half), slice(half, None))]
        return pieces[0][0] + pieces[1][0], torch.cat([predicted for _, predicted in pieces])

    def _check_finite(self, loss: Tensor, odd_T: Tensor) -> None:
        if torch.isfinite(loss):
            return
        tiles = [self._tiles.tiles[number].id for number in odd_T.nonzero().flatten().tolist()]
        if len(tiles) == len(self._tiles):
            raise NonFiniteLossError(
                "The validation loss is not finite on any tile: the weights have diverged in this epoch. Lower "
                "optim.lr. The checkpoints of the last finished epoch are kept."
            )
        raise NonFiniteLossError(
            f"The validation loss is not finite on the tiles {', '.join(tiles[:8])}. Look there for odd values, or "
            "lower optim.lr. The checkpoints of the last finished epoch are kept."
        )


def count_confusion(predicted: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """Count (truth, prediction) pairs where the truth is not ignored; int64 (K, K), rows are the truth."""
    # Ignored pixels get a bin of their own: to pick the others out, a GPU would have to be waited for.
    num_pairs = num_classes**2
    pair = torch.where(truth == IGNORE_INDEX, num_pairs, truth.long() * num_classes + predicted).flatten()
    counts = torch.zeros(num_pairs + 1, dtype=torch.int32, device=pair.device)
    counts.scatter_add_(0, pair, torch.ones_like(pair, dtype=torch.int32))
    return counts[:num_pairs].view(num_classes, num_classes).long()


def matrix_of(counts_KK: Tensor) -> ConfusionMatrix:
    """Counts on the CPU as a confusion matrix."""
    matrix = ConfusionMatrix(len(counts_KK))
    matrix.counts += counts_KK.numpy()
    return matrix
