"""Blending windows into a scene's maps, holding only the rows that windows still reach.

The weighted sums need float32; a whole Landsat scene of them would take gigabytes.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from napari_glacier.core.tiling import Window
from napari_glacier.nn.postprocess import classify
from napari_glacier.nn.store import Rows, Store
from napari_glacier.nn.uncertainty import entropy

FloatArray = npt.NDArray[np.float32]

_TINY = np.float32(1e-30)


class Blender:
    """Weighted sums of the windows of a scene, handed to a store as rows are finished, from the top.

    Parameters
    ----------
    num_classes, height, width : int
    thresholds : mapping of class index to probability
        See `classify`.
    store : Store
        Rows that it has already are not made again, whatever windows bring of them.
    """

    def __init__(
        self, num_classes: int, height: int, width: int, thresholds: Mapping[int, float], store: Store
    ) -> None:
        self._thresholds = dict(thresholds)
        self._num_classes, self._height, self._width = num_classes, height, width
        self._store = store
        self._first_row = store.rows_done
        self._sum_CHW: FloatArray = np.zeros((num_classes + 1, 0, width), np.float32)
        self._weight_HW: FloatArray = np.zeros((0, width), np.float32)
        self._valid_HW = np.zeros((0, width), bool)

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
        above = max(self._first_row - window.row, 0)
        if above >= window.height:
            return
        self._grow(window.row + window.height)
        rows = slice(window.row + above - self._first_row, window.row + window.height - self._first_row)
        cols = slice(window.col, window.col + window.width)
        self._sum_CHW[:, rows, cols] += values_CHW[:, above:] * weights_HW[above:]
        self._weight_HW[rows, cols] += weights_HW[above:]
        self._valid_HW[rows, cols] |= valid_HW[above:]

    def finish_rows(self, stop: int) -> None:
        """Finish the rows before `stop`: no later window reaches them."""
        count = min(stop, self._height) - self._first_row
        if count <= 0:
            return
        self._grow(self._first_row + count)
        self._store.put(self._finished(count))
        # Copies, so that the finished rows are freed.
        self._sum_CHW = self._sum_CHW[:, count:].copy()
        self._weight_HW = self._weight_HW[count:].copy()
        self._valid_HW = self._valid_HW[count:].copy()
        self._first_row += count

    def _finished(self, count: int) -> Rows:
        weight_HW: FloatArray = np.maximum(self._weight_HW[:count], _TINY, dtype=np.float32)
        blended_CHW: FloatArray = self._sum_CHW[:, :count] / weight_HW
        valid_HW = self._valid_HW[:count]
        probabilities_KHW: FloatArray = blended_CHW[:-1] * valid_HW
        return Rows(
            start=self._first_row,
            index_hW=classify(probabilities_KHW, self._thresholds) * valid_HW,
            valid_hW=valid_HW.copy(),
            probabilities_KhW=probabilities_KHW,
            entropy_hW=entropy(torch.from_numpy(probabilities_KHW)).clamp(0, 1).numpy(),
            mutual_information_hW=blended_CHW[-1] * valid_HW,
        )

    def _grow(self, stop: int) -> None:
        missing = stop - self._first_row - self._weight_HW.shape[0]
        if missing > 0:
            empty_CHW = np.zeros((self._num_classes + 1, missing, self._width), np.float32)
            self._sum_CHW = np.concatenate([self._sum_CHW, empty_CHW], axis=1)
            self._weight_HW = np.concatenate([self._weight_HW, empty_CHW[0]], axis=0)
            self._valid_HW = np.concatenate([self._valid_HW, np.zeros((missing, self._width), bool)], axis=0)
