"""Looking back over strokes: which belong to one sitting, and what is left when some of them are taken out.

A stroke is taken out where it is on top. Undo, redo and revert are no strokes of their own here: they go back and
forth along those that were drawn. What somebody drew over a stroke later stays as it was drawn.
"""

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt

from napari_glacier.core.correction.strokes import MOVES, REVERT, MaskArray, Stroke, StrokeInfo

# A longer rest ends a sitting.
REST = timedelta(minutes=30)

_Ints = npt.NDArray[np.int64]
_GROUP_OF_REVERT = f"{REVERT} "


@dataclass(frozen=True, slots=True)
class Sitting:
    """Strokes of one person without a long rest between them, newest first."""

    author: str
    strokes: tuple[StrokeInfo, ...]

    @property
    def start(self) -> datetime:
        """When the first stroke was drawn."""
        return datetime.fromisoformat(self.strokes[-1].time)

    @property
    def end(self) -> datetime:
        """When the last stroke was drawn."""
        return datetime.fromisoformat(self.strokes[0].time)

    @property
    def stroke_ids(self) -> tuple[int, ...]:
        """Ids of the strokes."""
        return tuple(stroke.id for stroke in self.strokes)


def sittings(strokes: Iterable[StrokeInfo]) -> list[Sitting]:
    """Strokes, given newest first, as sittings, newest first.

    A sitting ends where another person goes on, or after a rest of half an hour.
    """
    found: list[list[StrokeInfo]] = []
    for stroke in strokes:
        last = found[-1][-1] if found else None
        if last is not None and last.author == stroke.author:
            rest = datetime.fromisoformat(last.time) - datetime.fromisoformat(stroke.time)
            # A clock may have been set back.
            if abs(rest) <= REST:
                found[-1].append(stroke)
                continue
        found.append([stroke])
    return [Sitting(group[0].author, tuple(group)) for group in found]


