"""Two dates of one place compared: what each class gained and lost, and a map of it."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme, get_scheme, scheme_of_masks, tagged_scheme
from napari_glacier.core.correction.saving import mask_file
from napari_glacier.core.data.dataset import Dataset, is_dataset, open_dataset
from napari_glacier.core.data.pairing import pair_files
from napari_glacier.core.errors import DataError, SaveError, SchemeError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.inventory.map_source import masks_in, refuse_array
from napari_glacier.core.raster import (
    RasterInfo,
    read_description,
    read_mask_codes,
    read_mask_info,
    read_mask_validity,
    write_mask,
)
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.raster.projection import pixel_areas_m2
from napari_glacier.core.scenes.products import HIDING_CLASSES
from napari_glacier.core.tiling import Window

MADE_BY = "napari-glacier change"
_LOST, _GAINED, _TURNED, _NEVER = "#b2182b", "#1b7837", "#762a83", "#d9d9d9"


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two masks, and the pixels of each that lie in the same place."""

    name: str
    before: RasterInfo
    after: RasterInfo
    in_before: Window
    in_after: Window
    georef: GeoRef | None


@dataclass(frozen=True, slots=True)
class Change:
    """What became of each class.

    Attributes
    ----------
    scheme : ClassScheme
    transitions : int array, shape (classes, classes)
        Pixels that were of the row's class and are of the column's.
    areas_m2 : float array, shape (classes, classes), or None
        The same on the ellipsoid; None where the masks lie nowhere.
    unseen : int
        Pixels left out because one of the dates carries no data there (or a cloud).
    maps : tuple of Path
    warnings : tuple of str
    """

    scheme: ClassScheme
    transitions: npt.NDArray[np.int64]
    areas_m2: npt.NDArray[np.float64] | None
    unseen: int
    maps: tuple[Path, ...]
    warnings: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row a class: pixels, and km2 where known, before and after, gained, lost, and the change in per cent."""
        found = []
        for k, name in enumerate(self.scheme.class_names):
            pixels = {key: int(value) for key, value in _balance(self.transitions, k).items()}
            areas = None if self.areas_m2 is None else _balance(self.areas_m2 / 1e6, k)
            row: dict[str, Any] = {"class": name} | {f"{key}_px": value for key, value in pixels.items()}
            row |= {f"{key}_km2": None if areas is None else areas[key] for key in pixels}
            known = pixels if areas is None else areas
            before = known["before"]
            row["change_percent"] = 100 * (known["after"] - before) / before if before else None
            found.append(row)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "scheme": self.scheme.name,
            "classes": self.rows(),
            "transitions_px": self.transitions.tolist(),
            "transitions_m2": None if self.areas_m2 is None else self.areas_m2.tolist(),
            "unseen_px": self.unseen,
            "warnings": list(self.warnings),
        }


def compare_dates(
    before: Path,
    after: Path,
    out: Path,
    *,
    scheme: str | None = None,
    scenes: tuple[Path, Path] | None = None,
    clear_only: bool = False,
) -> Change:
    """Compare masks of two dates and write a map of the change for each pair, a table (CSV) and a JSON.

    Masks with a georeference are compared where they overlap; their pixels have to lie on one grid. Masks without one
    are paired by name. A place that several masks of one date cover counts once, as the first of them that both dates
    saw has it.

    Parameters
    ----------
    before, after : Path
        A mask each, a folder of masks each, or a data set each, whose labels are taken.
    out : Path
        Folder; what others made there is not replaced.
    scheme : str, optional
        Of all masks; else decided over their values.
    scenes : pair of Path, optional
        The data of the two dates. They tell which pixels carry data: without them nodata reads as background in masks
        that do not tell it, as those of `predict` do.
    clear_only : bool
        Leave out what the scenes' quality bands call cloud, cirrus or shadow.

    Raises
    ------
    DataError
        If the masks do not overlap or do not lie on one grid, or the scenes are not theirs.
    SaveError
        If a map would replace a file that this did not make.
    """
    pairs = _named_apart(list(_overlaps(_masks(before), _masks(after))))
    if not pairs:
        raise DataError(f"The masks of {before} and {after} have no place in common. Give two dates of one place.")
    chosen = _scheme_of(pairs, scheme)
    data = None if scenes is None else (open_dataset(scenes[0]), open_dataset(scenes[1]))
    change_scheme = _change_scheme(chosen)
    targets = [out / f"{pair.name}.tif" for pair in pairs]
    for path in targets:
        _refuse_foreign(path)
    count = chosen.num_classes
    transitions = np.zeros((count, count), np.int64)
    areas_m2 = np.zeros((count, count)) if all(pair.georef is not None for pair in pairs) else None
    counted, untold = _Counted(), set[Path]()
    for pair, path in zip(pairs, targets, strict=True):
        old_HW, new_HW = (
            chosen.decode(read_mask_codes(info.path, codes=chosen.codes), str(info.path))[window.slices]
            for info, window in ((pair.before, pair.in_before), (pair.after, pair.in_after))
        )
        seen_HW = np.ones(old_HW.shape, bool)
        for dataset, info, window in zip(
            data or (None, None), (pair.before, pair.after), (pair.in_before, pair.in_after), strict=True
        ):
            own_HW = read_mask_validity(info.path) if dataset is None else _seen(dataset, info, clear_only)
            if own_HW is None:
                untold.add(info.path)
            else:
                seen_HW &= own_HW[window.slices]
        turned_HW = old_HW.astype(np.int64) * count + new_HW
        first_HW = counted.add(pair.georef, seen_HW)
        transitions += np.bincount(turned_HW[first_HW], minlength=count * count).reshape(count, count)
        if areas_m2 is not None and pair.georef is not None:
            area_HW = pixel_areas_m2(pair.georef, (pair.in_before.height, pair.in_before.width))
            areas_m2 += np.bincount(turned_HW[first_HW], area_HW[first_HW], count * count).reshape(count, count)
        index_HW = np.where(seen_HW, turned_HW + 1, 0).astype(np.uint8)
        note = {"made_by": MADE_BY, "before": pair.before.path.name, "after": pair.after.path.name}
        write_mask(path, index_HW, change_scheme, pair.georef, note)
    warnings = []
    if untold:
        warnings.append(
            f"{len(untold)} of the masks do not tell nodata from background ({min(untold).name}): where one date saw "
            "nothing, that counts as a change. Give the scenes of both dates with --scenes to leave such pixels out."
        )
    if areas_m2 is None:
        warnings.append("The masks have no georeference, so areas are given in pixels.")
    result = Change(chosen, transitions, areas_m2, counted.num_unseen, tuple(targets), tuple(warnings))
    _write_tables(out, result)
    return result


# First row and column of a mask, its shape, and what of it was seen; None where all was.
_Added = tuple[int, int, tuple[int, ...], npt.NDArray[np.bool_] | None]


class _Counted:
    """Which places were looked at, and which of them seen, in masks that may overlap."""

    def __init__(self) -> None:
        # For each grid a georeference of it, and what was added there.
        self._grids: list[tuple[GeoRef, list[_Added]]] = []
        self._num_covered = self._num_seen = 0

    @property
    def num_unseen(self) -> int:
        """Pixels of all that was added that no mask saw."""
        return self._num_covered - self._num_seen

    def add(self, georef: GeoRef | None, seen_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Note a mask; gives the pixels that are seen for the first time. One without a georeference lies alone."""
        first_HW, new_HW = seen_HW.copy(), np.ones(seen_HW.shape, bool)
        if georef is not None:
            (row, col), added = self._place(georef)
            height, width = seen_HW.shape
            for top, left, shape, before_HW in added:
                rows = slice(max(row, top), min(row + height, top + shape[0]))
                cols = slice(max(col, left), min(col + width, left + shape[1]))
                if rows.start < rows.stop and cols.start < cols.stop:
                    here = slice(rows.start - row, rows.stop - row), slice(cols.start - col, cols.stop - col)
                    there = slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left)
                    first_HW[here] &= False if before_HW is None else ~before_HW[there]
                    new_HW[here] = False
            # Without scenes all of it is seen: thousands of masks then cost nothing.
            added.append((row, col, seen_HW.shape, None if seen_HW.all() else seen_HW))
        self._num_covered += int(new_HW.sum())
        self._num_seen += int(first_HW.sum())
        return first_HW

    def _place(self, georef: GeoRef) -> tuple[tuple[int, int], list[_Added]]:
        for anchor, added in self._grids:
            position = anchor.position_of(georef)
            if position is not None:
                return position, added
        self._grids.append((georef, []))
        return (0, 0), self._grids[-1][1]


