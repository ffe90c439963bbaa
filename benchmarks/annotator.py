"""A simulated person who corrects labels, knowing the truth; `correction.py` counts what it costs her.

She takes the largest wrong patch. With a brush alone she presses where a dab mends most around its deepest pixel; with
the smart tools she chooses what mends most for an action:

- smart fill at five strengths (a click to see it, a click to take it, and one more for every three steps of the wheel);
- flipping or removing the patch, filling holes, snapping;
- drawing an outline anew along the true one, past the patch and on (a line that keeps within 2, 4 or 8 px of it; each
  80 px are an action);
- scribbling (a stroke a class, one to take it);
- growing, shrinking, opening or closing the patch or one beside it by 1 to 3 px, or smoothing it by 2 to 6 px; or
  these, and sieving by 4 to 8 px, with all of a class in a loop round the view (two actions); a change of operation or
  of radius is one more each;
- balancing what is in view, from near or from far, but for what she drew herself (the button; another class or
  probability than last time is one action more each);
- flipping all inside a loop round the patch, or round the patch and up to 4 to 32 px of what is of its true class
  beside it, which takes in other mistakes there (drawn as a polygon that keeps within 2, 4 or 8 px of the outline; each
  80 px of the hand's path is an action, as with a brush that is dragged);
- the brush.

What a tool spoils is counted against it.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np
from scipy import ndimage

from napari_glacier.core.tools import components, growing, scribbles, shape
from napari_glacier.core.tools.evidence import Evidence, balanced
from napari_glacier.core.tools.redrawing import redraw_outline
from napari_glacier.core.tools.superpixels import superpixels

Brush = Literal["dabs", "loose", "sure"]
BRUSH_RADIUS_PX, DRAG_PX, DRAG_STEP_PX = 5, 80, 3
STRENGTHS, DEFAULT_STRENGTH, WHEEL_PER_ACTION = (27, 36, 45, 54, 63), 45, 9
# Of each operation of Shape; sieving is for all of a class.
RADII_PX: dict[shape.Operation, tuple[int, ...]] = dict.fromkeys(("grow", "shrink", "open", "close"), (1, 2, 3))
RADII_PX |= {"smooth": (2, 4, 6), "sieve": (4, 6, 8)}
BALANCES = (0.2, 0.3, 0.4, 0.6, 0.7, 0.8)
# How far she looks to each side of a mistake when she balances what is in view; the last shows all of a tile.
HALF_VIEWS_PX = (48, 96, 192, 1024)
_LOOP_EVERY = 12
# By how much her loop round a patch may be wider than the patch.
WIDER_PX = (4, 8, 16, 32)
# How far a hand keeps from the line that it means.
_LOOSE_PX = (2, 4, 8)
# How many mended pixels a spoilt one is held to be worth, by who drags a brush carelessly or with care.
_SPOILS = (1, 3)


class Person:
    """Corrects labels until few enough are wrong.

    Parameters
    ----------
    evidence : Evidence
    start_HW, goal_HW : uint8 arrays
        The prediction and the truth.
    smart : bool
        Whether smart tools are in reach, or a brush alone.
    brush : str
        How she uses a brush: in "dabs"; "loose", dragged with the hand that draws her loops and lines, which keeps
        within 2 to 8 px of where it should go and passes 80 px in an action; or "sure", dragged along the best path
        whatever its turns, in 26 steps of 3 px to one of eight sides.
    """

    def __init__(self, evidence: Evidence, start_HW: Any, goal_HW: Any, *, smart: bool, brush: Brush) -> None:
        self.evidence, self.index_HW, self.goal_HW = evidence, start_HW.copy(), goal_HW
        self.valid_HW = evidence.valid_HW
        self.smart, self.brush = smart, brush
        self.cut = superpixels(evidence)
        self.used: dict[str, int] = {}
        self.finished = True
        self._looks = 0
        # What Shape and Balance were set to last: another setting is an action.
        self._settings: dict[str, tuple[str, ...]] = {"shape": ("grow", "2"), "balance": ("", "")}
        self._left_HW = np.zeros(self.valid_HW.shape, bool)
        self._patches: tuple[Any, Any] | None = None
        # What she drew herself; balancing is none of it, and spares it.
        self.drawn_HW = np.zeros(self.valid_HW.shape, bool)

    def wrong(self) -> Any:
        """Valid pixels that are not yet of their true class."""
        return (self.index_HW != self.goal_HW) & self.valid_HW

    def work(self, allowed: int) -> int:
        """Go on until at most `allowed` pixels are wrong; gives the number of actions.

        Where the tools cannot mend as much, `finished` is False.
        """
        actions = 0
        while np.count_nonzero(self.wrong()) > allowed:
            cost = self.act()
            if not cost:
                self.finished = False
                break
            actions += cost
        return actions

    def act(self, within_HW: Any = True, least_px: int = 1) -> int:
        """Mend the largest wrong patch, of those that reach into an area, by what is worth most; gives the actions.

        0 where none there is as large as `least_px`, or whatever these tools can do to it spoils more than it mends.
        """
        while True:
            patch_HW = self._worst(within_HW, least_px)
            if patch_HW is None:
                return 0
            depth_HW = shape.depth(patch_HW)
            row, col = (int(k) for k in np.unravel_index(int(depth_HW.argmax()), depth_HW.shape))
            now = int(np.count_nonzero(self.wrong()))
            name, cost, index_HW = max(
                self._choices(row, col, patch_HW), key=lambda choice: (now - self._num_wrong(choice[2])) / choice[1]
            )
            if self._num_wrong(index_HW) >= now:
                self._left_HW |= patch_HW
                self._patches = None
                continue
            name, *setting = name.split(":")
            if name != "balance":
                self.drawn_HW |= index_HW != self.index_HW
            self.index_HW = index_HW
            self._patches = None
            if setting:
                self._settings["balance" if name == "balance" else "shape"] = tuple(setting)
            self.used[name] = self.used.get(name, 0) + cost
            return cost

    def look_again(self, index_HW: Any) -> None:
        """Go on from other labels: what could not be mended in the old ones may be mended in these."""
        self.index_HW = index_HW.copy()
        self._left_HW[:] = False
        self._patches = None

    def _num_wrong(self, index_HW: Any) -> int:
        return int(np.count_nonzero((index_HW != self.goal_HW) & self.valid_HW))

    def _worst(self, within_HW: Any, least_px: int) -> Any:
        """The largest patch that is wrong in one and the same way and reaches into an area, if it is large enough."""
        if self._patches is None:
            self._patches = self._wrong_patches()
        label_HW, sizes = self._patches
        reaching = np.unique(label_HW if within_HW is True else label_HW[within_HW])
        reaching = reaching[reaching > 0]
        if not reaching.size or sizes[reaching].max() < least_px:
            return None
        return label_HW == reaching[sizes[reaching].argmax()]

    def _wrong_patches(self) -> tuple[Any, Any]:
        """Numbers from 1 of the patches that are wrong in one and the same way, and their sizes."""
        wrong_HW = self.wrong() & ~self._left_HW
        label_HW = np.zeros(wrong_HW.shape, np.int32)
        count = 0
        for label in np.unique(self.goal_HW[wrong_HW]):
            parts_HW, parts = ndimage.label(wrong_HW & (self.goal_HW == label), np.ones((3, 3), bool))
            label_HW[parts_HW > 0] = parts_HW[parts_HW > 0] + count
            count += parts
        return label_HW, np.bincount(label_HW.ravel())

    def _choices(self, row: int, col: int, patch_HW: Any) -> Iterator[tuple[str, int, Any]]:
        yield "brush", 1, self._brush(row, col)
        if not self.smart:
            return
        goal, size = int(self.goal_HW[row, col]), self.index_HW.shape
        distance_HW = growing.likeness(self.evidence, row, col)
        for strength in STRENGTHS:
            grown_HW = growing.grow(distance_HW, row, col, 3.0 * (strength / 100) ** 2)
            # A click to see it, a click to take it, and the wheel in between.
            cost = 2 + abs(strength - DEFAULT_STRENGTH) // WHEEL_PER_ACTION
            yield "smart fill", cost, self._with(grown_HW, goal)
        yield from self._loops()
        yield from self._balances(row, col)
        for around_HW in self._meant(patch_HW, row, col):
            for length_px, inside_HW in _loops_round(around_HW):
                yield "flip in a loop", -(-length_px // DRAG_PX), self._with(inside_HW, goal)
        yield from self._outlines(patch_HW, goal)
        yield from self._scribbles(row, col, goal)
        patch = components.component_at(lambda part: self.index_HW[part.slices], size, row, col)
        yield "flip", 1, self._with(_spread(patch, size), goal)
        around = components.surrounding_class(self.index_HW, _spread(patch, size), self.valid_HW)
        yield "remove", 1, self._with(_spread(patch, size), around)
        for at in self._beside(row, col):
            near = components.component_at(lambda part: self.index_HW[part.slices], size, *at)
            holes_HW = components.holes_of(near.where_HW)
            if holes_HW.any():
                filled = components.Area(near.window, holes_HW)
                yield "fill holes", 1, self._with(_spread(filled, size), int(self.index_HW[at]))
        for at in [(row, col), *self._beside(row, col)]:
            near = components.component_at(lambda part: self.index_HW[part.slices], size, *at)
            whole_HW, label = _spread(near, size), int(self.index_HW[at])
            nearest_HW = components.nearest_other(self.index_HW, whole_HW, self.valid_HW)
            yield from self._shaped("shape", 1, whole_HW, label, nearest_HW)
            snapped_HW = shape.snap_boundary(whole_HW, self.evidence.edges, 4, self.valid_HW)
            yield "snap", 1, self._exchanged(whole_HW, snapped_HW, label, nearest_HW)

    def _shaped(
        self, name: str, cost: int, where_HW: Any, label: int, nearest_HW: Any
    ) -> Iterator[tuple[str, int, Any]]:
        """All that Shape can do to a region; another operation or radius than last time is one more action each."""
        class_HW = (self.index_HW == label) & self.valid_HW
        for operation, radii_px in RADII_PX.items():
            if operation == "sieve" and name == "shape":
                continue
            for radius_px in radii_px:
                changes = self._changes("shape", operation, str(radius_px))
                after_HW = shape.reshape(where_HW, operation, radius_px, class_HW, self.valid_HW)
                index_HW = self._exchanged(where_HW, after_HW, label, nearest_HW)
                yield f"{name}:{operation}:{radius_px}", cost + changes, index_HW

    def _changes(self, tool: str, *setting: str) -> int:
        """Actions that it takes to set a tool."""
        return sum(one != other for one, other in zip(setting, self._settings[tool], strict=True))

    def _loops(self) -> Iterator[tuple[str, int, Any]]:
        """Shape a class in all of the view: choosing it, drawing a loop round it."""
        # Looked at now and then: it is for the beginning, and tries fifty changes of the whole view.
        self._looks += 1
        for label in np.unique(self.goal_HW) if self._looks % _LOOP_EVERY == 1 else ():
            where_HW = self.index_HW == label
            nearest_HW = components.nearest_other(self.index_HW, where_HW, self.valid_HW)
            yield from self._shaped("shape in a loop", 2, where_HW, int(label), nearest_HW)

    def _balances(self, row: int, col: int) -> Iterator[tuple[str, int, Any]]:
        """Balance what is in view: the neighbourhood of the patch, seen from near or from far."""
        probability_KHW = self.evidence.probability_KHW
        assert probability_KHW is not None
        for half_px in HALF_VIEWS_PX:
            part = np.s_[max(row - half_px, 0) : row + half_px, max(col - half_px, 0) : col + half_px]
            where_HW = (self.valid_HW & ~self.drawn_HW)[part]
            for label in np.unique(self.goal_HW[part]):
                for least in BALANCES:
                    balanced_HW = balanced(probability_KHW[:, *part], int(label), least)
                    index_HW = self.index_HW.copy()
                    np.copyto(index_HW[part], balanced_HW, where=where_HW)
                    cost = 1 + self._changes("balance", str(label), str(least))
                    yield f"balance:{label}:{least}", cost, index_HW

    def _meant(self, patch_HW: Any, row: int, col: int) -> Iterator[Any]:
        """The patch, and with it what is of its true class around it: a wider loop takes in other mistakes there."""
        yield patch_HW
        free_HW = (self.goal_HW == self.goal_HW[row, col]) | ~self.valid_HW
        distance_HW = shape.depth(~patch_HW)
        for reach_px in WIDER_PX:
            yield growing.connected_to(free_HW & (distance_HW <= reach_px), row, col, connectivity=4)

    def _outlines(self, patch_HW: Any, goal: int) -> Iterator[tuple[str, int, Any]]:
        """Draw the outline of the true class anew where it passes the patch, and on to the end of an action or two."""
        near_HW = shape.depth(~patch_HW) < 2
        now_HW, goal_HW = self.index_HW == goal, (self.goal_HW == goal) & self.valid_HW
        nearest_HW = components.nearest_other(self.index_HW, now_HW, self.valid_HW)
        outlines, _ = cv2.findContours(goal_HW.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for outline in outlines:
            met = np.flatnonzero(near_HW[outline[:, 0, 1], outline[:, 0, 0]])
            for line in _lines_along(outline, met) if met.size > 1 else ():
                window, _, after_HW = redraw_outline(
                    lambda part: now_HW[part.slices], now_HW.shape, [(float(y), float(x)) for x, y in line[:, 0]]
                )
                whole_HW = now_HW.copy()
                whole_HW[window.slices] = after_HW
                length_px = max(round(cv2.arcLength(line, False)), 1)
                yield "outline", -(-length_px // DRAG_PX), self._exchanged(now_HW, whole_HW, goal, nearest_HW)

    def _scribbles(self, row: int, col: int, goal: int) -> Iterator[tuple[str, int, Any]]:
        """A line of each right class through the neighbourhood, as long as it stays on the class; Enter."""
        for half_px in (16, 32, 48):
            top, left = max(row - half_px, 0), max(col - half_px, 0)
            part = np.s_[top : row + half_px, left : col + half_px]
            marks_HW = np.full(self.goal_HW.shape, scribbles.UNMARKED, np.uint8)
            strokes = 0
            for label in np.unique(self.goal_HW[part][self.valid_HW[part]]):
                line_HW = _line_inside((self.goal_HW[part] == label) & self.valid_HW[part])
                marks_HW[part][line_HW] = label
                strokes += bool(line_HW.any())
            if np.unique(marks_HW).size < 3:
                continue
            within_HW = scribbles.reach_of(marks_HW, 5)
            index_HW, _ = scribbles.solve_scribbles(self.evidence, marks_HW, self.cut, within_HW)
            where_HW = within_HW & (index_HW != scribbles.UNMARKED)
            yield "scribble", strokes + 1, np.where(where_HW & self.valid_HW, index_HW, self.index_HW)

    def _beside(self, row: int, col: int) -> list[tuple[int, int]]:
        """A pixel of each other class within a brush's reach."""
        top, left = max(row - 12, 0), max(col - 12, 0)
        near_HW = self.index_HW[top : row + 13, left : col + 13]
        found = []
        for label in np.unique(near_HW):
            if label != self.index_HW[row, col]:
                r, c = np.argwhere(near_HW == label)[0]
                found.append((int(r) + top, int(c) + left))
        return found

    def _with(self, where_HW: Any, label: int) -> Any:
        index_HW = self.index_HW.copy()
        np.copyto(index_HW, np.uint8(label), where=where_HW & self.valid_HW)
        return index_HW

    def _exchanged(self, before_HW: Any, after_HW: Any, label: int, nearest_HW: Any) -> Any:
        index_HW = self._with(after_HW, label)
        np.copyto(index_HW, nearest_HW, where=before_HW & ~after_HW & self.valid_HW)
        return index_HW

    def _brush(self, row: int, col: int) -> Any:
        """One press, or press and drag, with the class that is right at its beginning."""
        goal, size = int(self.goal_HW[row, col]), self.index_HW.shape
        # +1 where painting mends, -1 where it spoils, 0 where it changes nothing.
        worth_HW = np.where(self.goal_HW == goal, 1, -1) * (self.index_HW != goal) * self.valid_HW
        worth_HW[(self.goal_HW != goal) & (self.index_HW != self.goal_HW)] = 0
        if self.brush == "dabs":
            return self._with(_painted(_path(worth_HW, row, col, 0), size), goal)
        if self.brush == "sure":
            return self._with(_painted(_path(worth_HW, row, col, DRAG_PX // DRAG_STEP_PX), size), goal)
        best_HW, best = np.zeros(size, bool), 0
        for spoil in _SPOILS:
            # A path twice as long as a drag: a hand that cuts its corners comes further along it.
            path = _path(np.where(worth_HW < 0, spoil * worth_HW, worth_HW), row, col, 2 * DRAG_PX // DRAG_STEP_PX)
            for drag in (path[:1], *(_by_hand(path, loose_px) for loose_px in _LOOSE_PX)):
                painted_HW = _painted(drag, size)
                gain = int(worth_HW[painted_HW].sum())
                if gain > best:
                    best_HW, best = painted_HW, gain
        return self._with(best_HW, goal)


def _path(worth_HW: Any, row: int, col: int, steps: int) -> list[tuple[int, int]]:
    """Where the middle of a brush goes: it begins near a pixel, and takes each step where painting mends most."""
    size, worth_HW = worth_HW.shape, worth_HW.copy()
    # Whoever paints near an outline holds the brush off it.
    around = [
        (row + down, col + across)
        for down in range(-BRUSH_RADIUS_PX, BRUSH_RADIUS_PX + 1)
        for across in range(-BRUSH_RADIUS_PX, BRUSH_RADIUS_PX + 1)
        if 0 <= row + down < size[0] and 0 <= col + across < size[1]
    ]
    path = [max(around, key=lambda place: int(worth_HW[_dab(place, size)].sum()))]
    for _ in range(steps):
        worth_HW[_dab(path[-1], size)] = 0
        beside = [
            (path[-1][0] + down, path[-1][1] + across)
            for down in (-DRAG_STEP_PX, 0, DRAG_STEP_PX)
            for across in (-DRAG_STEP_PX, 0, DRAG_STEP_PX)
            if (down or across) and 0 <= path[-1][0] + down < size[0] and 0 <= path[-1][1] + across < size[1]
        ]
        gains = [int(worth_HW[_dab(step, size)].sum()) for step in beside]
        if max(gains) <= 0:
            break
        path.append(beside[int(np.argmax(gains))])
    return path


def _by_hand(path: list[tuple[int, int]], loose_px: int) -> list[tuple[int, int]]:
    """Pixels that a hand passes which keeps within a few pixels of a path, until it has gone as far as one drag."""
    line = np.array(path, np.int32)[:, None]
    corners = cv2.approxPolyDP(line, loose_px, False)[:, 0] if len(path) > 1 else line[:, 0]
    passed, left_px = [corners[0].astype(float)], float(DRAG_PX)
    for start, end in pairwise(corners.astype(float)):
        length_px = float(np.hypot(*(end - start)))
        for along_px in np.arange(1, min(length_px, left_px) + 0.5):
            passed.append(start + (end - start) * min(along_px / length_px, 1))
        left_px -= length_px
        if left_px <= 0:
            break
    return [(round(row), round(col)) for row, col in passed]


def _painted(path: list[tuple[int, int]], size: tuple[int, int]) -> Any:
    """Pixels under a round brush that goes along a path."""
    painted_HW = np.zeros(size, bool)
    for at in path:
        painted_HW[_dab(at, size)] = True
    return painted_HW


def _dab(at: tuple[int, int], size: tuple[int, int]) -> tuple[Any, Any]:
    """Pixels of a round brush."""
    reach = np.arange(-BRUSH_RADIUS_PX, BRUSH_RADIUS_PX + 1)
    down, across = np.nonzero(reach[:, None] ** 2 + reach[None, :] ** 2 <= BRUSH_RADIUS_PX**2)
    rows, cols = at[0] + reach[down], at[1] + reach[across]
    inside = (rows >= 0) & (rows < size[0]) & (cols >= 0) & (cols < size[1])
    return rows[inside], cols[inside]


def _line_inside(where_HW: Any) -> Any:
    """The longest of a few straight strokes of a pen of 5 px through a region's deepest pixel that stay inside it."""
    depth_HW = shape.depth(where_HW)
    row, col = np.unravel_index(int(depth_HW.argmax()), depth_HW.shape)
    core_HW = depth_HW > min(3.0, float(depth_HW.max()) * 0.6)
    best: Any = np.zeros(where_HW.shape, bool)
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        line_HW = np.zeros(where_HW.shape, bool)
        for sign in (-1, 1):
            r, c = int(row), int(col)
            while 0 <= r < where_HW.shape[0] and 0 <= c < where_HW.shape[1] and core_HW[r, c]:
                line_HW[r, c] = True
                r, c = r + sign * down, c + sign * across
        if line_HW.sum() > best.sum():
            best = line_HW
    return ndimage.binary_dilation(best, np.ones((5, 5), bool)) & where_HW


def _lines_along(outline: Any, met: Any) -> Iterator[Any]:
    """Lines along a closed outline that pass all of its points `met`, from close ones to loose ones.

    They end with the action in which they have passed them, or one or two later, and go on to either side or to both.
    """
    gaps = np.diff(np.append(met, met[0] + len(outline)))
    widest = int(gaps.argmax())
    first, length = int(met[(widest + 1) % met.size]), len(outline) - int(gaps[widest]) + 1
    for loose_px in _LOOSE_PX:
        for later in range(3):
            room = DRAG_PX * (-(-length // DRAG_PX) + later) - length
            for before in (0, room // 2, room):
                along = range(first - before, first - before + min(length + room, len(outline) + 1))
                line = cv2.approxPolyDP(np.take(outline, along, 0, mode="wrap"), loose_px, False)
                if len(line) > 1:
                    yield line


def _loops_round(patch_HW: Any) -> Iterator[tuple[int, Any]]:
    """Polygons along the outline of a patch, from close ones to loose ones: length in pixels, and what lies inside."""
    outlines, _ = cv2.findContours(patch_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)
    for loose_px in _LOOSE_PX:
        loop = cv2.approxPolyDP(outline, loose_px, True)
        if len(loop) >= 3:
            inside_HW = np.zeros(patch_HW.shape, np.uint8)
            cv2.fillPoly(inside_HW, [loop], 1)
            yield max(round(cv2.arcLength(loop, True)), 1), inside_HW.astype(bool)


def _spread(area: components.Area, size: tuple[int, int]) -> Any:
    where_HW = np.zeros(size, bool)
    where_HW[area.window.slices] = area.where_HW
    return where_HW
