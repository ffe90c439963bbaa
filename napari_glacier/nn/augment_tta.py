"""Test-time augmentation: the views of an image under which a map should not change.

A scene has no preferred direction, so all eight symmetries of the square are views of it: four rotations,
each with and without a flip.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from napari_glacier.core.errors import ConfigError

TtaMode = Literal["off", 2, 6, 8]


@dataclass(frozen=True, slots=True)
class View:
    """A symmetry of the square: a flip left to right or not, then quarter turns counter-clockwise."""

    name: str
    quarter_turns: int
    flip: bool

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Show `x`, shape (…, H, W), in this view; a quarter turn exchanges H and W."""
        if self.flip:
            x = x.flip(-1)
        return torch.rot90(x, self.quarter_turns, (-2, -1)) if self.quarter_turns else x

    def invert(self, y: torch.Tensor) -> torch.Tensor:
        """Bring what was computed in this view back: ``invert(apply(x))`` is `x`, exactly."""
        if self.quarter_turns:
            y = torch.rot90(y, -self.quarter_turns, (-2, -1))
        return y.flip(-1) if self.flip else y


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


def views(tta: TtaMode | str = "off") -> list[View]:
    """Return the views of a mode, the identity first.

    Parameters
    ----------
    tta : "off", 2, 6 or 8
        2: identity and the horizontal flip. 6: identity, two flips, three rotations. 8: the full square group.

    Raises
    ------
    ConfigError
        For any other mode.
    """
    try:
        return list(_MODES[str(tta)])
    except KeyError:
        raise ConfigError(f"Test-time augmentation {tta!r} is not known. Use off, 2, 6 or 8.") from None
