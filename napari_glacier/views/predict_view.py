"""The Predict widget: run a model, watch it, take its map over."""

import time
from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.inference import InferenceController, Outcome, Region, Request, Scope, Step, Tta
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.controllers.session import counted
from napari_glacier.controllers.training import duration
from napari_glacier.controllers.votes import VotesController
from napari_glacier.core.errors import GlacierError
from napari_glacier.views.background import Background
from napari_glacier.views.base import GlacierView, group, hint
from napari_glacier.views.pieces import Legend
from napari_glacier.views.settings import kept, settings
from napari_glacier.views.votes_view import VotesPanel

_SCOPES: tuple[tuple[Scope, str], ...] = (
    ("view", "What is on screen"),
    ("tile", "The tile in the middle"),
    ("all", "Everything"),
)
_TTA: tuple[tuple[Tta, str], ...] = (("off", "off"), (2, "2 views"), (6, "6 views"), (8, "8 views"))
_REGIONS: tuple[tuple[Region, str], ...] = (
    ("all", "Everything predicted"),
    ("unlabelled", "Tiles without labels"),
    ("view", "What is on screen"),
)


class PredictView(GlacierView):
    """Run a model on the open dataset.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.controller = InferenceController(self.workspace)
        self._task: Background | None = None
        self._request: Request | None = None
        self._last_step: Step | None = None
        self._started = 0.0
        self._usual: Path | None = None

        self._empty = self.empty_state(
            "<b>Nothing to predict on yet.</b><br>Drop a folder of tiles or a scene on the window, or open one."
        )
        self.body.addWidget(self._empty)
        self._desk = QWidget()
        desk = QVBoxLayout(self._desk)
        desk.setContentsMargins(0, 0, 0, 0)
        self.body.addWidget(self._desk)
        self.body.addStretch(1)

        desk.addWidget(group("Model", self._make_choices()))
        desk.addLayout(self._make_running())
        self._result = QWidget()
        result = QVBoxLayout(self._result)
        result.setContentsMargins(0, 0, 0, 0)
        areas = QVBoxLayout()
        self._legend = Legend()
        areas.addWidget(self._legend)
        self._shown = hint("")
        areas.addWidget(self._shown)
        result.addWidget(group("Area by class", areas))
        result.addWidget(group("Take over", self._make_accept()))
        votes = QVBoxLayout()
        self.votes_panel = VotesPanel(VotesController(self.controller))
        self.votes_panel.failed.connect(self.fail)
        self.votes_panel.answered.connect(self._on_answered)
        votes.addWidget(self.votes_panel)
        result.addWidget(group("At a pixel", votes))
        desk.addWidget(self._result)

        self.listen(self.workspace.session_changed, self._on_session)
        self.listen(self.workspace.layers_changed, self._show_result)
        self.listen(self.controller.models_changed, self._fill_models)
        self.listen(self.controller.predicted, self._show_result)
        self.on_close(self.controller.close)
        self.listen(self.votes_panel.votes.clicked, self.votes_panel.ask)
        self.on_close(self.votes_panel.votes.close)
        self.on_close(self.votes_panel.stop)
        self.on_close(self._stop)
        self._restore()
        self._fill_models()
        self._restore_model()
        self._on_session(self.workspace.session)

    def _make_choices(self) -> QFormLayout:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        row = QHBoxLayout()
        row.setSpacing(4)
        self._model = QComboBox()
        self._model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._model.setMinimumContentsLength(12)
        self._model.currentIndexChanged.connect(self._on_model)
        browse = QPushButton("…")
        browse.setFixedWidth(30)
        browse.setToolTip("Choose a checkpoint (.safetensors), an ensemble.yaml or a run folder")
        browse.clicked.connect(self._browse)
        row.addWidget(self._model, 1)
        row.addWidget(browse)
        form.addRow("Model", row)
        self._model_note = hint("")
        form.addRow(self._model_note)
        self._scope = QComboBox()
        for _, title in _SCOPES:
            self._scope.addItem(title)
        form.addRow("Predict", self._scope)
        self._tta = QComboBox()
        for _, title in _TTA:
            self._tta.addItem(title)
        self._tta.setToolTip("Test-time augmentation: the mean over turned and mirrored views; slower, smoother")
        form.addRow("TTA", self._tta)
        self._device = QComboBox()
        self._device.setEditable(True)
        self._device.addItems(["auto", "cpu", "cuda", "mps"])
        self._device.setToolTip("auto takes a GPU where there is one; cuda:1 means the second")
        form.addRow("Device", self._device)
        self._keep = QCheckBox("Keep probabilities")
        self._keep.setToolTip(
            "Also write the probability of each class: the Report widget then gives areas with intervals. Takes disk "
            "space, about eight times that of the masks"
        )
        form.addRow("", self._keep)
        return form

    def _make_running(self) -> QVBoxLayout:
        layout = QVBoxLayout()
        row = QHBoxLayout()
        self._run_button = QPushButton("Run")
        self._run_button.clicked.connect(self.run)
        self._cancel_button = QPushButton("Cancel")
        self._cancel_button.clicked.connect(self.cancel)
        self._cancel_button.setEnabled(False)
        row.addWidget(self._run_button, 2)
        row.addWidget(self._cancel_button, 1)
        layout.addLayout(row)
        self._bar = QProgressBar()
        self._bar.setVisible(False)
        self._doing = QLabel("")
        self._doing.setWordWrap(True)
        self._doing.setVisible(False)
        layout.addWidget(self._bar)
        layout.addWidget(self._doing)
        return layout

    def _make_accept(self) -> QVBoxLayout:
        layout = QVBoxLayout()
        self._region = QComboBox()
        for _, title in _REGIONS:
            self._region.addItem(title)
        layout.addWidget(self._region)
        self._accept_button = QPushButton("Accept into labels")
        self._accept_button.setToolTip(
            "Write the prediction into the Labels layer as one stroke; locked classes stay, Undo takes it back"
        )
        self._accept_button.clicked.connect(self.accept)
        layout.addWidget(self._accept_button)
        return layout

    def facts(self) -> dict[str, str]:
        """What a report on an error should say: the data set and the model."""
        model = self.model
        chosen = "none" if model is None else f"{model.title} ({model.source or 'bundled'})"
        return {**super().facts(), "Model": chosen, "Device": self._device.currentText()}

    # -- what a person does

    @property
    def model(self) -> ModelChoice | None:
        """The model that is chosen."""
        choice = self._model.currentData()
        return choice if isinstance(choice, ModelChoice) else None

    @property
    def running(self) -> bool:
        """Whether a job is under way."""
        return self._task is not None

    def choose(
        self,
        *,
        scope: Scope | None = None,
        tta: Any = None,
        device: str | None = None,
        region: Region | None = None,
    ) -> None:
        """Set the choices of the form."""
        if region is not None:
            self._region.setCurrentIndex([name for name, _ in _REGIONS].index(region))
        if scope is not None:
            self._scope.setCurrentIndex([name for name, _ in _SCOPES].index(scope))
        if tta is not None:
            self._tta.setCurrentIndex([value for value, _ in _TTA].index(tta))
        if device is not None:
            self._device.setCurrentText(device)

    def use_bundled(self) -> None:
        """Choose the ensemble that the package brought."""
        self._select(None)

    def use_model(self, path: Path) -> None:
        """Choose a checkpoint, e.g. the one that the Train widget hands over."""
        choice = self.attempt(lambda: self.controller.add_model(path))
        if choice is not None:
            self._fill_models()
            self._select(choice.source)

    def run(self) -> None:
        """Start the job in a thread of its own."""
        self.tell("")
        if self.model is None:
            self.tell("There is no model to run. Choose a checkpoint with the … button.", error=True)
            return
        model, scope, tta = self.model, _SCOPES[self._scope.currentIndex()][0], _TTA[self._tta.currentIndex()][0]
        request = self.attempt(
            lambda: self.controller.request(
                model, tta, self._device.currentText().strip(), scope, keep_probabilities=self._keep.isChecked()
            )
        )
        if request is None:
            return
        self._remember()
        self.votes_panel.clear()
        self._started = time.monotonic()
        self._request, self._last_step = request, None
        self._task = Background(self, self.controller.job(request), self._on_step, self._on_outcome, self._on_error)
        self._show_running()

    def cancel(self) -> None:
        """End the job: at once for the person, in its own thread as soon as the batch under way is done."""
        if self._task is None or self._request is None:
            return
        self._stop()
        if self.workspace.session is self._request.session:
            self.controller.settle()
            self.tell(self.controller.say_cancelled(self._request, self._last_step))
        else:
            self.tell("The run was cancelled: its dataset is no longer open.")
        self._show_running()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def accept(self) -> None:
        """Take the prediction over into the labels."""
        region = _REGIONS[self._region.currentIndex()][0]
        changed = self.attempt(lambda: self.controller.accept(region))
        if changed == 0:
            self.tell("The labels are as predicted already: nothing changed.")
        elif changed is not None:
            self.tell(f"{changed:,} pixels changed, as one stroke that Undo in Correct takes back.")

    # -- what the worker reports

    def _on_step(self, step: Step) -> None:
        self._last_step = step
        self.controller.take(step)
        self._bar.setMaximum(step.total)
        self._bar.setValue(step.done)
        left = f"  ·  {duration(step.left_s)} left" if step.left_s is not None else ""
        self._doing.setText(step.message + left)

    def _on_outcome(self, outcome: Outcome) -> None:
        self._task = None
        self._show_running()
        if self.workspace.session is None:
            return
        self.attempt(lambda: self.controller.show(outcome))
        seconds = time.monotonic() - self._started
        said = f"Predicted with {outcome.made.name} in {duration(seconds)}."
        if outcome.written:
            files = "raster" if outcome.made.request.keep_probabilities else "mask"
            said += f" {counted(len(outcome.written), files)} in {_short(outcome.written[0].parent)}."
        if outcome.problem:
            said += f" {outcome.problem}"
        if outcome.warnings:
            more = len(outcome.warnings) - 1
            said += f" {outcome.warnings[0]}" + (f" ({more} more in provenance.jsonl.)" if more else "")
        self.tell(said)

    def _on_error(self, error: BaseException) -> None:
        self._task = None
        self.controller.settle()
        self.fail(error)
        self._show_running()

    # -- showing

    def _show_running(self) -> None:
        running = self.running
        self.votes_panel.busy = running
        self._run_button.setEnabled(not running)
        self._cancel_button.setEnabled(running)
        self._bar.setVisible(running)
        self._doing.setVisible(running)
        if running:
            # No length is known while libraries and weights are loaded.
            self._bar.setMaximum(0)
            self._doing.setText("Loading the model…")
        self._accept_button.setEnabled(not running and not self._read_only)

    def _on_session(self, session: Any) -> None:
        self._empty.setVisible(session is None)
        self._desk.setVisible(session is not None)
        # A job under way is of the dataset that was here before.
        self.cancel()
        self.votes_panel.button.setChecked(False)
        self._show_result()

    @property
    def _read_only(self) -> bool:
        session = self.workspace.session
        return session is not None and bool(session.read_only)

    def _show_result(self) -> None:
        shown = self.controller.has_prediction
        self._result.setVisible(shown)
        self._accept_button.setEnabled(not self.running and not self._read_only)
        if shown:
            self._legend.show_rows(self.controller.legend())
            partly = self.controller.incomplete
            said = "Layers <i>Prediction</i> and <i>Uncertainty</i> (hidden), below Labels."
            if partly and not self.running:
                said += f" <b>Incomplete</b>: {partly} of what was asked for. Only that is accepted."
            self._shown.setText(said)

    def _on_answered(self) -> None:
        # How high the panel is now is known once the window has laid it out.
        QTimer.singleShot(0, self._post, self._reveal_votes)

    def _reveal_votes(self) -> None:
        """Scroll the answer into sight: on a laptop it would lie below the widget's edge."""
        scroll = self.findChild(QScrollArea)
        if isinstance(scroll, QScrollArea):
            scroll.ensureWidgetVisible(self.votes_panel, 0, 12)

    def show_take_over(self) -> None:
        """Scroll to where a prediction is taken over into the labels."""
        scroll = self.findChild(QScrollArea)
        if isinstance(scroll, QScrollArea):
            scroll.ensureWidgetVisible(self._accept_button, 0, 12)

    def _fill_models(self) -> None:
        chosen = self.model
        self._model.blockSignals(True)
        self._model.clear()
        for choice in self.controller.models():
            self._model.addItem(choice.title, choice)
            self._model.setItemData(self._model.count() - 1, str(choice.source or choice.note), 3)
        self._model.blockSignals(False)
        usual = self.controller.usual
        if usual != self._usual:
            # What was promoted (or came back by a rollback) is what the dataset works with from now on.
            self._usual = usual
            self._select(usual)
        elif chosen is not None:
            self._select(chosen.source)
        self._on_model()

    def _select(self, source: Path | None) -> None:
        for number in range(self._model.count()):
            if self._model.itemData(number).source == source:
                self._model.setCurrentIndex(number)
                return

    def _on_model(self) -> None:
        choice = self.model
        if choice is None:
            self._model_note.setText("Train a model, or choose a checkpoint with the … button.")
        else:
            self._model_note.setText(choice.note)
        self._model_note.setVisible(bool(self._model_note.text()))

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Choose a model", kept("predict/folder", ""), "Models (*.safetensors *.yaml *.pth)"
        )
        if path:
            settings().setValue("predict/folder", str(Path(path).parent))
            self.use_model(Path(path))

    def _restore(self) -> None:
        self._scope.setCurrentIndex(max(0, min(kept("predict/scope", 0), len(_SCOPES) - 1)))
        self._tta.setCurrentIndex(max(0, min(kept("predict/tta", 0), len(_TTA) - 1)))
        self._device.setCurrentText(kept("predict/device", "auto"))
        self._keep.setChecked(bool(kept("predict/probabilities", 0)))

    def _restore_model(self) -> None:
        """The model that was used last, where no promoted one comes before it and it is still there."""
        path = kept("predict/model", "")
        if path and self._usual is None and Path(path).exists():
            try:
                choice = self.controller.add_model(Path(path))
            except GlacierError:
                return
            self._fill_models()
            self._select(choice.source)

    def _remember(self) -> None:
        store = settings()
        store.setValue("predict/model", str(self.model.source or "") if self.model is not None else "")
        store.setValue("predict/scope", self._scope.currentIndex())
        store.setValue("predict/tta", self._tta.currentIndex())
        store.setValue("predict/device", self._device.currentText().strip())
        store.setValue("predict/probabilities", int(self._keep.isChecked()))


def _short(folder: Path) -> str:
    return "/".join(folder.parts[-2:])
