"""Focal loss (Lin et al. 2017, eq. 5) for several classes, with a weight for each class."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.losses.terms import PixelMean, Pixels, power


class Focal(PixelMean):
    """Mean over counted pixels of ``sum over k of q_k alpha_k (1 - p_k)^gamma (-log p_k)``.

    Parameters
    ----------
    alpha : sequence of float
        Weight of each class.
    gamma : float
        Focusing exponent; 0 gives weighted cross-entropy (not divided by the weights' sum).
    smoothing : float
        Share of the truth q that is spread evenly over all classes (Szegedy et al. 2016, section 7); with 0, q is
        1 at the true class and this is Lin's formula.
    """

    def __init__(self, alpha: Sequence[float], gamma: float = 2.0, smoothing: float = 0.0) -> None:
        self.alpha = tuple(alpha)
        self.gamma = gamma
        self.smoothing = smoothing

    def sums(self, pixels: Pixels) -> Tensor:
        """Weighted focal sum and number of counted pixels."""
        alpha_K = pixels.true_K.new_tensor(self.alpha)
        # The surprise is 0 where a pixel is ignored.
        loss_NHW = power(1.0 - pixels.confidence_NHW, self.gamma) * pixels.surprise_NHW
        alpha_NHW = alpha_K.index_select(0, pixels.target_NHW.flatten()).view_as(loss_NHW)
        total = (1.0 - self.smoothing) * (alpha_NHW * loss_NHW).sum()
        if self.smoothing:
            log_prob_NKHW = pixels.log_prob
            each_NKHW = power(1.0 - log_prob_NKHW.exp(), self.gamma) * log_prob_NKHW
            each_K = (each_NKHW * pixels.counted_NHW.unsqueeze(1)).sum((0, 2, 3))
            total = total - self.smoothing / len(self.alpha) * (alpha_K * each_K).sum()
        return torch.stack([total, pixels.num_counted])
