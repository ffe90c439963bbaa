"""Which tiles are held out for validation: a share of them, or folds of which each is held out once.

Where the places of the tiles are known, what is held out is a compact cluster: neighbouring tiles look alike, and
only the edge of a cluster touches tiles that are learnt from.

Shapes: T tiles, K classes, F folds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from napari_glacier.core.errors import ConfigError

Pixels = npt.NDArray[np.integer[Any]]
Centres = npt.NDArray[np.float64]
Folds = npt.NDArray[np.int64]

_DRAWS = 500
_MAX_LLOYD = 30
# Assignment takes the cube of the number of tiles; beyond this many the nearest pairs are taken first instead.
_MAX_EXACT = 300
# A class that a fold cannot learn outweighs everything; one that it does not hold, a tenth of all distance.
_LOST, _UNSEEN = 1000.0, 0.1


def hold_out(
    pixels_TK: Pixels,
    fraction: float,
    seed: int,
    candidates: Sequence[int] | None = None,
    centres_T2: Centres | None = None,
) -> list[int]:
    """Choose whole tiles for validation, stratified by which classes they hold.

    Of many seeded draws, or of the clusters around every tile where centres are given, the one is taken whose tiles
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
    num_held_out = min(max(round(fraction * num_tiles), 1), num_tiles - 1)
    eligible = np.arange(num_tiles) if candidates is None else np.asarray(candidates)
    num_held_out = min(num_held_out, len(eligible))
    rng = np.random.default_rng([seed, num_tiles])
    if centres_T2 is None:
        draws = [rng.choice(eligible, num_held_out, replace=False) for _ in range(_DRAWS)]
    else:
        # In a seeded order: of clusters that are equally good, another seed takes another one.
        draws = [_cluster_around(t, pixels_TK, centres_T2, eligible, num_held_out) for t in rng.permutation(eligible)]
    scores = []
    for draw in draws:
        chosen_T = np.isin(np.arange(num_tiles), draw)
        compactness = 0.0 if centres_T2 is None else _spread(chosen_T.astype(np.int64), centres_T2, [1])
        scores.append(_mismatch(pixels_TK, chosen_T) + compactness)
    return sorted(draws[int(np.argmin(scores))].tolist())


