"""Which tiles are held out for validation: a share of them, or folds of which each is held out once.

Where the places of the tiles are known, what is held out is a compact cluster: neighbouring tiles look alike, and
only the edge of a cluster touches tiles that are learnt from.

All scores are made of sums over tiles, so that a swap of two tiles is scored from the sums that it changes.

Shapes: T tiles, K classes, F folds, C features of a tile (`_features`), P pairs of tiles, D draws; ... any axes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import ConfigError

Pixels = npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Price = Callable[[Floats], Floats]  # of folds or pairs of folds, shape (...), by their sums, shape (..., C)

_DRAWS = 500
_MAX_LLOYD = 30
# Assignment takes the cube of the number of tiles; beyond this many the nearest pairs are taken first instead.
_MAX_EXACT = 300
# Swaps scored at a time: all there are of a few hundred tiles, of more the ones between the nearest tiles.
_MAX_SWAPS = 200_000
_DIGITS = 9  # of scores, so that rounding does not choose among equals
# A class that a fold cannot learn outweighs everything; one that it does not hold, a tenth of all distance.
_LOST, _UNSEEN = 1000.0, 0.1


def hold_out(
    pixels_TK: Pixels,
    fraction: float,
    seed: int,
    candidates: Sequence[int] | None = None,
    centres_T2: Floats | None = None,
) -> list[int]:
    """Choose whole tiles for validation, stratified by which classes they hold.

    Of many seeded draws, or of the clusters around as many tiles where centres are given, the one is taken whose tiles
    hold each class about as often, and in about the same amount, as all tiles do. Every class stays in the training
    tiles; a class that two tiles or more hold is in the validation tiles too, where that is possible.

    Parameters
    ----------
    pixels_TK : int array, shape (tiles, classes)
        Valid pixels of each class in each tile.
    fraction : float
        Share of the tiles to hold out; at least one tile, and never all.
    seed : int
    candidates : sequence of int, optional
        Positions of the tiles that may be held out, all by default. Where they are fewer than the share asks
        for, they are all held out.
    centres_T2 : float array, shape (tiles, 2), optional
        Where the tiles lie, in metres.

    Returns
    -------
    list of int
        Sorted positions of the validation tiles.

    Raises
    ------
    ConfigError
        If there are fewer than two tiles.
    """
    assert candidates is None or len(candidates) > 0
    num_tiles = len(pixels_TK)
    if num_tiles < 2:
        raise ConfigError(
            f"{num_tiles} tile(s) with a mask cannot be split into training and validation. "
            "Label a second tile, or name validation tiles with data.val."
        )
    eligible = np.arange(num_tiles) if candidates is None else np.asarray(candidates, np.int64)
    num_held_out = min(max(round(fraction * num_tiles), 1), num_tiles - 1, len(eligible))
    rng = np.random.default_rng([seed, num_tiles])
    if centres_T2 is None:
        draws = [rng.choice(eligible, num_held_out, replace=False) for _ in range(_DRAWS)]
    else:
        # In a seeded order: of clusters that are equally good, another seed takes another one.
        middles = rng.permutation(eligible)[:_DRAWS].tolist()
        draws = [_cluster_around(t, pixels_TK > 0, centres_T2, eligible, num_held_out) for t in middles]
    features_TC = _features(pixels_TK, centres_T2)
    sums_DC = np.stack([features_TC[draw].sum(0) for draw in draws])
    scores_D = _mismatch(sums_DC, features_TC.sum(0)) + _spread(sums_DC)
    return sorted(draws[scores_D.round(_DIGITS).argmin()].tolist())


def make_folds(
    pixels_TK: Pixels, num_folds: int, seed: int, centres_T2: Floats | None = None, starts: int | None = None
) -> list[list[int]]:
    """Share all tiles out among folds, each of which is held out once.

    With centres, each fold is a compact cluster: of many seeded starts of balanced k-means (Lloyd's iterations
    with an assignment that keeps the sizes) the one is taken with the least distance to the folds' middles, where
    a class that a fold lacks though there are tiles enough of it counts against it. Without centres, the draw is
    taken in which each fold resembles all tiles most. A class that occurs in two tiles or more stays in every
    fold's training tiles, where that is possible.

    Parameters
    ----------
    pixels_TK : int array, shape (tiles, classes)
        Pixels of each class in each tile.
    num_folds : int
    seed : int
    centres_T2 : float array, shape (tiles, 2), optional
        Where the tiles lie, in metres.
    starts : int, optional
        Starts or draws compared; fewer for more tiles by default.

    Returns
    -------
    list of list of int
        Sorted positions of each fold's tiles; the sizes differ by at most one.

    Raises
    ------
    ConfigError
        If there are fewer tiles than folds, or fewer than two folds.
    """
    num_tiles = len(pixels_TK)
    if not 2 <= num_folds <= num_tiles:
        raise ConfigError(
            f"folds is {num_folds}, and there are {num_tiles} tiles with a mask. Each fold holds out a tile or "
            "more: choose 2 folds at least, and at most as many as there are tiles."
        )
    rng = np.random.default_rng([seed, num_tiles, num_folds])
    features_TC = _features(pixels_TK, centres_T2)
    total_C = features_TC.sum(0)
    price: Price
    if centres_T2 is None:
        candidates = [np.argsort(rng.permutation(num_tiles)) % num_folds for _ in range(starts or _DRAWS)]

        def price(sums_C: Floats) -> Floats:
            return _mismatch(sums_C, total_C) / num_folds
    else:
        starts = starts or int(np.clip(20_000 // num_tiles, 8, 200))
        candidates = [_lloyd(centres_T2, num_folds, rng) for _ in range(starts)]
        price = _spread

    sums_DFC = np.stack([_sums(features_TC, fold_T) for fold_T in candidates])
    scores_D = price(sums_DFC).sum(-1) + _missing((_held(sums_DFC) > 0).sum(1), _held(total_C), num_folds)
    best_T = _with_classes_spread(features_TC, candidates[scores_D.round(_DIGITS).argmin()], num_folds, price)
    return [np.flatnonzero(best_T == f).tolist() for f in range(num_folds)]


def _features(pixels_TK: Pixels, centres_T2: Floats | None) -> Floats:
    """What is summed over tiles: 1, presence of each class, pixels of each class, place (2), square of its distance.

    Places are counted from the middle of all tiles, in a unit in which all squares sum to 1.
    """
    place_T2 = np.zeros((len(pixels_TK), 2)) if centres_T2 is None else centres_T2 - centres_T2.mean(0)
    place_T2 = place_T2 / np.sqrt(max(float((place_T2**2).sum()), 1e-12))
    parts = [np.ones((len(pixels_TK), 1)), pixels_TK > 0, pixels_TK, place_T2, (place_T2**2).sum(1, keepdims=True)]
    return np.concatenate(parts, axis=1, dtype=np.float64)


def _split(sums_C: Floats) -> tuple[Floats, ...]:
    """Summed features, shape (..., C), by kind: number of tiles, tiles and pixels of each class, place, squares."""
    num_classes = (sums_C.shape[-1] - 4) // 2
    num, held_K, pixels_K, place_2, squares = np.split(sums_C, [1, num_classes + 1, -3, -1], axis=-1)
    return num, held_K, pixels_K, place_2, squares[..., 0]


def _held(sums_C: Floats) -> Floats:
    return _split(sums_C)[1]


def _sums(features_TC: Floats, fold_T: Ints) -> Floats:
    """Sums over each fold, shape (F, C); no fold is empty."""
    order = np.argsort(fold_T, kind="stable")
    return np.add.reduceat(features_TC[order], np.flatnonzero(np.diff(fold_T[order], prepend=-1)))


def _mismatch(sums_C: Floats, total_C: Floats) -> Floats:
    """How badly chosen tiles stand for all, and what the others lack."""
    (num, held_K, pixels_K, _, _), (num_all, tiles_K, all_pixels_K, _, _) = _split(sums_C), _split(total_C)
    miss = np.abs(held_K / num - tiles_K / num_all).sum(-1)
    mix_K = pixels_K / np.maximum(pixels_K.sum(-1, keepdims=True), 1)
    miss += np.abs(mix_K - all_pixels_K / max(all_pixels_K.sum(), 1)).sum(-1)
    lost = ((tiles_K > 0) & (held_K == tiles_K)).sum(-1)
    unseen = ((tiles_K > 1) & (held_K == 0)).sum(-1)
    return np.asarray(miss + _LOST * lost + 10.0 * unseen)


def _spread(sums_C: Floats) -> Floats:
    """Squared distances of tiles to their middle, as a share of those to the middle of all."""
    num, _, _, place_2, squares = _split(sums_C)
    return np.asarray(squares - (place_2**2 / num).sum(-1))


def _missing(folds_K: npt.NDArray[Any], tiles_K: Floats, num_folds: int) -> Floats:
    """Penalty for classes that a fold cannot learn, and for classes in fewer folds than there could be."""
    lost = ((folds_K == 1) & (tiles_K > 1)).sum(-1)
    return np.asarray(_LOST * lost + _UNSEEN * (np.minimum(tiles_K, num_folds) - folds_K).sum(-1))


def _cluster_around(middle: int, present_TK: Pixels, centres_T2: Floats, eligible: Ints, size: int) -> Ints:
    """The eligible tiles nearest to a tile, passing over those without which a class could not be learnt."""
    nearest = eligible[np.argsort(((centres_T2[eligible] - centres_T2[middle]) ** 2).sum(1), kind="stable")]
    holds_EK = present_TK[nearest]
    last_K = len(nearest) - 1 - holds_EK[::-1].argmax(0)
    # A class can only be lost with its farthest tile, and not if one of its tiles is passed over already.
    exposed_K = holds_EK.any(0) & (holds_EK.sum(0) == present_TK.sum(0))
    passed: list[int] = []
    for k in sorted(np.flatnonzero(exposed_K).tolist(), key=lambda k: int(last_K[k])):
        if not holds_EK[passed, k].any():
            passed.append(int(last_K[k]))
    taken = np.delete(nearest, passed)[:size]
    return np.concatenate([taken, nearest[passed][: size - len(taken)]])


def _lloyd(centres_T2: Floats, num_folds: int, rng: np.random.Generator) -> Ints:
    """Balanced k-means from one random start."""
    middles_F2 = centres_T2[rng.choice(len(centres_T2), num_folds, replace=False)]
    fold_T = np.full(len(centres_T2), -1)
    for _ in range(_MAX_LLOYD):
        assigned_T = _assign(((centres_T2[:, None] - middles_F2[None]) ** 2).sum(2))
        if (assigned_T == fold_T).all():
            break
        fold_T = assigned_T
        middles_F2 = _sums(centres_T2, fold_T) / np.bincount(fold_T)[:, None]
    return fold_T


def _assign(cost_TF: Floats) -> Ints:
    """Tiles to folds at the least sum of costs, with sizes that differ by at most one."""
    from scipy.optimize import linear_sum_assignment

    num_tiles, num_folds = cost_TF.shape
    if num_tiles > _MAX_EXACT:
        return _assign_nearest_first(cost_TF)
    size = num_tiles // num_folds
    # Each fold has `size` seats, and one more that costs so much that no more of these are taken than must be.
    seats_TS = np.repeat(cost_TF, size, axis=1)
    extra_TF = cost_TF + (cost_TF.max() + 1.0) * num_tiles
    fold_of_seat = np.concatenate([np.repeat(np.arange(num_folds), size), np.arange(num_folds)])
    tiles, seats = linear_sum_assignment(np.concatenate([seats_TS, extra_TF], axis=1))
    fold_T = np.empty(num_tiles, np.int64)
    fold_T[tiles] = fold_of_seat[seats]
    return fold_T


def _assign_nearest_first(cost_TF: Floats) -> Ints:
    """Pairs of tile and fold from the least cost up, as long as the fold has a seat."""
    num_tiles, num_folds = cost_TF.shape
    size, num_larger = divmod(num_tiles, num_folds)
    fold_T = np.full(num_tiles, -1, np.int64)
    taken_F = np.zeros(num_folds, np.int64)
    while (left := np.flatnonzero(fold_T < 0)).size:
        limit_F = np.where(taken_F < size, size, size + ((taken_F > size).sum() < num_larger))
        is_open = np.flatnonzero(taken_F < limit_F)
        cost_LF = cost_TF[np.ix_(left, is_open)]
        nearest = cost_LF.argmin(1)
        order = np.argsort(cost_LF.min(1), kind="stable")
        filled_LF = taken_F[is_open] + (nearest[order, None] == np.arange(len(is_open))).cumsum(0)
        # Until a fold is full, the nearest one that is open is the nearest one that has a seat.
        placed = order[: (filled_LF < limit_F[is_open]).all(1).sum() + 1]
        fold_T[left[placed]] = is_open[nearest[placed]]
        taken_F = np.bincount(fold_T[fold_T >= 0], minlength=num_folds)
    return fold_T


def _with_classes_spread(features_TC: Floats, fold_T: Ints, num_folds: int, price: Price) -> Ints:
    """Swap tiles between folds as long as that brings classes to folds that lack them, at a price worth it."""
    _, held_TK, _, place_T2, _ = _split(features_TC)
    tiles_K, fold_T = held_TK.sum(0), fold_T.copy()
    while True:
        tiles_of = [np.flatnonzero(fold_T == f) for f in range(num_folds)]
        sums_FC = _sums(features_TC, fold_T)
        price_F, holds_FK = price(sums_FC), (_held(sums_FC) > 0).astype(np.int64)
        middle_F2 = _split(sums_FC)[3] / sums_FC[:, :1]
        lacking = holds_FK.sum(0) < np.minimum(tiles_K, num_folds)
        # Class k can come from fold a, which holds it, to fold b, which does not.
        ways = np.argwhere((holds_FK[:, None] > holds_FK[None]) & lacking).tolist()
        # A swap may cost a fold the only tile of a class, so there is more than one to choose from for each class.
        most = max(int(np.sqrt(_MAX_SWAPS / max(len(ways), 1))), len(tiles_K) + 1)
        least, best = -(0.1**_DIGITS), None  # what a swap adds to the score
        for a, b, k in ways:
            # Those that lie farthest towards the other fold cost the least.
            way_2 = middle_F2[b] - middle_F2[a]
            holders = tiles_of[a][held_TK[tiles_of[a], k] > 0]
            holders = holders[np.argsort(place_T2[holders] @ -way_2, kind="stable")[:most]]
            others = tiles_of[b][np.argsort(place_T2[tiles_of[b]] @ way_2, kind="stable")[:most]]
            pairs_P2 = np.stack(np.meshgrid(holders, others, indexing="ij"), -1).reshape(-1, 2)
            change_PC = features_TC[pairs_P2[:, 1]] - features_TC[pairs_P2[:, 0]]
            after_2PC = np.stack([sums_FC[a] + change_PC, sums_FC[b] - change_PC])
            folds_PK = holds_FK.sum(0) - holds_FK[a] - holds_FK[b] + (_held(after_2PC) > 0).sum(0)
            added_P = price(after_2PC).sum(0) - price_F[a] - price_F[b]
            added_P += _missing(folds_PK, tiles_K, num_folds) - _missing(holds_FK.sum(0), tiles_K, num_folds)
            if added_P.min() < least:
                least, best = added_P.min(), pairs_P2[added_P.argmin()]
        if best is None:
            return fold_T
        fold_T[best] = fold_T[best[::-1]]
