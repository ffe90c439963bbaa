"""Disagreements that were settled in favour of the labels: which class of somebody else's was turned down where."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from napari_glacier.core.correction.journal_file import JournalFile
from napari_glacier.core.correction.journal_schema import SETTLED_TABLE
from napari_glacier.core.correction.strokes import MaskArray, pack, unpack


@dataclass(frozen=True, slots=True)
class SettledArea:
    """A rectangle of a tile, and the class that was turned down at each pixel; 255 where none was."""

    tile_id: str
    row: int
    col: int
    class_HW: MaskArray

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the tile."""
        height, width = self.class_HW.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)


class SettledAreas:
    """What was settled, as the journal keeps it.

    Parameters
    ----------
    file : JournalFile
    """

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def add(self, areas: Iterable[SettledArea], author: str) -> None:
        """Keep areas; `JournalError` where another process holds the journal."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            (area.tile_id, area.row, area.col, *area.class_HW.shape, pack(area.class_HW), author, now) for area in areas
        ]
        with self._file.writing(waits=False) as connection:
            connection.execute(SETTLED_TABLE)
            connection.executemany(
                "INSERT INTO settled (tile_id, row, col, height, width, pixels, author, time) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def all(self) -> list[SettledArea]:
        """Every area kept, oldest first; damaged ones are passed over, and are asked again."""
        if not self._file.read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'settled'"):
            return []
        rows = self._file.read("SELECT tile_id, row, col, height, width, pixels FROM settled ORDER BY id")
        return [
            SettledArea(tile_id, row, col, class_HW)
            for tile_id, row, col, height, width, pixels in rows
            if (class_HW := unpack(pixels, height, width)) is not None
        ]
