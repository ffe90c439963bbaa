"""A prediction of an earlier sitting, or one that was made without the window: read from its folder and shown."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_glacier.controllers.models import ModelChoice
from napari_glacier.controllers.parts import Part
from napari_glacier.controllers.prediction_job import Made, Outcome, Request, Step
from napari_glacier.controllers.prediction_map import News
from napari_glacier.core.classes import tagged_scheme
from napari_glacier.core.data.predictions import PredictedTile, predicted_tile, records_of
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window

if TYPE_CHECKING:
    from napari_glacier.controllers.session import Session
    from napari_glacier.core.classes import ClassScheme
    from napari_glacier.core.data.tiles import Placement

# Pixels that are read before the window is told of them.
_STRIP_PX = 2048 * 2048

_Found = list[tuple[int, "Placement", PredictedTile]]


def read_prediction(session: "Session", folder: Path) -> Generator[Step, None, Outcome]:
    """Read the maps of the scenes on screen from a folder of predictions; to be closed between steps to cancel.

    Raises
    ------
    DataError
        If it holds no map of a tile on screen.
    GlacierError
        If a map cannot be read, or its classes are not known.
    """
    numbers = range(len(session.scenes)) if session.stacked else (session.scene_number,)
    yield Step(0, 0, "Looking for the tiles' maps…")
    found: _Found = [
        (number, place, predicted)
        for number in numbers
        for place in session.scenes[number].placements
        if (predicted := predicted_tile(folder, place.tile)) is not None
    ]
    if not found:
        raise DataError(
            f"{folder} holds no map of what is on screen: none of its rasters has the name and the size of a tile. "
            "Choose the folder that these tiles were predicted to."
        )
    made = _made(session, folder, found)
    for done, (number, place, predicted) in enumerate(found, 1):
        for news in _news_of(made, number, place, predicted):
            yield Step(done, len(found), f"Reading {place.tile.id}", news=(news,))
    return Outcome(made, (), tuple(_notes(session, found)))


def _made(session: "Session", folder: Path, found: _Found) -> Made:
    """Who predicted, as the maps tell it; without networks."""
    names = {predicted.tags.get("ensemble") or folder.name for _, _, predicted in found}
    name = names.pop() if len(names) == 1 else folder.name
    parts = tuple(
        Part(number, session.scenes[number], _window(place), _window(place), (place,)) for number, place, _ in found
    )
    request = Request(session, ModelChoice(name, None), "own", "", "all", parts)
    return Made(request, name, _digest(folder), _scheme(session, found), None, folder)


def _digest(folder: Path) -> str:
    """That of the model behind all of a folder's maps; parts that it predicts anew then lie beside them.

    Where it is not known, or there are several, what tells this folder from others.
    """
    try:
        digests = {str(made.get("model_digest", "")) for made in records_of(folder).values()}
    except OSError:
        digests = set()
    return (digests.pop() if len(digests) == 1 else "") or str(folder)


def _scheme(session: "Session", found: _Found) -> "ClassScheme":
    return tagged_scheme(predicted.tags for _, _, predicted in found) or session.scheme


def _news_of(made: Made, number: int, place: "Placement", predicted: PredictedTile) -> Iterator[News]:
    """The pixels of a tile, a strip of rows at a time, from the top."""
    target, scene = _window(place), made.request.session.scenes[number]
    height = max(1, _STRIP_PX // target.width)
    for row in range(0, target.height, height):
        rows = row, min(row + height, target.height)
        area = Window(target.row + row, target.col, rows[1] - rows[0], target.width)
        index_HW, entropy_HW = predicted.read_index(made.scheme, rows), predicted.read_entropy(rows)
        known_HW = scene.read(area, ())[1]
        # A model's map is background on nodata; one that was made elsewhere may be something else there.
        index_HW = np.where(known_HW, index_HW, np.uint8(0))
        counts_K = np.bincount(index_HW[known_HW], minlength=made.scheme.num_classes)
        yield News(made, number, target, area, index_HW, entropy_HW, known_HW, counts_K)


def _notes(session: "Session", found: _Found) -> Iterator[str]:
    """What a person should know of what is shown."""
    on_screen = [place for scene in session.current_scenes for place in scene.placements]
    if len(found) < len(on_screen):
        yield f"{len(on_screen) - len(found)} of {len(on_screen)} tiles on screen have no map there."
    unsure = sum(not predicted.has_entropy for _, _, predicted in found)
    if unsure:
        of_what = "the maps" if unsure == len(found) else f"{unsure} of {len(found)} maps"
        yield (
            f"How sure the model was of {of_what} was not kept: What next passes over them. Run the model again to "
            "have it."
        )


def _window(place: "Placement") -> Window:
    return Window(place.row, place.col, place.tile.height, place.tile.width)
