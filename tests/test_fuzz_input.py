"""Damaged and hostile files: each is answered or refused with a sentence, never with a crash, a hang or a wrong tile.

NAPARI_GLACIER_FUZZ_CASES=700 sets the cases of each test (there are four; by default a few seconds in all).
"""

import csv
import json
import os
import resource
import shutil
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.doctor import examine
from napari_glacier.core.errors import GlacierError
from napari_glacier.core.prepare.burning import ClassRule
from napari_glacier.core.prepare.hkh import HkhSettings, prepare_hkh
from napari_glacier.core.prepare.tiles import TileSettings, prepare_tiles
from napari_glacier.core.raster import read_raster, write_mask, write_raster
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.submission import check_submission

CASES = int(os.environ.get("NAPARI_GLACIER_FUZZ_CASES", "30"))
FUZZ = settings(
    max_examples=CASES,
    deadline=30_000,  # milliseconds: a hang, not a slow machine
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
# The files have a few thousand bytes; whatever their headers say, memory must not follow.
MOST_MEMORY_MB = 1_500

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(3_000 if CASES > 100 else 300),
]

SIDE = 24
NUMBERS = [0, 1, 2, 7, 24, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 10**6]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["byte", "short", "int", "int_be", "cut", "drop", "twice", "long", "word"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(NUMBERS), st.integers(0, 2**32 - 1)),
    ),
    min_size=1,
    max_size=4,
)
WORDS = [b"../../x", b"nan", b"1e999", b"-1", b"99999999999999999999", b"\x00", b"[", b"\xff\xfe", b"null", b"!!x"]


def _edited(content: bytes, edits) -> bytes:
    """Bytes with a few places changed; most changes hit the head, where sizes and offsets stand."""
    raw = bytearray(content)
    for kind, place, number in edits:
        if not raw:
            break
        at = int(place * min(len(raw), 400 if number % 2 else len(raw)))
        if kind == "byte":
            raw[at] = number & 255
        elif kind == "cut":
            del raw[at:]
        elif kind == "drop":
            del raw[at : at + number % 40]
        elif kind == "twice":
            raw[at:at] = raw[at : at + number % 40]
        elif kind == "word":
            raw[at : at + number % 9] = WORDS[number % len(WORDS)]
        else:
            form = {"short": "<H", "int": "<I", "int_be": ">I", "long": "<Q"}[kind]
            value = struct.pack(form, number & (0xFFFF if kind == "short" else 0xFFFFFFFF))
            raw[at : at + len(value)] = value
    return bytes(raw)


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < MOST_MEMORY_MB


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A sound data set of every kind, with all files that may be damaged."""
    root = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(0)
    image = rng.integers(1, 60_000, (5, SIDE, SIDE)).astype("u2")
    mask = rng.integers(0, 4, (SIDE, SIDE)).astype("u1")
    four = get_scheme("glacier4")
    for number in range(2):
        georef = GeoRef.from_epsg(32644, (30.0, 0, 5e5 + 30 * SIDE * number, 0, -30.0, 3.5e6))
        for k, band in enumerate(("B2", "B3", "B4", "B6", "B10")):
            path = root / "bands" / "train" / band / f"t{number}.tif"
            if (number + k) % 2:
                write_raster(path, image[k], georef, nodata=0)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 1, "dtype": "uint16"}
                with rasterio.open(path, "w", crs="EPSG:32644", transform=_affine(georef), **profile) as file:
                    file.write(image[k], 1)
        write_mask(root / "bands" / "train_masks" / f"t{number}.tif", mask, four, georef)
    (root / "bands" / "dataset.yaml").write_text("scheme: glacier4\n")
    for kind in ("images", "masks"):
        (root / "pictures" / "train" / kind).mkdir(parents=True)
        (root / "arrays" / kind).mkdir(parents=True)
    for number, mode in enumerate(("L", "RGBA")):
        Image.fromarray((image[0] >> 8).astype("u1")).convert(mode).save(
            root / "pictures" / "train" / "images" / f"p{number}.png"
        )
        Image.fromarray(mask > 1).save(root / "pictures" / "train" / "masks" / f"p{number}.png")
    np.save(root / "arrays" / "images" / "a0.npy", np.moveaxis(image, 0, 2))
    np.save(root / "arrays" / "masks" / "a0.npy", mask)
    np.save(root / "arrays" / "images" / "a1.npy", np.stack([np.moveaxis(image, 0, 2)] * 2).astype("f4"))
    np.save(root / "arrays" / "masks" / "a1.npy", np.stack([mask] * 2))
    (root / "arrays" / "train_ids.txt").write_text("a0\n")
    (root / "arrays" / "val_ids.txt").write_text("a1\n")
    (root / "arrays" / "dataset.yaml").write_text("scheme: glacier4-index\nbands: [B2, B3, B4, B6, B10]\n")
    (root / "arrays" / "slices.csv").write_text(
        "tile,epsg,geographic,a,b,c,d,e,f\na0,32644,no,30.0,0.0,500000.0,0.0,-30.0,3500000.0\n"
    )
    _write_raw(root / "raw", rng)
    shutil.copytree(root / "raw" / "HKH_labels", root / "outlines")
    box = shapely.box(5e5, 3.5e6 - 500, 5e5 + 600, 3.5e6)
    for suffix in ("gpkg", "geojson"):
        pyogrio.raw.write(
            root / "outlines" / f"o.{suffix}",
            np.array([shapely.to_wkb(box)], object),
            [np.array(["Clean Ice"], object)],
            ["Glaciers"],
            geometry_type="Polygon",
            crs="EPSG:32644",
        )
    return root


def _affine(georef):
    return rasterio.Affine(*georef.transform)


def _write_raw(root, rng):
    """Raw HKH data: one image of 15 bands, a polygon with a hole, and whose region it is."""
    (root / "HKH_images").mkdir(parents=True)
    (root / "HKH_labels").mkdir()
    profile = {"driver": "GTiff", "height": 40, "width": 40, "count": 15, "dtype": "uint8", "crs": "EPSG:32644"}
    with rasterio.open(
        root / "HKH_images" / "s.tif", "w", transform=rasterio.Affine(30, 0, 5e5, 0, -30, 3.5e6), **profile
    ) as file:
        file.write(rng.integers(1, 255, (15, 40, 40)).astype("u1"))
    frame, hole = (
        shapely.box(5e5, 3.5e6 - 900, 5e5 + 900, 3.5e6),
        shapely.box(5e5 + 90, 3.5e6 - 300, 5e5 + 300, 3.5e6 - 90),
    )
    pyogrio.raw.write(
        root / "HKH_labels" / "g.shp",
        np.array([shapely.to_wkb(frame - hole)], object),
        [np.array(["Clean Ice"], object)],
        ["Glaciers"],
        geometry_type="Polygon",
        crs="EPSG:32644",
    )
    (root / "metadata.csv").write_text("image,region\ns.tif,Nepal\n")


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


class _Damaged:
    """A file with other bytes for a while; what is written outside `out` meanwhile fails the test."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def __enter__(self):
        self.before = self.path.read_bytes()
        self.path.write_bytes(self.content)

    def __exit__(self, *_):
        self.path.write_bytes(self.before)


