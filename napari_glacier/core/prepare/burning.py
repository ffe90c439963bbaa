"""Outlines to masks: reading polygons of a vector file, their classes by an attribute, and rasterising them.

A pixel belongs to a polygon where its middle does, so holes (nunataks) stay holes. Where polygons overlap, the class
with the higher index counts: debris lies on ice, lakes on both.
"""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import GlacierError, OutlineError, RasterError
from napari_glacier.core.raster.georef import GeoRef

VECTOR_SUFFIXES = (".shp", ".gpkg", ".geojson", ".json")

CLASS_INDEX = {"background": 0, "glacier": 1, "debris": 2, "lake": 3}
# What inventories call the classes, in lower case, without spaces and signs.
_USUAL_VALUES = {
    **dict.fromkeys(("1", "cleanice", "clean", "ci", "ice", "glacier", "exposedice", "gla"), 1),
    **dict.fromkeys(("2", "debris", "debriscovered", "debriscoveredice", "debriscoveredglacier", "dc"), 2),
    **dict.fromkeys(("3", "lake", "glaciallake", "glacierlake", "proglaciallake", "gl"), 3),
}
_EVERY_OTHER = "*"
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
# How far beyond a scene polygons are read: reprojected borders bend.
_MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class ClassRule:
    """Which class a polygon has.

    Attributes
    ----------
    attribute : str or None
        The attribute that tells; None: every polygon is `whole`.
    index_of : mapping of str to int
        Class index of each value, compared without regard to case, spaces and signs; ``*`` is any other value.
    whole : int
    """

    attribute: str | None = None
    index_of: Mapping[str, int] = field(default_factory=lambda: dict(_USUAL_VALUES))
    whole: int = 1

    @classmethod
    def parse(cls, attribute: str | None, pairs: Sequence[str]) -> "ClassRule":
        """Rule from an attribute and pairs such as ``Debris covered=debris``; usual names need no pair.

        Raises
        ------
        GlacierError
            If a pair is none, or names a class that is not known.
        """
        if attribute is None:
            if pairs:
                raise GlacierError(
                    f"--class {pairs[0]!r} says what a value means, but not of which attribute of the outlines. "
                    "Name it with --attribute."
                )
            return cls()
        index_of = {}
        for pair in pairs:
            value, sign, name = pair.rpartition("=")
            if not sign or name.strip().lower() not in CLASS_INDEX:
                raise GlacierError(
                    f"--class {pair} is not VALUE=CLASS. The classes are {', '.join(CLASS_INDEX)}, as in "
                    "'Debris covered=debris'; *=background takes every other value."
                )
            index_of[_plain(value)] = CLASS_INDEX[name.strip().lower()]
        return cls(attribute, {**(_USUAL_VALUES if not index_of else {}), **index_of})


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons with their classes, in one coordinate reference system.

    Attributes
    ----------
    polygons : object array of shapely geometries
    index_N : uint8 array
        Class of each.
    crs : str
        As pyproj takes it.
    """

    polygons: npt.NDArray[Any]
    index_N: npt.NDArray[np.uint8]
    crs: str

    def __len__(self) -> int:
        return len(self.polygons)

    def to_crs(self, crs: str) -> "Outlines":
        """The same polygons in another reference system, vertex by vertex, without those that have no place there.

        Raises
        ------
        OutlineError
            If none has.
        """
        import shapely

        transformer = _transformer(self.crs, crs)
        if transformer is None or not len(self):
            return Outlines(self.polygons, self.index_N, crs)

        def moved(points_N2: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.column_stack(transformer.transform(points_N2[:, 0], points_N2[:, 1]))

        polygons = shapely.transform(self.polygons, moved)
        # Of a whole Earth's outlines, those on its other side.
        placed = np.isfinite(shapely.bounds(polygons)).all(axis=1)
        if not placed.any():
            raise OutlineError(
                f"The outlines in {_short(self.crs)} have no place in {_short(crs)}. Check the reference systems of "
                "the outlines and of the scene."
            )
        return Outlines(np.asarray(polygons)[placed], self.index_N[placed], crs)


class Burner:
    """Rasterises outlines, window by window."""

    def __init__(self, outlines: Outlines) -> None:
        import shapely

        # Later polygons are drawn over earlier ones.
        order = np.argsort(outlines.index_N, kind="stable")
        self._polygons, self._index_N = outlines.polygons[order], outlines.index_N[order]
        self._tree = shapely.STRtree(self._polygons)

    def mask(self, georef: GeoRef, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Class index of each pixel of a window that begins at the reference's corner, shape (height, width)."""
        import shapely
        from affine import Affine
        from rasterio.features import rasterize

        a, b, c, d, e, f = georef.transform
        cols, rows = np.array([0, width, width, 0]), np.array([0, 0, height, height])
        frame = shapely.Polygon(np.column_stack([a * cols + b * rows + c, d * cols + e * rows + f]))
        near = np.sort(self._tree.query(frame))
        if not len(near):
            return np.zeros((height, width), np.uint8)
        shapes = [(self._polygons[k], int(self._index_N[k])) for k in near]
        try:
            mask_HW: npt.NDArray[np.uint8] = rasterize(
                shapes, (height, width), fill=0, transform=Affine(a, b, c, d, e, f), dtype="uint8"
            )
        except (ValueError, TypeError) as error:
            raise OutlineError(f"The outlines cannot be rasterised ({error}). Repair their geometry.") from error
        return mask_HW


