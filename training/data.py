"""Tiles as the trainer reads them: whole, in augmented crops, and what it must know of them beforehand.

Shapes: N batch, C channels, H rows, W columns, T tiles, K classes.
"""

import hashlib
import math
import os
import signal
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_glacier.core.channels import Normalisation, assemble_channels, blank_missing, required_bands
from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme, get_scheme
from napari_glacier.core.data.dataset import Dataset, Tile
from napari_glacier.core.data.seen_tiles import band_fingerprint
from napari_glacier.core.data.statistics import PooledStatistics, Quantiles
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window, windows
from training.augment import Augmenter
from training.sampler import Crop, TileIndex

# What each process keeps decoded; a tile of 512 x 512 x 5 takes 5 MB and 5 ms to read again.
_CACHE_BYTES = 512 * 2**20
# Larger validation tiles are cut, so that one scene does not have to fit on the device at once.
_MAX_EVAL_PX = 1024


class Pixels(NamedTuple):
    """A tile as read: its bands in the data's own units, where they carry data, and its classes.

    The classes are `IGNORE_INDEX` where the tile is not to be learnt from; `missing` are bands that it does not have.
    """

    bands_CHW: npt.NDArray[np.float32]
    valid_HW: npt.NDArray[np.bool_]
    mask_HW: npt.NDArray[np.uint8]
    missing: frozenset[str] = frozenset()

    def target(self) -> npt.NDArray[np.uint8]:
        """Classes with `IGNORE_INDEX` on nodata, shape (H, W)."""
        return np.where(self.valid_HW, self.mask_HW, np.uint8(IGNORE_INDEX))


