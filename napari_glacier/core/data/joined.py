"""Scenes that overlap, read as one raster by a rule.

Every pixel is of one scene, in all its bands: no value is mixed of two dates, and which scene a pixel is of can be
asked for. Memory is bounded by the window that is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.data.joining import NEWEST_CLEAR, NO_SCENE, Span
from napari_glacier.core.data.tile_parts import TilePart, is_nodata
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.raster import read_info
from napari_glacier.core.scenes.products import HIDING_CLASSES

if TYPE_CHECKING:
    from napari_glacier.core.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a mosaic under a window: what to read of it, and where that goes."""

    number: int
    tile: Tile
    rows: Span
    cols: Span
    shape: tuple[int, int] | None
    into: tuple[slice, slice]


def _pieces(tile: Tile, part: TilePart) -> Iterator[_Piece]:
    """The scenes under a part of a mosaic, the one to be taken first in front."""
    rows, cols = part.spans(tile)
    size, shape = (rows[1] - rows[0], cols[1] - cols[0]), part.shape
    for number, place in enumerate(tile.parts):
        own, into = [], []
        for span, start, length, full, wanted in (
            (rows, place.row, place.tile.height, size[0], shape[0]),
            (cols, place.col, place.tile.width, size[1], shape[1]),
        ):
            first, last = max(span[0], start), min(span[1], start + length)
            own.append((first - start, last - start))
            into.append(slice((first - span[0]) * wanted // full, -(-(last - span[0]) * wanted // full)))
        if any(first >= last for first, last in own):
            continue
        reduced = None if size == tuple(shape) else (into[0].stop - into[0].start, into[1].stop - into[1].start)
        yield _Piece(number, place.tile, own[0], own[1], reduced, (into[0], into[1]))


def read_joined(
    dataset: "Dataset", tile: Tile, bands: Sequence[str], part: TilePart
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.uint8]]:
    """Bands, validity and sources of a window of a mosaic: (C, h, w) float32, (h, w) bool, (h, w) uint8.

    A source is the number of a pixel's scene among `Tile.parts`, `NO_SCENE` where none saw it. What a pixel is
    depends on the files and the rule alone, not on the window; a scene is read only where one before it left
    something open.
    """
    shape = part.shape
    image_CHW = np.zeros((len(bands), *shape), np.float32)
    sources_HW = np.full(shape, NO_SCENE, np.uint8)
    settled_HW = np.zeros(shape, bool)
    for piece in _pieces(tile, part):
        if settled_HW[piece.into].all():
            continue
        part_CHW, valid_HW = dataset.read(piece.tile, bands, piece.rows, piece.cols, piece.shape)
        clear_HW = valid_HW
        if tile.rule == NEWEST_CLEAR:
            quality_HW = dataset.read_quality(piece.tile, piece.rows, piece.cols, piece.shape)
            clear_HW = valid_HW & ~np.isin(quality_HW, HIDING_CLASSES)
        # The first that saw a pixel has it until one comes that saw it clearly.
        taken_HW = valid_HW & (sources_HW[piece.into] == NO_SCENE) | clear_HW & ~settled_HW[piece.into]
        sources_HW[piece.into][taken_HW] = piece.number
        settled_HW[piece.into] |= clear_HW
        for plane_HW, part_HW in zip(image_CHW, part_CHW, strict=True):
            np.copyto(plane_HW[piece.into], part_HW, where=taken_HW)
    return image_CHW, sources_HW != NO_SCENE, sources_HW


def joined_values(dataset: "Dataset", tile: Tile, bands: Sequence[str], part: TilePart) -> list[npt.NDArray[Any]]:
    """A window of a mosaic's bands as the files have them: arrays (h, w); nodata is the mosaic's."""
    sources_HW = read_joined(dataset, tile, (), part)[2]
    read = {
        piece.number: (piece.into, dataset.read_values(piece.tile, bands, piece.rows, piece.cols))
        for piece in _pieces(tile, part)
        if (sources_HW[piece.into] == piece.number).any()
    }
    planes: list[npt.NDArray[Any]] = []
    for k, band in enumerate(bands):
        values = [found[k] for _, found in read.values()]
        dtype = np.result_type(*values) if values else read_info(tile.bands[band].path).dtype
        plane_HW = np.full(part.shape, tile.bands[band].nodata, dtype)
        for number, (into, found) in read.items():
            taken_HW = sources_HW[into] == number
            taken_HW &= ~is_nodata(found[k], tile.parts[number].tile.bands[band].nodata)
            np.copyto(plane_HW[into], found[k], where=taken_HW)
        planes.append(plane_HW)
    return planes


def joined_quality(dataset: "Dataset", tile: Tile, part: TilePart) -> npt.NDArray[np.uint8]:
    """What the quality bands say of the scenes that the pixels are of: indices into `QUALITY_CLASSES`, (h, w)."""
    sources_HW = read_joined(dataset, tile, (), part)[2]
    classes_HW = np.zeros(part.shape, np.uint8)
    for piece in _pieces(tile, part):
        taken_HW = sources_HW[piece.into] == piece.number
        if taken_HW.any():
            found_HW = dataset.read_quality(piece.tile, piece.rows, piece.cols, piece.shape)
            np.copyto(classes_HW[piece.into], found_HW, where=taken_HW)
    return classes_HW
