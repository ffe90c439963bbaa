"""What is predicted of the scene on screen, as it grows; and who predicted which part of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tiling import Window

if TYPE_CHECKING:
    from napari_glacier.controllers.prediction_job import Made
    from napari_glacier.core.classes import ClassScheme


@dataclass(frozen=True, slots=True, eq=False)
class News:
    """Pixels of a part that a run has just finished.

    Attributes
    ----------
    made : Made
        The run.
    number : int
        The scene.
    target : Window
        The part of the scene that the run is to predict.
    area : Window
        The finished pixels, in the scene: all columns of the target, rows that follow those finished before.
    index_HW, entropy_HW, known_HW : uint8, float32 and bool array
        `known_HW` is False on nodata.
    counts_K : int array
        Known pixels of each class.
    """

    made: "Made"
    number: int
    target: Window
    area: Window
    index_HW: npt.NDArray[np.uint8]
    entropy_HW: npt.NDArray[np.float32]
    known_HW: npt.NDArray[np.bool_]
    counts_K: npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Area:
    """A part of a scene that a run was to predict, and how many of its rows it has finished, from the top."""

    made: "Made"
    number: int
    target: Window
    rows_done: int = 0

    @property
    def whole(self) -> bool:
        """Whether all of it is predicted."""
        return self.rows_done >= self.target.height

    def holds(self, number: int, row: int, col: int) -> bool:
        """Whether a pixel lies in it, finished or not."""
        (top, left), target = (self.target.row, self.target.col), self.target
        return number == self.number and 0 <= row - top < target.height and 0 <= col - left < target.width


class PredictionMap:
    """Classes and entropy of a scene (or of a stack of scenes), filled in as rows are finished.

    Parameters
    ----------
    shape : tuple of int
        (H, W), or (N, H, W) of a stack.
    scheme : ClassScheme

    Attributes
    ----------
    index, entropy, known : uint8, float32 and bool array of this shape
        0, not a number (which napari leaves transparent) and False where nothing is predicted and on nodata.
    counts_K : int array
        Known pixels of each class.
    areas : list of Area
        Where they overlap, the later one counts.
    """

    def __init__(self, shape: tuple[int, ...], scheme: "ClassScheme") -> None:
        self.scheme = scheme
        self.index = np.zeros(shape, np.uint8)
        self.entropy = np.full(shape, np.nan, np.float32)
        self.known = np.zeros(shape, bool)
        self.counts_K = np.zeros(scheme.num_classes, np.int64)
        self.areas: list[Area] = []

    def put(self, news: News) -> None:
        """Take finished pixels; with the first of a part, what was predicted there before is forgotten."""
        if news.area.row == news.target.row:
            self._begin(news)
        self._clear(news.number, news.area)  # rows may come twice, where memory ran out
        into = self._slices(news.number, news.area)
        self.index[into], self.known[into] = news.index_HW, news.known_HW
        self.entropy[into] = np.where(news.known_HW, news.entropy_HW, np.nan)
        self.counts_K += news.counts_K
        for area in self.areas:
            if area.made is news.made and (area.number, area.target) == (news.number, news.target):
                area.rows_done = news.area.row + news.area.height - news.target.row

    def area_at(self, number: int, row: int, col: int) -> Area | None:
        """The area that a predicted pixel belongs to; None where nothing is predicted (yet)."""
        area = next((area for area in reversed(self.areas) if area.holds(number, row, col)), None)
        return area if area is not None and row - area.target.row < area.rows_done else None

    def is_known(self, number: int, row: int, col: int) -> bool:
        """Whether a pixel is predicted and carries data."""
        return bool(self.known[self._slices(number, Window(row, col, 1, 1))].any())

    def class_at(self, number: int, row: int, col: int) -> int:
        """The class that the map shows at a pixel."""
        return int(self.index[self._slices(number, Window(row, col, 1, 1))].max())

    def _begin(self, news: News) -> None:
        target, number = news.target, news.number
        self._clear(number, target)
        corner = target.row + target.height - 1, target.col + target.width - 1
        hidden = Area(news.made, number, target)
        self.areas = [
            area
            for area in self.areas
            if not (
                hidden.holds(area.number, area.target.row, area.target.col)
                and area.target.row + area.target.height - 1 <= corner[0]
                and area.target.col + area.target.width - 1 <= corner[1]
            )
        ]
        self.areas.append(hidden)

    def _clear(self, number: int, window: Window) -> None:
        where = self._slices(number, window)
        known = self.known[where]
        if known.any():
            self.counts_K -= np.bincount(self.index[where][known], minlength=len(self.counts_K))
            self.index[where], self.entropy[where], self.known[where] = 0, np.nan, False

    def _slices(self, number: int, window: Window) -> Any:
        return (number, *window.slices) if self.index.ndim == 3 else window.slices
