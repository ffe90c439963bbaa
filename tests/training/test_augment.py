import numpy as np
import pytest

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import AugmentationConfig
from training.augment import Augmenter

CHANNELS = ("B2", "B3", "valid")
EVERYTHING = AugmentationConfig(
    affine=1.0, elastic=1.0, grid_distortion=1.0, brightness_contrast=1.0, gamma=1.0, noise=1.0, blur=1.0
)


def _crop(size_px=64):
    """Valid pixels far from 0 in the bands, nodata 0, and a target that says which is which."""
    rng = np.random.default_rng(0)
    valid_HW = np.ones((size_px, size_px), bool)
    valid_HW[:20, :28] = False
    valid_HW[40:43, 30:60] = False
    image_CHW = rng.normal(5.0, 0.1, (3, size_px, size_px)).astype(np.float32) * valid_HW
    image_CHW[2] = valid_HW
    target_HW = np.where(valid_HW, rng.integers(0, 4, valid_HW.shape), IGNORE_INDEX).astype(np.uint8)
    return image_CHW, target_HW, valid_HW


@pytest.mark.parametrize("seed", range(12))
def test_nodata_is_neither_lost_nor_invented(seed):
    image_CHW, target_HW, valid_HW = Augmenter(EVERYTHING, 64, CHANNELS)(*_crop(), seed)
    assert 0 < valid_HW.sum() < valid_HW.size
    assert (image_CHW[:, ~valid_HW] == 0).all()
    np.testing.assert_array_equal(image_CHW[2], valid_HW)
    np.testing.assert_array_equal(target_HW == IGNORE_INDEX, ~valid_HW)
    assert np.isfinite(image_CHW).all()


def _sources(augmenter, size_px, seed):
    """Row and column that each pixel is taken from: the target as an oracle, with ids in place of classes."""
    row_HW, col_HW = np.mgrid[:size_px, :size_px].astype(np.uint8)
    blank_CHW, all_HW = np.zeros((3, size_px, size_px), np.float32), np.ones((size_px, size_px), bool)
    _, row_HW, valid_HW = augmenter(blank_CHW, row_HW, all_HW, seed)
    _, col_HW, _ = augmenter(blank_CHW, col_HW, all_HW, seed)
    assert valid_HW.all()  # no nodata is invented, not even at the borders
    return row_HW, col_HW


OFF = dict.fromkeys(
    ("flips", "rot90", "affine", "elastic", "grid_distortion", "brightness_contrast", "gamma", "noise", "blur"), 0.0
)
ALONE = [AugmentationConfig(**(OFF | {name: 1.0})) for name in OFF]
WIDE = EVERYTHING.model_copy(update={"shift": 0.3, "scale": 0.5, "rotate_deg": 90.0})


@pytest.mark.parametrize("config", [*ALONE, EVERYTHING, WIDE], ids=[*OFF, "everything", "wide"])
def test_a_pixel_is_valid_exactly_if_its_source_is(config):
    augmenter = Augmenter(config, 64, CHANNELS)
    image_CHW, target_HW, valid_HW = _crop()
    target_HW[50:, 50:] = IGNORE_INDEX  # does not count, though it carries data
    for seed in range(8):
        row_HW, col_HW = _sources(augmenter, 64, seed)
        out_CHW, out_HW, out_valid_HW = augmenter(image_CHW, target_HW, valid_HW, seed)
        np.testing.assert_array_equal(out_valid_HW, valid_HW[row_HW, col_HW])
        np.testing.assert_array_equal(out_HW, target_HW[row_HW, col_HW])
        np.testing.assert_array_equal(out_CHW[2], out_valid_HW)
        assert (out_CHW[:, ~out_valid_HW] == 0).all()
        assert ((out_HW == IGNORE_INDEX) & out_valid_HW).any()


@pytest.mark.parametrize("name", ["flips", "rot90", "affine", "elastic", "grid_distortion", "blur"])
def test_a_constant_image_stays_constant_where_it_is_valid(name):
    _, target_HW, valid_HW = _crop()
    image_CHW = np.full((3, 64, 64), 7.25, np.float32) * valid_HW
    augmenter = Augmenter(AugmentationConfig(**(OFF | {name: 1.0})), 64, ("B2", "B3", "B4"))
    for seed in range(8):
        out_CHW, _, out_valid_HW = augmenter(image_CHW, target_HW, valid_HW, seed)
        np.testing.assert_allclose(out_CHW[:, out_valid_HW], 7.25, rtol=1e-5)


@pytest.mark.parametrize("name", ["affine", "elastic", "grid_distortion"])
def test_image_and_target_are_warped_alike(name):
    """A plane of coordinates is moved to the point that the nearest pixel was taken from."""
    row_HW, col_HW = np.mgrid[:64, :64].astype(np.float32)
    image_CHW = np.stack([row_HW, col_HW, np.ones_like(row_HW)])
    augmenter = Augmenter(AugmentationConfig(**(OFF | {name: 1.0})), 64, CHANNELS)
    for seed in range(4):
        out_CHW, _, _ = augmenter(image_CHW, np.zeros((64, 64), np.uint8), np.ones((64, 64), bool), seed)
        from_HW = np.stack(_sources(augmenter, 64, seed))
        assert np.abs(out_CHW[:2] - from_HW).max() < 0.6
        assert np.abs(out_CHW[:2] - image_CHW[:2]).max() > 1.0


