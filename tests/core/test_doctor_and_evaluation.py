import json
import shutil
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine
from sklearn.metrics import matthews_corrcoef

from napari_glacier.cli import main
from napari_glacier.core.band_order import Evidence, evidence, mistaken_bands, mistaken_visible
from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import open_dataset, write_scheme
from napari_glacier.core.doctor import examine, examine_by_tile
from napari_glacier.core.errors import DataError, PairingError, SchemeError
from napari_glacier.core.evaluation import evaluate_folders
from napari_glacier.core.raster import read_raster, write_mask, write_raster

SAMPLE = Path(str(files("napari_glacier._sample"))) / "region"


def test_a_clean_dataset_is_clean(make_dataset, capsys):
    root = make_dataset()
    diagnosis = examine(root)
    assert diagnosis.exit_code == 0
    assert diagnosis.summary["tiles"] == 4
    assert sum(diagnosis.summary["class_mix"].values()) == pytest.approx(1)
    assert main(["doctor", str(root), "--json", str(root / "d.json")]) == 0
    assert "nothing to mend" in capsys.readouterr().out
    assert json.loads((root / "d.json").read_text())["summary"]["scheme"] == "glacier4"


def test_masks_in_a_folder_of_another_name_are_pointed_at(make_dataset):
    root = make_dataset()
    (root / "label").rename(root / "ground_truth")
    maps = root / "maps"
    maps.mkdir()
    (maps / "00_00.tif").write_bytes(b"not looked into")
    (maps / "provenance.jsonl").touch()  # predicted here
    findings = [f for f in examine(root).findings if "mask" in f.message]
    assert [(f.severity, f.tile) for f in findings] == [("info", None), ("warning", None)]
    assert "ground_truth holds 4 TIFFs" in findings[1].message
    assert findings[1].mend == "If they are masks, call it label."


def _two_class_masks(root: Path, nodata: float | None, *values: tuple[int, ...]) -> None:
    """Masks of one value a row of 4 pixels, written as a GIS writes them."""
    for path, held in zip(sorted((root / "label").glob("*.tif")), values, strict=True):
        with rasterio.open(path) as file:
            profile = file.profile | {"nodata": nodata, "dtype": "uint8", "count": 1}
        codes_HW = np.zeros((profile["height"], profile["width"]), np.uint8)
        for row, value in enumerate(held):
            codes_HW[20 + 4 * row : 24 + 4 * row] = value
        with rasterio.open(path, "w", **profile) as file:
            file.write(codes_HW, 1)


@pytest.mark.parametrize("scheme", [None, "glacier2"])
def test_a_mask_whose_only_class_is_its_nodata_value_is_named_with_the_mend(make_dataset, scheme):
    root = make_dataset()
    _two_class_masks(root, 255, (255,), (255,), (), (255,))
    (finding,) = (f for f in examine(root, scheme).findings if "nodata" in f.message)
    assert (finding.severity, finding.tile) == ("warning", None)
    assert "3 tile(s) (00_00, 00_01, 01_01) hold 0 and 255 alone" in finding.message
    assert "-unsetnodata" in finding.mend
    # The mend, as gdal_edit does it.
    for path in (root / "label").glob("*.tif"):
        with rasterio.open(path, "r+") as file:
            file.nodata = None
    diagnosis = examine(root, scheme)
    assert not [f for f in diagnosis.findings if "nodata" in f.message]
    assert diagnosis.summary["class_mix"]["glacier"] > 0


def test_nodata_beside_classes_in_any_mask_is_nodata(make_dataset):
    root = make_dataset()
    _two_class_masks(root, 255, (1, 255), (255,), (), (1,))
    assert not [f for f in examine(root).findings if "call 255 nodata" in f.message]
    _two_class_masks(root, None, (255,), (255,), (), ())
    assert not [f for f in examine(root).findings if "call 255 nodata" in f.message]


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


def test_a_tile_that_cannot_be_opened_is_told_and_the_others_are_read(make_dataset, capsys):
    """A header that is cut short, a band of another size, a damaged mask: each is an error of its tile."""
    root = make_dataset()
    path = root / "Band4" / "B6_00_00.tif"
    path.write_bytes(path.read_bytes()[:100])
    write_raster(root / "Band2" / "B3_00_01.tif", np.ones((33, 64), "u2"))
    (root / "label" / "mask_01_00.tif").write_bytes(b"II*\0nothing")
    write_raster(root / "Band3" / "B4_01_01.tif", np.full((64, 64), 9, "u2"))
    steps = list(examine_by_tile(root))
    assert [step.done for step in steps] == [0, 1, 2]
    diagnosis = examine(root)
    by_tile = {finding.tile: finding for finding in diagnosis.findings if finding.severity != "info"}
    assert {tile: found.severity for tile, found in by_tile.items()} == {
        "00_00": "error",
        "00_01": "error",
        "01_00": "error",
        "01_01": "warning",
    }
    assert "B6_00_00.tif" in by_tile["00_00"].message
    assert "33 x 64" in by_tile["00_01"].message
    assert "Re-export" in by_tile["00_01"].mend
    assert "mask_01_00.tif" in by_tile["01_00"].message
    assert "Band B4 has the one value 9" in by_tile["01_01"].message
    assert (diagnosis.summary["tiles"], diagnosis.summary["damaged"]) == (2, 2)
    assert main(["doctor", str(root)]) == 2
    assert "B6_00_00.tif" in capsys.readouterr().out


