"""Outlines to GeoPackage, GeoJSON or shapefile, and polygons of any such file to masks."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.data.layouts import find_tiles, is_dataset, rasters_in
from napari_glacier.core.errors import DataError, RasterError, SaveError, SchemeError
from napari_glacier.core.files import replacing
from napari_glacier.core.inventory.outline_columns import transformed
from napari_glacier.core.inventory.outlines import Outlines
from napari_glacier.core.inventory.vectorize import rasterise, to_pixels
from napari_glacier.core.raster import RASTER_SUFFIXES, read_description, read_info, write_mask
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.raster.projection import LONGITUDE_LATITUDE, crs_of

DRIVERS: Mapping[str, str] = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".json": "GeoJSON", ".shp": "ESRI Shapefile"}
# A shapefile's field names have ten characters at most.
SHAPEFILE_NAMES: Mapping[str, str] = {
    "area_low_km2": "area_low",
    "area_high_km2": "area_high",
    "polygon_km2": "poly_km2",
    "perimeter_km": "perim_km",
    "mean_probability": "mean_prob",
    "fingerprint": "map_hash",
}
# 1e-7 degrees are 1 cm: RFC 7946, 11.2 asks for no more digits than are meant.
_GEOJSON_DIGITS = 7
_SHAPEFILE_TEXT = 254
_MADE_BY = {"made_by": "napari-glacier", "made_from": "outlines"}

# What a shapefile is made of, and what other programs put beside it.
_SHAPEFILE_SUFFIXES = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_SHAPEFILE_INDICES = (".qix", ".sbn", ".sbx")


def check_target(path: Path, overwrite: bool = False) -> str:
    """Name of the GDAL driver for a file to be written.

    Raises
    ------
    SaveError
        If the ending is of no known format, or the file exists and may not be replaced.
    """
    driver = DRIVERS.get(path.suffix.lower())
    if driver == "ESRI Shapefile" and path.suffix != ".shp":
        # A shapefile's parts have small letters.
        raise SaveError(f"{path} is written as {path.with_suffix('.shp').name}. Name it so.")
    if driver is None:
        raise SaveError(f"{path} has no ending that says its format. Use one of {', '.join(DRIVERS)}.")
    files = [path.with_suffix(suffix) for suffix in _SHAPEFILE_SUFFIXES] if driver == "ESRI Shapefile" else [path]
    if not overwrite and (found := next((file for file in files if file.exists()), None)) is not None:
        raise SaveError(f"{found} exists, perhaps with somebody's edits. Name another file, or say --overwrite.")
    return driver


def write_outlines(
    path: Path, outlines: Outlines, overwrite: bool = False, description: Mapping[str, str] | None = None
) -> None:
    """Write outlines, atomically; the format goes by the ending of the name.

    GeoJSON is in longitude and latitude (RFC 7946), the others in the outlines' own system.

    Parameters
    ----------
    path : Path
        Ending ``.gpkg``, ``.geojson``, ``.json`` or ``.shp``.
    outlines : Outlines
    overwrite : bool
        Whether a file of that name may be replaced.
    description : mapping of str to str, optional
        Kept as metadata of a GeoPackage.

    Raises
    ------
    SaveError
        If the file exists, or cannot be written.
    """
    driver = check_target(path, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_open_file(path)
        if driver == "ESRI Shapefile":
            _write_shapefile(path, outlines)
            return
        with replacing(path) as temporary:
            temporary.unlink()
            _write(temporary, driver, outlines, path.stem, description)
    except OSError as error:
        raise SaveError(
            f"{path} could not be written ({error.strerror or error}). Free disk space or choose a folder you may "
            "write to."
        ) from error


def _refuse_open_file(path: Path) -> None:
    """Raise `SaveError` where another program has not yet written all it knows into a GeoPackage.

    Its log would be read into the new file, which would be spoilt.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise SaveError(
            f"{path} is open in another program, or was when that stopped ({log.name} beside it holds changes). Close "
            "it there, or open and close it once more, then try again."
        )
    for left in (log, path.with_name(f"{path.name}-shm")):
        left.unlink(missing_ok=True)