def _named_apart(pairs: Sequence[Overlap]) -> list[Overlap]:
    """Pairs of one name, as of masks in folders of splits, with the folder's name before it; at need a number, too."""
    often = Counter(pair.name for pair in pairs)
    names: Counter[str] = Counter()
    found = []
    for pair in pairs:
        name = pair.name if often[pair.name] == 1 else f"{pair.before.path.parent.name}-{pair.name}"
        names[name] += 1
        found.append(replace(pair, name=name if names[name] == 1 else f"{name}-{names[name]}"))
    return found


def _balance(transitions: npt.NDArray[Any], k: int) -> dict[str, float]:
    """What there is of a class before and after, and what came and went."""
    before, after, stayed = transitions[k].sum(), transitions[:, k].sum(), transitions[k, k]
    return {"before": before, "after": after, "gained": after - stayed, "lost": before - stayed}


def _masks(path: Path) -> list[RasterInfo]:
    if not path.exists():
        raise DataError(f"{path} does not exist. Give a mask, a folder of masks, or a dataset.")
    if not path.is_dir():
        refuse_array(path)
        return [read_mask_info(path)]
    if not is_dataset(path):
        return [read_mask_info(file) for file in masks_in(path)]
    tiles = open_dataset(path).tiles
    infos = [read_mask_info(file, tile.number) for tile in tiles if (file := mask_file(tile)) is not None]
    if not infos:
        raise DataError(f"No tile of {path} has a label. Label some, or give a folder of predicted masks.")
    return infos


