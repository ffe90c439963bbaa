"""What a class map says in numbers: areas with intervals, change by correction, interfaces and lakes, tile by tile."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.evaluation import class_table
from napari_glacier.core.inventory.borders import measure_lakes, tile_interfaces
from napari_glacier.core.inventory.calibration import Calibration, Expectation, Sample, calibrate
from napari_glacier.core.inventory.class_maps import ClassMap, MaskFile
from napari_glacier.core.inventory.map_source import MapSource
from napari_glacier.core.inventory.report_data import (
    Area,
    Change,
    Image,
    Index,
    Quantity,
    Report,
    Scene,
    TileRow,
    quantities_of,
)
from napari_glacier.core.inventory.shared_ground import count_once
from napari_glacier.core.raster.projection import pixel_areas_m2

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class _Truth:
    """Labels, the table from classes of the map to theirs, and which quantities they know by which of their classes."""

    source: MapSource
    table: npt.NDArray[np.uint8]
    known: Mapping[str, tuple[int, ...]]


def make_report(
    source: MapSource,
    labels: MapSource | None = None,
    calibrate_on: Sequence[str] = (),
    level: float = 0.95,
    on_progress: OnProgress | None = None,
    *,
    glacier_classes: Sequence[str] = (),
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
    glacier_classes : sequence of str
        With a four-class map and two-class labels: the classes that the labels call glacier.

    Raises
    ------
    ConfigError
        If tiles to calibrate on are not there, or the level is no probability.
    SchemeError
        If labels and masks have different classes, and it is not said how they go together.
    DataError
        If masks, labels and probabilities do not fit together.
    """
    if not 0 < level < 1:
        raise ConfigError(f"--level is {level}; give a probability between 0 and 1, such as 0.95.")
    tell = on_progress or (lambda done, total, text: None)
    quantities, truth = _quantities_and_truth(source.scheme, labels, glacier_classes)
    steps = len(source.maps) * (1 + len(quantities)) + len(quantities)
    notes = [*source.notes, *(labels.notes if labels else ())]
    scenes = []
    for number, class_map in enumerate(source.maps):
        tell(number, steps, f"Reading {class_map.name}")
        scenes.append(_scene(class_map, truth))
    notes += count_once(scenes)
    if labels is not None and all(scene.labels_HW is None for scene in scenes):
        raise DataError(
            "No label lies where a mask lies (or on another grid), so there is nothing to compare. Give the labels "
            "of the same tiles with --labels."
        )
    has_probabilities = all(class_map.has_probabilities for class_map in source.maps)
    calibrations: dict[str, Calibration] = {}
    done = len(source.maps)
    if calibrate_on:
        if truth is None:
            raise ConfigError("--calibrate-on names tiles with truth; say where their labels are with --labels.")
        if not has_probabilities:
            raise DataError("There are no probabilities beside the masks. Predict with --probabilities.")
        calibrations = _calibrations(scenes, truth, calibrate_on, quantities, lambda k, of: tell(done + k, steps, of))
        notes += _calibration_notes(calibrations, quantities)
    elif has_probabilities:
        notes.append(
            "The probabilities are not calibrated: no truth was named. The areas low and high are an envelope (from "
            f"pixels the model is {50 * (1 + level):g} % sure of to those it does not rule out), not a confidence "
            "interval. "
            "Name labelled tiles that the model has not learnt from with --labels and --calibrate-on."
        )
    elif source.of_labels:
        notes.append("Labels have no probabilities, so areas have no interval. Report on a prediction to have one.")
    else:
        notes.append(
            "There are no probabilities beside the masks, so areas have no interval. Predict with --probabilities."
        )
    done += len(quantities)
    areas: list[Area] = []
    tiles: list[list[dict[str, Area]]] = [[{} for _ in scene.class_map.parts] for scene in scenes]
    for quantity in quantities:
        gauge = _Gauge(quantity.name, calibrations.get(quantity.name), level)
        whole: _Measured | None = None
        for scene, own in zip(scenes, tiles, strict=True):
            tell(done, steps, f"Measuring {quantity.name}")
            done += 1
            measured = _measure(gauge, quantity, scene, own, has_probabilities)
            whole = measured if whole is None else whole + measured
        assert whole is not None
        areas.append(gauge.area(whole))
    interface = source.scheme.interface
    per_tile = [tile_interfaces(scene, interface) if interface else None for scene in scenes]
    rows = _tile_rows(scenes, tiles, per_tile)
    tell(steps, steps, "Measured")
    return Report(
        title=", ".join(class_map.name for class_map in source.maps[:3]) + (" …" if len(source.maps) > 3 else ""),
        scheme=source.scheme,
        level=level,
        areas=areas,
        changes=_changes(scenes, quantities, truth.known) if truth is not None else (),
        interface_km=sum(sum(lengths) for lengths in per_tile if lengths is not None) if interface else None,
        lakes=measure_lakes(scenes, source.scheme),
        tiles=rows,
        calibrations=calibrations,
        scenes=scenes,
        facts=_facts(source, scenes),
        notes=tuple(dict.fromkeys(notes)),
    )


