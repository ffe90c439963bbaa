"""A large scene at several sizes, each half as fine as the one before, of which napari asks for what the canvas shows.

Pictures are made in squares and kept for a while, and those around the view are made before it gets there, in another
thread: moving the view finds them at hand.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from napari_glacier.core.indexing import as_box, box_ranges
from napari_glacier.core.tiling import Window

if TYPE_CHECKING:
    from napari_glacier.core.data.mosaic import Mosaic

# The coarsest level has no more pixels along a side.
_COARSEST_PX = 1024
# Small ones are crossed often, large ones make a window much larger than the canvas.
_SQUARE_PX = 256
# A window of more than two large canvases is nobody's view, and not kept.
_MOST_SQUARES = 256

# Reads what will be looked at in a moment.
AHEAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures")

Values = npt.NDArray[Any]


def level_factors(shape: tuple[int, int]) -> list[int]:
    """How many pixels along a side become one, level by level: 1, 2, 4, … until the scene fits a canvas."""
    factors = [1]
    while max(shape) > factors[-1] * _COARSEST_PX:
        factors.append(factors[-1] * 2)
    return factors


class Level:
    """A scene at one size, of which only what is asked for is read, and what lies around it.

    Parameters
    ----------
    scene : Mosaic
    factor : int
        One pixel for `factor` x `factor`.
    read : callable
        Given a window of the level, its values (h, w, …). Called from several threads.
    dtype : dtype
    tail : tuple of int
        Axes after the pixels, (4,) for a picture.

    Attributes
    ----------
    chunks : tuple of int
        napari asks for whole squares of this shape, and for nothing while the view moves within those it has.
    """

    def __init__(
        self,
        scene: "Mosaic",
        factor: int,
        read: Callable[[Window], Values],
        dtype: npt.DTypeLike,
        tail: tuple[int, ...] = (),
    ) -> None:
        self._read = read
        self._size = scene.reduced_shape(factor)
        self._cache = scene.cache
        self._seen: Window | None = None
        self.dtype = np.dtype(dtype)
        self.shape: tuple[int, ...] = (*self._size, *tail)
        self.chunks: tuple[int, ...] = (_SQUARE_PX, _SQUARE_PX, *tail)
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> Any:
        basic = as_box(key, self.shape)
        if basic is None:
            return np.asarray(self)[key]
        box, dropped = basic
        ranges = box_ranges(box, self.shape)
        if not all(ranges):
            return np.zeros([len(r) for axis, r in enumerate(ranges) if axis not in dropped], self.dtype)
        (top, bottom), (left, right) = ((min(r), max(r) + 1) for r in ranges[:2])
        values = self._window(Window(top, left, bottom - top, right - left))
        # Steps and directions within what was read.
        values = values[_steps(ranges[0])][:, _steps(ranges[1])]
        values = values[(slice(None), slice(None), *box[2:])]
        return values.squeeze(axis=dropped) if dropped else values

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Read from files and never written, so that napari's copies of a layer share it. Piece by piece a copy would
        # take the dataset along.
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Values:
        return np.asarray(self._read(self._whole), dtype=dtype)

    @property
    def _whole(self) -> Window:
        return Window(0, 0, *self._size)

    def _window(self, window: Window) -> Values:
        squares = self._squares(window)
        if len(squares) > _MOST_SQUARES:
            return self._read(window)
        values = np.empty((window.height, window.width, *self.shape[2:]), self.dtype)
        for square, painted in self._painted(squares):
            into, from_ = _overlap(window, square)
            values[into] = painted[from_]
        self._seen = window
        AHEAD.submit(self._read_around, window)
        return values

    def _read_around(self, window: Window) -> None:
        """Squares that the view comes to next. An error is not told: whoever looks at them meets it himself."""
        step, bottom, right = _SQUARE_PX, window.row + window.height, window.col + window.width
        beside = [
            Window(window.row - step, window.col, step, window.width),
            Window(bottom, window.col, step, window.width),
            Window(window.row - step, window.col - step, window.height + 2 * step, step),
            Window(window.row - step, right, window.height + 2 * step, step),
        ]
        for strip in beside:
            # Where the view has moved on, others come next.
            if self._seen is not window:
                return
            self._painted(self._squares(strip.clipped(*self._size)))

    def _painted(self, squares: list[Window]) -> list[tuple[Window, Values]]:
        """Squares and their values; those that are not kept are read at once."""
        kept = {square: self._cache.find((self, square)) for square in squares}
        missing = [square for square in squares if kept[square] is None]
        if missing:
            around = _around(missing)
            values = self._read(around)
            for square in missing:
                _, from_ = _overlap(square, around)
                # A copy, or the square would keep its neighbours in memory.
                painted = (values[from_].copy(),)
                kept[square] = painted
                self._cache.keep((self, square), painted)
        return [(square, painted[0]) for square, painted in kept.items() if painted is not None]

    def _squares(self, window: Window) -> list[Window]:
        height, width = self._size
        return [
            Window(row, col, min(_SQUARE_PX, height - row), min(_SQUARE_PX, width - col))
            for row in _starts(window.row, window.height)
            for col in _starts(window.col, window.width)
        ]


def _starts(first: int, length: int) -> range:
    return range(first // _SQUARE_PX * _SQUARE_PX, first + length, _SQUARE_PX)


def _steps(positions: range) -> slice | Values:
    """The same positions, counted from the lowest: a slice where they have no gaps, which takes no time."""
    if positions.step == 1:
        return slice(None)
    return np.asarray(positions) - min(positions)


def _around(windows: list[Window]) -> Window:
    """The smallest window that holds all of these."""
    top, left = min(w.row for w in windows), min(w.col for w in windows)
    bottom, right = max(w.row + w.height for w in windows), max(w.col + w.width for w in windows)
    return Window(top, left, bottom - top, right - left)


def _overlap(first: Window, second: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What two windows share, as a part of each."""
    top, left = max(first.row, second.row), max(first.col, second.col)
    bottom = min(first.row + first.height, second.row + second.height)
    right = min(first.col + first.width, second.col + second.width)
    one, other = ((slice(top - w.row, bottom - w.row), slice(left - w.col, right - w.col)) for w in (first, second))
    return one, other
