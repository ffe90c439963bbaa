import numpy as np
import pytest
from scipy import ndimage
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops
from skimage.morphology import closing, disk, opening
from skimage.segmentation import clear_border

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn import postprocess
from napari_glacier.nn.postprocess import (
    classify,
    close_classes,
    fill_small_holes,
    open_classes,
    remove_small_components,
    resolve_thresholds,
)


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


def _components_one_by_one(index: np.ndarray, min_px: int) -> np.ndarray:
    out = index.copy()
    for k in np.unique(index[index > 0]):
        labels, _ = ndimage.label(index == k, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())
        small = np.flatnonzero(sizes < min_px)
        _by_surroundings_one_by_one(index, out, labels, small[small > 0], np.ones((3, 3), bool))
    return out


def _holes_one_by_one(index: np.ndarray, max_px: int) -> np.ndarray:
    out = index.copy()
    labels, _ = ndimage.label(index == 0)
    fillable = np.bincount(labels.ravel()) < max_px
    fillable[0] = False
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fillable[border] = False
    cross = ndimage.generate_binary_structure(2, 1)
    _by_surroundings_one_by_one(index, out, labels, np.flatnonzero(fillable), cross)
    return out


def _by_surroundings_one_by_one(index, out, labels, chosen, structure) -> None:
    for patch in chosen:
        inside = labels == patch
        neighbours = index[ndimage.binary_dilation(inside, structure) & ~inside]
        out[inside] = np.bincount(neighbours).argmax() if neighbours.size else 0


@pytest.mark.parametrize("strip_rows", [1, 7, 512])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_all_patches_at_once_as_one_by_one(monkeypatch, num_classes: int, strip_rows: int) -> None:
    monkeypatch.setattr(postprocess, "_STRIP_ROWS", strip_rows)
    rng = np.random.default_rng(1)
    maps = [_noise(num_classes, seed, 40) for seed in range(3)]
    maps += [rng.integers(0, num_classes, (33, 47)).astype(np.uint8)]  # hundreds of patches that touch each other
    maps += [
        np.full((5, 6), 1, np.uint8),
        np.zeros((4, 3), np.uint8),
        maps[0][:1],
        maps[0][:, :1],
        maps[1].T,
        maps[2][:, ::2],
    ]
    for index in maps:
        for size in (2, 9, 60):
            np.testing.assert_array_equal(remove_small_components(index, size), _components_one_by_one(index, size))
            np.testing.assert_array_equal(fill_small_holes(index, size), _holes_one_by_one(index, size))


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_opening_and_closing_of_a_binary_map_as_scikit_image_does_them(radius: int) -> None:
    index = _noise(2)
    opened, closed = open_classes(index, radius), close_classes(index, radius)
    np.testing.assert_array_equal(opened, opening(index, disk(radius), mode="ignore"))
    np.testing.assert_array_equal(closed, closing(index, disk(radius), mode="ignore"))
    assert opened.sum() < index.sum() < closed.sum()
    np.testing.assert_array_equal(open_classes(opened, radius), opened)
    np.testing.assert_array_equal(close_classes(closed, radius), closed)


def _discs_inside(inside: np.ndarray, ignored: np.ndarray, radius: int) -> np.ndarray:
    """Pixels covered by discs that lie within `inside`, whatever of them is ignored or beyond the border."""
    height, width = inside.shape
    covered = np.zeros_like(inside)
    steps = range(-radius, radius + 1)
    offsets = [(a, b) for a in steps for b in steps if a * a + b * b <= radius * radius]
    for y in range(height):
        for x in range(width):
            disc = [(y + a, x + b) for a, b in offsets if 0 <= y + a < height and 0 <= x + b < width]
            if not ignored[y, x] and all(inside[p] or ignored[p] for p in disc):
                covered[tuple(np.transpose(disc))] = True
    return covered


@pytest.mark.parametrize("radius", [1, 2])
def test_opening_and_closing_of_four_classes_against_a_loop(radius: int) -> None:
    index = _noise(4, seed=2, size=40)
    nodata = gaussian_filter(np.random.default_rng(9).normal(size=index.shape), 2) > 0.12
    expected = index.copy()
    for k in (1, 2, 3):
        lost = (index == k) & ~nodata & ~_discs_inside((index == k) & ~nodata, nodata, radius)
        labels = label(lost, connectivity=2)
        for patch in range(1, labels.max() + 1):
            ring = ndimage.binary_dilation(labels == patch, np.ones((3, 3))) & (labels != patch)
            voters = index[ring & ~nodata & (index != k)]
            expected[labels == patch] = np.bincount(voters, minlength=4).argmax()
    opened = open_classes(index, radius, ~nodata)
    np.testing.assert_array_equal(opened, expected)
    assert len(np.unique(opened[opened != index])) > 2  # not only to the background
    expected = index.copy()
    for k in (1, 2, 3):
        outside = _discs_inside((index != k) & ~nodata, nodata, radius)
        expected[(index == 0) & ~nodata & ~outside] = k
    closed = close_classes(index, radius, ~nodata)
    np.testing.assert_array_equal(closed, expected)
    changed = closed != index
    assert changed.any()
    assert not index[changed].any()
    for cleaned in (opened, closed):
        np.testing.assert_array_equal(cleaned[nodata], index[nodata])


def test_where_two_classes_claim_a_gap_the_last_has_it() -> None:
    index = np.zeros((9, 9), np.uint8)
    index[3:6, :4] = index[3:6, 5:] = 1
    index[:4, 3:6] = index[5:, 3:6] = 3
    assert index[4, 4] == 0
    assert close_classes(index, 1)[4, 4] == 3
    np.testing.assert_array_equal(close_classes(index, 0), index)
    np.testing.assert_array_equal(open_classes(index, 0), index)


def test_ice_keeps_its_edge_where_the_data_end() -> None:
    index, valid = np.ones((20, 20), np.uint8), np.ones((20, 20), bool)
    valid[:, :7] = False
    index[:, :7] = 0
    index[3:5, :7] = 2  # a class under nodata is no patch to open
    np.testing.assert_array_equal(open_classes(index, 3, valid), index)
    index[:, 10:] = 0  # three columns of ice are left, too few for half a disc
    np.testing.assert_array_equal(open_classes(index, 3, valid), index * ~valid)
    np.testing.assert_array_equal(open_classes(index, 2, valid), index)


@pytest.mark.parametrize("clean", [open_classes, close_classes])
def test_wrong_radius(clean) -> None:
    with pytest.raises(ConfigError, match="radius"):
        clean(np.zeros((4, 4), np.uint8), -1)


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
