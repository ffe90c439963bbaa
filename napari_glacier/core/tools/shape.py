"""Changing the outline of a region: morphology, smoothing and sieving by pixels, snapping to edges, drawing it anew."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import BoolArray, FloatArray

_Points = npt.NDArray[np.float64]
Operation = Literal["open", "close", "grow", "shrink", "smooth", "sieve"]
OPERATIONS: tuple[Operation, ...] = ("grow", "shrink", "open", "close", "smooth", "sieve")

# Up to this radius a disk is moved over the region, which takes a twentieth of the time of measuring distances.
_SMALL_PX = 8
# A core narrower than this share of the region's own width would let the outline cross its middle.
_CORE = 0.5
# How far around a new outline is looked at, at least; and across all of it, at most.
_LEAST_MARGIN_PX, _MOST_PX = 64, 1024
# Over which share of its length, or how many pixels, the end of a line is led on to the outline.
_LEAD, _LEAST_LEAD_PX = 0.25, 3.0


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


def redraw_outline(
    read: Callable[[Window], BoolArray], shape: tuple[int, int], line: Sequence[tuple[float, float]]
) -> tuple[Window, BoolArray, BoolArray]:
    """Let a region end at a line, between the points at which the line meets its outline.

    What the line cuts off from the region leaves it, and what it encloses between itself and the region joins it: of
    each connected part that it cuts, the largest piece stays as it is. The line itself is the outermost of the region.
    Ends that do not reach the outline are led on to it, by a quarter of the line's length at most.

    The surroundings looked at grow, to 1 024 px, until they hold all pieces but one of each part; pieces that go on
    beyond them stay.

    Parameters
    ----------
    read : callable
        Gives the region in a window, bool (h, w).
    shape : (int, int)
        Height and width of the scene.
    line : sequence of (row, col)
        Where the outline shall be, in pixels of the scene; at least two points, one of them inside the scene.

    Returns
    -------
    Window, bool array, bool array
        What was looked at, and the region there before and after.
    """
    points_N2 = np.asarray(line, float)
    first_2, last_2 = np.floor(points_N2.min(axis=0)).astype(int), np.ceil(points_N2.max(axis=0)).astype(int)
    extent_px = int((last_2 - first_2).max()) + 1
    most_px = max((_MOST_PX - extent_px) // 2, _LEAST_MARGIN_PX)
    margin_px = min(max(extent_px, _LEAST_MARGIN_PX), most_px)
    while True:
        row, col = (int(k) - margin_px for k in first_2)
        height, width = (int(k) + 1 + 2 * margin_px for k in last_2 - first_2)
        window = Window(row, col, height, width).clipped(*shape)
        before_HW = read(window)
        wall_HW = _wall(before_HW, points_N2 - (window.row, window.col))
        goes_on = (
            window.row > 0,
            window.row + window.height < shape[0],
            window.col > 0,
            window.col + window.width < shape[1],
        )
        lost_HW, sure = _cut_off(before_HW, wall_HW, goes_on, connectivity=8)
        # Where the region is 8-connected, what is beside it is 4-connected.
        gained_HW, also_sure = _cut_off(~before_HW, wall_HW, goes_on, connectivity=4)
        if (sure and also_sure) or not any(goes_on) or margin_px == most_px:
            gained_HW |= wall_HW & _grown(gained_HW, 1) & ~before_HW
            return window, before_HW, (before_HW & ~lost_HW) | gained_HW
        margin_px = min(2 * margin_px, most_px)


def _wall(region_HW: BoolArray, points_N2: _Points) -> BoolArray:
    """A line as 4-connected pixels, its ends led on across the region's outline."""
    import cv2

    length_px = float(np.hypot(*np.diff(points_N2, axis=0).T).sum())
    reach_px = max(_LEAST_LEAD_PX, _LEAD * length_px)
    begin, end = (_nearest_across(region_HW, points_N2[at], reach_px) for at in (0, -1))
    wall_HW = np.zeros(region_HW.shape, np.uint8)
    # OpenCV counts columns first.
    corners = np.round(np.concatenate([begin, points_N2, end])[:, ::-1]).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(wall_HW, [corners], False, 1, 1, cv2.LINE_4)
    return wall_HW.astype(bool)


def _nearest_across(region_HW: BoolArray, point_2: _Points, reach_px: float) -> _Points:
    """The nearest pixel on the other side of a region's outline, (1, 2); (0, 2) where there is none within reach."""
    row, col = (int(k) for k in np.round(point_2))
    if not (0 <= row < region_HW.shape[0] and 0 <= col < region_HW.shape[1]):
        return np.zeros((0, 2))
    reach = int(reach_px)
    top, left = max(row - reach, 0), max(col - reach, 0)
    near_HW = region_HW[top : row + reach + 1, left : col + reach + 1]
    others_N2 = np.add(np.argwhere(near_HW != region_HW[row, col]), (top, left))
    distance_N = np.hypot(*(others_N2 - (row, col)).T)
    if not others_N2.size or distance_N.min() > reach_px:
        return np.zeros((0, 2))
    return others_N2[[distance_N.argmin()]].astype(float)


def _cut_off(
    region_HW: BoolArray, wall_HW: BoolArray, goes_on: Sequence[bool], connectivity: int
) -> tuple[BoolArray, bool]:
    """Pieces that a wall cuts off from the parts of a region, and whether it is sure which piece of each is the rest.

    Pieces that reach a side of the array (top, bottom, left, right) beyond which the scene `goes_on` stay; where none
    of a part does, its largest one.
    """
    import cv2

    _, part_HW = cv2.connectedComponents(region_HW.astype(np.uint8), connectivity=connectivity)
    free_HW = region_HW & ~wall_HW
    count, piece_HW = cv2.connectedComponents(free_HW.astype(np.uint8), connectivity=connectivity)
    # What the wall divides lies beside it: few pixels tell which pieces a part falls into.
    beside_HW = _grown(wall_HW, 1) & free_HW
    part_of = np.zeros(count, np.int32)
    part_of[piece_HW[beside_HW]] = part_HW[beside_HW]
    stays = part_of == 0
    sides = (piece_HW[0], piece_HW[-1], piece_HW[:, 0], piece_HW[:, -1])
    for side in (one for one, open_ in zip(sides, goes_on, strict=True) if open_):
        stays[side] = True
    sure = True
    for part in np.unique(part_of[part_of > 0]):
        pieces = np.flatnonzero(part_of == part)
        sure = sure and int(np.count_nonzero(stays[pieces])) < 2
        if not stays[pieces].any():
            sizes = np.bincount(piece_HW.ravel(), minlength=count)
            stays[pieces[sizes[pieces].argmax()]] = True
    lost_HW: BoolArray = ~stays[piece_HW]
    return lost_HW, sure