def crs_of(georef: GeoRef | None, path: Path) -> str:
    """Coordinate reference system of a raster, as pyproj takes it.

    Raises
    ------
    RasterError
        If it has none.
    """
    import rasterio
    from rasterio.errors import RasterioError

    if georef is not None and georef.epsg is not None:
        return f"EPSG:{georef.epsg}"
    if georef is not None and georef.geokeys:
        try:
            with rasterio.open(path) as dataset:
                if dataset.crs is not None:
                    return str(dataset.crs.to_wkt())
        except RasterioError as error:
            raise RasterError(f"{path} is damaged and cannot be decoded ({error}). Copy it again.") from error
    raise RasterError(
        f"{path} has no coordinate reference system, so outlines cannot be laid over it. Give it one "
        "(gdal_edit.py -a_srs EPSG:32643 FILE) or export it again as GeoTIFF."
    )


def scene_bounds(georef: GeoRef, height: int, width: int) -> tuple[float, float, float, float]:
    """Smallest x and y and largest x and y of a raster."""
    a, b, c, d, e, f = georef.transform
    xs = [a * col + b * row + c for col in (0, width) for row in (0, height)]
    ys = [d * col + e * row + f for col in (0, width) for row in (0, height)]
    return min(xs), min(ys), max(xs), max(ys)


def read_outlines(
    path: Path,
    rule: ClassRule,
    assumed_crs: str | None = None,
    within: tuple[tuple[float, float, float, float], str] | None = None,
) -> Outlines:
    """Polygons of a vector file, with their classes.

    Parameters
    ----------
    path : Path
        A shapefile, GeoPackage (its only layer) or GeoJSON.
    rule : ClassRule
    assumed_crs : str, optional
        The reference system of a file that names none.
    within : (bounds, crs), optional
        Only what lies near this box: x and y of two corners, and their reference system.

    Raises
    ------
    OutlineError
        If the file cannot be read, has no polygon, no reference system, or values without a class.
    """
    import pyogrio
    import shapely

    path = Path(path)
    if path.suffix.lower() not in VECTOR_SUFFIXES:
        raise OutlineError(f"{path} is none of {', '.join(VECTOR_SUFFIXES)}. Export the outlines in one of these.")
    if not path.is_file():
        raise OutlineError(f"{path} does not exist or is not a file. Give a file of outlines.")
    try:
        # GDAL warns of what it mends by itself (a missing .shx, an unclosed ring).
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layers = [str(name) for name, _ in pyogrio.list_layers(path)]
            if len(layers) != 1:
                raise OutlineError(
                    f"{path} has {len(layers)} layers ({', '.join(layers[:8])}). Save the outlines in a file of one."
                )
            info = pyogrio.read_info(path)
            crs = info["crs"] or assumed_crs
            if crs is None:
                raise OutlineError(
                    f"{path} names no coordinate reference system. Name it with --outline-crs, as in EPSG:4326."
                )
            columns = [str(name) for name in info["fields"]]
            if rule.attribute is not None and rule.attribute not in columns:
                raise OutlineError(
                    f"{path} has no attribute {rule.attribute!r}; it has {', '.join(columns) or 'none'}. "
                    "Name one of these."
                )
            _, _, wkb, values = pyogrio.raw.read(
                path,
                columns=[] if rule.attribute is None else [rule.attribute],
                bbox=None if within is None else _box_in(within, crs),
                force_2d=True,
            )
            geometries = np.asarray(shapely.from_wkb(wkb))
    except OutlineError:
        raise
    except _vector_errors() as error:
        raise OutlineError(
            f"{path} cannot be read as outlines ({type(error).__name__}: {error}). Export it again."
        ) from error
    geometries = _areas_of_collections(geometries)
    areal = np.isin(shapely.get_type_id(geometries), (3, 6)) & ~shapely.is_empty(geometries)
    if len(geometries) and not areal.any():
        raise OutlineError(f"{path} has {len(geometries)} features, none of them a polygon. Give outlines of areas.")
    polygons = geometries[areal]
    if not np.isfinite(shapely.get_coordinates(polygons)).all():
        raise OutlineError(f"{path} has a vertex without a place (infinite or not a number). Repair the geometry.")
    index_N = np.full(len(polygons), rule.whole, np.uint8)
    if rule.attribute is not None:
        index_N = _classes(path, rule, np.asarray(values[0])[areal])
    return Outlines(polygons, index_N, str(crs))


