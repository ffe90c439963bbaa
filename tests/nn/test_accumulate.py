import numpy as np
import pytest

from napari_glacier.core.tiling import Window, blend_weights, windows
from napari_glacier.nn.accumulate import Blender
from napari_glacier.nn.store import MemoryStore


def _blend(values_CHW, window_px, overlap_px):
    """Feed windows as the predictor does: row by row, the part inside the scene, rows finished early."""
    height, width = values_CHW.shape[1:]
    maps = MemoryStore(len(values_CHW) - 1, height, width)
    blender = Blender(len(values_CHW) - 1, height, width, {}, maps)
    plan = windows(height, width, window_px, overlap_px)
    for k, reaching in enumerate(plan):
        window = reaching.clipped(height, width)
        valid_HW = np.ones((window.height, window.width), bool)
        weights = blend_weights(window, height, width, overlap_px)
        blender.add(window, values_CHW[:, *window.slices].copy(), weights, valid_HW)
        blender.finish_rows(plan[k + 1].row if k + 1 < len(plan) else height)
    return maps.maps()


@pytest.mark.parametrize("overlap", [0, 16, 40])
@pytest.mark.parametrize("size", [(150, 131), (64, 64), (5, 5), (1, 200)])
def test_blending_a_constant_and_a_plane_gives_them_back(overlap, size):
    rows, cols = np.mgrid[: size[0], : size[1]].astype(np.float32)
    plane_HW = 0.1 + (rows + 2 * cols) / 1000
    values_CHW = np.stack([np.full(size, 0.25, np.float32), plane_HW, 0.75 - plane_HW, plane_HW / 3])
    maps = _blend(values_CHW, 64, overlap)
    np.testing.assert_allclose(maps.probabilities_KHW, values_CHW[:-1], atol=1e-6)
    np.testing.assert_allclose(maps.mutual_information_HW, values_CHW[-1], atol=1e-6)
    np.testing.assert_array_equal(maps.index_HW, values_CHW[:-1].argmax(0))
    assert maps.valid_HW.all()


def test_overlapping_windows_are_averaged_by_weight():
    maps = MemoryStore(1, 4, 6)
    blender = Blender(1, 4, 6, {}, maps)
    ones_HW, valid_HW = np.ones((4, 4), np.float32), np.ones((4, 4), bool)
    blender.add(Window(0, 0, 4, 4), np.full((2, 4, 4), 0.2, np.float32), ones_HW, valid_HW)
    blender.add(Window(0, 2, 4, 4), np.full((2, 4, 4), 0.8, np.float32), 3 * ones_HW, valid_HW)
    blender.finish_rows(4)
    expected_W = [0.2, 0.2, 0.65, 0.65, 0.8, 0.8]
    np.testing.assert_allclose(maps.maps().probabilities_KHW[0], np.broadcast_to(expected_W, (4, 6)), atol=1e-6)
