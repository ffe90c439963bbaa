"""Segmentation metrics from one streaming confusion matrix.

All means skip classes that occur neither in the truth nor in the prediction.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX

Float64Array = npt.NDArray[np.float64]


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs, and the metrics that follow from them.

    Parameters
    ----------
    num_classes : int

    Attributes
    ----------
    counts : int64 array, shape (num_classes, num_classes)
        Rows are the truth, columns the prediction.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(
        self,
        predicted_HW: npt.NDArray[np.integer],
        truth_HW: npt.NDArray[np.integer],
        valid_HW: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Count the pixels of one image; pixels ignored in the truth or not valid are left out."""
        counted = truth_HW != IGNORE_INDEX
        if valid_HW is not None:
            counted = counted & valid_HW
        pair = truth_HW[counted].astype(np.int64) * self.num_classes + predicted_HW[counted]
        self.counts += np.bincount(pair, minlength=self.num_classes**2).reshape(self.counts.shape)

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another matrix of the same size."""
        self.counts += other.counts

    def mcc(self) -> float:
        """Multiclass Matthews correlation R_K (Gorodkin 2004); 0 where it is undefined, as scikit-learn has it."""
        return float(mcc_of(self.counts))

    def per_class_mcc(self) -> Float64Array:
        """Matthews correlation of each class against the rest; nan for an absent class."""
        tp, fp, fn, tn = self._one_against_rest()
        spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        value = np.divide(tp * tn - fp * fn, np.sqrt(spread), out=np.zeros_like(tp), where=spread > 0)
        return np.where(tp + fp + fn > 0, value, np.nan)

    def iou(self) -> Float64Array:
        """Intersection over union of each class; nan for an absent class."""
        return iou_of(self.counts)

    def f1(self) -> Float64Array:
        """F1 (Dice) of each class; nan for an absent class."""
        tp, fp, fn, _ = self._one_against_rest()
        return _ratio(2 * tp, 2 * tp + fp + fn)

    def precision(self) -> Float64Array:
        """Precision of each class: 0 where it was never predicted, nan where it is absent."""
        tp, fp, fn, _ = self._one_against_rest()
        return np.where(tp + fp + fn > 0, np.nan_to_num(_ratio(tp, tp + fp)), np.nan)

    def recall(self) -> Float64Array:
        """Recall of each class: 0 where it never occurs but was predicted, nan where it is absent."""
        tp, fp, fn, _ = self._one_against_rest()
        return np.where(tp + fp + fn > 0, np.nan_to_num(_ratio(tp, tp + fn)), np.nan)

    def accuracy(self) -> float:
        """Share of pixels with the right class."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else 0.0

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Plain numbers for a report: means over the classes present, and each class by name (None where absent)."""
        per_class = {
            "mcc": self.per_class_mcc(),
            "iou": self.iou(),
            "f1": self.f1(),
            "precision": self.precision(),
            "recall": self.recall(),
        }
        means = {key: _mean_present(value) for key, value in per_class.items() if key != "mcc"}
        classes = {
            name: {key: _plain(value[k]) for key, value in per_class.items()} | {"pixels": int(self.counts[k].sum())}
            for k, name in enumerate(class_names)
        }
        return {"mcc": self.mcc(), **means, "accuracy": self.accuracy(), "per_class": classes}

    def _one_against_rest(self) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
        counts = self.counts.astype(np.float64)
        tp = np.diag(counts)
        fp, fn = counts.sum(0) - tp, counts.sum(1) - tp
        return tp, fp, fn, counts.sum() - tp - fp - fn


def mcc_of(counts_xKK: npt.NDArray[Any]) -> Float64Array:
    """Multiclass Matthews correlation of each of many confusion matrices, shape (…, K, K); see `ConfusionMatrix.mcc`.

    Returns
    -------
    float64 array, shape (…)
    """
    counts = counts_xKK.astype(np.float64)
    truth, predicted, total = counts.sum(-1), counts.sum(-2), counts.sum((-1, -2))
    covariance = np.trace(counts, axis1=-2, axis2=-1) * total - (truth * predicted).sum(-1)
    spread = (total**2 - (truth**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    root = np.sqrt(np.maximum(spread, 0))
    return np.asarray(np.divide(covariance, root, out=np.zeros_like(root), where=spread > 0), np.float64)


def iou_of(counts_xKK: npt.NDArray[Any]) -> Float64Array:
    """Intersection over union of each class in each of many confusion matrices, shape (…, K); nan where absent."""
    counts = counts_xKK.astype(np.float64)
    tp = np.diagonal(counts, axis1=-2, axis2=-1)
    return _ratio(tp, counts.sum(-1) + counts.sum(-2) - tp)


def _ratio(numerator: Float64Array, denominator: Float64Array) -> Float64Array:
    out = np.full_like(numerator, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _mean_present(values: Float64Array) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else 0.0


def _plain(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
