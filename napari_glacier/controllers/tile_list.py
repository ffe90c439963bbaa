"""The tiles of the open dataset as a list that is searched, filtered and sorted. No Qt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.session import Session
from napari_glacier.core.correction.journal_schema import REVIEW_STATES

Key = Literal["tile", "split", "classes", "edits", "review"]
# A class counts as present in a tile from this share of its valid pixels on; less is a stray pixel or two.
_PRESENT = 1e-4


@dataclass(frozen=True, slots=True)
class TileRow:
    """A line of the tile list.

    Attributes
    ----------
    shares : tuple of float or None
        Of each class among the valid pixels; None while they are not counted, empty where nothing is valid.
    """

    tile_id: str
    split: str
    labelled: bool
    unsaved: int
    review: str
    shares: tuple[float, ...] | None = None

    @property
    def bare(self) -> bool:
        """Whether nobody has labelled it: that it holds no class means nothing."""
        return not (self.labelled or self.unsaved)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tiles are shown.

    Attributes
    ----------
    text : str
        Part of the id or split; capitals do not matter.
    review : str
        Review state; any where empty.
    holds : int or None
        Index of a class that must be present.
    unlabelled : bool
        Only tiles without labels.
    """

    text: str = ""
    review: str = ""
    holds: int | None = None
    unlabelled: bool = False

    def takes(self, row: TileRow) -> bool:
        """Whether a tile is shown."""
        if self.review and row.review != self.review:
            return False
        if self.unlabelled and not row.bare:
            return False
        if self.holds is not None and not (row.shares and row.shares[self.holds] >= _PRESENT):
            return False
        wanted = self.text.strip().casefold()
        return wanted in row.tile_id.casefold() or wanted in row.split.casefold()


class TileList:
    """The rows of all tiles, in the dataset's order, as they are now.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._counts: Mapping[str, npt.NDArray[np.int64]] = {}
        self._unsaved: dict[str, int] = {}
        self.rows: list[TileRow] = []

    def refresh(self, counts: Mapping[str, npt.NDArray[np.int64]]) -> list[str]:
        """Ask the journal again; gives the ids of tiles whose strokes are not those of the last time.

        Parameters
        ----------
        counts : mapping of tile id to array
            Valid pixels by class, where they are known.
        """
        session, before = self._session, self._unsaved
        self._unsaved, reviews = session.unsaved(), session.journal.review_states()
        self._counts = counts
        self.rows = [
            TileRow(
                tile.id,
                tile.split,
                tile.mask_path is not None,
                self._unsaved.get(tile.id, 0),
                reviews.get(tile.id, REVIEW_STATES[0]),
                _shares(counts.get(tile.id)),
            )
            for tile in session.dataset.tiles
        ]
        return [tile_id for tile_id in {*before, *self._unsaved} if before.get(tile_id) != self._unsaved.get(tile_id)]

    def shown(self, wanted: Filter, key: Key = "tile", descending: bool = False) -> list[TileRow]:
        """The tiles that a filter takes; sorted, those that are equal in the dataset's order."""
        rows = [row for row in self.rows if wanted.takes(row)]
        if key == "tile":
            return rows[::-1] if descending else rows

        def rank(row: TileRow) -> Any:
            if key == "split":
                return row.split
            if key == "edits":
                return row.unsaved
            if key == "review":
                return REVIEW_STATES.index(row.review)
            if row.bare or not row.shares:
                return -1.0
            return 1 - row.shares[0] if wanted.holds is None else row.shares[wanted.holds]

        return sorted(rows, key=rank, reverse=descending)

    def labelled(self) -> list[str]:
        """Ids of the tiles that have labels, strokes that are not saved included."""
        return [row.tile_id for row in self.rows if not row.bare]

    def states(self) -> dict[str, int]:
        """Number of tiles in each review state that occurs."""
        found = [row.review for row in self.rows]
        return {state: found.count(state) for state in REVIEW_STATES if state in found}


def _shares(counts: npt.NDArray[np.int64] | None) -> tuple[float, ...] | None:
    if counts is None:
        return None
    total = int(counts.sum())
    return tuple((counts / total).tolist()) if total else ()
