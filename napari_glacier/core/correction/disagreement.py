"""Where somebody else would give pixels another class than the labels do.

Somebody else is another author of the same journal, a second reviewer's masks, or exported corrections. What they say
of a tile is an array of its shape: their class, or `UNSAID` where they said nothing.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_glacier.core.correction.patch_files import TABLE, UNCHANGED
from napari_glacier.core.correction.settled import SettledArea
from napari_glacier.core.correction.strokes import MaskArray, Stroke, within
from napari_glacier.core.data.dataset import Dataset, open_dataset
from napari_glacier.core.data.layouts import is_dataset, rasters_in
from napari_glacier.core.data.pairing import pair_extras
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import DataError
from napari_glacier.core.raster import read_raster

UNSAID = 255
# Taking over a whole prediction is not looking at it.
_NOT_LOOKING = "accept"

# What somebody says of a tile, or None.
Opinion = Callable[[Tile], MaskArray | None]


def words(strokes: Iterable[Stroke], tile_id: str, shape: tuple[int, int]) -> dict[str, MaskArray]:
    """What each author drew last on a tile, in the order of their last strokes.

    Parameters
    ----------
    strokes : iterable of Stroke
        All of the tile that were not discarded, oldest first.
    tile_id : str
    shape : (height, width)

    Returns
    -------
    {author: uint8 array}
        `UNSAID` where an author drew nothing, took it back, or accepted a whole prediction. Taking back somebody
        else's stroke is to say what was there before.
    """
    said: dict[str, MaskArray] = {}
    drawn_by: dict[str, str] = {}
    for stroke in strokes:
        owner = drawn_by.setdefault(stroke.group, stroke.author)
        withdrawn = stroke.tool == _NOT_LOOKING or (stroke.tool == "undo" and owner == stroke.author)
        # The last one to speak comes last.
        word_HW = said.pop(stroke.author, None)
        said[stroke.author] = word_HW = np.full(shape, UNSAID, np.uint8) if word_HW is None else word_HW
        for patch in stroke.patches:
            if patch.tile_id == tile_id and patch.fits(shape):
                now = np.uint8(UNSAID) if withdrawn else patch.after_HW
                np.copyto(word_HW[patch.slices], now, where=patch.edited)
    return said


def contrary(said: Sequence[MaskArray], present_HW: MaskArray) -> MaskArray:
    """What is said that is not so: of several who differ from the labels the last one counts.

    Returns
    -------
    uint8 array
        Their class; `UNSAID` where nobody differs.
    """
    other_HW = np.full(present_HW.shape, UNSAID, np.uint8)
    for word_HW in said:
        np.copyto(other_HW, word_HW, where=(word_HW != UNSAID) & (word_HW != present_HW))
    return other_HW


def without_settled(other_HW: MaskArray, settled: Iterable[SettledArea]) -> MaskArray:
    """Leave out pixels for which this very class was turned down before."""
    left_HW = other_HW.copy()
    for area in settled:
        if within(area.slices, left_HW.shape):
            part_HW = left_HW[area.slices]
            part_HW[part_HW == area.class_HW] = UNSAID
    return left_HW


@dataclass(frozen=True, slots=True)
class Opinions:
    """What a folder says of tiles.

    Attributes
    ----------
    name : str
    tile_ids : frozenset of str
        Tiles it says something of.
    of : callable
    """

    name: str
    tile_ids: frozenset[str]
    of: Opinion


def opinions_in(folder: Path, dataset: Dataset) -> Opinions:
    """A second reviewer's masks, data set, or exported corrections of the same tiles.

    Parameters
    ----------
    folder : Path
        Masks named like the tiles, in the classes of `dataset`; another copy of the data set; or what
        `napari-glacier corrections` wrote.
    dataset : Dataset
        With a class scheme.

    Raises
    ------
    DataError
        If nothing in the folder belongs to a tile.
    """
    folder = Path(folder)
    if (folder / TABLE).is_file():
        found = _patches(folder, dataset)
    else:
        masks = _masks(folder, dataset)
        if masks and {path.resolve() for path in masks.values()} == _own(dataset, masks):
            raise DataError(f"{folder} holds the masks that are being corrected. Choose those of somebody else.")

        def read(tile: Tile) -> MaskArray | None:
            if tile.id not in masks:
                return None
            return dataset.read_mask(replace(tile, mask_path=masks[tile.id], number=None))

        found = Opinions(folder.name, frozenset(masks), read)
    if not found.tile_ids:
        raise DataError(
            f"{folder} holds neither masks of these tiles nor {TABLE}. Name masks after their tiles, as in "
            f"{dataset.tiles[0].new_mask_path.name}, or export the corrections with napari-glacier corrections."
        )
    return found


def _own(dataset: Dataset, masks: Mapping[str, Path]) -> set[Path]:
    return {tile.mask_path.resolve() for tile in dataset.tiles if tile.id in masks and tile.mask_path is not None}


def _masks(folder: Path, dataset: Dataset) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder. Choose the folder of somebody's masks.")
    if is_dataset(folder):
        here = {tile.id for tile in dataset.tiles}
        other = open_dataset(folder).tiles
        return {tile.id: tile.mask_path for tile in other if tile.mask_path is not None and tile.id in here}
    names = {tile.id: tile.mask_path or tile.new_mask_path for tile in dataset.tiles}
    return pair_extras(names, rasters_in(folder))


def _patches(folder: Path, dataset: Dataset) -> Opinions:
    """Exported corrections: what pixels became, strokes in their order."""
    known = {tile.id: tile for tile in dataset.tiles}
    rows: dict[str, list[dict[str, str]]] = {}
    try:
        with (folder / TABLE).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["tile"] in known:
                    rows.setdefault(row["tile"], []).append(row)
    except (KeyError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{folder / TABLE} is not a table of corrections ({error}). Export it again.") from error

    def read(tile: Tile) -> MaskArray | None:
        if tile.id not in rows:
            return None
        said_HW = np.full((tile.height, tile.width), UNSAID, np.uint8)
        for row in rows[tile.id]:
            try:
                after_HW = np.asarray(read_raster(folder / row["file"])[1], np.uint8)
                top, left = int(row["row"]), int(row["col"])
                part_HW = said_HW[top : top + after_HW.shape[0], left : left + after_HW.shape[1]]
                np.copyto(part_HW, after_HW, where=after_HW != UNCHANGED)
                highest = int(after_HW[after_HW != UNCHANGED].max(initial=0))
            except (KeyError, ValueError, IndexError) as error:
                raise DataError(
                    f"{row.get('file')} of {folder} does not fit tile {tile.id} ({tile.height} x {tile.width}). Export "
                    "the corrections of these tiles again."
                ) from error
            if dataset.scheme is not None and highest >= dataset.scheme.num_classes:
                raise DataError(
                    f"{row['file']} of {folder} has class {highest}; this dataset has {dataset.scheme.num_classes}: "
                    f"{', '.join(dataset.scheme.class_names)}. Compare corrections made with the same classes."
                )
        return said_HW

    return Opinions(folder.name, frozenset(rows), read)
