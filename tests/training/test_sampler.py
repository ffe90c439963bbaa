import numpy as np
import pytest

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import SamplingConfig
from napari_glacier.core.errors import ConfigError
from training.sampler import CELL_PX, CropSampler, TileIndex

TARGET = np.array([0.10, 0.35, 0.40, 0.15])


def _patchwork(size_px: int = 256, seed: int = 0) -> np.ndarray:
    """Mostly background, with blocks of each class, and nodata at the left."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice(4, (size_px // 32, size_px // 32), p=[0.55, 0.2, 0.15, 0.1]).astype(np.uint8)
    target = blocks.repeat(32, 0).repeat(32, 1)
    target[:, :16] = IGNORE_INDEX
    return target


def _true_mix(tiles, crops, crop_px):
    counts = np.zeros(4)
    for crop in crops:
        cut = tiles[crop.tile][max(crop.row, 0) : crop.row + crop_px, max(crop.col, 0) : crop.col + crop_px]
        counts += np.bincount(cut[cut != IGNORE_INDEX], minlength=4)[:4]
    return counts / counts.sum()


@pytest.fixture
def tiles():
    return [_patchwork(seed=seed) for seed in range(4)]


@pytest.fixture
def index(tiles):
    return [TileIndex(tile, 4) for tile in tiles]


def test_composition_equals_counting(tiles, index):
    for row, col in ((0, 0), (64, 128), (200, 240), (-32, -8)):
        cut = tiles[1][max(row, 0) : row + 64, max(col, 0) : col + 64]
        expected = np.bincount(cut[cut != IGNORE_INDEX], minlength=4)[:4]
        np.testing.assert_array_equal(index[1].composition(row, col, 64), expected)


def test_balanced_crops_reach_the_target(tiles, index):
    sampler = CropSampler(index, SamplingConfig(crop_px=32, crops_per_epoch=200), seed=0, multiple_of=8)
    crops = sampler.plan(1)
    achieved = _true_mix(tiles, crops, 32)
    assert np.abs(sampler.natural_mix - TARGET).max() > 0.3
    assert np.abs(achieved - TARGET).max() < 0.05
    # What is logged is what was cut, but for the rounding to cells.
    np.testing.assert_allclose(sampler.mix_of(crops), achieved, atol=0.02)


def test_a_rare_class_is_not_repeated_beyond_the_cap():
    target = np.zeros((256, 256), np.uint8)
    target[:, 128:] = 1
    target[8:16, 8:16] = 3  # a thousandth of the pixels
    index = [TileIndex(target, 4)]

    def crops_on_lake(max_repeats):
        config = SamplingConfig(crop_px=32, crops_per_epoch=200, max_repeats=max_repeats)
        crops = CropSampler(index, config, seed=0, multiple_of=1).plan(1)
        return sum(index[0].composition(c.row, c.col, 32)[3] > 0 for c in crops)

    assert crops_on_lake(1000.0) > 40
    assert crops_on_lake(5.0) < 20


def test_plans_differ_by_epoch_and_seed_and_repeat_themselves(index):
    def plan(seed, epoch):
        return CropSampler(index, SamplingConfig(crop_px=64), seed=seed, multiple_of=8).plan(epoch)

    assert plan(0, 1) == plan(0, 1)
    assert plan(0, 1) != plan(0, 2)
    assert plan(0, 1) != plan(1, 1)
    assert [c.number for c in plan(0, 3)] == list(range(len(plan(0, 3))))


def test_an_epoch_covers_the_valid_area_once_in_full_batches(index):
    sampler = CropSampler(index, SamplingConfig(crop_px=64), seed=0, multiple_of=8)
    assert sampler.num_crops == 64  # 4 x 256 x 240 valid pixels are 60 crops; the next multiple of 8


def test_crops_stay_inside_and_small_tiles_are_centred(index):
    for kind in ("balanced", "uniform"):
        small = TileIndex(np.ones((40, 48), np.uint8), 4)
        config = SamplingConfig(kind=kind, crop_px=64, crops_per_epoch=100)
        for crop in CropSampler([*index, small], config, seed=0, multiple_of=1).plan(1):
            if crop.tile == 4:
                assert (crop.row, crop.col) == (-12, -8)
            else:
                assert 0 <= crop.row <= 192
                assert 0 <= crop.col <= 192


def test_uniform_sampling_keeps_the_natural_mix(tiles, index):
    config = SamplingConfig(kind="uniform", crop_px=32, crops_per_epoch=2000)
    sampler = CropSampler(index, config, seed=0, multiple_of=1)
    assert np.abs(_true_mix(tiles, sampler.plan(1), 32) - sampler.natural_mix).max() < 0.05


def test_absent_classes_leave_their_share_to_the_others():
    target = np.zeros((64, 64), np.uint8)
    target[:, 32:] = 1
    sampler = CropSampler([TileIndex(target, 4)], SamplingConfig(crop_px=32), seed=0, multiple_of=1)
    np.testing.assert_allclose(sampler.target_mix, [0.10 / 0.45, 0.35 / 0.45, 0, 0])


def test_impossible_mixes_are_refused(index):
    with pytest.raises(ConfigError, match="4 shares"):
        CropSampler(index, SamplingConfig(target_mix=[0.5, 0.5]), seed=0, multiple_of=1)
    only_background = [TileIndex(np.zeros((64, 64), np.uint8), 4)]
    with pytest.raises(ConfigError, match="none of the wanted classes"):
        CropSampler(only_background, SamplingConfig(target_mix=[0, 0, 0, 1]), seed=0, multiple_of=1)
    nothing = [TileIndex(np.full((64, 64), IGNORE_INDEX, np.uint8), 4)]
    with pytest.raises(ConfigError, match="nodata"):
        CropSampler(nothing, SamplingConfig(), seed=0, multiple_of=1)


def test_tiles_that_are_no_multiple_of_a_cell_are_counted_whole():
    target = np.ones((CELL_PX * 3 + 5, CELL_PX + 1), np.uint8)
    assert TileIndex(target, 2).counts_KRC.sum() == target.size
