"""Two dates compared: counts against a plain loop, alignment, and what is refused."""

import csv
import json
import shutil

import numpy as np
import pytest
import rasterio

from napari_glacier.cli import main
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.errors import DataError, SaveError, SchemeError
from napari_glacier.core.inventory.change import compare_dates
from napari_glacier.core.inventory.map_source import open_maps
from napari_glacier.core.inventory.report import make_report
from napari_glacier.core.raster import GeoRef, read_info, write_mask, write_raster

GLACIER4 = get_scheme("glacier4")


def _mask(path, shape, seed, *, col=0.0, row=0.0, scheme=GLACIER4, pixel_m=30.0, epsg=32643):
    index_HW = np.random.default_rng(seed).integers(0, scheme.num_classes, shape).astype(np.uint8)
    transform = (pixel_m, 0.0, 300_000 + 30 * col, 0.0, -pixel_m, 4_200_000 - 30 * row)
    write_mask(path, index_HW, scheme, GeoRef.from_epsg(epsg, transform))
    return index_HW


def test_areas_and_map_of_overlapping_masks_equal_a_plain_loop(tmp_path):
    old_HW = _mask(tmp_path / "a" / "2000.tif", (30, 40), 1)
    new_HW = _mask(tmp_path / "b" / "2020.tif", (28, 50), 2, col=7, row=-5)
    change = compare_dates(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    expected = np.zeros((4, 4), int)
    with rasterio.open(tmp_path / "out" / "2000.tif") as file:
        map_HW, transform, legend = file.read(1), file.transform, file.colormap(1)
        assert file.tags()["class_2"] == "background to glacier"
    assert map_HW.shape == (23, 33)
    assert (transform.c, transform.f) == (300_000 + 30 * 7, 4_200_000)
    for row in range(23):
        for col in range(33):
            pair = old_HW[row, col + 7], new_HW[row + 5, col]
            expected[pair] += 1
            assert map_HW[row, col] == 1 + 4 * pair[0] + pair[1]
    np.testing.assert_array_equal(change.transitions, expected)
    glacier = change.rows()[1]
    # On the ellipsoid, of which UTM shows 0.9996 to 1.0005 along an edge here.
    assert glacier["before_km2"] == pytest.approx(expected[1].sum() * 900 / 1e6, rel=2e-3)
    assert glacier["lost_px"] == expected[1].sum() - expected[1, 1]
    assert glacier["gained_px"] == expected[:, 1].sum() - expected[1, 1]
    assert legend[1][:3] != legend[2][:3]
    with (tmp_path / "out" / "change.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(GLACIER4.class_names)
    assert float(rows[3]["after_km2"]) == pytest.approx(expected[:, 3].sum() * 900 / 1e6, rel=2e-3)
    assert json.loads((tmp_path / "out" / "change.json").read_text())["transitions_px"] == expected.tolist()


def test_what_a_date_did_not_see_is_left_out(make_landsat, tmp_path, capsys):
    old = make_landsat("LE07_L1TP_149035_20020731_20200908_02_T1", gaps=True)
    new = make_landsat()
    for folder, seed, name in ((old, 1, "B1"), (new, 2, "B2")):
        _mask(tmp_path / folder.name / f"{folder.name}_{name}.TIF", (40, 50), seed)
    masks = tmp_path / old.name, tmp_path / new.name
    without = compare_dates(*masks, tmp_path / "plain")
    assert without.unseen == 0
    assert "do not tell nodata from background" in without.warnings[0]
    arguments = ["change", *map(str, masks), "--out", str(tmp_path / "out"), "--scenes", str(old), str(new), "--clear"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    seen_HW = np.ones((40, 50), bool)
    seen_HW[:6, :8] = False
    seen_HW[20:27, 10:] = False
    seen_HW[10:14, 10:20] = False
    seen_HW[15:17, 10:20] = False
    assert f"{(~seen_HW).sum():,} pixels not seen" in printed
    with rasterio.open(next((tmp_path / "out").glob("*.tif"))) as file:
        np.testing.assert_array_equal(file.read(1) == 0, ~seen_HW)
    assert main([*arguments[:5], "--clear"]) == 2


def test_what_masks_call_nodata_is_left_out_without_the_scenes(tmp_path):
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 300_000.0, 0.0, -30.0, 4_200_000.0))
    rng = np.random.default_rng(0)
    index, seen = rng.integers(0, 4, (2, 30, 40), np.uint8), rng.random((2, 30, 40)) < 0.8
    for name, index_HW, valid_HW in zip("ab", index * seen, seen, strict=True):
        write_mask(tmp_path / f"{name}.tif", index_HW, GLACIER4, georef, valid_HW=valid_HW)
    change = compare_dates(tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "out")
    both = seen.all(axis=0)
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (index[0][both], index[1][both]), 1)
    np.testing.assert_array_equal(change.transitions, expected)
    assert change.unseen == (~both).sum()
    assert change.warnings == ()
    write_mask(tmp_path / "b.tif", index[1], GLACIER4, georef)
    (warning,) = compare_dates(tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "out").warnings
    assert "1 of the masks do not tell nodata from background (b.tif)" in warning


