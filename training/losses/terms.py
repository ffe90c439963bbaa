"""What a loss term is.

Shapes: N batch, K classes, H rows, W columns. A term first reduces pixels to a short vector of sums, and
then turns sums into a value. Sums add up over micro-batches of a validation pass and over processes, so
the value of a whole is exact, not a mean of parts.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from napari_glacier.core.classes import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class Pixels:
    """A batch as the terms see it.

    Attributes
    ----------
    log_prob_NKHW : float32
        Log-probabilities, finite however saturated the logits are.
    target_NHW : int64
        Class indices; 0 where the pixel is ignored.
    counted_NHW : bool
        Pixels that count.
    """

    log_prob_NKHW: Tensor
    target_NHW: Tensor
    counted_NHW: Tensor

    @classmethod
    def from_logits(cls, logits_NKHW: Tensor, target_NHW: Tensor) -> "Pixels":
        """Take logits of any float dtype and targets in which `IGNORE_INDEX` marks ignored pixels."""
        counted_NHW = target_NHW != IGNORE_INDEX
        target_NHW = target_NHW.long().masked_fill(~counted_NHW, 0)
        # Half-precision softmax loses the tail that focal and dice live from: float32 whatever autocast says.
        with torch.autocast(logits_NKHW.device.type, enabled=False):
            return cls(logits_NKHW.float().log_softmax(1), target_NHW, counted_NHW)


class LossTerm(Protocol):
    """One masked loss."""

    num_sums: int

    def sums(self, pixels: Pixels) -> Tensor:
        """Reduce a batch to additive sums, float32 of shape (num_sums,)."""
        ...

    def value(self, sums: Tensor) -> Tensor:
        """Turn sums into the loss, a scalar; 0 with zero gradient where nothing was counted."""
        ...
