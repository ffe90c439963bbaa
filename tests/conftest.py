"""Fixtures shared by all tests: small generated tiles, and the real ones where they are at hand."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# One thread everywhere: two threads beside another busy process are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# What a person keeps between sessions stays out of the tests' reach.
os.environ.setdefault("QT_API", "pyside6")

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.raster import GeoRef, write_mask, write_raster

REAL_DATA = Path(os.environ.get("NAPARI_GLACIER_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def _own_user_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_GLACIER_DATA_DIR", str(tmp_path_factory.mktemp("user_data")))


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
