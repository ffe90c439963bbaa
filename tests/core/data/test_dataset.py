import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data import dataset as dataset_module
from napari_glacier.core.data.dataset import described_scheme, is_dataset, open_dataset, write_scheme
from napari_glacier.core.data.mosaic import PixelCache, plan_scenes
from napari_glacier.core.errors import BandError, DataError, PairingError, RasterError, SchemeError
from napari_glacier.core.raster import GeoRef, read_info, read_raster, write_mask, write_raster
from napari_glacier.core.tiling import Window


def test_band_folders_with_labels_open_from_every_level(make_dataset):
    root = make_dataset(scheme="glacier4")
    dataset = open_dataset(root)
    assert [tile.id for tile in dataset.tiles] == ["00_00", "00_01", "01_00", "01_01"]
    assert dataset.scheme.name == "glacier4"
    assert dataset.bands == CANONICAL_BANDS
    assert dataset.warnings == ()
    assert dataset.tiles[0].name == "B2_00_00.tif"
    assert is_dataset(root)
    shutil.copytree(root, root.parent / "outer" / "Train")
    assert open_dataset(root.parent / "outer").splits == ("train",)


def test_train_and_val_with_masks_beside_them(make_dataset):
    root = make_dataset(splits=("train", "val"))
    dataset = open_dataset(root)
    assert {split: len(dataset.split(split)) for split in dataset.splits} == {"train": 4, "val": 4}
    train = open_dataset(root / "train")
    assert train.root == root
    assert [tile.id for tile in train.tiles] == [tile.id for tile in dataset.split("train")]
    assert train.tiles[0].mask_path.parent.name == "train_masks"


def test_tiles_of_two_splits_with_the_same_names_stay_apart(make_dataset):
    root = make_dataset(splits=("train",), grid=(1, 1))
    shutil.copytree(root / "train", root / "val")
    assert [tile.id for tile in open_dataset(root).tiles] == ["train/00_00", "val/00_00"]


def test_the_competitions_names_pair(tmp_path):
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 0.0, 0.0, -30.0, 0.0))
    for tile in ("02_07", "02_08"):
        for k, band in enumerate(CANONICAL_BANDS):
            write_raster(tmp_path / f"Band{k + 1}" / f"{band}_{band}_masked_{tile}.tif", np.ones((8, 8), "f4"), georef)
        write_raster(tmp_path / "labels" / f"Y_output_resized_{tile}.tif", np.zeros((8, 8), "f4"), georef)
    dataset = open_dataset(tmp_path)
    assert [tile.id for tile in dataset.tiles] == ["02_07", "02_08"]
    assert dataset.tile("02_08").mask_path.name == "Y_output_resized_02_08.tif"
    assert dataset.tile("02_08").new_mask_path == tmp_path / "labels" / "B2_B2_masked_02_08.tif"


def test_plain_numbers_pair(tmp_path):
    for band in CANONICAL_BANDS:
        write_raster(tmp_path / band / "img001.tif", np.ones((8, 8), "u2"))
        write_raster(tmp_path / band / "img002.tif", np.ones((8, 8), "u2"))
    write_raster(tmp_path / "masks" / "m001.tif", np.zeros((8, 8), "u1"))
    dataset = open_dataset(tmp_path)
    assert [tile.mask_path is not None for tile in dataset.tiles] == [True, False]


def test_the_band_numbers_of_another_sensor_are_no_part_of_a_tile(tmp_path):
    # Landsat 5's numbers; and a mask named otherwise than bands that carry the folder's name.
    for folder, band in zip(CANONICAL_BANDS, ("B1", "B2", "B3", "B5", "B6"), strict=True):
        write_raster(tmp_path / "tm" / folder / f"{band}_00_07.tif", np.ones((8, 8), "u1"))
    for k in range(1, 6):
        write_raster(tmp_path / "named" / f"Band{k}" / f"Band{k}_02_07.tif", np.ones((8, 8), "u1"))
    write_raster(tmp_path / "named" / "label" / "glacier_02_07.tif", np.zeros((8, 8), "u1"))
    (tile,) = open_dataset(tmp_path / "tm").tiles
    assert (tile.id, len(tile.distinct_bands)) == ("00_07", 5)
    (tile,) = open_dataset(tmp_path / "named").tiles
    assert (tile.id, tile.mask_path.name) == ("02_07", "glacier_02_07.tif")


