"""What the parts of the Correct widget share: how they act, how they tell of it, and a tight layout."""

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget


class DeskPanel(QWidget):
    """A part of a widget that acts through it.

    Parameters
    ----------
    attempt : callable
        Runs what a person asked for and tells of what goes wrong.
    tell : callable, optional
        Gets a sentence on what was done.
    """

    def __init__(
        self, attempt: Callable[[Callable[[], Any]], Any], tell: Callable[[str], None] = lambda _: None
    ) -> None:
        super().__init__()
        self._attempt = attempt
        self._tell = tell
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(4)

    def _add_row(self) -> QHBoxLayout:
        """A row of the panel, of controls that lie close to each other."""
        row = QHBoxLayout()
        row.setSpacing(2)
        self._column.addLayout(row)
        return row
