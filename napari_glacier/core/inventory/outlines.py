"""Outlines of a class map with the attributes of an inventory, after the Randolph Glacier Inventory 7 (RGI 2023).

Names are those of the RGI where it has the field (``src_date cenlon cenlat utm_zone area_km2``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.inventory.class_maps import ClassMap
from napari_glacier.core.inventory.map_source import MapSource
from napari_glacier.core.inventory.outline_columns import (
    Calibrate,
    patch_areas_km2,
    pixel_columns,
    shape_columns,
    transformed,
)
from napari_glacier.core.inventory.shared_ground import maps_on_one_ground
from napari_glacier.core.inventory.vectorize import Polygons, polygonise, recode, smooth, to_map
from napari_glacier.core.raster.projection import (
    LONGITUDE_LATITUDE,
    crs_of,
)

if TYPE_CHECKING:
    import pyproj

# Called with what is done, out of what, and in words; it may raise to stop the work.
OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class OutlineOptions:
    """How outlines are made.

    Parameters
    ----------
    smooth_px : float
        Tolerance of smoothing in pixels; 0 keeps the pixels' borders.
    min_area_km2 : float
        Smaller polygons are left out; 0 keeps all.
    merge : tuple of str
        Classes that are outlined as one, under the first one's name.
    classes : tuple of str
        The classes to outline; all where empty.
    src_date : str
        Date of the images (YYYY-MM-DD); else the masks' tags or Landsat names say it.
    level : float
        Probability that area_low_km2 and area_high_km2 leave between them.
    """

    smooth_px: float = 0.0
    min_area_km2: float = 0.0
    merge: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    src_date: str = ""
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons in one coordinate system, a row each in every column; largest first within a class.

    Attributes
    ----------
    polygons : array of shapely Polygon
    columns : mapping of str to array
        Numbers (nan where not known) and text; see docs/outlines.md.
    crs : pyproj.CRS
    notes : tuple of str
        What a person should know.
    """

    polygons: Polygons
    columns: Mapping[str, npt.NDArray[Any]]
    crs: "pyproj.CRS"
    notes: tuple[str, ...] = ()


def outline_maps(
    source: MapSource,
    options: OutlineOptions = OutlineOptions(),
    crs: str | None = None,
    calibrate: Calibrate | None = None,
    on_progress: OnProgress | None = None,
) -> Outlines:
    """Outline every patch of the maps.

    Parameters
    ----------
    source : MapSource
    options : OutlineOptions
    crs : str, optional
        System of the polygons; else that of the maps, or EPSG:4326 where they differ.
    calibrate : callable, optional
        Applied to probabilities before areas are taken from them.
    on_progress : callable, optional

    Raises
    ------
    DataError
        If there is nothing to outline, or a mask or raster of probabilities does not fit.
    ConfigError
        If an option is wrong.
    """
    import pyproj
    from pyproj.exceptions import CRSError

    _check(options, source.scheme)
    systems = [crs_of(class_map.georef, str(class_map.parts[0].mask.path)) for class_map in source.maps]
    notes: list[str] = []
    if crs is not None:
        try:
            target = pyproj.CRS.from_user_input(crs)
        except CRSError as error:
            raise ConfigError(f"{crs!r} is no coordinate system that is known. Give one as EPSG:32645.") from error
        if not (target.is_projected or target.is_geographic) or len(target.axis_info) != 2:
            raise ConfigError(f"{crs!r} ({target.name}) is no system for maps. Give one as EPSG:32645 or EPSG:4326.")
    elif all(system == systems[0] for system in systems):
        target = systems[0]
    else:
        target = pyproj.CRS.from_user_input(LONGITUDE_LATITUDE)
        notes.append("The masks have several coordinate systems; the outlines are in longitude and latitude.")
    if shared := maps_on_one_ground(source.maps):
        first, second = (source.maps[number].name for number in shared[0])
        notes.append(
            f"Maps on different grids share ground ({len(shared)} pair(s), such as {first} and {second}): there their "
            "outlines lie on one another, and areas add up to more than there is. Take totals from a report, which "
            "counts it once, or outline the maps apart."
        )
    found: list[tuple[Polygons, dict[str, npt.NDArray[Any]]]] = []
    for number, (class_map, system) in enumerate(zip(source.maps, systems, strict=True)):
        if on_progress is not None:
            on_progress(number, len(source.maps), f"Outlining {class_map.name}")
        polygons, columns = _outline_map(class_map, system, options, calibrate)
        if system != target:
            polygons = transformed(polygons, pyproj.Transformer.from_crs(system, target, always_xy=True))
        found.append((polygons, columns))
    if on_progress is not None:
        on_progress(len(source.maps), len(source.maps), "Outlined")
    return _joined(found, target, options, source, notes)


def map_classes(scheme: ClassScheme, names: Sequence[str], what: str) -> list[int]:
    """Indices of classes by name; `ConfigError` names those that can be outlined."""
    known = scheme.class_names[1:]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"{what} names {', '.join(unknown)}; the masks have {', '.join(known)}.")
    return [scheme.class_names.index(name) for name in names]


