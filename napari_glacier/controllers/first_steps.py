"""The first way round on a copy of the sample region: open, predict, take over, fix, retrain. No Qt.

Nothing is ticked because somebody said so: each step looks at the window, the journal or the run folders. So the
walk can be left and taken up again on another day.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from psygnal import Signal

from napari_glacier.controllers.exchange import SAMPLE_NAME, UNMAPPED_TILES, sample_copy
from napari_glacier.controllers.prediction_layers import is_whole
from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.journal_place import user_data_dir
from napari_glacier.core.correction.strokes import REVERT
from napari_glacier.core.errors import DataError
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.core.wording import listed

Key = Literal["open", "predict", "accept", "fix", "train"]

# What the plugin does on a person's demand; everything else in a journal was drawn.
_NOT_DRAWN = frozenset(("accept", "undo", "redo", REVERT))
_ALL = 100_000
_UNMAPPED = listed(UNMAPPED_TILES)


@dataclass(frozen=True, slots=True)
class FirstStep:
    """One of the steps.

    Attributes
    ----------
    title, text : str
        What it is, and what to do.
    button : str
        What the button says that leads there.
    widget : str
        The plugin's widget in which it is done; empty where the button does it itself.
    """

    key: Key
    title: str
    text: str
    button: str
    widget: str = ""


STEPS: tuple[FirstStep, ...] = (
    FirstStep(
        "open",
        "Open the sample region",
        f"A synthetic glacier region, copied to your own folder. Its tiles {_UNMAPPED.replace(', ', ' and ')} have no "
        "labels yet.",
        "Open the region",
    ),
    FirstStep(
        "predict", "Predict", "Press <b>Run</b>: the bundled networks map every tile.", "Go to Predict", "Predict"
    ),
    FirstStep(
        "accept",
        "Take the prediction over",
        "Press <b>Accept into labels</b> in <i>Take over</i>: it fills the tiles without labels.",
        "Go to Take over",
        "Predict",
    ),
    FirstStep(
        "fix",
        "Fix and save",
        "Choose a class, paint over something that is wrong, and press <b>Save</b>.",
        "Go to Correct",
        "Correct",
    ),
    FirstStep(
        "train",
        "Retrain",
        "Press <b>Start training</b>: by the recipe <i>quick</i> a network learns from your labels, in about a minute, "
        "in a process of its own. <i>tiny_data</i>, which Train proposes for few tiles, takes twenty.",
        "Go to Train",
        "Train",
    ),
)
DONE_TEXT = (
    "That was the whole loop. In <i>Train</i>, <b>Compare</b> the new model with the old one and promote it; then "
    "<b>Predict</b> again with it, or open a dataset of your own in <i>Data</i>."
)


def first_steps_folder() -> Path:
    """The user's folder in which the copies for the first steps lie."""
    return user_data_dir() / "first-steps"


class FirstSteps:
    """Knows which of the first steps are done.

    Parameters
    ----------
    workspace : Workspace

    Signals
    -------
    changed() : a step may have been done; may come from another thread
    """

    changed = Signal()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._session: Any = None
        self._trained = False
        workspace.session_changed.connect(self._on_session)
        workspace.layers_changed.connect(self._tell)
        workspace.predicted.connect(self._tell)
        self._on_session(workspace.session)

    @property
    def folder(self) -> Path:
        """Where the copy of the region is, or will be."""
        return first_steps_folder() / SAMPLE_NAME

    @property
    def begun(self) -> bool:
        """Whether there is a copy already."""
        return self.folder.is_dir()

    @property
    def done(self) -> frozenset[Key]:
        """Keys of the steps that are done; none as long as another dataset is open."""
        session = self._session
        if session is None:
            return frozenset()
        strokes = [info for info in session.journal.history(_ALL) if not info.discarded]
        done: set[Key] = {"open"}
        if any(info.tool == "accept" for info in strokes):
            done |= {"predict", "accept"}
        elif is_whole(self.workspace):
            done.add("predict")
        if any(info.tool not in _NOT_DRAWN and not info.unsaved for info in strokes):
            done.add("fix")
        if self._trained:
            done.add("train")
        return frozenset(done)

    @property
    def current(self) -> FirstStep | None:
        """The step to be done now; None after the last one."""
        done = self.done
        return next((step for step in STEPS if step.key not in done), None)

    @property
    def news(self) -> str:
        """What of the current step is under way."""
        step, session = self.current, self._session
        if session is None or step is None:
            return ""
        if step.key == "fix" and any(info.tool not in _NOT_DRAWN for info in session.journal.history(_ALL)):
            return "Painted. Save writes it into the mask files."
        if step.key == "train" and any(run.is_alive() for run in self._runs()):
            return "Training is under way."
        return ""

    def open(self) -> None:
        """Open the copy of the region, made at the first time.

        Raises
        ------
        GlacierError
            If it cannot be opened.
        OSError
            If it cannot be written.
        """
        self.workspace.open(sample_copy(first_steps_folder(), without_masks=UNMAPPED_TILES))

    def begin_again(self) -> None:
        """Open a fresh copy; the one before, with what was done in it, is kept aside under another name.

        Raises
        ------
        DataError
            While a network is being trained in it, or another window shows it.
        """
        if any(run.is_alive() for run in self._runs()):
            raise DataError("Training is under way in this copy of the region. Stop it in Train, then begin again.")
        if Session.is_open_elsewhere(self.folder, self.workspace):
            # It would go on in the folder that comes in its place.
            raise DataError(
                "This copy of the region is open in another window. Close it there (its layers, or the window), then "
                "begin again."
            )
        if self._session is not None:
            self.workspace.close_session()
        self.workspace.open(sample_copy(first_steps_folder(), fresh=True, without_masks=UNMAPPED_TILES))

    def show_unmapped(self) -> None:
        """Fly to the first of the tiles that came without labels."""
        if self._session is not None:
            number, place = self._session.find(UNMAPPED_TILES[0])
            self.workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width, plane=number)

    def look(self) -> None:
        """See whether a run has finished: the trainer is a process of its own and tells nobody."""
        if self._session is not None and not self._trained:
            self._trained = any(run.state() == "done" for run in self._runs())
            self.changed.emit()

    def close(self) -> None:
        """Disconnect from the workspace and its session."""
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)
        self.workspace.layers_changed.disconnect(self._tell, missing_ok=True)
        self.workspace.predicted.disconnect(self._tell, missing_ok=True)
        self._leave()

    def _runs(self) -> list[RunFolder]:
        return [RunFolder(path.parent) for path in (self.folder / "runs").glob("*/run.yaml")]

    def _on_session(self, session: Any) -> None:
        self._leave()
        if session is not None and session.root.resolve() == self.folder.resolve():
            self._session = session
            session.edited.connect(self._tell)
            self.look()
        self.changed.emit()

    def _leave(self) -> None:
        if self._session is not None:
            self._session.edited.disconnect(self._tell, missing_ok=True)
        self._session, self._trained = None, False

    def _tell(self) -> None:
        self.changed.emit()
