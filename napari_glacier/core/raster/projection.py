"""Where a raster lies on the Earth: its coordinate system, and lengths and areas on the ellipsoid.

Areas are those on the WGS84 ellipsoid, not those of the map projection: in UTM the two differ by up to 0.2 %
(the scale is 0.9996 along the zone's middle and 1.001 at its edges), and several zones could not be added up.
They are taken in a Lambert azimuthal equal-area projection around the raster, which keeps every area
(Snyder 1987, USGS Professional Paper 1395, chapter 24).
"""

import io
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import DataError
from napari_glacier.core.raster.georef import GeoRef

if TYPE_CHECKING:
    import pyproj

Floats = npt.NDArray[np.float64]

LONGITUDE_LATITUDE = "EPSG:4326"
# Pixels on which areas are computed exactly; between them they are interpolated, as they vary smoothly.
_NODE_STEP_PX = 32
_NOWHERE = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def crs_of(georef: GeoRef, source: str = "the raster") -> "pyproj.CRS":
    """The coordinate reference system of a georeference.

    Raises
    ------
    DataError
        If it states none, or none that PROJ knows.
    """
    import pyproj
    from pyproj.exceptions import CRSError

    try:
        crs = None
        if georef.epsg is not None:
            crs = pyproj.CRS.from_epsg(georef.epsg)
        elif wkt := _wkt_of_tags(georef):
            crs = pyproj.CRS.from_wkt(wkt)
        if crs is not None and not crs.is_engineering:
            return crs
    except CRSError as error:
        raise DataError(
            f"{source} names a coordinate system that is not known ({georef.crs_name}: {error}). Assign the right "
            "one, for instance with gdal_edit.py -a_srs EPSG:32645."
        ) from error
    raise DataError(
        f"{source} has pixel sizes but no coordinate system on Earth, so lengths and areas are not known. Assign one, "
        "for instance with gdal_edit.py -a_srs EPSG:32645."
    )


def to_longitude_latitude(crs: "pyproj.CRS") -> "pyproj.Transformer":
    """Transformer from (x, y) of a system to degrees of longitude and latitude on WGS84."""
    import pyproj

    return pyproj.Transformer.from_crs(crs, LONGITUDE_LATITUDE, always_xy=True)


def transformer_between(source: GeoRef, target: GeoRef | None) -> "pyproj.Transformer":
    """Transformer from (x, y) of one georeference's system to another's; None is longitude and latitude.

    Raises
    ------
    DataError
        If one states no system that is known.
    """
    # Of each raster only its system counts, so that thousands share a transformer.
    return _transformer(replace(source, transform=_NOWHERE), target and replace(target, transform=_NOWHERE))


@lru_cache(maxsize=64)
def _transformer(source: GeoRef, target: GeoRef | None) -> "pyproj.Transformer":
    import pyproj

    into = LONGITUDE_LATITUDE if target is None else crs_of(target)
    return pyproj.Transformer.from_crs(crs_of(source), into, always_xy=True)


def to_equal_area(crs: "pyproj.CRS", centre_xy: tuple[float, float]) -> "pyproj.Transformer":
    """Transformer from (x, y) of a system to metres of an equal-area projection around a point of it."""
    import pyproj

    lon, lat = to_longitude_latitude(crs).transform(*centre_xy)
    local = pyproj.CRS.from_dict({"proj": "laea", "lat_0": lat, "lon_0": lon, "datum": "WGS84", "units": "m"})
    return pyproj.Transformer.from_crs(crs, local, always_xy=True)


def xy_of(georef: GeoRef, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
    """Coordinates of pixel corners: (0, 0) is the outer corner of the first pixel."""
    a, b, c, d, e, f = georef.transform
    return a * cols + b * rows + c, d * cols + e * rows + f


def pixel_areas_m2(georef: GeoRef, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Area of every pixel on the ellipsoid in square metres, shape (H, W); good to 1e-6 of itself.

    Raises
    ------
    DataError
        If the georeference states no coordinate system.
    """
    from scipy.interpolate import RectBivariateSpline

    rows, cols = _nodes(shape[0]), _nodes(shape[1])
    areas = np.abs(_quads_m2(georef, shape, rows, cols))
    if len(rows) < 4 or len(cols) < 4:
        every_row, every_col = np.arange(shape[0]), np.arange(shape[1])
        return np.abs(_quads_m2(georef, shape, every_row, every_col)).astype(np.float32)
    spline = RectBivariateSpline(rows, cols, areas, kx=3, ky=3)
    return np.asarray(spline(np.arange(shape[0]), np.arange(shape[1])), np.float32)


def pixel_size_m(georef: GeoRef, shape: tuple[int, int]) -> tuple[float, float]:
    """Width and height in metres of the pixel in the middle, along the rows and along the columns."""
    crs = crs_of(georef)
    row, col = shape[0] / 2, shape[1] / 2
    x, y = xy_of(georef, np.array([row, row, row + 1]), np.array([col, col + 1, col]))
    u, v = to_equal_area(crs, (float(x[0]), float(y[0]))).transform(x, y)
    return float(np.hypot(u[1] - u[0], v[1] - v[0])), float(np.hypot(u[2] - u[0], v[2] - v[0]))


def utm_zones(longitudes: Floats) -> npt.NDArray[np.int32]:
    """UTM zone (1 to 60) of longitudes in degrees, without the exceptions of Norway and Svalbard, as the RGI has it."""
    return (np.floor((longitudes + 180.0) / 6.0).astype(np.int32) % 60) + 1


def _wkt_of_tags(georef: GeoRef) -> str:
    """A system without an EPSG code as WKT: GDAL reads it from the tags of a file of one pixel in memory."""
    if not georef.geokeys:
        return ""
    import rasterio
    import tifffile
    from rasterio.errors import RasterioError

    buffer = io.BytesIO()
    tags: list[Any] = list(georef.extra_tags())
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(np.zeros((1, 1), np.uint8), extratags=tags, metadata=None)
    try:
        with rasterio.MemoryFile(buffer.getvalue()) as memory, memory.open() as dataset:
            return str(dataset.crs.to_wkt()) if dataset.crs else ""
    except RasterioError:
        return ""


def _nodes(size: int) -> npt.NDArray[np.int64]:
    count = max(-(-size // _NODE_STEP_PX), min(size, 4))
    return np.unique(np.linspace(0, size - 1, count).round().astype(np.int64))


def _quads_m2(georef: GeoRef, shape: tuple[int, int], rows: Any, cols: Any) -> Floats:
    """Signed areas of the pixels at some rows and columns, from their four corners."""
    centre = xy_of(georef, np.array([shape[0] / 2]), np.array([shape[1] / 2]))
    transformer = to_equal_area(crs_of(georef), (float(centre[0][0]), float(centre[1][0])))
    corner_rows = np.asarray(rows, float)[:, None] + np.array([0, 0, 1, 1])[:, None, None]
    corner_cols = np.asarray(cols, float)[None, :] + np.array([0, 1, 1, 0])[:, None, None]
    corner_rows, corner_cols = np.broadcast_arrays(corner_rows, corner_cols)
    u, v = transformer.transform(*xy_of(georef, corner_rows, corner_cols))
    # Half the cross product of the diagonals.
    return np.asarray(((u[2] - u[0]) * (v[3] - v[1]) - (u[3] - u[1]) * (v[2] - v[0])) / 2, np.float64)
