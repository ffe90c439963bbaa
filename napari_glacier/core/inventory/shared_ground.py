"""Ground that maps on different grids share, as masks in two UTM zones do: in a report it counts once.

Maps on one grid never share any: masks on it that touch are one map (see `class_maps`).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_glacier.core.inventory.class_maps import ClassMap
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.raster.projection import transformer_between, xy_of

if TYPE_CHECKING:
    from napari_glacier.core.inventory.report_data import Scene

Floats = npt.NDArray[np.float64]

# Points along each edge of a map, which is no straight line in another system.
_EDGE_POINTS = 33
# Between pixels so far apart positions are interpolated: over 1 km they are off by centimetres.
_NODE_STEP_PX = 32
_STRIP_ROWS = 512
_HALF_TURN = 180.0
# Square degrees: less is rounding where maps abut.
_LEAST_SHARED = 1e-10


def maps_on_one_ground(maps: Sequence[ClassMap]) -> list[tuple[int, int]]:
    """Pairs of maps (earlier, later) on different grids whose rectangles share ground."""
    import shapely

    rectangles = np.array([_rectangle(class_map) for class_map in maps], object)
    first_P, second_P = shapely.STRtree(rectangles).query(rectangles, predicate="intersects")
    pairs = []
    for first, second in sorted(zip(first_P.tolist(), second_P.tolist(), strict=True), key=lambda pair: pair[::-1]):
        if first >= second or maps[first].georef.position_of(maps[second].georef) is not None:
            continue
        if shapely.area(shapely.intersection(rectangles[first], rectangles[second])) > _LEAST_SHARED:
            pairs.append((first, second))
    return pairs


def count_once(scenes: "Sequence[Scene]") -> list[str]:
    """Take from every map the pixels whose middle an earlier one saw; gives what a person should know of it.

    Their owner becomes -1 and their class 0, as in gaps.
    """
    shared: list[tuple[float, str]] = []
    seen: dict[int, npt.NDArray[np.bool_]] = {}
    for first, second in maps_on_one_ground([scene.class_map for scene in scenes]):
        if first not in seen:
            seen[first] = scenes[first].class_map.read_seen(scenes[first].owner_HW)
        area_km2 = _take(scenes[second], scenes[first].class_map, seen[first])
        if area_km2:
            names = [scenes[number].class_map.name for number in (first, second)]
            shared.append((area_km2, " and ".join(names)))
    if not shared:
        return []
    return [
        f"Maps on different grids share {sum(area_km2 for area_km2, _ in shared):,.1f} km² ({len(shared)} pair(s), the "
        f"most {max(shared)[1]}): it counts once, as the first of them has it. Lakes and borders that go on from one "
        "map to the other are counted in pieces."
    ]


def _take(scene: "Scene", other: ClassMap, seen_HW: npt.NDArray[np.bool_]) -> float:
    area_km2 = 0.0
    for part, rows_HW, cols_HW in _positions(scene.class_map, other):
        inside_HW = (rows_HW >= 0) & (rows_HW < seen_HW.shape[0]) & (cols_HW >= 0) & (cols_HW < seen_HW.shape[1])
        taken_HW = inside_HW & (scene.owner_HW[part] >= 0)
        taken_HW[taken_HW] = seen_HW[rows_HW[taken_HW], cols_HW[taken_HW]]
        area_km2 += float(scene.area_HW[part][taken_HW].sum(dtype=np.float64))
        scene.owner_HW[part][taken_HW] = -1
        scene.index_HW[part][taken_HW] = 0
    return area_km2


def _positions(
    class_map: ClassMap, other: ClassMap
) -> Iterator[tuple[tuple[slice, slice], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Strips of a map that may lie on another one: in which row and column of that the middles of its pixels lie."""
    from scipy.interpolate import RectBivariateSpline

    height, width = class_map.shape
    rows_N, cols_N = _pixels(other.georef, *_edge(other.shape), class_map.georef)
    if np.isfinite(rows_N).all():
        first_row, end_row = max(int(rows_N.min()) - 1, 0), min(int(rows_N.max()) + 2, height)
        first_col, end_col = max(int(cols_N.min()) - 1, 0), min(int(cols_N.max()) + 2, width)
    else:
        first_row, end_row, first_col, end_col = 0, height, 0, width
    for top in range(first_row, end_row, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, end_row)
        if first_col >= end_col:
            return
        rows, cols = _nodes(top, bottom), _nodes(first_col, end_col)
        found = _pixels(class_map.georef, *np.meshgrid(rows, cols, indexing="ij"), other.georef)
        if not all(np.isfinite(values).all() for values in found):
            # Far from both maps' systems there is no such place.
            continue
        middles = np.arange(top, bottom) + 0.5, np.arange(first_col, end_col) + 0.5
        rows_HW, cols_HW = (
            np.floor(RectBivariateSpline(rows, cols, values, kx=1, ky=1)(*middles)).astype(np.int64) for values in found
        )
        yield np.s_[top:bottom, first_col:end_col], rows_HW, cols_HW


def _nodes(first: int, end: int) -> Floats:
    return np.linspace(first, end, max(-(-(end - first) // _NODE_STEP_PX), 1) + 1)


def _pixels(georef: GeoRef, rows: Floats, cols: Floats, other: GeoRef) -> tuple[Floats, Floats]:
    """Rows and columns of one raster as those of another one."""
    x, y = transformer_between(georef, other).transform(*xy_of(georef, rows, cols))
    a, b, c, d, e, f = other.transform
    dx, dy = np.asarray(x) - c, np.asarray(y) - f
    return (a * dy - d * dx) / (a * e - b * d), (e * dx - b * dy) / (a * e - b * d)


def _edge(shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Points around a raster, from its first corner on."""
    along = np.linspace(0, 1, _EDGE_POINTS)[:-1]
    rows = np.concatenate([0 * along, along, 0 * along + 1, 1 - along]) * shape[0]
    cols = np.concatenate([along, 0 * along + 1, 1 - along, 0 * along]) * shape[1]
    return rows, cols


def _rectangle(class_map: ClassMap) -> object:
    """A map's rectangle in degrees; across the antimeridian all that its latitudes reach."""
    import shapely

    x, y = xy_of(class_map.georef, *_edge(class_map.shape))
    lon, lat = (np.asarray(values) for values in transformer_between(class_map.georef, None).transform(x, y))
    if not np.isfinite(lon).all() or np.ptp(lon) > _HALF_TURN or np.abs(lon).max() > _HALF_TURN:
        lat = lat[np.isfinite(lat)]
        south, north = (lat.min(), lat.max()) if lat.size else (-90.0, 90.0)
        return shapely.box(-_HALF_TURN, south, _HALF_TURN, north)
    return shapely.make_valid(shapely.polygons(np.column_stack([lon, lat])))
