"""Smart fill: the connected pixels that are like the one clicked."""

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tools.evidence import BoolArray, Evidence, FloatArray

# Holes up to this size are noise of single pixels, not something a person wants to go on seeing.
SMALL_HOLE_PX = 8


def likeness(evidence: Evidence, row: int, col: int) -> FloatArray:
    """Distance of each pixel's features from those of one pixel, float32 (H, W); infinite on nodata.

    Raises
    ------
    IndexError
        If the pixel lies outside the window.
    """
    if not (0 <= row < evidence.valid_HW.shape[0] and 0 <= col < evidence.valid_HW.shape[1]):
        raise IndexError(f"pixel ({row}, {col}) is outside a window of {evidence.valid_HW.shape}")
    squared_HW = np.zeros(evidence.valid_HW.shape, np.float32)
    for plane_HW in evidence.features:
        difference_HW = plane_HW - plane_HW[row, col]
        difference_HW *= difference_HW
        squared_HW += difference_HW
    distance_HW = np.sqrt(squared_HW)
    distance_HW[~evidence.valid_HW] = np.inf
    return distance_HW


def grow(distance_HW: FloatArray, row: int, col: int, tolerance: float) -> BoolArray:
    """Pixels 4-connected to the one clicked over pixels nearer than `tolerance`, with small holes filled.

    Parameters
    ----------
    distance_HW : float array
        What `likeness` gave for the same pixel.
    row, col : int
        The pixel clicked.
    tolerance : float
        In standard deviations.

    Returns
    -------
    bool array, shape (H, W)
        All False where the pixel itself carries no data.
    """
    near_HW = distance_HW <= tolerance
    if not np.isfinite(distance_HW[row, col]):
        return np.zeros(near_HW.shape, bool)
    near_HW[row, col] = True
    grown_HW = connected_to(near_HW, row, col, connectivity=4)
    return fill_small_holes(grown_HW, SMALL_HOLE_PX) & np.isfinite(distance_HW)


def connected_to(where_HW: BoolArray, row: int, col: int, connectivity: int) -> BoolArray:
    """The connected component that a pixel lies in; all False where it lies in none.

    Parameters
    ----------
    connectivity : 4 or 8
    """
    import cv2

    if not where_HW[row, col]:
        return np.zeros(where_HW.shape, bool)
    # OpenCV writes 1 into the mask where it came; the mask has a margin of one pixel.
    reached: npt.NDArray[Any] = np.zeros((where_HW.shape[0] + 2, where_HW.shape[1] + 2), np.uint8)
    flags = connectivity | cv2.FLOODFILL_MASK_ONLY | (1 << 8)
    cv2.floodFill(np.ascontiguousarray(where_HW, np.uint8), reached, (col, row), 0, 0, 0, flags)
    return reached[1:-1, 1:-1].astype(bool)


def fill_small_holes(where_HW: BoolArray, most_px: int) -> BoolArray:
    """The region with its holes of at most `most_px` pixels (4-connected, not touching the border) filled."""
    import cv2

    count, label_HW, stats, _ = cv2.connectedComponentsWithStats((~where_HW).astype(np.uint8), connectivity=4)
    height, width = where_HW.shape
    left, top, wide, high, area = (stats[:, k] for k in range(5))
    inside = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)
    filled = inside & (area <= most_px)
    filled[0] = False
    return where_HW | filled[label_HW] if count > 1 else where_HW
