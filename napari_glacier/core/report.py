"""What a class map says in numbers: areas with intervals, change by correction, interfaces and lakes, tile by tile.

Quantities are the classes of the map and, where it has both, glacier and debris together. Lengths of borders are
estimated from crossings in four directions (Cauchy and Crofton; Legland et al. 2007, Image Analysis & Stereology 26):
counting pixel edges would give 27 % too much on average.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.calibration import Calibration, Expectation, Sample, calibrate
from napari_glacier.core.class_maps import ClassMap, MapSource, MaskFile
from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme
from napari_glacier.core.errors import ConfigError, DataError, SchemeError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.projection import pixel_areas_m2, pixel_size_m

Image = npt.NDArray[np.float32]
Index = npt.NDArray[np.uint8]
OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A class, or classes together, whose area is asked for."""

    name: str
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Area:
    """Area of a quantity in km².

    Attributes
    ----------
    mapped : float
        Of the mask's pixels.
    expected : float or None
        Sum of probabilities times pixel areas; calibrated where `is_calibrated`.
    low, high : float or None
        The interval, or the envelope where probabilities are not calibrated; see docs/outlines.md.
    """

    name: str
    pixels: int
    mapped: float
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    is_calibrated: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What correction did to a quantity, in km², on the pixels that have labels."""

    name: str
    predicted: float
    corrected: float
    gained: float
    lost: float


@dataclass(frozen=True, slots=True)
class Lakes:
    """Lakes (8-connected), and those that touch glacier or debris."""

    count: int
    area_km2: float
    touching: int
    touching_area_km2: float
    contact_km: float


@dataclass(frozen=True, slots=True)
class TileRow:
    """Figures of one tile; areas by the name of the quantity."""

    id: str
    review: str
    areas: Mapping[str, Area]
    interface_km: float | None
    changed_km2: float | None


@dataclass(frozen=True)
class Scene:
    """The arrays of one map, for figures."""

    class_map: ClassMap
    index_HW: Index
    owner_HW: npt.NDArray[np.int32]
    area_HW: Image
    labels_HW: Index | None


@dataclass(frozen=True)
class Report:
    """All figures; see the attributes' own classes."""

    title: str
    scheme: ClassScheme
    level: float
    areas: Sequence[Area]
    changes: Sequence[Change]
    interface_km: float | None
    lakes: Lakes | None
    tiles: Sequence[TileRow]
    calibrations: Mapping[str, Calibration]
    scenes: Sequence[Scene]
    facts: Mapping[str, str]
    notes: Sequence[str] = field(default_factory=tuple)


def quantities_of(scheme: ClassScheme) -> tuple[Quantity, ...]:
    """Each class but the background, and glacier with debris where there are both."""
    single = [Quantity(name, (k,)) for k, name in enumerate(scheme.class_names) if k > 0]
    both = [Quantity("glacier + debris", scheme.interface)] if scheme.interface else []
    return (*single, *both)


