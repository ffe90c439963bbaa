"""A small map of which tiles a run will learn from and which will judge it."""

from collections.abc import Callable, Iterator
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_glacier.controllers.footprints import Footprints, footprints
from napari_glacier.controllers.split_map import PART_COLORS, PlannedSplit
from napari_glacier.core.errors import GlacierError
from napari_glacier.views.background import Background
from napari_glacier.views.base import hint
from napari_glacier.views.footprint_map import FootprintMap

# Whoever types an answer into the form changes it letter by letter.
_PATIENCE_MS = 250
_HEIGHT_PX = 104

Split = Iterator[PlannedSplit | None]


class SplitPanel(QWidget):
    """The tiles of the dataset to train on, coloured by what becomes of them.

    Parameters
    ----------
    plan : callable
        Gives the steps that find it out (`plan_split`), or None where nothing is chosen yet; may raise `GlacierError`.
    """

    clicked = QtSignal(str)
    found = QtSignal(object)

    def __init__(self, plan: Callable[[], Split | None]) -> None:
        super().__init__()
        self._plan = plan
        self._task: Background | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PATIENCE_MS)
        self._timer.timeout.connect(self.look)
        self.map = FootprintMap(PART_COLORS, "left out", _HEIGHT_PX)
        self.map.clicked.connect(self.clicked)
        self._said = hint("")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.map)
        layout.addWidget(self._said)
        self.setVisible(False)

    @property
    def text(self) -> str:
        """What is said below the map."""
        return self._said.text()

    @property
    def busy(self) -> bool:
        """Whether it is being found out, or about to be."""
        return self._timer.isActive() or (self._task is not None and not self._task.cancelled)

    def later(self) -> None:
        """Look again once the form has come to rest."""
        self._timer.start()

    def look(self) -> None:
        """Look again now; nothing is read on the GUI thread."""
        self.stop()
        try:
            steps = self._plan()
        except GlacierError as error:
            self._fail(error)
            return
        if steps is None:
            self.setVisible(False)
            return
        self._task = Background(self, _found(steps), _ignore, self._show, self._fail)

    def stop(self) -> None:
        """Give up what is under way."""
        self._timer.stop()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _show(self, found: tuple[PlannedSplit, Footprints]) -> None:
        self._task = None
        split, prints = found
        self.map.show_prints(prints)
        self.map.show_states(split.part_of, frozenset(split.part_of))
        self.map.setVisible(True)
        parts = [(part, color, len(split.of(part))) for part, color in PART_COLORS.items()]
        shown = [
            f'<span style="color:{color}">■</span> {number} {part if number == 1 else part.removesuffix("s")}'
            for part, color, number in parts
            if number
        ]
        self._said.setText("&nbsp; ".join(shown) + (f"<br>{prints.note}" if prints.note else ""))
        self.setVisible(True)
        self.found.emit(split)

    def _fail(self, error: BaseException) -> None:
        self._task = None
        if not isinstance(error, GlacierError | OSError):
            raise error
        # Starting would say the same; here it is said before.
        self.map.setVisible(False)
        self._said.setText(str(error))
        self.setVisible(True)
        self.found.emit(None)


def _found(steps: Split) -> Any:
    found = None
    for step in steps:
        found = step
        yield
    assert found is not None
    return found, footprints(found.tiles)


def _ignore(_: Any) -> None:
    """Steps are there to be stopped between."""
