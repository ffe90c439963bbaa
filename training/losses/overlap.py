"""Losses of the overlap of each class with its truth, over the whole batch.

Each is a function of three soft counts a class: true positives TP (probability of the class on its own pixels),
false positives FP (on other classes' pixels) and its number of pixels T; false negatives FN are T - TP. Classes that
are absent from the truth do not count: with no pixels to find, their overlap says nothing.
"""

import torch
from torch import Tensor

from training.losses.terms import Pixels, mean_of_counted, power

# Only keeps 0 / 0 defined: classes that occur have a pixel or more.
_TINY = 1e-6


class Overlap:
    """Base of the losses: soft counts as sums, and the mean of `loss_of_classes` over the classes present.

    Parameters
    ----------
    num_classes : int
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    @property
    def num_sums(self) -> int:
        """Three for each class."""
        return 3 * self.num_classes

    def sums(self, pixels: Pixels) -> Tensor:
        """True positives, false positives and pixels of each class, concatenated."""
        return soft_counts(pixels.confusion_KK, pixels.true_K)

    def value(self, sums: Tensor) -> Tensor:
        """Mean loss of the classes that occur in the truth; 0 where none does."""
        hit_K, false_K, true_K = sums.view(3, self.num_classes)
        return mean_of_counted(self.loss_of_classes(hit_K, false_K, true_K), true_K > 0)

    def loss_of_classes(self, hit_K: Tensor, false_K: Tensor, true_K: Tensor) -> Tensor:
        """Loss of each class from TP, FP and T; finite, with finite slopes, for T = 0, too."""
        raise NotImplementedError


def soft_counts(confusion_KK: Tensor, true_K: Tensor) -> Tensor:
    """TP, FP and T of each class, concatenated, from probability summed by true class (rows)."""
    hit_K = confusion_KK.diagonal()
    # FP without a subtraction, which would leave nothing exact when nearly all is right.
    false_K = confusion_KK.clone().fill_diagonal_(0.0).sum(0)
    return torch.cat([hit_K, false_K, true_K])


class SoftDice(Overlap):
    """``1 - (2 TP + smooth) / (2 TP + FP + FN + smooth)``, Milletari et al. (2016) with the squares left out.

    Parameters
    ----------
    num_classes : int
    smooth : float
        Keeps tiny classes from dominating; 1 by default.
    """

    def __init__(self, num_classes: int, smooth: float = 1.0) -> None:
        super().__init__(num_classes)
        self.smooth = smooth

    def loss_of_classes(self, hit_K: Tensor, false_K: Tensor, true_K: Tensor) -> Tensor:
        """``(FP + FN) / (2 TP + FP + FN + smooth)``, which is the same."""
        return (false_K + _missed(hit_K, true_K)) / (hit_K + false_K + true_K + self.smooth)


class SoftIoU(Overlap):
    """``1 - (TP + smooth) / (TP + FP + FN + smooth)``, the soft Jaccard distance (Rahman & Wang 2016).

    Parameters
    ----------
    num_classes : int
    smooth : float
        1e-6, so small that it only keeps the fraction defined.
    """

    def __init__(self, num_classes: int, smooth: float = _TINY) -> None:
        super().__init__(num_classes)
        self.smooth = smooth

    def loss_of_classes(self, hit_K: Tensor, false_K: Tensor, true_K: Tensor) -> Tensor:
        """``(FP + FN) / (TP + FP + FN + smooth)``, which is the same."""
        return (false_K + _missed(hit_K, true_K)) / (true_K + false_K + self.smooth)


class FocalIoU(SoftIoU):
    """``alpha (1 - IoU)^gamma`` of each class: classes that are found badly weigh more.

    A gamma above 1 flattens the loss near its optimum (the slope goes to 0 with 1 - IoU), so the last per cent are
    learnt slowly: better beside another term than alone.

    Parameters
    ----------
    num_classes : int
    alpha : float
    gamma : float
    """

    def __init__(self, num_classes: int, alpha: float = 1.0, gamma: float = 2.0) -> None:
        super().__init__(num_classes)
        self.alpha = alpha
        self.gamma = gamma

    def loss_of_classes(self, hit_K: Tensor, false_K: Tensor, true_K: Tensor) -> Tensor:
        """The IoU loss, to the power of gamma, times alpha."""
        return self.alpha * power(super().loss_of_classes(hit_K, false_K, true_K), self.gamma)


class Tversky(Overlap):
    """``1 - TP / (TP + a FP + b FN)`` (Salehi et al. 2017, eq. 3).

    Parameters
    ----------
    num_classes : int
    weights : pair of float
        a and b, what a false positive and a false negative cost; b above a finds more at the price of false alarms.
    """

    def __init__(self, num_classes: int, weights: tuple[float, float] = (0.3, 0.7)) -> None:
        super().__init__(num_classes)
        self.weights = weights

    def loss_of_classes(self, hit_K: Tensor, false_K: Tensor, true_K: Tensor) -> Tensor:
        """``(a FP + b FN) / (TP + a FP + b FN)``, which is the same."""
        cost_K = self.weights[0] * false_K + self.weights[1] * _missed(hit_K, true_K)
        return cost_K / (hit_K + cost_K + _TINY)


def _missed(hit_K: Tensor, true_K: Tensor) -> Tensor:
    # Rounding may find a little more than there is.
    return (true_K - hit_K).clamp_min(0.0)
