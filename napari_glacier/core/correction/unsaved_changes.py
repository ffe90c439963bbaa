"""Which tiles a save would change: strokes that were all taken back leave a mask file as it is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from napari_glacier.core.correction.journal_file import JournalFile
from napari_glacier.core.correction.journal_schema import UNSAVED
from napari_glacier.core.correction.strokes import MOVES, NetChanges, Stroke

# While a stroke is left for sure so many more are read at a time: the last undo of many need not read all of them.
_STEP = 8


@dataclass
class _Sum:
    """What the first `number` unsaved strokes of a tile, up to one, come to."""

    last: int = 0
    number: int = 0
    net: NetChanges = field(default_factory=NetChanges)


class UnsavedChanges:
    """Knows whether the unsaved strokes of a tile come to nothing; asked for with every look at the desk.

    After each undo no more is read than the strokes that were added since the last one.

    Parameters
    ----------
    file : JournalFile
    strokes : callable (str, tuple) -> list of Stroke
        Gives the strokes of an SQL condition and its values, oldest first, each with the patches that meet it.
    """

    def __init__(self, file: JournalFile, strokes: Callable[[str, tuple[Any, ...]], list[Stroke]]) -> None:
        self._file, self._strokes = file, strokes
        self._sums: dict[str, _Sum] = {}
        # Tiles where a stroke is left for sure: the last one and their number, when that was found.
        self._left: dict[str, tuple[int, int]] = {}
        self._lock = Lock()

    def tiles(self) -> dict[str, int]:
        """Tiles whose unsaved strokes change something, and how many there are.

        Classes that a hand painted over and painted back count as changed.
        """
        rows = self._file.read(
            "SELECT tile_id, last, number, tool FROM (SELECT tile_id, MAX(stroke_id) AS last, "
            f"COUNT(DISTINCT stroke_id) AS number FROM patch WHERE state = {UNSAVED} GROUP BY tile_id) "
            "JOIN stroke ON id = last"
        )
        with self._lock:
            # Of tiles that are saved nothing is kept: they may be whole scenes.
            waiting = {tile_id for tile_id, *_ in rows}
            self._sums = {tile_id: known for tile_id, known in self._sums.items() if tile_id in waiting}
            return {
                tile_id: number
                for tile_id, last, number, tool in rows
                if tool not in MOVES or not self._come_to_nothing(tile_id, last, number)
            }

    def _come_to_nothing(self, tile_id: str, last: int, number: int) -> bool:
        known = self._sums.setdefault(tile_id, _Sum())
        if (known.last, known.number) == (last, number):
            return not known.net.num_px
        if self._left.get(tile_id) == (last, number):
            return False
        added = self._since(tile_id, known.last)
        if known.number + len(added) != number:
            # Some of those that were counted are saved or dropped by now.
            known = self._sums[tile_id] = _Sum()
            added = self._since(tile_id, 0)
        is_left = self._is_left(tile_id)
        if is_left:
            self._left[tile_id] = last, number
            added = added[:_STEP]
        strokes = self._strokes(
            f"state = {UNSAVED} AND tile_id = ? AND stroke_id BETWEEN ? AND ?", (tile_id, added[0], added[-1])
        )
        known.net.add([patch for stroke in strokes for patch in stroke.patches])
        known.last, known.number = added[-1], known.number + len(added)
        return not is_left and not known.net.num_px

    def _is_left(self, tile_id: str) -> bool:
        """Whether a stroke is left for sure, which is known without its pixels."""
        groups = self._file.read(
            "SELECT SUM(CASE tool WHEN 'undo' THEN -1 ELSE 1 END), MAX(tool = 'revert') FROM "
            f"(SELECT DISTINCT stroke_id FROM patch WHERE state = {UNSAVED} AND tile_id = ?) "
            "JOIN stroke ON id = stroke_id GROUP BY grp",
            (tile_id,),
        )
        return any(number for number, _ in groups) and not any(reverts for _, reverts in groups)

    def _since(self, tile_id: str, stroke_id: int) -> list[int]:
        """Ids of the unsaved strokes after one."""
        rows = self._file.read(
            f"SELECT DISTINCT stroke_id FROM patch WHERE state = {UNSAVED} AND tile_id = ? AND stroke_id > ? "
            "ORDER BY stroke_id",
            (tile_id, stroke_id),
        )
        return [number for (number,) in rows]
