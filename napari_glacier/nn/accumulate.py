"""Blending windows into a scene's maps, holding only the rows that windows still reach.

The weighted sums need float32; a whole Landsat scene of them would take gigabytes.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from napari_glacier.core.tiling import Window
from napari_glacier.nn.postprocess import classify
from napari_glacier.nn.store import Rows, Store
from napari_glacier.nn.uncertainty import entropy

FloatArray = npt.NDArray[np.float32]

_TINY = np.float32(1e-30)
# Rows are finished in blocks: what is made of them on the way takes several times the memory of the sums.
_BLOCK_ROWS = 128


class Blender:
    """Weighted sums of the windows of a scene, handed to a store as rows are finished, from the top.

    Parameters
    ----------
    num_classes, height, width : int
    thresholds : mapping of class index to probability
        See `classify`.
    store : Store
        Rows that it has already are not made again, whatever windows bring of them.
    num_voters : int
        Members whose own classes are wanted; 0 for none, and then no memory is spent on them.
    on_rows : callable (Rows) -> None, optional
        Sees rows as they are finished, after the store has taken them; must not change them.
    """

    def __init__(
        self,
        num_classes: int,
        height: int,
        width: int,
        thresholds: Mapping[int, float],
        store: Store,
        *,
        num_voters: int = 0,
        on_rows: Callable[[Rows], None] | None = None,
    ) -> None:
        self._thresholds = dict(thresholds)
        self._num_voters, self._on_rows = num_voters, on_rows
        self._num_planes = num_classes + 1 + num_voters * num_classes
        self._num_classes, self._height, self._width = num_classes, height, width
        self._store = store
        self._first_row = store.rows_done
        # Rows from the first unfinished one on; the buffers are as high as the windows, and stay while these go down.
        self._sum_CHW: FloatArray = np.zeros((self._num_planes, 0, width), np.float32)
        self._weight_HW: FloatArray = np.zeros((0, width), np.float32)
        self._valid_HW = np.zeros((0, width), bool)

    def add(
        self, window: Window, values_CHW: FloatArray, weights_HW: FloatArray, valid_HW: npt.NDArray[np.bool_]
    ) -> None:
        """Add a window that lies inside the scene.

        Parameters
        ----------
        window : Window
        values_CHW : float32 array, shape (K + 1 + M K, h, w)
            Probabilities, then mutual information, then the probabilities of each voter.
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
        for first in range(0, count, _BLOCK_ROWS):
            rows = self._finished(slice(first, min(first + _BLOCK_ROWS, count)))
            self._store.put(rows)
            if self._on_rows is not None:
                self._on_rows(rows)
        for buffer_XHW in (self._sum_CHW, self._weight_HW[None], self._valid_HW[None]):
            rest = buffer_XHW.shape[1] - count
            buffer_XHW[:, :rest] = buffer_XHW[:, count:]
            buffer_XHW[:, rest:] = 0
        self._first_row += count

    def _finished(self, part: slice) -> Rows:
        weight_HW: FloatArray = np.maximum(self._weight_HW[part], _TINY, dtype=np.float32)
        num_classes = self._num_classes
        blended_CHW: FloatArray = self._sum_CHW[: num_classes + 1, part] / weight_HW
        valid_HW = self._valid_HW[part]
        votes = [self._vote(member, part, weight_HW, valid_HW) for member in range(self._num_voters)]
        probabilities_KHW: FloatArray = blended_CHW[:-1] * valid_HW
        return Rows(
            start=self._first_row + part.start,
            index_hW=classify(probabilities_KHW, self._thresholds) * valid_HW,
            valid_hW=valid_HW.copy(),
            probabilities_KhW=probabilities_KHW,
            entropy_hW=entropy(torch.from_numpy(probabilities_KHW)).clamp(0, 1).numpy(),
            mutual_information_hW=blended_CHW[-1] * valid_HW,
            votes_MhW=np.stack([index_HW for index_HW, _ in votes]) if votes else None,
            vote_probabilities_MhW=np.stack([p_HW for _, p_HW in votes]) if votes else None,
        )

    def _vote(
        self, member: int, part: slice, weight_HW: FloatArray, valid_HW: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.uint8], FloatArray]:
        """Classes of one member, and how probable it holds them; one at a time, as all at once take much memory."""
        first = self._num_classes + 1 + member * self._num_classes
        blended_KHW: FloatArray = self._sum_CHW[first : first + self._num_classes, part] / weight_HW
        blended_KHW *= valid_HW
        index_HW = classify(blended_KHW, self._thresholds) * valid_HW
        return index_HW, np.take_along_axis(blended_KHW, index_HW[None].astype(np.intp), axis=0)[0]

    def _grow(self, stop: int) -> None:
        held = len(self._weight_HW)
        if stop - self._first_row <= held:
            return
        sum_CHW, weight_HW, valid_HW = self._sum_CHW, self._weight_HW, self._valid_HW
        size = (stop - self._first_row, self._width)
        self._sum_CHW = np.zeros((self._num_planes, *size), np.float32)
        self._weight_HW, self._valid_HW = np.zeros(size, np.float32), np.zeros(size, bool)
        self._sum_CHW[:, :held], self._weight_HW[:held], self._valid_HW[:held] = sum_CHW, weight_HW, valid_HW
