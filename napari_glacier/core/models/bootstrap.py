"""Scores of a map over many tiles, and how sure they are: a bootstrap over tiles.

Percentile intervals (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13): tiles are drawn with
replacement, their confusion matrices are summed, and the scores are taken of the sums. Tiles, and not pixels, are
drawn, since the pixels of a tile resemble one another. What another training run would give is not in the interval.

Legend: T tiles, B draws, V sets of pixels (all, valid), K classes, R scores; ... any axes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.metrics import iou_of, mcc_of

PIXEL_SETS = ("all_pixels", "valid_pixels")
DRAWS, LEVEL = 10_000, 0.95
# With fewer tiles than this the interval itself is rough.
FEW_TILES = 10
# A class must be there in so many of the draws for an interval to be given.
_LEAST_DEFINED = 0.95
_DRAWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its interval.

    Attributes
    ----------
    score : {"mcc", "iou", "f1"}
    class_name : str or None
        None for the score over all classes.
    value : float or None
        None where the class is absent from truth and map.
    low, high : float or None
        None where there are too few tiles, or too few that hold the class.
    """

    score: str
    class_name: str | None
    value: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def score_tiles(
    counts_TVKK: npt.NDArray[np.int64],
    class_names: Sequence[str],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, tuple[Score, ...]]:
    """Score the summed counts of all tiles, with intervals over the tiles.

    Parameters
    ----------
    counts_TVKK : int64 array, shape (T, 2, K, K)
        Confusion counts of each tile, over all and over valid pixels.
    class_names : sequence of str
    draws, level, seed
        Of the bootstrap.

    Returns
    -------
    dict of str to tuple of Score
        By set of pixels (`PIXEL_SETS`): the MCC, then IoU and F1 of each class.
    """
    total_VR = scores_of(counts_TVKK.sum(0))
    drawn_BVR = None
    if len(counts_TVKK) > 1:
        drawn_BVR = np.concatenate([scores_of(sums) for sums in drawn_sums(counts_TVKK, draws, seed)])
    found = {}
    for v, key in enumerate(PIXEL_SETS):
        found[key] = tuple(
            Score(
                score,
                class_name,
                plain(total_VR[v, r]),
                *((None, None) if drawn_BVR is None else interval(drawn_BVR[:, v, r], level)),
            )
            for r, (score, class_name) in enumerate(score_titles(class_names))
        )
    return found


def score_titles(class_names: Sequence[str]) -> list[tuple[str, str | None]]:
    """Names of the scores that `scores_of` gives: which score, and of which class."""
    return [("mcc", None), *(("iou", name) for name in class_names), *(("f1", name) for name in class_names)]


def scores_of(counts_xKK: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """MCC, IoU of each class, F1 of each class, in the order of `score_titles`: shape (…, 1 + 2 K)."""
    iou = iou_of(counts_xKK)
    # 2 TP / (2 TP + FP + FN), in terms of TP / (TP + FP + FN).
    return np.concatenate([mcc_of(counts_xKK)[..., None], iou, 2 * iou / (1 + iou)], axis=-1)


def drawn_sums(counts_Tx: npt.NDArray[np.int64], draws: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    """Summed counts of tiles drawn with replacement, in parts of shape (b, …)."""
    num_tiles = len(counts_Tx)
    rng = np.random.default_rng(seed)
    flat = counts_Tx.reshape(num_tiles, -1).astype(np.float64)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        chosen = rng.integers(num_tiles, size=(min(_DRAWS_AT_ONCE, draws - start), num_tiles))
        times_bT = np.stack([np.bincount(row, minlength=num_tiles) for row in chosen])
        yield (times_bT @ flat).reshape(-1, *counts_Tx.shape[1:])


def interval(values_B: npt.NDArray[np.float64], level: float) -> tuple[float | None, float | None]:
    """Percentile interval of the draws; None where too many of them have no value."""
    known = values_B[~np.isnan(values_B)]
    if len(known) < _LEAST_DEFINED * len(values_B):
        return None, None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def plain(value: np.float64) -> float | None:
    """A number for a report; None for nan."""
    return None if np.isnan(value) else float(value)
