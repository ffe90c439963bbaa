"""Elevation and slope beside the band folders; pixels checked with rasterio."""

import shutil

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

from napari_glacier.core.bands import CANONICAL_BANDS, TERRAIN_BANDS
from napari_glacier.core.channels import Normalisation, required_bands
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import is_dataset, missing_band_warnings, open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.doctor import examine
from napari_glacier.core.errors import BandError, DataError
from napari_glacier.core.raster import read_info, write_raster
from napari_glacier.core.tiling import Window
from napari_glacier.nn.checkpoint import LoadedModel, ModelCard
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.predictor import Predictor
from napari_glacier.nn.scene import band_gaps


@pytest.fixture
def add_terrain():
    """Writer of elevation and slope for the tiles of a folder of bands; gives {tile id: (elevation, slope)}."""

    def add(folder, names=TERRAIN_BANDS, prefix="elevation", nodata=None):
        rng = np.random.default_rng(7)
        written = {}
        first = next(child for child in sorted(folder.iterdir()) if child.name in {"Band1", "B2"})
        for path in sorted(first.iterdir()):
            tile_id = path.stem.removeprefix("B2_")
            terrain = rng.uniform(4000, 7000, (64, 64)).astype("f4"), rng.uniform(0, 60, (64, 64)).astype("f4")
            for name, values_HW in zip(names, terrain, strict=True):
                georef = read_info(path).georef
                write_raster(folder / name / f"{prefix}_{tile_id}.tif", values_HW, georef, nodata=nodata)
            written[tile_id] = terrain
        return written

    return add


@pytest.mark.parametrize(
    ("names", "prefix"), [(("elevation", "slope"), "elevation"), (("DEM", "Slope"), "dem"), (TERRAIN_BANDS, "X")]
)
@pytest.mark.parametrize("splits", [(), ("train", "val")])
def test_terrain_beside_the_bands_is_found_and_read_as_it_is(make_dataset, add_terrain, splits, names, prefix):
    root = make_dataset(splits=splits, grid=(1, 2))
    written = {}
    for folder in [root / split for split in splits] or [root]:
        written |= add_terrain(folder, names, prefix)
    dataset = open_dataset(root)
    assert dataset.bands == (*CANONICAL_BANDS, *TERRAIN_BANDS)
    assert dataset.warnings == ()
    assert set(written) == {tile.id for tile in dataset.tiles}
    for tile in dataset.tiles:
        assert tuple(tile.bands) == (*CANONICAL_BANDS, *TERRAIN_BANDS)
        assert tile.name == f"B2_{tile.id}.tif"
        assert tile.new_mask_path.name == tile.name
        image_CHW, valid_HW = dataset.read(tile, ("slope", "B4", "elevation"))
        with rasterio.open(tile.bands["elevation"].path) as file:
            np.testing.assert_array_equal(image_CHW[2], file.read(1) * valid_HW)
        np.testing.assert_array_equal(image_CHW[0], written[tile.id][1] * valid_HW)
        np.testing.assert_array_equal(image_CHW[1], dataset.read(tile, ("B4",))[0][0])
    # What asks for nothing gets the five bands, as before.
    assert dataset.read(tile)[0].shape[0] == 5


def test_validity_is_the_satellites_alone(make_dataset, add_terrain):
    root = make_dataset(grid=(1, 1))
    valid_HW = open_dataset(root).read_valid(open_dataset(root).tiles[0])
    ((tile_id, (elevation_HW, _)),) = add_terrain(root).items()
    assert 0 < valid_HW.sum() < valid_HW.size
    path, georef = root / "elevation" / f"elevation_{tile_id}.tif", read_info(root / "Band1" / "B2_00_00.tif").georef
    gap_HW = np.zeros((64, 64), bool)
    gap_HW[5:20, 5:20] = gap_HW[40:50, 30:40] = True
    known = elevation_HW[valid_HW & ~gap_HW]
    for gone, nodata in ((-9999, -9999), (np.nan, None), (-32768, None), (-3.4e38, -3.4e38), (0, 0)):
        write_raster(path, np.where(gap_HW, gone, elevation_HW).astype("f4"), georef, nodata=nodata)
        dataset = open_dataset(root)
        for bands in (TERRAIN_BANDS, ("B2", "elevation"), CANONICAL_BANDS):
            np.testing.assert_array_equal(dataset.read(dataset.tiles[0], bands)[1], valid_HW)
        read_HW = dataset.read(dataset.tiles[0], ("elevation",))[0][0]
        np.testing.assert_allclose(read_HW[gap_HW & valid_HW], known.mean(dtype=np.float64), rtol=1e-6)
        np.testing.assert_array_equal(read_HW[~gap_HW], (elevation_HW * valid_HW)[~gap_HW])
    # Sea level and flat ground are values as any other.
    write_raster(path, np.zeros((64, 64), "f4"), georef)
    write_raster(root / "slope" / f"elevation_{tile_id}.tif", np.zeros((64, 64), "i2"), georef)
    dataset = open_dataset(root)
    image_CHW, again_HW = dataset.read(dataset.tiles[0], TERRAIN_BANDS)
    assert not image_CHW.any()
    np.testing.assert_array_equal(again_HW, valid_HW)


