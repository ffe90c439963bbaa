"""Which tiles a run will learn from and which will judge it, told before it begins. No Qt, no torch.

The rules are the trainer's own (`training.source`), which this package may not import; a test holds the two together.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_glacier.core.config import RunConfig
from napari_glacier.core.correction.review_states import journal_states
from napari_glacier.core.correction.reviews import TODO, meets
from napari_glacier.core.data.dataset import Dataset, open_dataset
from napari_glacier.core.data.leakage import buffer_for, centres_m, excluded_windows
from napari_glacier.core.data.seen_tiles import deciding_band, tile_fingerprint
from napari_glacier.core.data.split_file import read_splits
from napari_glacier.core.data.splits import hold_out
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import CheckpointError, ConfigError, DataError
from napari_glacier.core.models.shelf import first_member, learnt_tiles

# Of Okabe and Ito (2008): told apart by colour-blind people, on dark and on light.
PART_COLORS = {"trains": "#56b4e9", "validates": "#e69f00", "in the buffer": "#cc79a7", "left out": "#8c8c8c"}


@dataclass(frozen=True, slots=True)
class PlannedSplit:
    """What becomes of each tile of a dataset.

    Attributes
    ----------
    tiles : tuple of Tile
    part_of : dict of str to str
        By tile: trains, validates, in the buffer (too near to a tile that validates), or left out.
    dataset : Dataset
    """

    tiles: tuple[Tile, ...]
    part_of: dict[str, str]
    dataset: Dataset

    def of(self, part: str) -> tuple[Tile, ...]:
        """Tiles of a part."""
        return tuple(tile for tile in self.tiles if self.part_of[tile.id] == part)


class ClassCounts:
    """Pixels by class of masks, read again only when their file has changed."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, int | None, str, int], npt.NDArray[np.int64]] = {}

    def of(self, dataset: Dataset, tile: Tile) -> npt.NDArray[np.int64]:
        """Mask pixels of each class, shape (classes,)."""
        assert tile.mask_path is not None
        assert dataset.scheme is not None
        key = (tile.mask_path, tile.number, dataset.scheme.name, tile.mask_path.stat().st_mtime_ns)
        if key not in self._kept:
            mask_HW = dataset.read_mask(tile)
            assert mask_HW is not None
            self._kept[key] = np.bincount(mask_HW.ravel(), minlength=256)[: dataset.scheme.num_classes]
        return self._kept[key]


def plan_split(
    config: RunConfig, dataset: Dataset | None = None, seen: Collection[str] = (), counts: ClassCounts | None = None
) -> Iterator[PlannedSplit | None]:
    """Find out which tiles will learn and which will judge; None in between, the answer last.

    Parameters
    ----------
    config : RunConfig
        `data.val`, `data.train_masks` and `data.val_masks` name other folders, whose tiles are not looked at.
    dataset : Dataset, optional
        That of `data.train`, where it is open already.
    seen : collection of str
        Fingerprints of the tiles that the model to start from has learnt from.
    counts : ClassCounts, optional
        What was counted before.

    Raises
    ------
    GlacierError
        If training would refuse these tiles, too.
    """
    data, counts = config.data, counts or ClassCounts()
    dataset = _whole(dataset or open_dataset(data.train, data.scheme, data.zero_is_nodata), data.train)
    yield None
    candidates = dataset.split("train") or (dataset.tiles if len(dataset.splits) == 1 else ())
    named = {tile.id: tile for tile in candidates if tile.mask_path is not None}
    train = [tile for tile in named.values() if data.tiles is None or tile.id in data.tiles]
    if dataset.scheme is None or not train:
        raise DataError(f"No training tile of {data.train} has a mask. Save masks first.")
    split_of = read_splits(data.splits, train) if data.splits is not None else {}
    train = [tile for tile in train if split_of.get(tile.id) != "none"]
    train = _reviewed(dataset, train, data.review)
    val = [named[tile_id] for tile_id in data.val_tiles or () if tile_id in named]
    val += [named[tile_id] for tile_id, fold in split_of.items() if fold in ("val", data.val_fold)]
    own = [tile for tile in dataset.split("val") if dataset.split("train") and tile.mask_path is not None]
    held_out = bool(val) or (data.val is None and not own)
    if not val and held_out:
        pixels = []
        for tile in train:
            pixels.append(counts.of(dataset, tile))
            yield None
        known = []
        if seen:
            band = deciding_band(data.channels)
            for tile in train:
                known.append(tile_fingerprint(dataset, tile, band) in seen)
                yield None
        unknown = [number for number, is_known in enumerate(known) if not is_known] if any(known) else None
        chosen = hold_out(np.stack(pixels), data.val_fraction, config.seed, unknown or None, centres_m(train))
        val = [train[number] for number in chosen]
    elif not val and data.val is None:
        val = _reviewed(dataset, own, data.review)
    judges = {tile.id for tile in val}
    train = [tile for tile in train if tile.id not in judges] if held_out else train
    if not train:
        raise ConfigError("Every labelled tile would judge. Leave at least one to learn from.")
    near = set()
    if val and (held_out or data.buffer_px is not None):
        near = _in_the_buffer(train, val, buffer_for(data.buffer_px, [*train, *val]))
    part_of = {tile.id: "left out" for tile in dataset.tiles}
    part_of |= {tile.id: "in the buffer" if tile.id in near else "trains" for tile in train}
    part_of |= dict.fromkeys(judges, "validates")
    yield PlannedSplit(dataset.tiles, part_of, dataset)


def seen_by(init_from: str | None) -> frozenset[str]:
    """Fingerprints of the tiles that the model to start from has learnt from; none where it does not say."""
    if init_from is None or init_from == "bundled":
        # The bundled models were made on synthetic tiles, and list none.
        return frozenset()
    try:
        return learnt_tiles(first_member(Path(init_from).expanduser()))
    except CheckpointError:
        return frozenset()  # weights of another program


def _whole(dataset: Dataset, folder: Path) -> Dataset:
    """The whole data set where its train folder alone was named."""
    root = folder.expanduser().absolute().parent
    if dataset.splits == ("train",) and (root / "val").is_dir():
        return open_dataset(root, dataset.scheme.name if dataset.scheme else None)
    return dataset


def _reviewed(dataset: Dataset, tiles: Sequence[Tile], demand: str | None) -> list[Tile]:
    if demand is None:
        return list(tiles)
    states, _ = journal_states(dataset)
    found = [tile for tile in tiles if meets(states.get(tile.id, TODO), demand)]  # type: ignore[arg-type]
    if not found:
        raise ConfigError(f"No labelled tile of {dataset.root} is {demand}. Review tiles in the Correct widget first.")
    return found


def _in_the_buffer(train: Sequence[Tile], held_out: Sequence[Tile], buffer_px: int) -> set[str]:
    """Ids of the training tiles that lie wholly within the buffer of a held-out tile."""
    found = set()
    for tile, parts in zip(train, excluded_windows(train, held_out, buffer_px), strict=True):
        covered_HW = np.zeros((tile.height, tile.width) if parts else (1, 1), bool)
        for part in parts:
            covered_HW[part.slices] = True
        if covered_HW.all():
            found.add(tile.id)
    return found