def test_one_file_of_five_bands(tmp_path):
    array = np.random.default_rng(0).integers(1, 9, (5, 12, 10)).astype("u2")
    write_raster(tmp_path / "scene.tif", array)
    for path in (tmp_path / "scene.tif", tmp_path):
        dataset = open_dataset(path)
        np.testing.assert_array_equal(dataset.read(dataset.tiles[0])[0], array)


def test_a_page_for_each_band_is_read_in_parts_too(tmp_path):
    array = np.random.default_rng(0).integers(1, 9, (5, 12, 10)).astype("u2")
    tifffile.imwrite(tmp_path / "scene.tif", array)
    dataset = open_dataset(tmp_path)
    (tile,) = dataset.tiles
    np.testing.assert_array_equal(dataset.read(tile)[0], array)
    np.testing.assert_array_equal(dataset.read(tile, rows=(3, 9), cols=(2, 7))[0], array[:, 3:9, 2:7])


@pytest.mark.parametrize("count", [1, 4, 7])
def test_another_number_of_bands_is_refused(tmp_path, count):
    write_raster(tmp_path / "scene.tif", np.ones((count, 12, 10), "u2"))
    with pytest.raises(BandError, match=rf"has {count} band\(s\)"):
        open_dataset(tmp_path / "scene.tif")


def test_nodata_is_where_all_bands_are_zero_and_only_there(tmp_path):
    image_CHW = np.full((5, 4, 4), 7.0, "f4")
    image_CHW[:, 0, 0] = 0
    image_CHW[:3, 1, 1] = 0
    image_CHW[:, 2, 2] = np.nan
    image_CHW[0, 3, 3] = np.nan
    write_raster(tmp_path / "a.tif", image_CHW)
    dataset = open_dataset(tmp_path)
    read_CHW, valid_HW = dataset.read(dataset.tiles[0])
    expected = np.ones((4, 4), bool)
    expected[0, 0] = expected[2, 2] = False
    np.testing.assert_array_equal(valid_HW, expected)
    # A gap in one band is no pitch-black pixel: it has the mean of the others.
    others = image_CHW[0][expected & np.isfinite(image_CHW[0])]
    assert read_CHW[0, 3, 3] == pytest.approx(others.mean())
    assert read_CHW[1, 3, 3] == 7
    # Asking for one band does not change what is valid.
    np.testing.assert_array_equal(dataset.read(dataset.tiles[0], ("B2",))[1], expected)
    everything = open_dataset(tmp_path, zero_is_nodata=False)
    assert everything.read_valid(everything.tiles[0])[0, 0]


def test_a_huge_nodata_value_is_recognised(real_data, tmp_path):
    bands = {"B2": 2, "B3": 3, "B4": 4, "B6": 6, "B10": 10}
    for band, number in bands.items():
        source = next((real_data / "landsat8_mendoza").glob(f"*band{number}.tif"))
        (tmp_path / band).mkdir()
        shutil.copy(source, tmp_path / band / f"{band}_1.tif")
    dataset = open_dataset(tmp_path)
    image_CHW, valid_HW = dataset.read(dataset.tiles[0])
    with rasterio.open(dataset.tiles[0].bands["B2"].path) as file:
        np.testing.assert_array_equal(valid_HW, file.read_masks(1) > 0)
    assert np.isfinite(image_CHW).all()
    assert image_CHW.min() >= 0


def test_a_missing_band_is_zero_and_said(make_dataset):
    root = make_dataset()
    shutil.rmtree(root / "Band5")
    dataset = open_dataset(root)
    assert "Band B10 is missing in 4 of 4 tiles" in dataset.warnings[0]
    image_CHW, valid_HW = dataset.read(dataset.tiles[0])
    assert not image_CHW[4].any()
    assert valid_HW.any()