class TileSet:
    """Tiles of one data set, with the most recently read ones kept decoded. Pickles without them.

    Parameters
    ----------
    dataset : Dataset
    tiles : sequence of Tile
        Each with a mask.
    channels : sequence of str
        Input channels of the model.
    excluded : sequence of sequence of Window, optional
        Of each tile the parts whose classes are not to be learnt; their bands are seen all the same.
    """

    def __init__(
        self,
        dataset: Dataset,
        tiles: Sequence[Tile],
        channels: Sequence[str],
        excluded: Sequence[Sequence[Window]] | None = None,
    ) -> None:
        self.dataset = dataset
        self.tiles = tuple(tiles)
        self.channels = tuple(channels)
        self.excluded = tuple(tuple(parts) for parts in excluded) if excluded is not None else ((),) * len(self.tiles)
        assert len(self.excluded) == len(self.tiles)
        self._bands = required_bands(channels)
        self._kept: OrderedDict[int, Pixels] = OrderedDict()

    def __len__(self) -> int:
        return len(self.tiles)

    def __getstate__(self) -> dict[str, Any]:
        # For workers that are spawned: a scheme holds a read-only mapping, which does not pickle; its name does.
        scheme = self.dataset.scheme
        state = dict(self.__dict__, dataset=replace(self.dataset, scheme=None), _kept=OrderedDict())
        return state | {"scheme_name": scheme.name if scheme else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        scheme_name = state.pop("scheme_name")
        self.__dict__.update(state)
        if scheme_name is not None:
            self.dataset = self.dataset.with_scheme(get_scheme(scheme_name))

    def read(self, number: int) -> Pixels:
        """Read a tile, or take it from memory."""
        if number not in self._kept:
            tile = self.tiles[number]
            bands_CHW, valid_HW = self.dataset.read(tile, self._bands)
            missing = frozenset(self._bands) - frozenset(tile.bands)
            self._kept[number] = Pixels(bands_CHW, valid_HW, self.read_mask(number), missing)
            while sum(p.bands_CHW.nbytes for p in self._kept.values()) > _CACHE_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def read_mask(self, number: int) -> npt.NDArray[np.uint8]:
        """Classes of a tile without its bands, `IGNORE_INDEX` in its excluded parts; nodata is not marked."""
        mask_HW = self.dataset.read_mask(self.tiles[number])
        assert mask_HW is not None, "tiles without a mask are left out before"
        for part in self.excluded[number]:
            mask_HW[part.slices] = IGNORE_INDEX
        return mask_HW

    def cut(self, number: int, row: int, col: int, height: int, width: int) -> Pixels:
        """A rectangle of a tile; what lies outside the tile is nodata."""
        tile = self.read(number)
        tile_height, tile_width = tile.valid_HW.shape
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, tile_height), min(col + width, tile_width)
        inner = (slice(top, bottom), slice(left, right))
        outer = (slice(top - row, bottom - row), slice(left - col, right - col))
        bands_CHW = np.zeros((len(tile.bands_CHW), height, width), np.float32)
        valid_HW = np.zeros((height, width), bool)
        mask_HW = np.zeros((height, width), np.uint8)
        bands_CHW[:, *outer] = tile.bands_CHW[:, *inner]
        valid_HW[outer] = tile.valid_HW[inner]
        mask_HW[outer] = tile.mask_HW[inner]
        return Pixels(bands_CHW, valid_HW, mask_HW, tile.missing)

    def channels_of(self, pixels: Pixels, normalisation: Normalisation) -> npt.NDArray[np.float32]:
        """The model's input: assembled and normalised channels, 0 on nodata and in channels of missing bands."""
        raw_CHW = assemble_channels(pixels.bands_CHW, self._bands, pixels.valid_HW, self.channels)
        input_CHW = normalisation.apply(raw_CHW, pixels.valid_HW)
        blank_missing(input_CHW, self.channels, pixels.missing)
        return input_CHW

    def fingerprint(self, number: int) -> str:
        """Digest of a tile's first band that the model sees, by which a model knows what it has learnt from."""
        return band_fingerprint(self.read(number).bands_CHW[:1])


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over the training tiles gives: where the classes are, statistics, and fingerprints."""

    index: tuple[TileIndex, ...]
    normalisation: Normalisation
    fingerprint: str
    seen_tiles: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def scan(tiles: TileSet, scheme: ClassScheme, normalize: Literal["zscore", "percentile"] = "zscore") -> Scan:
    """Read every training tile once.

    The statistics are pooled over the pixels that count (valid, and in no excluded part) of the channels in the data's
    own units; a band that a tile lacks is not counted there. The channel ``valid`` is left as it is: over valid
    pixels it does not vary.

    Parameters
    ----------
    tiles : TileSet
    scheme : ClassScheme
    normalize : {"zscore", "percentile"}
        Mean and standard deviation; or the 2nd percentile, and how far the 98th is above it. A channel without such a
        distance (nearly all of one value) keeps its standard deviation as the scale.

    Raises
    ------
    DataError
        If no pixel counts.
    """
    statistics = PooledStatistics(len(tiles.channels))
    quantiles = [Quantiles() for _ in tiles.channels]
    digest = hashlib.blake2b(digest_size=16)
    index, fingerprints = [], []
    for number, tile in enumerate(tiles.tiles):
        pixels = tiles.read(number)
        fingerprints.append(tiles.fingerprint(number))
        target_HW = pixels.target()
        counted_HW = target_HW != IGNORE_INDEX
        raw_CHW = assemble_channels(pixels.bands_CHW, required_bands(tiles.channels), pixels.valid_HW, tiles.channels)
        present = [set(required_bands([name])) <= set(tile.bands) for name in tiles.channels]
        statistics.update(raw_CHW, counted_HW, present)
        if normalize == "percentile":
            for plane_HW, there, quantile in zip(raw_CHW, present, quantiles, strict=True):
                if there:
                    quantile.update(plane_HW[counted_HW])
        index.append(TileIndex(target_HW, scheme.num_classes, scheme.interface))
        for part in (tile.id.encode(), pixels.bands_CHW.tobytes(), pixels.mask_HW.tobytes()):
            digest.update(part)
    if statistics.count == 0:
        raise DataError(
            "No training pixel is left to learn from: all are nodata or within the buffer of a held-out tile. Check "
            "data.train, or lower data.buffer_px."
        )
    pooled = statistics.normalisation()
    means, scales = list(pooled.mean), list(pooled.std)
    keep = [name == "valid" for name in tiles.channels]
    for c, seen in enumerate(statistics.counts_C > 0):
        if keep[c]:
            means[c], scales[c] = 0.0, 1.0
        elif normalize == "percentile" and seen:
            means[c], distance = quantiles[c].at(0.02), quantiles[c].at(0.98) - quantiles[c].at(0.02)
            scales[c] = distance if distance > 0 else scales[c]
    constant = [
        f"Channel {name} is {value:g} in every valid training pixel, so nothing can be learnt from it. Check the "
        "band, or leave it out of data.channels."
        for name, value, same, k in zip(tiles.channels, pooled.mean, statistics.is_constant, keep, strict=True)
        if same and not k
    ]
    normalisation = Normalisation(tuple(means), tuple(scales), normalize)
    warnings = (*constant, *_one_class_alone(index, scheme))
    return Scan(tuple(index), normalisation, digest.hexdigest(), tuple(fingerprints), warnings)


def _one_class_alone(index: Sequence[TileIndex], scheme: ClassScheme) -> Iterator[str]:
    there = np.flatnonzero(sum(tile.pixels_K for tile in index))
    if len(there) == 1:
        yield (
            f"Every training pixel that counts is {scheme.class_names[there[0]]}, so the model will call everything "
            "that. Label what is something else, too."
        )


class CropDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Augmented training crops, looked up by `Crop`; every draw is seeded by (seed, epoch, sample number)."""

    def __init__(self, tiles: TileSet, normalisation: Normalisation, augmenter: Augmenter, crop_px: int, seed: int):
        self._tiles = tiles
        self._normalisation = normalisation
        self._augmenter = augmenter
        self._crop_px = crop_px
        self._seed = seed

    def __getitem__(self, crop: Crop) -> tuple[Tensor, Tensor]:
        """Give the image, float32 (C, H, W), and the target, uint8 (H, W)."""
        pixels = self._tiles.cut(crop.tile, crop.row, crop.col, self._crop_px, self._crop_px)
        image_CHW = self._tiles.channels_of(pixels, self._normalisation)
        seed = int(np.random.SeedSequence([self._seed, crop.epoch, crop.number]).generate_state(1)[0])
        image_CHW, target_HW, _ = self._augmenter(image_CHW, pixels.target(), pixels.valid_HW, seed)
        return torch.from_numpy(image_CHW), torch.from_numpy(target_HW)