def test_masks_of_many_tiles_meet_by_place_and_unplaced_ones_by_name(tmp_path):
    for col in (0, 1):
        _mask(tmp_path / "a" / f"old_{col}.tif", (20, 20), col, col=20 * col)
        _mask(tmp_path / "b" / f"scene_{7 - col}.tif", (20, 20), 5 + col, col=20 * col)
    assert compare_dates(tmp_path / "a", tmp_path / "b", tmp_path / "out").transitions.sum() == 800
    for side in ("c", "d"):
        write_raster(tmp_path / side / "tile_01.tif", np.full((5, 5), 255, np.uint8))
        write_raster(tmp_path / side / "tile_02.tif", np.zeros((5, 6), np.uint8))
    change = compare_dates(tmp_path / "c", tmp_path / "d", tmp_path / "out2")
    assert change.transitions.tolist() == [[30, 0], [0, 25]]
    assert change.areas_m2 is None
    assert any("given in pixels" in text for text in change.warnings)


def test_a_place_that_masks_of_one_date_share_counts_once(tmp_path):
    # 20 x 20 px each, 12 of whose columns the next one has, too: 36 columns in all.
    for side, cls in (("a", 1), ("b", 2)):
        for number in range(3):
            path = tmp_path / side / f"{number}.tif"
            _mask(path, (20, 20), 0, col=8 * number)
            write_mask(path, np.full((20, 20), cls, np.uint8), GLACIER4, read_info(path).georef)
    change = compare_dates(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert change.transitions[1, 2] == change.transitions.sum() == 20 * 36
    assert change.areas_m2[1, 2] == pytest.approx(20 * 36 * 900, rel=2e-3)
    assert change.unseen == 0
    (area,) = (one for one in make_report(open_maps(tmp_path / "a")).areas if one.name == "glacier")
    assert change.rows()[1]["before_km2"] == pytest.approx(area.mapped, rel=1e-6)


def test_a_place_that_one_of_two_masks_saw_is_seen(make_dataset, tmp_path):
    scenes = []
    for name, cls in (("a", 1), ("b", 3)):
        root = tmp_path / f"scene_{name}"
        for number, gap in ((0, slice(15, 20)), (1, slice(0, 8))):
            georef = GeoRef.from_epsg(32643, (30.0, 0.0, 300_000 + 300 * number, 0.0, -30.0, 4_200_000))
            band = np.ones((20, 20), np.uint16)
            band[:, gap] = 0
            for folder in ("B2", "B3", "B4", "B6", "B10"):
                write_raster(root / folder / f"{folder}_{number}.tif", band, georef, nodata=0)
            write_mask(tmp_path / name / f"{number}.tif", np.full((20, 20), cls, np.uint8), GLACIER4, georef)
        scenes.append(root)
    change = compare_dates(tmp_path / "a", tmp_path / "b", tmp_path / "out", scenes=tuple(scenes))
    # Columns 0 to 14 by the first, 18 to 29 by the second, 15 to 17 by none.
    assert change.transitions[1, 3] == change.transitions.sum() == 20 * 27
    assert change.unseen == 20 * 3


def test_masks_of_one_name_in_folders_of_splits_are_all_compared(tmp_path):
    for side in ("a", "b"):
        for number, folder in enumerate((".", "train", "val")):
            _mask(tmp_path / side / folder / "001.tif", (20, 20), number, col=100 * number)
    change = compare_dates(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert change.transitions.sum() == 1200
    assert len({path for path in change.maps if path.is_file()}) == 3
    assert sorted(path.name for path in change.maps) == ["a-001.tif", "train-001.tif", "val-001.tif"]


def test_two_and_four_classes_are_not_taken_for_each_other(tmp_path):
    _mask(tmp_path / "four.tif", (9, 9), 0)
    _mask(tmp_path / "two.tif", (9, 9), 0, scheme=get_scheme("glacier2"))
    with pytest.raises(SchemeError, match="--scheme"):
        compare_dates(tmp_path / "two.tif", tmp_path / "four.tif", tmp_path / "out")
    # Background and lake alone: the file's own legend says that 255 is a lake.
    lakes_HW = np.array([[0, 3], [3, 0]], np.uint8)
    for name in ("lakes_a.tif", "lakes_b.tif"):
        write_mask(tmp_path / name, lakes_HW, GLACIER4)
    change = compare_dates(tmp_path / "lakes_a.tif", tmp_path / "lakes_b.tif", tmp_path / "out")
    assert change.transitions[3, 3] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"col": 0.5}, "one grid.*gdalwarp"),
        ({"pixel_m": 15.0}, "one grid.*gdalwarp"),
        ({"epsg": 32644}, "EPSG:32644.*gdalwarp -r near -t_srs EPSG:32643"),
        ({"col": 500}, "no place in common"),
    ],
)
def test_masks_that_cannot_be_laid_over_each_other_are_refused(tmp_path, options, words):
    _mask(tmp_path / "a.tif", (20, 20), 0)
    _mask(tmp_path / "b.tif", (20, 20), 0, **options)
    with pytest.raises(DataError, match=words):
        compare_dates(tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "out")