def test_a_band_of_another_size_is_named(make_dataset):
    root = make_dataset()
    path = root / "Band4" / "B6_00_01.tif"
    write_raster(path, read_raster(path)[0, :32, :32])
    with pytest.raises(BandError, match="Band B6 of tile 00_01 is 32 x 32, the other bands are 64 x 64"):
        open_dataset(root)


def test_a_band_that_lies_elsewhere_is_named(make_dataset):
    root = make_dataset()
    path = root / "Band4" / "B6_00_01.tif"
    write_raster(path, read_raster(path)[0], GeoRef.from_epsg(32643, (30.0, 0.0, 1.0, 0.0, -30.0, 2.0)))
    with pytest.raises(BandError, match="Band B6 of tile 00_01 lies elsewhere"):
        open_dataset(root)


def test_bands_that_share_no_tile(tmp_path):
    write_raster(tmp_path / "B2" / "B2_north.tif", np.ones((8, 8), "u2"))
    write_raster(tmp_path / "B3" / "B3_south.tif", np.ones((8, 8), "u2"))
    with pytest.raises(PairingError, match=r"B2_north\.tif, B3_south\.tif have nothing in common"):
        open_dataset(tmp_path)


def test_two_files_of_one_tile_in_a_band(make_dataset):
    root = make_dataset()
    shutil.copy(root / "Band1" / "B2_00_00.tif", root / "Band1" / "B2_B2_00_00.tif")
    with pytest.raises(PairingError, match=r"B2_00_00\.tif and B2_B2_00_00\.tif|B2_B2_00_00\.tif and B2_00_00\.tif"):
        open_dataset(root)


def test_a_mask_of_no_tile(make_dataset):
    root = make_dataset()
    shutil.copy(root / "label" / "mask_00_00.tif", root / "label" / "mask_09_09.tif")
    with pytest.raises(PairingError, match=r"mask_09_09\.tif"):
        open_dataset(root)


def test_an_unknown_mask_value_is_named(make_dataset):
    root = make_dataset()
    write_raster(root / "label" / "mask_00_01.tif", np.full((64, 64), 42, "u1"))
    with pytest.raises(SchemeError, match=r"\[42\.0\] fits no scheme"):
        open_dataset(root)
    dataset = open_dataset(root, scheme="glacier4")
    with pytest.raises(SchemeError, match=r"mask_00_01\.tif holds 42 \(4096 px\)"):
        dataset.read_mask(dataset.tile("00_01"))


def test_two_values_alone_mean_two_classes_and_that_is_said(make_dataset):
    dataset = open_dataset(make_dataset(scheme="glacier2"))
    assert dataset.scheme.name == "glacier2"
    assert "read as two classes" in dataset.warnings[0]
    root = dataset.root
    (root / "dataset.yaml").write_text("scheme: glacier4\n")
    assert open_dataset(root).scheme.name == "glacier4"
    assert open_dataset(root, scheme="glacier2").scheme.name == "glacier2"


@pytest.mark.parametrize("make", ["nothing", "empty", "text"])
def test_what_is_no_dataset_says_what_one_is(tmp_path, make):
    folder = tmp_path / "folder"
    if make != "nothing":
        folder.mkdir()
    if make == "text":
        (folder / "notes.tif").write_text("not an image")
    with pytest.raises(DataError) as caught:
        open_dataset(folder)
    assert {"nothing": "does not exist", "empty": "A dataset has a folder", "text": "is not a TIFF"}[make] in str(
        caught.value
    )
    assert not is_dataset(folder)


def test_one_band_alone_points_to_the_folder_above(make_dataset):
    root = make_dataset()
    with pytest.raises(DataError, match=f"Open the folder above it, {root}"):
        open_dataset(root / "Band3")
    with pytest.raises(BandError, match="is band B4 of a tile"):
        open_dataset(next((root / "Band3").iterdir()))


def test_a_truncated_band_is_named(make_dataset):
    root = make_dataset()
    path = root / "Band2" / "B3_01_01.tif"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RasterError, match=r"B3_01_01\.tif"):
        open_dataset(root)