def _answers(action):
    """What an action gives, or None where it refuses with a sentence."""
    try:
        return action()
    except GlacierError as error:
        if not str(error).strip():
            raise AssertionError("an error without a sentence") from error
        return None


def _as_others_read(path):
    """Pixels of a file by another program, shape (bands, H, W); None where that refuses, too."""
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            return np.moveaxis(array, -1, -3) if array.ndim >= 3 else None
        if path.suffix == ".png":
            picture = Image.open(path)
            picture.load()
            return np.moveaxis(np.asarray(picture.convert("RGBA")), 2, 0)[: 3 if picture.mode in {"RGB", "RGBA"} else 1]
        with rasterio.open(path) as file:
            return file.read()
    except Exception:  # noqa: BLE001 - any other program may fail in any way
        return None


def _open_and_read(folder):
    dataset = open_dataset(folder)
    for tile in dataset.tiles:
        image_CHW, valid_HW = dataset.read(tile, tile.distinct_bands)
        assert image_CHW.shape[1:] == valid_HW.shape == (tile.height, tile.width)
        mask_HW = dataset.read_mask(tile)
        assert mask_HW is None or mask_HW.shape == valid_HW.shape
    return dataset


@FUZZ
@given(st.integers(0, 10**6), EDITS)
def test_damaged_tiles_are_read_as_others_read_them_or_refused(samples, choice, edits):
    folder = samples / ("bands", "pictures", "arrays")[choice % 3]
    files = _files(folder)
    path = files[choice // 3 % len(files)]
    with _Damaged(path, _edited(path.read_bytes(), edits)):
        _answers(lambda: _open_and_read(folder))
        diagnosis = examine(folder)
        assert diagnosis.exit_code in {0, 1, 2}
        json.dumps(diagnosis.as_dict())
        if path.suffix in {".tif", ".npy", ".png"} and path.parent.name not in {"masks", "train_masks"}:
            ours, theirs = _answers(lambda: read_raster(path)), _as_others_read(path)
            if ours is not None and theirs is not None and ours.shape == theirs.shape and ours.dtype == theirs.dtype:
                np.testing.assert_array_equal(ours, theirs)


@FUZZ
@given(st.integers(0, 10**6), EDITS)
def test_damaged_outlines_and_scenes_become_tiles_or_are_refused(samples, tmp_path_factory, choice, edits):
    scene = samples / "bands" / "train"
    outlines = [path for path in _files(samples / "outlines") if path.suffix in {".shp", ".gpkg", ".geojson"}]
    taken = outlines[choice % len(outlines)]
    own = sorted((samples / "outlines").glob(f"{taken.stem}.*")) if taken.suffix == ".shp" else [taken]
    targets = own if choice % 4 else [p for p in _files(scene) if p.suffix == ".tif"]
    path = targets[choice // 4 % len(targets)]
    out = tmp_path_factory.mktemp("out")
    rule = ClassRule.parse("Glaciers", ["Clean Ice=glacier", "*=debris"]) if choice % 2 else ClassRule()
    settings_ = TileSettings(tile_px=32, rule=rule, outline_crs="EPSG:32644")
    before = set(samples.rglob("*"))
    with _Damaged(path, _edited(path.read_bytes(), edits)):
        _answers(lambda: list(prepare_tiles(scene, [taken], out / "set", settings_)))
    # GDAL may leave its own index beside a file, nothing else may appear.
    assert all(p.name.startswith(taken.stem) for p in set(samples.rglob("*")) - before)
    assert {p.name for p in out.iterdir()} <= {"set"}
    # Of a preparation that failed on its way there may be parts.
    if (out / "set" / "train_masks").is_dir():
        _answers(lambda: _open_and_read(out / "set"))
    shutil.rmtree(out)


@FUZZ
@given(st.integers(0, 10**6), EDITS)
def test_damaged_raw_data_are_prepared_or_refused(samples, tmp_path_factory, choice, edits):
    raw = samples / "raw"
    files = _files(raw)
    path = files[choice % len(files)]
    out = tmp_path_factory.mktemp("out")
    with _Damaged(path, _edited(path.read_bytes(), edits)):
        _answers(
            lambda: list(prepare_hkh(raw, out / "processed", HkhSettings(tile_px=32, min_glacier_px=1, overlap=0.1)))
        )
    assert {p.name for p in out.iterdir()} <= {"processed"}
    if (out / "processed" / "mean.npy").is_file():
        assert len(_open_and_read(out / "processed").tiles) > 0
    shutil.rmtree(out)


@FUZZ
@given(EDITS)
def test_a_damaged_table_is_checked_or_refused(tmp_path_factory, edits):
    path = tmp_path_factory.mktemp("table") / "s.csv"
    path.write_bytes(_edited(b"id,rle_mask\na,1 3 7 2\nb,\n../../x,10200 2\n", edits))
    faults = _answers(lambda: check_submission(path))
    assert faults is None or all(isinstance(text, str) for text in faults)
    shutil.rmtree(path.parent)


# Made on purpose, not by chance


def _png_of(height, width):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _tiff_of(height, width):
    """A TIFF of that size with one strip of ten bytes, deflate-compressed as it says."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 8), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, 10)]
    body = zlib.compress(b"ab")[:10].ljust(10, b"\0")
    entries = b"".join(struct.pack("<HHII", code, kind, 1, value) for code, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 18) + body + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def _npy_of(height, width):
    text = repr({"descr": "<f8", "fortran_order": False, "shape": (height, width, 5)}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + b"\0" * 64


@pytest.mark.parametrize("side", [60_000, 2**31 - 1])
@pytest.mark.parametrize("kind", ["bands", "pictures", "arrays", "masks"])
def test_a_tiny_file_that_claims_a_huge_size_takes_no_memory(samples, kind, side):
    target, make = {
        "bands": ("bands/train/B2/t0.tif", _tiff_of),
        "masks": ("bands/train_masks/t0.tif", _tiff_of),
        "pictures": ("pictures/train/images/p0.png", _png_of),
        "arrays": ("arrays/images/a0.npy", _npy_of),
    }[kind]
    folder = samples / ("bands" if kind == "masks" else kind)
    path = samples / target
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with _Damaged(path, make(side, side)):
        diagnosis = examine(folder)
    assert diagnosis.exit_code == 2
    assert path.name in " ".join(finding.text for finding in diagnosis.findings)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert time.monotonic() - started < 30


def test_pickled_objects_are_never_loaded(samples):
    path = samples / "arrays" / "images" / "a0.npy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = path.read_bytes()
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    try:
        diagnosis = examine(samples / "arrays")
        assert diagnosis.exit_code == 2
        assert "never loaded" in diagnosis.findings[0].text
    finally:
        path.write_bytes(held)


def test_ids_regions_and_attributes_are_never_paths(samples, tmp_path):
    raw = tmp_path / "deep" / "raw"
    shutil.copytree(samples / "raw", raw)
    (raw / "metadata.csv").write_text("image,region\n../../x,../../y\ns.tif,../../../evil\n")
    before = set(tmp_path.rglob("*"))
    list(prepare_hkh(raw, raw / "processed", HkhSettings(tile_px=32, min_glacier_px=1)))
    assert all(path.is_relative_to(raw / "processed") for path in set(tmp_path.rglob("*")) - before)
    with (raw / "processed" / "slices.csv").open(newline="") as file:
        assert {row["region"] for row in csv.DictReader(file)} == {"../../../evil"}
    assert yaml.safe_load((raw / "processed" / "dataset.yaml").read_text())["scheme"] == "glacier4-index"