def test_terrain_of_some_tiles_is_missed_only_where_it_is_asked_for(make_dataset, add_terrain):
    root = make_dataset()
    add_terrain(root)
    (root / "elevation" / "elevation_01_01.tif").unlink()
    shutil.copy(root / "slope" / "elevation_00_00.tif", root / "slope" / "elevation_77_77.tif")
    dataset = open_dataset(root)
    assert dataset.warnings == ()
    assert len(dataset.tiles) == 4
    (text,) = missing_band_warnings(dataset.tiles, ("B2", *TERRAIN_BANDS))
    assert "elevation is missing in 1 of 4 tiles (01_01)" in text
    (scene,) = plan_scenes(dataset)
    (gap,) = band_gaps(scene, required_bands(["elevation", "NDSI"]))
    assert (gap.tile_id, gap.bands) == ("01_01", {"elevation"})
    diagnosis = examine(root)
    assert diagnosis.exit_code == 0
    assert [f.message for f in diagnosis.findings if "elevation" in f.message] == [text]
    # Not read at all, so a damaged file does no harm to who does not ask for it.
    (root / "slope" / "elevation_00_00.tif").write_bytes(
        (root / "slope" / "elevation_00_00.tif").read_bytes()[:-40] + b"\xff" * 40
    )
    whole = open_dataset(root)
    whole.read(whole.tile("00_00"))


def test_terrain_that_belongs_to_no_tile_is_said_and_harmless(make_dataset):
    root = make_dataset()
    write_raster(root / "dem" / "dem.tif", np.ones((900, 900), "i2"))
    dataset = open_dataset(root)
    assert dataset.bands == CANONICAL_BANDS
    assert "none of them of a tile (dem.tif)" in dataset.warnings[0]
    assert len(dataset.warnings) == 1
    for band in range(1, 6):
        shutil.rmtree(root / f"Band{band}")
    assert not is_dataset(root)
    with pytest.raises(DataError, match="No tiles were found"):
        open_dataset(root)


def test_terrain_of_another_size_or_place_is_named(make_dataset, add_terrain):
    root = make_dataset()
    add_terrain(root)
    path = root / "elevation" / "elevation_00_01.tif"
    elsewhere = read_info(root / "elevation" / "elevation_01_01.tif").georef
    write_raster(path, np.ones((64, 64), "f4"), elsewhere)
    with pytest.raises(BandError, match="Band elevation of tile 00_01 lies elsewhere"):
        open_dataset(root)
    write_raster(path, np.ones((32, 32), "f4"))
    with pytest.raises(BandError, match="Band elevation of tile 00_01 is 32 x 32, the other bands are 64 x 64"):
        open_dataset(root)
    shutil.copytree(root / "elevation", root / "dem")
    with pytest.raises(BandError, match="both hold band elevation"):
        open_dataset(root)


def test_a_mosaic_has_its_terrain_in_place(make_dataset, add_terrain):
    root = make_dataset(grid=(2, 2))
    written = add_terrain(root)
    (scene,) = plan_scenes(open_dataset(root))
    expected_HW = np.block(
        [[written["00_00"][0], written["00_01"][0]], [written["01_00"][0], written["01_01"][0]]]
    ) * scene.valid()  # fmt: skip
    bands_CHW, valid_HW = scene.read(scene.whole)
    bands = ("elevation", "B6", "slope", "B2")
    image_CHW, also_valid_HW = scene.read(Window(40, 50, 60, 70), bands)
    where = np.s_[40:100, 50:120]
    np.testing.assert_array_equal(also_valid_HW, valid_HW[where])
    np.testing.assert_array_equal(image_CHW[0], expected_HW[where])
    np.testing.assert_array_equal(image_CHW[[3, 1]], bands_CHW[[0, 3]][:, *where])
    assert image_CHW[2].any()


class Planes(nn.Module):
    """Logits straight from the input's first two channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :1], x[:, 1:2], torch.zeros_like(x[:, :2])], dim=1)


def _member() -> LoadedModel:
    channels = ("elevation", "B2", "slope")
    card = ModelCard(
        name="terrain",
        architecture="ba_unet",
        arguments={},
        channels=channels,
        normalisation=Normalisation((5500.0, 20_000.0, 30.0), (900.0, 9000.0, 15.0)),
        scheme=get_scheme("glacier4"),
    )
    return LoadedModel(Planes().eval(), card)


def _predict(scene):
    run = Predictor(Ensemble([_member()]), tta="off", device="cpu", precision="fp32", window_px=64, overlap_px=16).run(
        scene
    )
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def test_a_model_that_looks_at_terrain_predicts_with_it_and_without(make_dataset, add_terrain):
    root = make_dataset()
    written = add_terrain(root)
    (scene,) = plan_scenes(open_dataset(root))
    elevation_HW = np.block(
        [[written["00_00"][0], written["00_01"][0]], [written["01_00"][0], written["01_01"][0]]]
    )  # fmt: skip
    (blue_HW,), valid_HW = scene.read(scene.whole, ("B2",))

    def expected(first_HW):
        logits_KHW = np.stack([first_HW, (blue_HW - 20_000) / 9000, 0 * first_HW, 0 * first_HW])
        values_KHW = np.exp(logits_KHW)
        return (values_KHW / values_KHW.sum(0))[:, valid_HW]

    with_terrain = _predict(scene)
    found = with_terrain.probabilities_KHW[:, valid_HW]
    np.testing.assert_allclose(found, expected((elevation_HW - 5500) / 900), atol=1e-5)
    assert with_terrain.provenance["warnings"] == []

    shutil.rmtree(root / "elevation")
    (scene,) = plan_scenes(open_dataset(root))
    without = _predict(scene)
    np.testing.assert_allclose(without.probabilities_KHW[:, valid_HW], expected(0 * blue_HW), atol=1e-5)
    assert "dataset has no elevation" in without.provenance["warnings"][0]
    assert "training mean" in without.provenance["warnings"][0]