def test_abutting_tiles_are_one_mosaic_with_every_pixel_in_place(make_dataset):
    root = make_dataset(grid=(2, 3))
    (root / "Band1" / "B2_00_01.tif").unlink()
    for k in range(2, 6):
        next((root / f"Band{k}").glob("*_00_01.tif")).unlink()
    (root / "label" / "mask_00_01.tif").unlink()
    dataset = open_dataset(root)
    (scene,) = plan_scenes(dataset)
    assert scene.shape == (128, 192)
    expected_CHW = np.zeros((5, 128, 192), np.float32)
    for tile in dataset.tiles:
        row, col = (int(part) * 64 for part in tile.id.split("_"))
        expected_CHW[:, row : row + 64, col : col + 64] = dataset.read(tile)[0]
    read_CHW, valid_HW = scene.read(scene.whole)
    np.testing.assert_array_equal(read_CHW, expected_CHW)
    np.testing.assert_array_equal(valid_HW, expected_CHW.any(0))
    np.testing.assert_array_equal(scene.valid(), valid_HW)
    assert not valid_HW[:64, 64:128].any()
    # A window over the border and past the edge.
    part_CHW, part_valid_HW = scene.read(Window(50, 120, 100, 90), ("B4", "B2"))
    padded_CHW = np.pad(expected_CHW, ((0, 0), (0, 100), (0, 100)))
    np.testing.assert_array_equal(part_CHW, padded_CHW[[2, 0], 50:150, 120:210])
    np.testing.assert_array_equal(part_valid_HW, padded_CHW.any(0)[50:150, 120:210])


@pytest.mark.parametrize("difference", ["no reference", "overlap", "other phase", "other zone"])
def test_tiles_that_do_not_fit_one_grid_are_scenes_of_their_own(tmp_path, difference):
    def reference(k: int) -> GeoRef | None:
        if difference == "no reference":
            return None
        step = {"overlap": 10, "other phase": 16.5, "other zone": 16}[difference]
        return GeoRef.from_epsg(
            32643 + (k if difference == "other zone" else 0), (30.0, 0.0, 30 * step * k, 0.0, -30.0, 0.0)
        )

    for k in range(2):
        write_raster(tmp_path / f"tile_{k}.tif", np.ones((5, 16, 16), "u2"), reference(k))
    scenes = plan_scenes(open_dataset(tmp_path))
    assert [scene.shape for scene in scenes] == [(16, 16), (16, 16)]


def test_the_real_tiles_are_one_mosaic(real_tiles: Path):
    dataset = open_dataset(real_tiles)
    (scene,) = plan_scenes(dataset)
    assert len(dataset.tiles) == 15
    assert scene.shape == (3072, 3072)
    assert scene.georef.epsg == 32643
    for place in scene.placements:
        row, col = map(int, place.tile.id.split("_"))
        assert place.tile.georef.transform[2] == 460_425 + 15_360 * col
        assert place.tile.georef.transform[5] == 3_802_575 - 15_360 * row
        assert (place.row, place.col) == ((row - 2) * 512, (col - 7) * 512)


def test_a_split_opened_alone_keeps_ids_root_and_scheme_of_the_whole(make_dataset):
    root = make_dataset(splits=("train",), grid=(1, 1))
    shutil.copytree(root / "train", root / "val")
    shutil.copytree(root / "train_masks", root / "VAL_masks")
    write_raster(root / "VAL_masks" / "mask_00_00.tif", np.zeros((64, 64), "u1"))
    whole = open_dataset(root)
    for split in ("train", "val"):
        alone = open_dataset(root / split)
        assert alone.root == root
        assert alone.scheme.name == "glacier4"
        assert [tile.id for tile in alone.tiles] == [f"{split}/00_00"] == [tile.id for tile in whole.split(split)]
    # Names of folders are read without regard to case.
    assert whole.tile("val/00_00").mask_path.parent.name == "VAL_masks"


def test_the_only_split_with_masks_inside_is_its_own_root_however_it_is_opened(make_dataset):
    source = make_dataset()
    inner = source.parent / "outer" / "Train"
    shutil.copytree(source, inner)
    assert open_dataset(inner).root == open_dataset(inner.parent).root == inner


