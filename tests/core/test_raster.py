import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import rasterio

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.errors import RasterError, SaveError
from napari_glacier.core.raster import (
    GeoRef,
    read_description,
    read_info,
    read_mask_codes,
    read_mask_validity,
    read_raster,
    rewrite_mask,
    write_cog,
    write_mask,
    write_raster,
)

TRANSFORM = (30.0, 0.0, 460_425.0, 0.0, -30.0, 3_802_575.0)
UTM = GeoRef.from_epsg(32643, TRANSFORM)


def _random(dtype, shape=(5, 70, 83)):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 250, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("compress", [None, "lzw", "deflate"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_what_gdal_writes_is_read_alike(tmp_path, dtype, compress, interleave):
    array = _random(dtype)
    path = tmp_path / "a.tif"
    options = {"compress": compress, "predictor": 3 if dtype.startswith("float") else 2} if compress else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=70, width=83, count=5, dtype=dtype, nodata=7, crs="EPSG:32643",
        transform=rasterio.Affine(*TRANSFORM), interleave=interleave, tiled=True, blockxsize=32, blockysize=32,
        **options,
    ) as out:  # fmt: skip
        out.write(array)
    info = read_info(path)
    assert (info.count, info.height, info.width, info.dtype, info.nodata) == (5, 70, 83, np.dtype(dtype), 7)
    assert info.georef.epsg == 32643
    assert info.georef.transform == TRANSFORM
    np.testing.assert_array_equal(read_raster(path), array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(70, 83), (3, 70, 83)])
def test_what_is_written_gdal_reads_alike(tmp_path, dtype, shape):
    array = _random(dtype, shape)
    write_raster(tmp_path / "a.tif", array, UTM, nodata=0, description={"model": "a < b & c"})
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(), array.reshape(-1, 70, 83))
        assert file.crs.to_epsg() == 32643
        assert tuple(file.transform)[:6] == TRANSFORM
        assert file.nodata == 0
        assert file.tags()["model"] == "a < b & c"


def test_geographic_and_rotated_references_survive(tmp_path):
    for georef in (
        GeoRef.from_epsg(4326, (0.01, 0.0, 86.0, 0.0, -0.01, 28.0), geographic=True),
        GeoRef.from_epsg(32643, (20.0, 5.0, 1000.0, 5.0, -20.0, 2000.0)),
    ):
        write_raster(tmp_path / "a.tif", _random("uint8", (9, 8)), georef)
        with rasterio.open(tmp_path / "a.tif") as file:
            assert file.crs.to_epsg() == georef.epsg
            assert tuple(file.transform)[:6] == pytest.approx(georef.transform)
        assert read_info(tmp_path / "a.tif").georef.transform == pytest.approx(georef.transform)


def test_a_crs_without_a_code_survives(tmp_path):
    albers = "+proj=aea +lat_1=29.5 +lat_2=45.5 +lat_0=23 +lon_0=-96 +datum=NAD83 +units=m"
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=4, width=5, count=1, dtype="uint8", crs=albers,
        transform=rasterio.Affine(*TRANSFORM),
    ) as out:  # fmt: skip
        out.write(np.ones((1, 4, 5), np.uint8))
    georef = read_info(tmp_path / "a.tif").georef
    assert georef.epsg is None
    write_raster(tmp_path / "b.tif", np.ones((4, 5), np.uint8), georef)
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        assert a.crs == b.crs
        assert a.transform == b.transform


def test_pixel_is_point_is_brought_to_the_pixel_corner(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=4, width=5, count=1, dtype="uint8", crs="EPSG:32643",
        transform=rasterio.Affine(*TRANSFORM), AREA_OR_POINT="Point",
    ) as out:  # fmt: skip
        out.write(np.ones((1, 4, 5), np.uint8))
        out.update_tags(AREA_OR_POINT="Point")
    georef = read_info(tmp_path / "a.tif").georef
    with rasterio.open(tmp_path / "a.tif") as file:
        assert georef.transform == tuple(file.transform)[:6]
    write_raster(tmp_path / "b.tif", np.ones((4, 5), np.uint8), georef)
    with rasterio.open(tmp_path / "b.tif") as file:
        assert tuple(file.transform)[:6] == georef.transform


def test_a_window_of_a_reference_and_back_to_pixels():
    part = UTM.offset(row=3, col=7)
    assert part.transform == (30.0, 0.0, 460_425.0 + 210, 0.0, -30.0, 3_802_575.0 - 90)
    assert UTM.pixel_of(part.transform[2], part.transform[5]) == (3, 7)
    assert part.crs_key == UTM.crs_key


