"""Areas a person looked at and found right: they change no label, so no stroke tells of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from napari_glacier.core.correction.journal_file import JournalFile
from napari_glacier.core.correction.journal_schema import SEEN_TABLE
from napari_glacier.core.correction.strokes import pack, unpack
from napari_glacier.core.tools.evidence import BoolArray


@dataclass(frozen=True, slots=True)
class SeenArea:
    """A rectangle of a tile, and which of its pixels were looked at."""

    tile_id: str
    row: int
    col: int
    where_HW: BoolArray

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the tile."""
        height, width = self.where_HW.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)


class SeenAreas:
    """The areas looked at, as the journal keeps them.

    Parameters
    ----------
    file : JournalFile
    """

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def add(self, areas: Iterable[SeenArea], author: str) -> None:
        """Keep areas; `JournalError` where another process holds the journal."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [
            (area.tile_id, area.row, area.col, *area.where_HW.shape, pack(area.where_HW.astype("uint8")), author, now)
            for area in areas
        ]
        with self._file.writing(waits=False) as connection:
            connection.execute(SEEN_TABLE)
            connection.executemany(
                "INSERT INTO seen (tile_id, row, col, height, width, pixels, author, time) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def all(self) -> list[SeenArea]:
        """Every area kept, oldest first; damaged ones are passed over, and are to be looked at again."""
        if not self._file.read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'seen'"):
            return []
        rows = self._file.read("SELECT tile_id, row, col, height, width, pixels FROM seen ORDER BY id")
        return [
            SeenArea(tile_id, row, col, where_HW.astype(bool))
            for tile_id, row, col, height, width, pixels in rows
            if (where_HW := unpack(pixels, height, width)) is not None
        ]
