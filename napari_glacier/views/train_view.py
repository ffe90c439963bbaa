"""The Train widget: start a run, follow it, stop it, hand its model to Predict."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QFormLayout,
    QHBoxLayout,
    QMessageBox,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
)

from napari_glacier.controllers.comparison import ComparisonController
from napari_glacier.controllers.correction import summarise
from napari_glacier.controllers.shelf import ShelfController
from napari_glacier.controllers.training import Plan, TrainingController
from napari_glacier.controllers.training_plans import (
    TilesThatCount,
    commands,
    estimate,
    tiles_that_count,
)
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.views.base import GlacierView, group, hint
from napari_glacier.views.commands_dialog import CommandsDialog
from napari_glacier.views.compare_panel import ComparePanel
from napari_glacier.views.curves import CurvesPlot
from napari_glacier.views.settings import kept, settings
from napari_glacier.views.shelf_dialog import ShelfDialog
from napari_glacier.views.train_pieces import DeviceBox, folder_field

_POLL_MS = 500
_LOOK_MS = 3000
_TILES: tuple[tuple[TilesThatCount, str], ...] = (
    ("all", "All with a mask"),
    ("edited", "Edited or approved"),
    ("approved", "Approved"),
)


class TrainView(GlacierView):
    """Train a model on a dataset in a process of its own.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.controller = TrainingController(self.workspace)
        self._shown_state = ""
        self._shelf: ShelfDialog | None = None

        self._empty = self.empty_state("<b>No dataset is open.</b><br>Open one with masks, or choose its folder below.")
        self.body.addWidget(self._empty)
        self.body.addWidget(group("New run", self._make_form()))
        self.body.addLayout(self._make_estimate())
        self.body.addLayout(self._make_buttons())
        self._run_box = group("Run", self._make_progress())
        self.body.addWidget(self._run_box, 1)
        self.compare_panel = ComparePanel(ComparisonController(self.workspace), lambda: self.device)
        self.compare_panel.failed.connect(self.fail)
        self.compare_panel.told.connect(self.tell)
        compare = QVBoxLayout()
        compare.addWidget(self.compare_panel)
        models = QPushButton("Models…")
        models.setToolTip("All models with their cards: make ensembles, import weights, export a bundle")
        models.clicked.connect(self.show_models)
        compare.addWidget(models)
        self._compare_box = group("Champion and challenger", compare)
        self.body.addWidget(self._compare_box)
        self.body.addStretch(0)

        self.listen(self.workspace.session_changed, self._on_session)
        self.listen(self.controller.followed, self._on_followed)
        self.listen(self.controller.progressed, self._show_progress)
        napari_viewer.events.theme.connect(self._on_theme)
        self.on_close(lambda: napari_viewer.events.theme.disconnect(self._on_theme))
        self.on_close(self.controller.close)
        self.listen(self.compare_panel.controller.changed, self.compare_panel.refresh)
        self.listen(self.workspace.models_changed, self._on_models)
        self.on_close(self.compare_panel.controller.close)
        self.on_close(self.compare_panel.stop)
        self.on_close(self._close_models)
        self.every(_POLL_MS, self._poll)
        self.every(_LOOK_MS, self._look_for_runs)
        self.on_close(self._device.stop)
        self._fill_starts()
        self._restore()
        self._on_session(self.workspace.session)
        self._show_progress()

    def _make_form(self) -> QFormLayout:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._recipe = QComboBox()
        self._recipe.addItems(self.controller.recipes())
        self._recipe.currentTextChanged.connect(self._on_recipe)
        form.addRow("Recipe", self._recipe)
        self._recipe_note = hint("")
        form.addRow(self._recipe_note)
        self._data, data_row = folder_field(self, "Folder of tiles with masks")
        form.addRow("Data", data_row)
        self._output, output_row = folder_field(self, "Where the run folder goes")
        form.addRow("Output", output_row)
        self._tiles = QComboBox()
        for key, title in _TILES:
            self._tiles.addItem(title, key)
        self._tiles.setToolTip("Which labelled tiles of the open dataset count, by their review states")
        self._tiles.currentIndexChanged.connect(self._show_estimate)
        form.addRow("Tiles", self._tiles)
        self._output.editingFinished.connect(self._on_output)
        self._data.textChanged.connect(self._show_estimate)
        self._epochs = QSpinBox()
        self._epochs.setRange(1, 100_000)
        self._epochs.valueChanged.connect(self._show_estimate)
        form.addRow("Epochs", self._epochs)
        self._start_from = QComboBox()
        self._start_from.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._start_from.setToolTip("Fresh weights, or those of a model that is there already")
        form.addRow("Start from", self._start_from)
        self._device = DeviceBox()
        form.addRow("Device", self._device)
        return form

    def _make_estimate(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self._estimate = hint("")
        commands = QPushButton("Commands…")
        commands.setToolTip("The same run for a terminal, several GPUs, or a cluster, to be copied")
        commands.clicked.connect(self.show_commands)
        row.addWidget(self._estimate, 1)
        row.addWidget(commands, 0, Qt.AlignmentFlag.AlignTop)
        return row

    def _make_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self._start_button = QPushButton("Start training")
        self._start_button.setToolTip("Training runs in a process of its own; it goes on when napari is closed")
        self._start_button.clicked.connect(self._ask_and_start)
        self._stop_button = QPushButton("Stop")
        self._stop_button.setToolTip("Finish the step, write a checkpoint, end")
        self._stop_button.clicked.connect(self.controller.stop)
        self._resume_button = QPushButton("Resume")
        self._resume_button.setToolTip("Go on with the run below after its last finished epoch")
        self._resume_button.clicked.connect(lambda: self.attempt(self.controller.resume))
        row.addWidget(self._start_button, 2)
        row.addWidget(self._resume_button, 1)
        row.addWidget(self._stop_button, 1)
        return row

    def _make_progress(self) -> QVBoxLayout:
        layout = QVBoxLayout()
        self._runs = QComboBox()
        self._runs.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._runs.setToolTip("Runs in the output folder")
        self._runs.activated.connect(self._choose_run)
        layout.addWidget(self._runs)
        self._status = hint("")
        # Room to spare belongs to the curves.
        self._status.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        layout.addWidget(self._status)
        self._plot = CurvesPlot(self.workspace.viewer)
        layout.addWidget(self._plot, 2)
        self._log_toggle = QToolButton()
        self._log_toggle.setText("Log")
        self._log_toggle.setCheckable(True)
        self._log_toggle.setAutoRaise(True)
        self._log_toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._log_toggle.setArrowType(Qt.ArrowType.RightArrow)
        self._log_toggle.toggled.connect(self._show_log)
        self._predict_button = QPushButton("Predict with this model")
        self._predict_button.clicked.connect(self._predict)
        row = QHBoxLayout()
        row.addWidget(self._log_toggle)
        row.addStretch(1)
        row.addWidget(self._predict_button)
        layout.addLayout(row)
        self._log = QPlainTextEdit()
        self._log.setReadOnly(True)
        self._log.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self._log.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self._log.setMinimumHeight(110)
        self._log.setVisible(False)
        layout.addWidget(self._log, 1)
        return layout

    # -- what a person does

    def plan(self) -> Plan:
        """What the form says."""
        source = self._start_from.currentData()
        return Plan(
            recipe=self._recipe.currentText(),
            data=Path(self._data.text()).expanduser(),
            output=Path(self._output.text()).expanduser(),
            epochs=self._epochs.value(),
            init_from=str(source) if source is not None else None,
            device=self.device,
            tiles=tiles_that_count(self._session_of_data, self._tiles.currentData()),
        )

    @property
    def _session_of_data(self) -> Any:
        """The open dataset, where it is the one to train on: its journal knows the review states."""
        session = self.workspace.session
        data = Path(self._data.text()).expanduser()
        return session if session is not None and data.is_relative_to(session.root) else None

    def fill(self, *, recipe: str | None = None, epochs: int | None = None, device: str | None = None) -> None:
        """Set choices of the form."""
        if recipe is not None:
            self._recipe.setCurrentText(recipe)
        if epochs is not None:
            self._epochs.setValue(epochs)
        if device is not None:
            self._device.setCurrentText(device)

    def start(self) -> RunFolder | None:
        """Start the run that the form describes."""
        self.tell("")
        run: RunFolder | None = self.attempt(lambda: self.controller.start(self.plan()))
        if run is not None:
            settings().setValue("train/recipe", self._recipe.currentText())
            settings().setValue("train/device", self._device.currentText())
            self._fill_runs()
        return run

    def _ask_and_start(self) -> None:
        waiting = self.controller.unsaved
        session = self.workspace.session
        if waiting and session is not None and Path(self._data.text()) == session.root:
            tiles = "1 tile has" if waiting == 1 else f"{waiting} tiles have"
            answer = QMessageBox.question(
                self,
                "Save corrections first?",
                f"{tiles} corrections that are not in the mask files yet, and training reads the files.\n\n"
                "Save them first?",
                QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No | QMessageBox.StandardButton.Cancel,
                QMessageBox.StandardButton.Yes,
            )
            if answer == QMessageBox.StandardButton.Cancel:
                return
            if answer == QMessageBox.StandardButton.Yes and self.attempt(lambda: summarise(session.save())) is None:
                return
        self.start()

    def _predict(self) -> None:
        checkpoint = self.controller.checkpoint
        if checkpoint is None:
            return
        self.show_widget("Predict").use_model(checkpoint)

    def show_commands(self) -> QDialog | None:
        """Show the commands that do what the form says elsewhere."""
        plan = self.attempt(self.plan)
        if plan is None:
            return None
        self.tell("")
        dialog = CommandsDialog(commands(plan), self)
        dialog.show()
        return dialog

    def show_models(self) -> ShelfDialog:
        """Open the model shelf."""
        if self._shelf is None:
            self._shelf = ShelfDialog(ShelfController(self.workspace), lambda: self.device, self)
        self._shelf.fill()
        self._shelf.show()
        self._shelf.raise_()
        return self._shelf

    def _close_models(self) -> None:
        if self._shelf is not None:
            self._shelf.close()

    @property
    def device(self) -> str:
        """Where models run, as the form says."""
        return self._device.currentText().strip() or "auto"

    def _choose_run(self, number: int) -> None:
        self.controller.follow(self._runs.itemData(number))

    # -- showing

    def _poll(self) -> None:
        if self.controller.poll() or (self.controller.active and self._log.isVisible()):
            self._show_log(self._log_toggle.isChecked())

    def _look_for_runs(self) -> None:
        """A run that was begun in a terminal appears, too."""
        output = Path(self._output.text()).expanduser() if self._output.text() else None
        shown = [self._runs.itemData(k).path for k in range(self._runs.count())]
        if self.controller.look_for_runs(output, shown):
            self._fill_runs()
            self._show_estimate()
        elif bool(self._lacking) == self._start_button.isEnabled():
            # A first save gave the dataset masks to learn from.
            self._show_estimate()

    def _show_estimate(self) -> None:
        output = Path(self._output.text()).expanduser() if self._output.text() else None
        plan = Plan(self._recipe.currentText(), Path(), Path(), epochs=self._epochs.value())
        lacking = self._lacking
        self._estimate.setText(lacking or estimate(plan, self.controller.runs(output)))
        self._start_button.setEnabled(not lacking and not self.controller.active)

    @property
    def _lacking(self) -> str:
        """What there must be before training can start; empty where all is there."""
        if not self._data.text().strip() or not self._output.text().strip():
            return "Choose a dataset with masks and an output folder first."
        session = self._session_of_data
        if session is None or session.unsaved():
            # What was drawn is saved on starting, if the person likes.
            return ""
        if all(tile.mask_path is None for tile in session.dataset.tiles):
            return (
                "No tile of this dataset has a mask to learn from. <i>Predict</i>, take the prediction over, fix it in "
                "<i>Correct</i> and <b>Save</b>."
            )
        return ""

    def _on_session(self, session: Any) -> None:
        if session is not None:
            self._data.setText(str(self.controller.default_data))
            self._output.setText(str(self.controller.default_output))
        self._fill_starts()
        self.compare_panel.stop()
        self.compare_panel.fill_models()
        self.compare_panel.refresh()
        self._compare_box.setVisible(session is not None)
        self._empty.setVisible(session is None)
        self._on_output()

    def _on_output(self) -> None:
        output = Path(self._output.text()).expanduser() if self._output.text() else None
        if not self.controller.active:
            self.controller.reattach(output)
        self._fill_runs()
        self._show_estimate()

    def _on_recipe(self, name: str) -> None:
        if not name:
            self._recipe_note.setText("No recipes are installed; reinstall napari-glacier.")
            return
        self._recipe_note.setText(self.controller.recipe_note(name))
        self._recipe_note.setVisible(bool(self._recipe_note.text()))
        epochs = self.attempt(lambda: self.controller.recipe_epochs(name))
        if epochs is not None:
            self._epochs.setValue(epochs)
        self._show_estimate()
        self._start_from.setCurrentIndex(max(0, self._start_from.findData(self.controller.recipe_start(name))))

    def _on_models(self) -> None:
        self._fill_starts()
        self.compare_panel.fill_models()
        self.compare_panel.refresh()

    def _on_followed(self, run: RunFolder | None) -> None:
        self._fill_runs()
        self._show_progress()

    def _fill_runs(self) -> None:
        output = Path(self._output.text()).expanduser() if self._output.text() else None
        runs = self.controller.runs(output)
        followed = self.controller.run
        self._runs.clear()
        for run in runs:
            self._runs.addItem(run.path.name, run)
            if followed is not None and run.path == followed.path:
                self._runs.setCurrentIndex(self._runs.count() - 1)
        self._run_box.setVisible(bool(runs) or followed is not None)

    def _fill_starts(self) -> None:
        chosen = self._start_from.currentText()
        self._start_from.clear()
        self._start_from.addItem("fresh weights", None)
        for title, source in self.controller.starts():
            self._start_from.addItem(title, source)
        self._start_from.setCurrentIndex(max(0, self._start_from.findText(chosen)))

    def _show_progress(self) -> None:
        controller = self.controller
        self._status.setText(controller.status)
        self._plot.setVisible(controller.active or bool(controller.curves.epochs))
        self._plot.show_curves(controller.curves)
        self._stop_button.setEnabled(controller.state in {"starting", "running"})
        self._start_button.setEnabled(not controller.active and not self._lacking)
        self._resume_button.setVisible(controller.resumable)
        self._predict_button.setEnabled(controller.checkpoint is not None)
        if controller.state != self._shown_state:
            # A run that ended has a model to compare, and a new one will have.
            self._shown_state = controller.state
            self._show_estimate()
            self.compare_panel.fill_models()
            if controller.checkpoint is not None:
                self.compare_panel.choose(challenger=controller.checkpoint)
        if controller.state == "failed" and not self._log_toggle.isChecked():
            # The log is where the reason stands.
            self._log_toggle.setChecked(True)

    def _show_log(self, shown: bool) -> None:
        self._log_toggle.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self._log.setVisible(shown)
        if not shown:
            return
        text = self.controller.log_tail()
        if text != self._log.toPlainText():
            self._log.setPlainText(text)
            bar = self._log.verticalScrollBar()
            bar.setValue(bar.maximum())

    def _on_theme(self, event: Any = None) -> None:
        self._plot.show_curves(self.controller.curves)

    def _restore(self) -> None:
        self._recipe.setCurrentText(kept("train/recipe", self._recipe.currentText()))
        self._device.setCurrentText(kept("train/device", "auto"))
        self._on_recipe(self._recipe.currentText())