def test_a_mask_carries_codes_colours_and_class_names(tmp_path):
    scheme = get_scheme("glacier4")
    index_HW = np.arange(80, dtype=np.uint8).reshape(8, 10) % 4
    write_mask(tmp_path / "m.tif", index_HW, scheme, UTM, description={"model": "x"})
    with rasterio.open(tmp_path / "m.tif") as file:
        np.testing.assert_array_equal(file.read(1), np.array([0, 85, 170, 255], np.uint8)[index_HW])
        assert file.colormap(1)[85] == (0x56, 0xB4, 0xE9, 255)
        assert file.tags()["class_170"] == "debris"
        assert file.crs.to_epsg() == 32643
    assert "<Category>lake</Category>" in (tmp_path / "m.tif.aux.xml").read_text()


@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16"])
@pytest.mark.parametrize("tiled", [False, True])
def test_rewriting_changes_the_pixels_meant_and_keeps_everything_else(tmp_path, dtype, tiled):
    scheme = get_scheme("glacier2")
    codes_HW = (np.random.default_rng(0).random((96, 64)) < 0.4) * 255
    path, original = tmp_path / "m.tif", tmp_path / "original.tif"
    block = {"tiled": True, "blockxsize": 32, "blockysize": 32} if tiled else {}
    with rasterio.open(
        path, "w", driver="GTiff", height=96, width=64, count=1, dtype=dtype, nodata=9, crs="EPSG:32643",
        transform=rasterio.Affine(*TRANSFORM), compress="lzw", predictor=2 if dtype != "float32" else 3, **block,
    ) as out:  # fmt: skip
        out.write(codes_HW.astype(dtype), 1)
        out.update_tags(author="somebody", AREA_OR_POINT="Area")
    shutil.copy(path, original)
    changed_HW = np.zeros((96, 64), bool)
    changed_HW[10:14, 20:25] = True
    index_HW = np.where(changed_HW, 1 - codes_HW // 255, 0).astype(np.uint8)
    rewrite_mask(path, index_HW, changed_HW, scheme)
    with rasterio.open(original) as before, rasterio.open(path) as after:
        expected = before.read(1)
        expected[changed_HW] = 255 - expected[changed_HW]
        np.testing.assert_array_equal(after.read(1), expected)
        assert after.profile == before.profile
        assert after.tags()["author"] == "somebody"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.tif", "original.tif"]


def test_a_truncated_file_says_so(tmp_path):
    write_raster(tmp_path / "a.tif", _random("uint16"), UTM)
    whole = (tmp_path / "a.tif").read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 300, 9, 3, 0):
        (tmp_path / "a.tif").write_bytes(whole[:length])
        with pytest.raises(RasterError, match=r"a\.tif"):
            read_raster(tmp_path / "a.tif")


def test_damaged_pixels_are_an_error_not_a_picture(tmp_path):
    write_raster(tmp_path / "a.tif", _random("uint16", (70, 83)), UTM)
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    raw[-4000:-3000] = b"\xff" * 1000
    (tmp_path / "a.tif").write_bytes(raw)
    with pytest.raises(RasterError, match="damaged"):
        read_raster(tmp_path / "a.tif")


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.tif").write_text("just some words, not an image")
    with pytest.raises(RasterError, match="is not a TIFF image"):
        read_info(tmp_path / "text.tif")
    with pytest.raises(RasterError, match="does not exist"):
        read_info(tmp_path / "nothing.tif")
    with pytest.raises(RasterError, match="not a file"):
        read_info(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="limits and users are POSIX's")
