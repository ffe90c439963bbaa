"""Which crops an epoch sees, and how the classes are mixed in them.

A balanced epoch is planned: each next crop is centred on the class that is furthest below its target
share, and of a few such crops the one that brings the running mix closest to the target is taken. How much
oftener than by chance a class may be centred on is capped, so that one small lake is not learnt by heart.

The plan is a function of (seed, epoch) alone. Positions are counted in cells of `CELL_PX` pixels, which
keeps an index of a country's tiles small.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import SamplingConfig
from napari_glacier.core.errors import ConfigError

CELL_PX = 8
_CANDIDATES = 8
_SMALLEST_SHARE = 0.01
_DEFAULT_MIX = {2: (0.5, 0.5), 4: (0.10, 0.35, 0.40, 0.15)}


class Crop(NamedTuple):
    """A square of pixels of a tile; it reaches past the tile where the tile is smaller.

    `number` is the sample's place in the epoch: with the seed and the epoch it decides every random draw.
    """

    tile: int
    row: int
    col: int
    epoch: int
    number: int


class TileIndex:
    """How many counted pixels of each class every cell of a tile holds.

    Parameters
    ----------
    target_HW : uint8 class indices, `IGNORE_INDEX` where the pixel does not count
    num_classes : int
    """

    def __init__(self, target_HW: npt.NDArray[np.uint8], num_classes: int) -> None:
        self.height, self.width = target_HW.shape
        rows, cols = -(-self.height // CELL_PX), -(-self.width // CELL_PX)
        padded_HW = np.full((rows * CELL_PX, cols * CELL_PX), IGNORE_INDEX, np.uint8)
        padded_HW[: self.height, : self.width] = target_HW
        blocks = padded_HW.reshape(rows, CELL_PX, cols, CELL_PX)
        counts_KRC = np.stack([(blocks == k).sum((1, 3)) for k in range(num_classes)]).astype(np.int64)
        self.counts_KRC = counts_KRC
        # A summed-area table: the composition of any rectangle in four look-ups.
        self._sums_RCK = np.zeros((rows + 1, cols + 1, num_classes), np.int64)
        self._sums_RCK[1:, 1:] = counts_KRC.cumsum(1).cumsum(2).transpose(1, 2, 0)

    def composition(self, row: int, col: int, crop_px: int) -> npt.NDArray[np.int64]:
        """Pixels of each class in a crop, to the nearest cell; shape (num_classes,)."""
        rows, cols = self._sums_RCK.shape[0] - 1, self._sums_RCK.shape[1] - 1
        top, bottom = (min(max(round(edge / CELL_PX), 0), rows) for edge in (row, row + crop_px))
        left, right = (min(max(round(edge / CELL_PX), 0), cols) for edge in (col, col + crop_px))
        table = self._sums_RCK
        return np.asarray(table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left])


def default_mix(num_classes: int) -> tuple[float, ...]:
    """Target shares where the configuration gives none."""
    return _DEFAULT_MIX.get(num_classes, (1.0 / num_classes,) * num_classes)


class CropSampler:
    """Plans the crops of every epoch.

    Parameters
    ----------
    index : sequence of TileIndex
    config : SamplingConfig
    seed : int
    multiple_of : int
        The number of crops is rounded up to this, so that every batch is full.

    Raises
    ------
    ConfigError
        If the target mix does not fit the classes, or no pixel counts.
    """

    def __init__(self, index: Sequence[TileIndex], config: SamplingConfig, seed: int, multiple_of: int) -> None:
        self._index = list(index)
        self._kind = config.kind
        self._crop_px = config.crop_px
        self._seed = seed
        self._max_repeats = config.max_repeats
        pixels_TK = np.stack([tile.counts_KRC.sum((1, 2)) for tile in self._index])
        pixels_K = pixels_TK.sum(0)
        if pixels_K.sum() == 0:
            raise ConfigError("No training pixel is valid: all tiles are nodata. Check data.train.")
        self.natural_mix = pixels_K / pixels_K.sum()
        self.target_mix = _target_mix(config.target_mix, pixels_K)
        self._tile_share = pixels_TK.sum(1) / pixels_K.sum()
        wanted = config.crops_per_epoch or -(-int(pixels_K.sum()) // self._crop_px**2)
        self.num_crops = -(-wanted // multiple_of) * multiple_of
        self._cells = [_class_cells(self._index, k) for k in range(len(pixels_K))]

    def plan(self, epoch: int) -> list[Crop]:
        """Crops of an epoch in the order in which they are trained on."""
        rng = np.random.default_rng([self._seed, epoch])
        places = self._plan_balanced(rng) if self._kind == "balanced" else self._plan_uniform(rng)
        shuffled = [places[i] for i in rng.permutation(len(places)).tolist()]
        return [Crop(tile, row, col, epoch, number) for number, (tile, row, col) in enumerate(shuffled)]

    def mix_of(self, crops: Sequence[Crop]) -> npt.NDArray[np.float64]:
        """Share of each class among the counted pixels of these crops, before augmentation."""
        pixels_K = sum(self._index[c.tile].composition(c.row, c.col, self._crop_px) for c in crops)
        return np.asarray(pixels_K / max(int(np.sum(pixels_K)), 1), np.float64)

    def _plan_balanced(self, rng: np.random.Generator) -> list[tuple[int, int, int]]:
        allowed_K = np.ceil(self._max_repeats * self.natural_mix * self.num_crops)
        centred_K = np.zeros_like(allowed_K)
        pixels_K = np.zeros_like(allowed_K)
        places = []
        for _ in range(self.num_crops):
            deficit_K = self.target_mix * max(pixels_K.sum(), 1.0) - pixels_K
            k = int(np.where(centred_K < allowed_K, deficit_K, -np.inf).argmax())
            candidates = [self._centred_on(k, rng) for _ in range(_CANDIDATES)]
            made_MK = pixels_K + np.stack([self._index[t].composition(r, c, self._crop_px) for t, r, c in candidates])
            mix_MK = made_MK / np.maximum(made_MK.sum(1, keepdims=True), 1)
            # Chi-squared, so that a rare class counts by its own measure.
            miss_M = ((mix_MK - self.target_mix) ** 2 / np.maximum(self.target_mix, _SMALLEST_SHARE)).sum(1)
            best = int(miss_M.argmin())
            places.append(candidates[best])
            pixels_K = made_MK[best]
            centred_K[k] += 1
        return places

    def _plan_uniform(self, rng: np.random.Generator) -> list[tuple[int, int, int]]:
        places = []
        for t in rng.choice(len(self._index), self.num_crops, p=self._tile_share).tolist():
            tile = self._index[t]
            place = (t, 0, 0)
            # A crop without one valid pixel teaches nothing; a tile has some, so a few tries find it.
            for _ in range(20):
                row = int(rng.integers(max(tile.height - self._crop_px, 0) + 1))
                col = int(rng.integers(max(tile.width - self._crop_px, 0) + 1))
                place = (t, self._inside(row, tile.height), self._inside(col, tile.width))
                if tile.composition(place[1], place[2], self._crop_px).sum() > 0:
                    break
            places.append(place)
        return places

    def _centred_on(self, k: int, rng: np.random.Generator) -> tuple[int, int, int]:
        where, reached = self._cells[k]
        t, cell_row, cell_col = where[np.searchsorted(reached, rng.integers(reached[-1]), side="right")].tolist()
        tile, quarter = self._index[t], self._crop_px // 4
        # Off the centre by up to a quarter: a class in the middle of every crop would be learnt as "the middle".
        jitter_row, jitter_col = rng.integers(-quarter, quarter + 1, 2).tolist()
        row = cell_row * CELL_PX + int(rng.integers(CELL_PX)) - self._crop_px // 2 + jitter_row
        col = cell_col * CELL_PX + int(rng.integers(CELL_PX)) - self._crop_px // 2 + jitter_col
        return t, self._inside(row, tile.height), self._inside(col, tile.width)

    def _inside(self, start: int, length: int) -> int:
        spare = length - self._crop_px
        return min(max(start, 0), spare) if spare >= 0 else spare // 2


def check_target_mix(wanted: Sequence[float] | None, num_classes: int) -> tuple[float, ...]:
    """Return the target shares, or the default ones; `ConfigError` if they do not fit the classes."""
    mix = tuple(wanted) if wanted is not None else default_mix(num_classes)
    if len(mix) != num_classes or min(mix) < 0 or sum(mix) <= 0:
        raise ConfigError(
            f"sampling.target_mix is {list(mix)}; the data have {num_classes} classes. "
            f"Give {num_classes} shares of 0 or more."
        )
    return mix


def _target_mix(wanted: Sequence[float] | None, pixels_K: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    mix = check_target_mix(wanted, len(pixels_K))
    # A class that the tiles do not hold cannot be had; the others share its part.
    present = np.where(pixels_K > 0, mix, 0.0)
    if present.sum() == 0:
        raise ConfigError(
            f"sampling.target_mix is {list(mix)}, but none of the wanted classes occurs in the training masks. "
            "Correct the mix or the masks."
        )
    return np.asarray(present / present.sum(), np.float64)


def _class_cells(index: Sequence[TileIndex], k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    where, weights = [np.empty((0, 3), np.int64)], [np.empty(0, np.int64)]
    for t, tile in enumerate(index):
        rows, cols = np.nonzero(tile.counts_KRC[k])
        where.append(np.stack([np.full(len(rows), t), rows, cols], axis=1))
        weights.append(tile.counts_KRC[k][rows, cols])
    return np.concatenate(where), np.concatenate(weights).cumsum()
