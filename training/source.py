"""Which tiles train and which validate: what the `data` section of a configuration stands for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.classes import ClassScheme, get_scheme, infer_scheme
from napari_glacier.core.config import DataConfig, RunConfig
from napari_glacier.core.dataset import Dataset, Tile, open_dataset
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.layouts import DESCRIPTION_FILE
from napari_glacier.core.pairing import pair_files
from napari_glacier.core.raster import RASTER_SUFFIXES, read_raster
from napari_glacier.core.splits import hold_out
from training.data import TileSet


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a configuration's `data` section stands for."""

    train: TileSet
    val: TileSet
    scheme: ClassScheme
    synthetic: bool
    messages: tuple[str, ...]


def open_training_data(config: RunConfig) -> TrainingData:
    """Find and check the tiles of a run; touches no device and reads every mask once.

    Validation tiles are those of `data.val`, else the data set's own ``val`` split, else whole tiles held out.

    Raises
    ------
    DataError, ConfigError
        With one sentence about what does not fit.
    """
    data = config.data
    dataset = _open(data.train, data.train_masks, data.scheme, data)
    if dataset.scheme is None:
        raise DataError(f"No tile of {data.train} has a mask. Training needs labelled tiles: save masks first.")
    messages = list(dataset.warnings)
    tiles = dataset.split("train") or (dataset.tiles if len(dataset.splits) == 1 else ())
    if not tiles:
        raise DataError(f"{data.train} has no training tiles, only {', '.join(dataset.splits)}. Name its train folder.")
    train = TileSet(dataset, _labelled(_chosen(tiles, data.tiles), data.train, messages), data.channels)

    val_dataset, val_tiles = _own_validation(dataset, data)
    if data.val is not None:
        val_dataset = _open(data.val, data.val_masks, dataset.scheme.name, data)
        messages += val_dataset.warnings
        val_tiles = val_dataset.split("val") or (val_dataset.tiles if len(val_dataset.splits) == 1 else ())
        if not val_tiles:
            raise DataError(f"{data.val} has no validation tiles. Name its val folder.")
    counts_TK = _count_classes(train, dataset.scheme)
    if val_tiles:
        val = TileSet(val_dataset, _labelled(val_tiles, val_dataset.root, messages), data.channels)
        _count_classes(val, dataset.scheme)
        messages += _shared_tiles(train, val)
    else:
        held_out = set(hold_out(counts_TK, data.val_fraction, config.seed))
        val = TileSet(dataset, [t for i, t in enumerate(train.tiles) if i in held_out], data.channels)
        train = TileSet(dataset, [t for i, t in enumerate(train.tiles) if i not in held_out], data.channels)
        messages.append(f"Held out for validation: {', '.join(t.id for t in val.tiles)}.")
    return TrainingData(train, val, dataset.scheme, _is_synthetic(dataset), tuple(dict.fromkeys(messages)))


def _open(folder: Path, masks: Path | None, scheme: str | None, data: DataConfig) -> Dataset:
    dataset = open_dataset(folder, scheme, data.zero_is_nodata)
    return dataset if masks is None else _with_masks(dataset, masks, scheme)


def _with_masks(dataset: Dataset, folder: Path, scheme: str | None) -> Dataset:
    """The same tiles with masks from another folder."""
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"The mask folder {folder} does not exist. Correct data.train_masks or data.val_masks.")
    masks = sorted(p for p in folder.iterdir() if p.suffix.lower() in RASTER_SUFFIXES and not p.name.startswith("."))
    if not masks:
        raise DataError(f"The mask folder {folder} holds no TIFF. Put the masks there, or name another folder.")
    first_band = {next(iter(tile.bands.values())).path: tile for tile in dataset.tiles}
    bands_of_tile, mask_of_tile = pair_files({CANONICAL_BANDS[0]: sorted(first_band)}, masks)
    mask_of_path = {found[CANONICAL_BANDS[0]]: mask_of_tile.get(key) for key, found in bands_of_tile.items()}
    tiles = tuple(replace(tile, mask_path=mask_of_path[path]) for path, tile in first_band.items())
    chosen = (
        get_scheme(scheme) if scheme else infer_scheme({v for m in masks for v in np.unique(read_raster(m)).tolist()})
    )
    return replace(dataset, tiles=tiles, scheme=chosen)


def _own_validation(dataset: Dataset, data: DataConfig) -> tuple[Dataset, tuple[Tile, ...]]:
    if dataset.split("val"):
        # A folder that is itself called val was given to train on.
        return dataset, dataset.split("val") if dataset.split("train") else ()
    root = data.train.expanduser().absolute().parent
    if data.train_masks is None and dataset.splits == ("train",) and (root / "val").is_dir():
        beside = open_dataset(root, dataset.scheme.name if dataset.scheme else None, data.zero_is_nodata)
        return beside, beside.split("val")
    return dataset, ()


def _chosen(tiles: Sequence[Tile], wanted: Sequence[str] | None) -> Sequence[Tile]:
    if wanted is None:
        return tiles
    known = {tile.id: tile for tile in tiles}
    unknown = [tile_id for tile_id in wanted if tile_id not in known]
    if unknown or not wanted:
        raise ConfigError(
            f"data.tiles names {', '.join(unknown) or 'no tile'}; the training tiles are {', '.join(list(known)[:20])}."
        )
    return [known[tile_id] for tile_id in wanted]


def _labelled(tiles: Sequence[Tile], folder: Path, messages: list[str]) -> list[Tile]:
    with_mask = [tile for tile in tiles if tile.mask_path is not None]
    without = [tile.id for tile in tiles if tile.mask_path is None]
    if not with_mask:
        raise DataError(f"No tile of {folder} has a mask. Training needs labelled tiles: save masks first.")
    if without:
        messages.append(f"{len(without)} tile(s) of {folder} have no mask and are left out: {', '.join(without[:8])}.")
    return with_mask


def _count_classes(tiles: TileSet, scheme: ClassScheme) -> npt.NDArray[np.int64]:
    """Mask pixels of each class in each tile; finds a value outside the scheme before anything starts."""
    return np.stack(
        [
            np.bincount(tiles.read_mask(number).ravel(), minlength=256)[: scheme.num_classes]
            for number in range(len(tiles))
        ]
    )


def _is_synthetic(dataset: Dataset) -> bool:
    path = dataset.root / DESCRIPTION_FILE
    if not path.is_file():
        return False
    described = yaml.safe_load(path.read_text(encoding="utf-8"))
    return isinstance(described, dict) and bool(described.get("synthetic", False))


def _shared_tiles(train: TileSet, val: TileSet) -> list[str]:
    trained = {tile.mask_path for tile in train.tiles}
    shared = [tile.id for tile in val.tiles if tile.mask_path in trained]
    if not shared:
        return []
    return [
        f"{len(shared)} tile(s) both train and validate ({', '.join(shared[:8])}): the scores will flatter the model."
    ]
