"""Changing the outline of a region: morphology, smoothing and sieving by pixels, and snapping to the nearest edge."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tools.evidence import BoolArray, FloatArray

Operation = Literal["open", "close", "grow", "shrink", "smooth", "sieve"]
OPERATIONS: tuple[Operation, ...] = ("grow", "shrink", "open", "close", "smooth", "sieve")

# Up to this radius a disk is moved over the region, which takes a twentieth of the time of measuring distances.
_SMALL_PX = 8
# A core narrower than this share of the region's own width would let the outline cross its middle.
_CORE = 0.5


def reshape(
    where_HW: BoolArray,
    operation: Operation,
    radius_px: int,
    class_HW: BoolArray | None = None,
    valid_HW: BoolArray | None = None,
) -> BoolArray:
    """Change a region by a disk: the pixels up to and including `radius_px` from the centre.

    It grows, shrinks, opens or closes; it is smoothed, so that a pixel belongs to what most of the valid pixels of the
    disk around it belong to; or its parts of fewer pixels than the disk are sieved out.

    What lies outside the array counts as outside when growing, as part of the region when shrinking, so that a region
    cut by the scene's border does not recede from it, and as nodata when smoothing. A part that reaches the border of
    the array may go on beyond it, and is not sieved out.

    Parameters
    ----------
    where_HW : bool array
        The region.
    operation : str
    radius_px : int
    class_HW : bool array, optional
        All pixels of the region's class, where the region is only what a loop holds of it: smoothing and sieving see
        what goes on beyond the loop.
    valid_HW : bool array, optional
        Pixels that carry data; all of them where it is not given.
    """
    if operation == "grow":
        return _grown(where_HW, radius_px)
    if operation == "shrink":
        return _shrunk(where_HW, radius_px)
    if operation == "open":
        return _grown(_shrunk(where_HW, radius_px), radius_px) & where_HW
    if operation == "close":
        return _shrunk(_grown(where_HW, radius_px), radius_px) | where_HW
    whole_HW = where_HW if class_HW is None else class_HW | where_HW
    if operation == "smooth":
        valid_HW = np.ones(where_HW.shape, bool) if valid_HW is None else valid_HW
        votes_HW = 2 * _number_around(whole_HW & valid_HW, radius_px) - _number_around(valid_HW, radius_px)
        most_HW = (votes_HW > 0) | ((votes_HW == 0) & where_HW)
        return np.where(valid_HW & _grown(where_HW, radius_px), most_HW, where_HW)
    if operation == "sieve":
        return where_HW & ~_small_parts(whole_HW, int(_disk(radius_px).sum()))
    raise ValueError(f"{operation!r} is no operation; use one of {', '.join(OPERATIONS)}")


def _grown(where_HW: BoolArray, radius_px: int) -> BoolArray:
    import cv2

    if not where_HW.any():
        return where_HW.copy()
    if radius_px <= _SMALL_PX:
        return cv2.dilate(where_HW.astype(np.uint8), _disk(radius_px)).astype(bool)
    return depth(~where_HW) <= radius_px


def _shrunk(where_HW: BoolArray, radius_px: int) -> BoolArray:
    import cv2

    if where_HW.all():
        return where_HW.copy()
    if radius_px <= _SMALL_PX:
        return cv2.erode(where_HW.astype(np.uint8), _disk(radius_px)).astype(bool)
    return depth(where_HW) > radius_px


def _number_around(where_HW: BoolArray, radius_px: int) -> FloatArray:
    """How many pixels of a disk around each pixel belong, float32 (H, W); none do outside the array."""
    import cv2

    found_HW = cv2.filter2D(where_HW.astype(np.float32), -1, _disk(radius_px), borderType=cv2.BORDER_CONSTANT)
    # Large disks are counted by a Fourier transform, which rounds.
    return np.rint(found_HW).astype(np.float32)


def _small_parts(where_HW: BoolArray, least_px: int) -> BoolArray:
    """Pixels of 8-connected parts of fewer pixels, but for parts that reach the array's border."""
    import cv2

    count, label_HW, stats, _ = cv2.connectedComponentsWithStats(where_HW.astype(np.uint8), connectivity=8)
    small_N = stats[:count, cv2.CC_STAT_AREA] < least_px
    for rim in (label_HW[0], label_HW[-1], label_HW[:, 0], label_HW[:, -1]):
        small_N[rim] = False
    small_N[0] = False
    small_HW: BoolArray = small_N[label_HW]
    return small_HW


def _disk(radius_px: int) -> npt.NDArray[np.uint8]:
    reach = np.arange(-radius_px, radius_px + 1)
    return (reach[:, None] ** 2 + reach[None, :] ** 2 <= radius_px**2).astype(np.uint8)


def depth(where_HW: BoolArray) -> FloatArray:
    """Distance of each pixel of a region from the nearest pixel outside it, 0 outside, float32 (H, W)."""
    import cv2

    return np.asarray(cv2.distanceTransform(where_HW.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def snap_boundary(where_HW: BoolArray, edge_HW: FloatArray, reach_px: int, free_HW: BoolArray) -> BoolArray:
    """Move a region's outline, by at most `reach_px`, to the strongest edge there.

    A watershed of the edge strength is run in the band around the outline, from the region's core and from what is
    surely outside (Meyer & Beucher 1990). Where the region, or the gap beside it, is narrower than the band, its core
    is the middle half.

    Parameters
    ----------
    where_HW : bool array
    edge_HW : float array
        Strength of edges, `Evidence.edges`.
    reach_px : int
    free_HW : bool array
        Pixels that may change sides; nodata may not.

    Returns
    -------
    bool array
        The region with its new outline.
    """
    import cv2
    from skimage.segmentation import watershed

    if reach_px < 1 or not where_HW.any() or where_HW.all():
        return where_HW.copy()
    core_HW, outside_HW = _core(where_HW, reach_px), _core(~where_HW, reach_px)
    band_HW = ~(core_HW | outside_HW) & free_HW
    if not band_HW.any():
        return where_HW.copy()
    markers_HW = np.where(core_HW, 1, np.where(outside_HW, 2, 0)).astype(np.int32)
    # Only the seeds beside the band matter; the others would merely wait in the queue.
    near_HW = cv2.dilate(band_HW.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    flood: Any = watershed
    side_HW = flood(edge_HW, markers_HW * near_HW, mask=near_HW & (band_HW | (markers_HW > 0)))
    return np.where(band_HW & (side_HW > 0), side_HW == 1, where_HW)


def _core(where_HW: BoolArray, reach_px: int) -> BoolArray:
    """Pixels deeper than `reach_px`, or in the middle of what is narrower."""
    import cv2

    depth_HW = depth(where_HW)
    ridge_HW = cv2.dilate(depth_HW, np.ones((2 * reach_px + 1,) * 2, np.uint8))
    core_HW: BoolArray = where_HW & ((depth_HW > reach_px) | (depth_HW > _CORE * np.minimum(ridge_HW, 2 * reach_px)))
    return core_HW


def inside_loop(vertices: Sequence[tuple[float, float]], shape: tuple[int, int]) -> BoolArray:
    """Pixels inside a polygon of (row, col) vertices, shape (H, W)."""
    from skimage.draw import polygon2mask

    draw: Any = polygon2mask
    inside_HW: BoolArray = draw(shape, np.asarray(vertices, float))
    return inside_HW
