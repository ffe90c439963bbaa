"""The region as files: a tiny one generated here, and the one that ships."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from napari_glacier._sample import generate

from napari_glacier.core.bands import CANONICAL_BANDS

SHIPPED = Path(str(resources.files("napari_glacier._sample"))) / "region"
TINY = generate.Layout(
    tile_px=32,
    train=((0, 0), (0, 1)),
    val=((0, 3),),
    gone=((0, 1, 0.2),),
    wedge_px=20,
    margin_px=48,
)


def read(path):
    with rasterio.open(path) as file:
        return file.read(1), file.profile, file.tags()


def blocks(root):
    """Per split: {tile id: (bands CHW, mask codes HW, transform)}."""
    found = {}
    for split in ("train", "val"):
        found[split] = {}
        for mask_path in sorted((root / f"{split}_masks").glob("*.tif")):
            tile_id = mask_path.stem.removeprefix("mask_")
            paths = [root / split / band / f"{band}_{tile_id}.tif" for band in CANONICAL_BANDS]
            image = np.stack([read(path)[0] for path in paths])
            codes, profile, _ = read(mask_path)
            assert {read(path)[1]["transform"] for path in paths} == {profile["transform"]}
            found[split][tile_id] = image, codes, profile["transform"]
    return found


@pytest.fixture(scope="module")
def shipped():
    return blocks(SHIPPED)


def test_the_same_seed_gives_the_same_files(tmp_path):
    generate.write_region(tmp_path / "a", seed=11, layout=TINY)
    generate.write_region(tmp_path / "b", seed=11, layout=TINY)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) >= 3 * 6 + 1
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
    other = generate.make_scene(12, TINY)
    assert (other.image_CHW != generate.make_scene(11, TINY).image_CHW).any()


def test_shipped_blocks_hold_every_class(shipped):
    least = {85: 0.05, 170: 0.05, 255: 0.007}
    assert (len(shipped["train"]), len(shipped["val"])) == (9, 4)
    for split, tiles in shipped.items():
        codes = np.stack([codes for _, codes, _ in tiles.values()])
        assert set(np.unique(codes)) == {0, 85, 170, 255}
        for code, share in least.items():
            assert (codes == code).mean() > share, (split, code)


def test_shipped_tiles_abut_on_one_grid_with_a_gap(shipped):
    for tiles in shipped.values():
        for tile_id, (image, codes, transform) in tiles.items():
            row, col = (int(part) for part in tile_id.split("_"))
            expected = generate.ORIGIN[0] + col * 256 * 30.0, generate.ORIGIN[1] - row * 256 * 30.0
            assert (transform.c, transform.f) == expected
            assert (transform.a, transform.b, transform.d, transform.e) == (30.0, 0.0, 0.0, -30.0)
            assert image.shape == (5, 256, 256)
            assert codes.shape == (256, 256)
    columns = {split: {int(tile_id[-2:]) for tile_id in tiles} for split, tiles in shipped.items()}
    assert min(columns["val"]) - max(columns["train"]) >= 2


def test_shipped_files_say_what_they_are():
    _, profile, tags = read(SHIPPED / "train" / "B2" / "B2_00_00.tif")
    assert profile["crs"].to_epsg() == 32643
    assert profile["dtype"] == "uint16"
    assert profile["nodata"] == 0
    assert profile["compress"] == "deflate"
    assert tags["SYNTHETIC"] == "yes"
    about = yaml.safe_load((SHIPPED / "dataset.yaml").read_text(encoding="utf-8"))
    assert about["synthetic"] is True
    assert about["scheme"] == "glacier4"
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 9e6
    assert "synthetic" in (SHIPPED.parent / "README.md").read_text(encoding="utf-8")


def test_nodata_is_zero_in_all_bands_and_background(shipped):
    shares = []
    partly = []
    for tiles in shipped.values():
        for image, codes, _ in tiles.values():
            missing = (image == 0).all(axis=0)
            assert not codes[missing].any()
            shares.append(missing.mean())
            partly.append(((image == 0).any(axis=0) & ~missing).mean())
    assert sum(share == 0 for share in shares) >= 3
    assert sum(0.08 < share < 0.35 for share in shares) >= 3
    assert 0.003 < np.mean(partly) < 0.04


def test_shipped_numbers_look_like_landsat(shipped):
    pixels = np.concatenate([image.reshape(5, -1) for image, _, _ in shipped["train"].values()], axis=1)
    codes = np.concatenate([codes.ravel() for _, codes, _ in shipped["train"].values()])
    valid = pixels.any(axis=0)
    saturated = (pixels[0, valid] >= 65_454).mean()
    assert 0.005 < saturated < 0.04
    kelvin = pixels[4] * 0.00341802 + 149.0
    clean = kelvin[valid & (codes == 85)]
    assert (
        np.percentile(clean, 95) < 273.15 + 1.0
    )  # the rest are edge pixels mixed with warm rock by the 100 m detector
    assert np.median(kelvin[codes == 170]) > np.median(clean) + 3.0
    ice, rock = (np.median(pixels[3, valid & (codes == code)]) for code in (85, 0))
    assert ice < rock  # snow and ice are dark in SWIR


@pytest.mark.slow
def test_shipped_region_is_what_the_script_makes(shipped):
    scene = generate.make_scene(generate.DEFAULT_SEED, generate.Layout())
    image, codes, _ = shipped["val"]["01_05"]
    area = slice(256, 512), slice(5 * 256, 6 * 256)
    assert (scene.index_HW[area] == codes // 85).mean() > 0.999  # other machines round the last bit differently
    assert np.abs(scene.image_CHW[:, *area].astype(float) - image).mean() < 20.0