def read_polygons(path: Path) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_] | None, Any]:
    """Polygons of a vector file, the values of its field ``class`` (None without it), and its CRS.

    Raises
    ------
    DataError
        If the file cannot be read, holds no polygons or states no coordinate system.
    """
    import pyogrio
    import pyproj
    import shapely
    from pyogrio.errors import DataLayerError, DataSourceError, FieldError

    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file. Give a GeoPackage, GeoJSON or shapefile.")
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
        if len(layers) > 1:
            raise DataError(
                f"{path} has {len(layers)} layers ({', '.join(layers[:8])}). Save the outlines in a file of one."
            )
        meta, _, wkb, fields = pyogrio.raw.read(path)
    except (DataSourceError, DataLayerError, FieldError, ValueError) as error:
        raise DataError(f"{path} cannot be read as vectors ({error}). Export it as GeoPackage again.") from error
    polygons = np.asarray(shapely.from_wkb([] if wkb is None else wkb), object)
    whole = ~(shapely.is_missing(polygons) | shapely.is_empty(polygons))
    kinds = set(shapely.get_type_id(polygons[whole]).tolist())
    if not kinds or kinds - {shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON}:
        raise DataError(f"{path} holds no polygons, or not polygons alone. Give a layer of polygons.")
    if not meta["crs"]:
        raise DataError(f"{path} states no coordinate system. Assign it in a GIS and export again.")
    names = meta["fields"].tolist()
    classes = np.asarray(fields[names.index("class")], object)[whole] if "class" in names else None
    return shapely.force_2d(polygons[whole]), classes, pyproj.CRS.from_user_input(meta["crs"])


