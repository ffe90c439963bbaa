"""The Train widget: start a run, follow it, stop it, hand its model to Predict."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QDialog, QHBoxLayout, QMessageBox, QPushButton, QVBoxLayout

from napari_glacier.controllers.comparison import ComparisonController
from napari_glacier.controllers.shelf import ShelfController
from napari_glacier.controllers.training import Plan, TrainingController
from napari_glacier.controllers.training_plans import commands
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.views.base import GlacierView, group
from napari_glacier.views.commands_dialog import CommandsDialog
from napari_glacier.views.compare_panel import ComparePanel
from napari_glacier.views.run_panel import RunPanel
from napari_glacier.views.settings import kept
from napari_glacier.views.shelf_dialog import ShelfDialog
from napari_glacier.views.train_form import TrainForm

_POLL_MS = 500
_LOOK_MS = 3000


class TrainView(GlacierView):
    """Train a model on a dataset in a process of its own.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    title = "Train"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.controller = TrainingController(self.workspace)
        self._shown_state = ""
        self._shelf: ShelfDialog | None = None

        self._empty = self.empty_state("<b>No dataset is open.</b><br>Open one with masks, or choose its folder below.")
        self.body.addWidget(self._empty)
        self.form = TrainForm(self.controller)
        self.form.estimated.connect(self._show_start)
        self.form.output_changed.connect(self._on_output)
        self.form.commands_asked.connect(self.show_commands)
        self.form.split.clicked.connect(self._fly_to)
        self.body.addWidget(self.form)
        # What starts and stops a run stays in sight, however long the form is.
        self.foot.addLayout(self._make_buttons())
        self.run_panel = RunPanel(self.controller, self.workspace.viewer)
        self.run_panel.predict_asked.connect(self._predict)
        self.run_panel.open_asked.connect(self.open_run)
        panel = QVBoxLayout()
        panel.addWidget(self.run_panel)
        self._run_box = group("Run", panel)
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
        self.every(_POLL_MS, self.run_panel.poll)
        self.every(_LOOK_MS, self._look_for_runs)
        self.on_close(self.form.device.stop)
        self.on_close(self.form.split.stop)
        self._restore()
        self._on_session(self.workspace.session)
        self._show_progress()

    def _make_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self._start_button = QPushButton("Start training")
        self._start_button.setToolTip("Training runs in a process of its own; it goes on when napari is closed")
        self._start_button.clicked.connect(self._ask_and_start)
        self._stop_button = QPushButton("Stop")
        self._stop_button.setToolTip("Finish the step, write a checkpoint, end")
        self._stop_button.clicked.connect(self.stop)
        self._resume_button = QPushButton("Resume")
        self._resume_button.setToolTip("Go on with the run below after its last finished epoch")
        self._resume_button.clicked.connect(lambda: self.attempt(self.controller.resume))
        row.addWidget(self._start_button, 2)
        row.addWidget(self._resume_button, 1)
        row.addWidget(self._stop_button, 1)
        return row

    # -- what a person does

    def plan(self) -> Plan:
        """What the form says."""
        return self.form.plan()

    def fill(self, *, recipe: str | None = None, epochs: int | None = None, device: str | None = None) -> None:
        """Set choices of the form."""
        if recipe is not None:
            self.form.choose_recipe(recipe)
        if epochs is not None:
            self.form.epochs.setValue(epochs)
        if device is not None:
            self.form.device.setCurrentText(device)

    def start(self) -> RunFolder | None:
        """Start the run that the form describes."""
        self.tell("")
        run: RunFolder | None = self.attempt(lambda: self.controller.start(self.plan()))
        if run is not None:
            self.form.remember()
            self._fill_runs()
            # The run's box is laid out with the next events.
            QTimer.singleShot(0, self._post, lambda: self.scroll_to(self._run_box))
        return run

    def stop(self) -> None:
        """Ask the followed run to stop."""
        said = self.attempt(self.controller.stop)
        if said is not None:
            self.tell(said)

    def _ask_and_start(self) -> None:
        from napari_glacier.controllers.correction import summarise

        waiting = self.controller.unsaved
        session = self.workspace.session
        if waiting and session is not None and self.controller.session_of(Path(self.form.data.text())) is not None:
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
            self._shelf.distil_asked.connect(self._plan_distilling)
        self._shelf.fill()
        self._shelf.show()
        self._shelf.raise_()
        return self._shelf

    def _plan_distilling(self, title: str, changes: tuple[str, ...]) -> None:
        self.form.prepare("distill", changes)
        self._close_models()
        self.scroll_to(self.form)
        self.tell(f"The form is filled in: a small network learns from {title}. Look it over, then Start training.")

    def _close_models(self) -> None:
        if self._shelf is not None:
            self._shelf.close()

    @property
    def device(self) -> str:
        """Where models run, as the form says."""
        return self.form.device.currentText().strip() or "auto"

    def open_run(self, path: Path) -> None:
        """Follow a run in any folder."""
        self.tell("")
        self.attempt(lambda: self.controller.open_run(path))

    def _fly_to(self, tile_id: str) -> None:
        """A click on the map of the split flies to the tile, where it is of the open dataset."""
        session = self.workspace.session
        if session is not None and tile_id in session.tile_ids:
            number, place = session.find(tile_id)
            if session.stacked or number == session.scene_number:
                self.workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width, plane=number)

    # -- showing

    def _look_for_runs(self) -> None:
        """A run that was begun in a terminal appears, too."""
        output = self.form.output_folder
        known = [run.path for run in self.run_panel.listed if run.path.parent == output]
        if self.controller.look_for_runs(output, known):
            self._fill_runs()
            self.form.show_estimate()
        elif bool(self.form.lacking) == self._start_button.isEnabled():
            # A first save gave the dataset masks to learn from.
            self.form.show_estimate()

    def _show_start(self) -> None:
        self._start_button.setEnabled(not self.controller.active and not self.form.lacking)

    def _on_session(self, session: Any) -> None:
        self.form.take_dataset()
        self.form.fill_starts()
        self.compare_panel.stop()
        self.compare_panel.fill_models()
        self.compare_panel.refresh()
        if self._shelf is not None:
            # A job under way is of the dataset that was here before.
            self._shelf.cancel()
            self._shelf.fill()
        self._compare_box.setVisible(session is not None)
        self._empty.setVisible(session is None)
        # A run of the dataset before is nothing to go on with here, nor is its model the one to predict with.
        self._attach(lets_go=True)

    def _on_output(self) -> None:
        self._attach()

    def _attach(self, *, lets_go: bool = False) -> None:
        if not self.controller.active:
            self.controller.reattach(self.form.output_folder, lets_go=lets_go)
        self._fill_runs()
        self.form.show_estimate()

    def _on_models(self) -> None:
        self.form.fill_starts()
        self.compare_panel.fill_models()
        self.compare_panel.refresh()

    def _on_followed(self, run: RunFolder | None) -> None:
        self._fill_runs()
        self._show_progress()

    def _fill_runs(self) -> None:
        self._run_box.setVisible(self.run_panel.fill_runs(self.form.output_folder))

    def _show_progress(self) -> None:
        controller = self.controller
        self.run_panel.show_progress()
        self._stop_button.setEnabled(controller.state in {"starting", "running"})
        self._show_start()
        self._resume_button.setVisible(controller.resumable)
        if controller.state != self._shown_state:
            # A run that ended has a model to compare, and a new one will have.
            self._shown_state = controller.state
            self.form.show_estimate()
            self.compare_panel.fill_models()
            if controller.checkpoint is not None:
                self.compare_panel.choose(challenger=controller.checkpoint)

    def _on_theme(self, event: Any = None) -> None:
        self.run_panel.draw()

    def _restore(self) -> None:
        self.form.device.setCurrentText(kept("train/device", "auto"))
        self.form.show_recipe(self.form.recipe.currentText())