def test_nothing_of_others_is_replaced_and_own_maps_are(tmp_path):
    _mask(tmp_path / "a" / "x.tif", (20, 20), 0)
    _mask(tmp_path / "b" / "x.tif", (20, 20), 1)
    before = (tmp_path / "a" / "x.tif").read_bytes()
    with pytest.raises(SaveError, match="no map of change"):
        compare_dates(tmp_path / "a", tmp_path / "b", tmp_path / "a")
    assert (tmp_path / "a" / "x.tif").read_bytes() == before
    for _ in range(2):
        compare_dates(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    write_raster(tmp_path / "bare.tif", np.zeros((20, 20), np.uint8))
    assert read_info(tmp_path / "bare.tif").georef is None
    with pytest.raises(DataError, match="no georeference"):
        compare_dates(tmp_path / "a", tmp_path / "bare.tif", tmp_path / "out")


def test_labels_of_two_datasets_are_compared_with_the_areas_that_a_report_gives(make_dataset, tmp_path, capsys):
    old, new = (shutil.move(make_dataset(), tmp_path / name) for name in ("old", "new"))
    tile = open_dataset(new).tiles[0]
    write_mask(tile.mask_path, np.full((tile.height, tile.width), 1, np.uint8), GLACIER4, tile.georef)
    assert main(["change", str(old), str(new), "--out", str(tmp_path / "out")]) == 0
    rows = {row["class"]: row for row in json.loads((tmp_path / "out" / "change.json").read_text())["classes"]}
    for folder, key in ((old, "before_km2"), (new, "after_km2")):
        for area in make_report(open_maps(folder)).areas:
            if area.name in rows:
                assert rows[area.name][key] == pytest.approx(area.mapped, rel=1e-6)
    assert rows["glacier"]["gained_km2"] > 0 == rows["glacier"]["lost_km2"]
    assert main(["change", str(old), str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert "nowhere does not exist. Give a mask, a folder of masks, or a dataset." in capsys.readouterr().err
