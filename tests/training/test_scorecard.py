"""The yardstick of a cross-validation: calibration, tables, and two of them compared by their maps."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.ndimage import binary_dilation
from skimage.measure import label as measure_label
from skimage.measure import regionprops
from skimage.segmentation import find_boundaries
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, matthews_corrcoef

from napari_glacier.cli import main
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.config import RunConfig
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.raster import write_mask
from napari_glacier.core.runfiles import RunFolder
from training.optim import Progress
from training.scorecard import calibration_of, intervals, scorecard, write_scorecard
from training.thresholds import PixelSample

SCHEME = get_scheme("glacier2")


def _sample(num_px=20_000):
    """Pixels whose probabilities are too bold: the odds of what is true are the root of the odds predicted."""
    rng = np.random.default_rng(0)
    odds = np.exp(rng.normal(0, 2, num_px))
    truth = (rng.random(num_px) < odds / (1 + odds)).astype(np.uint8)
    bold = (odds**2 / (1 + odds**2)).astype(np.float32)
    sample = PixelSample(2, num_px)
    sample.add(np.stack([1 - bold, bold])[:, None], truth[None], np.ones((1, num_px), bool))
    return sample, bold.astype(np.float16).astype(np.float32), truth


def test_the_calibration_is_that_of_scikit_learn():
    sample, bold, truth = _sample()
    found = calibration_of(sample, SCHEME)["glacier"]
    observed, predicted = calibration_curve(truth, bold, n_bins=15)
    np.testing.assert_allclose(found["predicted"], predicted, atol=1e-3)
    np.testing.assert_allclose(found["observed"], observed, atol=1e-3)
    assert found["brier"] == pytest.approx(brier_score_loss(truth, bold), abs=1e-6)
    weights = np.asarray(found["pixels"]) / len(truth)
    assert found["ece"] == pytest.approx(float(weights @ np.abs(predicted - observed)), abs=1e-4)
    assert 0.05 < found["ece"] < 0.2


def _metrics(num_tiles=12):
    rng = np.random.default_rng(2)
    counts_TVKK = rng.integers(50, 500, (num_tiles, 2, 2, 2))
    record = {"mcc": 0.5, "per_class": {"background": {"iou": 0.8}, "glacier": {"iou": None}}}
    tiles = [
        {
            "tile": f"tile_{t:02d}",
            "fold": t % 5 + 1,
            "all_pixels": {**record, "mcc": t / num_tiles},
            "valid_pixels": record,
        }
        for t in range(num_tiles)
    ]
    return {
        "all_pixels": record,
        "valid_pixels": record,
        "tiles": tiles,
        "intervals": intervals(counts_TVKK, SCHEME.class_names, draws=100),
        "calibration": calibration_of(_sample()[0], SCHEME),
    }


@pytest.mark.parametrize("num_tiles", [1, 3, 12])
def test_tables_and_picture_hold_what_was_measured(tmp_path, num_tiles):
    metrics = json.loads(json.dumps(_metrics(num_tiles), allow_nan=False))
    text = scorecard(metrics)
    mcc = next(row for row in metrics["intervals"]["all_pixels"] if row["score"] == "mcc")
    line = next(line for line in text.splitlines() if "all pixels" in line and "MCC" in line)
    assert f"{mcc['value']:.4f}" in line
    assert ("to" in line) == (num_tiles > 1)
    assert ("are few" in text) == (num_tiles < 10)
    assert f"{metrics['calibration']['glacier']['ece']:.4f}" in text
    assert sum(line.startswith("tile_") for line in text.splitlines()) == num_tiles
    write_scorecard(tmp_path, metrics)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["counted"], row["score"], row["class_name"]) for row in rows[:3]] == [
        ("all_pixels", "mcc", ""), ("all_pixels", "iou", "background"), ("all_pixels", "iou", "glacier")
    ]  # fmt: skip
    assert float(rows[0]["value"]) == mcc["value"]
    with (tmp_path / "calibration.csv").open(newline="") as file:
        bins = [row for row in csv.DictReader(file) if row["class_name"] == "glacier"]
    assert sum(int(row["pixels"]) for row in bins) == 20_000
    with Image.open(tmp_path / "scorecard.png") as picture:
        assert picture.width > 1000


def _cross_validation(folder, dataset, folds, share_right, seed):
    """A finished run folder with maps in which a share of the pixels is right."""
    run = RunFolder(folder)
    (folder / "oof").mkdir(parents=True)
    (folder / "folds.yaml").write_text(yaml.safe_dump({"folds": folds}))
    run.metrics_path.write_text(json.dumps({"folds": [], "tta": "off"}))
    run.append_event("done", message="so it ended")
    rng, maps = np.random.default_rng(seed), {}
    for tile in dataset.tiles:
        truth = dataset.read_mask(tile)
        other = rng.integers(0, dataset.scheme.num_classes, truth.shape)
        maps[tile.id] = np.where(rng.random(truth.shape) < share_right, truth, other).astype(np.uint8)
        write_mask(folder / "oof" / tile.name, maps[tile.id], dataset.scheme, tile.georef)
    return maps


@pytest.fixture
def pair(make_dataset, tmp_path):
    dataset = open_dataset(make_dataset())
    folds = [[tile.id for tile in dataset.tiles[:2]], [tile.id for tile in dataset.tiles[2:]]]
    before = _cross_validation(tmp_path / "a", dataset, folds, 0.7, 0)
    after = _cross_validation(tmp_path / "b", dataset, folds[::-1], 0.9, 1)
    return dataset, before, after


def test_two_cross_validations_are_compared_by_their_maps(pair, tmp_path, capsys):
    dataset, *maps = pair
    arguments = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--data", str(dataset.root), "--out-of-fold"]
    assert main([*arguments, "--json", str(tmp_path / "match.json"), "--draws", "200"]) == 0
    assert "champion    a" in capsys.readouterr().out
    found = json.loads((tmp_path / "match.json").read_text())
    for key in ("all_pixels", "valid_pixels"):
        keep = {t.id: dataset.read_valid(t) | (key == "all_pixels") for t in dataset.tiles}
        truth = np.concatenate([dataset.read_mask(t)[keep[t.id]] for t in dataset.tiles])
        scores = [
            matthews_corrcoef(truth, np.concatenate([of[t.id][keep[t.id]] for t in dataset.tiles])) for of in maps
        ]
        row = found[key][0]
        assert [row["champion"], row["challenger"]] == pytest.approx(scores, abs=1e-9)
        assert 0 < row["low"] <= row["difference"] <= row["high"]


def test_runs_that_cannot_be_compared_are_refused(pair, tmp_path, capsys):
    dataset, *_ = pair
    arguments = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--data", str(dataset.root), "--out-of-fold"]
    assert main([*arguments, "--tta", "8"]) != 0
    assert "leave out --tiles and --tta" in capsys.readouterr().err
    next((tmp_path / "b" / "oof").glob("*.tif")).unlink()
    assert main(arguments) != 0
    assert "is missing" in capsys.readouterr().err
    ids = [tile.id for tile in dataset.tiles]
    (tmp_path / "b" / "folds.yaml").write_text(yaml.safe_dump({"folds": [ids[::2], ids[1::2]]}))
    assert main(arguments) != 0
    assert "held out other tiles" in capsys.readouterr().err
    RunFolder(tmp_path / "b").append_event("failed", message="no")
    assert main(arguments) != 0
    assert "is not a finished cross-validation" in capsys.readouterr().err


def test_the_error_gallery_counts_every_wrong_pixel_once(pair, tmp_path, monkeypatch, capsys):
    dataset, maps, _ = pair
    tile, K = dataset.tiles[1], dataset.scheme.num_classes
    piece = (slice(20, 45), slice(30, 55))  # a large one among the specks
    maps[tile.id][piece] = (dataset.read_mask(tile)[piece] + 1) % K
    write_mask(tmp_path / "a" / "oof" / tile.name, maps[tile.id], dataset.scheme, tile.georef)
    script = Path(__file__).parents[2] / "scripts" / "error_gallery.py"
    out = tmp_path / "pictures"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "a"), "--data", str(dataset.root), "--out", str(out)])
    names = runpy.run_path(str(script), run_name="__main__")
    with (out / "causes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    at_border, in_piece = [], []
    for tile in dataset.tiles:
        truth, valid = dataset.read_mask(tile), dataset.read_valid(tile)
        own = [row for row in rows if row["tile"] == tile.id]
        wrong = (maps[tile.id] != truth) & valid
        assert sum(int(row["pixels"]) for row in own) == valid.sum()
        assert sum(int(row["missed"]) for row in own) == (wrong & (maps[tile.id] == 0)).sum()
        assert sum(int(row[kind]) for row in own for kind in ("false", "missed", "confused")) == wrong.sum()
        border = find_boundaries(truth, connectivity=1, mode="thick")  # one pixel to each side of a border
        border = valid & binary_dilation(border)
        assert int(next(row for row in own if row["cause"] == "border of the labels")["pixels"]) == border.sum()
        at_border.append(border)
        regions = regionprops(measure_label(wrong, connectivity=1))
        in_piece.append(np.zeros_like(wrong))
        for region in regions:
            in_piece[-1][tuple(region.coords.T)] = 500 <= region.area < 2000
        with Image.open(out / f"{tile.id}.png") as picture:
            assert picture.width == 1600
    assert "valid pixels are wrong" in capsys.readouterr().out
    with (out / "ladders.csv").open(newline="") as file:
        rungs = {(row["ladder"], row["part"]): row for row in csv.DictReader(file)}
    truth, valid = (
        np.stack([read(tile) for tile in dataset.tiles]) for read in (dataset.read_mask, dataset.read_valid)
    )
    mapped = np.stack([maps[tile.id] for tile in dataset.tiles])
    parts = {("cause", "border of the labels"): at_border, ("wrong px in a piece", "500 to 1,999"): in_piece}
    for part, where in parts.items():
        mended = np.where(where, truth, mapped)
        assert 0 < (mended != mapped).sum() < (truth != mapped).sum()
        for key, counted in (("all", valid | True), ("valid", valid)):
            score = matthews_corrcoef(truth[counted], mended[counted])
            assert float(rungs[part][f"mcc_{key}_mended"]) == pytest.approx(score, abs=1e-9)
    moved = names["_shifted"](truth[0], np.roll(truth[0], (1, -2), axis=(0, 1)), np.ones_like(valid[0]), K)
    assert [(down, right) for down, right in np.ndindex(5, 5) if np.trace(moved[down, right]) == 60 * 60] == [(3, 0)]


def test_nothing_is_chosen_on_the_validation_tiles_where_nothing_is_monitored():
    progress = Progress("none", patience=1, min_delta=0.1)
    assert [progress.end_epoch(epoch, value) for epoch, value in ((1, 0.9), (2, 0.1), (3, 0.2))] == [True] * 3
    assert not progress.exhausted
    assert progress.best_epoch == 3
    values = {"data": {"train": "tiles"}, "train": {"monitor": "none"}}
    with pytest.raises(ValueError, match=r"optim\.schedule=cosine"):
        RunConfig.model_validate(values)
    assert RunConfig.model_validate({**values, "optim": {"schedule": "cosine"}}).train.monitor == "none"
