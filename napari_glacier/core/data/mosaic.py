"""Scenes: tiles on one grid seen as one raster, or a tile by itself."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import BAND_GROUPS, CANONICAL_BANDS
from napari_glacier.core.data.dataset import Dataset, Tile
from napari_glacier.core.data.joining import MAX_MOSAIC_PIXELS
from napari_glacier.core.data.tiles import Placement
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.tiling import Window

__all__ = ["LARGE_PX", "Mosaic", "PixelCache", "Placement", "plan_scenes"]

# A tile of more pixels is read in parts: strips of rows, or squares where its files are stored in blocks.
_WHOLE_PX = 2048 * 2048
_STRIP_ROWS = 512
_BLOCK_PX = 1024

# A scene of more pixels is never read whole to be looked at.
LARGE_PX = 4096 * 4096

Pixels = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]
Arrays = tuple[npt.NDArray[Any], ...]
# First row or column, and the one after the last.
Span = tuple[int, int]


class Mosaic:
    """One raster made of tiles that do not overlap; what lies between them is a gap (nodata).

    Pixels are read tile by tile when asked for, large tiles in parts, and a few are kept.

    Parameters
    ----------
    dataset : Dataset
    placements : sequence of Placement
    georef : GeoRef or None
        Of the scene's first pixel.
    cache : PixelCache, optional
        Shared with the other scenes of the data set.

    Attributes
    ----------
    shape : (int, int)
        Height and width in pixels.
    name : str
    cache : PixelCache
        What was read last. Whoever makes pictures of it may keep them here, too: one bound holds for all.
    """

    def __init__(
        self,
        dataset: Dataset,
        placements: Sequence[Placement],
        georef: GeoRef | None,
        cache: "PixelCache | None" = None,
    ) -> None:
        self.dataset = dataset
        self.placements = tuple(placements)
        self.georef = georef
        self.shape = (
            max(place.row + place.tile.height for place in placements),
            max(place.col + place.tile.width for place in placements),
        )
        self.name = placements[0].tile.id if len(placements) == 1 else dataset.root.name
        self.cache = cache or PixelCache()

    def read(
        self, window: Window, bands: Sequence[str] = CANONICAL_BANDS
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Bands and validity of a window, (len(bands), h, w) float32 and (h, w) bool.

        Gaps, nodata and what lies outside the scene are 0 and not valid. Gaps in the terrain: see `Dataset.read`.
        """
        image_CHW = np.zeros((len(bands), window.height, window.width), np.float32)
        valid_HW = np.zeros((window.height, window.width), bool)
        for place in self.tiles_in(window):
            for rows, cols in _parts(place.tile):
                first_row, first_col = place.row + rows[0], place.col + cols[0]
                top, bottom = max(window.row, first_row), min(window.row + window.height, place.row + rows[1])
                left, right = max(window.col, first_col), min(window.col + window.width, place.col + cols[1])
                if top >= bottom or left >= right:
                    continue
                into = np.s_[top - window.row : bottom - window.row, left - window.col : right - window.col]
                from_ = np.s_[top - first_row : bottom - first_row, left - first_col : right - first_col]
                for group in _groups(place.tile, bands):
                    part_CHW, part_valid_HW = self._part(place.tile, group, rows, cols)
                    for k, band in enumerate(bands):
                        if band in group:
                            image_CHW[k, *into] = part_CHW[group.index(band), *from_]
                    valid_HW[into] = part_valid_HW[from_]
        return image_CHW, valid_HW

    @property
    def is_large(self) -> bool:
        """Whether the scene is too large to be read whole for being looked at."""
        return self.shape[0] * self.shape[1] > LARGE_PX

    def tiles_in(self, window: Window) -> list[Placement]:
        """Placements that a window touches."""
        return [
            place
            for place in self.placements
            if place.row < window.row + window.height
            and window.row < place.row + place.tile.height
            and place.col < window.col + window.width
            and window.col < place.col + place.tile.width
        ]

    @property
    def whole(self) -> Window:
        """The window that is the scene."""
        return Window(0, 0, *self.shape)

    def valid(self) -> npt.NDArray[np.bool_]:
        """Pixels that carry data, shape (H, W)."""
        valid_HW = np.zeros(self.shape, bool)
        for place in self.placements:
            of_tile_HW = valid_HW[place.slices]
            for rows, cols in _parts(place.tile):
                of_tile_HW[slice(*rows), slice(*cols)] = self._part(place.tile, place.tile.usual_bands, rows, cols)[1]
        return valid_HW

    def reduced_shape(self, factor: int) -> tuple[int, int]:
        """Height and width of the scene with one pixel for `factor` x `factor` (fewer at its end)."""
        return -(-self.shape[0] // factor), -(-self.shape[1] // factor)

    def read_reduced(
        self, factor: int, window: Window, bands: Sequence[str] = CANONICAL_BANDS
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """A view from afar: as `read`, of one pixel for `factor` x `factor`, from the files' overviews where there are.

        For the eye: pixels are picked, not averaged, except as the overviews were.

        Parameters
        ----------
        factor : int
        window : Window
            In pixels of the reduced scene (see `reduced_shape`).
        bands : sequence of str
        """
        image_CHW = np.zeros((len(bands), window.height, window.width), np.float32)
        valid_HW = np.zeros((window.height, window.width), bool)
        for place, rows, cols in self._reduced_parts(factor, window):
            into = _into(place, rows, cols, factor, window)
            for group in _groups(place.tile, bands):
                part_CHW, part_valid_HW = self._reduced(place, group, factor, rows, cols)
                there = [k for k, band in enumerate(bands) if band in group]
                # At the seam of two tiles both have a share in a pixel: the one that carries data counts.
                taken_HW = part_valid_HW & ~valid_HW[into]
                for k in there:
                    np.copyto(image_CHW[k][into], part_CHW[group.index(bands[k])], where=taken_HW)
            valid_HW[into] |= part_valid_HW
        return image_CHW, valid_HW

    def read_quality(self, factor: int, window: Window) -> npt.NDArray[np.uint8]:
        """What the scenes' quality bands say: indices into `QUALITY_CLASSES`; window and factor as `read_reduced`."""
        classes_HW = np.zeros((window.height, window.width), np.uint8)
        for place, rows, cols in self._reduced_parts(factor, window):
            into = _into(place, rows, cols, factor, window)
            shape = (into[0].stop - into[0].start, into[1].stop - into[1].start)
            part_HW = self.dataset.read_quality(place.tile, rows, cols, shape)
            np.maximum(classes_HW[into], part_HW, out=classes_HW[into])
        return classes_HW

    def read_sources(self, factor: int, window: Window) -> npt.NDArray[np.uint8]:
        """Which of the joined scenes a pixel is of: 0 in gaps, else from 1 on; window and factor as `read_reduced`."""
        numbers_HW = np.zeros((window.height, window.width), np.uint8)
        for place, rows, cols in self._reduced_parts(factor, window):
            into = _into(place, rows, cols, factor, window)
            shape = (into[0].stop - into[0].start, into[1].stop - into[1].start)
            # `NO_SCENE` and 1 are 0.
            part_HW = self.dataset.read_sources(place.tile, rows, cols, shape) + np.uint8(1)
            np.maximum(numbers_HW[into], part_HW, out=numbers_HW[into])
        return numbers_HW

    def _reduced_parts(self, factor: int, window: Window) -> Iterator[tuple[Placement, Span, Span]]:
        """Tiles under a window of the reduced scene, and which rows and columns of them."""
        full = Window(window.row * factor, window.col * factor, window.height * factor, window.width * factor)
        for place in self.tiles_in(full):
            rows = max(full.row - place.row, 0), min(full.row + full.height - place.row, place.tile.height)
            cols = max(full.col - place.col, 0), min(full.col + full.width - place.col, place.tile.width)
            yield place, rows, cols

    def _reduced(self, place: Placement, group: tuple[str, ...], factor: int, rows: Span, cols: Span) -> Pixels:
        tile = place.tile
        whole = _into(place, (0, tile.height), (0, tile.width), factor, Window(0, 0, 0, 0))
        if np.prod(_shape_at(place, factor)) > _WHOLE_PX:
            wanted = _into(place, rows, cols, factor, Window(0, 0, 0, 0))
            size = wanted[0].stop - wanted[0].start, wanted[1].stop - wanted[1].start
            return self.dataset.read(tile, group, rows, cols, size)
        # Small enough to keep, which makes moving about from afar free. A large file without reduced copies of itself
        # is decoded whole for any view: once for the finest that is kept, of which the coarser ones are picked.
        kept = factor
        if not tile.reduced and tile.height * tile.width > _WHOLE_PX:
            while kept % 2 == 0 and np.prod(_shape_at(place, kept // 2)) <= _WHOLE_PX:
                kept //= 2
        image_CHW, valid_HW = self.cache.get(
            (tile.id, group[0], kept),
            lambda: self.dataset.read(tile, group, (0, tile.height), (0, tile.width), _shape_at(place, kept)),
        )
        part = _into(place, rows, cols, factor, Window(whole[0].start, whole[1].start, 0, 0))
        if kept == factor:
            return image_CHW[:, *part], valid_HW[part]
        picked = [
            _picked(range(whole[k].start, whole[k].stop)[part[k]], factor // kept, corner // kept, valid_HW.shape[k])
            for k, corner in enumerate((place.row, place.col))
        ]
        rows_H1, cols_1W = np.ix_(*picked)
        return image_CHW[:, rows_H1, cols_1W], valid_HW[rows_H1, cols_1W]

    def read_masks(self) -> npt.NDArray[np.uint8]:
        """Class indices of all masks, shape (H, W); background where there is none."""
        index_HW = np.zeros(self.shape, np.uint8)
        for place in self.placements:
            mask_HW = self.dataset.read_mask(place.tile)
            if mask_HW is not None:
                index_HW[place.slices] = mask_HW
        return index_HW

    def _part(self, tile: Tile, group: tuple[str, ...], rows: Span, cols: Span) -> Arrays:
        part: tuple[Span, ...] = () if cols == (0, tile.width) else (rows, cols)
        if not part and rows != (0, tile.height):
            part = (rows,)
        return self.cache.get((tile.id, group[0], rows, cols), lambda: self.dataset.read(tile, group, *part))


class PixelCache:
    """Pixels used last, bounded by memory; shared by the scenes of a data set, from any thread."""

    def __init__(self, max_bytes: int = 1 << 28) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, Arrays] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, read: Callable[[], Pixels]) -> Arrays:
        """Pixels of a tile, or of some of its bands, read where they are not at hand."""
        kept = self.find(key)
        if kept is None:
            kept = read()
            self.keep(key, kept)
        return kept

    def find(self, key: Hashable) -> Arrays | None:
        """What was kept under a key, if it still is."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def keep(self, key: Hashable, arrays: Arrays) -> None:
        """Keep arrays, and let go of those used longest ago where they are too many."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = arrays
                self._bytes += _size(arrays)
            # What was read just now stays, however large: its other windows are asked for next.
            while self._bytes > self._max_bytes and len(self._kept) > 1:
                self._bytes -= _size(self._kept.popitem(last=False)[1])


def _parts(tile: Tile) -> list[tuple[Span, Span]]:
    """Rows and columns that are read together: a scene does not have to fit into memory."""
    if tile.height * tile.width <= _WHOLE_PX:
        return [((0, tile.height), (0, tile.width))]
    height, width = (_BLOCK_PX, _BLOCK_PX) if tile.blocked else (_STRIP_ROWS, tile.width)
    return [
        ((row, min(row + height, tile.height)), (col, min(col + width, tile.width)))
        for row in range(0, tile.height, height)
        for col in range(0, tile.width, width)
    ]


def _into(place: Placement, rows: Span, cols: Span, factor: int, window: Window) -> tuple[slice, slice]:
    """Rows and columns of a window of the reduced scene that some of a tile's cover, at least in part."""
    top, bottom = (place.row + rows[0]) // factor, -(-(place.row + rows[1]) // factor)
    left, right = (place.col + cols[0]) // factor, -(-(place.col + cols[1]) // factor)
    return slice(top - window.row, bottom - window.row), slice(left - window.col, right - window.col)


def _shape_at(place: Placement, factor: int) -> tuple[int, int]:
    """Rows and columns of the reduced scene that a tile covers, at least in part."""
    rows, cols = _into(place, (0, place.tile.height), (0, place.tile.width), factor, Window(0, 0, 0, 0))
    return rows.stop - rows.start, cols.stop - cols.start


def _picked(coarse: range, step: int, first: int, length: int) -> npt.NDArray[np.intp]:
    """Which pixel of a finer view, whose first is `first` of the scene's, stands in the middle of each coarser one."""
    return np.asarray(np.clip(np.asarray(coarse) * step + step // 2 - first, 0, length - 1), np.intp)


def _groups(tile: Tile, bands: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of bands to read of a tile: those asked for that it has some of, else the one that says what is valid.

    Terrain is read and kept apart from the other bands: most models never ask for it.
    """
    wanted = set(bands) & set(tile.bands)
    return [group for group in BAND_GROUPS if not wanted.isdisjoint(group)] or [tile.usual_bands]


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays)


def plan_scenes(dataset: Dataset, tiles: Sequence[Tile] | None = None) -> tuple[Mosaic, ...]:
    """Tiles as one mosaic where they share CRS, pixel size and grid and do not overlap, else one scene a tile.

    Products of satellites are joined by `joining` when the data set is opened, or not at all: each has a date, a sensor
    and units of its own.
    """
    tiles = dataset.tiles if tiles is None else tuple(tiles)
    placements = _common_grid(tiles)
    cache = PixelCache()
    if placements is not None:
        first = placements[0]
        assert first.tile.georef is not None
        return (Mosaic(dataset, placements, first.tile.georef.offset(-first.row, -first.col), cache),)
    return tuple(Mosaic(dataset, (Placement(tile, 0, 0),), tile.georef, cache) for tile in tiles)


def _common_grid(tiles: Sequence[Tile]) -> list[Placement] | None:
    reference = tiles[0].georef
    if reference is None or (len(tiles) > 1 and any(tile.product is not None for tile in tiles)):
        return None
    corners = []
    for tile in tiles:
        corner = None if tile.georef is None else reference.position_of(tile.georef)
        if corner is None:
            return None
        corners.append(corner)
    top, left = min(row for row, _ in corners), min(col for _, col in corners)
    placements = [Placement(tile, row - top, col - left) for tile, (row, col) in zip(tiles, corners, strict=True)]
    height = max(place.row + place.tile.height for place in placements)
    width = max(place.col + place.tile.width for place in placements)
    if height * width > MAX_MOSAIC_PIXELS or _overlap(placements):
        return None
    return placements


def _overlap(placements: Sequence[Placement]) -> bool:
    ordered = sorted(placements, key=lambda place: place.row)
    for k, first in enumerate(ordered):
        for second in ordered[k + 1 :]:
            if second.row >= first.row + first.tile.height:
                break
            if first.col < second.col + second.tile.width and second.col < first.col + first.tile.width:
                return True
    return False
