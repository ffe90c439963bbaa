"""Lovász-softmax loss (Berman et al. 2018): the convex extension of the Jaccard distance."""

import torch
from torch import Tensor

from training.losses.terms import PixelMean, Pixels


class LovaszSoftmax(PixelMean):
    """Mean over images of the mean over the classes present in the image of the Lovász extension (eq. 11, 12).

    Taken image by image, as in the paper's section 3.1, so that it stays a sum; images without a counted pixel
    are left out. It sorts all pixels once a class, which makes it the dearest of the losses.
    """

    def sums(self, pixels: Pixels) -> Tensor:
        """Sum of the images' losses, and number of images that count."""
        truth_NKP = pixels.truth_NKHW.flatten(2)
        counted_N1P = pixels.counted_NHW.flatten(1).unsqueeze(1)
        error_NKP = (truth_NKP - pixels.prob_NKHW.flatten(2)).abs() * counted_N1P
        with torch.no_grad():
            # Ignored pixels come last, where they change nobody's rank.
            order_NKP = error_NKP.masked_fill(~counted_N1P, -1.0).argsort(-1, descending=True)
            slope_NKP = _slopes(truth_NKP.gather(-1, order_NKP))
            present_NK = (truth_NKP.sum(-1) > 0).to(error_NKP.dtype)
        loss_NK = (error_NKP.gather(-1, order_NKP) * slope_NKP).sum(-1)
        loss_N = (loss_NK * present_NK).sum(1) / present_NK.sum(1).clamp_min(1.0)
        return torch.stack([loss_N.sum(), present_NK.amax(1).sum()])


def _slopes(truth_NKP: Tensor) -> Tensor:
    """By how much each pixel, added in this order to the wrong ones, raises the Jaccard distance (eq. 8 and 9).

    Written as what one pixel changes, not as a difference of two distances, which float32 would round away.
    """
    found_NKP = truth_NKP.cumsum(-1)
    total_NK1 = found_NKP[..., -1:]
    intersection_NKP = total_NK1 - found_NKP
    union_NKP = total_NK1 + (1.0 - truth_NKP).cumsum(-1)
    other_NKP = intersection_NKP / (union_NKP * (union_NKP - 1.0).clamp_min(1.0))
    return torch.where(truth_NKP > 0, 1.0 / union_NKP.clamp_min(1.0), other_NKP)
