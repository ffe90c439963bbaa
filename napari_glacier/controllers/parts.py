"""Parts of a scene that are predicted by themselves, on the windows of the whole scene."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_glacier.core import tiling
from napari_glacier.core.data.mosaic import Mosaic, Placement
from napari_glacier.core.tiling import Window, rim_px

if TYPE_CHECKING:
    from napari_glacier.nn.prediction import Prediction

WINDOW_PX, OVERLAP_PX = tiling.WINDOW_PX, tiling.OVERLAP_PX


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of a scene; `scene` covers it with whole windows of the scene's own grid."""

    number: int
    scene: "Mosaic | Excerpt"
    inside: Window
    target: Window
    tiles: tuple[Placement, ...]


class Excerpt:
    """A part of a mosaic that is read as a scene of its own.

    Its first pixel is the corner of a window of the whole mosaic, so what is predicted in it equals
    what would be predicted for the whole.
    """

    def __init__(self, mosaic: Mosaic, window: Window) -> None:
        self.dataset = mosaic.dataset
        self.name = mosaic.name
        self.shape = (window.height, window.width)
        self.georef = mosaic.georef.offset(window.row, window.col) if mosaic.georef is not None else None
        self.placements = tuple(
            replace(place, row=place.row - window.row, col=place.col - window.col) for place in mosaic.tiles_in(window)
        )
        self._mosaic, self._window = mosaic, window

    @property
    def whole(self) -> Window:
        """The window that is the excerpt."""
        return Window(0, 0, *self.shape)

    def read(self, window: Window, bands: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Bands and validity of a window of the excerpt."""
        moved = Window(window.row + self._window.row, window.col + self._window.col, window.height, window.width)
        return self._mosaic.read(moved, bands)

    def valid(self) -> npt.NDArray[np.bool_]:
        """Pixels that carry data."""
        return self.read(self.whole, ())[1]


def part_of(number: int, scene: Mosaic, target: Window) -> Part:
    """A part whose scene is made of whole windows of the mosaic's own grid."""
    row, height = _aligned(target.row, target.height, scene.shape[0])
    col, width = _aligned(target.col, target.width, scene.shape[1])
    around = Window(row, col, height, width)
    inside = Window(target.row - row, target.col - col, target.height, target.width)
    tiles = tuple(
        place
        for place in scene.tiles_in(target)
        if place.row >= target.row
        and place.col >= target.col
        and place.row + place.tile.height <= target.row + target.height
        and place.col + place.tile.width <= target.col + target.width
    )
    whole = around == Window(0, 0, *scene.shape)
    return Part(number, scene if whole else Excerpt(scene, around), inside, target, tiles)


def _aligned(start: int, length: int, limit: int) -> tuple[int, int]:
    """Start and length of the windows of a scene of `limit` pixels whose pixels count in a stretch of it."""
    step, rim = WINDOW_PX - OVERLAP_PX, rim_px(OVERLAP_PX)
    count = 1 if limit <= WINDOW_PX else 1 + -(-(limit - WINDOW_PX) // step)
    first = min(max(0, -(-(start - WINDOW_PX + rim + 1) // step)), count - 1)
    last = min(count - 1, max(start + length - 1 - rim, 0) // step)
    return first * step, min(last * step + WINDOW_PX, limit) - first * step


def cut_tile(part: Part, place: Placement, prediction: "Prediction") -> "Prediction":
    """The prediction of one tile out of that of a part which holds all of it."""
    top, left = place.row - part.target.row + part.inside.row, place.col - part.target.col + part.inside.col
    rows, cols = slice(top, top + place.tile.height), slice(left, left + place.tile.width)
    return replace(
        prediction,
        index_HW=prediction.index_HW[rows, cols],
        probabilities_KHW=prediction.probabilities_KHW[:, rows, cols],
        entropy_HW=prediction.entropy_HW[rows, cols],
        mutual_information_HW=prediction.mutual_information_HW[rows, cols],
        valid_HW=prediction.valid_HW[rows, cols],
        votes_MHW=None if prediction.votes_MHW is None else prediction.votes_MHW[:, rows, cols],
    )
