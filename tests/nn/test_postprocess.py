import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops
from skimage.segmentation import clear_border

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.postprocess import classify, fill_small_holes, remove_small_components, resolve_thresholds


def _noise(num_classes: int, seed: int = 0, size: int = 80) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 1.1)
    cuts = np.quantile(field, np.linspace(0, 1, num_classes + 1)[1:-1])
    return np.digitize(field, cuts).astype(np.uint8)


def test_components_of_a_binary_map_as_scikit_image_sees_them() -> None:
    index = _noise(2)
    kept = np.zeros_like(index)
    for region in regionprops(label(index, connectivity=2)):
        if region.area >= 25:
            kept[tuple(region.coords.T)] = 1
    ours = remove_small_components(index, 25)
    assert 0 < kept.sum() < index.sum()
    np.testing.assert_array_equal(ours, kept)


def test_holes_as_scikit_image_sees_them() -> None:
    index = 1 - _noise(2, seed=3)
    index[20:50, 20:50] = 1
    index[30:34, 30:34] = 0
    filled = index.copy()
    for region in regionprops(clear_border(label(index == 0, connectivity=1))):
        if region.area < 17:
            filled[tuple(region.coords.T)] = 1
    ours = fill_small_holes(index, 17)
    assert ours[31, 31] == 1
    np.testing.assert_array_equal(ours, filled)


def test_patches_take_the_class_around_them() -> None:
    index = np.zeros((20, 20), np.uint8)
    index[2:18, 2:18] = 1
    index[8:10, 8:10] = 2  # a speck of debris on ice
    index[12, 12] = 0  # a hole in the ice
    index[0, 19] = 3  # a speck in the background, in the corner
    expected = index.copy()
    expected[8:10, 8:10] = 1
    expected[0, 19] = 0
    np.testing.assert_array_equal(remove_small_components(index, 5), expected)
    expected[12, 12] = 1
    np.testing.assert_array_equal(fill_small_holes(remove_small_components(index, 5), 2), expected)


def test_sizes_are_exclusive_and_zero_is_off() -> None:
    index = np.zeros((9, 9), np.uint8)
    index[[2, 3, 4], [2, 3, 4]] = 1  # three pixels, joined at their corners only
    np.testing.assert_array_equal(remove_small_components(index, 3), index)
    assert not remove_small_components(index, 4).any()
    noisy = _noise(4)
    before = noisy.copy()
    for clean in (remove_small_components, fill_small_holes):
        np.testing.assert_array_equal(clean(noisy, 0), noisy)
        clean(noisy, 30)
        np.testing.assert_array_equal(noisy, before)


def test_without_thresholds_the_likeliest_class() -> None:
    p = np.random.default_rng(0).dirichlet([1] * 4, (6, 6)).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(classify(p), p.argmax(0))


def test_thresholds_against_a_loop() -> None:
    p = np.random.default_rng(0).dirichlet([1] * 4, (40, 40)).transpose(2, 0, 1).astype(np.float32)
    thresholds = resolve_thresholds({"debris": 0.3, "lake": 0.8}, get_scheme("glacier4"))
    ours = classify(p, thresholds)
    for row in range(40):
        for col in range(40):
            q = p[:, row, col]
            eligible = [1] if q.argmax() == 1 else []
            eligible += [k for k, t in ((2, 0.3), (3, 0.8)) if q[k] >= t]
            assert ours[row, col] == (max(eligible, key=lambda k: q[k]) if eligible else 0)


@pytest.mark.parametrize("thresholds", [{"snow": 0.5}, {"background": 0.5}, {"lake": 0.0}, {"lake": 1.5}])
def test_wrong_thresholds(thresholds: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        resolve_thresholds(thresholds, get_scheme("glacier4"))
