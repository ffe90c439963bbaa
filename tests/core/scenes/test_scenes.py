"""Scenes as delivered open with the right bands, place, date, units and nodata; bad ones are refused in words."""

import json
import math
import shutil
import tarfile

import numpy as np
import pytest
import rasterio

from napari_glacier.core.data.dataset import is_dataset, open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.derived import DERIVED, derive, derived
from napari_glacier.core.errors import BandError, DataError, GlacierError, RasterError
from napari_glacier.core.raster import read_info, read_part, write_raster
from napari_glacier.core.raster.archives import members, span

SCENES = {
    "LC08_L1TP_149035_20200731_20200908_02_T1": ("B2", "B3", "B4", "B6", "B10"),
    "LC09_L1TP_149035_20220731_20220908_02_T1": ("B2", "B3", "B4", "B6", "B10"),
    "LC08_L2SP_149035_20200731_20200908_02_T1": ("SR_B2", "SR_B3", "SR_B4", "SR_B6", "ST_B10"),
    "LE07_L1TP_149035_20020731_20200908_02_T1": ("B1", "B2", "B3", "B5", "B6_VCID_1"),
    "LE07_L2SP_149035_20020731_20200908_02_T1": ("SR_B1", "SR_B2", "SR_B3", "SR_B5", "ST_B6"),
    "LT05_L1TP_149035_20000731_20200908_02_T1": ("B1", "B2", "B3", "B5", "B6"),
    "LT05_L2SP_149035_20000731_20200908_02_T1": ("SR_B1", "SR_B2", "SR_B3", "SR_B5", "ST_B6"),
}
BANDS = ("B2", "B3", "B4", "B6", "B10")


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("tar", [False, True], ids=["folder", "tar"])
def test_each_sensor_opens_with_its_own_bands(make_landsat, tmp_path, scene, tar):
    folder = make_landsat(scene)
    with_rasterio = []
    for name in SCENES[scene]:
        with rasterio.open(folder / f"{scene}_{name}.TIF") as file:
            with_rasterio.append(file.read(1))
            crs, transform = file.crs, file.transform
    path = make_landsat(scene, tar=True) if tar else folder
    assert is_dataset(path)
    dataset = open_dataset(path)
    (tile,) = dataset.tiles
    assert (tile.id, tuple(tile.bands), dataset.warnings) == (scene, BANDS, ())
    assert tile.georef.epsg == crs.to_epsg()
    assert tile.georef.transform == tuple(transform)[:6]
    image_CHW, valid_HW = dataset.read(tile)
    np.testing.assert_array_equal(image_CHW, np.stack(with_rasterio))
    expected_HW = np.ones(valid_HW.shape, bool)
    expected_HW[:6, :8] = False
    np.testing.assert_array_equal(valid_HW, expected_HW)
    part_CHW, part_valid_HW = dataset.read(tile, ("B10", "B2"), (3, 20), (5, 31))
    np.testing.assert_array_equal(part_CHW, image_CHW[[4, 0], 3:20, 5:31])
    np.testing.assert_array_equal(part_valid_HW, valid_HW[3:20, 5:31])
    assert tile.product.date == "2020-07-31"
    assert tile.product.cloud_percent == 12.34
    assert not list(tmp_path.rglob(f"{scene}/*.TIF")) or not tar


def test_a_tar_is_read_where_it_lies(make_landsat):
    archive = make_landsat(tar=True)
    with tarfile.open(archive) as tar:
        assert {path.name for path in members(archive)} == set(tar.getnames())
        member = tar.getmember(f"{archive.stem}_B4.TIF")
        assert span(archive / member.name) == (archive, member.offset_data, member.size)
        with rasterio.open(tar.extractfile(member)) as file:
            pixels_HW = file.read(1)
    np.testing.assert_array_equal(read_part(archive / member.name, (2, 9), (1, 7))[0], pixels_HW[2:9, 1:7])
    assert open_dataset(archive).root == archive.with_suffix("")
    assert list(archive.parent.iterdir()) == [archive]


