"""Fixtures shared by all tests: small generated tiles, and the real ones where they are at hand."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

# One thread everywhere: two threads beside another busy process are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# What a person keeps between sessions stays out of the tests' reach.
os.environ.setdefault("QT_API", "pyside6")

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.raster import GeoRef, read_raster, write_mask, write_raster

REAL_DATA = Path(os.environ.get("NAPARI_GLACIER_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, then windows, so that at the end no process waits for another with a long file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: 0 if item.path in slow else 1 if item.path.parent.name == "views" else 2)


@pytest.fixture(scope="session")
def _converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests keep converted networks: the same small one serves many of them."""
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(autouse=True)
def _own_user_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, _converted: Path
) -> None:
    folder = tmp_path_factory.mktemp("user_data")
    (folder / "cache").mkdir()
    # Where links are for administrators, each test converts its own.
    with suppress(OSError):
        (folder / "cache" / "openvino").symlink_to(_converted, target_is_directory=True)
    monkeypatch.setenv("NAPARI_GLACIER_DATA_DIR", str(folder))


@pytest.fixture
def qtbot(qtbot: QtBot) -> QtBot:
    """As of pytest-qt, but waiting longer: other tests run on the same cores."""
    qtbot.waitUntil = partial(qtbot.waitUntil, timeout=30_000)  # type: ignore[method-assign]
    return qtbot


@pytest.fixture
def real_tiles() -> Path:
    """Folder of the 15 real tiles; the test is skipped where they are not at hand."""
    folder = REAL_DATA / "glacierhack" / "Train"
    if not folder.is_dir():
        pytest.skip(f"real tiles are not at {folder}; set NAPARI_GLACIER_REAL_DATA")
    return folder


