import json

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from napari_glacier.cli import main
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.dataset import open_dataset, write_scheme
from napari_glacier.core.doctor import examine
from napari_glacier.core.errors import DataError, PairingError, SchemeError
from napari_glacier.core.evaluation import evaluate_folders
from napari_glacier.core.raster import read_raster, write_mask, write_raster


def test_a_clean_dataset_is_clean(make_dataset, capsys):
    root = make_dataset()
    diagnosis = examine(root)
    assert diagnosis.exit_code == 0
    assert diagnosis.summary["tiles"] == 4
    assert sum(diagnosis.summary["class_mix"].values()) == pytest.approx(1)
    assert main(["doctor", str(root), "--json", str(root / "d.json")]) == 0
    assert "nothing to mend" in capsys.readouterr().out
    assert json.loads((root / "d.json").read_text())["summary"]["scheme"] == "glacier4"


def test_each_fault_is_found_in_its_tile(make_dataset):
    root = make_dataset()
    write_raster(root / "Band3" / "B4_00_01.tif", np.full((64, 64), 9, "u2"))
    path = root / "Band1" / "B2_01_00.tif"
    pixels = read_raster(path)
    raw = bytearray(path.read_bytes())
    raw[-3000:-1500] = b"\xff" * 1500
    path.write_bytes(raw)
    mask = root / "label" / "mask_01_01.tif"
    codes = read_raster(mask)[0]
    codes[5, 5:8] = 33
    write_raster(mask, codes)
    findings = examine(root, "glacier4").findings
    by_tile = {finding.tile: finding for finding in findings if finding.severity != "info"}
    assert "Band B4 has the one value 9" in by_tile["00_01"].message
    assert "damaged" in by_tile["01_00"].message
    assert "33 (3 px)" in by_tile["01_01"].message
    assert examine(root, "glacier4").exit_code == 2
    assert pixels.any()


def test_what_does_not_open_is_one_error(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 2
    assert "No tiles were found" in capsys.readouterr().out


def test_the_real_tiles_pass_with_the_note_on_classes(real_tiles):
    diagnosis = examine(real_tiles)
    assert diagnosis.exit_code == 1
    assert [f.message[:29] for f in diagnosis.findings] == ["The masks hold only [0, 255]:"]
    assert diagnosis.summary["with_mask"] == 15


def _predict_badly(root, out, share=0.2):
    dataset = open_dataset(root)
    rng = np.random.default_rng(0)
    truths, predictions, valids = [], [], []
    for tile in dataset.tiles:
        truth_HW = dataset.read_mask(tile)
        predicted_HW = np.where(rng.random(truth_HW.shape) < share, rng.integers(0, 4, truth_HW.shape), truth_HW)
        write_mask(out / tile.name, predicted_HW.astype(np.uint8), get_scheme("glacier4"), tile.georef)
        truths.append(truth_HW)
        predictions.append(predicted_HW)
        valids.append(dataset.read_valid(tile))
    return np.stack(truths), np.stack(predictions), np.stack(valids)


def test_evaluation_equals_scikit_learn_over_all_and_valid_pixels(make_dataset, tmp_path, capsys):
    root = make_dataset()
    truth, predicted, valid = _predict_badly(root, tmp_path / "out")
    arguments = ["evaluate", "--pred", str(tmp_path / "out"), "--truth", str(root / "label"), "--data", str(root)]
    assert main([*arguments, "--json", str(tmp_path / "e.json")]) == 0
    result = json.loads((tmp_path / "e.json").read_text())
    assert result["all_pixels"]["mcc"] == pytest.approx(matthews_corrcoef(truth.ravel(), predicted.ravel()), abs=1e-9)
    assert result["valid_pixels"]["mcc"] == pytest.approx(matthews_corrcoef(truth[valid], predicted[valid]), abs=1e-9)
    assert set(result["all_pixels"]) >= {"mcc", "iou", "f1", "precision", "recall", "per_class"}
    assert len(result["tiles"]) == 4
    assert "overall" in capsys.readouterr().out


def test_four_classes_against_two_is_an_explicit_choice(make_dataset, tmp_path):
    root = make_dataset()
    truth, predicted, _ = _predict_badly(root, tmp_path / "out")
    for tile, mask in zip(open_dataset(root).tiles, truth, strict=True):
        write_mask(tmp_path / "binary" / tile.name, np.isin(mask, [1, 2]).astype(np.uint8), get_scheme("glacier2"))
    with pytest.raises(SchemeError, match="--glacier-classes glacier debris"):
        evaluate_folders(tmp_path / "out", tmp_path / "binary")
    result = evaluate_folders(tmp_path / "out", tmp_path / "binary", glacier_classes=["glacier", "debris"])
    expected = matthews_corrcoef(np.isin(truth, [1, 2]).ravel(), np.isin(predicted, [1, 2]).ravel())
    assert result["all_pixels"]["mcc"] == pytest.approx(expected, abs=1e-9)
    assert result["valid_pixels"] is None


def test_the_data_sets_own_masks_have_its_classes(make_dataset, tmp_path):
    """Background and lake alone read as two classes, unless the data set knows better; masks from elsewhere may be."""
    root = make_dataset()
    scheme = get_scheme("glacier4")
    truth, predicted, _ = _predict_badly(root, tmp_path / "out")
    truth = np.where(truth == 3, 3, 0).astype(np.uint8)
    for tile, mask_HW in zip(open_dataset(root).tiles, truth, strict=True):
        write_mask(tile.mask_path, mask_HW, scheme, tile.georef)
        write_mask(tmp_path / "binary" / tile.name, (mask_HW > 0).astype(np.uint8), get_scheme("glacier2"))
    write_scheme(root, scheme)
    result = evaluate_folders(tmp_path / "out", root / "label", data=root)
    assert result["scheme"] == "glacier4"
    assert result["all_pixels"]["mcc"] == pytest.approx(matthews_corrcoef(truth.ravel(), predicted.ravel()), abs=1e-9)
    with pytest.raises(SchemeError, match="--glacier-classes"):
        evaluate_folders(tmp_path / "out", tmp_path / "binary", data=root)


def test_masks_without_a_partner_are_named(make_dataset, tmp_path):
    root = make_dataset()
    _predict_badly(root, tmp_path / "out")
    (tmp_path / "out" / "B2_01_01.tif").unlink()
    with pytest.raises(PairingError, match="01_01"):
        evaluate_folders(tmp_path / "out", root / "label")
    with pytest.raises(DataError, match="is not a folder"):
        evaluate_folders(tmp_path / "nowhere", root / "label")
