"""Which tile trains, validates or belongs to which fold, in a file that people can read and change.

    splits:
      02_07: 1        # held out by fold 1, learnt from by the others
      02_08: train    # always learnt from; val: always validates; none: left out
    places:
      02_07: 77.12345 34.54321    # longitude and latitude of its middle: another tile of this name is noticed

`napari-glacier splits` writes it, `data.splits` of a training configuration reads it.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from napari_glacier.core.data.dataset import Dataset, open_dataset
from napari_glacier.core.data.leakage import (
    Leakage,
    buffer_for,
    centres_m,
    find_leaks,
    holds_degrees,
    middle_degrees,
)
from napari_glacier.core.data.splits import hold_out, make_folds
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import ConfigError, DataError, SaveError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.plain_yaml import read_yaml

SPLITS_FILE = "splits.yaml"
WORDS = ("train", "val", "none")

SplitOf = dict[str, int | str]

_HEADING = """\
# Which tiles are held out: a number is the fold that a tile belongs to; train, val and none are meant as they read.
# Change it as you like; every labelled tile is listed once. Train with it:
#   python -m training.run --config tiny_data {command}
# Places are longitudes and latitudes: tiles of these names that lie elsewhere are not meant.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A fold, or the validation tiles: its tiles, its pixels by class, and which training tiles are near it."""

    name: str
    tiles: tuple[str, ...]
    pixels_K: tuple[int, ...]
    leakage: Leakage


def make_splits(
    folder: Path, num_folds: int | None, val_fraction: float, seed: int, scheme: str | None = None
) -> tuple[Dataset, SplitOf, list[Part]]:
    """Share the labelled tiles of a data set out: stratified by classes, blocked by geography where tiles have a place.

    Parameters
    ----------
    folder : Path
    num_folds : int or None
        None: hold out `val_fraction` of the tiles once.
    val_fraction : float
    seed : int
    scheme : str, optional

    Raises
    ------
    DataError, ConfigError
        If there are too few tiles with masks.
    """
    dataset = open_dataset(folder, scheme)
    # Where the data set has a val split of its own, training leaves it alone, too.
    tiles = [tile for tile in dataset.split("train") or dataset.tiles if tile.mask_path is not None]
    if dataset.scheme is None or not tiles:
        raise DataError(f"No tile of {folder} has a mask, so there is nothing to split. Save masks first.")
    pixels_TK = np.stack([_pixels(dataset, tile, dataset.scheme.num_classes) for tile in tiles])
    if num_folds is not None:
        parts = make_folds(pixels_TK, num_folds, seed, centres_m(tiles))
        fold_of = {t: number for number, fold in enumerate(parts, start=1) for t in fold}
        split_of: SplitOf = {tile.id: fold_of[t] for t, tile in enumerate(tiles)}
    else:
        if not 0 < val_fraction < 1:
            raise ConfigError(f"The share to hold out is {val_fraction:g}. It lies between 0 and 1.")
        parts = [hold_out(pixels_TK, val_fraction, seed, centres_T2=centres_m(tiles))]
        split_of = {tile.id: "val" if t in parts[0] else "train" for t, tile in enumerate(tiles)}
    buffer_px = buffer_for(None, tiles)
    described = []
    for number, part in enumerate(parts, start=1):
        held, train = [tiles[t] for t in part], [tile for t, tile in enumerate(tiles) if t not in part]
        name = "val" if num_folds is None else f"fold {number}"
        leakage = find_leaks(train, held, buffer_px, masked=True)
        described.append(Part(name, tuple(t.id for t in held), tuple(pixels_TK[part].sum(0).tolist()), leakage))
    return dataset, split_of, described