def rasterise_file(
    path: Path,
    like: Path,
    out_dir: Path,
    scheme: ClassScheme,
    *,
    class_name: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the masks of outlines on the grids of rasters: the way back from `write_outlines`.

    A pixel is of the class of the polygon in which its centre lies; where polygons overlap the later one counts.

    Parameters
    ----------
    path : Path
        Polygons with a field ``class`` that holds class names, or with `class_name` for all of them.
    like : Path
        A raster, a folder of rasters, or a data set: a mask is written for each, under its name.
    out_dir : Path
        Made where it is missing.
    scheme : ClassScheme
    class_name : str, optional
    overwrite : bool
        Whether masks that were made from outlines may be replaced; others never are.

    Returns
    -------
    list of Path

    Raises
    ------
    DataError
        If the polygons or rasters do not do.
    SaveError
        If a mask of that name is there, or cannot be written.
    """
    import pyproj
    import shapely

    polygons, names, crs = read_polygons(path)
    classes = _classes(path, names, len(polygons), scheme, class_name)
    grids = _grids(like)
    out_dir = Path(out_dir)
    for name, *_ in grids:
        _refuse(out_dir / name, overwrite)
    _refuse_labels(like, out_dir, {name.name for name, *_ in grids})
    written = []
    for name, georef, shape in grids:
        target = crs_of(georef, str(name))
        moved, kept = polygons, classes
        if target != crs:
            moved = transformed(polygons, pyproj.Transformer.from_crs(crs, target, always_xy=True))
            # What lies on another side of the Earth has no place in a zone.
            placed = np.isfinite(shapely.bounds(moved)).all(axis=1)
            moved, kept = moved[placed], classes[placed]
        if target.is_geographic:
            moved, kept = _every_turn(moved), np.repeat(kept, 3)
        in_pixels = to_pixels(moved, georef)
        here = shapely.intersects(in_pixels, shapely.box(0, 0, shape[1], shape[0]))
        index_HW = rasterise(in_pixels[here], kept[here], shape)
        write_mask(out_dir / name, index_HW, scheme, georef, {**_MADE_BY, "outlines": path.name})
        written.append(out_dir / name)
    return written


def _in_the_first_turn(polygons: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Polygons in degrees that begin between -180 and 180, whole turns away from where they were."""
    import shapely

    # What begins at -180, to rounding, stays there.
    turns = np.floor((shapely.bounds(polygons)[:, 0] + 180) / 360 + 1e-9)
    moved = polygons.copy()
    for turn in np.unique(turns[turns != 0]):
        moved[turns == turn] = _moved_east(polygons[turns == turn], -360 * turn)
    return moved


def _every_turn(polygons: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Each polygon three times, a turn of the Earth apart: GeoJSON knows -180 to 180 degrees, rasters go beyond."""
    return np.stack([_moved_east(polygons, degrees) for degrees in (-360, 0, 360)], axis=1).ravel()


def _moved_east(polygons: npt.NDArray[np.object_], degrees: float) -> npt.NDArray[np.object_]:
    import shapely

    return np.asarray(shapely.transform(polygons, lambda xy: xy + np.array([degrees, 0.0])), object)


def _write(
    path: Path, driver: str, outlines: Outlines, layer: str, description: Mapping[str, str] | None = None
) -> None:
    import pyogrio
    import pyproj
    import shapely
    from pyogrio.errors import DataSourceError

    polygons, crs = outlines.polygons, outlines.crs
    options: dict[str, Any] = {}
    if driver == "GeoJSON":
        geographic = pyproj.CRS.from_user_input(LONGITUDE_LATITUDE)
        if crs != geographic:
            transformer = pyproj.Transformer.from_crs(crs, geographic, always_xy=True)
            polygons, crs = transformed(polygons, transformer), geographic
        polygons = _in_the_first_turn(polygons)
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": _GEOJSON_DIGITS, "WRITE_NAME": "NO"}
    names, values = list(outlines.columns), list(outlines.columns.values())
    if driver == "ESRI Shapefile":
        names = [SHAPEFILE_NAMES.get(name, name) for name in names]
        values = [np.array([text[:_SHAPEFILE_TEXT] for text in v], object) if v.dtype == object else v for v in values]
        options = {"ENCODING": "UTF-8"}
    if driver == "GPKG" and description:
        options["dataset_metadata"] = dict(description)
    # Across the antimeridian.
    several = bool((shapely.get_type_id(polygons) == shapely.GeometryType.MULTIPOLYGON).any())
    try:
        pyogrio.raw.write(
            path,
            shapely.to_wkb(polygons),
            values,
            names,
            driver=driver,
            layer=layer,
            geometry_type="MultiPolygon" if several and driver == "GPKG" else "Polygon",
            promote_to_multi=several and driver == "GPKG",
            crs=_authority_or_wkt(crs),
            **options,
        )
    except DataSourceError as error:
        raise OSError(str(error)) from error


def _authority_or_wkt(crs: Any) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def _write_shapefile(path: Path, outlines: Outlines) -> None:
    """A shapefile is several files: they are made in a folder of their own and moved one by one, the .shp last."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        _write(Path(folder) / path.name, "ESRI Shapefile", outlines, path.stem)
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.suffix.lower() == ".shp"):
            with replacing(path.with_suffix(part.suffix)) as temporary:
                shutil.copyfile(part, temporary)
    # Indices of what was there before would lead to the wrong shapes.
    for suffix in _SHAPEFILE_INDICES:
        path.with_suffix(suffix).unlink(missing_ok=True)


def _classes(
    path: Path,
    names: npt.NDArray[np.object_] | None,
    count: int,
    scheme: ClassScheme,
    class_name: str | None,
) -> npt.NDArray[np.uint8]:
    known = scheme.class_names
    if class_name is not None:
        if class_name not in known[1:]:
            raise SchemeError(f"The scheme {scheme.name} has no class {class_name!r}; it has {', '.join(known[1:])}.")
        return np.full(count, known.index(class_name), np.uint8)
    if names is None:
        raise DataError(f"{path} has no field class. Say what its polygons are with --class, such as --class glacier.")
    unknown = sorted({str(name) for name in names} - set(known))
    if unknown:
        raise SchemeError(
            f"{path} has polygons of the class {', '.join(unknown[:5])}, which the scheme {scheme.name} does not have "
            f"({', '.join(known[1:])}). Choose the scheme that fits with --scheme."
        )
    return np.array([known.index(str(name)) for name in names], np.uint8)


def _grids(like: Path) -> Sequence[tuple[Path, GeoRef, tuple[int, int]]]:
    """Relative name, georeference and size of every mask to be written."""
    if not like.exists():
        raise DataError(f"{like} does not exist. Give a raster, a folder of rasters, or a dataset with --like.")
    if like.is_dir() and is_dataset(like):
        tiles = find_tiles(like)[2]
        counts = Counter(tile.name for tile in tiles)
        found = [
            (
                Path(tile.split, tile.name) if counts[tile.name] > 1 else Path(tile.name),
                tile.georef,
                tile.height,
                tile.width,
            )
            for tile in tiles
        ]
    else:
        infos = [read_info(path) for path in ([like] if like.is_file() else rasters_in(like))]
        found = [(Path(info.path.name), info.georef, info.height, info.width) for info in infos]
    if not found:
        raise DataError(f"{like} holds no TIFF. Give a raster, a folder of rasters, or a dataset with --like.")
    grids = []
    for name, georef, height, width in found:
        if georef is None:
            raise DataError(f"{like} ({name}) has no georeference, so where the outlines lie in it is not known.")
        own = name if name.suffix.lower() in RASTER_SUFFIXES else name.with_suffix(".tif")
        grids.append((own, georef, (height, width)))
    return grids


def _refuse_labels(like: Path, out_dir: Path, names: set[str]) -> None:
    """Raise `SaveError` where masks of other names lie: a data set with two masks of a tile does not open."""
    if not (like.is_dir() and is_dataset(like)):
        return
    labels = [path for tile in find_tiles(like)[2] if (path := tile.mask_path) is not None]
    others = [path for path in labels if path.parent.resolve() == out_dir.resolve() and path.name not in names]
    if others:
        raise SaveError(
            f"{out_dir} holds the dataset's labels under other names ({others[0].name}); two masks of a tile cannot be "
            "told apart. Choose another folder."
        )


def _refuse(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    try:
        ours = _MADE_BY.items() <= read_description(path).items()
    except RasterError:
        ours = False
    if not (ours and overwrite):
        mend = "say --overwrite, or choose another folder" if ours else "choose another folder"
        raise SaveError(f"{path} exists; a mask made from outlines would replace it. To go on, {mend}.")