def _overlaps(before: Sequence[RasterInfo], after: Sequence[RasterInfo]) -> Iterator[Overlap]:
    if all(info.georef is None for info in (*before, *after)):
        yield from _by_name(before, after)
        return
    for old in before:
        partners = [(new, place) for new in after if (place := _shared(old, new)) is not None]
        for new, (in_old, in_new) in partners:
            assert old.georef is not None
            name = old.path.stem if len(partners) == 1 else f"{old.path.stem}-{new.path.stem}"
            yield Overlap(name, old, new, in_old, in_new, old.georef.offset(in_old.row, in_old.col))


def _by_name(before: Sequence[RasterInfo], after: Sequence[RasterInfo]) -> Iterator[Overlap]:
    if len(before) == len(after) == 1:
        pairs = [(before[0], after[0])]
    else:
        of_path = {info.path: info for info in (*before, *after)}
        tiles, _ = pair_files({"before": [info.path for info in before], "after": [info.path for info in after]})
        pairs = [(of_path[t["before"]], of_path[t["after"]]) for t in tiles.values() if len(t) == 2]
    for old, new in pairs:
        if (old.height, old.width) != (new.height, new.width):
            raise DataError(
                f"{old.path} is {old.height} x {old.width}, {new.path} is {new.height} x {new.width}, and without a "
                "georeference nobody knows how they lie. Give masks of one size, or with a georeference."
            )
        whole = Window(0, 0, old.height, old.width)
        yield Overlap(old.path.stem, old, new, whole, whole, None)


