"""Comparisons of two models, against scikit-learn on pixels and a bootstrap written out as a loop."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.models.comparison import change_map, compare, count_tile

NAMES = ("background", "glacier", "debris")


def _tiles(num_tiles, seed=0, shape=(20, 30), right=(0.6, 0.8)):
    """Truth, champion, challenger and validity of tiles; the share of right pixels differs from tile to tile."""
    rng = np.random.default_rng(seed)
    tiles = []
    for _ in range(num_tiles):
        truth = rng.choice(3, shape, p=rng.dirichlet(np.full(3, 2.0))).astype(np.uint8)
        maps = [
            np.where(rng.random(shape) < share + rng.normal(0, 0.05), truth, rng.integers(0, 3, shape)).astype(np.uint8)
            for share in right
        ]
        valid = rng.random(shape) < 0.9
        truth[rng.random(shape) < 0.05] = IGNORE_INDEX
        tiles.append((truth, *maps, valid))
    return tiles


def _counted(tiles):
    return [
        count_tile(str(number), before, after, truth_HW=truth, valid_HW=valid, num_classes=3)
        for number, (truth, before, after, valid) in enumerate(tiles)
    ]


def _oracle_scores(tiles, which, only_valid):
    counted = [truth != IGNORE_INDEX for truth, *_ in tiles]
    if only_valid:
        counted = [where & tile[3] for where, tile in zip(counted, tiles, strict=True)]
    truth = np.concatenate([tile[0][where] for tile, where in zip(tiles, counted, strict=True)])
    predicted = np.concatenate([tile[which][where] for tile, where in zip(tiles, counted, strict=True)])
    labels = [0, 1, 2]
    return np.array(
        [
            oracle.matthews_corrcoef(truth, predicted),
            *oracle.jaccard_score(truth, predicted, labels=labels, average=None),
            *oracle.f1_score(truth, predicted, labels=labels, average=None),
        ]
    )


def test_scores_equal_scikit_learn_over_all_pixels():
    tiles = _tiles(4)
    comparison = compare(_counted(tiles), NAMES, draws=10)
    for key, only_valid in (("all_pixels", False), ("valid_pixels", True)):
        rows = comparison.rows[key]
        assert [(row.score, row.class_name) for row in rows] == [
            ("mcc", None), *(("iou", name) for name in NAMES), *(("f1", name) for name in NAMES)
        ]  # fmt: skip
        before, after = _oracle_scores(tiles, 1, only_valid), _oracle_scores(tiles, 2, only_valid)
        np.testing.assert_allclose([row.champion for row in rows], before, atol=1e-9)
        np.testing.assert_allclose([row.challenger for row in rows], after, atol=1e-9)
        np.testing.assert_allclose([row.difference for row in rows], after - before, atol=1e-9)


def test_intervals_equal_a_bootstrap_of_pixels_written_as_a_loop():
    tiles = _tiles(5, seed=3)
    draws, seed = 60, 7
    comparison = compare(_counted(tiles), NAMES, draws=draws, level=0.8, seed=seed)
    chosen = np.random.default_rng(seed).integers(len(tiles), size=(draws, len(tiles)))
    differences = []
    for numbers in chosen:
        drawn = [tiles[number] for number in numbers]
        differences.append(_oracle_scores(drawn, 2, True) - _oracle_scores(drawn, 1, True))
    low, high = np.quantile(differences, [0.1, 0.9], axis=0)
    rows = comparison.rows["valid_pixels"]
    np.testing.assert_allclose([row.low for row in rows], low, atol=1e-9)
    np.testing.assert_allclose([row.high for row in rows], high, atol=1e-9)


def test_draws_are_paired_so_that_equal_models_have_no_interval_to_speak_of():
    tiles = [(truth, before, before, valid) for truth, before, _, valid in _tiles(6)]
    comparison = compare(_counted(tiles), NAMES, draws=200)
    for row in comparison.rows["all_pixels"]:
        assert (row.difference, row.low, row.high) == (0, 0, 0)
        assert not row.regresses
        assert not comparison.is_clear(row)


def test_the_same_seed_gives_the_same_intervals_and_draws_do_not_depend_on_their_parts(monkeypatch):
    counted = _counted(_tiles(5))
    whole = compare(counted, NAMES, draws=700, seed=1).as_dict()
    monkeypatch.setattr("napari_glacier.core.models.bootstrap._DRAWS_AT_ONCE", 33)
    assert compare(counted, NAMES, draws=700, seed=1).as_dict() == whole
    assert compare(counted, NAMES, draws=700, seed=2).as_dict() != whole


def test_a_worse_challenger_is_warned_of_class_by_class():
    comparison = compare(_counted(_tiles(12, right=(0.9, 0.6))), NAMES, draws=300)
    assert {row.class_name for row in comparison.regressions} == {None, *NAMES}
    assert "IoU of glacier -0." in comparison.warning()
    assert "(clearly)" in comparison.warning()
    assert "few" not in comparison.caution()
    better = compare(_counted(_tiles(12, right=(0.6, 0.9))), NAMES, draws=300)
    assert not better.regressions
    assert better.warning() == ""


def test_few_tiles_are_said_to_be_few_and_one_gives_no_interval():
    worse = compare(_counted(_tiles(4, right=(0.9, 0.5))), NAMES, draws=50)
    assert worse.rows["all_pixels"][0].excludes_zero
    assert "clearly" not in worse.warning(), "four tiles make nothing clear"
    assert "4 tiles are few" in compare(_counted(_tiles(4)), NAMES, draws=50).caution()
    alone = compare(_counted(_tiles(1)), NAMES, draws=50)
    assert "no interval" in alone.caution()
    assert all(row.low is None and row.high is None for row in alone.rows["all_pixels"])


def test_an_absent_class_has_no_scores_and_a_class_of_one_tile_no_interval():
    truth, before, after, valid = _tiles(1)[0]
    without = [np.where(index == 2, 1, index).astype(np.uint8) for index in (truth, before, after)]
    rows = {
        (row.score, row.class_name): row
        for row in compare(_counted([(*without, valid)] * 3), NAMES, draws=100).rows["all_pixels"]
    }
    assert rows["iou", "debris"].champion is rows["iou", "debris"].difference is None
    mixed = compare(_counted([(*without, valid)] * 3 + [(truth, before, after, valid)]), NAMES, draws=400)
    debris = next(row for row in mixed.rows["all_pixels"] if row.class_name == "debris")
    assert debris.difference is not None
    assert debris.low is None  # in a third of the draws there is none


def test_the_map_of_changes_tells_who_is_right():
    truth = np.array([[0, 1, 2, 1, IGNORE_INDEX]], np.uint8)
    before = np.array([[0, 0, 2, 0, 1]], np.uint8)
    after = np.array([[0, 1, 1, 2, 2]], np.uint8)
    assert change_map(before, after, truth).tolist() == [[0, 1, 2, 3, 0]]
    counts = count_tile("a", before, after, truth_HW=truth, valid_HW=np.ones((1, 5), bool), num_classes=3)
    assert (counts.changed, counts.right, counts.wrong) == (3, 1, 1)


@pytest.mark.parametrize("num_tiles", [1, 3])
def test_figures_are_plain_json(num_tiles):
    import json

    figures = compare(_counted(_tiles(num_tiles)), NAMES, draws=20).as_dict()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["num_tiles"] == num_tiles
