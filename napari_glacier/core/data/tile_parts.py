"""The part of a tile to read, and how it is read from files whose pixels may be larger than the tile's."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.data.tiles import BandSource, Tile
from napari_glacier.core.raster import read_part, read_raster


@dataclass(frozen=True, slots=True)
class TilePart:
    """The part of a tile to read, and the shape to give it: `rows` is None where that is the whole tile, as it is."""

    rows: tuple[int, int] | None
    cols: tuple[int, int] | None
    shape: tuple[int, int]
    reduced: bool
    number: int | None

    @classmethod
    def of(
        cls,
        tile: Tile,
        rows: tuple[int, int] | None,
        cols: tuple[int, int] | None,
        shape: tuple[int, int] | None,
    ) -> "TilePart":
        if rows is None and (cols is not None or shape is not None):
            rows = (0, tile.height)
        top, bottom = rows or (0, tile.height)
        left, right = cols or (0, tile.width)
        full = (bottom - top, right - left)
        return cls(rows, cols, shape or full, shape is not None and shape != full, tile.number)

    def spans(self, tile: Tile) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns, those of the whole tile where none were named."""
        return self.rows or (0, tile.height), self.cols or (0, tile.width)

    def read(self, source: BandSource) -> npt.NDArray[Any]:
        """All planes of a source's file, on the grid of the tile."""
        zoom = source.zoom
        if self.rows is None:
            return enlarged(read_raster(source.path, self.number), zoom)
        reduced = self.shape if self.reduced else None
        if zoom == 1:
            return read_part(source.path, self.rows, self.cols, reduced, self.number)
        rows, cols = (
            None if span is None else (span[0] // zoom, -(-span[1] // zoom)) for span in (self.rows, self.cols)
        )
        assert rows is not None
        raster = read_part(source.path, rows, cols, reduced)
        if reduced is not None:
            return raster
        top, left = (
            self.rows[0] - rows[0] * zoom,
            0 if cols is None or self.cols is None else self.cols[0] - cols[0] * zoom,
        )
        return enlarged(raster, zoom)[:, top : top + self.shape[0], left : left + self.shape[1]]


def enlarged(raster_CHW: npt.NDArray[Any], zoom: int) -> npt.NDArray[Any]:
    """Every pixel as often as it covers pixels of the tile: values stay those that were measured."""
    return raster_CHW if zoom == 1 else raster_CHW.repeat(zoom, axis=1).repeat(zoom, axis=2)


def is_nodata(plane: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.bool_]:
    """Where an array of any shape holds a file's nodata value; nowhere if that is none, or not finite."""
    if nodata is None or not np.isfinite(nodata):
        return np.zeros(plane.shape, bool)
    # A huge nodata value loses digits where it is written as text (-1.7e308), hence a relative test.
    close = np.isclose(plane, nodata, rtol=1e-6, atol=0) if abs(nodata) > 1e30 else plane == nodata
    return np.asarray(close, bool)
