"""Focal loss (Lin et al. 2017, eq. 5) for several classes, with a weight for each class."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.losses.terms import Pixels

# Below this, 1 - p counts as 0: a fractional gamma has an infinite slope there.
_SMALLEST_MISS = 1e-8


class Focal:
    """Mean over counted pixels of ``-alpha_t (1 - p_t)^gamma log p_t``.

    Parameters
    ----------
    alpha : sequence of float
        Weight of each class.
    gamma : float
        Focusing exponent; 0 gives weighted cross-entropy (not divided by the weights' sum).
    """

    num_sums = 2

    def __init__(self, alpha: Sequence[float], gamma: float = 2.0) -> None:
        self.alpha = tuple(alpha)
        self.gamma = gamma

    def sums(self, pixels: Pixels) -> Tensor:
        """Weighted focal sum and number of counted pixels."""
        log_prob_NHW = pixels.log_prob_NKHW.gather(1, pixels.target_NHW.unsqueeze(1)).squeeze(1)
        # -expm1(log p) keeps 1 - p exact where p is close to 1.
        miss_NHW = (-torch.expm1(log_prob_NHW)).clamp_min(_SMALLEST_MISS)
        weight_K = log_prob_NHW.new_tensor(self.alpha)
        loss_NHW = -weight_K[pixels.target_NHW] * miss_NHW**self.gamma * log_prob_NHW
        counted_NHW = pixels.counted_NHW.to(loss_NHW.dtype)
        return torch.stack([(loss_NHW * counted_NHW).sum(), counted_NHW.sum()])

    def value(self, sums: Tensor) -> Tensor:
        """Focal sum over counted pixels."""
        return sums[0] / sums[1].clamp_min(1.0)
