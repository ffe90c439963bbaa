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