def fields_of(path: Path) -> dict[str, list[str]]:
    """Text attributes of a vector file with up to 50 of their values, in the order of the file.

    Raises
    ------
    OutlineError
        If the file cannot be read.
    """
    import pyogrio

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meta, _, _, values = pyogrio.raw.read(path, read_geometry=False)
    except _vector_errors() as error:
        raise OutlineError(
            f"{path} cannot be read as outlines ({type(error).__name__}: {error}). Export it again."
        ) from error
    return {
        str(name): list(dict.fromkeys(_text(v) for v in column))[:50]
        for name, column in zip(meta["fields"], values, strict=True)
    }


def usual_class(value: str) -> int | None:
    """Class that an inventory's value means, where it is one of the usual ones."""
    return _USUAL_VALUES.get(_plain(value))


def _vector_errors() -> tuple[type[Exception], ...]:
    """What a damaged or foreign file makes GDAL and its wrappers raise."""
    import pyogrio
    import shapely

    ours = ("DataSourceError", "DataLayerError", "CRSError", "FieldError", "GeometryError", "FeatureError")
    # pyogrio stumbles over its own name (UnboundLocalError) where a reference system is no text.
    others = (shapely.errors.ShapelyError, ValueError, RuntimeError, OSError, MemoryError, UnboundLocalError)
    return (*(getattr(pyogrio.errors, name) for name in ours), *others)


def _classes(path: Path, rule: ClassRule, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    texts = [_text(value) for value in values]
    other = rule.index_of.get(_EVERY_OTHER)
    index = [rule.index_of.get(_plain(text), other) for text in texts]
    unknown = Counter(text for text, k in zip(texts, index, strict=True) if k is None)
    if unknown:
        listed = ", ".join(f"{value!r} ({count})" for value, count in unknown.most_common(8))
        raise OutlineError(
            f"{path} has polygons whose {rule.attribute} is {listed}, which no class is named for. Say what they are: "
            f"--class '{next(iter(unknown))}=debris', or --class '*=background' for all others."
        )
    return np.array(index, np.uint8)


def _plain(value: str) -> str:
    if value.strip() == _EVERY_OTHER:
        return _EVERY_OTHER
    if _NUMBER.fullmatch(value.strip()):
        # -1 is not 1, and 2.5 not 25.
        return value.strip()
    return "".join(letter for letter in value.lower() if letter.isalnum())


def _areas_of_collections(geometries: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Geometries with the polygons alone of collections, as mending and cutting leave them beside lines."""
    import shapely

    mended = geometries.copy()
    for number in np.flatnonzero(shapely.get_type_id(geometries) == shapely.GeometryType.GEOMETRYCOLLECTION):
        parts = shapely.get_parts(shapely.get_parts(geometries[number]))
        mended[number] = shapely.multipolygons(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])
    return mended


def _text(value: Any) -> str:
    """A value as it is written down: whole numbers without a point, whatever type the file has for them."""
    if value is None:
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _box_in(
    within: tuple[tuple[float, float, float, float], str], crs: str
) -> tuple[float, float, float, float] | None:
    """A box in another reference system, a little larger; None where it has no place there, or goes round the Earth."""
    bounds, own = within
    transformer = _transformer(own, crs)
    if transformer is not None:
        bounds = transformer.transform_bounds(*bounds)
    if not np.isfinite(bounds).all() or bounds[0] > bounds[2] or bounds[1] > bounds[3]:
        return None
    x, y = _MARGIN * (bounds[2] - bounds[0]), _MARGIN * (bounds[3] - bounds[1])
    return bounds[0] - x, bounds[1] - y, bounds[2] + x, bounds[3] + y


def _transformer(source: str, target: str) -> Any:
    """What brings (x, y), or (longitude, latitude), from one system to another; None where they are one."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError, ProjError

    try:
        first, second = CRS.from_user_input(source), CRS.from_user_input(target)
        if first.equals(second, ignore_axis_order=True):
            return None
        return Transformer.from_crs(first, second, always_xy=True)
    except (CRSError, ProjError) as error:
        raise OutlineError(
            f"There is no way from {_short(source)} to {_short(target)} ({error}). Check both reference systems."
        ) from error


def _short(crs: str) -> str:
    return crs if len(crs) < 40 else crs.split('"')[1] if '"' in crs else crs[:40]