def test_reflectance_and_kelvin_are_those_of_the_metadata(make_landsat):
    dataset = open_dataset(make_landsat())
    (tile,) = dataset.tiles
    image_CHW, valid_HW = dataset.read(tile)
    calibration = dataset.calibration(tile)
    row, col = 20, 25
    numbers = dict(zip(BANDS, image_CHW[:, row, col].tolist(), strict=True))
    for k, band in enumerate(BANDS[:4]):
        by_hand = (2e-5 * numbers[band] - 0.1 - 0.001 * k) / math.sin(math.radians(30.0))
        assert calibration[band].apply(np.array(numbers[band])) == pytest.approx(by_hand, rel=1e-6)
    radiance = 3.342e-4 * numbers["B10"] + 0.1
    kelvin = 1321.0789 / math.log(774.8853 / radiance + 1)
    temperature_HW = derive(derived("temperature"), image_CHW[4:], valid_HW, calibration)
    assert temperature_HW[row, col] == pytest.approx(kelvin, rel=1e-6)
    assert np.isnan(temperature_HW[:6, :8]).all()
    assert tile.product.temperature_name == "Brightness temperature"
    green, swir = (
        (2e-5 * numbers[band] - 0.1 - 0.001 * k) / math.sin(math.radians(30.0)) for k, band in ((1, "B3"), (3, "B6"))
    )
    ndsi_HW = derive(derived("NDSI"), image_CHW[[1, 3]], valid_HW, calibration)
    assert ndsi_HW[row, col] == pytest.approx((green - swir) / (green + swir), rel=1e-4)


def test_level_2_scaling_is_known_without_metadata(make_landsat):
    dataset = open_dataset(make_landsat("LC08_L2SP_149035_20200731_20200908_02_T1", mtl=False))
    calibration = dataset.calibration(dataset.tiles[0])
    assert calibration["B6"].apply(np.array([7273, 43636])) == pytest.approx([2.75e-5 * 7273 - 0.2, 1.0], abs=2e-5)
    assert calibration["B10"].apply(np.array([44177.0])) == pytest.approx([149.0 + 0.00341802 * 44177])
    assert dataset.tiles[0].product.date == "2020-07-31"
    assert any("no metadata file" in text for text in dataset.warnings)


@pytest.mark.parametrize(
    ("bands", "numbers", "temperature"),
    [
        (
            ("SR_B2", "SR_B3", "SR_B4", "SR_B6", "ST_B10"),
            (2.75e-5 * 20_000 - 0.2, 149.0 + 0.00341802 * 36_000),
            "Surface",
        ),
        (("sr_band2", "sr_band3", "sr_band4", "sr_band6", "bt_band10"), (2.0, 3600.0), "Brightness"),
    ],
    ids=["Collection 2", "Collection 1"],
)
def test_a_renamed_scene_is_scaled_as_its_files_are_named(tmp_path, bands, numbers, temperature):
    for band in bands:
        value = 36_000 if band.endswith("10") else 20_000
        write_raster(tmp_path / "LC08_kolahoi_2020" / f"LC08_kolahoi_2020_{band}.TIF", np.full((8, 8), value, "u2"))
    dataset = open_dataset(tmp_path / "LC08_kolahoi_2020")
    (tile,) = dataset.tiles
    calibration = dataset.calibration(tile)
    found = calibration["B2"].apply(np.array([20_000.0]))[0], calibration["B10"].apply(np.array([36_000.0]))[0]
    assert found == pytest.approx(numbers)
    assert tile.product.temperature_name == f"{temperature} temperature"


def test_unknown_units_are_refused_with_the_mend(make_landsat):
    dataset = open_dataset(make_landsat(mtl=False))
    (tile,) = dataset.tiles
    assert not dataset.calibration(tile)
    assert "_MTL.txt" in tile.product.uncalibrated
    image_CHW, valid_HW = dataset.read(tile, ("B10",))
    with pytest.raises(DataError, match="units of B10 are not known"):
        derive(derived("temperature"), image_CHW, valid_HW, {})


def test_json_metadata_say_the_same(make_landsat):
    folder = make_landsat()
    before = open_dataset(folder).tiles[0]
    text = next(folder.glob("*_MTL.txt"))
    groups: dict = {}
    path = [groups]
    for line in text.read_text().splitlines():
        key, _, value = (piece.strip() for piece in line.partition("="))
        if key == "GROUP":
            path.append(path[-1].setdefault(value, {}))
        elif key == "END_GROUP":
            path.pop()
        elif key != "END":
            path[-1][key] = value.strip('"')
    text.with_suffix(".json").write_text(json.dumps(groups))
    text.unlink()
    after = open_dataset(text.with_suffix(".json")).tiles[0]
    assert after.product == before.product