def test_what_does_not_open_is_one_error(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 2
    assert "No tiles were found" in capsys.readouterr().out
    (tmp_path / "notes.txt").write_text("these are words")
    assert main(["doctor", str(tmp_path / "notes.txt")]) == 2
    assert "notes.txt is not a TIFF image" in capsys.readouterr().out


def test_the_real_tiles_and_the_sample_region_are_clean(real_tiles):
    """That their masks read as two classes is said, and is nothing to mend."""
    for folder, notes in ((real_tiles, ["The masks hold only [0, 255]:"]), (SAMPLE, [])):
        diagnosis = examine(folder)
        assert diagnosis.exit_code == 0
        assert [f.message[:29] for f in diagnosis.findings] == notes
        assert all(f.severity == "info" for f in diagnosis.findings)
    assert examine(real_tiles).summary["saturated_share"]["B2"] == pytest.approx(0.024, abs=0.001)


@pytest.mark.parametrize("source", ["sample", "real"])
def test_exchanged_bands_are_found_in_every_tile(source, request):
    """Digital numbers do not tell: on the real tiles blue and thermal have the same mean."""
    dataset = open_dataset(SAMPLE if source == "sample" else request.getfixturevalue("real_tiles"))
    seen = [evidence(*dataset.read(tile)) for tile in dataset.tiles]
    for first, second in combinations(CANONICAL_BANDS, 2):
        order = list(range(5))
        i, j = CANONICAL_BANDS.index(first), CANONICAL_BANDS.index(second)
        order[i], order[j] = j, i
        exchanged = [Evidence(e.correlation_BB[np.ix_(order, order)], e.roughness_B[order]) for e in seen]
        found = [mistaken_bands(e) for e in exchanged]
        if {first, second} <= {"B2", "B3", "B4"}:
            assert not any(found)
            # One tile's visible bands resemble each other too much; all tiles together tell them.
            assert mistaken_visible(exchanged) == {first: second, second: first}
        else:
            assert all(looks == {first: second, second: first} for looks in found)
    assert mistaken_visible(seen) == {}


def test_the_doctor_names_exchanged_bands(tmp_path):
    root = tmp_path / "region"
    shutil.copytree(SAMPLE, root)
    for split in ("train", "val"):
        (root / split / "B2").rename(root / split / "held")
        (root / split / "B10").rename(root / split / "B2")
        (root / split / "held").rename(root / split / "B10")
    (finding,) = examine(root).findings
    assert finding.message == "Bands seem to be exchanged in all 13 tiles: B2 looks like B10, B10 looks like B2."
    assert (finding.severity, finding.tile) == ("warning", None)
    assert "names of the files or folders" in finding.mend


def _warnings(root, **options):
    return {(f.severity, f.tile): f.text for f in examine(root, **options).findings if f.severity != "info"}


def test_copies_of_bands_and_tiles_are_found(make_dataset):
    root = make_dataset()
    shutil.copy(root / "Band2" / "B3_00_00.tif", root / "Band3" / "B4_00_00.tif")
    for folder, band in (("Band1", "B2"), ("Band2", "B3"), ("Band3", "B4"), ("Band4", "B6"), ("Band5", "B10")):
        shutil.copy(root / folder / f"{band}_01_00.tif", root / folder / f"{band}_01_01.tif")
    found = _warnings(root)
    assert "Bands B3 and B4 are the same" in found["warning", "00_00"]
    assert "2 tiles are the same, pixel by pixel: 01_00, 01_01. Keep one of them." in found["warning", None]


def test_tiles_of_two_splits_that_touch_are_found(make_dataset):
    root = make_dataset(splits=("train", "val"))
    assert not _warnings(root)  # a tile's width apart
    for path in root.glob("val*/**/*.tif"):
        with rasterio.open(path, "r+") as file:
            file.transform = file.transform @ Affine.translation(-64, 0)
    text = _warnings(root)["warning", None]
    assert "4 pair(s) of a training tile and a held-out one are nearer than 16 px: 00_01 and 00_03 touch" in text


def test_tiles_beside_placed_ones_that_have_no_place_are_named(make_dataset):
    root = make_dataset()
    for folder in sorted(root.glob("Band*")):
        path = next(folder.glob("*_01_01.tif"))
        write_raster(path, read_raster(path))
    write_raster(root / "label" / "mask_01_01.tif", read_raster(root / "label" / "mask_01_01.tif"))
    assert "1 of 4 tiles have no georeference (01_01)" in _warnings(root)["warning", None]


def test_masks_of_no_scheme_do_not_hide_the_rest(make_dataset):
    root = make_dataset()
    codes = read_raster(root / "label" / "mask_00_01.tif")[0]
    codes[:2, :3] = 77
    write_raster(root / "label" / "mask_00_01.tif", codes)
    write_raster(root / "Band5" / "B10_01_01.tif", np.full((64, 64), 5, "u2"))
    found = _warnings(root)
    assert "77 (6 px)" in found["error", "00_01"]
    assert "one value 5" in found["warning", "01_01"]
    assert examine(root).exit_code == 2
    for number, path in enumerate(sorted((root / "label").glob("*.tif"))):
        write_raster(path, np.full((64, 64), (85, 1)[number % 2], "u1"))
    assert examine(root).exit_code == 2  # each mask fits a scheme, all of them none
    (root / "label" / "mask_00_00.tif").write_bytes(b"II*\0nothing")
    (root / "dataset.yaml").write_text("scheme: glacier9\n")
    assert "dataset.yaml says scheme: 'glacier9'" in _warnings(root)["error", None]


def test_a_tile_of_nodata_alone_has_no_other_fault(make_dataset):
    root = make_dataset()
    for path in root.glob("Band*/*_00_01.tif"):
        write_raster(path, np.zeros((64, 64), "u2"))
    said = [finding.message for finding in examine(root).findings if finding.tile == "00_01"]
    assert len([text for text in said if "nodata" not in text]) == 0, said
    assert "Every pixel is nodata." in said


def test_values_of_another_scale_than_a_models_are_found(make_dataset, make_checkpoint, capsys):
    root, model = make_dataset(), make_checkpoint()
    assert main(["doctor", str(root), "--model", str(model)]) == 0
    for path in root.glob("Band*/*.tif"):
        with rasterio.open(path) as file:
            reflectance = (file.read(1) / 65535).astype("f4")
        write_raster(path, reflectance)
    capsys.readouterr()
    assert main(["doctor", str(root), "--model", str(model), "--json", str(root / "d.json")]) == 1
    findings = json.loads((root / "d.json").read_text())["findings"]
    assert any("far from what tiny was trained on" in f["message"] for f in findings)
    assert {"severity", "tile", "message", "mend"} == set(findings[0])


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


def test_the_truth_may_be_a_data_set_of_which_some_tiles_are_labelled(make_dataset, tmp_path):
    root, out = make_dataset(), tmp_path / "out"
    truth, predicted, valid = _predict_badly(root, out)
    tiles = open_dataset(root).tiles
    tiles[1].mask_path.unlink()
    kept = [0, 2, 3]
    result = evaluate_folders(out, root)
    assert [tile["tile"] for tile in result["tiles"]] == [tiles[t].id for t in kept]
    expected = matthews_corrcoef(truth[kept][valid[kept]], predicted[kept][valid[kept]])
    assert result["valid_pixels"]["mcc"] == pytest.approx(expected, abs=1e-9)
    (out / tiles[2].name).unlink()
    with pytest.raises(PairingError, match=f"1 of 3 labelled tiles .* have no prediction in .*: {tiles[2].id}"):
        evaluate_folders(out, root)
    for t in kept:
        tiles[t].mask_path.unlink()
    with pytest.raises(DataError, match="has a label"):
        evaluate_folders(out, root)


def test_equal_colours_of_a_grey_picture_are_no_finding(tmp_path):
    pixels_HW = np.random.default_rng(0).integers(1, 200, (32, 32)).astype("u1")
    for name, values_HW in (("images", pixels_HW), ("masks", (pixels_HW > 99).astype("u1") * 255)):
        (tmp_path / "train" / name).mkdir(parents=True)
        mode = "RGBA" if name == "images" else "L"
        Image.fromarray(values_HW).convert(mode).save(tmp_path / "train" / name / "a.png")
    assert not [finding for finding in examine(tmp_path).findings if finding.severity != "info"]


def test_masks_that_say_their_classes_are_scored_by_them(tmp_path, capsys):
    scheme = get_scheme("glacier4")
    lakes_HW = np.zeros((20, 20), np.uint8)
    lakes_HW[:5] = 3
    for folder in ("pred", "truth"):
        write_mask(tmp_path / folder / "mask_1.tif", lakes_HW, scheme, None)
    result = evaluate_folders(tmp_path / "pred", tmp_path / "truth")
    assert result["scheme"] == "glacier4"
    assert result["all_pixels"]["per_class"]["lake"]["iou"] == 1
    folder = tmp_path / "folder"
    folder.mkdir()
    code = main(
        ["evaluate", "--pred", str(tmp_path / "pred"), "--truth", str(tmp_path / "truth"), "--json", str(folder)]
    )
    assert code == 2
    assert f"{folder} is a folder. Name a file in it" in capsys.readouterr().err