@pytest.mark.parametrize("obstacle", ["full disk", "read-only folder"])
def test_a_failed_save_leaves_the_old_mask_whole(tmp_path, obstacle):
    path = tmp_path / "folder" / "m.tif"
    write_mask(path, np.zeros((400, 400), np.uint8), get_scheme("glacier4"), UTM)
    before = path.read_bytes()
    if obstacle == "full disk":
        # No file may grow beyond 2 kB, as on a disk with no room left.
        prepare = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        prepare += "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    else:
        path.parent.chmod(0o555)
        # Root may write anywhere, so the child becomes nobody.
        prepare = "import os; os.geteuid() == 0 and os.seteuid(65534)"
        if os.geteuid() == 0:
            for parent in (tmp_path, *tmp_path.parents[:3]):
                parent.chmod(parent.stat().st_mode | 0o055)
    code = textwrap.dedent(
        f"""
        import numpy as np
        from pathlib import Path
        from napari_glacier.core.classes import get_scheme
        from napari_glacier.core.errors import SaveError
        from napari_glacier.core.raster import rewrite_mask, write_mask
        labels = np.random.default_rng(0).integers(0, 4, (400, 400)).astype(np.uint8)
        write_mask(Path({str(tmp_path / "warm_up.tif")!r}), labels, get_scheme("glacier4"))
        """
    )
    code += prepare + textwrap.dedent(
        f"""
        try:
            rewrite_mask(Path({str(path)!r}), labels, np.ones((400, 400), bool), get_scheme("glacier4"))
        except SaveError as error:
            print("SaveError", error)
        """
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    path.parent.chmod(0o755)
    assert "SaveError" in result.stdout, result.stderr
    assert "could not be written" in result.stdout
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.tif", "m.tif.aux.xml"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_every_real_file_is_read_as_gdal_reads_it(real_data):
    files = [p for p in real_data.rglob("*") if p.suffix.lower() == ".tif"]
    assert len(files) > 90
    for path in files[::7]:
        with rasterio.open(path) as expected:
            np.testing.assert_array_equal(read_raster(path), expected.read())
            georef = read_info(path).georef
            if expected.crs is not None:
                assert georef.epsg == expected.crs.to_epsg()
                assert georef.transform == tuple(expected.transform)[:6]


@pytest.mark.parametrize(("dtype", "high", "scheme"), [("uint8", 1, "glacier2"), ("uint16", 65535, "salt2")])
def test_a_mask_keeps_its_own_codes_when_it_is_changed(tmp_path, dtype, high, scheme):
    codes_HW = np.zeros((16, 16), dtype)
    codes_HW[:4] = high
    write_raster(tmp_path / "m.tif", codes_HW)
    changed_HW = np.zeros((16, 16), bool)
    changed_HW[8, 8] = True
    rewrite_mask(tmp_path / "m.tif", np.ones((16, 16), np.uint8), changed_HW, get_scheme(scheme))
    codes_HW[8, 8] = high
    np.testing.assert_array_equal(read_raster(tmp_path / "m.tif")[0], codes_HW)


def test_names_beyond_ascii_are_written_and_kept(tmp_path):
    index_HW = np.zeros((16, 16), np.uint8)
    description = {"tile": "Mýrdalsjökull <1> & more", "made_by": "napari-glacier"}
    write_mask(tmp_path / "m.tif", index_HW, get_scheme("glacier4"), UTM, description)
    rewrite_mask(tmp_path / "m.tif", index_HW + 1, index_HW == 0, get_scheme("glacier4"))
    assert read_description(tmp_path / "m.tif").items() >= description.items()
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.tags()["tile"] == description["tile"]
        assert (file.read(1) == 85).all()


def test_a_compression_that_cannot_be_written_falls_back(tmp_path):
    path = tmp_path / "m.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=64, width=64, count=1, dtype="uint8", nbits=1, compress="CCITTFAX4",
        crs="EPSG:32643", transform=rasterio.Affine(*TRANSFORM),
    ) as out:  # fmt: skip
        out.write(np.zeros((1, 64, 64), np.uint8))
    changed_HW = np.zeros((64, 64), bool)
    changed_HW[3, 4:9] = True
    rewrite_mask(path, np.ones((64, 64), np.uint8), changed_HW, get_scheme("glacier2"))
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1) > 0, changed_HW)


def test_area_follows_the_files_own_word_on_its_units():
    metres = (30.0, 0.0, 0.0, 0.0, -30.0, 0.0)
    assert GeoRef.from_epsg(4491, metres).pixel_area_m2 == 900  # projected, though its code is a 4000
    assert GeoRef.from_epsg(7844, metres, geographic=True).pixel_area_m2 is None
    feet = GeoRef(metres, None, (1, 1, 0, 2, 1024, 0, 1, 1, 3076, 0, 1, 9002))
    assert feet.pixel_area_m2 == pytest.approx(900 * 0.3048**2)


def test_measures_are_cloud_optimised_and_whole(tmp_path):
    rng = np.random.default_rng(0)
    array_CHW = rng.random((2, 1100, 900), np.float32)
    array_CHW[:, :40] = np.nan
    path = tmp_path / "new" / "measures.tif"
    write_raster(tmp_path / "placed.tif", array_CHW[0], UTM)
    write_cog(path, array_CHW, UTM, nodata=float("nan"), description={"made_by": "us", "band_1": "entropy"})
    with rasterio.open(path) as file, rasterio.open(tmp_path / "placed.tif") as placed:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1) == [2, 4] or file.overviews(1) == [2]
        np.testing.assert_array_equal(file.read(), array_CHW)
        assert (file.crs, file.transform) == (placed.crs, placed.transform)
        assert np.isnan(file.nodata)
    assert read_description(path)["band_1"] == "entropy"
    assert sorted(p.name for p in path.parent.iterdir()) == ["measures.tif"]
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="could not be written"):
        write_cog(tmp_path / "file" / "a.tif", array_CHW)


