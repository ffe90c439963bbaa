"""The folds of a cross-validation: made once, written where a person can read and change them, and read back.

`folds.yaml` lists the ids of the tiles that each fold holds out; `leakage.csv` the pairs of tiles across a fold's
split that are near each other.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import yaml

from napari_glacier.core.config import RunConfig
from napari_glacier.core.data.leakage import Leakage, buffer_for, centres_m, find_leaks
from napari_glacier.core.data.split_file import folds_of
from napari_glacier.core.data.splits import make_folds
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.plain_yaml import read_yaml
from training.source import LabelledTiles

FOLDS_FILE = "folds.yaml"
LEAKAGE_FILE = "leakage.csv"

Folds = list[list[str]]

_HEADING = """\
# The tiles that each fold holds out, by id. Every labelled tile belongs to exactly one fold.
# Put this file into a new run folder, or change it before the first fold has begun.
"""


def settle_folds(path: Path, labelled: LabelledTiles, num_folds: int, seed: int, splits: Path | None = None) -> Folds:
    """As `choose_folds`; made ones are written to the file."""
    folds = choose_folds(path, labelled, num_folds, seed, splits)
    if not path.is_file():
        write_folds(path, folds)
    return folds


def choose_folds(
    path: Path | None, labelled: LabelledTiles, num_folds: int, seed: int, splits: Path | None = None
) -> Folds:
    """Read the folds from a file, or make them where there is none; writes nothing.

    Parameters
    ----------
    path : Path or None
    labelled : LabelledTiles
    num_folds : int
    seed : int
    splits : Path, optional
        What `data.splits` names: its folds are taken.

    Returns
    -------
    list of list of str
        Ids of the tiles that each fold holds out.

    Raises
    ------
    ConfigError
        If the file does not fit the tiles or the number of folds, or there are fewer tiles than folds.
    """
    tiles = labelled.tiles.tiles
    if path is not None and path.is_file():
        return read_folds(path, [tile.id for tile in tiles if labelled.split_of.get(tile.id) != "train"], num_folds)
    if splits is not None:
        return folds_of(labelled.split_of, splits, num_folds)
    positions = make_folds(labelled.pixels_TK, num_folds, seed, centres_m(tiles))
    return [[tiles[t].id for t in fold] for fold in positions]


def check_folds_alone(config: RunConfig) -> None:
    """Check that nothing but the folds says what validates.

    Raises
    ------
    ConfigError
        If there is a validation set besides.
    """
    for key in ("val", "val_tiles", "val_masks"):
        if getattr(config.data, key) is not None:
            raise ConfigError(
                f"folds is {config.folds}, and data.{key} is given: in a cross-validation every training tile "
                f"validates once. Leave data.{key} out."
            )


def write_folds(path: Path, folds: Folds) -> None:
    """Write folds, a line a tile."""
    text = yaml.safe_dump({"folds": folds}, sort_keys=False, allow_unicode=True)
    write_text_atomically(path, _HEADING + text)


def read_folds(path: Path, tile_ids: Sequence[str], num_folds: int) -> Folds:
    """Read folds, and check that they share out the tiles.

    Raises
    ------
    ConfigError
        With one sentence on what does not fit.
    """
    folds = _listed_folds(path)
    if len(folds) != num_folds:
        raise ConfigError(f"{path} lists {len(folds)} folds, and folds is {num_folds}. Make the two agree.")
    named = [tile_id for fold in folds for tile_id in fold]
    for problem, ids in (
        ("names unknown tiles", set(named) - set(tile_ids)),
        ("names tiles twice", {tile_id for tile_id in named if named.count(tile_id) > 1}),
        ("leaves out labelled tiles", set(tile_ids) - set(named)),
    ):
        if ids:
            raise ConfigError(
                f"{path} {problem}: {', '.join(sorted(ids)[:12])}. Name each labelled tile in exactly one fold, or "
                "choose the tiles with data.tiles."
            )
    return folds


def named_tiles(path: Path) -> list[str]:
    """Ids of the tiles that a file of folds shares out; `ConfigError` where it is none."""
    return [tile_id for fold in _listed_folds(path) for tile_id in fold]


def _listed_folds(path: Path) -> Folds:
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML. Correct it, or remove it to have folds made.") from error
    listed = content.get("folds") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(isinstance(fold, list) and fold for fold in listed):
        raise ConfigError(f"{path} must read as 'folds: [[tile, tile], [tile], …]', with a tile or more in each fold.")
    return [[str(tile_id) for tile_id in fold] for fold in listed]


def write_leakage(path: Path, labelled: LabelledTiles, folds: Folds, buffer_px: int | None) -> list[Leakage]:
    """Find the near pairs across every fold's split, write them as CSV, and give them fold by fold."""
    tiles = labelled.tiles.tiles
    buffer = buffer_for(buffer_px, tiles)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["fold", "train_tile", "val_tile", "relation", "gap_px", "distance_m", "masked"])
    found = []
    for number, fold in enumerate(folds, start=1):
        held_out = [tile for tile in tiles if tile.id in set(fold)]
        train = [tile for tile in tiles if tile.id not in set(fold)]
        found.append(find_leaks(train, held_out, buffer, masked=True))
        for leak in found[-1].leaks:
            distance = "" if leak.distance_m is None else leak.distance_m
            writer.writerow(
                [number, leak.train_tile, leak.val_tile, leak.relation, leak.gap_px, distance, str(leak.masked).lower()]
            )
    write_text_atomically(path, text.getvalue())
    return found
