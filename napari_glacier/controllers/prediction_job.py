"""What runs in the worker thread of the Predict widget: predicting part by part, and writing each when it is whole.

torch is imported by `napari_glacier.nn`, inside that thread.
"""

import logging
import re
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_glacier.controllers import parts
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.controllers.parts import Part, cut_tile
from napari_glacier.controllers.prediction_map import News
from napari_glacier.core.data.mosaic import Mosaic
from napari_glacier.core.data.predictions import MEASURE_FOLDERS, PREDICTIONS_FOLDER
from napari_glacier.core.errors import SaveError
from napari_glacier.core.tiling import Window

if TYPE_CHECKING:
    from napari_glacier.controllers.session import Session
    from napari_glacier.core.classes import ClassScheme
    from napari_glacier.nn.prediction import Prediction, Progress
    from napari_glacier.nn.predictor import Predictor
    from napari_glacier.nn.store import Rows

logger = logging.getLogger(__name__)

Scope = Literal["view", "tile", "all"]
# Views: as the model's file says (off where it says nothing), or so many.
Tta = Literal["own", "off", 2, 6, 8]

# Steps of a progress bar.
_WHOLE = 1000
# Before so much time has gone, nobody can tell how long the rest takes.
_SOONEST_S = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is to be predicted, fixed when Run is pressed."""

    session: "Session"
    model: ModelChoice
    tta: Tta
    device: str
    scope: Scope
    parts: tuple[Part, ...]
    keep_probabilities: bool = False


@dataclass(slots=True, eq=False)
class Made:
    """Who predicted: the request, the ensemble's name and classes, and the networks as long as they are kept.

    Models of other runs may have the same name: `digest` tells them apart. What was read from a `folder` has no
    networks.
    """

    request: Request
    name: str
    digest: str
    scheme: "ClassScheme"
    predictor: "Predictor | None"
    folder: Path | None = None

    def need_predictor(self) -> "Predictor":
        """The networks, loaded again where they were let go."""
        assert self.folder is None, "who read a map from disk has nobody to ask"
        if self.predictor is None:
            self.predictor = _load(self.request)
        return self.predictor


@dataclass(frozen=True, slots=True)
class Step:
    """How far a job has come, and what has been finished since the step before.

    Attributes
    ----------
    done, total : int
        `total` is 0 while nobody can tell: libraries and weights are loaded, members made ready.
    message : str
    left_s : float or None
        Seconds to go, once windows have been computed for a while.
    news : tuple of News
    part : int
        Number of the part under way; those before it are whole.
    share : float
        How much of this part is finished, from 0 to 1.
    problem : str
        Why masks of parts that are whole could not be written; empty where they were.
    """

    done: int
    total: int
    message: str
    left_s: float | None = None
    news: tuple[News, ...] = ()
    part: int = 0
    share: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job that went to its end leaves: the masks written, and what there is to say."""

    made: Made
    written: tuple[Path, ...]
    warnings: tuple[str, ...] = ()
    problem: str = ""


def predict(request: Request) -> Generator[Step, None, Outcome]:
    """Predict every part and write it when it is whole; to be closed between steps to cancel.

    Raises
    ------
    GlacierError
        If the model cannot be loaded, lacks bands, or the device is not there.
    """
    predictor = _load(request)
    ensemble = predictor.ensemble
    made = Made(request, ensemble.name, predictor.model_digest, ensemble.scheme, predictor)
    folder = _folder(made)
    clock = _Clock(request.parts)
    written: list[Path] = []
    warnings: list[str] = []
    problem = ""
    for number, part in enumerate(request.parts):
        prediction = yield from _predict_part(made, predictor, number, clock, problem)
        warnings += [text for text in prediction.provenance.get("warnings", ()) if text not in warnings]
        if not problem:
            paths, problem = _write(made, folder, part, prediction)
            written += paths
    return Outcome(made, tuple(written), tuple(warnings), problem)


def _load(request: Request) -> "Predictor":
    from napari_glacier.nn.ensemble import resolve_models
    from napari_glacier.nn.predictor import Predictor

    ensemble = resolve_models([request.model.source] if request.model.source is not None else None)
    views = (ensemble.tta or "off") if request.tta == "own" else request.tta
    return Predictor(ensemble, tta=views, device=request.device, window_px=parts.WINDOW_PX, overlap_px=parts.OVERLAP_PX)


