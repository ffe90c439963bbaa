"""What is known about one pixel: its spectrum beside those of the classes around it, and the prediction. No Qt."""

from dataclasses import dataclass, replace

import numpy as np

from napari_glacier.controllers.evidence import EvidenceSource
from napari_glacier.controllers.layers import map_text
from napari_glacier.controllers.predicted import shown_prediction
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.spectra import class_means


@dataclass(frozen=True, slots=True)
class PixelReport:
    """A pixel, explained.

    Attributes
    ----------
    place : str
        Easting and northing, or row and column.
    label : int
        Class in the labels.
    bands : tuple of str
        Those that the pixel's tile has.
    spectrum : tuple of float
        In the data's own units, a value a band.
    class_spectra : dict of int to tuple of float
        Means of the classes that occur in the window.
    predicted : int or None
        Class of the prediction; None where there is none.
    confidence : float
        Its probability, or 1 minus the entropy where probabilities were not kept.
    probabilities : tuple of float
        Of every class; made of class and entropy where they were not kept.
    lacking : tuple of str
        Bands that the tile should have, and does not.
    """

    place: str
    label: int
    bands: tuple[str, ...]
    spectrum: tuple[float, ...]
    class_spectra: dict[int, tuple[float, ...]]
    predicted: int | None = None
    confidence: float = 0.0
    probabilities: tuple[float, ...] = ()
    lacking: tuple[str, ...] = ()


def describe_pixel(workspace: Workspace, source: EvidenceSource, row: int, col: int, window: Window) -> PixelReport:
    """Explain a pixel by what lies in a window around it.

    Raises
    ------
    DataError
        If the pixel carries no data.
    """
    session = workspace.session
    assert session is not None
    scene = source.scene()
    tiles = [place.tile for place in scene.tiles_in(Window(row, col, 1, 1))]
    # A band that the tile lacks would read as 0, which is no measurement.
    bands = tuple(band for band in source.bands if any(band in tile.bands for tile in tiles))
    image_CHW, valid_HW = scene.read(window, bands)
    at = row - window.row, col - window.col
    if not valid_HW[at]:
        raise DataError("There are no data at this pixel.")
    for place in scene.tiles_in(window):
        if not set(bands) <= set(place.tile.bands):
            tile = Window(place.row - window.row, place.col - window.col, place.tile.height, place.tile.width)
            valid_HW[tile.clipped(window.height, window.width).slices] = False
    lead = (workspace.plane,) if session.stacked else ()
    index_HW = session.mask[(*lead, *window.slices)]
    means_KC = class_means(image_CHW, index_HW, valid_HW, session.scheme.num_classes)
    georef = scene.georef
    where = f"Row {row}, column {col}"
    if georef is not None:
        a, b, c, d, e, f = georef.transform
        east, north = c + a * (col + 0.5) + b * (row + 0.5), f + d * (col + 0.5) + e * (row + 0.5)
        where = map_text(georef, (-north, east))
    report = PixelReport(
        where,
        int(index_HW[at]),
        bands,
        tuple(float(value) for value in image_CHW[:, *at]),
        {
            label: tuple(float(value) for value in means)
            for label, means in enumerate(means_KC)
            if np.isfinite(means).all()
        },
        lacking=tuple(band for band in tiles[0].usual_bands if band not in tiles[0].bands),
    )
    predicted, pixel = shown_prediction(workspace), Window(row, col, 1, 1)
    if predicted is None or not predicted.known(pixel)[0, 0]:
        return report
    count = len(predicted.class_names) or session.scheme.num_classes
    return replace(
        report,
        predicted=int(predicted.index(pixel)[0, 0]),
        confidence=float(predicted.confidence(pixel)[0, 0]),
        probabilities=tuple(float(p) for p in predicted.probability(pixel, count)[:, 0, 0]),
    )