def test_place_comes_from_the_metadata_where_the_files_have_none(make_landsat):
    placed = open_dataset(make_landsat()).tiles[0].georef
    dataset = open_dataset(make_landsat("LC08_L2SP_149035_20200731_20200908_02_T1", georeferenced=False))
    assert dataset.tiles[0].georef.same_grid(placed)
    assert dataset.tiles[0].georef.epsg == 32643
    folder = make_landsat("LT05_L1TP_149035_20000731_20200908_02_T1", georeferenced=False, shape=(40, 50))
    text = next(folder.glob("*_MTL.txt"))
    text.write_text(text.read_text().replace("GRID_CELL_SIZE_REFLECTIVE = 30", "GRID_CELL_SIZE_REFLECTIVE = 60"))
    dataset = open_dataset(folder)
    assert dataset.tiles[0].georef is None
    assert any("place is not known" in text for text in dataset.warnings)


def test_stripes_of_landsat_7_are_nodata_wherever_a_band_lacks_them(make_landsat):
    dataset = open_dataset(make_landsat("LE07_L1TP_149035_20100731_20200908_02_T1", gaps=True, quality=False))
    valid_HW = dataset.read_valid(dataset.tiles[0])
    # Four reflective bands, each a row further down; the thermal band's own row says nothing.
    assert not valid_HW[20:27, 10:].any()
    assert valid_HW[27:, 10:].all()
    assert valid_HW[20:27, :10].all()


def test_clouds_are_told_and_never_masked(make_landsat):
    dataset = open_dataset(make_landsat())
    (tile,) = dataset.tiles
    classes_HW = dataset.read_quality(tile)
    expected_HW = np.zeros((40, 50), np.uint8)
    expected_HW[10:14, 10:20], expected_HW[15:17, 10:20] = 1, 3
    # Bit 2 is band 3, which is in use; bit 6 is band 7, which is not.
    expected_HW[30, 30] = 4
    np.testing.assert_array_equal(classes_HW, expected_HW)
    assert dataset.read_valid(tile)[10:17, 10:20].all()
    np.testing.assert_array_equal(dataset.read_quality(tile, (8, 33), (9, 40)), expected_HW[8:33, 9:40])


def test_fill_of_the_quality_band_is_nodata(make_landsat):
    folder = make_landsat("LC08_L2SP_149035_20200731_20200908_02_T1")
    path = next(folder.glob("*QA_PIXEL.TIF"))
    with rasterio.open(path) as file:
        pixel_HW = file.read(1)
    pixel_HW[30:, 40:] = 1
    write_raster(path, pixel_HW, read_info(path).georef)
    valid_HW = open_dataset(folder).read_valid(open_dataset(folder).tiles[0])
    assert not valid_HW[30:, 40:].any()
    assert valid_HW[30:, :40].all()


@pytest.mark.parametrize("suffix", ["jp2", "tif"])
def test_sentinel_2_opens_on_the_grid_of_its_finest_bands(make_sentinel2, suffix):
    folder = make_sentinel2(suffix=suffix)
    dataset = open_dataset(folder)
    (tile,) = dataset.tiles
    assert tuple(tile.bands) == BANDS[:4]
    assert any("B10 is missing" in text for text in dataset.warnings)
    assert any("2 times as large" in text and "20 m on 10 m" in text for text in dataset.warnings)
    (blue,) = folder.rglob(f"*B02_10m.{suffix}")
    (swir,) = folder.rglob(f"*B11_20m.{suffix}")
    with rasterio.open(blue) as file:
        blue_HW, transform = file.read(1), tuple(file.transform)[:6]
    with rasterio.open(swir) as file:
        swir_HW = np.kron(file.read(1), np.ones((2, 2), np.uint16))
    image_CHW, valid_HW = dataset.read(tile)
    np.testing.assert_array_equal(image_CHW[0], blue_HW)
    np.testing.assert_array_equal(image_CHW[3], swir_HW)
    assert not image_CHW[4].any()
    np.testing.assert_array_equal(valid_HW, blue_HW != 0)
    assert (tile.georef.epsg, tile.georef.transform) == (32643, transform)
    part_CHW, _ = dataset.read(tile, ("B6", "B3"), (13, 28), (7, 32))
    np.testing.assert_array_equal(part_CHW[0], swir_HW[13:28, 7:32])
    assert tile.product.date == "2023-07-15"
    assert tile.product.cloud_percent == 3.25
    np.testing.assert_allclose(tile.product.calibration["B2"].apply(blue_HW), (blue_HW / 10000) - 0.1, atol=1e-6)
    assert dataset.read_quality(tile)[20, 20:].tolist() == [1] * 20
    assert not dataset.read_quality(tile)[22].any()


