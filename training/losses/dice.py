"""Soft Dice loss (Milletari et al. 2016, with the squares left out), per class over the whole batch."""

import torch
from torch import Tensor

from training.losses.terms import Pixels


class SoftDice:
    """``1 - (2 sum(p t) + smooth) / (sum p + sum t + smooth)``, averaged over the classes present in the truth.

    Parameters
    ----------
    num_classes : int
    smooth : float
        Keeps tiny classes from dominating; 1 by default.
    """

    def __init__(self, num_classes: int, smooth: float = 1.0) -> None:
        self.num_classes = num_classes
        self.num_sums = 3 * num_classes
        self.smooth = smooth

    def sums(self, pixels: Pixels) -> Tensor:
        """Overlap, predicted mass and true mass of each class, concatenated."""
        counted_N1HW = pixels.counted_NHW.unsqueeze(1)
        prob_NKHW = pixels.log_prob_NKHW.exp() * counted_N1HW
        classes_K = torch.arange(self.num_classes, device=prob_NKHW.device)
        truth_NKHW = (pixels.target_NHW.unsqueeze(1) == classes_K.view(1, -1, 1, 1)) & counted_N1HW
        overlap_K = (prob_NKHW * truth_NKHW).sum((0, 2, 3))
        predicted_K, true_K = prob_NKHW.sum((0, 2, 3)), truth_NKHW.sum((0, 2, 3), dtype=prob_NKHW.dtype)
        return torch.cat([overlap_K, predicted_K, true_K])

    def value(self, sums: Tensor) -> Tensor:
        """Mean loss of the classes that occur in the truth; 0 where none does."""
        overlap_K, predicted_K, true_K = sums.view(3, self.num_classes)
        loss_K = 1.0 - (2.0 * overlap_K + self.smooth) / (predicted_K + true_K + self.smooth)
        present_K = (true_K > 0).to(loss_K.dtype)
        mean: Tensor = (loss_K * present_K).sum() / present_K.sum().clamp_min(1.0)
        return mean