def _shared(old: RasterInfo, new: RasterInfo) -> tuple[Window, Window] | None:
    """The pixels that two masks share, in each one's own; None where they lie apart."""
    if old.georef is None or new.georef is None:
        bare = old if old.georef is None else new
        raise DataError(f"{bare.path} has no georeference, other masks have. Give all of them one.")
    a, _, _, _, e, _ = old.georef.transform
    warp = (
        f"Bring it onto the grid of {old.path.name}: gdalwarp -r near -t_srs {old.georef.crs_name} -tr {abs(a):g} "
        f"{abs(e):g} -tap IN OUT, for both where their origins differ."
    )
    if old.georef.crs_key != new.georef.crs_key:
        raise DataError(f"{new.path} is in {new.georef.crs_name}, {old.path} in {old.georef.crs_name}. {warp}")
    row, col = old.georef.pixel_of(new.georef.transform[2], new.georef.transform[5])
    steps = [new.georef.transform[k] / old.georef.transform[k] if old.georef.transform[k] else math.nan for k in (0, 4)]
    height, width = new.height * steps[1], new.width * steps[0]
    if row >= old.height or col >= old.width or row + height <= 0 or col + width <= 0:
        return None
    if not old.georef.same_pixels(new.georef) or abs(row - round(row)) > 0.01 or abs(col - round(col)) > 0.01:
        raise DataError(
            f"The pixels of {new.path} and {old.path} do not lie on one grid (they differ in size, or by "
            f"{row - round(row):+.2f} and {col - round(col):+.2f} pixels). {warp}"
        )
    top, left = max(round(row), 0), max(round(col), 0)
    bottom, right = min(round(row) + new.height, old.height), min(round(col) + new.width, old.width)
    if bottom <= top or right <= left:
        return None
    in_old = Window(top, left, bottom - top, right - left)
    return in_old, Window(top - round(row), left - round(col), bottom - top, right - left)


def _scheme_of(pairs: Sequence[Overlap], name: str | None) -> ClassScheme:
    """The classes of both dates: as named, as the masks say, or by their values where both dates agree."""
    if name is not None:
        return get_scheme(name)
    schemes = []
    for side in ("before", "after"):
        paths = list(dict.fromkeys(getattr(pair, side).path for pair in pairs))
        told = tagged_scheme(map(read_description, paths))
        if told is None:
            told, _ = scheme_of_masks({float(v): path for path in paths for v in np.unique(read_mask_codes(path))})
        schemes.append(told)
    old, new = schemes
    if old.name != new.name:
        raise SchemeError(
            f"The masks before read as {old.name}, those after as {new.name}. If a date merely lacks some classes, "
            "name those of both with --scheme; else recode one of them."
        )
    return old


def _seen(dataset: Dataset, mask: RasterInfo, clear_only: bool) -> npt.NDArray[np.bool_]:
    """Pixels of a mask that its date saw."""
    for tile in dataset.tiles:
        placed = tile.georef is not None and mask.georef is not None
        fits = (
            tile.georef.same_grid(mask.georef)
            if tile.georef is not None and mask.georef is not None
            else not placed and (len(dataset.tiles) == 1 or Path(tile.name).stem == mask.path.stem)
        )
        if fits and (tile.height, tile.width) == (mask.height, mask.width):
            valid_HW = dataset.read_valid(tile)
            if clear_only:
                quality = tile.product.quality if tile.product is not None else None
                if quality is None or quality.pixel is None:
                    raise DataError(
                        f"{dataset.root} has no quality band (QA_PIXEL or SCL) of {tile.id}, so its clouds are not "
                        "known. Leave --clear away, or put the band beside the others."
                    )
                valid_HW &= ~np.isin(dataset.read_quality(tile), HIDING_CLASSES)
            return valid_HW
    raise DataError(
        f"{dataset.root} holds no tile on the grid of {mask.path}. Give the data that the mask was made of."
    )


def _change_scheme(scheme: ClassScheme) -> ClassScheme:
    names, colors = ["not seen"], ["#000000"]
    for k, old in enumerate(scheme.class_names):
        for m, new in enumerate(scheme.class_names):
            if k == m:
                names.append(f"{old}, unchanged")
                colors.append(scheme.colors[k] if k else _NEVER)
            else:
                names.append(f"{old} to {new}")
                colors.append(_LOST if m == 0 else _GAINED if k == 0 else _TURNED)
    return ClassScheme("change", tuple(names), tuple(range(len(names))), tuple(colors))


def _refuse_foreign(path: Path) -> None:
    if path.exists() and read_description(path).get("made_by") != MADE_BY:
        raise SaveError(f"{path} is there already and is no map of change. Choose another --out, or move it away.")


def _write_tables(out: Path, change: Change) -> None:
    text = io.StringIO()
    rows = change.rows()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_text_atomically(out / "change.csv", text.getvalue())
        write_text_atomically(out / "change.json", json.dumps(change.as_dict(), indent=2) + "\n")
    except OSError as error:
        raise SaveError(
            f"The tables could not be written to {out} ({error.strerror}). Choose another --out."
        ) from error
