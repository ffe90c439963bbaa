"""Blending windows into a scene's maps, holding only the rows that windows still reach.

The weighted sums need float32; a whole Landsat scene of them would take gigabytes.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from napari_glacier.core.tiling import Window
from napari_glacier.nn.postprocess import classify
from napari_glacier.nn.uncertainty import entropy

FloatArray = npt.NDArray[np.float32]

# Above this many pixels the finished maps are kept as float16: half a gigabyte for a Landsat scene.
_LARGE_SCENE_PX = 24_000_000
_TINY = np.float32(1e-30)


class SceneMaps:
    """Finished maps of a scene, filled from the top as windows come in row by row.

    Parameters
    ----------
    num_classes, height, width : int
    thresholds : mapping of class index to probability
        See `classify`.
    """

    def __init__(self, num_classes: int, height: int, width: int, thresholds: Mapping[int, float]) -> None:
        dtype = np.float16 if height * width > _LARGE_SCENE_PX else np.float32
        self.index_HW = np.zeros((height, width), np.uint8)
        self.probabilities_KHW = np.zeros((num_classes, height, width), dtype)
        self.entropy_HW = np.zeros((height, width), dtype)
        self.mutual_information_HW = np.zeros((height, width), dtype)
        self.valid_HW = np.zeros((height, width), bool)
        self._thresholds = dict(thresholds)
        self._num_classes, self._width = num_classes, width
        self._first_row = 0
        self._sum_CHW: FloatArray = np.zeros((num_classes + 1, 0, width), np.float32)
        self._weight_HW: FloatArray = np.zeros((0, width), np.float32)

    def add(
        self, window: Window, values_CHW: FloatArray, weights_HW: FloatArray, valid_HW: npt.NDArray[np.bool_]
    ) -> None:
        """Add a window that lies inside the scene.

        Parameters
        ----------
        window : Window
        values_CHW : float32 array, shape (K + 1, h, w)
            Probabilities, then mutual information.
        weights_HW : float32 array, shape (h, w)
        valid_HW : bool array, shape (h, w)
        """
        self._grow(window.row + window.height)
        rows = slice(window.row - self._first_row, window.row - self._first_row + window.height)
        cols = slice(window.col, window.col + window.width)
        self._sum_CHW[:, rows, cols] += values_CHW * weights_HW
        self._weight_HW[rows, cols] += weights_HW
        self.valid_HW[window.slices] |= valid_HW

    def finish_rows(self, stop: int) -> None:
        """Finish the rows before `stop`: no later window reaches them."""
        count = min(stop - self._first_row, self._weight_HW.shape[0])
        if count > 0:
            self._finish(slice(self._first_row, self._first_row + count), count)
            # Copies, so that the finished rows are freed.
            self._sum_CHW = self._sum_CHW[:, count:].copy()
            self._weight_HW = self._weight_HW[count:].copy()
            self._first_row += count
        if not self._weight_HW.shape[0]:
            self._first_row = max(self._first_row, stop)

    def _finish(self, rows: slice, count: int) -> None:
        weight_HW: FloatArray = np.maximum(self._weight_HW[:count], _TINY, dtype=np.float32)
        blended_CHW: FloatArray = self._sum_CHW[:, :count] / weight_HW
        valid_HW = self.valid_HW[rows]
        probabilities_KHW: FloatArray = blended_CHW[:-1] * valid_HW
        self.probabilities_KHW[:, rows] = probabilities_KHW
        self.entropy_HW[rows] = entropy(torch.from_numpy(probabilities_KHW)).clamp(0, 1).numpy()
        self.mutual_information_HW[rows] = blended_CHW[-1] * valid_HW
        self.index_HW[rows] = classify(probabilities_KHW, self._thresholds) * valid_HW

    def _grow(self, stop: int) -> None:
        missing = stop - self._first_row - self._weight_HW.shape[0]
        if missing > 0:
            empty_CHW = np.zeros((self._num_classes + 1, missing, self._width), np.float32)
            self._sum_CHW = np.concatenate([self._sum_CHW, empty_CHW], axis=1)
            self._weight_HW = np.concatenate([self._weight_HW, empty_CHW[0]], axis=0)
