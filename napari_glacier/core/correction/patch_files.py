"""All corrections of a data set as files: a small GeoTIFF with the classes before and after each, and a table."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.strokes import MaskArray, Patch, StrokeInfo
from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import DataError, RasterError, SaveError
from napari_glacier.core.files import file_name_of, write_text_atomically
from napari_glacier.core.raster import read_description, write_raster
from napari_glacier.core.raster.projection import pixel_areas_m2

By = Literal["stroke", "tile"]
TABLE = "corrections.csv"
PATCHES_FOLDER = "patches"
# No class index: pixels of the rectangle that were not changed.
UNCHANGED = 255

_EVERYTHING = 10_000_000
_BANDS = {"band_1": "before", "band_2": "after"}


@dataclass(frozen=True, slots=True)
class _Change:
    """The pixels of a tile that changed, in the rectangle around them."""

    tile: Tile
    row: int
    col: int
    before_HW: MaskArray
    after_HW: MaskArray
    edited_HW: npt.NDArray[np.bool_]


def export_corrections(
    dataset: Dataset, journal: Journal, out: Path, by: By = "stroke", *, overwrite: bool = False
) -> list[dict[str, Any]]:
    """Write every correction that was not discarded as a patch.

    Parameters
    ----------
    dataset : Dataset
        With a class scheme.
    journal : Journal
    out : Path
        Gets `TABLE` and a GeoTIFF a patch: band 1 the classes before, band 2 after, as class indices, 255 where a
        pixel was not changed; on the tile's grid, where it has a georeference.
    by : "stroke" or "tile"
        A patch for each stroke on each tile; or one for each tile, from the first stroke to the last.
    overwrite : bool
        Replace an export that is there, with the patches of it that are no part of the new one.

    Returns
    -------
    list of dict
        The rows of the table.

    Raises
    ------
    DataError
        If there is nothing to write, or the classes are not known.
    SaveError
        If the folder holds an export already, or cannot be written.
    """
    out = Path(out).expanduser()
    if (out / TABLE).exists() and not overwrite:
        raise SaveError(f"{out} holds {TABLE} already. Name another folder, or say --overwrite.")
    if dataset.scheme is None:
        raise DataError(
            f"The classes of {dataset.root} are not known. Write `scheme: NAME` into dataset.yaml, or give --scheme."
        )
    infos = {info.id: info for info in journal.history(_EVERYTHING)}
    rows, used = [], set[str]()
    changes = _by_stroke(dataset, journal, infos) if by == "stroke" else _by_tile(dataset, journal)
    for wanted, change, about in changes:
        name = wanted
        while name in used:
            # Ids that differ only in signs that no file name may hold.
            name += "_"
        used.add(name)
        relative = Path(PATCHES_FOLDER) / f"{name}.tif"
        if (out / relative).exists() and not _is_patch(out / relative):
            raise SaveError(f"{out / relative} is there and is no patch of corrections. Name another folder.")
        _write(out / relative, change, dataset.scheme, about)
        rows.append({"file": relative.as_posix(), **about, **_row_of(change, dataset.scheme)})
    if not rows:
        raise DataError(f"Nothing was corrected in {dataset.root}, so there is nothing to write.")
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # Last: a folder with a table is a whole export.
    write_text_atomically(out / TABLE, text.getvalue())
    for path in (out / PATCHES_FOLDER).glob("*.tif"):
        if path.stem not in used and _is_patch(path):
            path.unlink()
    return rows


def _is_patch(path: Path) -> bool:
    """Whether a file is a patch as it was exported, under its own name: what somebody else put there is not."""
    try:
        tags = read_description(path)
    except RasterError:
        return False
    if not _BANDS.items() <= tags.items() or "tile" not in tags:
        return False
    stroke = tags.get("stroke", "")
    return path.stem.rstrip("_") == _name_of(tags["tile"], int(stroke) if stroke.isdecimal() else None).rstrip("_")


def _name_of(tile_id: str, stroke_id: int | None = None) -> str:
    """What the patch of a stroke on a tile is called, or that of all strokes on it."""
    name = file_name_of(tile_id, "tile")
    return name if stroke_id is None else f"{stroke_id:06d}_{name}"


_Named = Iterator[tuple[str, _Change, dict[str, Any]]]


def _by_stroke(dataset: Dataset, journal: Journal, infos: dict[int, StrokeInfo]) -> _Named:
    for tile in dataset.tiles:
        for stroke in journal.on_tile(tile.id):
            change = _change(tile, stroke.patches)
            if change is not None:
                about = {
                    "stroke": stroke.id,
                    "tile": tile.id,
                    "time": stroke.time,
                    "author": stroke.author,
                    "tool": stroke.tool,
                    "model": stroke.model or "",
                    "saved": "no" if infos[stroke.id].unsaved else "yes",
                }
                yield _name_of(tile.id, stroke.id), change, about


def _by_tile(dataset: Dataset, journal: Journal) -> _Named:
    for tile in dataset.tiles:
        strokes = journal.on_tile(tile.id)
        change = _change(tile, [patch for stroke in strokes for patch in stroke.patches])
        if change is not None:
            about = {
                "tile": tile.id,
                "strokes": len(strokes),
                "first": strokes[0].time,
                "last": strokes[-1].time,
                "authors": "; ".join(dict.fromkeys(stroke.author for stroke in strokes)),
                "tools": "; ".join(dict.fromkeys(stroke.tool for stroke in strokes)),
                "review": journal.review(tile.id),
            }
            yield _name_of(tile.id), change, about


def _change(tile: Tile, patches: Iterable[Patch]) -> _Change | None:
    """What patches, oldest first, changed on a tile in sum; None where that is nothing."""
    before_HW = np.full((tile.height, tile.width), UNCHANGED, np.uint8)
    after_HW = before_HW.copy()
    for patch in patches:
        here = patch.slices
        if before_HW[here].shape != patch.before_HW.shape:
            raise DataError(
                f"A stroke on tile {tile.id} reaches beyond its {tile.height} x {tile.width} pixels: the tile was "
                "exchanged since. Bring the old one back to export its corrections."
            )
        first_HW = patch.edited & (before_HW[here] == UNCHANGED)
        before_HW[here][first_HW] = patch.before_HW[first_HW]
        patch.apply(after_HW)
    edited_HW = before_HW != after_HW
    if not edited_HW.any():
        return None
    rows, cols = np.flatnonzero(edited_HW.any(1)), np.flatnonzero(edited_HW.any(0))
    part = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    return _Change(tile, int(rows[0]), int(cols[0]), before_HW[part], after_HW[part], edited_HW[part])


def _write(path: Path, change: _Change, scheme: ClassScheme, about: dict[str, Any]) -> None:
    georef = change.tile.georef.offset(change.row, change.col) if change.tile.georef is not None else None
    pixels = np.stack([change.before_HW, change.after_HW])
    pixels[:, ~change.edited_HW] = UNCHANGED
    description = {**_BANDS, "scheme": scheme.name}
    description |= {f"class_{index}": name for index, name in enumerate(scheme.class_names)}
    description |= {key: str(value) for key, value in about.items() if value != ""}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_raster(path, pixels, georef, UNCHANGED, description)


def _row_of(change: _Change, scheme: ClassScheme) -> dict[str, Any]:
    """Where a change lies, how large it is, and what became what."""
    pairs, counts = np.unique(
        np.stack([change.before_HW[change.edited_HW], change.after_HW[change.edited_HW]]), axis=1, return_counts=True
    )
    became = [
        f"{_name(scheme, before)} > {_name(scheme, after)}: {number}"
        for (before, after), number in sorted(zip(pairs.T.tolist(), counts.tolist(), strict=True), key=lambda x: -x[1])
    ]
    num_pixels = int(change.edited_HW.sum())
    area_m2 = _area_m2(change)
    return {
        "row": change.row,
        "col": change.col,
        "height": change.before_HW.shape[0],
        "width": change.before_HW.shape[1],
        "pixels": num_pixels,
        "area_km2": f"{area_m2 / 1e6:.6f}" if area_m2 is not None else "",
        "changes": "; ".join(became),
    }


def _area_m2(change: _Change) -> float | None:
    """Area of what changed on the ellipsoid, as in reports; None where it lies nowhere."""
    if change.tile.georef is None:
        return None
    try:
        areas_HW = pixel_areas_m2(change.tile.georef.offset(change.row, change.col), change.before_HW.shape)
    except DataError:
        return None
    return float(areas_HW[change.edited_HW].sum(dtype=np.float64))


def _name(scheme: ClassScheme, index: int) -> str:
    return scheme.class_names[index] if index < scheme.num_classes else str(index)
