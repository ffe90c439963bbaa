"""Cross-entropy that looks hardest where classes meet."""

from collections.abc import Callable

import torch
from torch import Tensor

from napari_glacier.core.classes import IGNORE_INDEX
from training.losses.terms import PixelMean, Pixels


class Boundary(PixelMean):
    """``sum(w (-log p_t)) / sum(w)`` over counted pixels, with a heavier weight w where classes meet.

    Parameters
    ----------
    boundary_weight : float
        Weight of a pixel one of whose eight neighbours is of another class; ignored pixels are no neighbours.
        All other pixels weigh 1.
    interface_weight : float
        Weight instead where the two classes are those of `interface`.
    interface : pair of int or None
        Indices of glacier and debris.
    """

    def __init__(
        self,
        boundary_weight: float = 3.0,
        interface_weight: float = 5.0,
        interface: tuple[int, int] | None = None,
    ) -> None:
        self.boundary_weight = boundary_weight
        self.interface_weight = interface_weight
        self.interface = interface

    def sums(self, pixels: Pixels) -> Tensor:
        """Weighted cross-entropy and sum of the weights."""
        weight_NHW = self.weights(pixels.target_NHW, pixels.counted_NHW).to(pixels.surprise_NHW.dtype)
        return torch.stack([(weight_NHW * pixels.surprise_NHW).sum(), weight_NHW.sum()])

    def weights(self, target_NHW: Tensor, counted_NHW: Tensor) -> Tensor:
        """Weight of each pixel, float32 of shape (N, H, W); 0 where it is ignored."""
        # Bytes: eight times as fast as the targets' own type.
        class_NHW = target_NHW.to(torch.uint8)
        lowest_NHW = _of_neighbourhood(class_NHW.masked_fill(~counted_NHW, IGNORE_INDEX), torch.minimum)
        highest_NHW = _of_neighbourhood(class_NHW.masked_fill(~counted_NHW, 0), torch.maximum)
        boundary_NHW = (lowest_NHW < class_NHW) | (highest_NHW > class_NHW)
        weight_NHW = boundary_NHW.float().mul_(self.boundary_weight - 1.0).add_(1.0)
        if self.interface is not None:
            first_NHW, second_NHW = ((class_NHW == k) & counted_NHW for k in self.interface)
            meets_NHW = first_NHW & _near(second_NHW) | second_NHW & _near(first_NHW)
            weight_NHW.masked_fill_(meets_NHW, self.interface_weight)
        return weight_NHW * counted_NHW


def _near(here_NHW: Tensor) -> Tensor:
    return _of_neighbourhood(here_NHW.to(torch.uint8), torch.maximum).bool()


def _of_neighbourhood(values_NHW: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Lowest or highest value of each pixel and its eight neighbours: first along the columns, then along the rows."""
    for axis in (1, 2):
        result_NHW, length = values_NHW.clone(), values_NHW.shape[axis] - 1
        for to, start in ((0, 1), (1, 0)):
            place_NHW = result_NHW.narrow(axis, to, length)
            place_NHW.copy_(pick(place_NHW, values_NHW.narrow(axis, start, length)))
        values_NHW = result_NHW
    return values_NHW
