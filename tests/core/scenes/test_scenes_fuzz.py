"""Whatever bytes a scene is made of: an answer or a sentence, never another exception."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.errors import GlacierError

# (place, what is put there): bytes changed, taken out or put in.
_CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["flip", "cut", "drop", "insert"]), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)
_FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def _changed(data: bytes, changes) -> bytes:
    spoilt = bytearray(data)
    for place, what, value in changes:
        # Headers matter most, so half of the changes fall on the first bytes.
        at = int((place * 2 - 1 if place > 0.5 else place * 400 / max(len(spoilt), 400)) * max(len(spoilt) - 1, 0))
        if what == "cut":
            del spoilt[at:]
        elif what == "drop":
            del spoilt[at : at + 1 + value % 9]
        elif what == "insert":
            spoilt[at:at] = bytes([value])
        elif spoilt:
            spoilt[at] ^= value or 1
    return bytes(spoilt)


def _answers(path: Path) -> None:
    try:
        dataset = open_dataset(path, without_damaged=True)
        for tile in dataset.tiles:
            image_CHW, valid_HW = dataset.read(tile)
            assert image_CHW.shape[1:] == valid_HW.shape == (tile.height, tile.width)
            dataset.read_quality(tile)
            dataset.read(tile, ("B2",), (0, min(tile.height, 20)), (0, min(tile.width, 20)), (5, 5))
            for band, calibration in dataset.calibration(tile).items():
                values = calibration.apply(image_CHW[0])
                assert values.dtype == np.float32, band
    except GlacierError:
        # A refusal is an answer; anything else fails the test.
        return


@contextmanager
def _spoilt(path: Path, changes):
    """A file with changed bytes, whole again afterwards."""
    whole = path.read_bytes()
    try:
        path.write_bytes(_changed(whole, changes))
        yield
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@_FEW
@given(changes=_CHANGES, which=st.sampled_from(["_B3.TIF", "_QA_PIXEL.TIF", "_MTL.txt"]))
def test_changed_bytes_of_a_landsat_file(make_landsat, module_folder, changes, which):
    folder = module_folder / "LC08_L1TP_149035_20200731_20200908_02_T1"
    if not folder.exists():
        shutil.copytree(make_landsat(folder.name), folder)
    with _spoilt(next(folder.glob(f"*{which}")), changes):
        _answers(folder)


@_FEW
@given(changes=_CHANGES)
def test_changed_bytes_of_an_archive(make_landsat, module_folder, changes):
    archive = module_folder / "LE07_L1TP_149035_20020731_20200908_02_T1.tar"
    if not archive.exists():
        shutil.copy(make_landsat(archive.stem, tar=True), archive)
    with _spoilt(archive, changes):
        _answers(archive)


@_FEW
@given(changes=_CHANGES, which=st.sampled_from(["*B04_10m.jp2", "*SCL_20m.jp2", "MTD_MSIL2A.xml"]))
def test_changed_bytes_of_a_sentinel_2_product(make_sentinel2, module_folder, changes, which):
    folder = module_folder / "S2B_MSIL2A_20230715T053649_N0509_R005_T43SFV_20230715T081300.SAFE"
    if not folder.exists():
        shutil.copytree(make_sentinel2(), folder)
    (path,) = folder.rglob(which)
    with _spoilt(path, changes):
        _answers(folder)


@_FEW
@given(changes=_CHANGES, which=st.sampled_from(["_SR_B4.TIF", "_QA_PIXEL.TIF", "_MTL.txt"]))
def test_changed_bytes_of_a_scene_in_a_mosaic(make_landsat, module_folder, changes, which):
    root = module_folder / "neighbours"
    if not root.exists():
        made = make_landsat("LC08_L2SP_149035_20200731_20200908_02_T1")
        make_landsat("LC08_L2SP_149036_20210802_20210908_02_T1", origin=(25, 10))
        shutil.copytree(made.parent, root)
    with _spoilt(next(root.glob(f"LC08_L2SP_149036*/*{which}")), changes):
        _answers(root)