def _quantities_and_truth(
    scheme: ClassScheme, labels: MapSource | None, glacier_classes: Sequence[str]
) -> tuple[tuple[Quantity, ...], _Truth | None]:
    quantities = quantities_of(scheme)
    if labels is None:
        if glacier_classes:
            raise ConfigError("--glacier-classes says how two-class labels are read; give them with --labels.")
        return quantities, None
    table = class_table(scheme, labels.scheme, glacier_classes or None)
    if not glacier_classes:
        return quantities, _Truth(labels, table, {quantity.name: quantity.classes for quantity in quantities})
    classes = tuple(k for k, name in enumerate(scheme.class_names) if name in glacier_classes)
    own = next((quantity for quantity in quantities if set(quantity.classes) == set(classes)), None)
    if own is None:
        own = Quantity(" + ".join(scheme.class_names[k] for k in classes), classes)
        quantities = (*quantities, own)
    return quantities, _Truth(labels, table, {own.name: (1,)})


def _scene(class_map: ClassMap, truth: _Truth | None) -> Scene:
    index_HW, owner_HW = class_map.read()
    labels_HW = compared_HW = None
    if truth is not None:
        found_HW = class_map.read_other(truth.source.masks, truth.source.scheme)
        if (found_HW != IGNORE_INDEX).any():
            labels_HW, compared_HW = found_HW, truth.table[index_HW]
    area_HW = pixel_areas_m2(class_map.georef, class_map.shape) / np.float32(1e6)
    return Scene(class_map, index_HW, owner_HW, area_HW, labels_HW, compared_HW)


def _tiles_with_truth(
    scenes: Sequence[Scene], labels: MapSource, names: Sequence[str]
) -> list[tuple[Scene, MaskFile, Index]]:
    """Labelled tiles of these names, with the scene they lie on and the labels on its grid."""
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
    return tiles


def _calibrations(
    scenes: Sequence[Scene],
    truth: _Truth,
    calibrate_on: Sequence[str],
    quantities: Sequence[Quantity],
    tell: Callable[[int, str], None],
) -> dict[str, Calibration]:
    """Calibrations of the quantities that the labels know."""
    chosen = _tiles_with_truth(scenes, truth.source, calibrate_on)
    found = {}
    for number, quantity in enumerate(quantities):
        tell(number, f"Calibrating {quantity.name}")
        if quantity.name in truth.known:
            found[quantity.name] = _calibration(scenes, chosen, quantity, truth.known[quantity.name])
    return found