def write_splits(path: Path, split_of: Mapping[str, int | str], dataset: Dataset) -> None:
    """Write splits of a data set's tiles, a line a tile, and where these lie.

    Raises
    ------
    SaveError
        If the file is there: a person may have changed it.
    """
    if path.exists():
        raise SaveError(f"{path} exists and may have been changed by hand. Remove it, or name another one with --out.")
    folds = [value for value in split_of.values() if isinstance(value, int)]
    # What is pasted into a shell: a folder's name may hold spaces.
    settings = [shlex.quote(f"data.splits={path}"), *([f"folds={max(folds)}"] if folds else [])]
    command = f"--train_data {shlex.quote(str(dataset.root))} --set {' '.join(settings)}"
    # Flow style would be shorter; a line a tile is easier to change.
    content: dict[str, dict[str, int | str]] = {"splits": dict(split_of)}
    middles = {tile.id: middle_degrees(tile) for tile in dataset.tiles if tile.id in split_of}
    if places := {name: "{:.5f} {:.5f}".format(*middle) for name, middle in middles.items() if middle is not None}:
        content["places"] = dict(places)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, _HEADING.format(command=command) + text)
    except OSError as error:
        why = error.strerror or error
        raise SaveError(f"{path} could not be written ({why}). Name another file with --out.") from error


def read_splits(path: Path, tiles: Sequence[Tile]) -> SplitOf:
    """Read splits, and check that they name each of the tiles once, and mean these tiles.

    Raises
    ------
    ConfigError
        With one sentence on what does not fit.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError(f"{path} does not exist. Write it with napari-glacier splits, or leave data.splits out.")
    try:
        text = path.read_text(encoding="utf-8")
        content, root = read_yaml(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not readable as YAML. Correct it, or write it anew.") from error
    listed = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise ConfigError(f"{path} must read as 'splits:' and below it 'tile: fold', a line a tile.")
    split_of: SplitOf = {str(tile_id): value for tile_id, value in listed.items()}
    tile_ids = {tile.id for tile in tiles}
    odd = [
        t for t, v in split_of.items() if v not in WORDS and (not isinstance(v, int) or isinstance(v, bool) or v < 1)
    ]
    # A tile that stands in two lines is read as the last one says: which was meant?
    twice = _doubled_keys(root)
    for problem, ids in (
        (f"gives tiles neither a fold (1, 2, …) nor one of {', '.join(WORDS)}", odd),
        ("names tiles twice", twice),
        ("names tiles that have no mask, or are not there", sorted(split_of.keys() - tile_ids)),
        ("leaves out labelled tiles", sorted(tile_ids - split_of.keys())),
        ("was made for tiles that lie elsewhere (see its places)", _elsewhere(content.get("places"), tiles, path)),
    ):
        if ids:
            raise ConfigError(f"{path} {problem}: {', '.join(ids[:12])}. Correct it, or write it anew.")
    return split_of


def _elsewhere(places: Any, tiles: Sequence[Tile], path: Path) -> list[str]:
    """Ids of the tiles that do not hold the middle of the tile of their name that was split."""
    if places is None:
        return []
    try:
        points = {str(tile_id): [float(degrees) for degrees in text.split()] for tile_id, text in places.items()}
        return [tile.id for tile in tiles if tile.id in points and not holds_degrees(tile, *points[tile.id])]
    except (AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: the lines below 'places:' must read as 'tile: longitude latitude'. Correct or remove them."
        ) from error


def folds_of(split_of: Mapping[str, int | str], path: Path, num_folds: int) -> list[list[str]]:
    """Tiles that each fold holds out.

    Raises
    ------
    ConfigError
        If the file has other folds than so many.
    """
    folds = sorted({value for value in split_of.values() if isinstance(value, int)})
    if folds != list(range(1, num_folds + 1)) or "val" in split_of.values():
        have = ", ".join(map(str, folds)) or "none"
        raise ConfigError(
            f"folds is {num_folds}, and {path} has the folds {have}"
            f"{' and tiles that always validate' if 'val' in split_of.values() else ''}. Make the two agree."
        )
    return [[tile_id for tile_id, value in split_of.items() if value == fold] for fold in folds]


def _pixels(dataset: Dataset, tile: Tile, num_classes: int) -> npt.NDArray[np.int64]:
    mask_HW = dataset.read_mask(tile)
    assert mask_HW is not None
    return np.bincount(mask_HW[dataset.read_valid(tile)], minlength=256)[:num_classes]


def _doubled_keys(root: yaml.Node | None) -> list[str]:
    if not isinstance(root, yaml.MappingNode):
        return []
    for key, value in root.value:
        if key.value == "splits" and isinstance(value, yaml.MappingNode):
            names = [str(name.value) for name, _ in value.value]
            return sorted({name for name in names if names.count(name) > 1})
    return []
