"""Soft Matthews correlation coefficient of each class against the rest."""

import torch
from torch import Tensor

from training.losses.overlap import soft_counts
from training.losses.terms import Pixels, mean_of_counted, others, power

# Added to the variance of the prediction: the root has an infinite slope at 0, where a class is predicted nowhere.
_SMALLEST_VARIANCE = 1e-12
# The easiest pixel still counts a millionth, so that a class with nothing left to learn does not become absent.
_SMALLEST_WEIGHT = 1e-6


class SoftMCC:
    """``1 - MCC``, averaged over the classes whose coefficient is defined (Abhishek & Hamarneh 2021, for two classes).

    MCC is ``(TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN))`` with soft counts over the whole batch. It is
    defined for classes that have pixels and leave pixels to others; where there is none, the loss is 0.

    Parameters
    ----------
    num_classes : int
    phi : float
        Above 0 the loss looks away from easy pixels: they weigh ``(1 - p_t)^phi``, but never less than a
        millionth. A weight is taken as given: no gradient flows through it.
    """

    def __init__(self, num_classes: int, phi: float = 0.0) -> None:
        self.num_classes = num_classes
        self.phi = phi

    @property
    def num_sums(self) -> int:
        """Three for each class."""
        return 3 * self.num_classes

    def sums(self, pixels: Pixels) -> Tensor:
        """True positives, false positives and pixels of each class (weighted), concatenated."""
        if self.phi == 0:
            return soft_counts(pixels.confusion_KK, pixels.true_K)
        miss_NHW = 1.0 - pixels.confidence_NHW.detach()
        weight_NHW = power(miss_NHW, self.phi).clamp_min(_SMALLEST_WEIGHT)
        weight_N1HW = (weight_NHW * pixels.counted_NHW).unsqueeze(1)
        truth_NKHW = pixels.truth_NKHW * weight_N1HW
        # Sums and not a matrix product, whose backward pass autocast would lower.
        hit_K = (truth_NKHW * pixels.prob_NKHW).sum((0, 2, 3))
        false_K = ((weight_N1HW - truth_NKHW) * pixels.prob_NKHW).sum((0, 2, 3))
        return torch.cat([hit_K, false_K, truth_NKHW.sum((0, 2, 3))])

    def value(self, sums: Tensor) -> Tensor:
        """Mean loss of the classes with a coefficient; 0 where none has one."""
        hit_K, false_K, true_K = sums.view(3, self.num_classes)
        rest_K = others(true_K)
        defined_K = (true_K > 0) & (rest_K > 0)
        true_K, rest_K = (torch.where(defined_K, count_K, 1.0) for count_K in (true_K, rest_K))
        # With rates TP TN - FP FN is T (n - T) (TPR - FPR): no large numbers to subtract from each other.
        total_K = true_K + rest_K
        predicted_K = (hit_K + false_K) / total_K
        spared_K = ((true_K - hit_K).clamp_min(0.0) + (rest_K - false_K).clamp_min(0.0)) / total_K
        deviation_K = (predicted_K * spared_K + _SMALLEST_VARIANCE).sqrt()
        true_deviation_K = (true_K / total_K * (rest_K / total_K)).sqrt()
        mcc_K = (hit_K / true_K - false_K / rest_K) * true_deviation_K / deviation_K
        return mean_of_counted(1.0 - mcc_K, defined_K)
