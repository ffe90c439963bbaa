import numpy as np
import pytest
from sklearn import metrics as oracle

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.metrics import ConfusionMatrix


def _filled(truth, predicted, num_classes):
    matrix = ConfusionMatrix(num_classes)
    for part in np.array_split(np.arange(truth.size), 3):
        matrix.update(predicted.ravel()[part], truth.ravel()[part])
    return matrix


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_classes", [2, 4])
def test_metrics_equal_scikit_learn(seed, num_classes):
    rng = np.random.default_rng(seed)
    # Skewed draws leave classes rare or absent in some of the seeds.
    weights = rng.dirichlet(np.full(num_classes, 0.4))
    truth = rng.choice(num_classes, 5000, p=weights).astype(np.uint8)
    predicted = np.where(rng.random(5000) < 0.7, truth, rng.integers(0, num_classes, 5000)).astype(np.uint8)
    matrix = _filled(truth, predicted, num_classes)
    labels = list(range(num_classes))
    present = sorted(set(truth) | set(predicted))
    np.testing.assert_array_equal(matrix.counts, oracle.confusion_matrix(truth, predicted, labels=labels))
    assert matrix.mcc() == pytest.approx(oracle.matthews_corrcoef(truth, predicted), abs=1e-9)
    for k in present:
        expected = oracle.matthews_corrcoef(truth == k, predicted == k)
        assert matrix.per_class_mcc()[k] == pytest.approx(expected, abs=1e-9)
    expected_iou = oracle.jaccard_score(truth, predicted, labels=present, average=None, zero_division=0)
    np.testing.assert_allclose(matrix.iou()[present], expected_iou, atol=1e-9)
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(truth, predicted, labels=present, zero_division=0)
    np.testing.assert_allclose(matrix.precision()[present], precision, atol=1e-9)
    np.testing.assert_allclose(matrix.recall()[present], recall, atol=1e-9)
    np.testing.assert_allclose(matrix.f1()[present], f1, atol=1e-9)
    assert matrix.summary([str(k) for k in labels])["iou"] == pytest.approx(expected_iou.mean(), abs=1e-9)


@pytest.mark.filterwarnings("ignore:A single label was found")  # scikit-learn's own, about this very case
@pytest.mark.parametrize(("truth", "predicted"), [([0] * 6, [0] * 6), ([0] * 6, [1] * 6), ([0, 1] * 3, [1] * 6)])
def test_degenerate_cases_equal_scikit_learn(truth, predicted):
    truth, predicted = np.array(truth, np.uint8), np.array(predicted, np.uint8)
    assert _filled(truth, predicted, 4).mcc() == pytest.approx(oracle.matthews_corrcoef(truth, predicted), abs=1e-12)


def test_an_absent_class_is_not_counted():
    matrix = _filled(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 4)
    assert np.isnan(matrix.iou()[[2, 3]]).all()
    summary = matrix.summary(["background", "glacier", "debris", "lake"])
    assert summary["iou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert summary["per_class"]["lake"]["iou"] is None


def test_ignored_and_invalid_pixels_are_left_out():
    matrix = ConfusionMatrix(2)
    truth = np.array([[0, 1, IGNORE_INDEX, 1]], np.uint8)
    predicted = np.array([[0, 1, 1, 0]], np.uint8)
    matrix.update(predicted, truth, np.array([[True, True, True, False]]))
    assert matrix.counts.tolist() == [[1, 0], [0, 1]]


def test_nothing_counted_is_zero_not_an_error():
    assert ConfusionMatrix(4).mcc() == 0
    assert ConfusionMatrix(4).summary(list("abcd"))["iou"] == 0
