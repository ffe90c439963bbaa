"""Which crops an epoch sees, and how the classes are mixed in them.

Crops are drawn from a grid of places over all tiles. Balanced sampling gives every place the weight that
stays nearest to chance (least relative entropy) while the expected mix of classes meets the target; how much
oftener than by chance a place may come is capped, so that one small lake is not learnt by heart. Where the
tiles cannot give the target, the largest deviation from it becomes as small as it can.

A plan is a function of (seed, epoch) alone. Classes are counted in cells of `CELL_PX` pixels, which keeps an
index of a country's tiles small.

Shapes: H rows, W columns; T tiles, M places, K classes; R, C rows and columns of cells.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_glacier.core.config import SamplingConfig
from napari_glacier.core.errors import ConfigError
from training.mixing import balanced_weights, choose_mix

CELL_PX = 8
# Places beyond this are thinned: first by a coarser grid, then at random.
_MAX_PLACES = 200_000
# Crops drawn for each one that is used; the choice among them evens out the luck of a short epoch.
_ALTERNATIVES = 16
_MAX_DRAWN = 32_768
# Where there are few places, none takes more than this share of an epoch, or than so many times its due.
_LARGEST_SHARE = 1 / 16
_FEW_REPEATS = 3.0
_DEFAULT_MIX = {2: (0.5, 0.5), 4: (0.10, 0.35, 0.40, 0.15)}

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


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
    """How many counted pixels of each class any rectangle of a tile holds, to the nearest cell.

    Parameters
    ----------
    target_HW : uint8 class indices, `IGNORE_INDEX` where the pixel does not count
    num_classes : int
    interface : pair of int, optional
        Two classes whose border is of interest: pixels of one with a neighbour of the other (to the left, the
        right, above or below) are counted too.
    """

    def __init__(
        self, target_HW: npt.NDArray[np.uint8], num_classes: int, interface: tuple[int, int] | None = None
    ) -> None:
        self.height, self.width = target_HW.shape
        self.num_classes = num_classes
        rows, cols = -(-self.height // CELL_PX), -(-self.width // CELL_PX)
        # A summed-area table: the count in any rectangle in four look-ups. Its last plane is the border's.
        kind = np.int32 if target_HW.size < 2**31 else np.int64
        self._sums_RCK = np.zeros((rows + 1, cols + 1, num_classes + 1), kind)
        padded_HW = np.zeros((rows * CELL_PX, cols * CELL_PX), bool)
        for k in range(num_classes + 1):
            here_HW = target_HW == k if k < num_classes else _border(target_HW, interface)
            padded_HW[: self.height, : self.width] = here_HW
            cells_RC = padded_HW.reshape(rows, CELL_PX, cols, CELL_PX).sum((1, 3))
            self._sums_RCK[1:, 1:, k] = cells_RC.cumsum(0).cumsum(1)

    @property
    def pixels_K(self) -> IntArray:  # noqa: N802 - shape suffix
        """Counted pixels of each class in the whole tile."""
        return self._sums_RCK[-1, -1, : self.num_classes].astype(np.int64)

    def compositions(self, row_M: IntArray, col_M: IntArray, crop_px: int) -> IntArray:
        """Pixels of each class, and then of the border, in many crops; shape (M, num_classes + 1)."""
        upper, lower = _cells(row_M, self.height), _cells(row_M + crop_px, self.height)
        left, right = _cells(col_M, self.width), _cells(col_M + crop_px, self.width)
        # An edge inside a cell takes its part of the cell: rounded edges would flatter a plan that was chosen by
        # what the cells hold.
        inside = self._up_to(lower, right) - self._up_to(upper, right)
        inside -= self._up_to(lower, left) - self._up_to(upper, left)
        return np.asarray(inside.round(), np.int64)

    def _up_to(self, row: "_Cells", col: "_Cells") -> FloatArray:
        table = self._sums_RCK
        below, beside = row.part[:, None], col.part[:, None]
        first = table[row.cell, col.cell] * (1 - beside) + table[row.cell, col.after] * beside
        second = table[row.after, col.cell] * (1 - beside) + table[row.after, col.after] * beside
        return np.asarray(first * (1 - below) + second * below, np.float64)

    def has_pixels(self, row_M: IntArray, col_M: IntArray, crop_px: int) -> npt.NDArray[np.bool_]:
        """Whether crops surely hold a counted pixel: one of a cell that lies wholly inside."""
        rows, cols = self._sums_RCK.shape[0] - 1, self._sums_RCK.shape[1] - 1
        top, left = ((-(-edge // CELL_PX)).clip(0, last) for edge, last in ((row_M, rows), (col_M, cols)))
        # The last cell may stick out of the tile, not of a crop that reaches the tile's edge.
        bottom = np.where(row_M + crop_px >= self.height, rows, (row_M + crop_px) // CELL_PX)
        right = np.where(col_M + crop_px >= self.width, cols, (col_M + crop_px) // CELL_PX)
        table = self._sums_RCK[..., : self.num_classes].sum(-1)
        part = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return np.asarray(part > 0)


def default_mix(num_classes: int) -> tuple[float, ...]:
    """Target shares where the configuration gives none."""
    return _DEFAULT_MIX.get(num_classes, (1.0 / num_classes,) * num_classes)


# Kinds for which any place is as good as another.
_BY_PLACE = ("uniform", "cover")


class CropSampler:
    """Plans the crops of every epoch.

    Parameters
    ----------
    index : sequence of TileIndex
    config : SamplingConfig
    seed : int
    multiple_of : int
        The number of crops is rounded up to this, so that every batch is full.

    Attributes
    ----------
    natural_mix, target_mix, expected_mix : float arrays of shape (K,)
        Shares of the classes in the tiles, as wanted, and as the plans give them on average.
    num_crops : int
        Crops an epoch.
    num_places : float
        Effective number of different places that crops come from: the exponential of the weights' entropy.

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
        pixels_TK = np.stack([tile.pixels_K for tile in self._index])
        pixels_K = pixels_TK.sum(0)
        if pixels_K.sum() == 0:
            raise ConfigError("No training pixel is valid: all tiles are nodata. Check data.train.")
        self.natural_mix: FloatArray = pixels_K / pixels_K.sum()
        self.target_mix = _target_mix(config.target_mix, pixels_K)
        self._step, places_M3 = self._all_places()
        usable_M = self._per_tile(places_M3, TileIndex.has_pixels)
        self._places_M3 = places_M3[usable_M]
        covering = (
            len(self._places_M3) if self._kind == "cover" else math.ceil(sum(map(self._crops_to_cover, self._index)))
        )
        self.num_crops = -(-(config.crops_per_epoch or covering) // multiple_of) * multiple_of
        counts_MK = self._per_tile(self._places_M3, TileIndex.compositions)
        weight_M = self._weights(config, pixels_TK, counts_MK)
        self._reached_M = weight_M.cumsum()
        self.expected_mix: FloatArray = _shares(np.einsum("m,mk->k", weight_M, counts_MK[:, :-1]))
        drawn_M = weight_M[weight_M > 0]
        self.num_places = float(np.exp(-(drawn_M * np.log(drawn_M)).sum()))

    @property
    def aims_at_mix(self) -> bool:
        """Whether crops are chosen for `target_mix`, not by place alone."""
        return self._kind not in _BY_PLACE

    def plan(self, epoch: int) -> list[Crop]:
        """Crops of an epoch in the order in which they are trained on."""
        rng = np.random.default_rng([self._seed, epoch])
        if self._kind == "cover":
            again = -(-self.num_crops // len(self._places_M3))
            order = np.concatenate([rng.permutation(len(self._places_M3)) for _ in range(again)])
            return self._crops(self._places_M3[order[: self.num_crops]], epoch)
        # Equal strata of the weights, tile by tile: an epoch sees every tile as often as it is due. Balanced
        # plans draw several crops in each, and keep those that together have the expected mix.
        per_crop = min(max(_MAX_DRAWN // self.num_crops, 2), _ALTERNATIVES) if self._kind == "balanced" else 1
        drawn = self.num_crops * per_crop
        at = (np.arange(drawn) + rng.random(drawn)) / drawn * self._reached_M[-1]
        number = np.searchsorted(self._reached_M, at, side="right").clip(max=len(self._reached_M) - 1)
        places_M3 = self._moved(self._places_M3[number], rng)
        if per_crop > 1:
            counts_MK = self._per_tile(places_M3, TileIndex.compositions)[:, :-1]
            chosen = choose_mix(counts_MK.reshape(self.num_crops, per_crop, -1), self.expected_mix, rng)
            places_M3 = places_M3.reshape(self.num_crops, per_crop, 3)[np.arange(self.num_crops), chosen]
        return self._crops(places_M3[rng.permutation(self.num_crops)], epoch)

    @staticmethod
    def _crops(places_M3: IntArray, epoch: int) -> list[Crop]:
        return [Crop(tile, row, col, epoch, number) for number, (tile, row, col) in enumerate(places_M3.tolist())]

    def mix_of(self, crops: Sequence[Crop]) -> FloatArray:
        """Share of each class among the counted pixels of these crops, before augmentation."""
        places_M3 = np.array(sorted(crop[:3] for crop in crops), np.int64).reshape(-1, 3)
        return _shares(self._per_tile(places_M3, TileIndex.compositions)[:, :-1].sum(0))

    def _crops_to_cover(self, tile: TileIndex) -> float:
        """Crops that hold as many pixels as count in a tile; at least one where any does."""
        # A crop that is larger than the tile holds no more than the tile.
        area = min(self._crop_px, tile.height) * min(self._crop_px, tile.width)
        return max(tile.pixels_K.sum() / area, 1.0) if tile.pixels_K.any() else 0.0

    def _weights(self, config: SamplingConfig, pixels_TK: IntArray, counts_MK: IntArray) -> FloatArray:
        tile_M = self._places_M3[:, 0]
        if self._kind == "balanced":
            chance_M = np.where(counts_MK[:, -1] > 0, config.interface_boost, 1.0)
            most = min(config.max_repeats, max(_LARGEST_SHARE * len(tile_M), _FEW_REPEATS))
            return balanced_weights(counts_MK[:, :-1], self.target_mix, chance_M, most)
        if not self.aims_at_mix:
            share_T = pixels_TK.sum(1).astype(np.float64)
        else:
            mix_TK = pixels_TK / np.maximum(pixels_TK.sum(1, keepdims=True), 1)
            share_T = 1.0 / (np.abs(mix_TK - self.target_mix).sum(1) + 0.01)
        weight_M = share_T[tile_M] / np.bincount(tile_M, minlength=len(share_T))[tile_M]
        return np.asarray(weight_M / weight_M.sum(), np.float64)

    def _all_places(self) -> tuple[int, IntArray]:
        """Step of the grid, and its places as (tile, row, column), tile by tile."""
        if self._kind == "cover":
            return self._crop_px, self._places_at(self._crop_px)
        step, coarsest = CELL_PX, max(CELL_PX, self._crop_px // 4)
        while step < coarsest and sum(self._num_places_of(tile, step) for tile in self._index) > _MAX_PLACES:
            step = min(2 * step, coarsest)
        places_M3 = self._places_at(step)
        if len(places_M3) > _MAX_PLACES:
            kept = np.random.default_rng(self._seed).choice(len(places_M3), _MAX_PLACES, replace=False)
            places_M3 = places_M3[np.sort(kept)]
        return step, places_M3

    def _places_at(self, step: int) -> IntArray:
        parts = []
        for t, tile in enumerate(self._index):
            row, col = np.meshgrid(
                _starts(tile.height, self._crop_px, step), _starts(tile.width, self._crop_px, step), indexing="ij"
            )
            parts.append(np.stack([np.full(row.size, t), row.ravel(), col.ravel()], axis=1))
        return np.concatenate(parts)

    def _num_places_of(self, tile: TileIndex, step: int) -> int:
        return len(_starts(tile.height, self._crop_px, step)) * len(_starts(tile.width, self._crop_px, step))

    def _moved(self, places_M3: IntArray, rng: np.random.Generator) -> IntArray:
        """Places off the grid by up to half a step, where the tile leaves room and pixels still count."""
        size_T2 = np.array([(tile.height, tile.width) for tile in self._index])
        spare_M2 = size_T2[places_M3[:, 0]] - self._crop_px
        offset_M2 = rng.integers(-(self._step // 2), self._step - self._step // 2, spare_M2.shape)
        inside_M2 = (places_M3[:, 1:] + offset_M2).clip(0, np.maximum(spare_M2, 0))
        moved_M3 = places_M3.copy()
        moved_M3[:, 1:] = np.where(spare_M2 > 0, inside_M2, places_M3[:, 1:])
        usable_M = self._per_tile(moved_M3, TileIndex.has_pixels)
        return np.where(usable_M[:, None], moved_M3, places_M3)

    def _per_tile(self, places_M3: IntArray, method: Callable[[TileIndex, IntArray, IntArray, int], Any]) -> Any:
        """What a method of `TileIndex` gives at places that are ordered by tile."""
        firsts = np.searchsorted(places_M3[:, 0], np.arange(len(self._index) + 1)).tolist()
        parts = [
            method(tile, places_M3[first:end, 1], places_M3[first:end, 2], self._crop_px)
            for tile, first, end in zip(self._index, firsts[:-1], firsts[1:], strict=True)
        ]
        return np.concatenate(parts)


def check_target_mix(wanted: Sequence[float] | None, num_classes: int) -> tuple[float, ...]:
    """Return the target shares, or the default ones; `ConfigError` if they do not fit the classes."""
    mix = tuple(wanted) if wanted is not None else default_mix(num_classes)
    if len(mix) != num_classes or min(mix) < 0 or sum(mix) <= 0:
        raise ConfigError(
            f"sampling.target_mix is {list(mix)}; the data have {num_classes} classes. "
            f"Give {num_classes} shares of 0 or more."
        )
    return mix


def _target_mix(wanted: Sequence[float] | None, pixels_K: IntArray) -> FloatArray:
    mix = check_target_mix(wanted, len(pixels_K))
    # A class that the tiles do not hold cannot be had; the others share its part.
    present = np.where(pixels_K > 0, mix, 0.0)
    if present.sum() == 0:
        raise ConfigError(
            f"sampling.target_mix is {list(mix)}, but none of the wanted classes occurs in the training masks. "
            "Correct the mix or the masks."
        )
    return np.asarray(present / present.sum(), np.float64)


def _shares(pixels_K: IntArray | FloatArray) -> FloatArray:
    return np.asarray(pixels_K / max(float(pixels_K.sum()), 1e-12), np.float64)


class _Cells(NamedTuple):
    """Where edges lie: in which cell, which cell is next, and how far into the cell (0 to 1)."""

    cell: IntArray
    after: IntArray
    part: FloatArray


def _cells(edge_M: IntArray, length: int) -> _Cells:
    edge_M = edge_M.clip(0, length)
    cell_M = edge_M // CELL_PX
    # The last cell ends with the tile.
    part_M = (edge_M % CELL_PX) / np.clip(length - cell_M * CELL_PX, 1, CELL_PX)
    return _Cells(cell_M, np.minimum(cell_M + 1, -(-length // CELL_PX)), part_M)


def _starts(length: int, crop_px: int, step: int) -> IntArray:
    """Starts of crops along one side of a tile: a grid and its far end, or the one that centres a small tile."""
    spare = length - crop_px
    return np.unique(np.append(np.arange(0, spare, step), spare)) if spare >= 0 else np.array([spare // 2])


def _border(target_HW: npt.NDArray[np.uint8], pair: tuple[int, int] | None) -> npt.NDArray[np.bool_]:
    border_HW = np.zeros(target_HW.shape, bool)
    for here, there in (pair, pair[::-1]) if pair else ():
        here_HW, there_HW = target_HW == here, target_HW == there
        border_HW[1:] |= here_HW[1:] & there_HW[:-1]
        border_HW[:-1] |= here_HW[:-1] & there_HW[1:]
        border_HW[:, 1:] |= here_HW[:, 1:] & there_HW[:, :-1]
        border_HW[:, :-1] |= here_HW[:, :-1] & there_HW[:, 1:]
    return border_HW
