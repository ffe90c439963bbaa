"""Tiles of a scene whose pixels may not change, because somebody approved them."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from napari_glacier.core.data.mosaic import Placement

_Box = tuple[range, range, range]
_Part = tuple[str, tuple[slice, slice, slice]]


class TileLocks:
    """Which tiles are locked, and where they lie.

    Parameters
    ----------
    placements : sequence of sequence of Placement
        For each plane, the tiles on it.
    """

    def __init__(self, placements: Sequence[Sequence[Placement]]) -> None:
        self._corners = {
            place.tile.id: (plane, place.row, place.col, place.row + place.tile.height, place.col + place.tile.width)
            for plane, on_plane in enumerate(placements)
            for place in on_plane
        }
        self._locked: tuple[str, ...] = ()
        self._boxes = np.zeros((0, 5), np.int64)

    def __bool__(self) -> bool:
        return bool(self._locked)

    @property
    def tile_ids(self) -> frozenset[str]:
        """The locked tiles."""
        return frozenset(self._locked)

    def lock(self, tile_ids: Iterable[str]) -> None:
        """Lock these tiles and no others; ids that are not on these planes are skipped."""
        self._locked = tuple(tile_id for tile_id in dict.fromkeys(tile_ids) if tile_id in self._corners)
        self._boxes = np.array([self._corners[tile_id] for tile_id in self._locked], np.int64).reshape(-1, 5)

    def count(self, box: _Box, wanted_PHW: npt.NDArray[np.bool_]) -> dict[str, int]:
        """Locked tiles with wanted pixels inside a box, and how many.

        Parameters
        ----------
        box : ranges of planes, rows and columns
        wanted_PHW : bool array of the box's shape
        """
        counts = {tile_id: int(np.count_nonzero(wanted_PHW[part])) for tile_id, part in self._parts(box)}
        return {tile_id: number for tile_id, number in counts.items() if number}

    def clear(self, allowed_PHW: npt.NDArray[np.bool_], box: _Box) -> None:
        """Set an array of a box's shape to False where it lies on locked tiles, in place."""
        for _, part in self._parts(box):
            allowed_PHW[part] = False

    def at(
        self,
        planes: npt.NDArray[np.intp],
        rows: npt.NDArray[np.intp],
        cols: npt.NDArray[np.intp],
        wanted: npt.NDArray[np.bool_],
    ) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
        """Which points lie on locked tiles, and which of these tiles hold wanted points."""
        locked = np.zeros(rows.shape, bool)
        held = []
        for tile_id, (plane, top, left, bottom, right) in zip(self._locked, self._boxes.tolist(), strict=True):
            inside = (planes == plane) & (rows >= top) & (rows < bottom) & (cols >= left) & (cols < right)
            if inside.any():
                locked |= inside
                if (inside & wanted).any():
                    held.append(tile_id)
        return locked, tuple(held)

    def _parts(self, box: _Box) -> list[_Part]:
        """Of each locked tile in a box its place there."""
        if not self._locked or not all(box):
            return []
        # A box counted backwards, or with steps, is looked at axis by axis.
        low, high = [min(axis[0], axis[-1]) for axis in box], [max(axis[0], axis[-1]) for axis in box]
        plane, top, left, bottom, right = self._boxes.T
        hit = (plane >= low[0]) & (plane <= high[0])
        hit &= (top <= high[1]) & (bottom > low[1]) & (left <= high[2]) & (right > low[2])
        parts = []
        for number in np.flatnonzero(hit):
            at, row, col, row_end, col_end = self._boxes[number].tolist()
            spans = [
                _span(axis, *ends)
                for axis, ends in zip(box, ((at, at + 1), (row, row_end), (col, col_end)), strict=True)
            ]
            parts.append((self._locked[number], (spans[0], spans[1], spans[2])))
        return parts


def _span(axis: range, start: int, stop: int) -> slice:
    """Which places along an axis hold coordinates from `start` to before `stop`."""
    values = np.arange(axis.start, axis.stop, axis.step)
    inside = np.flatnonzero((values >= start) & (values < stop))
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)
