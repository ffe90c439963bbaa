"""The part of the Correct widget in which tiles are reviewed: state, note, and the walk from one to the next."""

from collections.abc import Callable
from datetime import datetime
from html import escape
from typing import Any

from qtpy.QtWidgets import QComboBox, QLabel, QLineEdit, QPushButton

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.review import FILTERS
from napari_glacier.core.correction.journal_schema import REVIEW_STATES
from napari_glacier.core.correction.reviews import APPROVED, ReviewEvent
from napari_glacier.views.desk_panel import DeskPanel
from napari_glacier.views.tool_panel import shown_key

_LAST_SHOWN = 3
# Colour is not the only sign of a state.
_MARKS = dict(zip(REVIEW_STATES, ("○", "◐", "●", "✔", "✘"), strict=True))


class ReviewPanel(DeskPanel):
    """State and notes of the tile in view, and the walk to others.

    Parameters
    ----------
    controller : CorrectionController
    attempt, tell : callable
        As of `DeskPanel`.
    """

    def __init__(
        self,
        controller: CorrectionController,
        attempt: Callable[[Callable[[], Any]], Any],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__(attempt, tell)
        self._review = controller.review
        self._pointer = controller.pointer
        self._shown: tuple[Any, ...] = ()
        self._make_walk()
        self._make_state()
        self._said = QLabel()
        self._said.setWordWrap(True)
        self._column.addWidget(self._said)

    def refresh(self) -> None:
        """Show the tile in the middle of the view, its state and what was said of it."""
        review = self._review
        events = review.events()
        keys = tuple(self._pointer.keys.values())
        shown = (review.tile_id, review.state, tuple(events[:_LAST_SHOWN]), review.filter, review.summary, keys)
        if shown == self._shown:
            return
        self._shown = shown
        state = review.state
        self._tile.setText(f"{_MARKS[state]} Tile {review.tile_id}" if review.tile_id else "")
        self._tile.setToolTip(review.summary)
        if not self._states.view().isVisible():
            self._states.setCurrentText(state)
        self._approve.setText("Take back" if state == APPROVED else f"Approve {self._key('approve tile')}")
        self._approve.setToolTip(
            "Let the tile be changed again"
            if state == APPROVED
            else "The labels are right: no tool changes the tile until the approval is taken back"
        )
        self._previous.setText(f"◀ {self._key('previous tile')}")
        self._next.setText(f"{self._key('next tile')} ▶")
        lines = [_line(event) for event in events[:_LAST_SHOWN]]
        self._said.setText("<br>".join(lines))
        self._said.setToolTip("<br>".join(_line(event) for event in events))
        self._said.setVisible(bool(lines))

    def _key(self, name: str) -> str:
        return shown_key(self._pointer.keys[name])

    def _make_walk(self) -> None:
        row = self._add_row()
        self._previous, self._next = QPushButton(), QPushButton()
        self._filter = QComboBox()
        self._filter.addItems(FILTERS)
        self._filter.setToolTip("Which tiles the walk visits")
        self._filter.textActivated.connect(self._review.set_filter)
        for button, act, tip in (
            (self._previous, self._review.previous, "Fly to the previous tile"),
            (self._next, self._review.next, "Fly to the next tile"),
        ):
            button.setMinimumWidth(1)
            button.setToolTip(tip)
            button.clicked.connect(lambda _=False, act=act: self._go(act))
        row.addWidget(self._previous)
        row.addWidget(self._filter, 1)
        row.addWidget(self._next)

    def _make_state(self) -> None:
        row = self._add_row()
        self._tile = QLabel()
        self._states = QComboBox()
        for state in REVIEW_STATES:
            self._states.addItem(state)
        self._states.setToolTip("The review state of this tile")
        self._states.activated.connect(lambda number: self._set(REVIEW_STATES[number]))
        row.addWidget(self._tile, 1)
        row.addWidget(self._states)
        row = self._add_row()
        self._note = QLineEdit()
        self._note.setPlaceholderText("Note; Enter keeps it")
        self._note.setToolTip("A note on this tile")
        self._note.returnPressed.connect(self._keep_note)
        self._approve = QPushButton()
        self._approve.clicked.connect(self._turn_approval)
        row.addWidget(self._note, 1)
        row.addWidget(self._approve)

    def _go(self, act: Callable[[], str]) -> None:
        self._attempt(act)
        self.refresh()

    def _set(self, state: str) -> None:
        said = self._attempt(lambda: self._review.set_state(state, self._note.text()))
        if said:
            self._note.clear()
            self._tell(said)
        # A state that could not be set is not shown, either.
        self._shown = ()
        self.refresh()

    def _turn_approval(self) -> None:
        self._set("in progress" if self._review.is_approved else APPROVED)

    def _keep_note(self) -> None:
        def keep() -> None:
            self._review.add_note(self._note.text())
            self._note.clear()

        self._attempt(keep)
        self.refresh()


def _line(event: ReviewEvent) -> str:
    when = datetime.fromisoformat(event.time).astimezone().strftime("%d %b %H:%M")
    note = f": {escape(event.note)}" if event.note else ""
    return f"{_MARKS[event.state]} {event.state} · {escape(event.author)}, {when}{note}"
