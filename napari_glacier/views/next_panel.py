"""The part of the Correct widget that leads from one region to the next: uncertain ones, or a second opinion's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.disagreement import EVERYBODY
from napari_glacier.controllers.region_walk import RegionWalk
from napari_glacier.core.wording import counted
from napari_glacier.views.desk_panel import DeskPanel
from napari_glacier.views.pieces import ShrinkingBox
from napari_glacier.views.settings import keep, kept
from napari_glacier.views.tool_panel import shown_key

_UNCERTAIN = (
    ("next", "Next", "Fly to the uncertain region with most area at stake"),
    ("accept region", "Accept", "Take the prediction over in this region, and go on"),
    ("fixed", "Right", "The labels of this region are right as they are now; go on"),
    ("skip", "Later", "Put this region last, and go on"),
)
_OTHERS = (
    ("next", "Next", "Fly to the largest region on which the two differ"),
    ("accept region", "Theirs", "Give this region their class, and go on"),
    ("fixed", "Labels", "Keep the labels here: this class is not offered again; go on"),
    ("skip", "Later", "Put this region last, and go on"),
)
_FOLDER = "Second opinion: a folder…"
_KEPT = "correct/second_opinion"


class NextPanel(DeskPanel):
    """Which regions to walk through, what is at stake, and what to do with the region on screen.

    Parameters
    ----------
    controller : CorrectionController
    attempt : callable
        As of `DeskPanel`.
    """

    def __init__(self, controller: CorrectionController, attempt: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__(attempt)
        self._controller = controller
        self._disagreement = controller.disagreement
        self._pointer = controller.pointer
        self._worker: Any = None
        self._walked: RegionWalk = controller.walk
        self._offered: tuple[str, ...] = ()
        self._source = ShrinkingBox(8)
        self._source.setToolTip("Which regions to walk through")
        self._source.activated.connect(self._choose)
        self._column.addWidget(self._source)
        self._said = QLabel()
        self._said.setWordWrap(True)
        self._column.addWidget(self._said)
        row = self._add_row()
        self._buttons: dict[str, QPushButton] = {}
        for name, _, _ in _UNCERTAIN:
            button = QPushButton()
            button.setMinimumWidth(1)
            button.clicked.connect(lambda _=False, name=name: attempt(partial(controller.go, name)))
            self._buttons[name] = button
            row.addWidget(button)

    def refresh(self) -> None:
        """Show what is left, and which region is on screen."""
        walk = self._controller.walk
        self._offer_sources()
        self._disagreement.draw()
        compares, available = walk is self._disagreement, walk.available
        for name, title, tip in _OTHERS if compares else _UNCERTAIN:
            self._buttons[name].setText(f"{title} {shown_key(self._pointer.keys[name])}".rstrip())
            self._buttons[name].setToolTip(tip)
            self._buttons[name].setEnabled(available and (name == "next" or walk.current is not None))
        if not available:
            self._said.setText(
                "Predict first, or show an earlier prediction: uncertain regions are then listed here, most at stake "
                "first."
            )
            return
        if walk.stale:
            self._said.setText("Looking for differences…" if compares else "Looking for uncertain regions…")
            return
        regions = walk.regions()
        if not regions:
            self._said.setText(walk.nothing_left)
            return
        total = sum(region.stake_km2 for region in regions)
        what = f"differ, {self._amount(total)} in all" if compares else f"left, {self._amount(total)} at stake"
        text = f"{counted(len(regions), 'region')} {what}."
        if walk.current is not None:
            text += f" This one: {self._amount(walk.current.stake_km2)}, {walk.here}."
        self._said.setText(text)

    def ask_folder(self) -> None:
        """Choose the folder of a second reviewer."""
        folder = QFileDialog.getExistingDirectory(self, "A second reviewer's masks or corrections", kept(_KEPT, ""))
        if folder:
            keep(_KEPT, folder)
            self._attempt(lambda: self._disagreement.choose_folder(Path(folder)))
        self.refresh()

    def _offer_sources(self) -> None:
        chosen = self._disagreement.source_name
        authors = self._disagreement.authors
        names = [_title(name) for name in authors]
        if chosen and chosen not in authors:
            names.append(_title(chosen))
        offered = ("Uncertain regions", *names, _FOLDER)
        if offered != self._offered:
            self._offered = offered
            self._source.clear()
            self._source.addItems(offered)
        self._source.setCurrentText(_title(chosen) if chosen else offered[0])

    def _choose(self, number: int) -> None:
        text = self._source.itemText(number)
        authors = {_title(name): name for name in self._disagreement.authors}
        if number == 0:
            self._disagreement.stop()
        elif text == _FOLDER:
            self.ask_folder()
        elif text in authors:
            self._attempt(lambda: self._disagreement.choose_author(authors[text]))
        self.refresh()

    def look(self) -> None:
        """Have the queue built in a thread where it is out of date."""
        from superqt.utils import create_worker

        walk = self._controller.walk
        if self._worker is not None or not walk.stale or not walk.available:
            return
        build = walk.plan()
        if build is None:
            return
        self._walked = walk
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
        self._walked.install(queue)

    def _on_failed(self, error: BaseException) -> None:
        # Tried again when the prediction changes; a journal that was closed meanwhile is the usual cause.
        self._worker = None
        self._said.setText(f"⚠ {error}")

    def _amount(self, stake: float) -> str:
        if not self._controller.walk.in_km2:
            return f"{stake:,.0f} px"
        return f"{stake:.2f} km²" if stake < 100 else f"{stake:,.0f} km²"


def _title(name: str) -> str:
    return f"Second opinion: {'any author' if name == EVERYBODY else name}"
