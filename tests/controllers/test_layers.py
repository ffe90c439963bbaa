import threading

import numpy as np
import pytest

from napari_glacier.controllers.layers import class_colormap, map_text, world_placement, world_to_map
from napari_glacier.controllers.pictures import LazyBand, LazyComposite, band_limits, composite_rgba, stretch_limits
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.raster.georef import GeoRef


def test_limits_are_percentiles_of_valid_pixels_only():
    values = np.concatenate([np.zeros(5000), np.arange(1, 1001)]).astype(np.float32)
    valid = values > 0

    low, high = stretch_limits(values, valid)

    assert low == pytest.approx(np.percentile(np.arange(1, 1001), 2))
    assert high == pytest.approx(np.percentile(np.arange(1, 1001), 98))


@pytest.mark.parametrize("values", [np.zeros(4), np.full(4, 7.0), np.full(4, np.nan)])
def test_limits_are_finite_and_increasing_for_flat_or_empty_bands(values):
    low, high = stretch_limits(values, np.isfinite(values) & (values > 0))

    assert np.isfinite([low, high]).all()
    assert low < high


def test_composite_stretches_each_band_and_hides_nodata():
    image_CHW = np.stack([np.linspace(0, scale, 100).reshape(10, 10) for scale in (1, 100, 10_000)])
    valid_HW = np.ones((10, 10), bool)
    valid_HW[0, 0] = False

    rgba = composite_rgba(image_CHW, valid_HW, [(0, 1), (0, 100), (0, 10_000)])

    assert rgba.dtype == np.uint8
    assert rgba[0, 0].tolist() == [0, 0, 0, 0]
    assert rgba[9, 9].tolist() == [255, 255, 255, 255]
    expected = np.linspace(0, 255, 100).reshape(10, 10)
    assert np.abs(rgba[..., 0].astype(float) - expected)[valid_HW].max() <= 1
    assert np.array_equal(rgba[..., 0], rgba[..., 2])


def test_lazy_band_reads_nothing_until_it_is_looked_at(make_dataset):
    dataset = open_dataset(make_dataset())
    (scene,) = plan_scenes(dataset)
    band = LazyBand([scene], "B4")

    assert band.shape == (128, 128)
    assert not band.is_read
    direct = scene.read(scene.whole, ("B4",))[0][0]
    assert np.array_equal(band[10:20, 5], direct[10:20, 5])
    assert band.is_read
    assert np.array_equal(np.asarray(band), direct)


def test_lazy_stack_reads_only_the_scene_on_screen(make_dataset):
    scenes = plan_scenes(open_dataset(make_dataset(georeferenced=False)))
    band = LazyBand(scenes, "B2")

    plane = band[2]

    assert band.shape == (4, 64, 64)
    assert list(band._planes) == [2]
    assert np.array_equal(plane, scenes[2].read(scenes[2].whole, ("B2",))[0][0])
    assert np.array_equal(band[1, 3:5, :7], np.asarray(band)[1, 3:5, :7])


def test_a_band_read_ahead_is_read_once_in_another_thread_and_its_failure_told_to_who_looks(make_dataset, monkeypatch):
    (scene,) = plan_scenes(open_dataset(make_dataset()))
    direct = scene.read(scene.whole, ("B4",))[0][0]
    readers, read = [], type(scene).read

    def noted(self, window, bands):
        readers.append(threading.current_thread())
        if fails:
            raise OSError("the disk is gone")
        return read(self, window, bands)

    monkeypatch.setattr(type(scene), "read", noted)
    fails = True
    band = LazyBand([scene], "B4")
    band.read_ahead()
    with pytest.raises(OSError, match="disk is gone"):
        band[0, 0]
    fails = False
    assert np.array_equal(band[5:9], direct[5:9]), "who looks again, reads again"

    ahead = LazyBand([scene], "B4")
    ahead.read_ahead()
    ahead.read_ahead()
    assert np.array_equal(np.asarray(ahead), direct)
    own = threading.current_thread()
    assert [reader is own for reader in readers] == [False, True, False]


def test_lazy_composite_equals_the_direct_one(make_dataset):
    (scene,) = plan_scenes(open_dataset(make_dataset()))
    limits = band_limits([scene], ("B4", "B3", "B2"))

    picture = np.asarray(LazyComposite([scene], ("B4", "B3", "B2"), list(limits.values())))

    image_CHW, valid_HW = scene.read(scene.whole, ("B4", "B3", "B2"))
    assert np.array_equal(picture, composite_rgba(image_CHW, valid_HW, list(limits.values())))
    assert not picture[~valid_HW].any()
    assert limits["B4"] == pytest.approx(tuple(np.percentile(image_CHW[0][valid_HW], [2, 98])))


def test_pixels_lie_where_the_transform_says():
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0, 0.0, -30.0, 3_800_000.0))
    place = world_placement(georef)

    def world(row, col):
        return np.array(place["translate"]) + np.array(place["scale"]) * (row, col)

    # The centre of the first pixel is half a pixel in from the corner.
    assert world_to_map(world(0, 0)) == (500_015.0, 3_799_985.0)
    assert world_to_map(world(10, 4)) == (500_015.0 + 120, 3_799_985.0 - 300)
    assert place["scale"] == (30.0, 30.0), "rows run down the screen, so north stays up"


def test_turned_grid_gives_an_affine_that_agrees_with_the_transform():
    transform = (20.0, 5.0, 400_000.0, 4.0, -22.0, 5_000_000.0)
    affine = world_placement(GeoRef.from_epsg(32632, transform))["affine"]

    row, col = 7.0, 3.0
    position = affine @ (row, col, 1.0)

    a, b, c, d, e, f = transform
    assert world_to_map(position[:2]) == pytest.approx(
        (a * (col + 0.5) + b * (row + 0.5) + c, d * (col + 0.5) + e * (row + 0.5) + f)
    )


def test_map_text_names_easting_northing_and_system():
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 0.0, 0.0, -30.0, 0.0))

    assert map_text(georef, (-3_771_840.2, 567_960.4)) == "E 567\u202f960 m  N 3\u202f771\u202f840 m  EPSG:32643"
    assert "lat 35.50000°" in map_text(GeoRef.from_epsg(4326, (1.0, 0, 0, 0, -1.0, 0), geographic=True), (-35.5, 76.0))


def test_colours_are_the_schemes_and_background_is_transparent():
    colormap = class_colormap(get_scheme("glacier4"))

    assert colormap.map(0)[3] == 0
    assert colormap.map(9)[3] == 0
    assert np.allclose(colormap.map(1), [0x56 / 255, 0xB4 / 255, 0xE9 / 255, 1], atol=1e-3)
