"""Class masks as polygons that share their borders exactly, and polygons as masks again.

Polygons are patches of pixels of one class that share edges (4-connected): patches that touch at a corner alone are
two polygons, since a ring that touches itself is not valid (OGC 06-103r4, 6.1.11). Holes stay holes.

Every border is noded: where three classes meet, all of them have a vertex. So the polygons are a coverage in the sense
of GEOS, and simplifying its arcs (Visvalingam and Whyatt 1993, The Cartographic Journal 30) keeps borders shared.

Legend: P polygons, R rings, N vertices, in pixels (col, row) of a map unless said otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.errors import DataError
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.raster.projection import xy_of

if TYPE_CHECKING:
    from shapely import Polygon

Polygons = npt.NDArray[np.object_]
Ints = npt.NDArray[np.int64]

# Straight borders get a vertex this often, so that they stay where they are in another projection.
_VERTEX_EVERY_PX = 64


def polygonise(index_HW: npt.NDArray[np.uint8]) -> tuple[Polygons, npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Polygons of all patches of a class image, in pixels.

    Parameters
    ----------
    index_HW : uint8 array
        Class indices; background (0) and ignored pixels have no polygon.

    Returns
    -------
    polygons_P : array of shapely Polygon
        x is the column, y the row; all vertices are whole numbers. They make a valid coverage.
    classes_P : uint8 array
    label_HW : int32 array
        Number of the polygon, from 1 on, that each pixel lies in; 0 in none.
    """
    import shapely
    from rasterio.features import shapes

    label_HW, classes_P = _patches(index_HW)
    rings: list[npt.NDArray[np.int32]] = []
    polygon_of_ring: list[int] = []
    for shape, value in shapes(label_HW, mask=label_HW > 0, connectivity=4):
        for ring in shape["coordinates"]:
            rings.append(np.array(ring, np.int32))
            polygon_of_ring.append(int(value) - 1)
    if not rings:
        return np.empty(0, object), classes_P, label_HW
    corners_N2, corner_ring_N = np.concatenate(rings), np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    vertices_N2, ring_N = _with_nodes(corners_N2, corner_ring_N, _junctions(label_HW))
    linear_R = shapely.linearrings(vertices_N2.astype(float), indices=ring_N)
    # Shells come before their holes, and a stable sort leaves it so.
    order_R = np.argsort(polygon_of_ring, kind="stable")
    polygons_P = shapely.polygons(linear_R[order_R], indices=np.array(polygon_of_ring)[order_R])
    return np.asarray(polygons_P, object), classes_P, label_HW


def smooth(polygons_P: Polygons, tolerance_px: float) -> Polygons:
    """Simplify the borders of a coverage; shared borders stay shared, and no polygon is lost or torn.

    Parameters
    ----------
    polygons_P : array of shapely Polygon
        As `polygonise` gives them.
    tolerance_px : float
        Vertices are taken away while the triangle they make with their neighbours is smaller than the square of this:
        1 turns the pixels' staircase into slanted lines, more makes coarser lines.

    Raises
    ------
    DataError
        If the tolerance is not a number above 0.
    """
    import shapely

    if not (np.isfinite(tolerance_px) and tolerance_px > 0):
        raise DataError(f"The tolerance of smoothing is {tolerance_px}; give pixels above 0, such as 1.")
    if len(polygons_P) == 0:
        return polygons_P
    return np.asarray(shapely.coverage_simplify(polygons_P, tolerance_px), object)


def to_map(polygons_P: Polygons, georef: GeoRef) -> Polygons:
    """Polygons in pixels as polygons in the coordinates of a georeference."""
    import shapely

    return np.asarray(
        shapely.transform(polygons_P, lambda xy: np.column_stack(xy_of(georef, xy[:, 1], xy[:, 0]))), object
    )


def to_pixels(polygons_P: Polygons, georef: GeoRef) -> Polygons:
    """Polygons in the coordinates of a georeference as polygons in its pixels (x the column, y the row)."""
    import shapely

    a, b, c, d, e, f = georef.transform
    inverse = np.linalg.inv(np.array([[a, b], [d, e]]))
    return np.asarray(shapely.transform(polygons_P, lambda xy: (xy - (c, f)) @ inverse.T), object)


def rasterise(polygons_P: Polygons, classes_P: Sequence[int], shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Class indices of the pixels whose centres lie in polygons, shape (H, W); background elsewhere.

    Where polygons overlap the later one counts. With polygons as `polygonise` gives them this is its inverse.

    Parameters
    ----------
    polygons_P : array of shapely Polygon or MultiPolygon
        In pixels; see `to_pixels`.
    classes_P : sequence of int
    shape : (int, int)
    """
    from rasterio.features import rasterize

    if len(polygons_P) == 0:
        return np.zeros(shape, np.uint8)
    pairs: list[tuple[Polygon, int]] = [(polygon, int(k)) for polygon, k in zip(polygons_P, classes_P, strict=True)]
    return np.asarray(rasterize(pairs, out_shape=shape, fill=0, dtype="uint8"), np.uint8)


def recode(index_HW: npt.NDArray[np.uint8], merged: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    """The same image with classes joined to others: {class: the one it becomes}."""
    table = np.arange(256, dtype=np.uint8)
    for old, new in merged.items():
        table[old] = new
    return table[index_HW]


def _patches(index_HW: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Number of the patch of each pixel (0 on background), and the class of each patch."""
    from scipy.ndimage import label

    label_HW = np.zeros(index_HW.shape, np.int32)
    classes: list[int] = []
    for k in np.unique(index_HW).tolist():
        if k in (0, IGNORE_INDEX):
            continue
        own_HW, count = label(index_HW == k)
        label_HW += np.where(own_HW > 0, own_HW + len(classes), 0)
        classes += [k] * count
    return label_HW, np.array(classes, np.uint8)


def _junctions(label_HW: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Pixel corners at which three or more patches meet (background is one), shape (H + 1, W + 1)."""
    padded = np.pad(label_HW, 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    distinct = 1 + (b != a) + ((c != a) & (c != b)).astype(np.uint8) + ((d != a) & (d != b) & (d != c))
    return np.asarray(distinct >= 3)


def _with_nodes(corners_N2: Any, ring_N: Ints, junction_HW: npt.NDArray[np.bool_]) -> tuple[Any, Ints]:
    """Rings of axis-parallel edges with the vertices added that their neighbours have there."""
    starts = np.flatnonzero(ring_N[1:] == ring_N[:-1])
    steps = corners_N2[starts + 1] - corners_N2[starts]
    length = np.abs(steps).sum(axis=1)
    # Every pixel corner along every edge, its first end included.
    edge = np.repeat(np.arange(len(starts)), length)
    along = np.arange(len(edge)) - np.repeat(np.cumsum(length) - length, length)
    points = corners_N2[starts][edge] + np.sign(steps)[edge] * along[:, None]
    regular = np.where(steps[edge, 0] != 0, points[:, 0], points[:, 1]) % _VERTEX_EVERY_PX == 0
    kept = (along == 0) | regular | junction_HW[points[:, 1], points[:, 0]]
    vertices, rings = points[kept], ring_N[starts][edge][kept]
    # Rings end where they begin.
    firsts = np.flatnonzero(np.r_[True, rings[1:] != rings[:-1]])
    lasts = np.r_[firsts[1:], len(rings)]
    return np.insert(vertices, lasts, vertices[firsts], axis=0), np.insert(rings, lasts, rings[firsts])