def test_the_share_of_nodata_is_not_biased():
    rng = np.random.default_rng(5)
    augmenter = Augmenter(AugmentationConfig(affine=1.0, elastic=0.5, grid_distortion=0.5), 64, CHANNELS)
    before, after = [], []
    for seed in range(150):
        valid_HW = np.kron(rng.random((8, 8)) < 0.7, np.ones((8, 8), bool))
        image_CHW = np.ones((3, 64, 64), np.float32) * valid_HW
        _, _, out_HW = augmenter(image_CHW, np.where(valid_HW, 0, IGNORE_INDEX).astype(np.uint8), valid_HW, seed)
        before.append(valid_HW.mean())
        after.append(out_HW.mean())
    assert abs(np.mean(after) - np.mean(before)) < 0.015


def test_the_given_arrays_are_left_alone():
    crop = _crop()
    kept = [part.copy() for part in crop]
    for seed in range(4):
        Augmenter(EVERYTHING, 64, CHANNELS)(*crop, seed)
        Augmenter(AugmentationConfig(**(OFF | {"brightness_contrast": 1.0})), 64, CHANNELS)(*crop, seed)
    for part, before in zip(crop, kept, strict=True):
        np.testing.assert_array_equal(part, before)


@pytest.mark.parametrize("seed", range(12))
def test_nodata_does_not_bleed_into_valid_pixels(seed):
    geometry = EVERYTHING.model_copy(update={"brightness_contrast": 0.0, "gamma": 0.0, "noise": 0.0})
    image_CHW, _, valid_HW = Augmenter(geometry, 64, CHANNELS)(*_crop(), seed)
    # Valid values lie around 5: a share of nodata's 0 in any of them would show.
    assert image_CHW[:2, valid_HW].min() > 4.4


def test_the_same_seed_gives_the_same_crop_whatever_came_before():
    augmenter = Augmenter(EVERYTHING, 64, CHANNELS)
    first = augmenter(*_crop(), 7)
    augmenter(*_crop(), 8)
    again = augmenter(*_crop(), 7)
    other = augmenter(*_crop(), 9)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).any()


def test_flips_and_turns_move_image_and_target_together():
    only_exact = AugmentationConfig(flips=0.5, rot90=1.0, affine=0.0, brightness_contrast=0.0, noise=0.0, blur=0.0)
    image_CHW, target_HW, valid_HW = _crop()
    image_CHW[0] = np.where(valid_HW, target_HW + 1.0, 0)
    augmenter = Augmenter(only_exact, 64, CHANNELS)
    seen = set()
    for seed in range(40):
        out_CHW, out_HW, out_valid_HW = augmenter(image_CHW, target_HW, valid_HW, seed)
        assert out_valid_HW.sum() == valid_HW.sum()
        np.testing.assert_array_equal(out_CHW[0][out_valid_HW], out_HW[out_valid_HW] + 1.0)
        seen.add(out_HW.tobytes())
    assert len(seen) == 8  # the whole square group


def test_everything_off_changes_nothing():
    off = AugmentationConfig(flips=0, rot90=0, affine=0, brightness_contrast=0, noise=0, blur=0)
    crop = _crop()
    for before, after in zip(crop, Augmenter(off, 64, CHANNELS)(*crop, 1), strict=True):
        np.testing.assert_array_equal(before, after)


def test_brightness_moves_bright_snow_too():
    """Nothing is clipped: a value far above the mean keeps its distance to its neighbours."""
    only_light = AugmentationConfig(flips=0, rot90=0, affine=0, brightness_contrast=1.0, noise=0, blur=0)
    image_CHW, target_HW, valid_HW = _crop()
    image_CHW[0, 50, 50], image_CHW[0, 50, 51] = 30.0, 31.0
    out_CHW, _, _ = Augmenter(only_light, 64, CHANNELS)(image_CHW, target_HW, valid_HW, 3)
    assert out_CHW[0, 50, 51] - out_CHW[0, 50, 50] > 0.5


def test_a_change_of_light_leaves_the_terrain():
    config = AugmentationConfig(
        flips=0, rot90=0, affine=0, brightness_contrast=1, gamma=1, noise=1, blur=1, elastic=0, grid_distortion=0
    )
    image = np.random.default_rng(0).standard_normal((3, 32, 32)).astype(np.float32)
    target, valid = np.zeros((32, 32), np.uint8), np.ones((32, 32), bool)
    out, _, _ = Augmenter(config, 32, ["B2", "elevation", "slope"])(image.copy(), target, valid, 5)
    np.testing.assert_array_equal(out[1:], image[1:])
    assert np.abs(out[0] - image[0]).max() > 0.01


def test_a_change_of_light_spares_what_it_is_told_to():
    config = AugmentationConfig(
        flips=0, rot90=0, affine=0, brightness_contrast=1, gamma=1, noise=1, blur=1, spare=["B10"]
    )
    image = np.random.default_rng(0).standard_normal((2, 32, 32)).astype(np.float32)
    target, valid = np.zeros((32, 32), np.uint8), np.ones((32, 32), bool)
    out, _, _ = Augmenter(config, 32, ["B2", "B10"])(image.copy(), target, valid, 5)
    np.testing.assert_array_equal(out[1], image[1])
    assert np.abs(out[0] - image[0]).max() > 0.01
    out, _, _ = Augmenter(config.model_copy(update={"spare": []}), 32, ["B2", "B10"])(image.copy(), target, valid, 5)
    assert np.abs(out[1] - image[1]).max() > 0.01
    with pytest.raises(ValueError, match="B99"):
        AugmentationConfig(spare=["B99"])
