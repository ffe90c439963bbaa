"""A run as it goes: its curves, alone or under those of others, its state, its log."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QMenu,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.training import TrainingController
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.views.base import hint
from napari_glacier.views.curves import MAX_OTHERS, CurvesPlot
from napari_glacier.views.pieces import ShrinkingBox, browse_button, literal


class RunPanel(QWidget):
    """Shows the run that a controller follows.

    Parameters
    ----------
    controller : TrainingController
    viewer : napari.Viewer
    """

    predict_asked = QtSignal()
    open_asked = QtSignal(object)

    def __init__(self, controller: TrainingController, viewer: Any) -> None:
        super().__init__()
        self._controller = controller
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(self._make_choice())
        self.status = hint("")
        # Room to spare belongs to the curves.
        self.status.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        layout.addWidget(self.status)
        self._plot = CurvesPlot(viewer)
        layout.addWidget(self._plot, 2)
        layout.addLayout(self._make_foot())
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.log.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.log.setMinimumHeight(110)
        self.log.setVisible(False)
        layout.addWidget(self.log, 1)

    def _make_choice(self) -> QHBoxLayout:
        self.runs = ShrinkingBox(8)
        self.runs.setToolTip("Runs in the output folder")
        self.runs.activated.connect(self._choose_run)
        self.overlay = QToolButton()
        self.overlay.setText("Overlay")
        self.overlay.setToolTip("Lay the curves of other runs over this one's")
        # The arrow of the menu is drawn over the text's end.
        self.overlay.setStyleSheet("QToolButton { padding-right: 14px; }")
        self.overlay.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._menu = QMenu(self.overlay)
        self._menu.aboutToShow.connect(self.fill_overlay)
        self.overlay.setMenu(self._menu)
        elsewhere = browse_button("Follow a run in any folder, on a mounted disk for instance")
        elsewhere.clicked.connect(self._choose_folder)
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self.runs, 1)
        row.addWidget(self.overlay)
        row.addWidget(elsewhere)
        return row

    def _make_foot(self) -> QHBoxLayout:
        self.log_toggle = QToolButton()
        self.log_toggle.setText("Log")
        self.log_toggle.setCheckable(True)
        self.log_toggle.setAutoRaise(True)
        self.log_toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.log_toggle.setArrowType(Qt.ArrowType.RightArrow)
        self.log_toggle.toggled.connect(self.show_log)
        self.predict_button = QPushButton("Predict with this model")
        self.predict_button.clicked.connect(self.predict_asked)
        row = QHBoxLayout()
        row.addWidget(self.log_toggle)
        row.addStretch(1)
        row.addWidget(self.predict_button)
        return row

    def fill_runs(self, output: Path | None) -> bool:
        """List the runs of an output folder, and the followed one; gives whether there is any."""
        runs = self._controller.runs(output)
        followed = self._controller.run
        if followed is not None and followed.path not in [run.path for run in runs]:
            runs = [followed, *runs]
        self.runs.clear()
        for run in runs:
            self.runs.addItem(run.path.name, run)
            if followed is not None and run.path == followed.path:
                self.runs.setCurrentIndex(self.runs.count() - 1)
        self.overlay.setEnabled(len(runs) > 1)
        return bool(runs)

    @property
    def listed(self) -> list[RunFolder]:
        """The runs in the list."""
        return [self.runs.itemData(number) for number in range(self.runs.count())]

    def fill_overlay(self) -> None:
        """Offer the other runs of the list."""
        self._menu.clear()
        chosen = self._controller.others.paths
        followed = self._controller.run
        for run in self.listed:
            if followed is None or run.path != followed.path:
                action = self._menu.addAction(literal(run.path.name))
                assert action is not None
                action.setCheckable(True)
                action.setChecked(run.path in chosen)
                action.setEnabled(run.path in chosen or len(chosen) < MAX_OTHERS)
                action.toggled.connect(lambda on, run=run: self.lay_over(run, on))

    def lay_over(self, run: RunFolder, on: bool = True) -> None:
        """Lay the curves of a run over those of the followed one, or take them off."""
        others = self._controller.others
        chosen = [RunFolder(path) for path in others.paths if path != run.path]
        others.choose([*chosen, run] if on else chosen)
        others.read()
        self.draw()

    def draw(self) -> None:
        """Draw the curves in the theme's colours."""
        controller = self._controller
        self._plot.setVisible(controller.active or bool(controller.curves.epochs))
        name = controller.run.path.name if controller.run is not None else ""
        self._plot.show_curves(controller.curves, controller.others.curves(), name)

    def show_progress(self) -> None:
        """Show what is known of the run."""
        self.status.setText(self._controller.status)
        self.draw()
        self.predict_button.setEnabled(self._controller.checkpoint is not None)
        if self._controller.state == "failed" and not self.log_toggle.isChecked():
            # The log is where the reason stands.
            self.log_toggle.setChecked(True)

    def show_log(self, shown: bool) -> None:
        """Show or hide the end of the log."""
        self.log_toggle.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self.log.setVisible(shown)
        if not shown:
            return
        text = self._controller.log_tail()
        if text != self.log.toPlainText():
            self.log.setPlainText(text)
            bar = self.log.verticalScrollBar()
            bar.setValue(bar.maximum())

    def poll(self) -> None:
        """Read what is new of the run, and of those laid over it."""
        if self._controller.poll() or (self._controller.active and self.log.isVisible()):
            self.show_log(self.log_toggle.isChecked())
        if self._controller.others.read():
            self.draw()

    def _choose_run(self, number: int) -> None:
        run = self.runs.itemData(number)
        others = self._controller.others
        # The followed run is drawn as such, not twice.
        others.choose([RunFolder(path) for path in others.paths if path != run.path])
        self._controller.follow(run)

    def _choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A run folder")
        if folder:
            self.open_asked.emit(Path(folder))
