"""The Predict widget: run a model, watch it, take its map over."""

import time
from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QPushButton, QVBoxLayout, QWidget

from napari_glacier.controllers.inference import InferenceController, Outcome, Region, Request, Step
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.controllers.training import duration
from napari_glacier.controllers.votes import VotesController
from napari_glacier.core.wording import counted
from napari_glacier.views.background import Background
from napari_glacier.views.base import GlacierView, group, hint
from napari_glacier.views.earlier_button import EarlierButton
from napari_glacier.views.job_row import JobRow
from napari_glacier.views.pieces import Legend
from napari_glacier.views.predict_form import PredictForm
from napari_glacier.views.votes_view import VotesPanel

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

    title = "Predict"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.controller = InferenceController(self.workspace)
        self._task: Background | None = None
        self._request: Request | None = None
        self._last_step: Step | None = None
        self._started = 0.0

        desk = self.make_desk(
            "<b>Nothing to predict on yet.</b><br>Drop a folder of tiles or a scene on the window, or open one."
        )
        self.form = PredictForm(self.controller)
        self.form.browsed.connect(self.use_model)
        desk.addWidget(group("Model", self.form))
        self._job = JobRow()
        self._job.run_asked.connect(self.run)
        self._job.cancel_asked.connect(self.cancel)
        desk.addWidget(self._job)
        self._earlier = EarlierButton(self.controller)
        self._earlier.chosen.connect(self.show_earlier)
        desk.addWidget(self._earlier)
        self._layers_back = QPushButton("Bring the prediction's layers back")
        self._layers_back.setToolTip("They were removed from the layer list; the prediction itself is still here")
        self._layers_back.clicked.connect(lambda: self.attempt(self.controller.bring_layers_back))
        desk.addWidget(self._layers_back)
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
        self.listen(self.controller.models_changed, self.form.fill)
        self.listen(self.controller.predicted, self._show_result)
        self.on_close(self.controller.close)
        self.listen(self.votes_panel.votes.clicked, self.votes_panel.ask)
        self.on_close(self.votes_panel.votes.close)
        self.on_close(self.votes_panel.stop)
        self.on_close(self._stop)
        self.form.fill()
        self._on_session(self.workspace.session)

    def _make_accept(self) -> QVBoxLayout:
        layout = QVBoxLayout()
        self._region = QComboBox()
        for _, title in _REGIONS:
            self._region.addItem(title)
        self._region.setToolTip("Which part of the prediction is taken over")
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
        return {**super().facts(), "Model": chosen, "Device": self.form.device}

    # -- what a person does

    @property
    def model(self) -> ModelChoice | None:
        """The model that is chosen."""
        return self.form.model

    @property
    def running(self) -> bool:
        """Whether a job is under way."""
        return self._task is not None

    def choose(self, *, region: Region | None = None, **choices: Any) -> None:
        """Set what is taken over, and choices of the form; see `PredictForm.choose`."""
        if region is not None:
            self._region.setCurrentIndex([name for name, _ in _REGIONS].index(region))
        self.form.choose(**choices)

    def use_bundled(self) -> None:
        """Choose the ensemble that the package brought."""
        self.form.select(None)

    def use_model(self, path: Path) -> None:
        """Choose a checkpoint, e.g. the one that the Train widget hands over."""
        choice = self.attempt(lambda: self.controller.add_model(path))
        if choice is not None:
            self.form.select(choice.source)
            self.form.remember_model()

    def run(self) -> None:
        """Start the job in a thread of its own."""
        self.tell("")
        if self.model is None:
            self.tell("There is no model to run. Choose a checkpoint with the … button.", error=True)
            return
        model, form = self.model, self.form
        request = self.attempt(
            lambda: self.controller.request(
                model, form.tta, form.device, form.scope, keep_probabilities=form.keeps_probabilities
            )
        )
        if request is None:
            return
        form.remember()
        form.remember_model()
        self.votes_panel.clear()
        self._started = time.monotonic()
        self._request, self._last_step = request, None
        self._task = Background(self, self.controller.job(request), self._on_step, self._on_outcome, self._on_error)
        self._show_running()

    def show_earlier(self, folder: Path) -> None:
        """Read a prediction from disk in a thread, and lay it over the scene on screen."""
        self.tell("")
        job = self.attempt(lambda: self.controller.read_earlier(folder))
        if job is None:
            return
        self.votes_panel.clear()
        self._request, self._last_step = None, None
        self._task = Background(
            self, job, self._on_step, lambda outcome: self._on_read(folder, outcome), self._on_error
        )
        self._show_running("Looking for the tiles' maps…")

    def cancel(self) -> None:
        """End the job: at once for the person, in its own thread as soon as the batch under way is done."""
        if self._task is None:
            return
        self._stop()
        self.controller.settle()
        if self._request is None:
            self.tell("Cancelled: what had been read is shown.")
        else:
            self.tell(self.controller.say_cancelled(self._request, self._last_step))
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
        left = f"  ·  {duration(step.left_s)} left" if step.left_s is not None else ""
        self._job.step(step.done, step.total, step.message + left)

    def _on_outcome(self, outcome: Outcome) -> None:
        self._task = None
        self._show_running()
        if self.workspace.session is None:
            return
        self.attempt(lambda: self.controller.show(outcome))
        seconds = time.monotonic() - self._started
        said = f"Predicted with {outcome.made.name} in {duration(seconds)}."
        if outcome.written:
            said += f" {counted(len(outcome.written), 'mask')} in {_short(outcome.written[0].parent)}."
        if outcome.problem:
            said += f" {outcome.problem}"
        if outcome.warnings:
            more = len(outcome.warnings) - 1
            said += f" {outcome.warnings[0]}" + (f" ({more} more in provenance.jsonl.)" if more else "")
        self.tell(said)

    def _on_read(self, folder: Path, outcome: Outcome) -> None:
        self._task = None
        self._show_running()
        self.attempt(lambda: self.controller.show(outcome))
        self.tell(" ".join((f"Shown: the map of {outcome.made.name} in {_short(folder)}.", *outcome.warnings)))

    def _on_error(self, error: BaseException) -> None:
        self._task = None
        self.controller.settle()
        self.fail(error)
        self._show_running()

    # -- showing

    def _show_running(self, said: str = "Loading the model…") -> None:
        running = self.running
        self.votes_panel.busy = running
        self._job.show_running(running)
        if running:
            # No length is known while libraries and weights are loaded.
            self._job.begin(said)
        self._earlier.setEnabled(not running)
        self._accept_button.setEnabled(not running and not self._read_only)

    def _on_session(self, session: Any) -> None:
        self.show_desk(session is not None)
        self.form.take_dataset()
        if self.running:
            # The job is of the dataset that was here before.
            self._stop()
            self.tell("Cancelled: its dataset is no longer open.")
            self._show_running()
        self.votes_panel.button.setChecked(False)
        self._show_result()

    @property
    def _read_only(self) -> bool:
        session = self.workspace.session
        return session is not None and bool(session.read_only)

    def _show_result(self) -> None:
        shown = self.controller.has_prediction
        if self._result.isVisibleTo(self._desk) and not shown:
            # What was said of it is over with it.
            self.tell("")
        self._result.setVisible(shown)
        self._layers_back.setVisible(not self.running and self.controller.layers_taken_away)
        self._accept_button.setEnabled(not self.running and not self._read_only)
        if shown:
            self._legend.show_rows(self.controller.legend())
            partly = self.controller.incomplete
            if self.workspace.uncertainty_layer is None:
                said = "Layer <i>Prediction</i>, below Labels."
            else:
                said = (
                    "Layers <i>Prediction</i> and <i>Uncertainty</i>, below Labels; their eyes in the layer list show "
                    "and hide them."
                )
            if partly and not self.running:
                said += f" <b>Incomplete</b>: {partly} of what was asked for. Only that is accepted."
            self._shown.setText(said)

    def _on_answered(self) -> None:
        # How high the panel is now is known once the window has laid it out.
        QTimer.singleShot(0, self._post, self._reveal_votes)

    def _reveal_votes(self) -> None:
        """Scroll the answer into sight: on a laptop it would lie below the widget's edge."""
        self.scroll_to(self.votes_panel)

    def show_take_over(self) -> None:
        """Scroll to where a prediction is taken over into the labels."""
        self.scroll_to(self._accept_button)


def _short(folder: Path) -> str:
    return "/".join(folder.parts[-2:])
