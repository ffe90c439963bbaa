"""How near training and validation tiles lie to one another, and which training pixels that makes useless.

A network sees past the pixel that it labels, and neighbouring ground looks alike: a validation tile that touches a
training tile is half known. Distances are taken along the pixel grid (Chebyshev: the larger of the distances in rows
and in columns), as a buffer of so many pixels is a frame of so many pixels around a tile.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import DataError
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.raster.projection import transformer_between
from napari_glacier.core.tiling import Window

USUAL_BUFFER_PX = 128
# Mean Earth radius (WGS 84), in metres.
_EARTH_M = 6_371_008.8
# Corners are stored as floats: below a hundredth of a pixel a difference is rounding.
_ROUNDING_PX = 0.01
# Where coordinates do not compare: farther apart than places on Earth can be.
_OTHER_CRS_M = 1e8


@dataclass(frozen=True, slots=True)
class Leak:
    """A training and a validation tile that are nearer than the buffer.

    Attributes
    ----------
    train_tile, val_tile : str
        Their ids.
    relation : {"overlap", "touch", "near"}
    gap_px : float
        Pixels between them along the grid, 0 where they touch or overlap.
    distance_m : float or None
        Shortest distance in metres; None where the unit of the reference system is not known.
    masked : bool
        Whether training pixels nearer than the buffer are left out.
    """

    train_tile: str
    val_tile: str
    relation: Literal["overlap", "touch", "near"]
    gap_px: float
    distance_m: float | None
    masked: bool

    def sentence(self) -> str:
        """The pair in words."""
        what = {"overlap": "overlap", "touch": "touch", "near": f"lie {self.gap_px:g} px apart"}[self.relation]
        metres = "" if self.distance_m is None or self.relation != "near" else f" ({self.distance_m:,.0f} m)"
        return f"{self.train_tile} (train) and {self.val_tile} (val) {what}{metres}"


@dataclass(frozen=True, slots=True)
class Leakage:
    """What is known about contact between training and validation tiles.

    Attributes
    ----------
    buffer_px : int
    leaks : tuple of Leak
    unplaced : tuple of str
        Ids of tiles without a coordinate reference system, of which it cannot be told.
    """

    buffer_px: int
    leaks: tuple[Leak, ...] = ()
    unplaced: tuple[str, ...] = ()

    def summary(self) -> str:
        """One or two sentences for a log or a report."""
        count = {kind: sum(leak.relation == kind for leak in self.leaks) for kind in ("overlap", "touch", "near")}
        if self.leaks:
            text = (
                f"{len(self.leaks)} pair(s) of a training and a validation tile are nearer than {self.buffer_px} px: "
                f"{count['overlap']} overlap, {count['touch']} touch, {count['near']} lie apart"
            )
            masked = all(leak.masked for leak in self.leaks)
            text += "; the training pixels there do not count." if masked else "; training pixels there count."
        else:
            text = f"No training tile lies within {self.buffer_px} px of a validation tile."
        if self.unplaced:
            listed = ", ".join(self.unplaced[:8]) + (", …" if len(self.unplaced) > 8 else "")
            told = f"{len(self.unplaced)} tile(s) carry no coordinate reference system ({listed})"
            return f"{text if self.leaks else ''} {told}: whether they lie near others cannot be told.".strip()
        return text


def buffer_for(buffer_px: int | None, tiles: Sequence[Tile]) -> int:
    """Width of the buffer in pixels: as asked, else 128 and at most a quarter of the smallest tile's side."""
    if buffer_px is not None:
        return buffer_px
    return min(USUAL_BUFFER_PX, min(min(tile.height, tile.width) for tile in tiles) // 4)


def find_leaks(train: Sequence[Tile], val: Sequence[Tile], buffer_px: int, masked: bool) -> Leakage:
    """Find the pairs of a training and a validation tile that overlap, touch, or lie nearer than the buffer.

    Parameters
    ----------
    train, val : sequence of Tile
    buffer_px : int
        In pixels of the training tile.
    masked : bool
        Whether the training pixels there are left out (see `excluded_windows`).

    Returns
    -------
    Leakage
        Pairs in the order of the validation tiles. A tile of another reference system counts with the box that it
        fills in the training tile's.
    """
    leaks = []
    for t, v in _near_pairs(train, val, buffer_px):
        rows, cols = _gaps(train[t], val[v])
        gap = max(rows, cols)
        relation: Literal["overlap", "touch", "near"] = "near"
        if gap < _ROUNDING_PX:
            relation = "touch" if gap > -_ROUNDING_PX else "overlap"
        elif gap >= buffer_px:
            continue
        gap_px, distance_m = round(max(gap, 0.0), 2), _metres(train[t], rows, cols)
        # A buffer of nothing still leaves out what both tiles show.
        left_out = masked and (relation == "overlap" or gap < buffer_px)
        leaks.append(Leak(train[t].id, val[v].id, relation, gap_px, distance_m, left_out))
    unplaced = dict.fromkeys(tile.id for tile in (*train, *val) if not _is_placed(tile))
    return Leakage(buffer_px, tuple(leaks), tuple(unplaced))


def excluded_windows(train: Sequence[Tile], held_out: Sequence[Tile], buffer_px: int) -> tuple[tuple[Window, ...], ...]:
    """Parts of each training tile that lie in a held-out tile, or within `buffer_px` pixels of one.

    A pixel next to a held-out one is 1 pixel from it: a buffer of 0 takes what both tiles show, one of 128 also a
    frame 128 pixels wide. A held-out tile on another grid of the same reference system counts with every pixel that it
    reaches into.

    Returns
    -------
    tuple of tuple of Window
        In pixels of each training tile, inside it; empty where nothing is near or the tile has no place.
    """
    windows: list[list[Window]] = [[] for _ in train]
    for t, v in _near_pairs(train, held_out, buffer_px):
        top, left, bottom, right = _seen_from(train[t], held_out[v])
        first_row = max(math.floor(top + _ROUNDING_PX) - buffer_px, 0)
        first_col = max(math.floor(left + _ROUNDING_PX) - buffer_px, 0)
        end_row = min(math.ceil(bottom - _ROUNDING_PX) + buffer_px, train[t].height)
        end_col = min(math.ceil(right - _ROUNDING_PX) + buffer_px, train[t].width)
        if first_row < end_row and first_col < end_col:
            windows[t].append(Window(first_row, first_col, end_row - first_row, end_col - first_col))
    return tuple(tuple(found) for found in windows)


def centres_m(tiles: Sequence[Tile]) -> npt.NDArray[np.float64] | None:
    """Middles of the tiles in metres, shape (tiles, 2); None where one of them has no place.

    Degrees become metres at the mean latitude, a unit that is not known counts as a metre. Tiles of several reference
    systems are laid on a plane around their mean; of a system that is not known, they are put far away.
    """
    if not all(_is_placed(tile) for tile in tiles):
        return None
    if len({tile.georef.crs_key for tile in tiles if tile.georef is not None}) > 1:
        together = _centres_on_one_plane(tiles)
        if together is not None:
            return together
    middles = np.empty((len(tiles), 2))
    groups: dict[Hashable, list[int]] = {}
    for number, tile in enumerate(tiles):
        assert tile.georef is not None
        groups.setdefault(tile.georef.crs_key, []).append(number)
        a, b, c, d, e, f = tile.georef.transform
        col, row = tile.width / 2, tile.height / 2
        middles[number] = a * col + b * row + c, d * col + e * row + f
    for order, members in enumerate(groups.values()):
        georef = tiles[members[0]].georef
        assert georef is not None
        scale = _unit_m(georef, float(middles[members, 1].mean())) or (1.0, 1.0)
        middles[members] *= scale
        middles[members, 0] += order * _OTHER_CRS_M
    return middles


def _centres_on_one_plane(tiles: Sequence[Tile]) -> npt.NDArray[np.float64] | None:
    """Middles of tiles of several systems in metres; None where a system is not known."""
    import pyproj

    middles = [middle_degrees(tile) for tile in tiles]
    found = [middle for middle in middles if middle is not None]
    if len(found) < len(tiles):
        return None
    degrees_T2 = np.array(found)
    lon, lat = degrees_T2.mean(axis=0)
    plane = pyproj.Proj(proj="aeqd", lon_0=lon, lat_0=lat, datum="WGS84")
    return np.column_stack(plane(degrees_T2[:, 0], degrees_T2[:, 1]))


def middle_degrees(tile: Tile) -> tuple[float, float] | None:
    """Longitude and latitude of a tile's middle; None where its place on Earth is not known."""
    transformer = _between(tile.georef, None) if tile.georef is not None and _is_placed(tile) else None
    if tile.georef is None or transformer is None:
        return None
    a, b, c, d, e, f = tile.georef.transform
    col, row = tile.width / 2, tile.height / 2
    lon, lat = transformer.transform(a * col + b * row + c, d * col + e * row + f)
    return (lon, lat) if math.isfinite(lon) and math.isfinite(lat) else None


def holds_degrees(tile: Tile, lon: float, lat: float) -> bool:
    """Whether a point on Earth lies in a tile, or the tile's place is not known."""
    if tile.georef is None or middle_degrees(tile) is None:
        return True
    x, y = _between(tile.georef, None).transform(lon, lat, direction="INVERSE")
    row, col = tile.georef.pixel_of(x, y)
    return 0 <= row <= tile.height and 0 <= col <= tile.width


def _between(source: GeoRef, target: GeoRef | None) -> Any:
    """What brings (x, y) from one system to another, or to longitude and latitude; None where one is not known."""
    try:
        return transformer_between(source, target)
    except DataError:
        return None


def _is_placed(tile: Tile) -> bool:
    """Whether a tile carries a reference system, and not a transform alone."""
    return tile.georef is not None and bool(tile.georef.geokeys or tile.georef.epsg is not None)


def _near_pairs(train: Sequence[Tile], val: Sequence[Tile], buffer_px: int) -> list[tuple[int, int]]:
    """Positions of tiles whose boxes in the reference system are at most about a buffer apart."""
    boxes: dict[Hashable, tuple[list[int], list[Any]]] = {}
    for t, tile in enumerate(train):
        if _is_placed(tile):
            assert tile.georef is not None
            numbers, corners = boxes.setdefault(tile.georef.crs_key, ([], []))
            numbers.append(t)
            corners.append((*_box(tile), *_pixel_size(tile.georef, buffer_px + 1)))
    arrays = {key: (numbers, np.array(corners)) for key, (numbers, corners) in boxes.items()}
    pairs = []
    for v, tile in enumerate(val):
        if not _is_placed(tile):
            continue
        for numbers, found in arrays.values():
            corners_42 = _corners(tile, train[numbers[0]].georef)
            if corners_42 is None:
                continue
            (x0, y0), (x1, y1) = corners_42.min(axis=0), corners_42.max(axis=0)
            apart_x = np.maximum(found[:, 0] - x1, x0 - found[:, 2]) > found[:, 4]
            apart_y = np.maximum(found[:, 1] - y1, y0 - found[:, 3]) > found[:, 5]
            pairs += [(numbers[k], v) for k in np.flatnonzero(~(apart_x | apart_y)).tolist()]
    return pairs


def _box(tile: Tile) -> tuple[float, float, float, float]:
    """Smallest and largest x and y of a tile: (x0, y0, x1, y1)."""
    corners_42 = _corners(tile, tile.georef)
    assert corners_42 is not None
    return *corners_42.min(axis=0).tolist(), *corners_42.max(axis=0).tolist()


def _corners(tile: Tile, georef: GeoRef | None) -> npt.NDArray[np.float64] | None:
    """A tile's corners in the reference system of a georeference, (4, 2); None where they have no place there."""
    assert tile.georef is not None
    assert georef is not None
    a, b, c, d, e, f = tile.georef.transform
    corners_42 = np.array(
        [(a * col + b * row + c, d * col + e * row + f) for col in (0, tile.width) for row in (0, tile.height)]
    )
    if tile.georef.crs_key != georef.crs_key:
        transformer = _between(tile.georef, georef)
        if transformer is None:
            return None
        corners_42 = np.column_stack(transformer.transform(corners_42[:, 0], corners_42[:, 1]))
    return corners_42 if np.isfinite(corners_42).all() else None


def _pixel_size(georef: GeoRef, count: float) -> tuple[float, float]:
    """Extent in x and y of a square of so many pixels, in units of the reference system."""
    a, b, _, d, e, _ = georef.transform
    return count * (abs(a) + abs(b)), count * (abs(d) + abs(e))


def _seen_from(tile: Tile, other: Tile) -> tuple[float, float, float, float]:
    """The other tile's box in pixels of this one: top, left, bottom, right."""
    assert tile.georef is not None
    corners_42 = _corners(other, tile.georef)
    # Near pairs have a place in one another's system.
    assert corners_42 is not None
    pixels = [tile.georef.pixel_of(x, y) for x, y in corners_42.tolist()]
    rows, cols = [row for row, _ in pixels], [col for _, col in pixels]
    return min(rows), min(cols), max(rows), max(cols)


def _gaps(tile: Tile, other: Tile) -> tuple[float, float]:
    """Pixels between two tiles in rows and in columns; negative where they share some."""
    top, left, bottom, right = _seen_from(tile, other)
    return max(top - tile.height, -bottom), max(left - tile.width, -right)


def _metres(tile: Tile, rows: float, cols: float) -> float | None:
    assert tile.georef is not None
    a, b, _, d, e, f = tile.georef.transform
    unit = _unit_m(tile.georef, f + e * tile.height / 2)
    if unit is None:
        return None
    row_m = math.hypot(b * unit[0], e * unit[1]) * max(rows, 0.0)
    col_m = math.hypot(a * unit[0], d * unit[1]) * max(cols, 0.0)
    return round(math.hypot(row_m, col_m), 3)


def _unit_m(georef: GeoRef, y: float) -> tuple[float, float] | None:
    """Metres in a unit of x and of y at a place; None where the unit is not known."""
    if georef.is_geographic:
        degree_m = math.radians(1.0) * _EARTH_M
        return degree_m * math.cos(math.radians(y)), degree_m
    a, b, _, d, e, _ = georef.transform
    area_m2 = georef.pixel_area_m2
    if area_m2 is None:
        return None
    unit = math.sqrt(area_m2 / abs(a * e - b * d))
    return unit, unit
