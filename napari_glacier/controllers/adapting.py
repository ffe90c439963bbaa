"""Learn from me now: a copy of a model learns what was just corrected, shows what would change, is kept or dropped.

The work is done by `training.adapt`, a process of its own that meets this window through files. No Qt, no torch.
"""

import json
import logging
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from psygnal import Signal

from napari_glacier.controllers.layers import KEY, tag_of, world_placement
from napari_glacier.controllers.models import ModelChoice, known_models
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.errors import DataError
from napari_glacier.core.models.promotion import MODELS_FOLDER
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.core.tiling import Window
from napari_glacier.core.wording import counted

logger = logging.getLogger(__name__)

# Inside the folder of kept models, one level too deep to be taken for one of them.
CANDIDATES_FOLDER = ".candidates"
ROLE = "adapted"
LAYER = "Would change"
_CONSOLE = "console.log"
# What was done, and to what effect.
_ADAPTED = "adapted.json"
_TAIL_CHARS = 400
# Of corrections kept back: where fewer came right, lessons mended next to nothing else.
_CARRIES = 0.25
# What a process tells while it works, and what it may end with; other lines are damaged.
_GOING_ON = ("start", "progress")
_TOLD = (*_GOING_ON, "done", "failed", "stopped")


class AdaptController:
    """Starts the learning, follows it, and keeps or drops what came of it.

    Parameters
    ----------
    workspace : Workspace

    Signals
    -------
    changed() : state or progress
    """

    changed = Signal()

    # Folders of models that some window of this process may still keep.
    _living: ClassVar[set[Path]] = set()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._session: Any = None
        self._run: RunFolder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._said: dict[str, Any] = {}
        # Whether what came of it was looked at.
        self._settled = False
        # The labels that what would change was last laid over.
        self._shown_over: Any = None
        workspace.session_changed.connect(self._on_session)
        workspace.layers_changed.connect(self._on_layers)
        self._on_session(workspace.session)

    # -- what there is

    def models(self) -> list[ModelChoice]:
        """Models that can learn: those that can predict."""
        return known_models(self.workspace.session)

    @property
    def usual_model(self) -> int:
        """Number of the model whose prediction is on screen, else of the first."""
        layer = self.workspace.prediction_layer
        name = str(tag_of(layer).get("model", "")) if layer is not None else ""
        titles = [choice.title for choice in self.models()]
        return titles.index(name) if name in titles else 0

    @property
    def state(self) -> str:
        """idle, working, ready (to be kept or dropped), or failed."""
        if self._run is None:
            return "idle"
        if not self._settled:
            # Until `poll` has read the last event, also where the process has ended.
            return "working"
        return "ready" if (self._run.path / "ensemble.yaml").is_file() else "failed"

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done and all steps; (0, 0) where that is not known."""
        return int(self._said.get("done", 0)), int(self._said.get("total", 0))

    @property
    def sentence(self) -> str:
        """What is going on, or what came of it."""
        state, said = self.state, self._said
        if state == "working":
            return str(said.get("message", "Loading libraries…"))
        if state == "failed":
            return str(said.get("message") or self._console())
        if state == "ready":
            pixels = said["corrected_pixels"] + said["confirmed_pixels"]
            return (
                f"Learnt from {pixels:,} pixels in {said['seconds']:.0f} s: {said['right_before']:.0%} of them were "
                f"predicted right before, {said['right_after']:.0%} now. {said['changed_pixels']:,} of "
                f"{said['shown_pixels']:,} pixels around would be mapped otherwise; they are shown. No label was "
                f"touched. {_advice(said.get('carried'))} {said.get('note', '')} Keep the new model?".replace("  ", " ")
            )
        return ""

    # -- what can be done

    def start(self, model: ModelChoice) -> None:
        """Let a copy of a model learn what was corrected in the open dataset.

        Raises
        ------
        DataError
            If there is no dataset, nothing can be written into it, or learning is under way.
        """
        session = self._need_session()
        if session.read_only:
            raise DataError(session.read_only)
        if self.state == "working":
            raise DataError("Learning is under way. Wait, or cancel it first.")
        self.drop()
        session.commit()
        try:
            run = RunFolder.create(session.root / MODELS_FOLDER / CANDIDATES_FOLDER, "adapted")
        except OSError as error:
            raise DataError(
                f"The new model has no place in {session.root / MODELS_FOLDER} ({error.strerror}). Make the folder "
                "writable, or copy the dataset to where you may write."
            ) from error
        # -P keeps a stray training.py in the current folder from shadowing the trainer.
        command = [sys.executable, "-P", "-m", "training.adapt", "--data", str(session.root), "--out", str(run.path)]
        command += ["--scheme", session.scheme.name]
        if model.source is not None:
            command += ["--model", str(model.source)]
        with (run.path / _CONSOLE).open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self._run, self._said, self._settled = run, {}, False
        self._living.add(run.path)
        logger.info("started %s (process %d)", " ".join(command), self._process.pid)
        self.changed.emit()

    def poll(self) -> None:
        """Read what is new; when it has ended, show what would change."""
        if self._run is None or self._settled:
            return
        # This first: of a process that is known to have ended all events are there.
        working = self._process is not None and self._process.poll() is None
        events = [event for event in self._run.events() if event["event"] in (_GOING_ON if working else _TOLD)]
        if events and events[-1] != self._said:
            self._said = events[-1]
            self.changed.emit()
        if not working:
            self._settled = True
            if self.state == "ready":
                # As the last event, which may be damaged.
                self._said = json.loads((self._run.path / _ADAPTED).read_text(encoding="utf-8"))
                self._show()
            elif self._said.get("event") not in {"failed", "stopped"}:
                self._said = {"event": "failed", "message": self._console()}
            self.changed.emit()

    def cancel(self) -> None:
        """Stop the process; what it wrote is deleted."""
        self.drop()

    def keep_and_take_over(self) -> str:
        """Keep the new model, and take what would change over into the labels as one stroke; gives a sentence on it.

        What somebody drew or found right stays, and so do approved tiles. As accepting a prediction, it is no looking.

        Raises
        ------
        DataError
            If there is no new model, or what it would change is no longer on screen; nothing is kept then.
        """
        session, run = self._need_session(), self._run
        if run is None or self.state != "ready":
            raise DataError("There is no new model to keep. Learn first.")
        shown = [layer for layer in self.workspace.viewer.layers if tag_of(layer).get("role") == ROLE]
        if not shown:
            raise DataError(
                "What would change is no longer on screen: another scene was shown, or the layer was deleted. Keep the "
                "model alone, then predict with it and accept what you like."
            )
        changes = np.asarray(shown[0].data).copy()
        if not changes.any():
            raise DataError(
                "Nothing would change in the scene on screen. Show the one that was corrected, or keep the model alone."
            )
        for plane, changed_HW in enumerate(changes if changes.ndim == 3 else changes[np.newaxis]):
            rows, cols = (np.flatnonzero(changed_HW.any(axis)) for axis in (1, 0))
            if rows.size:
                # The lesson's part of a large scene, not all its tiles.
                box = Window(int(rows[0]), int(cols[0]), int(rows[-1] - rows[0] + 1), int(cols[-1] - cols[0] + 1))
                changed_HW[box.slices][session.touched(box, plane)] = 0
        said = self.keep()
        changed = self.workspace.assign(changes - (changes > 0), changes > 0, tool="accept", model=run.path.name)
        undo = "; Undo takes that back" if changed else ""
        return f"{counted(changed, 'pixel')} of the labels changed{undo}. {said}"

    def keep(self) -> str:
        """Put the new model among those of the dataset; gives a sentence on it. The old one stays what it is."""
        session, run = self._need_session(), self._run
        if run is None or self.state != "ready":
            raise DataError("There is no new model to keep. Learn first.")
        shelf = session.root / MODELS_FOLDER
        target = shelf / run.path.name
        number = 2
        while target.exists():
            target, number = shelf / f"{run.path.name}-{number}", number + 1
        try:
            run.path.rename(target)
        except OSError as error:
            raise DataError(
                f"The model could not be kept in {shelf} ({error.strerror}). Free space there, then keep it again."
            ) from error
        self._living.discard(run.path)
        self._run = None
        self.drop()
        self.workspace.models_changed.emit()
        return f"Kept as {target.name}: it is in the list of models (Predict widget). Predict again to see all it does."

    def drop(self) -> None:
        """Forget what was learnt: the model is deleted, the layer goes, nothing else changes."""
        process, self._process = self._process, None
        run, self._run = self._run, None
        self._said = {}
        if process is not None and process.poll() is None:
            # It writes into its own folder alone, which goes with it; a clean end would take seconds.
            process.kill()
            process.wait()
        if run is not None:
            shutil.rmtree(run.path, ignore_errors=True)
            self._living.discard(run.path)
        self._hide()
        self.changed.emit()

    def close(self) -> None:
        """Disconnect; what is not kept by now is dropped."""
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)
        self.workspace.layers_changed.disconnect(self._on_layers, missing_ok=True)
        self.drop()

    # -- the layer

    def _show(self) -> None:
        """Lay the pixels that would be mapped otherwise over the scene, in the colours of their new classes."""
        session, run = self._need_session(), self._run
        assert run is not None
        self._shown_over = self.workspace.labels_layer
        changed = np.zeros(session.mask.shape, np.uint8)
        with np.load(run.path / "changes.npz") as file:
            for plane, scene in enumerate(session.current_scenes):
                for place in scene.placements:
                    if f"{place.tile.id}/after" not in file:
                        continue
                    before_HW, after_HW = (file[f"{place.tile.id}/{when}"] for when in ("before", "after"))
                    row, col = (int(k) for k in file[f"{place.tile.id}/at"])
                    rows = slice(place.row + row, place.row + row + after_HW.shape[0])
                    cols = slice(place.col + col, place.col + col + after_HW.shape[1])
                    of_scene_HW = changed[plane] if changed.ndim == 3 else changed
                    of_scene_HW[rows, cols] = np.where(before_HW != after_HW, after_HW + 1, 0)
        self._hide()
        viewer, active = self.workspace.viewer, self.workspace.viewer.layers.selection.active
        layer = viewer.add_labels(
            changed,
            name=LAYER,
            colormap=_colormap(session.scheme),
            opacity=0.9,
            metadata={KEY: {"session": session, "role": ROLE}},
            **world_placement(None if session.stacked else session.georef(), changed.ndim),
        )
        layer.editable = False
        viewer.layers.selection.active = active if active in viewer.layers else layer

    def _on_layers(self) -> None:
        labels = self.workspace.labels_layer
        if labels is not None and labels is not self._shown_over and self._settled and self.state == "ready":
            # Another scene is on screen: what would change may lie there.
            self._show()

    def _hide(self) -> None:
        for layer in [layer for layer in self.workspace.viewer.layers if tag_of(layer).get("role") == ROLE]:
            self.workspace.remove_layer(layer)

    # -- the session

    def _need_session(self) -> Any:
        if self.workspace.session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        return self.workspace.session

    def _on_session(self, session: Any) -> None:
        if session is not self._session:
            if self._session is not None:
                self.drop()
            self._session = session
            if session is not None and not session.read_only:
                self._clear_candidates(session.root / MODELS_FOLDER / CANDIDATES_FOLDER)
            self.changed.emit()

    @staticmethod
    def _clear_candidates(folder: Path) -> None:
        """Delete what a window that was killed left; nobody can keep it any more."""
        for left in folder.glob("*-adapted*"):
            if left not in AdaptController._living and not RunFolder(left).is_alive():
                shutil.rmtree(left, ignore_errors=True)

    def _console(self) -> str:
        assert self._run is not None
        try:
            text = (self._run.path / _CONSOLE).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            text = ""
        stamp = datetime.now().strftime("%H:%M")
        return f"Learning ended without a model at {stamp}. {text[-_TAIL_CHARS:]}".strip()


def _advice(carried: float | None) -> str:
    """What corrections that were kept back say of the lesson; empty where they were too few."""
    if carried is None:
        return ""
    tried = f"Of corrections kept back for a trial {max(carried, 0):.0%} came right by learning from the others"
    return f"{tried}." if carried >= _CARRIES else f"{tried}: they are single cases, and there is little to gain."


def _colormap(scheme: Any) -> Any:
    from napari.utils.colormaps import DirectLabelColormap

    colors: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    colors |= {index + 1: color for index, color in enumerate(scheme.colors)}
    return DirectLabelColormap(color_dict=colors)