def test_the_root_is_the_same_before_and_after_the_first_mask(make_dataset):
    root = make_dataset(splits=("train",), masks=False)
    before = open_dataset(root / "train")
    assert before.root == open_dataset(root).root
    write_raster(before.tiles[0].new_mask_path, np.zeros((64, 64), "u1"))
    assert open_dataset(root / "train").root == before.root
    assert open_dataset(root / "train").tiles[0].mask_path == before.tiles[0].new_mask_path


def test_the_scheme_is_written_down_and_other_keys_stay(make_dataset):
    root = make_dataset(scheme="glacier2")
    (root / "dataset.yaml").write_text("description: mine\n")
    write_scheme(root, get_scheme("glacier4"))
    assert described_scheme(root) == "glacier4"
    assert "description: mine" in (root / "dataset.yaml").read_text()
    assert open_dataset(root).scheme.name == "glacier4"


def test_every_band_has_its_own_nodata_value(make_dataset):
    root = make_dataset()
    path = root / "Band5" / "B10_00_00.tif"
    thermal_HW = read_raster(path)[0].astype("f4")
    dead_HW = thermal_HW == 0
    write_raster(path, np.where(dead_HW, -9999, thermal_HW), read_info(path).georef, nodata=-9999)
    dataset = open_dataset(root)
    image_CHW, valid_HW = dataset.read(dataset.tile("00_00"))
    np.testing.assert_array_equal(valid_HW, ~dead_HW)
    assert image_CHW.min() == 0


def test_a_dark_pixel_stays_dark_whether_or_not_the_header_names_0(make_dataset):
    """0 in some bands only is a measurement; what it is replaced by would depend on the part that is read."""
    root = make_dataset()
    path = root / "Band4" / "B6_00_00.tif"
    swir_HW, georef = read_raster(path)[0].copy(), read_info(path).georef
    swir_HW[30:40, 30:40] = 0
    read = []
    for nodata in (None, 0):
        write_raster(path, swir_HW, georef, nodata=nodata)
        dataset = open_dataset(root)
        read.append(dataset.read(dataset.tile("00_00")))
        part_CHW, _ = dataset.read(dataset.tile("00_00"), rows=(32, 60), cols=(33, 50))
        np.testing.assert_array_equal(part_CHW, read[-1][0][:, 32:60, 33:50])
    np.testing.assert_array_equal(read[0][0], read[1][0])
    np.testing.assert_array_equal(read[0][1], read[1][1])
    assert read[1][1][30:40, 30:40].all()
    assert not read[1][0][3, 30:40, 30:40].any()


def test_band_grids_may_differ_by_rounding_but_not_by_zone(make_dataset):
    root = make_dataset()
    path = root / "Band4" / "B6_00_01.tif"
    pixels, georef = read_raster(path)[0], read_info(path).georef
    a, b, c, d, e, f = georef.transform
    write_raster(path, pixels, GeoRef.from_epsg(32643, (a, b, c + 1e-8, d, e, f)))
    assert open_dataset(root).tiles
    write_raster(path, pixels, GeoRef.from_epsg(32644, georef.transform))
    with pytest.raises(BandError, match="lies elsewhere"):
        open_dataset(root)
    write_raster(root / "Band1" / "B2_00_01.tif", pixels)
    write_raster(path, pixels, georef)
    assert open_dataset(root).tile("00_01").georef.transform == georef.transform


def test_masks_of_five_band_files_pair_by_identity(tmp_path):
    write_raster(tmp_path / "X_02_07.tif", np.ones((5, 8, 8), "u2"))
    write_raster(tmp_path / "X_02_08.tif", np.ones((5, 8, 8), "u2"))
    write_raster(tmp_path / "labels" / "Y_output_resized_02_07.tif", np.zeros((8, 8), "u1"))
    expected = {"X_02_07": "Y_output_resized_02_07.tif", "X_02_08": None}
    found = {t.id: t.mask_path.name if t.mask_path else None for t in open_dataset(tmp_path).tiles}
    assert found == expected
    assert open_dataset(tmp_path / "X_02_07.tif").tiles[0].mask_path.name == "Y_output_resized_02_07.tif"


