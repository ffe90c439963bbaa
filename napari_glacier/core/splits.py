"""Which tiles are held out for validation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import ConfigError

_DRAWS = 500


def hold_out(
    pixels_TK: npt.NDArray[np.integer[Any]], fraction: float, seed: int, candidates: Sequence[int] | None = None
) -> list[int]:
    """Choose whole tiles for validation, stratified by which classes they hold.

    Of many seeded draws the one is taken whose tiles hold each class about as often, and in about the same
    amount, as all tiles do. Every class stays in the training tiles; a class that two tiles or more hold is
    in the validation tiles too, where that is possible.

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
    present_TK = pixels_TK > 0
    all_presence_K = present_TK.mean(0)
    all_mix_K = pixels_TK.sum(0) / max(int(pixels_TK.sum()), 1)
    shareable_K = present_TK.sum(0) > 1
    rng = np.random.default_rng([seed, num_tiles])
    best: tuple[float, list[int]] | None = None
    for _ in range(_DRAWS):
        chosen_T = np.zeros(num_tiles, bool)
        chosen_T[rng.choice(eligible, num_held_out, replace=False)] = True
        held_TK = pixels_TK[chosen_T]
        presence_K = present_TK[chosen_T].mean(0)
        mix_K = held_TK.sum(0) / max(int(held_TK.sum()), 1)
        lost_K = present_TK.any(0) & ~present_TK[~chosen_T].any(0)
        unseen_K = shareable_K & (presence_K == 0)
        miss = np.abs(presence_K - all_presence_K).sum() + np.abs(mix_K - all_mix_K).sum()
        miss += 1000.0 * lost_K.sum() + 10.0 * unseen_K.sum()
        if best is None or miss < best[0]:
            best = (float(miss), np.flatnonzero(chosen_T).tolist())
    assert best is not None
    return best[1]
