"""Predicting: which model on which part of the scene, and what becomes of the result. No Qt."""

import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_glacier.controllers.earlier_prediction import read_prediction
from napari_glacier.controllers.models import ModelChoice, known_models, model_path, model_title, promoted_choice
from napari_glacier.controllers.parts import part_of
from napari_glacier.controllers.prediction_job import Made, Outcome, Request, Scope, Step, Tta, predict
from napari_glacier.controllers.prediction_layers import draw_prediction, prediction_layers
from napari_glacier.controllers.prediction_map import News, PredictionMap
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.data.predictions import PREDICTIONS_FOLDER, folders_of_masks
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window
from napari_glacier.core.wording import counted

__all__ = ["InferenceController", "Outcome", "Region", "Request", "Scope", "Step", "Tta"]

Region = Literal["all", "unlabelled", "view"]

_SCOPE_NAMES: dict[Scope, str] = {"view": "what was on screen", "tile": "the tile", "all": "the scene"}
# Layers are drawn again no more often than this while rows come in.
_REDRAW_S = 0.1
_POLL_S = 0.1

Result = TypeVar("Result")


class InferenceController:
    """Decides what the Predict widget does.

    Parameters
    ----------
    workspace : Workspace

    Signals
    -------
    models_changed(), predicted()
    """

    models_changed = Signal()
    predicted = Signal()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._picked: list[ModelChoice] = []
        self._map: PredictionMap | None = None
        self._shown_for: tuple[Any, int] | None = None
        self._made: Made | None = None
        # The run whose networks are kept, so that a pixel can be asked about.
        self._kept: Made | None = None
        self._drawn = 0.0
        self._at_work = threading.Lock()
        self._session: Any = None
        self._follow(workspace.session)
        workspace.session_changed.connect(self._on_session)
        workspace.models_changed.connect(self._on_models)

    # -- what can be chosen

    @property
    def usual(self) -> Path | None:
        """The model that the open dataset works with; None for the bundled ensemble."""
        session = self.workspace.session
        promoted = promoted_choice(session) if session is not None else None
        return promoted.source if promoted is not None else None

    def models(self) -> list[ModelChoice]:
        """Bundled ensemble, picked files, and the runs of the open dataset, newest first."""
        return known_models(self.workspace.session, self._picked)

    def add_model(self, path: Path) -> ModelChoice:
        """Offer a checkpoint file, a run folder or an ensemble.

        Raises
        ------
        CheckpointError
            If there is no model at that place.
        """
        path = model_path(path)
        choice = next((known for known in self.models() if known.source == path), ModelChoice(model_title(path), path))
        if choice not in self.models():
            self._picked.insert(0, choice)
        self.models_changed.emit()
        return choice

    def request(
        self, model: ModelChoice, tta: Tta, device: str, scope: Scope, *, keep_probabilities: bool = False
    ) -> Request:
        """Fix what is to be predicted from what is on screen now.

        Raises
        ------
        DataError
            If no dataset is open, or nothing of it is on screen.
        """
        session = self._need_session()
        if scope == "all":
            parts = tuple(part_of(number, scene, scene.whole) for number, scene in enumerate(session.scenes))
            if not session.stacked and len(session.scenes) > 1:
                # Scenes of different sizes are on screen one at a time; all are predicted and written.
                parts = (parts[session.scene_number], *(p for p in parts if p.number != session.scene_number))
        else:
            number = self.workspace.plane if session.stacked else session.scene_number
            parts = (part_of(number, session.scenes[number], self._window(scope)),)
        return Request(session, model, tta, device, scope, parts, keep_probabilities)

    # -- running

    def job(self, request: Request) -> Generator[Step, None, Outcome]:
        """Predict every part, and write each when it is whole; in a worker thread, closed between steps to cancel.

        Raises
        ------
        GlacierError
            If the model cannot be loaded, lacks bands, or the device is not there.
        """
        return (yield from self.alone(predict(request)))

    def earlier(self) -> list[tuple[Path, float]]:
        """Folders of predictions in that of the open dataset, and when they were written to, the newest first."""
        session = self.workspace.session
        return folders_of_masks(session.root / PREDICTIONS_FOLDER) if session is not None else []

    def read_earlier(self, folder: Path) -> Generator[Step, None, Outcome]:
        """Read a prediction of an earlier sitting, or one made at the terminal; in a worker thread.

        Raises
        ------
        GlacierError
            If no dataset is open, or the folder holds no maps of what is on screen, or one cannot be read.
        """
        return read_prediction(self._need_session(), folder)

    def alone(self, job: Generator[Step, None, Result]) -> Generator[Step, None, Result]:
        """Run a job when no other one is at work with networks; in a worker thread.

        One that was cancelled ends after the pass or the conversion under way: two at once would be in each
        other's way.
        """
        yield Step(0, 0, "Loading the model…")
        while not self._at_work.acquire(timeout=_POLL_S):
            yield Step(0, 0, "Waiting for what was cancelled to let go…")
        try:
            return (yield from job)
        finally:
            self._at_work.release()

    def keep_networks(self, made: Made | None) -> None:
        """Keep the networks of one run, and let go of those of the run before."""
        if self._kept is not None and self._kept is not made:
            self._kept.predictor = None
        self._kept = made

    def take(self, step: Step) -> None:
        """Lay the pixels that a job has just finished over the scene; on the GUI thread.

        Nothing is done where another dataset or scene is on screen by now.
        """
        for news in step.news:
            self._put(news)
        if step.news and time.monotonic() - self._drawn > _REDRAW_S:
            self._draw(live=True)
            self.predicted.emit()

    def show(self, outcome: Outcome) -> None:
        """Show all of a finished job; on the GUI thread.

        Raises
        ------
        DataError
            If another dataset is on screen by now.
        """
        session = outcome.made.request.session
        if self.workspace.session is not session:
            raise DataError(
                f"The prediction of {session.root.name} is done, but another dataset is open by now; nothing was laid "
                f"over it. Its masks are in {session.root / PREDICTIONS_FOLDER}."
            )
        self.settle()
        self.workspace.predicted.emit()

    def settle(self) -> None:
        """Draw what a job left, whole or not, and mark what is not; on the GUI thread, when the job has ended."""
        if self._map is not None and self._on_screen():
            self._draw()
        self.predicted.emit()

    def say_cancelled(self, request: Request, step: Step | None) -> str:
        """What is shown and written of a job that went as far as `step`."""
        number, share = (step.part, step.share) if step is not None else (0, 0.0)
        # Rounded down: 100 % is said of what is whole.
        percent = min(int(100 * share), 99)
        if len(request.parts) == 1:
            if not share:
                return "Cancelled before any of it was predicted; what was shown before stays."
            name = _SCOPE_NAMES[request.scope]
            return f"Cancelled: {percent} % of {name} is predicted and shown. Nothing was written."
        problem = step.problem if step is not None else ""
        written = "" if problem else " and written"
        whole = f"{number} of {counted(len(request.parts), 'scene')} are predicted{written}"
        partly = f"; of {request.parts[number].scene.name}, {percent} % is predicted and not written" if share else ""
        return f"Cancelled: {whole}{partly}. {problem}".rstrip()

    # -- the result

    @property
    def has_prediction(self) -> bool:
        """Whether a prediction of the scene on screen is shown."""
        return self._map is not None and self._on_screen() and self.workspace.prediction_layer is not None

    @property
    def prediction(self) -> PredictionMap | None:
        """The prediction of the scene on screen."""
        return self._map if self.has_prediction else None

    @property
    def layers_taken_away(self) -> bool:
        """Whether a prediction of the scene on screen is here, but a person has removed a layer of it."""
        return self._map is not None and self._on_screen() and None in prediction_layers(self.workspace)

    def bring_layers_back(self) -> None:
        """Show the prediction again whose layers were taken away."""
        if self.layers_taken_away:
            self._draw()
            self.predicted.emit()

    @property
    def incomplete(self) -> str:
        """Which share of what was asked for the prediction covers; empty where all of it, or of another scene."""
        if self._map is None or self._made is None or not self._on_screen():
            return ""
        stacked = self._need_session().stacked
        begun = [area for area in self._map.areas if area.made is self._made or not area.whole]
        there = {(area.number, area.target) for area in begun if area.made is self._made}
        asked = sum(area.target.height for area in begun)
        for part in self._made.request.parts:
            here = stacked or self._shown_for == (self.workspace.session, part.number)
            if here and (part.number, part.target) not in there:
                asked += part.target.height
        done = sum(area.rows_done for area in begun)
        return f"{min(int(100 * done / asked), 99)} %" if done < asked else ""

    def legend(self) -> list[tuple[str, str, str, str]]:
        """Colour, class, area and share of each class of the prediction.

        The area is in km² where the scene has a projected georeference, else in pixels. Without a prediction of the
        scene on screen there are no rows.
        """
        if self._map is None or not self.has_prediction:
            return []
        counts, scheme = self._map.counts_K, self._map.scheme
        georef = self._need_session().georef()
        area = georef.pixel_area_m2 if georef is not None else None
        total = max(int(counts.sum()), 1)
        rows = []
        for index, name in enumerate(scheme.class_names):
            amount = f"{counts[index] * area / 1e6:,.2f} km²" if area else f"{counts[index]:,} px"
            rows.append((scheme.colors[index], name, amount, f"{100 * counts[index] / total:.1f} %"))
        return rows

    def accept(self, region: Region) -> int:
        """Take the prediction over into the labels as one stroke; gives the number of pixels that changed.

        Locked classes, nodata and what is not predicted (yet) stay as they are.

        Raises
        ------
        DataError
            If nothing is predicted of the scene on screen, or the model's classes are not the labels'.
        """
        session = self._need_session()
        if self._map is None or self._made is None:
            raise DataError("There is no prediction to accept. Run a model first.")
        if not self.has_prediction:
            raise DataError("There is no prediction of the scene on screen. Predict it first.")
        scheme = self._map.scheme
        if session.read_only:
            raise DataError(session.read_only)
        if self.workspace.labels_layer is None:
            raise DataError("The layer Labels was removed: nobody would see what is taken over. Bring it back first.")
        if scheme.class_names != session.scheme.class_names:
            raise DataError(
                f"The model tells {', '.join(scheme.class_names)} apart, the labels have "
                f"{', '.join(session.scheme.class_names)}. Choose a model of the labels' classes."
            )
        where = self._map.known & self._region(region)
        if not where.any():
            raise DataError(
                "Every predicted tile has labels already. Accept the visible area or everything instead."
                if region == "unlabelled"
                else "Nothing of the prediction lies there. Move the view over it."
            )
        changed = self.workspace.assign(self._map.index, where, tool="accept", model=self._made.name)
        self.predicted.emit()
        return changed

    def close(self) -> None:
        """Disconnect from the workspace, and let go of the networks."""
        self._forget()
        self._follow(None)
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)
        self.workspace.models_changed.disconnect(self._on_models, missing_ok=True)

    def _region(self, region: Region) -> npt.NDArray[np.bool_]:
        session = self._need_session()
        shape = session.mask.shape
        if region == "all":
            return np.ones(shape, bool)
        where = np.zeros(shape, bool)
        if region == "view":
            lead = (self.workspace.plane,) if session.stacked else ()
            where[(*lead, *self._window("view").slices)] = True
            return where
        unsaved = session.unsaved()
        unlabelled = {tile.id for tile in session.dataset.tiles if tile.mask_path is None and tile.id not in unsaved}
        for number, scene in enumerate(session.current_scenes):
            for place in scene.placements:
                if place.tile.id in unlabelled:
                    where[((number,) if session.stacked else ()) + place.slices] = True
        return where

    def _window(self, scope: str) -> Window:
        if scope == "tile":
            place = self.workspace.tile_under_view()
            if place is None:
                raise DataError("There is no tile under the middle of the view. Move the view over one.")
            return Window(place.row, place.col, place.tile.height, place.tile.width)
        window = self.workspace.visible_window()
        if window is None:
            raise DataError("Nothing of the dataset is on screen. Move the view over it, or predict everything.")
        return window

    def _put(self, news: News) -> None:
        """Take pixels into the map of the scene that they belong to, if that is or was on screen."""
        session = news.made.request.session
        if self.workspace.session is not session:
            return
        key = (session, 0 if session.stacked else news.number)
        same = self._map is not None and self._shown_for == key
        if same and self._made is not news.made:
            # Parts that the same model predicted before stay, unless a person took their layers away.
            assert self._made is not None
            same = self._made.digest == news.made.digest and None not in prediction_layers(self.workspace)
        if not same and (session.stacked or news.number == session.scene_number):
            self._map, self._shown_for = PredictionMap(session.mask.shape, news.made.scheme), key
            same = True
        if same:
            self._made = news.made
            self.keep_networks(news.made)
            assert self._map is not None
            self._map.put(news)

    def _on_screen(self) -> bool:
        """Whether the scene of the map is the one on screen."""
        session = self.workspace.session
        return session is not None and self._shown_for == (session, 0 if session.stacked else session.scene_number)

    def _draw(self, *, live: bool = False) -> None:
        if self._map is not None and self._made is not None and self._on_screen():
            draw_prediction(self.workspace, self._map, self._made.name, whole=not self.incomplete, thumbnails=not live)
            self._drawn = time.monotonic()

    def _forget(self) -> None:
        self.keep_networks(None)
        self._map = self._shown_for = self._made = None

    def _on_models(self) -> None:
        self.models_changed.emit()

    def _on_session(self, session: Any) -> None:
        self._follow(session)
        self._forget()
        self.models_changed.emit()
        self.predicted.emit()

    def _follow(self, session: Any) -> None:
        if self._session is not None:
            self._session.scene_shown.disconnect(self._on_scene, missing_ok=True)
        self._session = session
        if session is not None:
            session.scene_shown.connect(self._on_scene)

    def _on_scene(self) -> None:
        # Its layers left with the scene, and come back with it.
        if not self.has_prediction:
            self._draw()

    def _need_session(self) -> Any:
        if self.workspace.session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        return self.workspace.session
