"""The part of the Train widget in which two models meet on the same tiles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_glacier.controllers.comparison import ComparisonController, Contest, Line
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.core.errors import GlacierError
from napari_glacier.views.background import Background
from napari_glacier.views.base import hint
from napari_glacier.views.pieces import Legend, ShrinkingBox, clear_layout

_SETS = (("all_pixels", "All pixels"), ("valid_pixels", "Valid pixels"))
_SCORES = (("iou", "IoU"), ("f1", "F1"))
# Wide enough for "background".
_NAME_PX = 84
_SIGNS = {1: "▲", -1: "▼", 0: ""}


class ComparePanel(QWidget):
    """Choose two models, compare them, see where they differ.

    Parameters
    ----------
    controller : ComparisonController
    device : callable () -> str
        Where the models run.

    Attributes
    ----------
    failed : signal (BaseException)
    told : signal (str)
        What a promotion or a rollback has done.
    """

    failed = QtSignal(object)
    told = QtSignal(str)

    def __init__(self, controller: ComparisonController, device: Callable[[], str]) -> None:
        super().__init__()
        self.controller = controller
        self._device = device
        self._task: Background | None = None
        self._contest: Contest | None = None
        self._usual: Path | None = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(self._make_choices())
        layout.addLayout(self._make_running())
        self._result = QWidget()
        self._fill_result(QVBoxLayout(self._result))
        layout.addWidget(self._result)
        row = QHBoxLayout()
        self._standing = hint("")
        self._back_button = QPushButton("Roll back")
        self._back_button.setToolTip("Go back to the champion before; nothing is deleted")
        self._back_button.clicked.connect(self._roll_back)
        row.addWidget(self._standing, 1)
        row.addWidget(self._back_button, 0, Qt.AlignmentFlag.AlignTop)
        layout.addLayout(row)
        self.fill_models()
        self.refresh()

    def _make_choices(self) -> QFormLayout:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._champion, self._challenger = ShrinkingBox(12), ShrinkingBox(12)
        form.addRow("Champion", self._champion)
        form.addRow("Challenger", self._challenger)
        return form

    def _make_running(self) -> QVBoxLayout:
        layout = QVBoxLayout()
        row = QHBoxLayout()
        self._compare_button = QPushButton("Compare")
        self._compare_button.setToolTip("Both predict the labelled tiles that neither has learnt from")
        self._compare_button.clicked.connect(self.compare)
        self._cancel_button = QPushButton("Cancel")
        self._cancel_button.clicked.connect(self.cancel)
        row.addWidget(self._compare_button, 2)
        row.addWidget(self._cancel_button, 1)
        layout.addLayout(row)
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setFixedHeight(6)
        layout.addWidget(self._bar)
        self._doing = hint("")
        self._doing.setVisible(False)
        layout.addWidget(self._doing)
        return layout

    def _fill_result(self, layout: QVBoxLayout) -> None:
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        row = QHBoxLayout()
        self._set, self._score = QComboBox(), QComboBox()
        for box, options in ((self._set, _SETS), (self._score, _SCORES)):
            for key, title in options:
                box.addItem(title, key)
            box.currentIndexChanged.connect(self._show_table)
            row.addWidget(box, 1)
        layout.addLayout(row)
        self._table = QGridLayout()
        self._table.setHorizontalSpacing(4)
        self._table.setVerticalSpacing(2)
        self._table.setColumnStretch(0, 1)
        self._table.setColumnMinimumWidth(0, _NAME_PX)
        layout.addLayout(self._table)
        self._cautions = hint("")
        layout.addWidget(self._cautions)
        self._legend = Legend()
        layout.addWidget(self._legend)
        row = QHBoxLayout()
        self._show_button = QPushButton("Show changes")
        self._show_button.setToolTip("Lay the changed pixels over the scene on screen as a layer")
        self._show_button.clicked.connect(self._show_changes)
        self._promote_button = QPushButton("Promote…")
        self._promote_button.setToolTip("Make the challenger the model that this dataset works with")
        self._promote_button.clicked.connect(self._ask_and_promote)
        row.addWidget(self._show_button, 1)
        row.addWidget(self._promote_button, 1)
        layout.addLayout(row)

    @property
    def running(self) -> bool:
        """Whether the models are at work."""
        return self._task is not None

    def choose(self, *, champion: Any = None, challenger: Any = None) -> None:
        """Choose models by their sources (None leaves a choice as it is; `""` is the bundled ensemble)."""
        for box, source in ((self._champion, champion), (self._challenger, challenger)):
            for number in range(box.count() if source is not None else 0):
                if box.itemData(number).source == (source or None):
                    box.setCurrentIndex(number)

    def fill_models(self) -> None:
        """Offer the models that there are now; keeps what was chosen where it is still there."""
        choices = self.controller.choices()
        for box, usual in ((self._champion, 0), (self._challenger, 1)):
            chosen: ModelChoice | None = box.currentData()
            box.clear()
            for choice in choices:
                box.addItem(choice.title, choice)
                box.setItemData(box.count() - 1, str(choice.source or choice.note), Qt.ItemDataRole.ToolTipRole)
            box.setCurrentIndex(min(usual, box.count() - 1))
            if chosen is not None:
                self.choose(**{"champion" if box is self._champion else "challenger": chosen.source or ""})
        now = self.controller.champion
        if now is not None and now.path != self._usual:
            self._usual = now.path
            self.choose(champion=now.path or "")

    def compare(self) -> None:
        """Start the comparison in a thread of its own."""
        champion, challenger = self._champion.currentData(), self._challenger.currentData()
        if champion is None or challenger is None:
            self._say("There is no model to compare. Train one first.")
            return
        try:
            contest = self.controller.prepare(champion, challenger, self._device())
        except GlacierError as error:
            self.failed.emit(error)
            return
        self._contest = contest
        self._task = Background(self, self.controller.job(contest), self._on_step, self._on_return, self._on_error)
        self._say("Loading the models…")
        self.refresh()

    def cancel(self) -> None:
        """End the comparison; what was found before stays."""
        if self._task is not None:
            self.stop()
            self._say("Cancelled.")
            self.refresh()

    def promote(self) -> None:
        """Make the challenger the champion; the person has been asked."""
        job = self.controller.promote_job()
        self._task = Background(self, job, lambda _: None, self._on_promoted, self._on_error)
        self._say("Keeping the model…")
        self.refresh()

    def _ask_and_promote(self) -> None:
        contest = self.controller.contest
        if contest is None:
            return
        worse = bool(self.controller.match is not None and self.controller.match.comparison.regressions)
        box = QMessageBox(self)
        box.setIcon(QMessageBox.Icon.Warning if worse else QMessageBox.Icon.Question)
        box.setWindowTitle("Promote")
        box.setText(f"Let {contest.challenger.title} be the model that this dataset works with?")
        box.setInformativeText(self.controller.promotion_text())
        yes = box.addButton("Promote anyway" if worse else "Promote", QMessageBox.ButtonRole.AcceptRole)
        no = box.addButton(QMessageBox.StandardButton.Cancel)
        box.setDefaultButton(no if worse else yes)
        box.exec()
        if box.clickedButton() is yes:
            self.promote()

    def _on_promoted(self, entry: Any) -> None:
        self._task = None
        self._say("")
        self.told.emit(self.controller.promoted(entry))
        self.refresh()

    def _roll_back(self) -> None:
        try:
            self.told.emit(self.controller.roll_back())
        except GlacierError as error:
            self.failed.emit(error)

    def stop(self) -> None:
        """Let go of the thread, without a word."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._say("")

    def refresh(self) -> None:
        """Show the state of the job and the last result."""
        self._compare_button.setEnabled(not self.running)
        self._cancel_button.setVisible(self.running)
        self._bar.setVisible(self.running)
        self._result.setVisible(self.controller.match is not None)
        self._promote_button.setEnabled(self.controller.can_promote and not self.running)
        self._standing.setText(self.controller.champion_text)
        self._back_button.setVisible(self.controller.can_roll_back)
        self._back_button.setEnabled(not self.running)
        if self.controller.match is not None:
            self._show_table()
            self._legend.show_rows(self.controller.legend())
            self._cautions.setText("<br>".join([self.controller.tiles_text(), *self.controller.cautions()]))

    def _on_step(self, progress: Any) -> None:
        self._bar.setMaximum(0 if progress.preparing and not progress.done else progress.total)
        self._bar.setValue(progress.done)
        self._doing.setText(progress.message)

    def _on_return(self, match: Any) -> None:
        self._task = None
        assert self._contest is not None
        self._say("")
        self.controller.take(self._contest, match)
        self.refresh()

    def _on_error(self, error: BaseException) -> None:
        self._task = None
        self._say("")
        self.refresh()
        self.failed.emit(error)

    def _say(self, text: str) -> None:
        self._doing.setText(text)
        self._doing.setVisible(bool(text))
        self._bar.setMaximum(0)

    def _show_changes(self) -> None:
        if not self.controller.show_changes():
            self._say("None of the compared tiles is in the scene on screen.")

    def _show_table(self) -> None:
        clear_layout(self._table)
        for column, title in enumerate(("", "champion", "challenger", "change")):
            self._table.addWidget(_cell(f"<small>{title}</small>", faint=True), 0, column)
        lines = self.controller.lines(self._set.currentData(), self._score.currentData())
        for number, line in enumerate(lines):
            self._add_line(line, 2 * number + 1)

    def _add_line(self, line: Line, row: int) -> None:
        title = QElidingLabel(line.title)
        title.setToolTip(line.title)
        self._table.addWidget(title, row, 0)
        for column, text in enumerate((line.champion, line.challenger), start=1):
            self._table.addWidget(_cell(text), row, column)
        self._table.addWidget(_cell(f"<b>{line.difference}</b>" if line.sign else line.difference), row, 3)
        if line.interval:
            # On a line of its own: beside the difference it would not fit a laptop's dock.
            interval = f"<small>{_SIGNS[line.sign]} {line.interval}</small>"
            self._table.addWidget(_cell(interval), row + 1, 1, 1, 3)


def _cell(text: str, *, faint: bool = False) -> QLabel:
    label = QLabel(text)
    label.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    label.setEnabled(not faint)
    return label
