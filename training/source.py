"""Which tiles train and which validate: what the `data` section of a configuration stands for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.channels import required_bands
from napari_glacier.core.classes import SCHEMES, ClassScheme
from napari_glacier.core.config import DataConfig, RunConfig
from napari_glacier.core.correction.review_states import journal_states
from napari_glacier.core.correction.reviews import TODO, meets
from napari_glacier.core.data.array_layout import arrays_in
from napari_glacier.core.data.dataset import Dataset, Tile, choose_scheme, missing_band_warnings, open_dataset
from napari_glacier.core.data.description import read_otherwise
from napari_glacier.core.data.layouts import DESCRIPTION_FILE, pictures_in, rasters_in
from napari_glacier.core.data.leakage import Leakage, buffer_for, centres_m, excluded_windows, find_leaks
from napari_glacier.core.data.pairing import pair_files
from napari_glacier.core.data.split_file import SplitOf, read_splits
from napari_glacier.core.data.splits import hold_out
from napari_glacier.core.errors import ConfigError, DataError
from training.data import TileSet


@dataclass(slots=True)
class Notes:
    """What a person should know of a run's input: plain news, and what may be wrong."""

    messages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a configuration's `data` section stands for.

    Attributes
    ----------
    train, val : TileSet
        Where the validation tiles were taken from the training tiles, the pixels of `train` near them do not count.
    held_out : tuple of str
        Ids of the validation tiles where they were taken from the training tiles; what `data.val_tiles` says.
    scheme : ClassScheme
    synthetic : bool
    notes : Notes
    leakage : Leakage
        Training and validation tiles that are nearer than the buffer.
    """

    train: TileSet
    val: TileSet
    held_out: tuple[str, ...]
    scheme: ClassScheme
    synthetic: bool
    notes: Notes
    leakage: Leakage


@dataclass(frozen=True, slots=True)
class LabelledTiles:
    """All tiles of a configuration that can be learnt from, before any is held out.

    Attributes
    ----------
    tiles : TileSet
    named : tuple of Tile
        Those that `data.val_tiles` may name: also the ones that `data.tiles` leaves out.
    pixels_TK : int array, shape (tiles, classes)
        Mask pixels of each class in each tile.
    scheme : ClassScheme
    notes : Notes
    split_of : dict of str to int or str
        What `data.splits` says of each tile; empty where there is none.
    """

    tiles: TileSet
    named: tuple[Tile, ...]
    pixels_TK: npt.NDArray[np.int64]
    scheme: ClassScheme
    notes: Notes
    split_of: SplitOf = field(default_factory=dict)


def open_labelled_tiles(data: DataConfig) -> LabelledTiles:
    """Find the training tiles of a configuration and read every mask.

    Raises
    ------
    DataError, ConfigError
        With one sentence about what does not fit.
    """
    notes = Notes()
    dataset = _open(data.train, data.train_masks, data.scheme, data, "train")
    if dataset.scheme is None:
        folder = dataset.tiles[0].new_mask_path.parent
        raise DataError(
            f"No tile of {data.train} has a mask. Training needs labelled tiles: save masks first, or put them into "
            f"{folder}."
        )
    notes.warnings += (*dataset.warnings, *read_otherwise(dataset.root, dataset.scheme))
    tiles = _split_or_all(dataset, "train")
    if not tiles:
        raise DataError(f"{data.train} has no training tiles, only {', '.join(dataset.splits)}. Name its train folder.")
    train = _labelled(_chosen(tiles, data.tiles, "data.tiles"), f"train ({data.train})", notes)
    split_of: SplitOf = {}
    if data.splits is not None:
        split_of = read_splits(data.splits, train)
        train = [tile for tile in train if split_of[tile.id] != "none"]
        if not train:
            raise ConfigError(f"{data.splits} leaves every tile out. Leave at least two to learn from.")
    train = _reviewed(dataset, train, data, notes)
    needed = required_bands(data.channels)
    _check_bands(train, needed)
    # Of the five of the satellite opening the data set has told.
    notes.warnings += missing_band_warnings(train, [band for band in needed if band not in CANONICAL_BANDS])
    labelled = TileSet(dataset, train, data.channels)
    named = tuple(tile for tile in tiles if tile.mask_path is not None)
    # Finds a value outside the scheme before anything starts.
    return LabelledTiles(labelled, named, _count_classes(labelled, dataset.scheme), dataset.scheme, notes, split_of)


def known_tiles(tiles: TileSet, seen: Collection[str]) -> tuple[str, ...]:
    """Ids of the tiles that a model has learnt from, by the fingerprints that its card lists."""
    if not seen:
        return ()
    return tuple(tile.id for number, tile in enumerate(tiles.tiles) if tiles.fingerprint(number) in seen)


def open_training_data(config: RunConfig, seen: Collection[str] = ()) -> TrainingData:
    """Find and check the tiles of a run; touches no device and reads every mask.

    Validation tiles are those that `data.val_tiles` names, else those that `data.splits` does, else those of
    `data.val`, else the data set's own ``val`` split, else whole tiles held out.

    Parameters
    ----------
    config : RunConfig
    seen : collection of str
        Fingerprints of the tiles that the model to start from has learnt from. Where tiles are held out it is among
        the others, as scores on tiles that the model knows by heart would flatter it.

    Raises
    ------
    DataError, ConfigError
        With one sentence about what does not fit.
    """
    data, labelled = config.data, open_labelled_tiles(config.data)
    dataset, scheme, notes = labelled.tiles.dataset, labelled.scheme, labelled.notes
    train = list(labelled.tiles.tiles)
    val_tiles = data.val_tiles if data.val_tiles is not None else _held_out_by_file(data, labelled)
    val_dataset, val = (dataset, []) if val_tiles is not None else _given_validation(dataset, data, notes)
    held_out: tuple[str, ...] = ()
    if not val:
        if val_tiles is not None:
            val = _chosen(labelled.named, val_tiles, "data.val_tiles")
        else:
            known = set(known_tiles(labelled.tiles, seen))
            candidates = [number for number, tile in enumerate(train) if known and tile.id not in known]
            chosen = hold_out(
                labelled.pixels_TK, data.val_fraction, config.seed, candidates or None, centres_m(labelled.tiles.tiles)
            )
            val = [train[number] for number in chosen]
        held_out = tuple(tile.id for tile in val)
        train = [tile for tile in train if tile.id not in held_out]
        if not train:
            raise ConfigError("data.val_tiles holds out every labelled tile. Leave at least one to learn from.")
    val_set = TileSet(val_dataset, val, data.channels)
    learnt = known_tiles(val_set, seen)
    if held_out:
        told = " (the model to start from has not seen them)" if seen and not learnt else ""
        notes.messages.append(f"Held out for validation{told}: {', '.join(held_out)}.")
    buffer_px = buffer_for(data.buffer_px, [*train, *val])
    # Validation data that are given are masked against only where a buffer is asked for.
    masked = bool(held_out) or data.buffer_px is not None
    leakage = find_leaks(train, val, buffer_px, masked)
    if masked:
        train_set = _buffered(TileSet(dataset, train, data.channels), val, buffer_px, scheme, notes)
    else:
        train_set = TileSet(dataset, train, data.channels)
    _count_classes(val_set, scheme)
    notes.warnings += _shared_tiles(train_set, val_set)
    if learnt:
        notes.warnings.append(
            f"The model to start from has learnt from {len(learnt)} of the {len(val_set)} validation tiles "
            f"({', '.join(learnt[:8])}{', …' if len(learnt) > 8 else ''}): the scores flatter the new one. Validate on "
            "other tiles, or start from another model."
        )
    if leakage.leaks and not masked:
        notes.warnings.append(f"{leakage.summary()} The scores may flatter the model.")
    elif leakage.unplaced:
        notes.messages.append(leakage.summary())
    notes.warnings[:] = dict.fromkeys(notes.warnings)
    return TrainingData(train_set, val_set, held_out, scheme, _is_synthetic(dataset), notes, leakage)


def _held_out_by_file(data: DataConfig, labelled: LabelledTiles) -> list[str] | None:
    """Tiles that `data.splits` holds out; None where there is no such file."""
    if data.splits is None:
        return None
    found = [tile_id for tile_id, value in labelled.split_of.items() if value in ("val", data.val_fold)]
    if not found:
        raise ConfigError(
            f"{data.splits} has no tile that validates, neither val nor of fold {data.val_fold}. Mark some, or set "
            "data.val_fold to a fold that it has."
        )
    return found


def _buffered(tiles: TileSet, held_out: Sequence[Tile], buffer_px: int, scheme: ClassScheme, notes: Notes) -> TileSet:
    """The training tiles without what lies within the buffer of a held-out tile; says what that costs."""
    excluded = excluded_windows(tiles.tiles, held_out, buffer_px)
    if not any(excluded):
        return tiles
    before_TK = _count_classes(tiles, scheme)
    after_TK = _count_classes(TileSet(tiles.dataset, tiles.tiles, tiles.channels, excluded), scheme)
    before, after = int(before_TK.sum()), int(after_TK.sum())
    if after == 0:
        raise ConfigError(
            f"Every training pixel lies within {buffer_px} px of a held-out tile, so there is nothing left to learn "
            "from. Lower data.buffer_px, or hold out tiles that lie together."
        )
    left = np.flatnonzero(after_TK.sum(1))
    text = (
        f"The buffer of {buffer_px} px around the held-out tiles takes {before - after:,} of {before:,} training pixels"
        f" ({(before - after) / before:.1%})"
    )
    gone = len(tiles) - len(left)
    notes.messages.append(f"{text}{f'; {gone} tile(s) lie wholly within it' if gone else ''}.")
    lost_K = (before_TK.sum(0) > 0) & (after_TK.sum(0) == 0)
    lost = [scheme.class_names[k] for k in np.flatnonzero(lost_K)]
    if lost:
        notes.warnings.append(
            f"The buffer leaves no training pixel of {', '.join(lost)}. Lower data.buffer_px, or hold out other tiles."
        )
    return TileSet(tiles.dataset, [tiles.tiles[n] for n in left], tiles.channels, [excluded[n] for n in left])


def _given_validation(dataset: Dataset, data: DataConfig, notes: Notes) -> tuple[Dataset, list[Tile]]:
    """Validation tiles of the configuration or of the data set itself; none where tiles must be held out."""
    assert dataset.scheme is not None
    if data.val is not None:
        found = _open(data.val, data.val_masks, dataset.scheme.name, data, "val")
        notes.warnings += found.warnings
        tiles = _split_or_all(found, "val")
        if not tiles:
            raise DataError(f"{data.val} has no validation tiles. Name its val folder.")
        return found, _labelled(tiles, f"val ({data.val})", notes)
    found = _beside(dataset, data)
    tiles = found.split("val") if found.split("train") else ()
    if data.val_masks is not None:
        if not tiles:
            raise ConfigError(f"data.val_masks is {data.val_masks}, but {data.train} has no val split. Name data.val.")
        found = _with_masks(found, data.val_masks, dataset.scheme.name, "val")
        tiles = found.split("val")
    if tiles and all(tile.mask_path is None for tile in tiles):
        notes.warnings.append(
            f"The val split of {found.root} has no masks, so it cannot validate; training tiles are held out instead."
        )
        return dataset, []
    if not tiles:
        return found, []
    return found, _reviewed(found, _labelled(tiles, f"val ({found.root})", notes), data, notes)


def _reviewed(dataset: Dataset, tiles: list[Tile], data: DataConfig, notes: Notes) -> list[Tile]:
    """Those tiles that `data.review` asks for."""
    if data.review is None:
        return tiles
    states, _ = journal_states(dataset)
    found = [tile for tile in tiles if meets(states.get(tile.id, TODO), data.review)]
    if not found:
        asked = "approved" if data.review == "approved" else "edited or approved"
        raise ConfigError(
            f"data.review asks for {data.review} tiles, and none of the {len(tiles)} labelled tiles of {dataset.root} "
            f"is {asked}. Review tiles in the Correct widget first, or set data.review=null."
        )
    if len(found) < len(tiles):
        left_out = ", ".join([tile.id for tile in tiles if tile not in found][:8])
        notes.messages.append(
            f"{len(tiles) - len(found)} of {len(tiles)} tiles are not {data.review} and are left out: {left_out}."
        )
    return found


def _beside(dataset: Dataset, data: DataConfig) -> Dataset:
    """The whole data set where its train folder alone was given to train on."""
    root = data.train.expanduser().absolute().parent
    if dataset.splits == ("train",) and (root / "val").is_dir():
        return open_dataset(root, dataset.scheme.name if dataset.scheme else None, data.zero_is_nodata)
    return dataset


def _open(folder: Path, masks: Path | None, scheme: str | None, data: DataConfig, split: str) -> Dataset:
    if masks is None:
        return open_dataset(folder, scheme, data.zero_is_nodata)
    # The scheme is decided over the masks given; naming any spares reading those that lie in the folder.
    dataset = open_dataset(folder, scheme or next(iter(SCHEMES)), data.zero_is_nodata)
    return _with_masks(dataset, masks, scheme, split)


def _with_masks(dataset: Dataset, folder: Path, scheme: str | None, split: str) -> Dataset:
    """The same tiles, those of one split with masks from another folder."""
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"The mask folder {folder} does not exist. Correct data.train_masks or data.val_masks.")
    masks = rasters_in(folder) + pictures_in(folder) or arrays_in(folder)
    if not masks:
        raise DataError(
            f"The mask folder {folder} holds no TIFF, PNG or NumPy file. Put the masks there, or name another folder."
        )
    first_band = {next(iter(tile.bands.values())).path: tile for tile in _split_or_all(dataset, split)}
    bands_of_tile, mask_of_tile = pair_files({CANONICAL_BANDS[0]: sorted(first_band)}, masks)
    mask_of_id = {first_band[f[CANONICAL_BANDS[0]]].id: mask_of_tile.get(key) for key, f in bands_of_tile.items()}
    tiles = tuple(replace(tile, mask_path=mask_of_id.get(tile.id, tile.mask_path)) for tile in dataset.tiles)
    chosen, notes = choose_scheme(dataset.root, tiles, scheme)
    return replace(dataset, tiles=tiles, scheme=chosen, warnings=(*dataset.warnings, *notes))


def _split_or_all(dataset: Dataset, split: str) -> tuple[Tile, ...]:
    """Tiles of a split, or all where there are no splits to choose from."""
    return dataset.split(split) or (dataset.tiles if len(dataset.splits) == 1 else ())


def _chosen(tiles: Sequence[Tile], wanted: Sequence[str] | None, key: str) -> list[Tile]:
    if wanted is None:
        return list(tiles)
    known = {tile.id: tile for tile in tiles}
    unknown = [tile_id for tile_id in wanted if tile_id not in known]
    if unknown or not wanted:
        what = "labelled tiles" if key == "data.val_tiles" else "training tiles"
        raise ConfigError(
            f"{key} names {', '.join(unknown) or 'no tile'}; the {what} are {', '.join(list(known)[:20])}. "
            f"Name tiles of these, or set {key}=null."
        )
    return [known[tile_id] for tile_id in wanted]


def _labelled(tiles: Sequence[Tile], split: str, notes: Notes) -> list[Tile]:
    with_mask = [tile for tile in tiles if tile.mask_path is not None]
    without = [tile.id for tile in tiles if tile.mask_path is None]
    if not with_mask:
        raise DataError(f"No tile of the split {split} has a mask. It needs labelled tiles: save masks first.")
    if without:
        listed = ", ".join(without[:8])
        notes.messages.append(f"{len(without)} tile(s) of the split {split} have no mask and are left out: {listed}.")
    return with_mask


def _check_bands(tiles: Sequence[Tile], needed: Sequence[str]) -> None:
    """Refuse data of another kind than the channels: pictures for a model of bands, and the other way round."""
    there = dict.fromkeys(band for tile in tiles for band in tile.bands)
    if needed and set(needed).isdisjoint(there):
        raise ConfigError(
            f"data.channels needs {', '.join(needed)}; no training tile has any of them, they have {', '.join(there)}. "
            f"Set data.channels to these, as in data.channels=[{', '.join(there)}], or name other tiles."
        )


def _count_classes(tiles: TileSet, scheme: ClassScheme) -> npt.NDArray[np.int64]:
    """Mask pixels of each class in each tile."""
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
    trained = {(tile.mask_path, tile.number) for tile in train.tiles}
    shared = [tile.id for tile in val.tiles if (tile.mask_path, tile.number) in trained]
    if not shared:
        return []
    return [
        f"{len(shared)} tile(s) both train and validate ({', '.join(shared[:8])}): the scores will flatter the model."
    ]
