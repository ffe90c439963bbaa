"""Reviewing tiles: states, notes, and the walk from one to the next. No Qt."""

from typing import Any

from psygnal import Signal

from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.journal_schema import REVIEW_STATES
from napari_glacier.core.correction.reviews import APPROVED, TODO, ReviewEvent
from napari_glacier.core.errors import DataError
from napari_glacier.core.wording import counted

ALL, UNFINISHED = "all tiles", "not approved"
# What the walk can be kept to.
FILTERS: tuple[str, ...] = (ALL, UNFINISHED, *REVIEW_STATES)


class ReviewController:
    """Decides what the Review part of the Correct widget does.

    Parameters
    ----------
    workspace : Workspace

    Attributes
    ----------
    filter : str
        One of `FILTERS`: which tiles the walk visits.

    Signals
    -------
    changed() : a state, a note, the filter
    """

    changed = Signal()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.filter = ALL
        self._session: Any = None
        workspace.session_changed.connect(self._on_session)
        self._on_session(workspace.session)

    @property
    def tile_id(self) -> str:
        """The tile under the middle of the view."""
        place = self.workspace.tile_under_view()
        return place.tile.id if place is not None else ""

    @property
    def state(self) -> str:
        """Review state of that tile."""
        session, tile_id = self.workspace.session, self.tile_id
        return session.review(tile_id) if session is not None and tile_id else TODO

    @property
    def is_approved(self) -> bool:
        """Whether that tile is locked."""
        return self.state == APPROVED

    def events(self) -> list[ReviewEvent]:
        """What was said of that tile, newest first."""
        session, tile_id = self.workspace.session, self.tile_id
        return session.journal.reviews.of(tile_id)[::-1] if session is not None and tile_id else []

    @property
    def summary(self) -> str:
        """How many tiles are in which state."""
        session = self.workspace.session
        if session is None:
            return ""
        counts = dict.fromkeys(REVIEW_STATES, 0)
        for state in self._states().values():
            counts[state] += 1
        return ", ".join(f"{number} {state}" for state, number in counts.items() if number)

    def set_filter(self, name: str) -> None:
        """Keep the walk to tiles in one state, or to all."""
        self.filter = name
        self.changed.emit()

    def set_state(self, state: str, note: str = "") -> str:
        """Give the tile in view a state; gives a sentence on it.

        Raises
        ------
        DataError, JournalError
            If there is no tile, or the dataset is held elsewhere.
        """
        session, tile_id = self._need_session(), self._need_tile()
        was_approved = session.review(tile_id) == APPROVED
        session.set_review(tile_id, state, note)
        if state == APPROVED and not was_approved:
            unsaved = " Its corrections are not yet written: Save writes them." if tile_id in session.unsaved() else ""
            return f"Tile {tile_id} is approved and locked.{unsaved}"
        if was_approved and state != APPROVED:
            return f"The approval of tile {tile_id} is taken back; it can be changed again."
        return f"Tile {tile_id} is {state}."

    def approve(self) -> str:
        """Approve the tile in view."""
        return self.set_state(APPROVED)

    def add_note(self, note: str) -> None:
        """Keep a sentence on the tile in view; its state stays. An empty one is passed over."""
        if note.strip():
            session, tile_id = self._need_session(), self._need_tile()
            session.set_review(tile_id, session.review(tile_id), note)

    def next(self) -> str:
        """Fly to the next tile in the state chosen, after the last one to the first; gives its id.

        Raises
        ------
        DataError
            If no tile is in that state.
        """
        return self._walk(1)

    def previous(self) -> str:
        """The same, backwards."""
        return self._walk(-1)

    def close(self) -> None:
        """Disconnect from the workspace and its session."""
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)
        self._leave_session()

    def _walk(self, step: int) -> str:
        session = self._need_session()
        states = self._states()
        order = list(session.tile_ids)
        here = order.index(self.tile_id) if self.tile_id in order else -1
        candidates = [order[(here + step * k) % len(order)] for k in range(1, len(order) + 1)]
        chosen: str | None = next((tile_id for tile_id in candidates if self._wanted(states[tile_id])), None)
        if chosen is None:
            raise DataError(f"None of {counted(len(order), 'tile')} is in the state chosen ({self.filter}).")
        number, place = session.find(chosen)
        if not session.stacked and number != session.scene_number:
            self.workspace.show_scene(number)
        plane = number if session.stacked else 0
        self.workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width, plane)
        self.changed.emit()
        return chosen

    def _wanted(self, state: str) -> bool:
        if self.filter == UNFINISHED:
            return state != APPROVED
        return self.filter in (ALL, state)

    def _states(self) -> dict[str, str]:
        session = self._need_session()
        known = session.journal.review_states()
        return {tile_id: known.get(tile_id, TODO) for tile_id in session.tile_ids}

    def _need_session(self) -> Any:
        if self.workspace.session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        return self.workspace.session

    def _need_tile(self) -> str:
        tile_id = self.tile_id
        if not tile_id:
            raise DataError("No tile is in view.")
        return tile_id

    def _on_session(self, session: Any) -> None:
        self._leave_session()
        self._session = session
        if session is not None:
            session.reviewed.connect(self._on_reviewed)
            session.edited.connect(self._on_edited)
        self.changed.emit()

    def _leave_session(self) -> None:
        if self._session is not None:
            self._session.reviewed.disconnect(self._on_reviewed, missing_ok=True)
            self._session.edited.disconnect(self._on_edited, missing_ok=True)
        self._session = None

    def _on_reviewed(self, tile_id: str) -> None:
        self.changed.emit()

    def _on_edited(self) -> None:
        self.changed.emit()