def make_report(
    source: MapSource,
    labels: MapSource | None = None,
    calibrate_on: Sequence[str] = (),
    level: float = 0.95,
    on_progress: OnProgress | None = None,
) -> Report:
    """Measure a class map.

    Parameters
    ----------
    source : MapSource
        The masks, with probabilities beside them where intervals are wanted.
    labels : MapSource, optional
        Corrected masks of the same places: what they change is measured, and calibration is fitted on them.
    calibrate_on : sequence of str
        Ids or splits of labelled tiles (or ``all``) that the model has not learnt from.
    level : float
        Probability of the interval.
    on_progress : callable, optional
        Called with what is done, out of what, and in words; it may raise to stop the work.

    Raises
    ------
    ConfigError
        If tiles to calibrate on are not there, or the level is no probability.
    DataError
        If masks, labels and probabilities do not fit together.
    """
    if not 0 < level < 1:
        raise ConfigError(f"--level is {level}; give a probability between 0 and 1, such as 0.95.")
    tell = on_progress or (lambda done, total, text: None)
    steps = len(source.maps) + 2
    notes = [*source.notes, *(labels.notes if labels else ())]
    scenes = []
    for number, class_map in enumerate(source.maps):
        tell(number, steps, f"Reading {class_map.name}")
        scenes.append(_scene(class_map, labels))
    if labels is not None and all(scene.labels_HW is None for scene in scenes):
        raise DataError(
            "No label lies where a mask lies (or on another grid), so there is nothing to compare. Give the labels "
            "of the same tiles with --labels."
        )
    quantities = quantities_of(source.scheme)
    has_probabilities = all(class_map.has_probabilities for class_map in source.maps)
    calibrations: dict[str, Calibration] = {}
    tell(len(source.maps), steps, "Calibrating")
    if calibrate_on:
        if labels is None:
            raise ConfigError("--calibrate-on names tiles with truth; say where their labels are with --labels.")
        if not has_probabilities:
            raise DataError("There are no probabilities beside the masks. Predict with --probabilities.")
        calibrations = _calibrations(scenes, labels, calibrate_on, quantities)
        notes += _calibration_notes(calibrations)
    elif has_probabilities:
        notes.append(
            "The probabilities are not calibrated: no truth was named. The areas low and high are an envelope (from "
            f"pixels the model is {50 * (1 + level):g} % sure of to those it does not rule out), not a confidence "
            "interval. "
            "Name labelled tiles that the model has not learnt from with --labels and --calibrate-on."
        )
    else:
        notes.append(
            "There are no probabilities beside the masks, so areas have no interval. Predict with --probabilities."
        )
    tell(len(source.maps) + 1, steps, "Measuring")
    areas, tiles = _areas(scenes, quantities, calibrations, level, has_probabilities)
    interface = source.scheme.interface
    per_tile = [_tile_interfaces(scene, interface) if interface else None for scene in scenes]
    rows = _tile_rows(scenes, tiles, per_tile)
    tell(steps, steps, "Measured")
    return Report(
        title=", ".join(class_map.name for class_map in source.maps[:3]) + (" …" if len(source.maps) > 3 else ""),
        scheme=source.scheme,
        level=level,
        areas=areas,
        changes=_changes(scenes, quantities) if labels is not None else (),
        interface_km=sum(sum(lengths) for lengths in per_tile if lengths is not None) if interface else None,
        lakes=_lakes(scenes, source.scheme),
        tiles=rows,
        calibrations=calibrations,
        scenes=scenes,
        facts=_facts(source, scenes),
        notes=tuple(dict.fromkeys(notes)),
    )


def area_rows(report: Report) -> list[dict[str, Any]]:
    """Areas of the whole map as plain rows."""
    return [_area_row(area) for area in report.areas]


def tile_rows(report: Report) -> list[dict[str, Any]]:
    """The table of tiles as plain rows: a column for each figure of each quantity."""
    rows = []
    for tile in report.tiles:
        row: dict[str, Any] = {"tile": tile.id, "review": tile.review}
        for name, area in tile.areas.items():
            key = name.replace(" + ", "_and_")
            row |= {f"{key}_{what}": value for what, value in _area_row(area).items() if what.endswith("km2")}
        row |= {"debris_ice_interface_km": tile.interface_km, "changed_by_correction_km2": tile.changed_km2}
        rows.append(row)
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV (UTF-8, comma, point), atomically; numbers with six digits, nothing where not known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _plain(value) for key, value in row.items()})
    write_text_atomically(path, text.getvalue())


def interface_length(
    first_HW: npt.NDArray[np.bool_], second_HW: npt.NDArray[np.bool_], pixel_m: tuple[float, float]
) -> float:
    """Length of the border between two regions of an image, in the unit of the pixel's size.

    Crossings are counted along rows, columns and both diagonals; straight lines of any direction come out within 6 %.

    Parameters
    ----------
    first_HW, second_HW : bool arrays
        Regions without common pixels.
    pixel_m : (float, float)
        Width and height of a pixel.
    """
    return float(_crossings(first_HW, second_HW, pixel_m).sum())


def _crossings(
    first_HW: npt.NDArray[np.bool_], second_HW: npt.NDArray[np.bool_], pixel_m: tuple[float, float]
) -> Image:
    """Length of border at each pixel: at the upper left one of every pair that the border parts."""
    width, height = pixel_m
    slant = np.arctan2(height, width)
    diagonal = width * height / np.hypot(width, height)
    length_HW = np.zeros(first_HW.shape, np.float32)
    # (offset of the second pixel, spacing of the lines in this direction, angle that the direction stands for)
    for rows, cols, spacing, angle in (
        (0, 1, height, slant),
        (1, 0, width, np.pi / 2 - slant),
        (1, 1, diagonal, np.pi / 4),
        (1, -1, diagonal, np.pi / 4),
    ):
        here = np.s_[: first_HW.shape[0] - rows, max(-cols, 0) : first_HW.shape[1] - max(cols, 0)]
        there = np.s_[rows:, max(cols, 0) : first_HW.shape[1] + min(cols, 0)]
        crossed = (first_HW[here] & second_HW[there]) | (second_HW[here] & first_HW[there])
        length_HW[here] += crossed * np.float32(spacing * angle / 2)
    return length_HW