def revert_group(stroke_ids: Collection[int]) -> str:
    """A new group for strokes that take others out; it says which, so that later reverts need not guess.

    A pixel may have had one class several times, and its values alone do not tell how far it went back.
    """
    runs = []
    for _, run in groupby(enumerate(sorted(set(stroke_ids))), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        runs.append(f"{numbers[0]}-{numbers[-1]}")
    return f"{_GROUP_OF_REVERT}{uuid.uuid4().hex} {','.join(runs)}"


@lru_cache(maxsize=64)
def _taken_out(group: str) -> frozenset[int] | None:
    """The strokes that the strokes of a group take out; None where the group does not say, as in older journals."""
    if not group.startswith(_GROUP_OF_REVERT):
        return None
    pairs = [run.split("-") for run in group.split()[2].split(",")]
    return frozenset(number for first, last in pairs for number in range(int(first), int(last) + 1))


@dataclass(frozen=True, slots=True)
class Reversal:
    """What taking strokes out of a tile gives.

    Attributes
    ----------
    values_HW : uint8 array of the tile's shape
    where_HW : bool array of the tile's shape
        Pixels that get another value.
    num_covered : int
        Pixels of the strokes that stay, because something was drawn over them later.
    """

    values_HW: MaskArray
    where_HW: npt.NDArray[np.bool_]
    num_covered: int


def reversal(strokes: Sequence[Stroke], tile_id: str, chosen: Collection[int], present_HW: MaskArray) -> Reversal:
    """Take strokes out of a tile.

    Parameters
    ----------
    strokes : sequence of Stroke
        All of the tile that were not discarded, oldest first.
    tile_id : str
    chosen : collection of int
        Ids of the strokes to take out.
    present_HW : uint8 array
        The tile as it is now. A pixel that does not hold what was drawn last, as its file was changed by another
        program, stays.

    Returns
    -------
    Reversal
        A pixel whose last strokes are all among the chosen ones becomes what it was before them.
    """
    touched_HW = np.zeros(present_HW.shape, bool)
    drawn = [
        (stroke, patch)
        for stroke in strokes
        for patch in stroke.patches
        if patch.tile_id == tile_id and patch.fits(present_HW.shape)
    ]
    for stroke, patch in drawn:
        if stroke.id in chosen:
            touched_HW[patch.slices] |= patch.edited
    slot_HW = np.full(present_HW.shape, -1, np.int64)
    slot_HW[touched_HW] = np.arange(np.count_nonzero(touched_HW))
    piles = _Piles(int(np.count_nonzero(touched_HW)))
    for stroke, patch in drawn:
        slots_HW = slot_HW[patch.slices]
        hit_HW = patch.edited & (slots_HW >= 0)
        if hit_HW.any():
            piles.put(slots_HW[hit_HW], patch.before_HW[hit_HW], patch.after_HW[hit_HW], stroke, chosen)
    now = present_HW[touched_HW]
    then, num_covered = piles.without(chosen, now)
    values_HW, where_HW = present_HW.copy(), np.zeros(present_HW.shape, bool)
    values_HW[touched_HW] = then
    where_HW[touched_HW] = then != now
    return Reversal(values_HW, where_HW, num_covered)


class _Piles:
    """For each of many pixels the strokes that made it what it is, one upon the other.

    A pixel's height is the number of strokes that show or lie under the one that shows; those above it were taken
    back and can come again.
    """

    def __init__(self, num_pixels: int) -> None:
        self._height = np.zeros(num_pixels, np.int64)
        self._known = np.zeros(num_pixels, np.int64)
        self._owner: list[_Ints] = []
        self._before: list[MaskArray] = []
        self._after: list[MaskArray] = []
        # The stroke's group, and that of the stroke that took it back.
        self._group: list[_Ints] = []
        self._taken_by: list[_Ints] = []
        self._group_numbers: dict[str, int] = {}
        self._last = np.zeros(num_pixels, np.uint8)
        # What a pixel was before the first chosen stroke, and whether strokes that were not chosen came after it.
        self._chosen_from = np.zeros(num_pixels, np.uint8)
        self._begun = np.zeros(num_pixels, bool)
        self._mixed = np.zeros(num_pixels, bool)

    def put(self, at: _Ints, before: MaskArray, after: MaskArray, stroke: Stroke, chosen: Collection[int]) -> None:
        """Lay a stroke's pixels on, or go back and forth where it is one that does."""
        self._forget_chosen(self._foreign(at, before))
        self._note_chosen(at, before, stroke.id in chosen)
        self._last[at] = after
        group = self._group_numbers.setdefault(stroke.group, len(self._group_numbers) + 1)
        new = np.ones(len(at), bool)
        out = _taken_out(stroke.group)
        if out is not None and stroke.tool in MOVES:
            moved = self._bring_back(group) if stroke.tool == "undo" else self._take_out(out, group)
            new = ~moved[at]
            if stroke.id not in chosen:
                self._mixed |= moved & self._begun
        if stroke.tool in MOVES:
            by_group = (self._lower, self._raise)
            by_value = (self._raise, self._lower) if stroke.tool == "redo" else (self._lower, self._raise)
            for moves, wanted_group in ((by_group, group), (by_value, None)):
                for move in moves:
                    left = np.flatnonzero(new)
                    if left.size:
                        new[left] = ~move(at[left], after[left], wanted_group, group)
        self._push(at[new], before[new], after[new], stroke.id, group)

    def without(self, chosen: Collection[int], now: MaskArray) -> tuple[MaskArray, int]:
        """Values when the chosen strokes are taken off the top, and at how many pixels one lies further down."""
        values = now.copy()
        known = now == self._last
        alone = known & self._begun & ~self._mixed
        values[alone] = self._chosen_from[alone]
        top = self._height.copy()
        active = known & ~alone
        covered = np.zeros(len(now), bool)
        for level in range(len(self._owner) - 1, -1, -1):
            ours = np.isin(self._owner[level], list(chosen))
            here = active & (top == level + 1)
            off = here & ours & (self._after[level] == values)
            values[off] = self._before[level][off]
            top[off] = level
            covered |= ours & (self._height > level) & ~off & ~alone
        return values, int(np.count_nonzero(covered))

    def _foreign(self, at: _Ints, before: MaskArray) -> _Ints:
        """Pixels where a stroke counts from a class that no stroke below it left or found: another program wrote it."""
        # Mostly none: a stroke counts from what the last one left.
        unlike = np.flatnonzero((self._height[at] > 0) & (self._last[at] != before))
        at, before = at[unlike], before[unlike]
        foreign = np.ones(len(at), bool)
        for level in range(len(self._owner) if len(at) else 0):
            found = (self._before[level][at] == before) | (self._after[level][at] == before)
            foreign &= ~(found & (self._known[at] > level))
        return at[foreign]

    def _forget_chosen(self, at: _Ints) -> None:
        """What another program wrote is nobody's stroke, and is not taken out with those below it."""
        self._begun[at] = self._mixed[at] = False

    def _note_chosen(self, at: _Ints, before: MaskArray, is_chosen: bool) -> None:
        if is_chosen:
            first = ~self._begun[at]
            self._chosen_from[at[first]] = before[first]
            self._begun[at] = True
        else:
            self._mixed[at] |= self._begun[at]

    def _take_out(self, chosen: Collection[int], group: int) -> npt.NDArray[np.bool_]:
        """Take the chosen strokes off the top wherever that gives the value a pixel has now; gives where it does.

        Pixels that came to the same class by it were not written, and still lost the strokes.
        """
        target, then = self._height.copy(), self._last.copy()
        for level in range(len(self._owner) - 1, -1, -1):
            off = (target == level + 1) & np.isin(self._owner[level], list(chosen))
            then[off], target[off] = self._before[level][off], level
        fits: npt.NDArray[np.bool_] = (target < self._height) & (then == self._last)
        for level in range(len(self._owner)):
            self._taken_by[level][fits & (target <= level) & (self._height > level)] = group
        self._height[fits] = target[fits]
        return fits

    def _bring_back(self, group: int) -> npt.NDArray[np.bool_]:
        """Put strokes that were taken out on again wherever that gives the value a pixel has now; gives where."""
        target, then = self._height.copy(), self._last.copy()
        for level in range(len(self._owner)):
            on = (target == level) & (self._known > level) & (self._taken_by[level] == group)
            then[on], target[on] = self._after[level][on], level + 1
        fits: npt.NDArray[np.bool_] = (target > self._height) & (then == self._last)
        self._height[fits] = target[fits]
        return fits

    def _push(self, at: _Ints, before: MaskArray, after: MaskArray, stroke_id: int, group: int) -> None:
        height = self._height[at]
        for level in np.unique(height).tolist():
            if level == len(self._owner):
                self._grow()
            chosen = height == level
            pixels = at[chosen]
            self._owner[level][pixels], self._group[level][pixels] = stroke_id, group
            self._before[level][pixels], self._after[level][pixels] = before[chosen], after[chosen]
            self._taken_by[level][pixels] = 0
        self._height[at] = height + 1
        self._known[at] = height + 1

    def _lower(self, at: _Ints, value: MaskArray, wanted_group: int | None, group: int) -> npt.NDArray[np.bool_]:
        """Take strokes back until a pixel has the value: down to the uppermost that began with it."""
        done = np.zeros(len(at), bool)
        for level in range(len(self._owner) - 1, -1, -1):
            fits = ~done & (self._height[at] > level) & (self._before[level][at] == value)
            if wanted_group is not None:
                fits &= (self._group[level][at] == wanted_group) & (self._height[at] == level + 1)
            pixels = at[fits]
            for above in range(level, len(self._owner)):
                taken = pixels[self._height[pixels] > above]
                self._taken_by[above][taken] = group
            self._height[pixels] = level
            done |= fits
        return done

    def _raise(self, at: _Ints, value: MaskArray, wanted_group: int | None, group: int) -> npt.NDArray[np.bool_]:
        """Let strokes that were taken back come again until a pixel has the value."""
        done = np.zeros(len(at), bool)
        levels = range(len(self._owner))
        # What one stroke took back comes again as a whole; else a stroke at a time.
        for level in levels if wanted_group is None else reversed(levels):
            fits = ~done & (self._height[at] <= level) & (self._known[at] > level) & (self._after[level][at] == value)
            if wanted_group is not None:
                fits &= (self._group[level][at] == wanted_group) | (self._taken_by[level][at] == wanted_group)
            self._height[at[fits]] = level + 1
            done |= fits
        return done

    def _grow(self) -> None:
        size = len(self._height)
        self._owner.append(np.zeros(size, np.int64))
        self._group.append(np.zeros(size, np.int64))
        self._taken_by.append(np.zeros(size, np.int64))
        self._before.append(np.zeros(size, np.uint8))
        self._after.append(np.zeros(size, np.uint8))
