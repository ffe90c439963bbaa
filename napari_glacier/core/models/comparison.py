"""Is one model better than another? Scores of both on the same tiles, and how sure the difference is.

The interval of a difference comes from a paired bootstrap over tiles (Efron & Tibshirani 1993, "An Introduction to the
Bootstrap", ch. 13: percentile intervals): tiles are drawn with replacement, the same for both models, their confusion
matrices are summed, and the difference of the scores is taken. Tiles, and not pixels, are drawn, since the pixels of
a tile resemble one another.

Legend: T tiles, B draws, S models (champion, challenger), V sets of pixels (all, valid), K classes, H rows, W columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme
from napari_glacier.core.metrics import ConfusionMatrix, iou_of, mcc_of

PIXEL_SETS = ("all_pixels", "valid_pixels")
DRAWS, LEVEL = 10_000, 0.95
# With fewer tiles than this the interval itself is rough.
FEW_TILES = 10
# A score that falls by less is shown as the same number.
_LEAST_LOSS = 0.0005
# A class must be there in so many of the draws for an interval to be given.
_LEAST_DEFINED = 0.95
_DRAWS_AT_ONCE = 500

# Apart from one another for colour-blind people, and from the colours of the classes that they lie on.
CHANGES = ClassScheme(
    "changes",
    ("same class", "now right", "now wrong", "wrong otherwise"),
    (0, 1, 2, 3),
    ("#5b6470", "#00d084", "#ff2fa0", "#f0e442"),
)


@dataclass(frozen=True, slots=True)
class TileCounts:
    """What both models make of a tile.

    Attributes
    ----------
    tile : str
    counts_SVKK : int64 array, shape (2, 2, K, K)
        Confusion counts of champion and challenger, over all and over valid pixels.
    changed, right, wrong : int
        Labelled pixels whose class differs between the two: all, those that are right now, those that were right.
    """

    tile: str
    counts_SVKK: npt.NDArray[np.int64]
    changed: int
    right: int
    wrong: int


@dataclass(frozen=True, slots=True)
class Row:
    """A score of both models.

    Attributes
    ----------
    score : {"mcc", "iou", "f1"}
    class_name : str or None
        None for the score over all classes.
    champion, challenger, difference : float or None
        None where the class is absent from the truth and from that model's map.
    low, high : float or None
        Interval of the difference; None where there are too few tiles, or too few that hold the class.
    """

    score: str
    class_name: str | None
    champion: float | None
    challenger: float | None
    difference: float | None
    low: float | None
    high: float | None

    @property
    def regresses(self) -> bool:
        """Whether the challenger is worse on these tiles, be it by chance."""
        return self.difference is not None and self.difference <= -_LEAST_LOSS

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Champion against challenger on the same tiles.

    Attributes
    ----------
    class_names : tuple of str
    tiles : tuple of TileCounts
    rows : dict of str to tuple of Row
        By set of pixels (`PIXEL_SETS`): the MCC, then IoU and F1 of each class.
    level : float
        Of the intervals.
    draws, seed : int
        Of the bootstrap.
    """

    class_names: tuple[str, ...]
    tiles: tuple[TileCounts, ...]
    rows: dict[str, tuple[Row, ...]]
    level: float
    draws: int
    seed: int

    @property
    def regressions(self) -> tuple[Row, ...]:
        """Classes that the challenger maps worse over all pixels (by IoU; F1 goes with it), and the MCC if it falls."""
        return tuple(row for row in self.rows["all_pixels"] if row.regresses and row.score != "f1")

    def is_clear(self, row: Row) -> bool:
        """Whether a difference is more than chance: its interval leaves zero out, and tiles are enough for one."""
        return row.excludes_zero and len(self.tiles) >= FEW_TILES

    def caution(self) -> str:
        """What to think of the intervals."""
        share, num = f"{self.level:.0%}", len(self.tiles)
        if num == 1:
            return "One tile gives no interval: nothing tells whether the difference holds elsewhere."
        text = f"{share} intervals by drawing {num} tiles {self.draws:,} times."
        if num < FEW_TILES:
            text += (
                f" {num} tiles are few: the intervals are wide, and rough themselves; more held-out tiles tell more."
            )
        return text

    def warning(self) -> str:
        """Which classes get worse; empty where none does."""
        worse = []
        for row in self.regressions:
            assert row.difference is not None
            sure = "clearly" if self.is_clear(row) else "perhaps by chance"
            name = "the MCC over all classes" if row.class_name is None else f"IoU of {row.class_name}"
            worse.append(f"{name} {row.difference:+.3f} ({sure})")
        return f"The challenger is worse in {', '.join(worse)}." if worse else ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "classes": list(self.class_names),
            "level": self.level,
            "draws": self.draws,
            "seed": self.seed,
            "num_tiles": len(self.tiles),
            **{key: [row.as_dict() for row in rows] for key, rows in self.rows.items()},
            "regressions": [row.class_name or "overall" for row in self.regressions],
            "tiles": [
                {
                    "tile": tile.tile,
                    "changed_px": tile.changed,
                    "now_right_px": tile.right,
                    "now_wrong_px": tile.wrong,
                    "champion_mcc": float(mcc_of(tile.counts_SVKK[0, 0])),
                    "challenger_mcc": float(mcc_of(tile.counts_SVKK[1, 0])),
                }
                for tile in self.tiles
            ],
        }


