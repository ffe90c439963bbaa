"""What is known of each outline: place, area and perimeter, the masks and days it is of, and how sure it is."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.correction.journal_schema import REVIEW_STATES
from napari_glacier.core.inventory.class_maps import ClassMap, MaskFile
from napari_glacier.core.inventory.vectorize import Polygons, to_map
from napari_glacier.core.raster.projection import (
    pixel_areas_m2,
    to_equal_area,
    to_longitude_latitude,
    utm_zones,
)
from napari_glacier.core.scenes.products import DATE_TAG

if TYPE_CHECKING:
    import pyproj

Floats = npt.NDArray[np.float64]
# Class index and probability of a class, as predicted -> as observed; see `calibration.Calibration`.
Calibrate = Callable[[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]]

# Longest edge when areas are measured: a chord of this length is 1 cm off the curve it stands for.
_EDGE_PX = 32
_HALF_TURN = 180.0
_LANDSAT_DATE = re.compile(r"L[COTEM]0[4-9]_L\w{3}_\d{6}_(\d{8})")
_DATE_TAGS = (DATE_TAG, "date_acquired", "src_date")


def shape_columns(
    polygons_px: Polygons, class_map: ClassMap, crs: "pyproj.CRS", centre_xy: tuple[float, float]
) -> dict[str, npt.NDArray[Any]]:
    """Area, perimeter and position on the ellipsoid."""
    import shapely

    dense = to_map(np.asarray(shapely.segmentize(polygons_px, _EDGE_PX), object), class_map.georef)
    area_km2 = shapely.area(transformed(dense, to_equal_area(crs, centre_xy))) / 1e6
    centroids, inside = shapely.centroid(dense), shapely.point_on_surface(dense)
    shapely.prepare(dense)
    points = np.where(shapely.intersects(dense, centroids), centroids, inside)
    lon, lat = to_longitude_latitude(crs).transform(shapely.get_x(points), shapely.get_y(points))
    # A raster may go on beyond the antimeridian, or count from 0 to 360.
    lon = np.where(np.abs(lon) > _HALF_TURN, np.mod(lon + _HALF_TURN, 2 * _HALF_TURN) - _HALF_TURN, lon)
    lat = np.asarray(lat, float)
    return {
        "cenlon": lon,
        "cenlat": lat,
        "utm_zone": utm_zones(lon),
        "area_km2": np.asarray(area_km2, float),
        "perimeter_km": _perimeters_km(dense, crs),
    }


def patch_areas_km2(label_HW: npt.NDArray[np.int32], class_map: ClassMap, count: int) -> Floats:
    """Area on the ellipsoid of the pixels of each patch (from 1 on), shape (count,)."""
    areas_HW = pixel_areas_m2(class_map.georef, class_map.shape)
    return np.bincount(label_HW.ravel(), areas_HW.ravel(), count + 1)[1:] / 1e6


def _perimeters_km(polygons: Polygons, crs: "pyproj.CRS") -> Floats:
    """Length of all rings, holes included, on the ellipsoid."""
    import pyproj
    import shapely

    if len(polygons) == 0:
        return np.zeros(0)
    rings_R, polygon_R = shapely.get_rings(polygons, return_index=True)
    vertices_N2, ring_N = shapely.get_coordinates(rings_R, return_index=True)
    lon, lat = to_longitude_latitude(crs).transform(vertices_N2[:, 0], vertices_N2[:, 1])
    _, _, metres = pyproj.Geod(ellps="WGS84").inv(lon[:-1], lat[:-1], lon[1:], lat[1:])
    same = ring_N[1:] == ring_N[:-1]
    per_polygon = np.bincount(polygon_R[ring_N[:-1][same]], weights=metres[same], minlength=len(polygons))
    return np.asarray(per_polygon / 1000, float)


def pixel_columns(
    class_map: ClassMap,
    owner_HW: npt.NDArray[np.int32],
    label_HW: npt.NDArray[np.int32],
    classes_P: npt.NDArray[np.uint8],
    *,
    merged: Sequence[int],
    calibrate: Calibrate | None,
    src_date: str,
    level: float,
) -> dict[str, npt.NDArray[Any]]:
    """What is taken from the pixels of each polygon: masks it lies on, their tags, and probabilities."""
    count = len(classes_P)
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.full(count, np.nan) for name in ("mean_probability", "area_low_km2", "area_high_km2")
    }
    columns |= _mask_columns(class_map, owner_HW, label_HW, count, src_date)
    if not class_map.has_probabilities or count == 0:
        return columns
    area_HW = pixel_areas_m2(class_map.georef, class_map.shape) / np.float32(1e6)
    for k in np.unique(classes_P).tolist():
        members = list(merged) if merged and k == merged[0] else [k]
        probability_HW = class_map.read_probability(members, owner_HW)
        if calibrate is not None:
            name = " + ".join(class_map.scheme.class_names[m] for m in members)
            probability_HW = calibrate(name, probability_HW)
        own_P = np.flatnonzero(classes_P == k)
        first, last = own_P[0] + 1, own_P[-1] + 1
        own_HW = np.where((label_HW >= first) & (label_HW <= last), label_HW - first + 1, 0)
        for name, values in _certainty(own_HW, len(own_P), probability_HW, area_HW, level).items():
            columns[name][own_P] = values
    return columns


def _certainty(
    label_HW: npt.NDArray[np.int32],
    count: int,
    probability_HW: npt.NDArray[np.float32],
    area_HW: npt.NDArray[np.float32],
    level: float,
) -> dict[str, Floats]:
    """Mean probability of each patch, its surely covered area, and its area grown into what may belong to it.

    Low: its pixels that are of the class with at least (1 + level) / 2. High: it and the pixels joined to it that are
    with more than (1 - level) / 2, each given to the patch from which it is reached over the more probable pixels.
    """
    from skimage.segmentation import watershed

    def sums(labels: npt.NDArray[Any], weights: npt.NDArray[Any]) -> Floats:
        return np.bincount(labels, weights=weights, minlength=count + 1)[1:].astype(float)

    known = (label_HW > 0) & np.isfinite(probability_HW)
    labels, values, areas = label_HW[known], probability_HW[known], area_HW[known]
    weight = sums(labels, areas)
    mean = np.divide(sums(labels, areas * values), weight, out=np.full(count, np.nan), where=weight > 0)
    sure = values >= (1 + level) / 2
    low = sums(labels[sure], areas[sure])
    possible = (label_HW > 0) | (np.nan_to_num(probability_HW) > (1 - level) / 2)
    grown: npt.NDArray[np.int32] = watershed(  # type: ignore[no-untyped-call]
        -np.nan_to_num(probability_HW), label_HW, mask=possible
    )
    high = sums(grown[possible], area_HW[possible])
    unknown = weight == 0
    low[unknown], high[unknown] = np.nan, np.nan
    return {"mean_probability": mean, "area_low_km2": low, "area_high_km2": high}


def _mask_columns(
    class_map: ClassMap,
    owner_HW: npt.NDArray[np.int32],
    label_HW: npt.NDArray[np.int32],
    count: int,
    src_date: str,
) -> dict[str, npt.NDArray[Any]]:
    """Which masks a polygon lies on and what these say; of several values all, of several dates the largest part's."""
    masks = [part.mask for part in class_map.parts]
    covered = label_HW > 0
    owner_N = owner_HW[covered].clip(min=0)
    label_N = label_HW[covered].astype(np.int64) - 1
    if src_date:
        days, day_N = [src_date], np.zeros_like(owner_N)
    else:
        days, day_HW = _days(class_map, owner_HW)
        day_N = day_HW[covered]
    day_of = _largest_share(label_N, day_N, count, len(days))
    on: list[list[int]] = [[] for _ in range(count)]
    for number in np.unique(label_N * len(masks) + owner_N).tolist():
        on[number // len(masks)].append(number % len(masks))
    columns: dict[str, list[str]] = {name: [] for name in ("src_date", "ensemble", "fingerprint", "review", "tiles")}
    for parts, number in zip(on, day_of.tolist(), strict=True):
        own, day = [masks[k] for k in parts], days[number]
        columns["src_date"].append(f"{day}T00:00:00" if day else "")
        columns["ensemble"].append(_distinct(mask.tags.get("ensemble", "") for mask in own))
        columns["fingerprint"].append(_distinct(mask.tags.get("fingerprint", "") for mask in own))
        states = {mask.review for mask in own}
        columns["review"].append(", ".join(state for state in REVIEW_STATES if state in states))
        columns["tiles"].append(_distinct(mask.id for mask in own))
    return {name: np.array(values, object) for name, values in columns.items()}


def _days(class_map: ClassMap, owner_HW: npt.NDArray[np.int32]) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Days of the images, and which of them each pixel is of; of a mosaic of scenes that of the pixel's own scene."""
    days: list[str] = []

    def number_of(day: str) -> int:
        if day not in days:
            days.append(day)
        return days.index(day)

    day_HW = np.zeros(owner_HW.shape, np.int32)
    for number, part in enumerate(class_map.parts):
        own_HW = owner_HW[part.slices] == number
        usual = number_of(image_date(part.mask))
        values_HW: npt.NDArray[np.int32] | int = usual
        if part.mask.days is not None:
            source_HW, scene_days = part.mask.days()
            of_source = np.full(256, usual, np.int32)
            of_source[: len(scene_days)] = [number_of(day) for day in scene_days]
            values_HW = of_source[source_HW]
        np.copyto(day_HW[part.slices], values_HW, where=own_HW)
    return days, day_HW


def _largest_share(
    label_N: npt.NDArray[np.int64], value_N: npt.NDArray[np.int32], count: int, num_values: int
) -> npt.NDArray[np.int64]:
    """The value that most pixels of each label have, shape (count,)."""
    pair, pixels = np.unique(label_N * num_values + value_N, return_counts=True)
    largest = np.zeros(count, np.int64)
    ordered = np.argsort(pixels, kind="stable")
    largest[pair[ordered] // num_values] = pair[ordered] % num_values
    return largest


def image_date(mask: MaskFile) -> str:
    """Day (YYYY-MM-DD) of a mask's image by its tags or, for Landsat scenes, by its name; empty where not known."""
    for tag in _DATE_TAGS:
        if mask.tags.get(tag):
            return mask.tags[tag][:10]
    found = _LANDSAT_DATE.search(mask.path.name)
    return f"{found[1][:4]}-{found[1][4:6]}-{found[1][6:]}" if found else ""


def _distinct(values: Any) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def transformed(polygons: Polygons, transformer: "pyproj.Transformer") -> Polygons:
    """Polygons in another coordinate system; in longitude and latitude those across the antimeridian become two."""
    import shapely

    moved = np.asarray(
        shapely.transform(polygons, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))), object
    )
    if transformer.target_crs is not None and transformer.target_crs.is_geographic:
        left_P, _, right_P, _ = shapely.bounds(moved).T
        for number in np.flatnonzero(right_P - left_P > _HALF_TURN):
            moved[number] = _cut_at_antimeridian(moved[number])
    return moved


def _cut_at_antimeridian(polygon: Any) -> Any:
    """One polygon that runs round the globe, as the parts on both sides of 180 degrees."""
    import shapely

    whole = shapely.transform(polygon, lambda xy: np.column_stack([xy[:, 0] % (2 * _HALF_TURN), xy[:, 1]]))
    # Around a pole no ring closes.
    whole = shapely.make_valid(whole)
    west = shapely.intersection(whole, shapely.box(0, -90, _HALF_TURN, 90))
    east = shapely.intersection(whole, shapely.box(_HALF_TURN, -90, 2 * _HALF_TURN, 90))
    east = shapely.transform(east, lambda xy: xy - (2 * _HALF_TURN, 0))
    parts = [*shapely.get_parts(west), *shapely.get_parts(east)]
    return shapely.multipolygons([part for part in parts if part.geom_type == "Polygon"])