class BatchPlan(torch.utils.data.Sampler[list[Crop]]):
    """Hands an epoch's crops to the loader, batch by batch; set `crops` before each epoch.

    Parameters
    ----------
    batch_size : int
        Over all processes; this one takes every `num_ranks`-th crop from its `rank` on.
    """

    def __init__(self, batch_size: int, rank: int, num_ranks: int) -> None:
        self.crops: list[Crop] = []
        self._batch_size = batch_size
        self._mine = slice(rank, None, num_ranks)

    def __len__(self) -> int:
        return math.ceil(len(self.crops) / self._batch_size)

    def __iter__(self) -> Iterator[list[Crop]]:
        for start in range(0, len(self.crops), self._batch_size):
            yield self.crops[start : start + self._batch_size][self._mine]


def make_loader(
    dataset: CropDataset, plan: BatchPlan, num_workers: int, pin_memory: bool
) -> torch.utils.data.DataLoader[tuple[Tensor, Tensor]]:
    """Loader of training batches; never more workers than cores besides the one that trains."""
    num_workers = min(num_workers, max(_num_cores() - 1, 0))
    return torch.utils.data.DataLoader(
        dataset,
        batch_sampler=plan,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=_start_worker if num_workers else None,
        pin_memory=pin_memory,
        # A generator of its own: the loader then leaves the global random state to the model.
        generator=torch.Generator().manual_seed(0),
    )


def _num_cores() -> int:
    """Cores for this process and its workers: those it may run on, shared with the other processes of this host."""
    # A batch system, or a container, gives fewer cores than the host has.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def close_loader(loader: torch.utils.data.DataLoader[Any]) -> None:
    """End the workers.

    Left to the interpreter's exit, they would be sent the signal that they ignore, and be waited for for ever.
    """
    iterator: Any = getattr(loader, "_iterator", None)
    loader._iterator = None
    if iterator is None:
        return
    workers = list(getattr(iterator, "_workers", ()))
    if workers:
        iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()


class TileBatch(NamedTuple):
    """Validation tiles of one size, or pieces of them, and their numbers."""

    image_NCHW: Tensor
    mask_NHW: Tensor
    valid_NHW: Tensor
    numbers: tuple[int, ...]


def whole_tiles(
    tiles: TileSet, numbers: Sequence[int], normalisation: Normalisation, max_pixels: int
) -> Iterator[TileBatch]:
    """Batches of whole tiles for validation.

    Neighbouring tiles of one size share a batch of at most `max_pixels`; a large tile comes in pieces.
    """
    batch: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]] = []
    of_tile: list[int] = []

    def stacked() -> TileBatch:
        image, mask, valid = (torch.from_numpy(np.stack(part)) for part in zip(*batch, strict=True))
        made = TileBatch(image, mask, valid, tuple(of_tile))
        batch.clear()
        of_tile.clear()
        return made

    for number in numbers:
        height, width = tiles.tiles[number].height, tiles.tiles[number].width
        for window in windows(height, width, _MAX_EVAL_PX, 0):
            inside = window.clipped(height, width)
            size = (inside.height, inside.width)
            if batch and (batch[0][1].shape != size or (len(batch) + 1) * size[0] * size[1] > max_pixels):
                yield stacked()
            pixels = tiles.cut(number, inside.row, inside.col, *size)
            batch.append((tiles.channels_of(pixels, normalisation), pixels.mask_HW, pixels.valid_HW))
            of_tile.append(number)
    if batch:
        yield stacked()


def _start_worker(worker: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # A stop is the trainer's to handle; a worker that dies of the signal would fail the step in progress.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