def test_a_plain_folder_of_sentinel_2_bands_opens_without_units(make_sentinel2, tmp_path):
    folder = tmp_path / "bands"
    folder.mkdir()
    for path in make_sentinel2(suffix="tif").rglob("*.tif"):
        shutil.copy(path, folder / f"{path.stem.split('_')[-2]}.tif")
    dataset = open_dataset(folder)
    assert tuple(dataset.tiles[0].bands) == BANDS[:4]
    assert not dataset.calibration(dataset.tiles[0])
    assert "MTD_MSIL" in dataset.tiles[0].product.uncalibrated


def test_a_folder_of_scenes_opens_scene_by_scene(make_landsat):
    make_landsat()
    path = make_landsat("LE07_L1TP_149035_20020731_20200908_02_T1", tar=True)
    dataset = open_dataset(path.parent)
    assert [tile.id[:4] for tile in dataset.tiles] == ["LC08", "LE07"]
    assert dataset.root == path.parent
    # Another date and sensor is another image, though both share one grid.
    assert len(plan_scenes(dataset)) == 2


@pytest.mark.parametrize("tar", [False, True], ids=["folder", "tar"])
def test_a_damaged_scene_among_others_is_left_out_with_the_reason(make_landsat, tar):
    sound = make_landsat()
    other = make_landsat("LE07_L1TP_149035_20020731_20200908_02_T1", tar=tar)
    path = other if tar else next(other.glob("*_B3.TIF"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError):
        open_dataset(sound.parent)
    dataset = open_dataset(sound.parent, without_damaged=True)
    assert [tile.id for tile in dataset.tiles] == [sound.name]
    assert list(dataset.damaged) == [other.name]
    # With nothing else to open, the reason is the answer.
    shutil.rmtree(sound)
    with pytest.raises(DataError, match=r"cut short|damaged"):
        open_dataset(other.parent, without_damaged=True)


def test_a_predicted_mask_is_not_taken_for_a_scene(make_landsat):
    archive = make_landsat(tar=True)
    # Masks take the first band's name; this one was written beside the archive.
    write_raster(archive.with_name(f"{archive.stem}_B2.TIF"), np.full((40, 50), 255, np.uint8))
    (tile,) = open_dataset(archive.parent).tiles
    assert tile.bands["B2"].path.parent == archive


def test_labels_of_a_scene_pair_with_it(make_landsat):
    folder = make_landsat()
    write_raster(folder / "label" / "outlines_by_hand.tif", np.zeros((40, 50), np.uint8))
    tile = open_dataset(folder, "glacier2").tiles[0]
    assert tile.mask_path == folder / "label" / "outlines_by_hand.tif"
    assert tile.new_mask_path == folder / "label" / f"{folder.name}_B2.TIF"


def _remove(pattern):
    def spoil(folder):
        next(folder.glob(pattern)).unlink()

    return spoil


def _cut(pattern, share):
    def spoil(folder):
        path = next(folder.glob(pattern))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return spoil


def _second_scene(folder):
    for path in list(folder.iterdir()):
        shutil.copy(path, folder / path.name.replace("20200731", "20200816"))


def _band_of_another_date(folder):
    path = next(folder.glob("*_B3.TIF"))
    path.rename(folder / path.name.replace("20200731", "20200816"))


def _other_metadata(folder):
    path = next(folder.glob("*_MTL.txt"))
    path.write_text(path.read_text().replace("149035", "149036"))


def _smaller_band(folder):
    write_raster(next(folder.glob("*_B4.TIF")), np.ones((33, 50), np.uint16))


def _float_quality(folder):
    write_raster(next(folder.glob("*_QA_PIXEL.TIF")), np.ones((40, 50), np.float32))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_cut("*_MTL.txt", 0.6), DataError, "cut short"),
        (_cut("*_B4.TIF", 0), RasterError, "not a TIFF|damaged|cut"),
        (_cut("*_B4.TIF", 0.5), RasterError, "cut short|damaged"),
        (_second_scene, DataError, "2 scenes"),
        (_band_of_another_date, DataError, "2 scenes"),
        (_other_metadata, DataError, "own metadata"),
        (_smaller_band, BandError, "33 x 50"),
        (_float_quality, RasterError, "quality band"),
    ],
)
def test_a_spoilt_scene_is_refused_in_words(make_landsat, spoil, error, words):
    folder = make_landsat()
    spoil(folder)
    with pytest.raises(error, match=words):
        open_dataset(folder)