def test_a_window_of_a_large_tile_does_not_copy_the_tile(tmp_path):
    import tracemalloc

    write_raster(tmp_path / "a.tif", np.ones((5, 1500, 1500), "u2"))
    (scene,) = plan_scenes(open_dataset(tmp_path))
    scene.read(Window(0, 0, 8, 8))
    tracemalloc.start()
    scene.read(Window(700, 700, 64, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_the_pixel_cache_is_bounded_by_memory():
    cache = PixelCache(max_bytes=1000)
    reads = []

    def read(name, size):
        return lambda: (reads.append(name), (np.zeros(size, np.float32), np.zeros(0, bool)))[1]

    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get(name, read(name, 100))
    assert reads == ["a", "b", "c", "b"]
    cache.get("huge", read("huge", 10_000))
    cache.get("huge", read("huge", 10_000))
    assert reads[-1] == "huge"
    assert reads.count("huge") == 1


def test_a_file_of_a_scene_and_a_mask_point_to_what_opens(make_dataset, make_landsat, tmp_path):
    scene = make_landsat()
    with pytest.raises(BandError, match=f"one file of a scene. Open the scene's folder, {scene}"):
        open_dataset(next(scene.glob("*_B3.TIF")))
    made = {"made_by": "napari-glacier"}
    write_mask(tmp_path / "predicted" / "B2_0.tif", np.zeros((8, 8), np.uint8), get_scheme("glacier4"), None, made)
    with pytest.raises(BandError, match="a mask that this program wrote"):
        open_dataset(tmp_path / "predicted")


@pytest.mark.parametrize("side_px", [90, 300], ids=["mean of all pixels", "mean of some pixels"])
def test_gaps_in_one_band_are_filled_alike_however_the_scene_is_cut(tmp_path, monkeypatch, side_px):
    monkeypatch.setattr(dataset_module, "_MEAN_PX", 100)
    rng = np.random.default_rng(2)
    ramp_HW = np.add.outer(np.arange(side_px), np.arange(side_px)).astype(np.float32) + 1
    for k, band in enumerate(("B2", "B3", "B4", "B6", "B10")):
        plane_HW = ramp_HW * (k + 1)
        # A gap across the scene in the thermal band, specks in the red one: NaN, and a value for nodata.
        if band == "B10":
            plane_HW[20:60, 10:80] = np.nan
        if band == "B4":
            plane_HW[rng.random(plane_HW.shape) < 0.02] = -9999
        write_raster(tmp_path / "tiles" / band / f"{band}_1.tif", plane_HW, nodata=-9999 if band == "B4" else None)
    dataset = open_dataset(tmp_path / "tiles")
    (tile,) = dataset.tiles
    whole_CHW, whole_HW = dataset.read(tile)
    assert whole_HW.all()
    assert np.isfinite(whole_CHW).all()
    known_HW = tifffile.imread(tile.bands["B10"].path)
    filled = np.unique(whole_CHW[4][np.isnan(known_HW)])
    assert filled.size == 1
    assert filled[0] == pytest.approx(np.nanmean(known_HW), rel=1e-6 if side_px <= 100 else 0.02)
    for _ in range(30):
        (top, bottom), (left, right) = (np.sort(rng.choice(side_px + 1, 2, replace=False)).tolist() for _ in range(2))
        # A data set opened anew knows nothing of what was read before.
        part_CHW, _ = open_dataset(tmp_path / "tiles").read(tile, ("B10", "B4"), (top, bottom), (left, right))
        np.testing.assert_array_equal(part_CHW, whole_CHW[[4, 2], top:bottom, left:right])
    (scene,) = plan_scenes(dataset)
    for step in (17, 64):
        for row in range(0, side_px, step):
            window = Window(row, 3, step, side_px).clipped(side_px, side_px)
            np.testing.assert_array_equal(scene.read(window)[0], whole_CHW[:, *window.slices])