def _scene(class_map: ClassMap, labels: MapSource | None) -> Scene:
    index_HW, owner_HW = class_map.read()
    labels_HW = None
    if labels is not None:
        found_HW = class_map.read_other(labels.masks, labels.scheme)
        if (found_HW != IGNORE_INDEX).any():
            labels_HW = _same_classes(found_HW, labels.scheme, class_map.scheme)
    area_HW = pixel_areas_m2(class_map.georef, class_map.shape) / np.float32(1e6)
    return Scene(class_map, index_HW, owner_HW, area_HW, labels_HW)


def _same_classes(index_HW: Index, own: ClassScheme, wanted: ClassScheme) -> Index:
    if own.class_names != wanted.class_names:
        raise SchemeError(
            f"The labels have the classes {', '.join(own.class_names)}, the masks {', '.join(wanted.class_names)}. "
            "Give labels of the same classes, or name the scheme of both with --scheme."
        )
    return index_HW


def _calibrations(
    scenes: Sequence[Scene], labels: MapSource, names: Sequence[str], quantities: Sequence[Quantity]
) -> dict[str, Calibration]:
    chosen = _chosen(labels.masks, names)
    tiles = []
    for scene in scenes:
        for mask in chosen:
            only_HW = scene.class_map.read_other([mask], labels.scheme)
            if (only_HW != IGNORE_INDEX).any():
                tiles.append((scene, mask, only_HW))
    placed = {mask.id for _, mask, _ in tiles}
    missing = [mask.id for mask in chosen if mask.id not in placed]
    if missing:
        raise ConfigError(
            f"The labelled tiles {', '.join(missing[:5])} do not lie on the map (or on another grid), so nothing can "
            "be calibrated on them. Predict them, too, or leave them out of --calibrate-on."
        )
    found = {}
    for quantity in quantities:
        probability = {
            id(scene): scene.class_map.read_probability(quantity.classes, scene.owner_HW) for scene in scenes
        }
        samples = []
        for scene, mask, only_HW in tiles:
            rows, cols = np.nonzero(only_HW != IGNORE_INDEX)
            box = np.s_[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
            inside = only_HW[box] != IGNORE_INDEX
            values = np.where(inside, probability[id(scene)][box], np.nan).astype(np.float32)
            samples.append(Sample(mask.id, values, np.isin(only_HW[box], quantity.classes)))
        if not any(np.isfinite(sample.probability_HW).any() for sample in samples):
            raise DataError("The tiles to calibrate on have no pixel with data. Name others with --calibrate-on.")
        found[quantity.name] = calibrate(quantity.name, samples)
    return found


def _chosen(masks: Sequence[MaskFile], names: Sequence[str]) -> list[MaskFile]:
    if list(names) == ["all"]:
        return list(masks)
    known = {mask.id for mask in masks} | {mask.split for mask in masks if mask.split}
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(sorted(known)[:12])
        raise ConfigError(f"--calibrate-on names {', '.join(unknown[:5])}; there are labels for {shown}. Or say all.")
    return [mask for mask in masks if mask.id in names or mask.split in names]


def _calibration_notes(calibrations: Mapping[str, Calibration]) -> list[str]:
    tiles = next(iter(calibrations.values())).tiles
    notes = [
        f"Calibrated on {len(tiles)} tile(s) with truth ({', '.join(tiles[:8])}{', …' if len(tiles) > 8 else ''}). The "
        "intervals hold where the rest of the map is like these tiles and the model has learnt from none of them."
    ]
    if len(tiles) == 1:
        notes.append(
            "With one tile the calibration is judged on the tile it was fitted on: intervals are too narrow. Name more."
        )
    elif len(tiles) < 5:
        notes.append("Fewer than five tiles say little of how far tiles differ: take the intervals as a rough guide.")
    return notes


def _areas(
    scenes: Sequence[Scene],
    quantities: Sequence[Quantity],
    calibrations: Mapping[str, Calibration],
    level: float,
    has_probabilities: bool,
) -> tuple[list[Area], list[list[dict[str, Area]]]]:
    """Areas of the whole, and those of each part of each scene."""
    areas: list[Area] = []
    tiles: list[list[dict[str, Area]]] = [[{} for _ in scene.class_map.parts] for scene in scenes]
    for quantity in quantities:
        gauge = _Gauge(quantity.name, calibrations.get(quantity.name), level)
        whole: _Measured | None = None
        for scene, own in zip(scenes, tiles, strict=True):
            member_HW = np.isin(scene.index_HW, quantity.classes) & (scene.owner_HW >= 0)
            probability_HW = None
            if has_probabilities:
                probability_HW = scene.class_map.read_probability(quantity.classes, scene.owner_HW)
            measured = gauge.measure(member_HW, probability_HW, scene.area_HW)
            whole = measured if whole is None else whole + measured
            for number, part in enumerate(scene.class_map.parts):
                mine = scene.owner_HW[part.slices] == number
                part_HW = None
                if probability_HW is not None:
                    part_HW = np.where(mine, probability_HW[part.slices], np.nan).astype(np.float32)
                of_part = gauge.measure(member_HW[part.slices] & mine, part_HW, scene.area_HW[part.slices])
                own[number][quantity.name] = gauge.area(of_part)
        assert whole is not None
        areas.append(gauge.area(whole))
    return areas, tiles


@dataclass(frozen=True, slots=True)
class _Measured:
    """What of one place can be added to that of another one: pixels, km², and what is expected."""

    pixels: int
    mapped: float
    possible: float
    expected: Expectation | None
    envelope: tuple[float, float]

    def __add__(self, other: "_Measured") -> "_Measured":
        both = None
        if self.expected is not None and other.expected is not None:
            both = self.expected + other.expected
        return _Measured(
            self.pixels + other.pixels,
            self.mapped + other.mapped,
            self.possible + other.possible,
            both,
            (self.envelope[0] + other.envelope[0], self.envelope[1] + other.envelope[1]),
        )


@dataclass(frozen=True, slots=True)
class _Gauge:
    """Measures a quantity in the pixels of a place."""

    name: str
    calibration: Calibration | None
    level: float

    def measure(self, member_HW: npt.NDArray[np.bool_], probability_HW: Image | None, area_HW: Image) -> _Measured:
        pixels, mapped = int(member_HW.sum()), float(area_HW[member_HW].sum(dtype=np.float64))
        if probability_HW is None:
            return _Measured(pixels, mapped, 0.0, None, (0.0, 0.0))
        known = np.isfinite(probability_HW)
        values, weights = probability_HW[known], area_HW[known].astype(np.float64)
        possible = float(weights.sum())
        if self.calibration is not None:
            expected = self.calibration.expected_area(probability_HW, area_HW)
            return _Measured(pixels, mapped, possible, expected, (0.0, 0.0))
        envelope = (
            float(weights[values >= (1 + self.level) / 2].sum()),
            float(weights[values > (1 - self.level) / 2].sum()),
        )
        return _Measured(pixels, mapped, possible, Expectation(float(values @ weights), 0.0, np.empty(0)), envelope)

    def area(self, measured: _Measured) -> Area:
        from scipy.stats import norm

        if measured.expected is None:
            return Area(self.name, measured.pixels, measured.mapped)
        expected, (low, high) = measured.expected.area, measured.envelope
        if self.calibration is not None:
            reach = float(norm.ppf((1 + self.level) / 2)) * measured.expected.deviation
            low, high = max(expected - reach, 0.0), min(expected + reach, measured.possible)
        return Area(self.name, measured.pixels, measured.mapped, expected, low, high, self.calibration is not None)


def _tile_interfaces(scene: Scene, interface: tuple[int, int]) -> list[float]:
    """Length in km of the border between two classes in each part; borders between parts count in the first one."""
    first_HW, second_HW = (scene.index_HW == k for k in interface)
    lengths = []
    for number, part in enumerate(scene.class_map.parts):
        # A row and two columns beyond the part, so that borders along its edges are seen.
        rows, cols = part.slices
        left = max(cols.start - 1, 0)
        box = np.s_[rows.start : rows.stop + 1, left : cols.stop + 1]
        georef = scene.class_map.georef.offset(part.row, part.col)
        size = pixel_size_m(georef, (part.mask.height, part.mask.width))
        length_HW = _crossings(first_HW[box], second_HW[box], (size[0] / 1000, size[1] / 1000))
        lengths.append(float(length_HW[scene.owner_HW[box] == number].sum(dtype=np.float64)))
    return lengths


def _tile_rows(
    scenes: Sequence[Scene], tiles: Sequence[Sequence[Mapping[str, Area]]], lengths: Sequence[list[float] | None]
) -> list[TileRow]:
    rows = []
    for scene, own, interface in zip(scenes, tiles, lengths, strict=True):
        for number, part in enumerate(scene.class_map.parts):
            changed = None
            if scene.labels_HW is not None:
                mine = (scene.owner_HW[part.slices] == number) & (scene.labels_HW[part.slices] != IGNORE_INDEX)
                if mine.any():
                    differs = mine & (scene.labels_HW[part.slices] != scene.index_HW[part.slices])
                    changed = float(scene.area_HW[part.slices][differs].sum(dtype=np.float64))
            rows.append(
                TileRow(part.mask.id, part.mask.review, own[number], interface[number] if interface else None, changed)
            )
    return rows


def _changes(scenes: Sequence[Scene], quantities: Sequence[Quantity]) -> list[Change]:
    changes = []
    for quantity in quantities:
        totals = np.zeros(4)
        for scene in scenes:
            if scene.labels_HW is None:
                continue
            compared = (scene.labels_HW != IGNORE_INDEX) & (scene.owner_HW >= 0)
            before = compared & np.isin(scene.index_HW, quantity.classes)
            after = compared & np.isin(scene.labels_HW, quantity.classes)
            for k, region in enumerate((before, after, after & ~before, before & ~after)):
                totals[k] += scene.area_HW[region].sum(dtype=np.float64)
        changes.append(Change(quantity.name, *totals.tolist()))
    return changes


def _lakes(scenes: Sequence[Scene], scheme: ClassScheme) -> Lakes | None:
    from scipy.ndimage import binary_dilation, label

    if "lake" not in scheme.class_names:
        return None
    lake = scheme.class_names.index("lake")
    ice = [k for k, name in enumerate(scheme.class_names) if name in ("glacier", "debris")]
    eight = np.ones((3, 3), bool)
    count, touching, area, touching_area, contact = 0, 0, 0.0, 0.0, 0.0
    for scene in scenes:
        lake_HW, ice_HW = scene.index_HW == lake, np.isin(scene.index_HW, ice)
        label_HW, found = label(lake_HW, structure=eight)
        sizes = np.bincount(label_HW[lake_HW], weights=scene.area_HW[lake_HW], minlength=found + 1)[1:]
        touched = np.unique(label_HW[lake_HW & binary_dilation(ice_HW, eight)])
        count, touching = count + found, touching + len(touched)
        area, touching_area = area + float(sizes.sum()), touching_area + float(sizes[touched - 1].sum())
        size = pixel_size_m(scene.class_map.georef, scene.class_map.shape)
        contact += interface_length(lake_HW, ice_HW, (size[0] / 1000, size[1] / 1000))
    return Lakes(count, area, touching, touching_area, contact)


def _facts(source: MapSource, scenes: Sequence[Scene]) -> dict[str, str]:
    """What the map was made of and by."""
    tags = [mask.tags for mask in source.masks]

    def listed(key: str) -> str:
        return ", ".join(dict.fromkeys(value for own in tags if (value := own.get(key))))

    covered = sum(float(scene.area_HW[scene.owner_HW >= 0].sum(dtype=np.float64)) for scene in scenes)
    facts = {
        "Masks": f"{len(tags)} ({covered:,.1f} km² with nodata)",
        "Coordinate system": ", ".join(dict.fromkeys(scene.class_map.georef.crs_name for scene in scenes)),
        "Model": listed("ensemble") or "not stated in the masks",
        "Fingerprint": listed("fingerprint"),
    }
    return {key: value for key, value in facts.items() if value}


def _area_row(area: Area) -> dict[str, Any]:
    kind = "" if area.low is None else ("calibrated" if area.is_calibrated else "uncalibrated envelope")
    return {
        "class": area.name,
        "pixels": area.pixels,
        "area_km2": area.mapped,
        "expected_km2": area.expected,
        "low_km2": area.low,
        "high_km2": area.high,
        "interval": kind,
    }


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else value
