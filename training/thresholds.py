"""Per-class thresholds that raise the Matthews correlation of predictions out of fold.

Shapes: N pixels, H rows, W columns, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme
from napari_glacier.core.metrics import ConfusionMatrix
from napari_glacier.nn.postprocess import classify

# Enough for the fourth digit of an MCC, and for a search of seconds.
_MAX_PIXELS = 1_000_000
_GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
_MIN_GAIN = 0.001
_MAX_PASSES = 4


class PixelSample:
    """Probabilities and truth of randomly chosen pixels of predicted tiles.

    Parameters
    ----------
    num_classes : int
    total_px : int
        Pixels of all tiles that will be added; of these about a million are kept.
    """

    def __init__(self, num_classes: int, total_px: int) -> None:
        self.num_classes = num_classes
        self._share = min(1.0, _MAX_PIXELS / max(total_px, 1))
        self._rng = np.random.default_rng(0)
        self._probabilities: list[npt.NDArray[np.float16]] = []
        self._truth: list[npt.NDArray[np.uint8]] = []
        self._nodata = ConfusionMatrix(num_classes)

    def add(
        self,
        probabilities_KHW: npt.NDArray[np.floating[Any]],
        truth_HW: npt.NDArray[np.uint8],
        valid_HW: npt.NDArray[np.bool_],
    ) -> None:
        """Add a tile."""
        # Nodata is background whatever the thresholds, so it is counted whole.
        self._nodata.update(np.zeros_like(truth_HW), truth_HW, ~valid_HW)
        kept_HW = valid_HW & (truth_HW != IGNORE_INDEX) & (self._rng.random(truth_HW.shape) < self._share)
        self._probabilities.append(probabilities_KHW[:, kept_HW].astype(np.float16))
        self._truth.append(truth_HW[kept_HW])

    def arrays(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Probabilities, shape (K, N), and true classes, shape (N,), of the pixels kept."""
        empty = np.empty((self.num_classes, 0), np.float16)
        probabilities_KN = np.concatenate([empty, *self._probabilities], axis=1)
        return probabilities_KN.astype(np.float32), np.concatenate([np.empty(0, np.uint8), *self._truth])

    def nodata(self) -> npt.NDArray[np.int64]:
        """Confusion counts of nodata, scaled as the pixels kept are."""
        return np.round(self._nodata.counts * self._share).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What was found.

    Attributes
    ----------
    values : mapping of class name to probability
        Empty where thresholds do not help by more than 0.001.
    mcc, mcc_without : float
        With these thresholds and with the most probable class, over all pixels kept and nodata.
    pixels : int
        Valid pixels that the search looked at.
    """

    values: Mapping[str, float]
    mcc: float
    mcc_without: float
    pixels: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "values": dict(self.values),
            "mcc": self.mcc,
            "mcc_without": self.mcc_without,
            "pixels": self.pixels,
        }


def find_thresholds(sample: PixelSample, scheme: ClassScheme) -> Thresholds:
    """Search thresholds that raise the pooled MCC, class by class on a grid of 0.05.

    Each class in turn takes the value that is best with those of the others as they are, until none changes. A
    change is made, and in the end kept, only where it raises the MCC by more than 0.001.

    Parameters
    ----------
    sample : PixelSample
    scheme : ClassScheme
    """
    probabilities_KN, truth_N = sample.arrays()
    nodata_KK = sample.nodata()

    def mcc(thresholds: Mapping[int, float]) -> float:
        matrix = ConfusionMatrix(sample.num_classes)
        matrix.update(classify(probabilities_KN[:, None], thresholds)[0], truth_N)
        matrix.counts += nodata_KK
        return matrix.mcc()

    chosen: dict[int, float] = {}
    without = best = mcc(chosen)
    for _ in range(_MAX_PASSES):
        before = dict(chosen)
        for k in range(1, sample.num_classes):
            others = {key: value for key, value in chosen.items() if key != k}
            options = [others, *({**others, k: value} for value in _GRID if chosen.get(k) != value)]
            scores = [mcc(option) for option in options]
            top = int(np.argmax(scores))
            if scores[top] > best + _MIN_GAIN:
                chosen, best = options[top], scores[top]
        if chosen == before:
            break
    for k in list(chosen):
        # What helped at first may have been overtaken by the threshold of another class.
        others = {key: value for key, value in chosen.items() if key != k}
        if (score := mcc(others)) >= best - _MIN_GAIN:
            chosen, best = others, score
    values = {scheme.class_names[k]: value for k, value in sorted(chosen.items())}
    return Thresholds(values, best, without, len(truth_N))
