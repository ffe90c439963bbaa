"""Undo and redo by the journal: whatever drew a stroke, in this sitting or an unsaved one of an earlier. No Qt."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

import numpy as np

from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.reviews import approved_sentence
from napari_glacier.core.correction.strokes import Stroke, StrokeInfo
from napari_glacier.core.errors import DataError, JournalError
from napari_glacier.core.wording import listed

# Strokes are asked of the journal in pages.
_PAGE = 200
# What takes a stroke away, and what brings it back.
_STEPS = {"undo": 1, "redo": -1}


class JournalUndo:
    """Takes back the newest stroke that shows in the scene on screen, and draws it again.

    napari remembers only what was painted by hand in one window; the journal remembers everything.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._session: Session | None = None
        # Strokes that took others back, those of one undo together; undoing them is the redo.
        self._undone: list[list[int]] = []
        # Of an undo that could not be recorded: the groups of what it took back, and the last stroke before it.
        self._unrecorded: tuple[frozenset[str], int] | None = None
        # Later strokes were drawn in this window: they can be undone when they are saved, too.
        self._first_of_window = 0
        workspace.session_changed.connect(self._on_session)
        workspace.painted.connect(self.forget)
        self._on_session(workspace.session)

    def undo(self) -> bool:
        """Take back the newest stroke that shows and was not undone, whole: with what was drawn in the same go.

        Returns
        -------
        bool
            False where there is none.

        Raises
        ------
        DataError
            If approved tiles keep something of it, or locked classes all.
        JournalError
            If the journal cannot be written; the stroke is taken back all the same, and that is recorded later.
        """
        session = self._all_drawn()
        # How often strokes of a group were undone and not drawn again, after the one looked at.
        taken: dict[str, int] = {}
        # Of what is saved, strokes of this window alone are taken back.
        oldest = 0 if session.journal.unsaved_tiles() else self._first_of_window
        for info in _newest_first(session.journal):
            if info.id <= oldest:
                break
            if info.discarded:
                # An undo that was dropped took nothing back.
                continue
            if info.tool in _STEPS:
                taken[info.group] = taken.get(info.group, 0) + _STEPS[info.tool]
            elif taken.get(info.group, 0) > 0:
                taken[info.group] -= 1
            elif info.unsaved or info.id > self._first_of_window:
                parts = session.drawn_at_once.get(info.id, (info.id,))
                last = session.journal.history(1)[0].id
                try:
                    undone = self._take_back(session, reversed(parts), "undo")
                except JournalError:
                    groups = frozenset(session.journal.stroke(part).group for part in parts)
                    self._unrecorded = groups, last
                    raise
                if undone:
                    self._undone.append(undone)
                    return True
        return False

    def redo(self) -> bool:
        """Draw again what was taken back last; what was in another scene waits until that is on screen again.

        Returns
        -------
        bool
            False where there is nothing.

        Raises
        ------
        DataError, JournalError
            As of `undo`.
        """
        session = self._all_drawn()
        for undone in reversed(self._undone):
            if self._take_back(session, reversed(undone), "redo"):
                self._undone.remove(undone)
                return True
        return False

    def forget(self) -> None:
        """Nothing is to be drawn again: something was drawn since, or strokes were dropped."""
        self._undone.clear()
        self._unrecorded = None

    def close(self) -> None:
        """Disconnect from the workspace."""
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)
        self.workspace.painted.disconnect(self.forget, missing_ok=True)
        self._leave()

    def _leave(self) -> None:
        if self._session is not None:
            self._session.reloaded.disconnect(self.forget, missing_ok=True)
        self._session = None

    def _on_session(self, session: Session | None) -> None:
        if session is not self._session:
            self.forget()
            self._leave()
        self._session = session
        if session is not None:
            session.reloaded.connect(self.forget)
            self._first_of_window = max((info.id for info in session.journal.history(1)), default=0)

    def _all_drawn(self) -> Session:
        """The open dataset, with what is being drawn in the journal."""
        session = self.workspace.session
        assert session is not None
        session.mask.commit()
        if self._unrecorded is not None:
            (groups, last), self._unrecorded = self._unrecorded, None
            late = takewhile(lambda info: info.id > last, _newest_first(session.journal))
            self._undone.append([info.id for info in late if info.tool == "undo" and info.group in groups][::-1])
        return session

    def _take_back(self, session: Session, stroke_ids: Iterator[int], step: str) -> list[int]:
        """Take strokes back; the ids of the new ones, none where nothing of them shows in the scene on screen.

        `DataError` where something that shows is approved, or all of it is of locked classes: to take an older stroke
        back in the place of these would surprise. `JournalError` where it could not be recorded.
        """
        held, refused = list[str](), list[slice]()

        def note(rows: slice, cols: slice) -> None:
            refused.append(rows)

        strokes = [session.journal.stroke(stroke_id) for stroke_id in stroke_ids]
        if session.stacked and not any(self._shows(session, stroke) for stroke in strokes):
            return []
        self._refuse_half(session, strokes, step)
        session.mask.locked_out.append(held.extend)
        session.mask.refused.append(note)
        try:
            made, unrecorded = list[int | None](), None
            for stroke in strokes:
                try:
                    made.append(self.workspace.take_back(stroke, step))
                except JournalError as error:
                    # The mask shows it all the same; the rest of what was drawn in one go is not left behind.
                    unrecorded = error
            if unrecorded is not None:
                raise unrecorded
        finally:
            session.mask.locked_out.remove(held.extend)
            session.mask.refused.remove(note)
        new = [stroke_id for stroke_id in made if stroke_id is not None]
        why = approved_sentence(tuple(held)) if held else _locked_sentence(session, strokes) if refused else ""
        if why and not new:
            raise DataError(f"{_not_taken_back(step)} {why}")
        return new

    def _refuse_half(self, session: Session, strokes: Sequence[Stroke], step: str) -> None:
        """Raise `DataError` where approved tiles would keep a part: once they are free, nobody would know of it."""
        kept = [
            patch.tile_id
            for stroke in strokes
            for patch in stroke.patches
            if patch.tile_id in session.mask.locked_tiles and session.mask.shows(patch)
        ]
        if kept:
            raise DataError(f"{_not_taken_back(step)} {approved_sentence(sorted(set(kept)))}")

    def _shows(self, session: Session, stroke: Stroke) -> bool:
        """Whether something of a stroke lies in the scene of a stack that is on screen."""
        here = {place.tile.id for place in session.scenes[self.workspace.plane].placements}
        return any(patch.tile_id in here for patch in stroke.patches)


def _not_taken_back(step: str) -> str:
    return f"The last stroke was not {'undone' if step == 'undo' else 'drawn again'}."


def _newest_first(journal: Journal) -> Iterator[StrokeInfo]:
    """All strokes of a journal, as far as one asks."""
    page = journal.history(_PAGE)
    while page:
        yield from page
        page = journal.history(_PAGE, older_than=page[-1].id)


def _locked_sentence(session: Session, strokes: Sequence[Stroke]) -> str:
    """Which locked classes keep strokes; empty where none does."""
    drawn = {
        int(index)
        for stroke in strokes
        for patch in stroke.patches
        for index in np.unique(patch.after_HW[patch.edited])
    }
    names = [session.scheme.class_names[index] for index in sorted(drawn & session.locked_classes)]
    return f"Its pixels are of a locked class. Unlock {listed(names)} first." if names else ""
