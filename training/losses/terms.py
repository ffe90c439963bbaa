"""What a loss term is, and what all terms share.

Shapes: N batch, K classes, H rows, W columns. A term first reduces pixels to a short vector of sums, and
then turns sums into a value. Sums add up over micro-batches of a validation pass and over processes, so
the value of a whole is exact, not a mean of parts.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from napari_glacier.core.classes import IGNORE_INDEX
from training.losses.softmax import softmax_statistics

# Below this a base counts as this: a fractional power has an infinite slope at 0.
_SMALLEST_BASE = 1e-8


@dataclass(frozen=True)
class Pixels:
    """A batch as the terms see it; float32 throughout (float64 where the logits are).

    Attributes
    ----------
    logits_NKHW : float32
    target_NHW : int64
        Class indices; 0 where the pixel is ignored.
    counted_NHW : bool
        Pixels that count.
    truth_NKHW : float32
        1 at the pixel's class and 0 elsewhere; all 0 where the pixel is ignored.
    true_K : float32
        Counted pixels of each class.
    surprise_NHW : float32
        ``-log p`` of the true class; 0 where the pixel is ignored.
    confidence_NHW : float32
        ``p`` of the true class; 1 where the pixel is ignored.
    prob_NKHW : float32
        Class probabilities, of ignored pixels, too.
    confusion_KK : float32
        Probability of each class (columns) summed over the counted pixels of each true class (rows).
    teacher_NKHW : float32 or None
        Soft targets of a teacher.
    """

    logits_NKHW: Tensor
    target_NHW: Tensor
    counted_NHW: Tensor
    truth_NKHW: Tensor
    true_K: Tensor
    surprise_NHW: Tensor
    confidence_NHW: Tensor
    prob_NKHW: Tensor
    confusion_KK: Tensor
    teacher_NKHW: Tensor | None = None

    @classmethod
    def from_logits(cls, logits_NKHW: Tensor, target_NHW: Tensor, teacher_NKHW: Tensor | None = None) -> "Pixels":
        """Take logits of any float dtype and targets in which `IGNORE_INDEX` marks ignored pixels."""
        # Half-precision softmax loses the tail that focal and dice live from: float32 whatever autocast says.
        dtype = torch.promote_types(logits_NKHW.dtype, torch.float32)
        with torch.autocast(logits_NKHW.device.type, enabled=False):
            logits_NKHW = logits_NKHW.to(dtype, memory_format=torch.contiguous_format)
            counted_NHW = target_NHW != IGNORE_INDEX
            target_NHW = target_NHW.long().masked_fill(~counted_NHW, 0)
            truth_NKHW = torch.zeros_like(logits_NKHW, requires_grad=False)
            truth_NKHW.scatter_(1, target_NHW.unsqueeze(1), counted_NHW.to(dtype).unsqueeze(1))
            statistics = softmax_statistics(logits_NKHW, truth_NKHW)
            return cls(
                logits_NKHW,
                target_NHW,
                counted_NHW,
                truth_NKHW,
                truth_NKHW.sum((0, 2, 3)),
                *statistics,
                teacher_NKHW=None if teacher_NKHW is None else teacher_NKHW.to(dtype),
            )

    @property
    def num_counted(self) -> Tensor:
        """Number of pixels that count, a float scalar."""
        return self.true_K.sum()

    @cached_property
    def log_prob(self) -> Tensor:
        """Log-probabilities (N, K, H, W), finite however saturated the logits are; few terms need all."""
        return self.logits_NKHW.log_softmax(1)


class LossTerm(Protocol):
    """One masked loss."""

    @property
    def num_sums(self) -> int:
        """Length of the vector of sums."""
        ...

    def sums(self, pixels: Pixels) -> Tensor:
        """Reduce a batch to additive sums, float32 of shape (num_sums,)."""
        ...

    def value(self, sums: Tensor) -> Tensor:
        """Turn sums into the loss, a scalar; 0 with zero gradient where nothing was counted."""
        ...


class PixelMean:
    """A term that is a sum over pixels divided by the sum of their weights."""

    num_sums = 2

    def value(self, sums: Tensor) -> Tensor:
        """Weighted mean over counted pixels; 0 where none counts."""
        # Weights are 1 or more where a pixel counts, so this only guards the division by nothing.
        return sums[0] / sums[1].clamp_min(1.0)


def power(base: Tensor, exponent: float) -> Tensor:
    """``base ** exponent`` for a base of 0 or more, with finite slope everywhere; small integers exactly, and fast."""
    if exponent == int(exponent) and exponent <= 4:
        # A constant 1 would have no gradient at all, and backward() would fail.
        result = base * 0.0 + 1.0 if exponent == 0 else base
        for _ in range(int(exponent) - 1):
            result = result * base
        return result
    return base.clamp_min(_SMALLEST_BASE) ** exponent


def mean_of_counted(loss_K: Tensor, counted_K: Tensor) -> Tensor:
    """Mean over the classes that count (bool); 0 where none does."""
    share_K = counted_K.to(loss_K.dtype)
    return (loss_K * share_K).sum() / share_K.sum().clamp_min(1.0)


def others(values_K: Tensor) -> Tensor:
    """For each class the sum over all other classes: exact where the total less the class would cancel."""
    return values_K.repeat(len(values_K), 1).fill_diagonal_(0.0).sum(1)