def test_a_mask_rewritten_has_background_where_its_file_said_nodata(tmp_path):
    scheme, path = get_scheme("glacier2"), tmp_path / "mask.tif"
    codes_HW = np.zeros((20, 20), np.uint8)
    codes_HW[:5], codes_HW[15:] = 1, 255
    write_raster(path, codes_HW, nodata=255)
    index_HW = scheme.decode(read_mask_codes(path))
    assert (index_HW == (codes_HW == 1)).all()
    # All glacier goes: 255 must not come to be one.
    changed_HW = index_HW == 1
    rewrite_mask(path, np.zeros_like(index_HW), changed_HW, scheme)
    assert not read_mask_codes(path).any()
    # Where 255 is a class beside others, the header does not make it none.
    write_raster(tmp_path / "four.tif", np.array([[0, 85, 170, 255]], np.uint8), nodata=255)
    assert read_mask_codes(tmp_path / "four.tif").tolist() == [[0, 85, 170, 255]]


def test_pyramids_beside_a_mask_go_with_its_old_labels(tmp_path):
    scheme, path = get_scheme("glacier4"), tmp_path / "mask.tif"
    write_mask(path, np.ones((512, 512), np.uint8), scheme, UTM)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    assert path.with_name("mask.tif.ovr").exists()
    rewrite_mask(path, np.zeros((512, 512), np.uint8), np.ones((512, 512), bool), scheme)
    with rasterio.open(path) as file:
        assert not file.read(1, out_shape=(128, 128)).any()


def test_a_mask_tells_what_carries_data_and_goes_on_telling_it(tmp_path):
    path, scheme = tmp_path / "mask.tif", get_scheme("glacier4")
    index_HW = np.random.default_rng(0).integers(0, 4, (70, 90), np.uint8)
    valid_HW = np.random.default_rng(1).random((70, 90)) < 0.7
    write_mask(path, index_HW, scheme, UTM)
    assert read_mask_validity(path) is None
    write_mask(path, index_HW, scheme, UTM, valid_HW=valid_HW)
    changed_HW = np.zeros((70, 90), bool)
    changed_HW[3:5, 3:5] = True
    rewrite_mask(path, (index_HW + 1) % 4, changed_HW, scheme)
    np.testing.assert_array_equal(read_mask_validity(path), valid_HW)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.dataset_mask() > 0, valid_HW)
        np.testing.assert_array_equal(file.read(1), np.where(changed_HW, (index_HW + 1) % 4, index_HW) * 85)
    np.testing.assert_array_equal(read_mask_codes(path)[~changed_HW], index_HW[~changed_HW] * 85)


@pytest.mark.parametrize("held", [0, 1])
def test_a_class_written_with_the_code_of_nodata_is_read_back(tmp_path, held):
    """A tile without glaciers as a GIS writes it: 255 is its nodata value, and the code of the class."""
    path = tmp_path / "mask.tif"
    codes_HW = np.zeros((20, 30), np.uint8)
    codes_HW[:2] = held
    write_raster(path, codes_HW, UTM, nodata=255)
    index_HW = (codes_HW > 0).astype(np.uint8)
    index_HW[10:15, 5:9] = 1
    changed_HW = index_HW != (codes_HW > 0)
    rewrite_mask(path, index_HW, changed_HW, get_scheme("glacier2"))
    np.testing.assert_array_equal(get_scheme("glacier2").decode(read_mask_codes(path, codes=(0, 255))), index_HW)
    with rasterio.open(path) as file:
        # What another program takes for valid.
        assert (file.read_masks(1)[changed_HW] > 0).all()
        assert file.nodata == (255 if held else None)


def test_a_code_of_the_scheme_is_a_class_though_a_file_calls_it_nodata(tmp_path):
    path, codes_HW = tmp_path / "mask.tif", np.zeros((20, 20), np.uint8)
    codes_HW[5:9, 5:9] = 255
    write_raster(path, codes_HW, UTM, nodata=255)
    four, index = get_scheme("glacier4"), get_scheme("glacier4-index")
    # Lakes alone, beside tiles with codes of 85 and 170; in indices it is nodata.
    np.testing.assert_array_equal(read_mask_codes(path, codes=four.codes), codes_HW)
    assert not read_mask_codes(path, codes=index.codes).any()
    changed_HW = np.zeros((20, 20), bool)
    changed_HW[0, 0] = True
    rewrite_mask(path, np.ones((20, 20), np.uint8), changed_HW, four)
    codes_HW[0, 0] = 85
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), codes_HW)
    write_raster(path, np.where(codes_HW == 255, np.uint8(254), np.uint8(0)), UTM, nodata=254)
    assert not read_mask_codes(path, codes=four.codes).any()
