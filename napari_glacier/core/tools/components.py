"""Connected components of a class: found by one click, whatever the size of the scene."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_glacier.core.correction.strokes import MaskArray
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import BoolArray
from napari_glacier.core.tools.growing import connected_to

_FIRST_PX = 256
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Area:
    """Some pixels of a scene: a window and which of its pixels belong."""

    window: Window
    where_HW: BoolArray

    @property
    def num_px(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.where_HW))

    def holds(self, row: int, col: int) -> bool:
        """Whether a pixel of the scene belongs."""
        return self.window.holds(row, col) and bool(self.where_HW[row - self.window.row, col - self.window.col])

    def padded(self, margin_px: int, shape: tuple[int, int]) -> "Area":
        """The same pixels in a window with a margin, as far as the scene goes."""
        window = Window(
            self.window.row - margin_px,
            self.window.col - margin_px,
            self.window.height + 2 * margin_px,
            self.window.width + 2 * margin_px,
        ).clipped(*shape)
        where_HW = np.zeros((window.height, window.width), bool)
        row, col = self.window.row - window.row, self.window.col - window.col
        where_HW[row : row + self.window.height, col : col + self.window.width] = self.where_HW
        return Area(window, where_HW)

    def trimmed(self) -> "Area":
        """The same pixels in the smallest window; one of no pixels where there are none."""
        rows, cols = (np.flatnonzero(self.where_HW.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return Area(Window(self.window.row, self.window.col, 0, 0), np.zeros((0, 0), bool))
        (top, bottom), (left, right) = ((int(k[0]), int(k[-1]) + 1) for k in (rows, cols))
        window = Window(self.window.row + top, self.window.col + left, bottom - top, right - left)
        return Area(window, self.where_HW[top:bottom, left:right])


def component_at(read: Callable[[Window], MaskArray], shape: tuple[int, int], row: int, col: int) -> Area:
    """The 8-connected pixels of one class that a pixel belongs to.

    The window looked at starts small and doubles until it holds the component, so that the cost is the component's,
    not the scene's.

    Parameters
    ----------
    read : callable
        Gives the class indices of a window, shape (h, w).
    shape : (int, int)
        Height and width of the scene.
    row, col : int
        The pixel, inside the scene.
    """
    half = _FIRST_PX // 2
    while True:
        window = Window(row - half, col - half, 2 * half, 2 * half).clipped(*shape)
        index_HW = read(window)
        at = row - window.row, col - window.col
        where_HW = connected_to(index_HW == index_HW[at], *at, connectivity=8)
        cut = (
            (window.row > 0 and where_HW[0].any())
            or (window.col > 0 and where_HW[:, 0].any())
            or (window.row + window.height < shape[0] and where_HW[-1].any())
            or (window.col + window.width < shape[1] and where_HW[:, -1].any())
        )
        if not cut:
            return Area(window, where_HW).trimmed()
        half *= 2


def holes_of(where_HW: BoolArray) -> BoolArray:
    """Pixels enclosed by a region (not 4-connected to the outside of the array)."""
    from scipy import ndimage

    filled_HW: BoolArray = ndimage.binary_fill_holes(where_HW)
    return filled_HW & ~where_HW


def surrounding_class(index_HW: MaskArray, where_HW: BoolArray, valid_HW: BoolArray) -> int:
    """The commonest class along the outer rim of a region, over valid pixels; 0 where nothing surrounds it."""
    from scipy import ndimage

    rim_HW = ndimage.binary_dilation(where_HW, _EIGHT) & ~where_HW & valid_HW
    counts = np.bincount(index_HW[rim_HW], minlength=1)
    return int(counts.argmax())


def nearest_other(index_HW: MaskArray, taken_HW: BoolArray, valid_HW: BoolArray) -> MaskArray:
    """Each pixel's nearest class among valid pixels that are not `taken_HW`; 0 where there are none.

    Parameters
    ----------
    index_HW : uint8 array
    taken_HW : bool array
        The region that gives pixels up.
    valid_HW : bool array
    """
    from scipy import ndimage

    source_HW = valid_HW & ~taken_HW
    if not source_HW.any():
        return np.zeros(index_HW.shape, np.uint8)
    nearest: npt.NDArray[np.intp] = ndimage.distance_transform_edt(
        ~source_HW, return_distances=False, return_indices=True
    )
    found_HW: MaskArray = index_HW[tuple(nearest)]
    return found_HW
