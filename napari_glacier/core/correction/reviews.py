"""How far the review of each tile has come, who said so and why; nothing said is ever deleted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from napari_glacier.core.correction.journal_file import JournalFile
from napari_glacier.core.correction.journal_schema import REVIEW_STATES, REVIEW_TABLE
from napari_glacier.core.wording import listed

TODO, IN_PROGRESS, EDITED, APPROVED, REJECTED = REVIEW_STATES

# What training, outlines and reports may ask of a tile.
ReviewDemand = Literal["edited", "approved"]
_MEETS: dict[ReviewDemand, frozenset[str]] = {
    "edited": frozenset((EDITED, APPROVED)),
    "approved": frozenset((APPROVED,)),
}
SET_STATE = """
INSERT INTO tile (tile_id, review, review_time) VALUES (?, ?, ?)
ON CONFLICT (tile_id) DO UPDATE SET review = excluded.review, review_time = excluded.review_time
"""


@dataclass(frozen=True, slots=True)
class ReviewEvent:
    """What somebody said of a tile; `note` may be empty, `time` is ISO in UTC."""

    tile_id: str
    state: str
    note: str
    author: str
    time: str


def meets(state: str, demand: ReviewDemand) -> bool:
    """Whether a tile in a review state is good enough: edited is met by approved, too."""
    return state in _MEETS[demand]


def approved_sentence(tile_ids: Sequence[str]) -> str:
    """What a person is told who would change approved tiles."""
    if len(tile_ids) == 1:
        return f"Tile {tile_ids[0]} is approved and stays as it is. Take the approval back to change it."
    return f"Tiles {listed(tile_ids)} are approved and stay as they are. Take the approval back to change them."


class ReviewLog:
    """What was said of the tiles, as the journal keeps it.

    Parameters
    ----------
    file : JournalFile
    """

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    def add(self, events: Iterable[ReviewEvent], *, set_state: bool = True) -> None:
        """Keep what was said; a tile's state becomes that of its last event.

        Parameters
        ----------
        events : iterable of ReviewEvent
        set_state : bool
            False: keep the words alone, the state is decided elsewhere.

        Raises
        ------
        JournalError
            Where another process holds the journal.
        """
        events = list(events)
        with self._file.writing(waits=False) as connection:
            connection.execute(REVIEW_TABLE)
            connection.executemany(
                "INSERT INTO review (tile_id, state, note, author, time) VALUES (?, ?, ?, ?, ?)",
                [(event.tile_id, event.state, event.note, event.author, event.time) for event in events],
            )
            if set_state:
                rows = [(event.tile_id, event.state, event.time) for event in events]
                connection.executemany(SET_STATE, rows)

    def of(self, tile_id: str) -> list[ReviewEvent]:
        """What was said of a tile, oldest first."""
        return [event for event in self.all() if event.tile_id == tile_id]

    def all(self) -> list[ReviewEvent]:
        """Everything that was said, oldest first."""
        if not self._file.read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'review'"):
            return []
        return [
            ReviewEvent(*row)
            for row in self._file.read("SELECT tile_id, state, note, author, time FROM review ORDER BY id")
        ]
