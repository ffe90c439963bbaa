"""Is one model better than another? Scores of both on the same tiles, and how sure the difference is.

The interval of a difference comes from a paired bootstrap over tiles (`core.models.bootstrap`): the same tiles are
drawn for both models, and the difference of the scores is taken.

Legend: T tiles, B draws, S models (champion, challenger), V sets of pixels (all, valid), K classes, H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme
from napari_glacier.core.metrics import ConfusionMatrix, mcc_of
from napari_glacier.core.models.bootstrap import (
    DRAWS,
    FEW_TILES,
    LEVEL,
    PIXEL_SETS,
    drawn_sums,
    interval,
    plain,
    score_titles,
    scores_of,
)

# A score that falls by less is shown as the same number.
_LEAST_LOSS = 0.0005

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
            few = len(self.tiles) < FEW_TILES
            sure = "clearly" if self.is_clear(row) else "on few tiles" if few else "perhaps by chance"
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
    drawn = [scores_of(sums) for sums in drawn_sums(counts_TSVKK, draws, seed)] if len(tiles) > 1 else []
    rows = {}
    for v, key in enumerate(PIXEL_SETS):
        of_set = []
        scores_SR = scores_of(total_SVKK)[:, v]
        differences_BR = (
            np.concatenate([part[:, 1, v] - part[:, 0, v] for part in drawn])
            if drawn
            else np.full((1, scores_SR.shape[-1]), np.nan)
        )
        for r, (score, class_name) in enumerate(score_titles(class_names)):
            before, after = (plain(value) for value in scores_SR[:, r])
            difference = None if before is None or after is None else after - before
            low, high = interval(differences_BR[:, r], level)
            of_set.append(Row(score, class_name, before, after, difference, low, high))
        rows[key] = tuple(of_set)
    return Comparison(tuple(class_names), tuple(tiles), rows, level, draws, seed)
