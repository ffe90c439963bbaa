"""Test-time augmentation: the views of an image under which a map should not change.

A scene has no preferred direction, so all eight symmetries of the square are views of it: four rotations,
each with and without a flip. Nor is it seen at one scale only: a view may be smaller or larger, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from napari_glacier.core.errors import ConfigError

TtaMode = Literal["off", 2, 6, 8]

# Below, most networks see a few pixels of a window; above, a window takes sixteen times the memory.
_LEAST_SCALE, _LARGEST_SCALE = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class View:
    """A scale and a symmetry of the square: resized, flipped left to right or not, then turned counter-clockwise."""

    name: str
    quarter_turns: int
    flip: bool
    scale: float = 1.0

    def shape_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of this view of an image; views of one shape can be batched."""
        height, width = self._resized(height), self._resized(width)
        return (width, height) if self.quarter_turns % 2 else (height, width)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Show `x`, shape (…, H, W), in this view, of shape (…, *shape_of(H, W)).

        Resizing is bilinear over the pixels as they are, without a blur before it. It takes normalised channels,
        in which nodata is 0, the mean of the training data: at the edge of the data, a pixel leans to the mean.
        """
        if self.scale != 1:
            x = _resize(x, self._resized(x.shape[-2]), self._resized(x.shape[-1]))
        if self.flip:
            x = x.flip(-1)
        return torch.rot90(x, self.quarter_turns, (-2, -1)) if self.quarter_turns else x

    def invert(self, y: torch.Tensor, shape: tuple[int, int] | None = None) -> torch.Tensor:
        """Bring what was computed in this view back to the image's pixels.

        Parameters
        ----------
        y : tensor, shape (…, *shape_of(H, W))
            Probabilities still sum to 1 after it, but for rounding.
        shape : (int, int), optional
            H and W of the image. Not needed at scale 1, where ``invert(apply(x))`` is `x`, exactly.

        Returns
        -------
        tensor, shape (…, H, W)
        """
        if self.quarter_turns:
            y = torch.rot90(y, -self.quarter_turns, (-2, -1))
        if self.flip:
            y = y.flip(-1)
        if self.scale == 1:
            return y
        assert shape is not None, f"the view {self.name!r} is resized; say the image's shape"
        return _resize(y, *shape)

    def _resized(self, length: int) -> int:
        return length if self.scale == 1 else max(int(length * self.scale + 0.5), 1)


def _resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    # Its corners, not the centres of its corner pixels, stay where they are: half a pixel is half a pixel of either.
    planes_1CHW = x.reshape(1, -1, *x.shape[-2:])
    resized_1CHW = torch.nn.functional.interpolate(planes_1CHW, (height, width), mode="bilinear", align_corners=False)
    return resized_1CHW.reshape(*x.shape[:-2], height, width)


_IDENTITY = View("identity", 0, False)
_HORIZONTAL = View("flipped left-right", 0, True)
_VERTICAL = View("flipped up-down", 2, True)
_ROTATIONS = (
    View("rotated 90°", 1, False),
    View("rotated 180°", 2, False),
    View("rotated 270°", 3, False),
)
_DIAGONALS = (View("transposed", 1, True), View("anti-transposed", 3, True))

_MODES: dict[str, tuple[View, ...]] = {
    "off": (_IDENTITY,),
    "2": (_IDENTITY, _HORIZONTAL),
    "6": (_IDENTITY, _HORIZONTAL, _VERTICAL, *_ROTATIONS),
    "8": (_IDENTITY, _HORIZONTAL, _VERTICAL, *_ROTATIONS, *_DIAGONALS),
}


def views(tta: TtaMode | str = "off", scales: Sequence[float] = (1.0,)) -> list[View]:
    """Return the views of a mode at each scale; those of the first scale first, and of each the upright one.

    Parameters
    ----------
    tta : "off", 2, 6 or 8
        2: identity and the horizontal flip. 6: identity, two flips, three rotations. 8: the full square group.
    scales : sequence of float
        Sizes at which the image is seen, such as 0.75, 1 and 1.25; each multiplies the work by its square.

    Raises
    ------
    ConfigError
        For any other mode, and where the scales are not different numbers from 0.25 to 4.
    """
    try:
        of_mode = _MODES[str(tta)]
    except KeyError:
        raise ConfigError(f"Test-time augmentation {tta!r} is not known. Use off, 2, 6 or 8.") from None
    return [
        view if scale == 1 else replace(view, name=f"{view.name}, scale {scale:g}", scale=scale)
        for scale in _checked(scales)
        for view in of_mode
    ]


def _checked(scales: Sequence[float]) -> list[float]:
    numbers = [scale for scale in scales if isinstance(scale, int | float) and not isinstance(scale, bool)]
    usable = [float(scale) for scale in numbers if math.isfinite(scale) and _LEAST_SCALE <= scale <= _LARGEST_SCALE]
    if not usable or len(usable) != len(scales) or len(set(usable)) != len(usable):
        raise ConfigError(
            f"The scales of test-time augmentation are {list(scales)}. Use different numbers from {_LEAST_SCALE:g} to "
            f"{_LARGEST_SCALE:g}, such as [0.75, 1, 1.25], or [1] for none."
        )
    return usable
