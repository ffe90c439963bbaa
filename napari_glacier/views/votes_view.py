"""The panel that shows what each member says of a pixel."""

from typing import Any

from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_glacier.controllers.prediction_job import Step
from napari_glacier.controllers.votes import Neighbourhood, Question, Votes, VotesController
from napari_glacier.views.background import Background
from napari_glacier.views.base import hint
from napari_glacier.views.pieces import Legend

_HOW = "Click on the map. Dragging pans as usual; with a painting tool in hand, clicks paint."


class VotesPanel(QWidget):
    """A button that turns clicks into questions, and the answer to the last one.

    It knows nothing of the widget that it lies in: a child that held its parent would be destroyed twice.

    Parameters
    ----------
    votes : VotesController

    Attributes
    ----------
    busy : bool
        Whether the networks are at work on a run.
    failed : signal (BaseException)
    answered : signal ()
        An answer is shown, and takes more room than there was before.
    """

    failed = QtSignal(object)
    answered = QtSignal()

    def __init__(self, votes: VotesController) -> None:
        super().__init__()
        self.votes = votes
        self.busy = False
        self._task: Background | None = None

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self.button = QPushButton("What each member says")
        self.button.setCheckable(True)
        self.button.setToolTip("Click on a predicted pixel to see each class's probability and each member's vote")
        self.button.toggled.connect(self._on_toggled)
        layout.addWidget(self.button)
        self._text = hint("")
        layout.addWidget(self._text)
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setFixedHeight(6)
        layout.addWidget(self._bar)
        self._answer = QWidget()
        answer = QVBoxLayout(self._answer)
        answer.setContentsMargins(0, 0, 0, 0)
        answer.setSpacing(4)
        self._mean, self._members = Legend(), Legend()
        for title, legend in (("Mean of the ensemble", self._mean), ("Members", self._members)):
            answer.addWidget(QLabel(f"<b>{title}</b>"))
            answer.addWidget(legend)
        self._measures = hint("")
        answer.addWidget(self._measures)
        layout.addWidget(self._answer)
        self.clear()
        self._text.setVisible(False)

    @property
    def text(self) -> str:
        """What stands under the button."""
        return self._text.text()

    def ask(self, position: Any) -> None:
        """Show what each member says of the pixel at a position in world coordinates."""
        self.stop()
        question = self.votes.question(position)
        if isinstance(question, str):
            self._say(question)
            return
        votes = self.votes.known(question)
        if votes is not None:
            self._show_votes(votes)
        elif self.busy:
            self._say(f"{question.where}\nThe networks are busy. Click again when the run has ended, or cancel it.")
        else:
            self._ask_members(question)

    def clear(self) -> None:
        """Forget the last question and its answer."""
        self.stop()
        self._say(_HOW)

    def stop(self) -> None:
        """Ask no further."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _ask_members(self, question: Question) -> None:
        def on_step(step: Step) -> None:
            self._say(f"{question.where}\n{step.message}")
            self._bar.setMaximum(step.total)
            self._bar.setValue(step.done)
            self._bar.setVisible(True)

        def on_return(near: Neighbourhood) -> None:
            votes = self.votes.keep(near, question)
            if votes is None:
                self._say("The prediction has changed meanwhile. Click again.")
            else:
                self._show_votes(votes)

        def on_error(error: BaseException) -> None:
            self._say(f"{question.where}\nThe members could not be asked.")
            self.failed.emit(error)

        self._task = Background(self, self.votes.job(question), on_step, on_return, on_error)

    def _show_votes(self, votes: Votes) -> None:
        names, colors = votes.scheme.class_names, votes.scheme.colors
        self._say(f"{votes.where}\nThe map shows <b>{names[votes.shown_index]}</b>.{_doubt(votes)}")
        likeliest_first = sorted(range(len(names)), key=lambda k: -votes.mean_K[k])
        self._mean.show_rows([(colors[k], names[k], _percent(votes.mean_K[k])) for k in likeliest_first])
        self._members.show_rows(
            [(colors[vote.index], vote.member, names[vote.index], _percent(vote.probability)) for vote in votes.votes]
        )
        self._measures.setText(
            f"Entropy {votes.entropy:.3f}, disagreement {votes.mutual_information:.3f} (0 sure, 1 knows nothing)."
        )
        self._answer.setVisible(True)
        self.answered.emit()

    def _say(self, text: str) -> None:
        self._text.setText(text.replace("\n", "<br>"))
        self._bar.setVisible(False)
        self._answer.setVisible(False)

    def _on_toggled(self, on: bool) -> None:
        self.votes.asking = on
        self.clear()
        self._text.setVisible(on)


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def _doubt(votes: Votes) -> str:
    """What is odd about the class of the mean; empty where nothing is."""
    names = votes.scheme.class_names
    if votes.index != votes.shown_index:
        return (
            f" Asked again, the mean gives {names[votes.index]}: a tie within rounding, or the model's file has "
            "changed since."
        )
    if votes.mean_K[votes.index] < max(votes.mean_K):
        return " Its threshold decides, not the largest probability."
    return ""