def make_folds(
    pixels_TK: Pixels, num_folds: int, seed: int, centres_T2: Centres | None = None, starts: int | None = None
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
    score: Callable[[Folds], float]
    if centres_T2 is None:
        candidates = [_drawn_folds(num_tiles, num_folds, rng) for _ in range(starts or _DRAWS)]

        def score(fold_T: Folds) -> float:
            return sum(_mismatch(pixels_TK, fold_T == f) for f in range(num_folds)) / num_folds + _missing(
                pixels_TK, fold_T, num_folds
            )
    else:
        starts = starts or int(np.clip(20_000 // num_tiles, 8, 200))
        candidates = [_lloyd(centres_T2, num_folds, rng) for _ in range(starts)]

        def score(fold_T: Folds) -> float:
            return _spread(fold_T, centres_T2, range(num_folds)) + _missing(pixels_TK, fold_T, num_folds)

    best_T = min(candidates, key=score)
    best_T = _with_classes_spread(pixels_TK, best_T, num_folds, score)
    return [np.flatnonzero(best_T == f).tolist() for f in range(num_folds)]


def _mismatch(pixels_TK: Pixels, chosen_T: npt.NDArray[np.bool_]) -> float:
    """How badly the chosen tiles stand for all, and what the others lack."""
    present_TK = pixels_TK > 0
    held_TK = pixels_TK[chosen_T]
    presence_K = present_TK[chosen_T].mean(0)
    mix_K = held_TK.sum(0) / max(int(held_TK.sum()), 1)
    lost_K = present_TK.any(0) & ~present_TK[~chosen_T].any(0)
    unseen_K = (present_TK.sum(0) > 1) & (presence_K == 0)
    miss = np.abs(presence_K - present_TK.mean(0)).sum()
    miss += np.abs(mix_K - pixels_TK.sum(0) / max(int(pixels_TK.sum()), 1)).sum()
    return float(miss + _LOST * lost_K.sum() + 10.0 * unseen_K.sum())


def _cluster_around(
    middle: int, pixels_TK: Pixels, centres_T2: Centres, eligible: npt.NDArray[np.integer[Any]], size: int
) -> npt.NDArray[np.int64]:
    """The eligible tiles nearest to a tile, passing over those without which a class could not be learnt."""
    nearest = eligible[np.argsort(((centres_T2[eligible] - centres_T2[middle]) ** 2).sum(1), kind="stable")]
    left_K = (pixels_TK > 0).sum(0)
    taken: list[int] = []
    passed: list[int] = []
    for t in nearest.tolist():
        after_K = left_K - (pixels_TK[t] > 0)
        if len(taken) < size and not ((after_K == 0) & (left_K > 0)).any():
            taken.append(t)
            left_K = after_K
        else:
            passed.append(t)
    return np.array(taken + passed[: size - len(taken)], np.int64)


def _drawn_folds(num_tiles: int, num_folds: int, rng: np.random.Generator) -> Folds:
    fold_T = np.empty(num_tiles, np.int64)
    fold_T[rng.permutation(num_tiles)] = np.arange(num_tiles) % num_folds
    return fold_T


def _lloyd(centres_T2: Centres, num_folds: int, rng: np.random.Generator) -> Folds:
    """Balanced k-means from one random start."""
    middles_F2 = centres_T2[rng.choice(len(centres_T2), num_folds, replace=False)]
    fold_T = np.full(len(centres_T2), -1)
    for _ in range(_MAX_LLOYD):
        cost_TF = ((centres_T2[:, None] - middles_F2[None]) ** 2).sum(2)
        assigned_T = _assign(cost_TF)
        if (assigned_T == fold_T).all():
            break
        fold_T = assigned_T
        middles_F2 = np.stack([centres_T2[fold_T == f].mean(0) for f in range(num_folds)])
    return fold_T


def _assign(cost_TF: npt.NDArray[np.float64]) -> Folds:
    """Tiles to folds at the least sum of costs, with sizes that differ by at most one."""
    num_tiles, num_folds = cost_TF.shape
    size, spare = divmod(num_tiles, num_folds)
    if num_tiles > _MAX_EXACT:
        return _assign_nearest_first(cost_TF, size, spare)
    # Each fold has `size` seats, and one more that costs so much that no more of these are taken than must be.
    seats_TS = np.repeat(cost_TF, size, axis=1)
    extra_TF = cost_TF + (cost_TF.max() + 1.0) * num_tiles
    fold_of_seat = np.concatenate([np.repeat(np.arange(num_folds), size), np.arange(num_folds)])
    tiles, seats = linear_sum_assignment(np.concatenate([seats_TS, extra_TF], axis=1))
    fold_T = np.empty(num_tiles, np.int64)
    fold_T[tiles] = fold_of_seat[seats]
    return fold_T


def _assign_nearest_first(cost_TF: npt.NDArray[np.float64], size: int, spare: int) -> Folds:
    num_tiles, num_folds = cost_TF.shape
    fold_T = np.full(num_tiles, -1, np.int64)
    taken_F = [0] * num_folds
    for pair in np.argsort(cost_TF, axis=None, kind="stable").tolist():
        t, f = divmod(pair, num_folds)
        if fold_T[t] >= 0 or taken_F[f] > size or (taken_F[f] == size and spare == 0):
            continue
        spare -= taken_F[f] == size
        fold_T[t] = f
        taken_F[f] += 1
    return fold_T


def _spread(fold_T: Folds, centres_T2: Centres, folds: Sequence[int]) -> float:
    """Squared distances of tiles to the middle of their fold, as a share of those to the middle of all."""
    total = float(((centres_T2 - centres_T2.mean(0)) ** 2).sum())
    parts = [centres_T2[fold_T == f] for f in folds]
    return sum(float(((part - part.mean(0)) ** 2).sum()) for part in parts) / max(total, 1e-12)


def _missing(pixels_TK: Pixels, fold_T: Folds, num_folds: int) -> float:
    """Penalty for classes that a fold cannot learn, and for classes in fewer folds than there could be."""
    present_TK = pixels_TK > 0
    holds_FK = np.stack([present_TK[fold_T == f].any(0) for f in range(num_folds)])
    tiles_K, folds_K = present_TK.sum(0), holds_FK.sum(0)
    lost = ((folds_K == 1) & (tiles_K > 1)).sum()
    return float(_LOST * lost + _UNSEEN * (np.minimum(tiles_K, num_folds) - folds_K).sum())


def _with_classes_spread(pixels_TK: Pixels, fold_T: Folds, num_folds: int, score: Callable[[Folds], float]) -> Folds:
    """Swap tiles between folds as long as that brings classes to folds that lack them, at a price worth it."""
    present_TK = pixels_TK > 0
    best = score(fold_T)
    while True:
        holds_FK = np.stack([present_TK[fold_T == f].any(0) for f in range(num_folds)])
        swaps = []
        for k in np.flatnonzero(holds_FK.sum(0) < np.minimum(present_TK.sum(0), num_folds)).tolist():
            for holder in np.flatnonzero(present_TK[:, k]).tolist():
                for other in np.flatnonzero(~holds_FK[fold_T, k]).tolist():
                    swapped_T = fold_T.copy()
                    swapped_T[[holder, other]] = fold_T[[other, holder]]
                    swaps.append((score(swapped_T), swapped_T))
        better, swapped_T = min(swaps, key=lambda swap: swap[0], default=(best, fold_T))
        if better >= best:
            return fold_T
        best, fold_T = better, swapped_T
