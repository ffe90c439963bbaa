"""Scores with intervals over tiles, against scikit-learn on pixels and a bootstrap written out as a loop."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from napari_glacier.core.models.bootstrap import score_tiles

NAMES = ("background", "glacier")


def _tiles(num_tiles, classes=2):
    rng = np.random.default_rng(1)
    truths = [rng.choice(classes, 300, p=rng.dirichlet(np.full(classes, 2.0))) for _ in range(num_tiles)]
    return [
        (t, np.where(rng.random(300) < 0.8, t, rng.integers(0, classes, 300)), rng.random(300) < 0.7) for t in truths
    ]


def _counts(tiles):
    labels = range(len(NAMES))
    return np.array(
        [
            [oracle.confusion_matrix(truth[k], predicted[k], labels=labels) for k in (slice(None), valid)]
            for truth, predicted, valid in tiles
        ]
    )


def _scores(tiles, only_valid):
    truth, predicted = (np.concatenate([t[k][t[2] | (not only_valid)] for t in tiles]) for k in (0, 1))
    return [
        oracle.matthews_corrcoef(truth, predicted),
        *oracle.jaccard_score(truth, predicted, labels=[0, 1], average=None),
        *oracle.f1_score(truth, predicted, labels=[0, 1], average=None),
    ]


@pytest.mark.parametrize("key", ["all_pixels", "valid_pixels"])
def test_values_and_intervals_equal_a_bootstrap_of_pixels(key):
    tiles = _tiles(6)
    rows = score_tiles(_counts(tiles), NAMES, draws=80, level=0.9, seed=5)[key]
    assert [(row.score, row.class_name) for row in rows] == [
        ("mcc", None), *(("iou", name) for name in NAMES), *(("f1", name) for name in NAMES)
    ]  # fmt: skip
    np.testing.assert_allclose([row.value for row in rows], _scores(tiles, key == "valid_pixels"), atol=1e-9)
    chosen = np.random.default_rng(5).integers(6, size=(80, 6))
    drawn = [_scores([tiles[n] for n in numbers], key == "valid_pixels") for numbers in chosen]
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    np.testing.assert_allclose([row.low for row in rows], low, atol=1e-9)
    np.testing.assert_allclose([row.high for row in rows], high, atol=1e-9)


def test_one_tile_has_scores_and_no_interval():
    rows = score_tiles(_counts(_tiles(1)), NAMES)["all_pixels"]
    assert rows[0].value > 0
    assert {(row.low, row.high) for row in rows} == {(None, None)}


def test_an_absent_class_has_no_score():
    counts_TVKK = np.zeros((3, 2, 2, 2), np.int64)
    counts_TVKK[..., 0, 0] = 10
    rows = {(row.score, row.class_name): row for row in score_tiles(counts_TVKK, NAMES, draws=20)["all_pixels"]}
    assert rows["iou", "glacier"].as_dict() == {
        "score": "iou", "class_name": "glacier", "value": None, "low": None, "high": None
    }  # fmt: skip
    assert rows["iou", "background"].value == 1.0