@pytest.fixture
def real_data() -> Path:
    """Folder of all real data; the test is skipped where it is not at hand."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data are not at {REAL_DATA}; set NAPARI_GLACIER_REAL_DATA")
    return REAL_DATA


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Maker of a small data set on disk; see `write_small_dataset`."""

    def make(name: str = "dataset", **options: object) -> Path:
        return write_small_dataset(tmp_path / name, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_unequal_scenes(make_dataset: Callable[..., Path]) -> Callable[..., Path]:
    """Maker of a data set of some tiles that lie nowhere, the last of which, of 48 x 40 pixels, is smaller.

    Each is a scene by itself: tiles of two sizes are no stack.
    """

    def make(number: int, **options: object) -> Path:
        root = make_dataset(georeferenced=False, grid=(1, number), **options)
        for path in root.glob(f"*/*_00_{number - 1:02d}.tif"):
            write_raster(path, read_raster(path)[0][:48, :40])
        return root

    return make


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Maker of a small network with seeded, untrained weights."""

    def make(name: str = "tiny", scheme: str = "glacier4", folder: Path = tmp_path) -> Path:
        import torch

        from napari_glacier.core.bands import CANONICAL_BANDS
        from napari_glacier.core.channels import Normalisation
        from napari_glacier.core.classes import get_scheme
        from napari_glacier.nn.checkpoint import ModelCard, save_checkpoint
        from napari_glacier.nn.zoo import build_model

        torch.set_num_threads(1)
        torch.manual_seed(3)
        arguments = {"encoder": "tu-mobilenetv3_small_050", "decoder_channels": [16, 16, 16, 16, 16]}
        model = build_model("unet", channels=CANONICAL_BANDS, num_classes=get_scheme(scheme).num_classes, **arguments)
        card = ModelCard(
            name=name,
            architecture="unet",
            arguments=arguments,
            channels=CANONICAL_BANDS,
            normalisation=Normalisation((20_000.0,) * 5, (9_000.0,) * 5),
            scheme=get_scheme(scheme),
        )
        path = folder / f"{name}.safetensors"
        save_checkpoint(path, model, card)
        return path

    return make


@pytest.fixture
def make_landsat(tmp_path: Path) -> Callable[..., Path]:
    """Maker of a small Landsat scene with the product's own file names; see `write_landsat`."""

    def make(scene: str = LANDSAT_8_L1, **options: object) -> Path:
        return write_landsat(tmp_path / "scenes" / scene, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_sentinel2(tmp_path: Path) -> Callable[..., Path]:
    """Maker of a small Sentinel-2 product in SAFE folders; see `write_sentinel2`."""

    def make(product: str = SENTINEL_2, **options: object) -> Path:
        return write_sentinel2(tmp_path / "scenes" / f"{product}.SAFE", **options)  # type: ignore[arg-type]

    return make


LANDSAT_8_L1 = "LC08_L1TP_149035_20200731_20200908_02_T1"
SENTINEL_2 = "S2B_MSIL2A_20230715T053649_N0509_R005_T43SFV_20230715T081300"
# Files that a scene of each kind comes with: the five bands in use first, then one that is not.
LANDSAT_FILES = {
    "LC08_L1": ("B2", "B3", "B4", "B6", "B10", "B5"),
    "LC09_L1": ("B2", "B3", "B4", "B6", "B10", "B5"),
    "LC08_L2": ("SR_B2", "SR_B3", "SR_B4", "SR_B6", "ST_B10", "SR_B5"),
    "LE07_L1": ("B1", "B2", "B3", "B5", "B6_VCID_1", "B6_VCID_2"),
    "LE07_L2": ("SR_B1", "SR_B2", "SR_B3", "SR_B5", "ST_B6", "SR_B4"),
    "LT05_L1": ("B1", "B2", "B3", "B5", "B6", "B4"),
    "LT05_L2": ("SR_B1", "SR_B2", "SR_B3", "SR_B5", "ST_B6", "SR_B4"),
}
LANDSAT_MTL = """GROUP = LANDSAT_METADATA_FILE
  GROUP = PRODUCT_CONTENTS
    LANDSAT_PRODUCT_ID = "{scene}"
  END_GROUP = PRODUCT_CONTENTS
  GROUP = IMAGE_ATTRIBUTES
    DATE_ACQUIRED = 2020-07-31
    CLOUD_COVER = 12.34
    SUN_ELEVATION = 30.0
  END_GROUP = IMAGE_ATTRIBUTES
  GROUP = PROJECTION_ATTRIBUTES
    MAP_PROJECTION = "UTM"
    DATUM = "WGS84"
    UTM_ZONE = 43
    GRID_CELL_SIZE_REFLECTIVE = 30.00
    CORNER_UL_PROJECTION_X_PRODUCT = 300015.000
    CORNER_UL_PROJECTION_Y_PRODUCT = 4199985.000
    CORNER_LR_PROJECTION_X_PRODUCT = {right}
    CORNER_LR_PROJECTION_Y_PRODUCT = {bottom}
  END_GROUP = PROJECTION_ATTRIBUTES
  GROUP = LEVEL1_RADIOMETRIC_RESCALING
{rescaling}
  END_GROUP = LEVEL1_RADIOMETRIC_RESCALING
  GROUP = LEVEL1_THERMAL_CONSTANTS
    K1_CONSTANT_{thermal} = 774.8853
    K2_CONSTANT_{thermal} = 1321.0789
  END_GROUP = LEVEL1_THERMAL_CONSTANTS
END_GROUP = LANDSAT_METADATA_FILE
END
"""


def write_landsat(
    folder: Path,
    *,
    shape: tuple[int, int] = (40, 50),
    georeferenced: bool = True,
    quality: bool = True,
    mtl: bool = True,
    tar: bool = False,
    gaps: bool = False,
    seed: int = 0,
    origin: tuple[int, int] = (0, 0),
) -> Path:
    """Write a scene called like `folder`: seeded numbers, a corner of fill, a cloud and a shadow in QA_PIXEL.

    `origin` moves it by rows and columns of the grid.

    With `gaps`, oblique stripes of fill a row further down in every band, as Landsat 7 has them; with `tar`, the
    scene is one archive beside where the folder would be.
    """
    import tarfile

    scene = folder.name
    names = LANDSAT_FILES[f"{scene[:4]}_{scene[5:7]}"]
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if scene.startswith(("LE07_L1", "LT05_L1")) else np.uint16
    first = GeoRef.from_epsg(32643, (30.0, 0.0, 300_000.0, 0.0, -30.0, 4_200_000.0))
    georef = first.offset(*origin) if georeferenced else None
    for k, name in enumerate(names):
        numbers_HW = rng.integers(20 if dtype == np.uint8 else 7000, np.iinfo(dtype).max - 5, shape).astype(dtype)
        numbers_HW[:6, :8] = 0
        if gaps:
            numbers_HW[20 + k : 24 + k, 10:] = 0
        write_raster(folder / f"{scene}_{name}.TIF", numbers_HW, georef)
    if quality:
        pixel_HW = np.full(shape, 21824, np.uint16)
        pixel_HW[:6, :8] = 1
        pixel_HW[10:14, 10:20] = 22280  # cloud, high confidence
        pixel_HW[15:17, 10:20] = 23888  # cloud shadow
        write_raster(folder / f"{scene}_QA_PIXEL.TIF", pixel_HW, georef)
        saturation_HW = np.zeros(shape, np.uint16)
        saturation_HW[30, 30] = 1 << 2
        saturation_HW[31, 31] = 1 << 6
        write_raster(folder / f"{scene}_QA_RADSAT.TIF", saturation_HW, georef)
    if mtl:
        digits = [name.removeprefix("SR_").removeprefix("ST_").removeprefix("B") for name in names]
        lines = []
        for k, band in enumerate(digits):
            quantity, gain, offset = ("RADIANCE", 3.342e-4, 0.1) if k == 4 else ("REFLECTANCE", 2e-5, -0.1 - 0.001 * k)
            lines += [f"    {quantity}_MULT_BAND_{band} = {gain}", f"    {quantity}_ADD_BAND_{band} = {offset}"]
        text = LANDSAT_MTL.format(
            scene=scene,
            right=300_015 + 30 * (shape[1] - 1),
            bottom=4_199_985 - 30 * (shape[0] - 1),
            rescaling="\n".join(lines),
            thermal=f"BAND_{digits[4]}",
        )
        (folder / f"{scene}_MTL.txt").write_text(text)
    if not tar:
        return folder
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w") as file:
        for path in sorted(folder.iterdir()):
            file.add(path, path.name)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return archive


def write_sentinel2(folder: Path, *, side_px: int = 40, suffix: str = "jp2", metadata: bool = True) -> Path:
    """Write a Level-2A product: B02, B03, B04 at 10 m, B11 and SCL at 20 m, an offset of -1000 in the metadata."""
    import rasterio

    tile, day = "T43SFV", folder.name.split("_")[2]
    images = folder / "GRANULE" / f"L2A_{tile}_A033196_{day}" / "IMG_DATA"
    rng = np.random.default_rng(5)
    for name, metres in (("B02", 10), ("B03", 10), ("B04", 10), ("B11", 20), ("SCL", 20)):
        side = side_px * 10 // metres
        numbers_HW = rng.integers(1100, 9000, (side, side)).astype(np.uint16)
        numbers_HW[: side // 4, : side // 5] = 0
        if name == "SCL":
            numbers_HW = np.full((side, side), 11, np.uint8)
            numbers_HW[: side // 4, : side // 5] = 0
            numbers_HW[side // 2, side // 2 :] = 9
        path = images / f"R{metres}m" / f"{tile}_{day}_{name}_{metres}m.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        driver = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"} if suffix == "jp2" else {}
        with rasterio.open(
            path,
            "w",
            width=side,
            height=side,
            count=1,
            dtype=numbers_HW.dtype,
            crs="EPSG:32643",
            transform=rasterio.Affine(metres, 0, 600_000, 0, -metres, 4_000_020),
            **driver,
        ) as file:
            file.write(numbers_HW, 1)
    if metadata:
        offsets = "".join(f'<BOA_ADD_OFFSET band_id="{k}">-1000</BOA_ADD_OFFSET>' for k in range(13))
        (folder / "MTD_MSIL2A.xml").write_text(
            '<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">'
            f"<PRODUCT_START_TIME>2023-07-15T05:36:49.024Z</PRODUCT_START_TIME><PRODUCT_URI>{folder.name}</PRODUCT_URI>"
            f"<BOA_QUANTIFICATION_VALUE unit='none'>10000</BOA_QUANTIFICATION_VALUE>{offsets}"
            "<Cloud_Coverage_Assessment>3.25</Cloud_Coverage_Assessment></n1:Level-2A_User_Product>"
        )
    return folder


def write_small_dataset(
    root: Path,
    *,
    grid: tuple[int, int] = (2, 2),
    size_px: int = 64,
    scheme: str = "glacier4",
    splits: tuple[str, ...] = (),
    masks: bool = True,
    georeferenced: bool = True,
    dtype: str = "uint16",
    seed: int = 0,
) -> Path:
    """Write abutting tiles whose classes can be told from their bands, with a nodata corner in tile (0, 0).

    With `splits`, each split is a block of tiles in ``root/<split>``, a tile's width apart; else ``root/Band1 …``.
    """
    rng = np.random.default_rng(seed)
    classes = get_scheme(scheme)
    for block, split in enumerate(splits or ("",)):
        for row in range(grid[0]):
            for col in range(grid[1]):
                index_HW = _blobs(rng, size_px, classes.num_classes)
                means = np.linspace(8000, 40000, classes.num_classes)[index_HW]
                image_CHW = np.stack([means * (1 - 0.12 * k) for k in range(5)]) + rng.normal(
                    0, 900, (5, size_px, size_px)
                )
                image_CHW = np.clip(image_CHW, 1, 65535).round()
                if (row, col) == (0, 0):
                    image_CHW[:, :10, :12] = 0
                    index_HW[:10, :12] = 0
                column = col + block * (grid[1] + 1)
                transform = (30.0, 0.0, 500_000.0 + 30 * size_px * column, 0.0, -30.0, 3_800_000.0 - 30 * size_px * row)
                georef = GeoRef.from_epsg(32643, transform) if georeferenced else None
                tile_id = f"{row:02d}_{column:02d}"
                folder = root / split if split else root
                for k, band in enumerate(CANONICAL_BANDS):
                    band_folder = folder / (band if split else f"Band{k + 1}")
                    write_raster(band_folder / f"{band}_{tile_id}.tif", image_CHW[k].astype(dtype), georef, nodata=0)
                if masks:
                    mask_folder = root / f"{split}_masks" if split else root / "label"
                    write_mask(mask_folder / f"mask_{tile_id}.tif", index_HW, classes, georef)
    return root


def _blobs(rng: np.random.Generator, size_px: int, num_classes: int) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.normal(size=(size_px, size_px)), size_px / 10, mode="wrap")
    ranks = field.ravel().argsort().argsort().reshape(field.shape) / field.size
    return np.minimum((ranks * num_classes).astype(np.uint8), num_classes - 1)


@pytest.fixture
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a SAM 2 of the smallest size that takes squares of 64 pixels, never trained."""
    transformers = pytest.importorskip("transformers")
    import torch

    from napari_glacier.nn.zoo.sam2 import _config, _known_size

    size = {
        "width": 8,
        "blocks": [1, 1, 2, 1],
        "global_blocks": [3],
        "windows": [8, 4, 4, 2],
        "background": 2,
        "decoder_width": 32,
        "decoder_inner": 64,
    }
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    transformers.Sam2Model(transformers.Sam2Config(**_config(_known_size(size), 64))).save_pretrained(folder)
    return folder