def test_a_missing_band_is_named_and_zero(make_landsat):
    folder = make_landsat()
    _remove("*_B6.TIF")(folder)
    dataset = open_dataset(folder)
    assert any("Band B6 is missing" in text for text in dataset.warnings)
    assert not dataset.read(dataset.tiles[0])[0][3].any()


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.5, 0.8])
def test_an_archive_that_is_cut_is_refused(make_landsat, share):
    archive = make_landsat(tar=True)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    with pytest.raises(RasterError, match=r"cut short|whole tar"):
        open_dataset(archive)


def test_compressed_and_foreign_archives_are_refused(make_landsat, tmp_path):
    folder = make_landsat()
    packed = tmp_path / "scene.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(folder, ".")
    with pytest.raises(DataError, match="compressed"):
        open_dataset(packed)
    renamed = packed.rename(tmp_path / "scene.tar")
    with pytest.raises(RasterError, match="compressed, unpack"):
        open_dataset(renamed)
    foreign = tmp_path / "foreign.tar"
    with tarfile.open(foreign, "w") as tar:
        tar.add(next(folder.glob("*_MTL.txt")), "notes.txt")
    assert not is_dataset(foreign)
    with pytest.raises(DataError, match="holds no bands"):
        open_dataset(foreign)


def test_damaged_sentinel_metadata_and_bands_are_refused(make_sentinel2):
    folder = make_sentinel2()
    metadata = folder / "MTD_MSIL2A.xml"
    text = metadata.read_text()
    metadata.write_text(text[:200])
    with pytest.raises(DataError, match="cut short"):
        open_dataset(folder)
    metadata.write_text(text)
    (band,) = folder.rglob("*B03_10m.jp2")
    band.write_bytes(b"")
    with pytest.raises(GlacierError, match="B03"):
        open_dataset(folder)


def test_tiles_get_units_from_their_description(make_dataset):
    root = make_dataset()
    assert not open_dataset(root).units
    (root / "dataset.yaml").write_text("units: landsat-c2-l2\n")
    dataset = open_dataset(root)
    assert dataset.calibration(dataset.tiles[0])["B10"].apply(np.array([40000.0])) == pytest.approx(285.7208)
    (root / "dataset.yaml").write_text("units: celsius\n")
    with pytest.raises(DataError, match="celsius"):
        open_dataset(root)


def test_every_layer_is_finite_on_valid_pixels_and_nan_elsewhere(make_landsat):
    dataset = open_dataset(make_landsat())
    (tile,) = dataset.tiles
    for wanted in DERIVED:
        image_CHW, valid_HW = dataset.read(tile, wanted.bands)
        values_HW = derive(wanted, image_CHW, valid_HW, dataset.calibration(tile))
        np.testing.assert_array_equal(np.isfinite(values_HW), valid_HW)


def test_real_scenes_open_as_their_readme_says(real_data):
    level2 = open_dataset(real_data / "landsat_c2l2").tiles[0]
    assert (level2.georef.epsg, level2.georef.transform) == (32616, (30.0, 0.0, 544005.0, 0.0, -30.0, 1378995.0))
    assert level2.product.date == "2015-12-05"
    dataset = open_dataset(real_data / "landsat8_mendoza")
    (mendoza,) = dataset.tiles
    with rasterio.open(mendoza.bands["B10"].path) as file:
        expected_HW = file.read(1, masked=True)
        assert (mendoza.georef.epsg, mendoza.georef.transform) == (file.crs.to_epsg(), tuple(file.transform)[:6])
    image_CHW, valid_HW = dataset.read(mendoza)
    np.testing.assert_array_equal(image_CHW[4][valid_HW], expected_HW.filled(0)[valid_HW].astype(np.float32))
    assert valid_HW.all()
    assert 270 < np.median(mendoza.product.calibration["B10"].apply(image_CHW[4])) < 320
    assert mendoza.product.date == "2016-02-09"
    with pytest.raises(BandError, match="needs the 5 bands"):
        open_dataset(real_data / "everest")
