"""Cross-entropies: plain, one against the rest, and distilled."""

import torch
from torch import Tensor

from training.losses.terms import PixelMean, Pixels


class CrossEntropy(PixelMean):
    """Mean over counted pixels of ``sum over k of q_k (-log p_k)``.

    Parameters
    ----------
    smoothing : float
        Share of the truth q that is spread evenly over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = smoothing

    def sums(self, pixels: Pixels) -> Tensor:
        """Cross-entropy and number of counted pixels."""
        total = (1.0 - self.smoothing) * pixels.surprise_NHW.sum()
        if self.smoothing:
            spread_NHW = pixels.log_prob.mean(1) * pixels.counted_NHW
            total = total - self.smoothing * spread_NHW.sum()
        return torch.stack([total, pixels.num_counted])


class BinaryCrossEntropy(PixelMean):
    """Mean over counted pixels and classes of ``-log p_k`` (true class) or ``-log(1 - p_k)`` (any other class).

    With two classes the two are the same number, and this is cross-entropy.
    """

    def sums(self, pixels: Pixels) -> Tensor:
        """Mean over the classes, summed over pixels; and number of counted pixels."""
        log_prob_NKHW = pixels.log_prob
        num_classes = log_prob_NKHW.shape[1]
        total = pixels.surprise_NHW.sum()
        for k in range(num_classes):
            # log(1 - p) as the sum of the other classes: exact and finite where p is 1.
            rest_NKHW = torch.cat([log_prob_NKHW[:, :k], log_prob_NKHW[:, k + 1 :]], 1)
            not_k_NHW = pixels.counted_NHW & (pixels.target_NHW != k)
            total = total - (rest_NKHW.logsumexp(1) * not_k_NHW).sum()
        return torch.stack([total / num_classes, pixels.num_counted])


class Distillation(PixelMean):
    """Mean over counted pixels of ``T^2 KL(teacher || student at temperature T)`` (Hinton et al. 2015, section 2).

    Counts as 0 where a batch comes without a teacher.

    Parameters
    ----------
    temperature : float
        T; the teacher's soft targets come already softened by it. T^2 keeps gradients of one size for any T.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        self.temperature = temperature

    def sums(self, pixels: Pixels) -> Tensor:
        """Divergence and number of counted pixels; zeros without a teacher."""
        teacher_NKHW = pixels.teacher_NKHW
        if teacher_NKHW is None:
            return pixels.true_K.new_zeros(2)
        student_NKHW = (pixels.log_prob / self.temperature).log_softmax(1)
        # xlogy and not a product of logs: a teacher may be wholly sure.
        each_NKHW = torch.xlogy(teacher_NKHW, teacher_NKHW) - teacher_NKHW * student_NKHW
        total = (each_NKHW.sum(1) * pixels.counted_NHW).sum()
        return torch.stack([self.temperature**2 * total, pixels.num_counted])