def count_tile(
    tile: str,
    champion_HW: npt.NDArray[np.uint8],
    challenger_HW: npt.NDArray[np.uint8],
    *,
    truth_HW: npt.NDArray[np.uint8],
    valid_HW: npt.NDArray[np.bool_],
    num_classes: int,
) -> TileCounts:
    """Count what two class maps make of a tile's truth (`IGNORE_INDEX` where there is none)."""
    counts_SVKK = np.zeros((2, 2, num_classes, num_classes), np.int64)
    for s, predicted_HW in enumerate((champion_HW, challenger_HW)):
        for v, where in enumerate((None, valid_HW)):
            matrix = ConfusionMatrix(num_classes)
            matrix.update(predicted_HW, truth_HW, where)
            counts_SVKK[s, v] = matrix.counts
    changes = np.bincount(change_map(champion_HW, challenger_HW, truth_HW).ravel(), minlength=4)
    return TileCounts(tile, counts_SVKK, int(changes[1:].sum()), int(changes[1]), int(changes[2]))


def change_map(
    champion_HW: npt.NDArray[np.uint8], challenger_HW: npt.NDArray[np.uint8], truth_HW: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Where two class maps differ, and who is right: indices of `CHANGES`, shape (H, W).

    Pixels without truth are left out.
    """
    changes_HW = np.zeros(truth_HW.shape, np.uint8)
    differs_HW = (champion_HW != challenger_HW) & (truth_HW != IGNORE_INDEX)
    changes_HW[differs_HW] = 3
    changes_HW[differs_HW & (challenger_HW == truth_HW)] = 1
    changes_HW[differs_HW & (champion_HW == truth_HW)] = 2
    return changes_HW


def compare(
    tiles: Sequence[TileCounts],
    class_names: Sequence[str],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compare two models by the counts of their maps of the same tiles.

    Parameters
    ----------
    tiles : sequence of TileCounts
        One or more.
    class_names : sequence of str
    draws : int
        Of the bootstrap.
    level : float
        Probability of the intervals.
    seed : int
    """
    assert tiles
    counts_TSVKK = np.stack([tile.counts_SVKK for tile in tiles])
    total_SVKK = counts_TSVKK.sum(0)
    drawn = [_scores(sums) for sums in _draws(counts_TSVKK, draws, seed)] if len(tiles) > 1 else []
    rows = {}
    for v, key in enumerate(PIXEL_SETS):
        of_set = []
        scores_SR = _scores(total_SVKK)[:, v]
        differences_BR = (
            np.concatenate([part[:, 1, v] - part[:, 0, v] for part in drawn])
            if drawn
            else np.full((1, scores_SR.shape[-1]), np.nan)
        )
        for r, (score, class_name) in enumerate(_titles(class_names)):
            before, after = (_plain(value) for value in scores_SR[:, r])
            difference = None if before is None or after is None else after - before
            low, high = _interval(differences_BR[:, r], level)
            of_set.append(Row(score, class_name, before, after, difference, low, high))
        rows[key] = tuple(of_set)
    return Comparison(tuple(class_names), tuple(tiles), rows, level, draws, seed)


def _titles(class_names: Sequence[str]) -> list[tuple[str, str | None]]:
    return [("mcc", None), *(("iou", name) for name in class_names), *(("f1", name) for name in class_names)]


def _scores(counts_xKK: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """MCC, IoU of each class, F1 of each class, in the order of `_titles`: shape (…, 1 + 2 K)."""
    iou = iou_of(counts_xKK)
    # 2 TP / (2 TP + FP + FN), in terms of TP / (TP + FP + FN).
    return np.concatenate([mcc_of(counts_xKK)[..., None], iou, 2 * iou / (1 + iou)], axis=-1)


def _draws(counts_TSVKK: npt.NDArray[np.int64], draws: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    """Summed counts of tiles drawn with replacement, in parts of shape (b, S, V, K, K)."""
    num_tiles = len(counts_TSVKK)
    rng = np.random.default_rng(seed)
    flat = counts_TSVKK.reshape(num_tiles, -1).astype(np.float64)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        chosen = rng.integers(num_tiles, size=(min(_DRAWS_AT_ONCE, draws - start), num_tiles))
        times_bT = np.stack([np.bincount(row, minlength=num_tiles) for row in chosen])
        yield (times_bT @ flat).reshape(-1, *counts_TSVKK.shape[1:])


def _interval(values_B: npt.NDArray[np.float64], level: float) -> tuple[float | None, float | None]:
    known = values_B[~np.isnan(values_B)]
    if len(known) < _LEAST_DEFINED * len(values_B):
        return None, None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _plain(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