def _check(options: OutlineOptions, scheme: ClassScheme) -> None:
    merged = map_classes(scheme, options.merge, "--merge")
    wanted = map_classes(scheme, options.classes, "--classes")
    if len(merged) == 1:
        raise ConfigError("--merge takes two classes or more, such as --merge glacier debris.")
    lost = [k for k in merged[1:] if k in wanted and merged[0] not in wanted]
    if lost:
        raise ConfigError(f"--merge joins the classes to {options.merge[0]}, which --classes does not name. Add it.")
    if not 0 < options.level < 1:
        raise ConfigError(f"--level is {options.level}; give a probability between 0 and 1, such as 0.95.")
    if not options.min_area_km2 >= 0 or not options.smooth_px >= 0:
        raise ConfigError("The least area and the tolerance of smoothing cannot be negative.")
    if options.src_date:
        try:
            known = date.fromisoformat(options.src_date).isoformat() == options.src_date
        except ValueError:
            known = False
        if not known:
            raise ConfigError(f"{options.src_date!r} is no date. Write it as 2020-09-30.")


def _outline_map(
    class_map: ClassMap, crs: "pyproj.CRS", options: OutlineOptions, calibrate: Calibrate | None
) -> tuple[Polygons, dict[str, npt.NDArray[Any]]]:
    index_HW, owner_HW = class_map.read()
    scheme = class_map.scheme
    merged = map_classes(scheme, options.merge, "--merge")
    index_HW = recode(index_HW, dict.fromkeys(merged[1:], merged[0]) if merged else {})
    wanted = map_classes(scheme, options.classes, "--classes")
    if wanted:
        index_HW = recode(index_HW, {k: 0 for k in range(scheme.num_classes) if k not in wanted})
    polygons_px, classes_P, label_HW = polygonise(index_HW)
    columns = pixel_columns(
        class_map,
        owner_HW,
        label_HW,
        classes_P,
        merged=merged,
        calibrate=calibrate,
        src_date=options.src_date,
        level=options.level,
    )
    if options.smooth_px:
        polygons_px = smooth(polygons_px, options.smooth_px)
    polygons = to_map(polygons_px, class_map.georef)
    centre = class_map.georef.offset(class_map.shape[0] // 2, class_map.shape[1] // 2).transform
    columns |= shape_columns(polygons_px, class_map, crs, (centre[2], centre[5]))
    columns["polygon_km2"] = columns["area_km2"]
    if options.smooth_px:
        # Smoothing is for the eye: it makes small patches smaller and others larger.
        columns["area_km2"] = patch_areas_km2(label_HW, class_map, len(polygons_px))
    columns["class"] = np.array([scheme.class_names[k] for k in classes_P], object)
    kept = columns["area_km2"] >= options.min_area_km2
    return polygons[kept], {name: values[kept] for name, values in columns.items()}


def _joined(
    found: Sequence[tuple[Polygons, dict[str, npt.NDArray[Any]]]],
    crs: "pyproj.CRS",
    options: OutlineOptions,
    source: MapSource,
    notes: list[str],
) -> Outlines:
    polygons = np.concatenate([one for one, _ in found])
    if len(polygons) == 0:
        names = options.classes or source.scheme.class_names[1:]
        small = f" of at least {options.min_area_km2:g} km²" if options.min_area_km2 else ""
        raise DataError(
            f"There is nothing to outline: no mask has a patch of {' or '.join(names)}{small}. "
            "Check the masks, --classes and --min-area."
        )
    columns = {name: np.concatenate([one[name] for _, one in found]) for name in found[0][1]}
    class_rank = np.array([source.scheme.class_names.index(name) for name in columns["class"]])
    order = np.lexsort((columns["cenlat"], columns["cenlon"], -columns["area_km2"], class_rank))
    columns = {name: values[order] for name, values in columns.items()}
    counters: dict[str, int] = {}
    ids = []
    for name in columns["class"]:
        counters[name] = counters.get(name, 0) + 1
        ids.append(f"{name}-{counters[name]:05d}")
    columns = {"id": np.array(ids, object), "class": columns.pop("class"), **columns}
    ordered = {name: columns[name] for name in COLUMNS}
    if not any(ordered["src_date"]):
        notes.append("The date of the images is not known: src_date is empty. Give it with --date YYYY-MM-DD.")
    if np.isnan(ordered["mean_probability"]).all():
        notes.append(
            "There are no probabilities beside the masks: mean_probability and the areas low and high are empty. "
            "Predict with --probabilities to have them."
        )
    return Outlines(polygons[order], ordered, crs, (*source.notes, *notes))


COLUMNS = (
    "id",
    "class",
    "src_date",
    "cenlon",
    "cenlat",
    "utm_zone",
    "area_km2",
    "area_low_km2",
    "area_high_km2",
    "polygon_km2",
    "perimeter_km",
    "mean_probability",
    "ensemble",
    "fingerprint",
    "review",
    "tiles",
)