def _calibration(
    scenes: Sequence[Scene],
    tiles: Sequence[tuple[Scene, MaskFile, Index]],
    quantity: Quantity,
    truth_classes: Sequence[int],
) -> Calibration:
    probability = {id(scene): scene.class_map.read_probability(quantity.classes, scene.owner_HW) for scene in scenes}
    samples = []
    for scene, mask, only_HW in tiles:
        rows, cols = np.nonzero(only_HW != IGNORE_INDEX)
        box = np.s_[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
        inside = only_HW[box] != IGNORE_INDEX
        values = np.where(inside, probability[id(scene)][box], np.nan).astype(np.float32)
        samples.append(Sample(mask.id, values, np.isin(only_HW[box], truth_classes)))
    if not any(np.isfinite(sample.probability_HW).any() for sample in samples):
        raise DataError("The tiles to calibrate on have no pixel with data. Name others with --calibrate-on.")
    return calibrate(quantity.name, samples)


def _chosen(masks: Sequence[MaskFile], names: Sequence[str]) -> list[MaskFile]:
    if list(names) == ["all"]:
        return list(masks)
    known = {mask.id for mask in masks} | {mask.split for mask in masks if mask.split}
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(sorted(known)[:12])
        raise ConfigError(f"--calibrate-on names {', '.join(unknown[:5])}; there are labels for {shown}. Or say all.")
    return [mask for mask in masks if mask.id in names or mask.split in names]


def _calibration_notes(calibrations: Mapping[str, Calibration], quantities: Sequence[Quantity]) -> list[str]:
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
    if len(calibrations) < len(quantities):
        notes.append(
            f"The labels know {' and '.join(calibrations)} only: other classes are not calibrated, and their areas "
            "low and high are an envelope."
        )
    return notes


def _measure(
    gauge: "_Gauge", quantity: Quantity, scene: Scene, own: Sequence[dict[str, Area]], has_probabilities: bool
) -> "_Measured":
    """A quantity in a whole scene; its area in each part goes into `own`."""
    member_HW = np.isin(scene.index_HW, quantity.classes) & (scene.owner_HW >= 0)
    probability_HW = None
    if has_probabilities:
        probability_HW = scene.class_map.read_probability(quantity.classes, scene.owner_HW)
    for number, part in enumerate(scene.class_map.parts):
        mine = scene.owner_HW[part.slices] == number
        part_HW = None
        if probability_HW is not None:
            part_HW = np.where(mine, probability_HW[part.slices], np.nan).astype(np.float32)
        of_part = gauge.measure(member_HW[part.slices] & mine, part_HW, scene.area_HW[part.slices])
        own[number][quantity.name] = gauge.area(of_part)
    return gauge.measure(member_HW, probability_HW, scene.area_HW)


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


def _tile_rows(
    scenes: Sequence[Scene], tiles: Sequence[Sequence[Mapping[str, Area]]], lengths: Sequence[list[float] | None]
) -> list[TileRow]:
    rows = []
    for scene, own, interface in zip(scenes, tiles, lengths, strict=True):
        for number, part in enumerate(scene.class_map.parts):
            changed = None
            if scene.labels_HW is not None and scene.compared_HW is not None:
                mine = (scene.owner_HW[part.slices] == number) & (scene.labels_HW[part.slices] != IGNORE_INDEX)
                if mine.any():
                    differs = mine & (scene.labels_HW[part.slices] != scene.compared_HW[part.slices])
                    changed = float(scene.area_HW[part.slices][differs].sum(dtype=np.float64))
            rows.append(
                TileRow(part.mask.id, part.mask.review, own[number], interface[number] if interface else None, changed)
            )
    return rows


def _changes(
    scenes: Sequence[Scene], quantities: Sequence[Quantity], known: Mapping[str, tuple[int, ...]]
) -> list[Change]:
    """What the labels change in the quantities that they know."""
    changes = []
    for quantity in quantities:
        if quantity.name not in known:
            continue
        totals = np.zeros(4)
        for scene in scenes:
            if scene.labels_HW is None:
                continue
            compared = (scene.labels_HW != IGNORE_INDEX) & (scene.owner_HW >= 0)
            before = compared & np.isin(scene.index_HW, quantity.classes)
            after = compared & np.isin(scene.labels_HW, known[quantity.name])
            for k, region in enumerate((before, after, after & ~before, before & ~after)):
                totals[k] += scene.area_HW[region].sum(dtype=np.float64)
        changes.append(Change(quantity.name, *totals.tolist()))
    return changes


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