def _predict_part(
    made: Made, predictor: "Predictor", number: int, clock: "_Clock", problem: str
) -> "Generator[Step, None, Prediction]":
    """Predict a part; its rows travel with the steps."""
    part = made.request.parts[number]
    finished: list[News] = []
    share = 0.0

    def on_rows(rows: "Rows") -> None:
        nonlocal share
        news = _news(made, part, rows)
        if news is not None:
            finished.append(news)
            share = (news.area.row + news.area.height - part.target.row) / part.target.height

    def taken() -> tuple[News, ...]:
        news = tuple(finished)
        finished.clear()
        return news

    name = "" if len(made.request.parts) == 1 else f"{number + 1} of {len(made.request.parts)}, "
    run = predictor.run(part.scene, on_rows=on_rows)
    try:
        while True:
            try:
                progress: Progress = next(run)
            except StopIteration as stop:
                prediction: Prediction = stop.value
                break
            done, total, left_s = clock.read(number, progress)
            yield Step(done, total, name + progress.message, left_s, taken(), number, share, problem)
    finally:
        run.close()
    yield Step(clock.end_of(number), _WHOLE, f"{name}{part.scene.name}: writing", None, taken(), number, 1.0, problem)
    return prediction


def _news(made: Made, part: Part, rows: "Rows") -> News | None:
    """The part's own pixels among finished rows of its scene; None where these lie in the margin around it."""
    top = max(rows.start, part.inside.row)
    bottom = min(rows.start + len(rows.index_hW), part.inside.row + part.inside.height)
    if top >= bottom:
        return None
    cut = np.s_[top - rows.start : bottom - rows.start, part.inside.col : part.inside.col + part.inside.width]
    area = Window(part.target.row + top - part.inside.row, part.target.col, bottom - top, part.target.width)
    # Copies, so that the rest of the rows is freed.
    index_HW, known_HW = rows.index_hW[cut].copy(), rows.valid_hW[cut].copy()
    counts_K = np.bincount(index_HW[known_HW], minlength=made.scheme.num_classes)
    return News(made, part.number, part.target, area, index_HW, rows.entropy_hW[cut].copy(), known_HW, counts_K)


class _Clock:
    """How much of a job is done and how long the rest takes; time spent on making ready says nothing of that."""

    def __init__(self, all_parts: tuple[Part, ...]) -> None:
        sizes = [float(part.scene.shape[0] * part.scene.shape[1]) for part in all_parts]
        self._ends = [sum(sizes[: number + 1]) / sum(sizes) for number in range(len(sizes))]
        self._begun: tuple[float, float] | None = None

    def read(self, number: int, progress: "Progress") -> tuple[int, int, float | None]:
        """Steps done, steps in all (0 while nobody can tell), and seconds to go where they can be told."""
        begin = self._ends[number - 1] if number else 0.0
        share = progress.done / progress.total if progress.total else 0.0
        reached = begin + share * (self._ends[number] - begin)
        if progress.preparing:
            return round(_WHOLE * reached), _WHOLE if self._begun else 0, None
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, reached
        elapsed, gained = now - self._begun[0], reached - self._begun[1]
        left_s = elapsed * (1 - reached) / gained if elapsed > _SOONEST_S and gained > 0 else None
        return round(_WHOLE * reached), _WHOLE, left_s

    def end_of(self, number: int) -> int:
        """Steps done when a part is whole."""
        return round(_WHOLE * self._ends[number])


def _write(made: Made, folder: Path, part: Part, prediction: "Prediction") -> tuple[list[Path], str]:
    """Write the tiles that were predicted as a whole; a folder that cannot be written is no reason to fail."""
    from napari_glacier.nn.outputs import write_predictions

    session: Any = made.request.session
    whole = session.scenes[part.number]
    written: list[Path] = []

    def write(prediction: "Prediction", mosaic: Mosaic) -> None:
        # How sure the models were is what the map is worth to a person who corrects it in another sitting.
        paths = write_predictions(prediction, mosaic, folder, made.request.keep_probabilities, uncertainty=True)
        written.extend(path for path in paths if MEASURE_FOLDERS.isdisjoint(path.relative_to(folder).parts))

    try:
        if part.target == whole.whole:
            write(prediction, whole)
            return written, ""
        for place in part.tiles:
            tile = Mosaic(whole.dataset, (replace(place, row=0, col=0),), place.tile.georef)
            write(cut_tile(part, place, prediction), tile)
    except (OSError, SaveError) as error:
        logger.warning("predictions were not written to %s: %s", folder, error)
        return written, f"Not written: {error}"
    return written, ""


def _folder(made: Made) -> Path:
    """Where the masks of a run go: a folder of the model's name, or one beside it where that is another model's."""
    from napari_glacier.nn.provenance import is_of_another

    assert made.predictor is not None
    folder: Path = made.request.session.root / PREDICTIONS_FOLDER / _folder_name(made.name)
    try:
        taken = is_of_another(folder, made.predictor.ensemble, made.digest)
    except OSError as error:
        # What may be another model's is not written over.
        logger.warning("the record of %s cannot be read: %s", folder, error)
        taken = True
    return folder.with_name(f"{folder.name}-{made.digest[:8]}") if taken else folder


def _folder_name(model: str) -> str:
    """A model's name as a folder's, on every system."""
    return re.sub(r"[^\w.-]+", "_", model).strip("_.") or "model"
