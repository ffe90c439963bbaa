import numpy as np
import pytest

from napari_glacier.core.tiling import Window, blend_weights, windows


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


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (65, 64), (100, 257), (300, 40)])
@pytest.mark.parametrize("overlap", [0, 5, 16, 31, 60])
def test_every_pixel_of_a_scene_has_a_window_in_which_it_counts(height, width, overlap):
    total = np.zeros((height, width), np.float32)
    for window in windows(height, width, 64, overlap):
        clipped = window.clipped(height, width)
        weights = blend_weights(window, height, width, overlap)
        np.testing.assert_array_equal(weights, blend_weights(clipped, height, width, overlap))
        total[clipped.slices] += weights
    assert total.min() > 0
    if overlap <= 32:
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_pixels_next_to_a_neighbouring_window_are_left_to_it():
    weights = blend_weights(Window(48, 0, 64, 64), 400, 64, 16)
    assert not weights[:6].any()
    assert not weights[-6:].any()
    assert (weights[10:-10] == 1).all()
    assert (weights[:, 0] == weights[:, 30]).all(), "the scene's border is no neighbour"


def test_a_window_reaching_over_all_borders_is_cut_to_the_scene():
    assert Window(-2, -2, 9, 9).clipped(5, 6) == Window(0, 0, 5, 6)
    assert Window(7, 1, 4, 4).clipped(5, 6).height == 0


def test_an_overlap_as_wide_as_the_window_is_refused():
    with pytest.raises(ValueError, match="overlap_px is 64"):
        windows(10, 10, 64, 64)
