"""Which prepared tiles train and which validate: whole regions, so that nothing seen is validated on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.leakage import centres_m, find_leaks
from napari_glacier.core.data.splits import hold_out
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.raster.georef import GeoRef

_CLASSES = get_scheme("glacier4-index").class_names


@dataclass(frozen=True, slots=True)
class Split:
    """Which tile trains or validates, and what a person should know of it.

    Attributes
    ----------
    split_of : mapping of tile name to ``train`` or ``val``
        Without tiles that are left out.
    held_out : tuple of str
        Regions (or scenes) that validate.
    notes : tuple of str
    """

    split_of: Mapping[str, str]
    held_out: tuple[str, ...]
    notes: tuple[str, ...]

    def count(self, split: str) -> int:
        """Number of tiles of a split."""
        return sum(its == split for its in self.split_of.values())


def split_slices(rows: Sequence[Mapping[str, Any]], tile_px: int, fraction: float, seed: int) -> Split:
    """Hold out whole regions; where there is one only, whole scenes; where there is one only, a cluster of tiles.

    Training tiles that show some of the same ground as a validation tile (scenes overlap, tiles too) are left out.

    Parameters
    ----------
    rows : sequence of mapping
        Of each tile: tile, scene, region, its place, and its pixels by class.
    tile_px : int
    fraction : float
        Share of the tiles, or of the regions, to hold out.
    seed : int
    """
    notes: list[str] = []
    unit = next((u for u in ("region", "scene") if len({row[u] for row in rows}) > 1), None)
    if unit is not None:
        groups = list(dict.fromkeys(str(row[unit]) for row in rows))
        group_of = [groups.index(str(row[unit])) for row in rows]
        pixels_GK = np.zeros((len(groups), len(_CLASSES)), np.int64)
        np.add.at(pixels_GK, group_of, _pixels(rows))
        held = set(hold_out(pixels_GK, fraction, seed))
        is_val = [group in held for group in group_of]
        held_out = tuple(groups[group] for group in sorted(held))
        if unit == "scene":
            notes.append("There is one region only, so whole images are held out.")
    elif len(rows) > 1:
        tiles = [_tile(row, tile_px) for row in rows]
        held = set(hold_out(_pixels(rows), fraction, seed, centres_T2=centres_m(tiles)))
        is_val, held_out = [number in held for number in range(len(rows))], ()
        notes.append("There is one image only, so neighbouring tiles of it are held out.")
    else:
        is_val, held_out = [False], ()
    split_of = {str(row["tile"]): "val" if val else "train" for row, val in zip(rows, is_val, strict=True)}
    by_split = {s: [_tile(row, tile_px) for row in rows if split_of[str(row["tile"])] == s] for s in ("train", "val")}
    leaks = find_leaks(by_split["train"], by_split["val"], 0, masked=False).leaks if by_split["val"] else ()
    shared = {leak.train_tile for leak in leaks if leak.relation == "overlap"}
    if len(shared) == len(by_split["train"]):
        # Nothing would be left to learn from: the trainer then holds tiles out, with a buffer around them.
        notes.append("All tiles overlap, so none is held out here; the trainer holds tiles out with a buffer.")
        return Split(dict.fromkeys(split_of, "train"), (), tuple(notes))
    if shared:
        notes.append(f"{len(shared)} training tile(s) overlap validation tiles and are left out of both.")
    split_of = {tile: split for tile, split in split_of.items() if tile not in shared}
    counts = Counter(split_of.values())
    notes.append(f"{counts['train']} tiles train, {counts['val']} validate ({', '.join(held_out) or 'one cluster'}).")
    return Split(split_of, held_out, tuple(notes))


def _pixels(rows: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([[int(row[name]) for name in _CLASSES] for row in rows], np.int64)


def _tile(row: Mapping[str, Any], tile_px: int) -> Tile:
    """A tile of which only the place counts."""
    a, b, c, d, e, f = (float(row[name]) for name in "abcdef")
    georef = None
    if row["epsg"] is not None:
        georef = GeoRef.from_epsg(int(row["epsg"]), (a, b, c, d, e, f), row["geographic"] == "yes")
    nowhere = Path(str(row["tile"]))
    return Tile(str(row["tile"]), "all", {}, tile_px, tile_px, georef, None, nowhere)
