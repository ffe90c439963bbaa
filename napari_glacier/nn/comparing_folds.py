"""Two finished cross-validations of the same folds, compared by the maps that they wrote out of fold.

Nothing is predicted again, so the maps are those that each was scored with, test-time augmentation included.
"""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import yaml

from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.data.tiles import raster_name
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.models.bootstrap import DRAWS, LEVEL
from napari_glacier.core.models.comparison import change_map, compare, count_tile
from napari_glacier.core.plain_yaml import read_yaml
from napari_glacier.core.raster import read_mask_codes
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.comparing import Match
from napari_glacier.nn.prediction import Progress

# As `training.folds` and `training.outoffold` name them; the plugin does not import the trainer.
_FOLDS_FILE, _MAPS = "folds.yaml", "oof"


def compare_folds(
    dataset: Dataset,
    champion: Path,
    challenger: Path,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Generator[Progress, None, Match]:
    """Compare two run folders of cross-validations tile by tile; close it between steps to cancel.

    Parameters
    ----------
    dataset : Dataset
        The one that both were trained on; its masks are the truth.
    champion, challenger : Path
        Run folders.
    draws, level, seed
        See `compare`.

    Raises
    ------
    ConfigError
        If a folder is no finished cross-validation, or their folds differ.
    DataError
        If a map is missing, or does not fit its tile.
    """
    folders = (Path(champion), Path(challenger))
    tta, folds = [], []
    for folder in folders:
        tta.append(_tta_of(folder))
        folds.append(_folds_of(folder))
    if {frozenset(fold) for fold in folds[0]} != {frozenset(fold) for fold in folds[1]}:
        raise ConfigError(
            f"{folders[0]} and {folders[1]} held out other tiles together: what one has learnt from, the other has "
            "not. Train one of them again with the folds of the other (data.splits, or its folds.yaml)."
        )
    scheme = dataset.scheme
    if scheme is None:
        raise DataError(f"No tile of {dataset.root} has a mask to judge by. Give the data set that both learnt from.")
    counts, changes = [], {}
    tile_ids = sorted(tile_id for fold in folds[0] for tile_id in fold)
    for number, tile_id in enumerate(tile_ids):
        yield Progress(number, len(tile_ids), f"Comparing {tile_id}")
        tile = dataset.tile(tile_id)
        truth_HW = dataset.read_mask(tile)
        if truth_HW is None:
            raise DataError(f"Tile {tile_id} of {dataset.root} has no mask. Give the data set that both learnt from.")
        maps = []
        for folder in folders:
            path = folder / _MAPS / raster_name(tile.name)
            if not path.is_file():
                raise DataError(f"{path} is missing. Finish the run with --resume {folder}.")
            maps.append(scheme.decode(read_mask_codes(path, codes=scheme.codes), str(path)))
            if maps[-1].shape != truth_HW.shape:
                raise DataError(
                    f"{path} is {maps[-1].shape}, the mask of tile {tile_id} {truth_HW.shape}. "
                    "Give the data set that both learnt from."
                )
        changes[tile.id] = change_map(maps[0], maps[1], truth_HW)
        counts.append(
            count_tile(
                tile.id,
                maps[0],
                maps[1],
                truth_HW=truth_HW,
                valid_HW=dataset.read_valid(tile),
                num_classes=scheme.num_classes,
            )
        )
    warnings = []
    if tta[0] != tta[1]:
        warnings.append(f"The maps were made with other views: {tta[0]} and {tta[1]}. The difference holds both.")
    return Match(
        compare(counts, scheme.class_names, draws=draws, level=level, seed=seed),
        _described(folders[0]),
        _described(folders[1]),
        changes=changes,
        data=dataset.root,
        tta=tta[0] if tta[0] == tta[1] else " and ".join(tta),
        warnings=tuple(warnings),
    )


def _described(folder: Path) -> dict[str, Any]:
    return {"name": folder.resolve().name, "members": [str(folder)]}


def _tta_of(folder: Path) -> str:
    run = RunFolder(folder)
    try:
        content: Any = json.loads(run.metrics_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    if run.state() != "done" or "folds" not in content:
        raise ConfigError(
            f"{folder} is not a finished cross-validation. Name the run folder of one (--set folds=5), or leave out "
            "--out-of-fold."
        )
    return str(content.get("tta", "off"))


def _folds_of(folder: Path) -> list[list[str]]:
    path = folder / _FOLDS_FILE
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
        return [[str(tile_id) for tile_id in fold] for fold in content["folds"]]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} does not list the folds. Name the run folder of a cross-validation.") from error
