"""Predicting: which model on which part of the scene, and what becomes of the result. No Qt.

torch is imported by `napari_glacier.nn`, inside the worker thread that runs the job.
"""

import logging
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_glacier.controllers import parts
from napari_glacier.controllers.layers import KEY, class_colormap, class_features, world_placement
from napari_glacier.controllers.models import ModelChoice, known_models, model_path, model_title
from napari_glacier.controllers.parts import Part, cut_tile, part_of
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.errors import DataError, SaveError
from napari_glacier.core.mosaic import Mosaic
from napari_glacier.core.tiling import Window

if TYPE_CHECKING:
    from napari_glacier.controllers.session import Session
    from napari_glacier.core.classes import ClassScheme
    from napari_glacier.nn.predictor import Prediction

logger = logging.getLogger(__name__)

Scope = Literal["view", "tile", "all"]
Region = Literal["all", "unlabelled", "view"]
Tta = Literal["off", 2, 6, 8]


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be predicted, fixed when Run is pressed."""

    session: "Session"
    model: ModelChoice
    tta: Tta
    device: str
    scope: Scope
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """How far a job has come."""

    done: int
    total: int
    message: str


@dataclass(frozen=True)
class Outcome:
    """What a job gives: a prediction for each part, and the files written."""

    request: Request
    name: str
    scheme: "ClassScheme"
    predictions: "tuple[tuple[Part, Prediction], ...]"
    written: tuple[Path, ...]
    problem: str = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the models found odd about the data, each said once."""
        found = [text for _, prediction in self.predictions for text in prediction.provenance.get("warnings", ())]
        return tuple(dict.fromkeys(found))


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
        self._index: npt.NDArray[np.uint8] | None = None
        self._entropy: npt.NDArray[np.float32] | None = None
        self._known: npt.NDArray[np.bool_] | None = None
        self._scheme: ClassScheme | None = None
        self._name = ""
        self._shown_for: tuple[Any, int] | None = None
        workspace.session_changed.connect(self._on_session)

    # -- what can be chosen

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

    def request(self, model: ModelChoice, tta: Tta, device: str, scope: Scope) -> Request:
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
        return Request(session, model, tta, device, scope, parts)

    # -- running

    def job(self, request: Request) -> Generator[Step, None, Outcome]:
        """Predict every part; runs in a worker thread, may be closed between steps.

        Raises
        ------
        GlacierError
            If the model cannot be loaded, lacks bands, or the device is not there.
        """
        yield Step(0, 0, "Loading the model…")
        from napari_glacier.nn.ensemble import resolve_models
        from napari_glacier.nn.predictor import Predictor

        ensemble = resolve_models([request.model.source] if request.model.source is not None else None)
        predictor = Predictor(
            ensemble, tta=request.tta, device=request.device, window_px=parts.WINDOW_PX, overlap_px=parts.OVERLAP_PX
        )
        predictions: list[tuple[Part, Prediction]] = []
        count = len(request.parts)
        for number, part in enumerate(request.parts):
            name = f"{part.scene.name} " if count > 1 else ""
            run = predictor.run(part.scene)
            try:
                while True:
                    try:
                        progress = next(run)
                    except StopIteration as stop:
                        predictions.append((part, stop.value))
                        break
                    share = progress.done / progress.total if progress.total else 0.0
                    yield Step(round(1000 * (number + share)), 1000 * count, f"{name}{progress.message}".strip())
            finally:
                run.close()
        yield Step(1000 * count, 1000 * count, "Writing masks…")
        written, problem = self._write(request.session, ensemble, predictions)
        return Outcome(request, ensemble.name, ensemble.scheme, tuple(predictions), written, problem)

    def show(self, outcome: Outcome) -> None:
        """Lay the result over the scene; on the GUI thread. Parts predicted earlier stay.

        Raises
        ------
        DataError
            If another dataset is on screen by now.
        """
        session = outcome.request.session
        if self.workspace.session is not session:
            raise DataError(
                f"The prediction of {session.root.name} is done, but another dataset is open by now; nothing was laid "
                f"over it. Its masks are in {session.root / 'predictions'}."
            )
        mask_shape = session.mask.shape
        key = (session, session.scene_number)
        fresh = (
            self._index is None
            or self._shown_for != key
            or self._index.shape != mask_shape
            or self._name != outcome.name
            or self.workspace.prediction_layer is None
        )
        if fresh:
            self._index = np.zeros(mask_shape, np.uint8)
            self._entropy = np.zeros(mask_shape, np.float32)
            self._known = np.zeros(mask_shape, bool)
        assert self._index is not None
        assert self._entropy is not None
        assert self._known is not None
        self._shown_for, self._name, self._scheme = key, outcome.name, outcome.scheme
        for part, prediction in outcome.predictions:
            if not session.stacked and part.number != session.scene_number:
                continue
            into: Any = part.target.slices
            into = (part.number, *into) if session.stacked else into
            from_ = part.inside.slices
            self._index[into] = prediction.index_HW[from_]
            self._entropy[into] = prediction.entropy_HW[from_]
            self._known[into] = prediction.valid_HW[from_]
        self._put_layers(outcome)
        self.predicted.emit()

    # -- the result

    @property
    def has_prediction(self) -> bool:
        """Whether a prediction of the scene on screen is shown."""
        return self._index is not None and self.workspace.prediction_layer is not None

    def legend(self) -> list[tuple[str, str, str, str]]:
        """Colour, class, area and share of each class of the prediction.

        The area is in km² where the scene has a projected georeference, else in pixels.
        """
        if self._index is None or self._known is None or self._scheme is None:
            return []
        counts = np.bincount(self._index[self._known].ravel(), minlength=self._scheme.num_classes)
        georef = self._need_session().georef()
        area = georef.pixel_area_m2 if georef is not None else None
        total = max(int(counts.sum()), 1)
        rows = []
        for index, name in enumerate(self._scheme.class_names):
            amount = f"{counts[index] * area / 1e6:,.2f} km²" if area else f"{counts[index]:,} px"
            rows.append((self._scheme.colors[index], name, amount, f"{100 * counts[index] / total:.1f} %"))
        return rows

    def accept(self, region: Region) -> int:
        """Take the prediction over into the labels as one stroke; gives the number of pixels that changed.

        Locked classes and nodata stay as they are.

        Raises
        ------
        DataError
            If there is nothing to accept, or the model's classes are not the labels'.
        """
        session = self._need_session()
        if self._index is None or self._known is None or self._scheme is None:
            raise DataError("There is no prediction to accept. Run a model first.")
        if session.read_only:
            raise DataError(session.read_only)
        if self._scheme.class_names != session.scheme.class_names:
            raise DataError(
                f"The model tells {', '.join(self._scheme.class_names)} apart, the labels have "
                f"{', '.join(session.scheme.class_names)}. Choose a model of the labels' classes."
            )
        where = self._known & self._region(region)
        if not where.any():
            raise DataError(
                "Every predicted tile has labels already. Accept the visible area or everything instead."
                if region == "unlabelled"
                else "Nothing of the prediction lies there. Move the view over it."
            )
        changed = self.workspace.assign(self._index, where, tool="accept", model=self._name)
        self.predicted.emit()
        return changed

    def close(self) -> None:
        """Disconnect from the workspace."""
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)

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

    def _put_layers(self, outcome: Outcome) -> None:
        session, viewer = self._need_session(), self.workspace.viewer
        place = world_placement(None if session.stacked else session.georef(), 3 if session.stacked else 2)
        layer, entropy_layer = self.workspace.prediction_layer, self.workspace.uncertainty_layer
        if layer is not None and entropy_layer is not None and layer.data is self._index:
            layer.refresh()
            entropy_layer.refresh()
            return
        for old in (layer, entropy_layer):
            if old is not None:
                viewer.layers.remove(old)
        active = viewer.layers.selection.active
        tag = {"session": session}
        common = {**place, "opacity": 0.7}
        uncertainty = viewer.add_image(
            self._entropy,
            name="Uncertainty",
            colormap="magma",
            contrast_limits=(0.0, 1.0),
            visible=False,
            metadata={KEY: {**tag, "role": "uncertainty"}},
            **common,
        )
        prediction = viewer.add_labels(
            self._index,
            name="Prediction",
            colormap=class_colormap(outcome.scheme),
            features=class_features(outcome.scheme),
            metadata={KEY: {**tag, "role": "prediction", "model": outcome.name, "known": self._known}},
            **common,
        )
        prediction.editable = False
        labels = self.workspace.labels_layer
        if labels is not None:
            for layer in (uncertainty, prediction):
                viewer.layers.move(viewer.layers.index(layer), viewer.layers.index(labels))
        viewer.layers.selection.active = active if active is not None else labels

    def _write(
        self, session: Any, ensemble: Any, predictions: "Sequence[tuple[Part, Prediction]]"
    ) -> tuple[tuple[Path, ...], str]:
        """Write the tiles that were predicted as a whole; a folder that cannot be written is no reason to fail."""
        from napari_glacier.nn.outputs import write_predictions

        folder = session.root / "predictions" / _folder_name(ensemble.name)
        written: list[Path] = []
        try:
            for part, prediction in predictions:
                whole = session.scenes[part.number]
                if part.target == whole.whole:
                    written += write_predictions(prediction, whole, folder)
                    continue
                for place in part.tiles:
                    tile = Mosaic(whole.dataset, (replace(place, row=0, col=0),), place.tile.georef)
                    written += write_predictions(cut_tile(part, place, prediction), tile, folder)
        except (OSError, SaveError) as error:
            logger.warning("predictions were not written to %s: %s", folder, error)
            return tuple(written), f"Not written: {error}"
        return tuple(written), ""

    def _on_session(self, session: Any) -> None:
        self._index = self._entropy = self._known = None
        self._shown_for = None
        self.models_changed.emit()
        self.predicted.emit()

    def _need_session(self) -> Any:
        if self.workspace.session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        return self.workspace.session


def _folder_name(model: str) -> str:
    """A model's name as a folder's, on every system."""
    return re.sub(r"[^\w.-]+", "_", model).strip("_.") or "model"
