import numpy as np
import pytest

from napari_glacier.core.tiling import Blender, Window, blend_weights, windows


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (65, 64), (100, 257), (300, 40)])
@pytest.mark.parametrize("overlap", [0, 8, 31])
def test_windows_cover_every_pixel_and_none_is_needless(height, width, overlap):
    count = np.zeros((height, width), int)
    for window in windows(height, width, 64, overlap):
        assert window.clipped(height, width).height > 0
        count[window.slices] += 1
    assert count.min() >= 1
    assert len(windows(64, 64, 64, overlap)) == 1


def test_windows_are_anchored_so_a_cut_scene_sees_the_same_ones():
    whole = set(windows(500, 500, 64, 16))
    part = {Window(w.row + 48 * 3, w.col + 48 * 2, 64, 64) for w in windows(200, 200, 64, 16)}
    assert part <= whole


@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_blending_a_constant_and_a_plane_gives_them_back(overlap):
    rng = np.random.default_rng(0)
    scene_CHW = rng.random((2, 150, 131)).astype(np.float32)
    padded_CHW = np.pad(scene_CHW, ((0, 0), (0, 64), (0, 64)))
    blender = Blender(2, 150, 131)
    weights_HW = blend_weights(64, overlap)
    assert weights_HW.min() > 0
    for window in windows(150, 131, 64, overlap):
        blender.add(window, padded_CHW[:, *window.slices], weights_HW)
    np.testing.assert_allclose(blender.result(), scene_CHW, rtol=1e-5)


def test_a_window_reaching_over_all_borders_is_cut_right():
    blender = Blender(1, 5, 5)
    values_CHW = np.arange(81, dtype=np.float32).reshape(1, 9, 9)
    blender.add(Window(-2, -2, 9, 9), values_CHW, np.ones((9, 9), np.float32))
    np.testing.assert_array_equal(blender.result(), values_CHW[:, 2:7, 2:7])


def test_an_overlap_as_wide_as_the_window_is_refused():
    with pytest.raises(ValueError, match="overlap_px is 64"):
        windows(10, 10, 64, 64)
