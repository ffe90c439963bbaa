"""Which pixels of a scene carry data, read where it is asked for."""

from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.data.mosaic import Mosaic
from napari_glacier.core.indexing import as_box, as_points, box_ranges
from napari_glacier.core.tiling import Window

_CELL_PX = 1024


class LazyValidity:
    """An array-like of bool, shape (H, W), that reads a scene in squares as they are looked at, once each.

    A Landsat scene has 60 million pixels in five bands: nobody waits for all of them to correct a few.

    Parameters
    ----------
    scene : Mosaic
    """

    ndim = 2
    dtype = np.dtype(bool)

    def __init__(self, scene: Mosaic) -> None:
        self._scene = scene
        self.shape = scene.shape
        # Pages of zeros take no memory until something is written.
        self._valid_HW = np.zeros(scene.shape, bool)
        self._read = np.zeros([-(-length // _CELL_PX) for length in scene.shape], bool)
        self._lock = RLock()

    def __getitem__(self, key: Any) -> Any:
        basic = as_box(key, self.shape)
        if basic is None:
            points = as_points(key, self.shape)
            for row, col in {*zip(*(axis.ravel() // _CELL_PX for axis in points), strict=True)}:
                self._fetch(int(row), int(col))
            return self._valid_HW[points]
        rows, cols = ([*r] for r in box_ranges(basic[0], self.shape))
        if rows and cols:
            for row in range(min(rows) // _CELL_PX, max(rows) // _CELL_PX + 1):
                for col in range(min(cols) // _CELL_PX, max(cols) // _CELL_PX + 1):
                    self._fetch(row, col)
        return self._valid_HW[key].copy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self[...], dtype=dtype)

    def sampled(self, step: int) -> npt.NDArray[np.bool_]:
        """About what ``[::step, ::step]`` gives, from a view from afar: no more is read than is needed for it."""
        height, width = self._scene.reduced_shape(step)
        return self._scene.read_reduced(step, Window(0, 0, height, width), ())[1]

    def _fetch(self, row: int, col: int) -> None:
        if self._read[row, col]:
            # What is there is not waited for while another square is read.
            return
        with self._lock:
            if self._read[row, col]:
                return
            window = Window(row * _CELL_PX, col * _CELL_PX, _CELL_PX, _CELL_PX).clipped(*self.shape)
            self._valid_HW[window.slices] = self._scene.read(window, ())[1]
            self._read[row, col] = True
