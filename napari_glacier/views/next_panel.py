"""The part of the Correct widget that leads from one uncertain region to the next."""

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.session import counted
from napari_glacier.views.tool_panel import shown_key

_BUTTONS = (
    ("next", "Next", "Fly to the uncertain region with most area at stake"),
    ("accept region", "Accept", "Take the prediction over in this region, and go on"),
    ("fixed", "Right", "The labels of this region are right as they are now; go on"),
    ("skip", "Later", "Put this region last, and go on"),
)


class NextPanel(QWidget):
    """What is at stake, and what to do with the region on screen.

    Parameters
    ----------
    controller : CorrectionController
    attempt : callable
        Runs what a person asked for and tells of what goes wrong.
    """

    def __init__(self, controller: CorrectionController, attempt: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__()
        self._attention = controller.attention
        self._pointer = controller.pointer
        self._worker: Any = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self._said = QLabel()
        self._said.setWordWrap(True)
        layout.addWidget(self._said)
        row = QHBoxLayout()
        row.setSpacing(2)
        acts = {
            "next": self._attention.next,
            "accept region": self._attention.accept,
            "fixed": self._attention.fixed,
            "skip": self._attention.skip,
        }
        self._buttons: dict[str, QPushButton] = {}
        for name, title, tip in _BUTTONS:
            button = QPushButton(title)
            button.setToolTip(tip)
            button.setMinimumWidth(1)
            button.clicked.connect(lambda _=False, name=name: attempt(acts[name]))
            self._buttons[name] = button
            row.addWidget(button)
        layout.addLayout(row)

    def refresh(self) -> None:
        """Show what is left, and which region is on screen."""
        attention = self._attention
        for name, title, _ in _BUTTONS:
            self._buttons[name].setText(f"{title} {shown_key(self._pointer.keys[name])}")
            self._buttons[name].setEnabled(attention.available and (name == "next" or attention.current is not None))
        if not attention.available:
            self._said.setText("Predict first: uncertain regions are then listed here, most at stake first.")
            return
        if attention.stale:
            self._said.setText("Looking for uncertain regions…")
            return
        regions = attention.regions()
        if not regions:
            self._said.setText("Nothing uncertain is left in this scene.")
            return
        total = sum(region.stake_km2 for region in regions)
        text = f"{counted(len(regions), 'region')} left, {self._amount(total)} at stake."
        if attention.current is not None:
            here = attention.current
            text += f" This one: {self._amount(here.stake_km2)}, {here.uncertainty:.0%} uncertain."
        self._said.setText(text)

    def look(self) -> None:
        """Have the queue built in a thread where it is out of date."""
        from superqt.utils import create_worker

        if self._worker is not None or not self._attention.stale or not self._attention.available:
            return
        build = self._attention.plan()
        if build is None:
            return
        self._worker = create_worker(build, _ignore_errors=True)
        self._worker.returned.connect(self._on_built)
        self._worker.errored.connect(self._on_failed)
        self._worker.start()

    def close_worker(self) -> None:
        """Stop listening to a queue that is being built."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.returned.disconnect(self._on_built)
            worker.errored.disconnect(self._on_failed)

    def _on_built(self, queue: Any) -> None:
        self._worker = None
        self._attention.install(queue)

    def _on_failed(self, error: BaseException) -> None:
        # Tried again when the prediction changes; a journal that was closed meanwhile is the usual cause.
        self._worker = None
        self._said.setText(f"⚠ {error}")

    def _amount(self, stake: float) -> str:
        if not self._attention.in_km2:
            return f"{stake:,.0f} px"
        return f"{stake:.2f} km²" if stake < 100 else f"{stake:,.0f} km²"
