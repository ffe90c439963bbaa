import numpy as np
import pytest
from napari.components import LayerList
from napari.layers import Image, Labels
from napari.layers._layer_actions import _duplicate_layer
from napari.utils.colormaps import DirectLabelColormap

from napari_glacier.controllers import levels
from napari_glacier.controllers.pictures import LazyBand, LazyComposite, for_napari
from napari_glacier.controllers.rendering import laid_over, render, step_for
from napari_glacier.core.data import mosaic
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.tiling import Window


def test_classes_are_drawn_in_their_colours_with_background_transparent():
    index = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    colors = {0: "transparent", 1: "#ff0000", 2: "#0000ff", None: "transparent"}
    layer = Labels(index, colormap=DirectLabelColormap(color_dict=colors))
    drawn = render(layer, Window(4, 6, 8, 10), 2)
    expected = np.array([[0, 0, 0, 0], [255, 0, 0, 255], [0, 0, 255, 255]], np.uint8)[index[4:12:2, 6:16:2]]
    np.testing.assert_array_equal(drawn, expected)


def test_a_band_is_drawn_within_its_limits():
    values = np.linspace(-10, 110, 12, dtype=np.float32).reshape(3, 4)
    layer = Image(values, colormap="gray", contrast_limits=(0, 100))
    drawn = render(layer, Window(0, 0, 3, 4), 1)
    grey = np.round(255 * np.clip(values / 100, 0, 1))
    np.testing.assert_allclose(drawn[..., 0], grey, atol=1)
    assert (drawn[..., 3] == 255).all()


def test_a_picture_of_levels_is_read_from_the_level_that_is_fine_enough():
    fine = np.zeros((64, 64, 3), np.uint8)
    middle, coarse = np.full((32, 32, 3), 1, np.uint8), np.full((16, 16, 3), 2, np.uint8)
    layer = Image([fine, middle, coarse], rgb=True, multiscale=True)
    for step, level in ((1, 0), (2, 1), (4, 2), (8, 2)):
        drawn = render(layer, Window(8, 16, 32, 40), step)
        assert drawn.shape == (-(-32 // step), -(-40 // step), 4)
        assert (drawn[..., :3] == level).all()


def test_the_plane_of_a_stack_is_drawn():
    stack = np.stack([np.zeros((6, 7, 3), np.uint8), np.full((6, 7, 3), 9, np.uint8)])
    layer = Image(stack, rgb=True)
    assert (render(layer, Window(1, 1, 4, 4), 1, plane=1)[..., :3] == 9).all()


@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_laid_over_mixes_as_layers_do(opacity):
    rng = np.random.default_rng(1)
    below, above = rng.integers(0, 256, (2, 5, 6, 4)).astype(np.uint8)
    below[..., 3] = 255
    share = above[..., 3:] / 255 * opacity
    expected = np.round(above[..., :3] * share + below[..., :3] * (1 - share))
    mixed = laid_over([(below, 1.0), (above, opacity)])
    np.testing.assert_allclose(mixed[..., :3], expected, atol=1)
    assert (mixed[..., 3] == 255).all()


def test_pixels_finer_than_the_screens_are_skipped():
    assert [step_for(width) for width in (3.0, 1.0, 0.6, 0.5, 0.26, 0.25, 0.1)] == [1, 1, 1, 2, 2, 4, 8]


@pytest.mark.parametrize("is_large", [False, True])
def test_copies_of_a_layer_share_its_pixels(make_dataset, monkeypatch, is_large):
    if is_large:
        monkeypatch.setattr(mosaic, "LARGE_PX", 1000)
        monkeypatch.setattr(levels, "_COARSEST_PX", 64)
    (scene,) = plan_scenes(open_dataset(make_dataset()))
    for data in (LazyBand([scene], "B4"), LazyComposite([scene], ("B5", "B4", "B3"), [(0, 1)] * 3)):
        layers = LayerList([Image(**for_napari(data, [scene]), rgb=data.ndim == 3)])
        layers.selection = {layers[0]}
        _duplicate_layer(layers)
        first, second = layers
        assert second.multiscale == is_large
        pairs = zip(first.data, second.data, strict=True) if is_large else [(first.data, second.data)]
        assert all(copied is own for own, copied in pairs)
