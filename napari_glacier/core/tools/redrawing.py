"""Drawing the outline of a region anew by one line, between the points at which it meets the old outline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import BoolArray, FloatArray
from napari_glacier.core.tools.shape import reshape

_Points = npt.NDArray[np.int64]
# Rows and columns of pixels, and on which side of a line they lie.
_Beside = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.int64]]

# So many pixels on each side of a line are beside it.
_BESIDE_PX = 2
# How far around a new outline is looked at, at least; and across all of it, at most (of a square).
_LEAST_MARGIN_PX, _MOST_PX = 64, 1024
# Over which share of its way, or how many pixels, the end of a line is led on to the outline.
_LEAD, _LEAST_LEAD_PX = 0.25, 3.0
# A hand trembles: a line's direction is taken over so many pixels to each side.
_SMOOTH_PX = 3
# What a line encloses by crossing itself is a curl, up to such a share of its length.
_CURL = 0.25
# So many of the pixels beside a line may be on the wrong side of it, at its corners.
_STRAY = 0.25
# Up to so many pieces are counted one by one.
_FEW = 6
# A piece that goes on beyond what is looked at is likely what stays.
_OPEN_WEIGHT = 10
# Where a piece lies of the line.
_LEFT, _RIGHT, _BOTH = 1, -1, 2


def redraw_outline(
    read: Callable[[Window], BoolArray], shape: tuple[int, int], line: Sequence[tuple[float, float]]
) -> tuple[Window, BoolArray, BoolArray]:
    """Let a region end at a line, between the points at which the line meets its outline.

    Where the line cuts the region, the side of it on which the region has more pixels stays, and the pieces on the
    other side leave. Where it cuts what is beside the region, the side with fewer pixels joins. Both happen where they
    agree on which side is the inside; else the one that changes more. The line itself is the outermost of the region,
    also where it encloses nothing. An end that does not reach the outline is led on to it, by a quarter of the way from
    there to where the line first crosses the outline (of the whole line, where it does not). Small loops of a
    trembling hand over its own line, up to a quarter of it, are left out.

    More of the surroundings is looked at where they do not hold all that changes; a piece that goes on beyond about
    1 024 px stays.

    Parameters
    ----------
    read : callable
        Gives the region in a window, bool (h, w).
    shape : (int, int)
        Height and width of the scene.
    line : sequence of (row, col)
        Where the outline shall be, in pixels of the scene; at least two points.

    Returns
    -------
    Window, bool array, bool array
        What was looked at, and the region there before and after.

    Raises
    ------
    ValueError
        If no point of the line lies inside the scene.
    """
    points_N2: _Points = np.round(_without_curls(np.asarray(line, float))).astype(np.int64)
    if not ((points_N2 >= 0) & (points_N2 < shape)).all(axis=1).any():
        raise ValueError(f"no point of the line lies inside a scene of {shape[0]} x {shape[1]} pixels")
    first_2, extent_2 = points_N2.min(axis=0), np.ptp(points_N2, axis=0) + 1
    # (height + 2 margin) (width + 2 margin) = what is looked at, at most.
    half_sum = float(extent_2.sum()) / 4
    most_px = int(np.sqrt(max(half_sum**2 + (_MOST_PX**2 - float(extent_2.prod())) / 4, 0.0)) - half_sum)
    most_px = max(most_px, _LEAST_MARGIN_PX)
    margin_px = min(max(int(extent_2.max()), _LEAST_MARGIN_PX), most_px)
    while True:
        row, col = (int(k) - margin_px for k in first_2)
        height, width = (int(k) + 2 * margin_px for k in extent_2)
        window = Window(row, col, height, width).clipped(*shape)
        before_HW = read(window)
        line_HW, wall_HW, beside = _wall(before_HW, np.subtract(points_N2, (window.row, window.col)))
        goes_on = (
            window.row > 0,
            window.row + window.height < shape[0],
            window.col > 0,
            window.col + window.width < shape[1],
        )
        own = _Pieces.of(before_HW & ~wall_HW, 8, beside, goes_on)
        # Where the region is 8-connected, what is beside it is 4-connected.
        others = _Pieces.of(~before_HW & ~wall_HW, 4, beside, goes_on)
        leaves, joins = own.lesser_side, others.lesser_side
        if leaves == joins:
            leaves, joins = (leaves, 0) if own.weight(leaves) >= others.weight(joins) else (0, joins)
        if margin_px == most_px or not any(goes_on) or not (own.open_on(leaves) or others.open_on(joins)):
            after_HW = (before_HW & ~own.on(leaves)) | others.on(joins)
            near = _around(points_N2 - (window.row, window.col), after_HW.shape)
            rim_HW = line_HW[near] & ~after_HW[near] & reshape(after_HW[near], "grow", 1)
            # A line one pixel beside the outline encloses nothing, and is the new outline all the same.
            if not np.array_equal(after_HW, before_HW) or 2 * rim_HW.sum() > line_HW[near].sum():
                after_HW[near] |= rim_HW
            return window, before_HW, after_HW
        margin_px = most_px


def _without_curls(line_N2: FloatArray) -> FloatArray:
    """A line that goes on straight away where it came back to itself after a short loop."""
    import shapely

    rest_N2 = line_N2[np.append(True, np.any(np.diff(line_N2, axis=0) != 0, axis=1))]
    if len(rest_N2) < 2 or shapely.is_simple(shapely.linestrings(rest_N2)):
        # Looking for crossings step by step takes thirty times as long.
        return line_N2
    step_N2 = np.diff(rest_N2, axis=0)
    along_N = np.append(0.0, np.hypot(*step_N2.T).cumsum())
    reach = _CURL * along_N[-1]
    kept, number = list(rest_N2[:1]), 0
    while number < len(step_N2):
        # Which of the later steps cross this one, the next one apart, and where.
        others = slice(number + 2, np.searchsorted(along_N[:-1], along_N[number + 1] + reach, "right"))
        here_2, step_2 = kept[-1], rest_N2[number + 1] - kept[-1]
        away_K2, other_K2 = rest_N2[:-1][others] - here_2, step_N2[others]
        turn_K = _cross(step_2, other_K2)
        # Parallel steps do not cross: a NaN is between nothing.
        turn_K[turn_K == 0] = np.nan
        at_K, at_other_K = _cross(away_K2, other_K2) / turn_K, _cross(away_K2, step_2) / turn_K
        crosses_K = (abs(at_K - 0.5) <= 0.5) & (abs(at_other_K - 0.5) <= 0.5)
        begin_K = along_N[number + 1] - (1 - at_K) * np.hypot(*step_2)
        end_K = along_N[:-1][others] + at_other_K * np.hypot(*other_K2.T)
        curls = np.flatnonzero(crosses_K & (end_K - begin_K <= reach))
        if curls.size:
            last = curls[-1]
            kept.append(here_2 + at_K[last] * step_2)
            number += 2 + int(last)
        else:
            kept.append(rest_N2[number + 1])
            number += 1
    return np.array(kept)


def _cross(one: FloatArray, other: FloatArray) -> FloatArray:
    product: FloatArray = one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
    return product


@dataclass(frozen=True)
class _Pieces:
    """Connected pieces into which a wall divides something, and on which side of the wall they lie.

    Attributes
    ----------
    number_HW : int32 array
        Of the piece that a pixel belongs to; 0 where it belongs to none.
    size_N : int array
        In pixels; 0 for a piece that does not lie at the wall.
    side_N : int array
        `_LEFT`, `_RIGHT`, `_BOTH`, or 0 for a piece that does not lie at the wall.
    open_N : bool array
        Whether a piece may go on beyond the array.
    """

    number_HW: npt.NDArray[np.int32]
    size_N: npt.NDArray[np.int64]
    side_N: npt.NDArray[np.int64]
    open_N: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, where_HW: BoolArray, connectivity: int, beside: "_Beside", goes_on: Sequence[bool]) -> "_Pieces":
        """Pieces of `where_HW`; beyond which sides (top, bottom, left, right) the scene `goes_on`."""
        import cv2

        count, number_HW = cv2.connectedComponents(where_HW.view(np.uint8), connectivity=connectivity)
        rows, cols, sides = beside
        touched = number_HW[rows, cols]
        left_N, right_N = (np.bincount(touched[sides == side], minlength=count) for side in (_LEFT, _RIGHT))
        most = (1 - _STRAY) * (left_N + right_N)
        side_N = np.select([left_N > most, right_N > most, left_N + right_N > 0], [_LEFT, _RIGHT, _BOTH], 0)
        side_N[0] = 0
        open_N = np.zeros(count, bool)
        rims = (number_HW[0], number_HW[-1], number_HW[:, 0], number_HW[:, -1])
        for rim in (one for one, open_ in zip(rims, goes_on, strict=True) if open_):
            open_N[rim] = True
        at_wall = np.flatnonzero(side_N)
        if at_wall.size > _FEW:
            size_N = np.bincount(number_HW.ravel(), minlength=count)
        else:
            # Several times as fast: the others' sizes are of no use.
            size_N = np.zeros(count, np.int64)
            size_N[at_wall] = [np.count_nonzero(number_HW == number) for number in at_wall]
        return cls(np.asarray(number_HW, np.int32), size_N, side_N, open_N)

    @property
    def lesser_side(self) -> int:
        """The side of the wall with fewer pixels; 0 where that has none, and what lies on both sides is no more."""
        lesser, greater = sorted((_LEFT, _RIGHT), key=self.weight)
        if self.weight(lesser):
            return lesser
        return greater if self.weight(greater) < self.weight(_BOTH) else 0

    def weight(self, side: int) -> int:
        """Pixels on a side of the wall; those of pieces that may go on count for more."""
        return int((self.size_N * np.where(self.open_N, _OPEN_WEIGHT, 1))[self.side_N == side].sum())

    def open_on(self, side: int) -> bool:
        """Whether a piece on a side may go on."""
        return bool(side and (self.open_N & (self.side_N == side)).any())

    def on(self, side: int) -> BoolArray:
        """Pixels of the pieces on a side that end inside the array; none for 0."""
        chosen_N = (self.side_N == side) & ~self.open_N & bool(side)
        chosen = np.flatnonzero(chosen_N)
        if chosen.size > _FEW:
            # Several times as fast as indexing with an array of numbers.
            return np.take(chosen_N, self.number_HW)
        on_HW = np.zeros(self.number_HW.shape, bool)
        for number in chosen.tolist():
            on_HW |= self.number_HW == number
        return on_HW


def _wall(region_HW: BoolArray, points_N2: _Points) -> tuple[BoolArray, BoolArray, _Beside]:
    """A line as pixels, the same led on across the region's outline and 4-connected, and the pixels beside it."""
    import cv2
    from scipy.spatial import KDTree

    line_HW, wall_HW = np.zeros(region_HW.shape, np.uint8), np.zeros(region_HW.shape, np.uint8)
    begin, end = (_nearest_across(region_HW, way) for way in (points_N2, points_N2[::-1]))
    corners_N2 = np.concatenate([begin, points_N2, end])
    for drawn_HW, corners in ((line_HW, points_N2), (wall_HW, corners_N2)):
        # OpenCV counts columns first.
        cv2.polylines(drawn_HW, [corners[:, ::-1].astype(np.int32).reshape(-1, 1, 2)], False, 1, 1, cv2.LINE_4)
    steps_N2 = _steps(corners_N2)
    reach = max(min(_SMOOTH_PX, len(steps_N2) // 4), 1)
    index = np.arange(len(steps_N2))
    ahead_N2 = steps_N2[np.minimum(index + reach, index[-1])] - steps_N2[np.maximum(index - reach, 0)]
    near = _around(corners_N2, region_HW.shape)
    rows, cols = np.nonzero(reshape(wall_HW[near].astype(bool), "grow", _BESIDE_PX) & (wall_HW[near] == 0))
    rows, cols = rows + near[0].start, cols + near[1].start
    _, nearest = KDTree(steps_N2).query(np.stack([rows, cols], axis=1))
    away_N2 = np.stack([rows, cols], axis=1) - steps_N2[nearest]
    cross = ahead_N2[nearest, 0] * away_N2[:, 1] - ahead_N2[nearest, 1] * away_N2[:, 0]
    # Around the ends of the line there are no sides.
    sides = np.where((nearest == 0) | (nearest == index[-1]), 0, np.sign(cross)).astype(int)
    return line_HW.view(bool), wall_HW.view(bool), (rows, cols, sides)


def _around(corners_N2: _Points, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The part of an array that holds a line and what is beside it."""
    first_2 = np.maximum(corners_N2.min(axis=0) - _BESIDE_PX, 0)
    rows, cols = (
        slice(int(low), max(int(high), int(low)))
        for low, high in zip(first_2, np.minimum(corners_N2.max(axis=0) + _BESIDE_PX + 1, shape), strict=True)
    )
    return rows, cols


def _steps(corners_N2: _Points) -> FloatArray:
    """Points a pixel apart along a line, float (N, 2)."""
    along_N = np.concatenate([[0.0], np.hypot(*np.diff(corners_N2, axis=0).T).cumsum()])
    at = np.linspace(0, along_N[-1], max(int(along_N[-1]) + 1, 2))
    return np.stack([np.interp(at, along_N, corners_N2[:, k]) for k in (0, 1)], axis=1)


def _nearest_across(region_HW: BoolArray, points_N2: _Points) -> _Points:
    """Where a line that does not begin at the outline should, (1, 2); (0, 2) where that is not within reach."""
    none_02 = np.zeros((0, 2), int)
    (row, col), (height, width) = (int(k) for k in points_N2[0]), region_HW.shape
    if not (0 <= row < height and 0 <= col < width):
        return none_02
    steps_N2 = np.round(_steps(points_N2)).astype(int)
    within_N = np.all((steps_N2 >= 0) & (steps_N2 < region_HW.shape), axis=1)
    side_N = region_HW[tuple(steps_N2[within_N].T)]
    crossed = np.flatnonzero(side_N != region_HW[row, col])
    reach_px = max(_LEAST_LEAD_PX, _LEAD * (int(crossed[0]) if crossed.size else len(steps_N2)))
    reach = int(reach_px)
    top, left = max(row - reach, 0), max(col - reach, 0)
    near_HW = region_HW[top : row + reach + 1, left : col + reach + 1]
    others_N2 = np.add(np.argwhere(near_HW != region_HW[row, col]), (top, left))
    distance_N = np.hypot(*(others_N2 - (row, col)).T)
    if not others_N2.size or distance_N.min() > reach_px:
        return none_02
    nearest_12: _Points = others_N2[[distance_N.argmin()]]
    return nearest_12
