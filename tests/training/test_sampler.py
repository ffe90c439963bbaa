import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import SamplingConfig
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.errors import ConfigError
from training.sampler import CELL_PX, CropSampler, TileIndex

REGION = Path(__file__).resolve().parents[2] / "sample_data" / "region"
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


def _composition(tile, row, col, crop_px):
    return tile.compositions(np.array([row]), np.array([col]), crop_px)[0, : tile.num_classes]


def test_composition_equals_counting(tiles, index):
    for row, col in ((0, 0), (64, 128), (200, 240), (-32, -8)):
        cut = tiles[1][max(row, 0) : row + 64, max(col, 0) : col + 64]
        expected = np.bincount(cut[cut != IGNORE_INDEX], minlength=4)[:4]
        np.testing.assert_array_equal(_composition(index[1], row, col, 64), expected)


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
        return sum(_composition(index[0], c.row, c.col, 32)[3] > 0 for c in crops)

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


def test_an_epoch_of_images_smaller_than_a_crop_has_every_image():
    images = [TileIndex(_patchwork(seed=seed)[:101, :101], 4) for seed in range(40)]
    sampler = CropSampler(images, SamplingConfig(kind="uniform", crop_px=128), seed=0, multiple_of=8)
    assert sampler.num_crops == 40
    assert {crop.tile for crop in sampler.plan(1)} == set(range(40))


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


def test_covering_crops_hold_every_counted_pixel_and_come_once_before_any_comes_again(tiles, index):
    tiles, index = [*tiles, tiles[0][:40, :48]], [*index, TileIndex(tiles[0][:40, :48], 4)]
    seen = [np.zeros(tile.shape, int) for tile in tiles]
    sampler = CropSampler(index, SamplingConfig(kind="cover", crop_px=64), seed=0, multiple_of=4)
    crops = sampler.plan(1)
    for crop in crops[: 4 * 16 + 1]:
        seen[crop.tile][max(crop.row, 0) : crop.row + 64, max(crop.col, 0) : crop.col + 64] += 1
    assert all((count == 1).all() for count in seen)
    assert len(crops) == sampler.num_crops == 68
    assert len({crop[:3] for crop in crops[65:]}) == 3
    assert [crop[:3] for crop in sampler.plan(2)] != [crop[:3] for crop in crops]


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
    assert TileIndex(target, 2).pixels_K.sum() == target.size


def _counted(tiles, crop_px):
    """Pixels of each class at every place of an 8 px grid, by counting."""
    counts = []
    for tile in tiles:
        for row in range(0, tile.shape[0] - crop_px + 1, 8):
            for col in range(0, tile.shape[1] - crop_px + 1, 8):
                cut = tile[row : row + crop_px, col : col + crop_px]
                counts.append(np.bincount(cut[cut != IGNORE_INDEX], minlength=4)[:4])
    counts = np.array(counts, float)
    return counts[counts.sum(1) > 0]


def _smallest_deviation(counts_MK, cap):
    """Linear programme: the smallest largest deviation from the target under any weights up to the cap.

    Variables are the weights over the number of pixels that they draw, the deviation, and the weights' sum.
    """
    pixels_M = counts_MK.sum(1)
    scale = pixels_M.max()
    off_KM = ((counts_MK - TARGET * pixels_M[:, None]) / scale).T
    num_classes, num_places = off_KM.shape
    ones, zeros = np.ones((num_classes, 1)), np.zeros((num_classes, 1))
    bounds = np.vstack([np.hstack([off_KM, -ones, zeros]), np.hstack([-off_KM, -ones, zeros])])
    capped = [
        sparse.eye(num_places),
        sparse.csr_matrix((num_places, 1)),
        sparse.csr_matrix(np.full((num_places, 1), -cap)),
    ]
    solved = linprog(
        np.r_[np.zeros(num_places), 1, 0],
        A_ub=sparse.vstack([sparse.csr_matrix(bounds), sparse.hstack(capped)]),
        b_ub=np.zeros(2 * num_classes + num_places),
        A_eq=np.vstack([np.r_[pixels_M / scale, 0, 0], np.r_[np.ones(num_places), 0, -1]]),
        b_eq=[1, 0],
    )
    assert solved.success
    return solved.fun


def _room_for_improvement(counts_MK, cap, mix_K):
    """How much less the target might diverge from the mix, in nats, at most: a linear programme's certificate.

    The divergence is convex in the pixels that are drawn from each place. What its linearisation at `mix_K` gains
    under the best weights up to the cap bounds what any weights gain (the gap of Frank and Wolfe).
    """
    pixels_M = counts_MK.sum(1)
    scale, num_places = pixels_M.max(), len(counts_MK)
    gain_M = counts_MK @ (TARGET / mix_K) / scale
    capped = sparse.hstack([sparse.eye(num_places), sparse.csr_matrix(np.full((num_places, 1), -cap))])
    solved = linprog(
        -np.r_[gain_M, 0],
        A_ub=capped,
        b_ub=np.zeros(num_places),
        A_eq=np.vstack([np.r_[pixels_M / scale, 0], np.r_[np.ones(num_places), -1]]),
        b_eq=[1, 0],
    )
    assert solved.success
    return -solved.fun - 1.0


def _region():
    dataset = open_dataset(REGION)
    return [
        np.where(dataset.read_valid(t), dataset.read_mask(t), np.uint8(IGNORE_INDEX)) for t in dataset.split("train")
    ]


@pytest.mark.parametrize("crop_px", [32, 48, 64])
@pytest.mark.parametrize("interface_boost", [1.0, 3.0])
def test_the_mix_is_the_target_where_a_linear_programme_can_have_it(tiles, crop_px, interface_boost):
    _check_against_linear_programme(tiles, crop_px, interface_boost)


@pytest.mark.parametrize("crop_px", [64, 96, 128])
def test_the_bundled_region_gives_what_it_can(crop_px):
    _check_against_linear_programme(_region(), crop_px, 3.0)


def _check_against_linear_programme(tiles, crop_px, interface_boost):
    config = SamplingConfig(crop_px=crop_px, interface_boost=interface_boost)
    sampler = CropSampler([TileIndex(tile, 4, (1, 2)) for tile in tiles], config, seed=0, multiple_of=8)
    counts_MK = _counted(tiles, crop_px)
    cap = config.max_repeats / len(counts_MK)
    if _smallest_deviation(counts_MK, cap) < 0.001:
        expected_K, allowed = TARGET, 0.03
    else:
        assert _room_for_improvement(counts_MK, cap, sampler.expected_mix) < 0.03
        expected_K, allowed = sampler.expected_mix, 0.02
    for epoch in range(1, 6):
        assert np.abs(_true_mix(tiles, sampler.plan(epoch), crop_px) - expected_K).max() < allowed


def test_a_rare_class_is_not_given_up_for_the_common_ones():
    tiles = _region()
    sampler = CropSampler([TileIndex(tile, 4, (1, 2)) for tile in tiles], SamplingConfig(crop_px=128), 0, 8)
    achieved = _true_mix(tiles, sampler.plan(1), 128)
    assert achieved[3] > 2 * sampler.natural_mix[3]
    assert achieved[0] < sampler.natural_mix[0] - 0.2


def test_the_linear_programme_finds_feasible_and_infeasible_cases(tiles):
    """The comparison above covers both: what can be reached, and what cannot."""
    assert _smallest_deviation(_counted(tiles, 32), 20 / 3364) < 0.001
    assert _smallest_deviation(_counted(_region(), 96), 20 / 3969) > 0.1


def test_no_place_is_drawn_beyond_the_cap_over_many_epochs():
    target = np.zeros((256, 256), np.uint8)
    target[100:132, 100:132] = 1
    config = SamplingConfig(crop_px=32, crops_per_epoch=400, max_repeats=5.0, target_mix=[0.2, 0.8])
    sampler = CropSampler([TileIndex(target, 2)], config, seed=0, multiple_of=1)
    # 841 places; 6 a side lie within 24 px of the block's centre place, and by chance take 36 / 841 of the crops.
    crops = [crop for epoch in range(10) for crop in sampler.plan(epoch)]
    near = np.mean([abs(c.row - 100) <= 20 and abs(c.col - 100) <= 20 for c in crops])
    assert 3 * 36 / 841 < near < 1.15 * 5 * 36 / 841


def test_a_cap_of_one_leaves_every_place_alike(index):
    sampler = CropSampler(index, SamplingConfig(crop_px=64, max_repeats=1.0), seed=0, multiple_of=8)
    assert sampler.num_places == pytest.approx(4 * 25 * 25, rel=1e-6)


def test_places_stay_many(index):
    """The weights are those nearest to chance, not the few places that a linear programme picks."""
    sampler = CropSampler(index, SamplingConfig(crop_px=32), seed=0, multiple_of=8)
    assert sampler.num_places > 1000
    assert len({crop[:3] for epoch in range(5) for crop in sampler.plan(epoch)}) > 0.95 * 5 * sampler.num_crops


def test_few_large_places_are_not_left_for_one():
    """Nine tiles of the size of a crop: the best one alone would be nearest to the target."""
    tiles = [np.where(np.arange(64) < 6 * t, 1, 0).astype(np.uint8)[None].repeat(64, 0) for t in range(1, 10)]
    config = SamplingConfig(crop_px=64, target_mix=[0.0, 1.0], crops_per_epoch=90)
    crops = CropSampler([TileIndex(tile, 2) for tile in tiles], config, seed=0, multiple_of=1).plan(1)
    assert np.bincount([crop.tile for crop in crops]).max() <= 31


def test_border_pixels_are_those_with_a_neighbour_of_the_other_class():
    target = np.random.default_rng(0).choice([0, 1, 2, IGNORE_INDEX], (37, 29)).astype(np.uint8)
    expected = 0
    for row, col in np.ndindex(target.shape):
        for r, c in ((row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)):
            inside = 0 <= r < target.shape[0] and 0 <= c < target.shape[1]
            if inside and {int(target[row, col]), int(target[r, c])} == {1, 2}:
                expected += 1
                break
    whole = TileIndex(target, 4, (1, 2)).compositions(np.array([0]), np.array([0]), 64)[0]
    assert whole[4] == expected
    assert TileIndex(target, 4).compositions(np.array([0]), np.array([0]), 64)[0, 4] == 0


def test_crops_with_a_border_are_drawn_oftener():
    """Both halves hold as much of each class; only in one do they touch."""
    touching = np.where(np.arange(256) // 16 % 2, 1, 2).astype(np.uint8)[None].repeat(256, 0)
    apart = touching.copy()
    apart[:, np.arange(256) % 16 == 0] = IGNORE_INDEX
    config = SamplingConfig(crop_px=32, crops_per_epoch=800, target_mix=[0, 0.5, 0.5, 0])

    def share(boost):
        index = [TileIndex(part, 4, (1, 2)) for part in (touching, apart)]
        chosen = config.model_copy(update={"interface_boost": boost})
        return np.mean([crop.tile == 0 for crop in CropSampler(index, chosen, seed=0, multiple_of=1).plan(1)])

    assert share(1.0) == pytest.approx(0.5, abs=0.03)
    assert share(3.0) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("kind", ["balanced", "uniform", "tile_weighted", "cover"])
def test_crops_without_a_counted_pixel_are_never_drawn(kind):
    target = np.full((203, 259), IGNORE_INDEX, np.uint8)
    target[5:9, 3:60] = 0
    target[190:, 250:] = 1
    config = SamplingConfig(kind=kind, crop_px=40, crops_per_epoch=300)
    for crop in CropSampler([TileIndex(target, 2)], config, seed=0, multiple_of=1).plan(1):
        assert (target[crop.row : crop.row + 40, crop.col : crop.col + 40] != IGNORE_INDEX).any()


def test_tile_weights_follow_the_distance_from_the_target():
    """Three tiles of one size with 50, 30 and 0 % of class 1, where half of each is wanted."""
    tiles = [np.where(np.arange(100) < share, 1, 0).astype(np.uint8)[None].repeat(100, 0) for share in (50, 30, 0)]
    config = SamplingConfig(kind="tile_weighted", crop_px=32, crops_per_epoch=5000)
    crops = CropSampler([TileIndex(tile, 2) for tile in tiles], config, seed=0, multiple_of=1).plan(1)
    wanted = 1 / (np.array([0.0, 0.4, 1.0]) + 0.01)
    np.testing.assert_allclose(np.bincount([c.tile for c in crops]) / 5000, wanted / wanted.sum(), atol=0.002)


def test_compositions_inside_cells_are_near_to_counting(tiles, index):
    rng = np.random.default_rng(3)
    rows, cols = rng.integers(0, 192, (2, 200))
    made = index[0].compositions(rows, cols, 64)[:, :4]
    for row, col, found in zip(rows, cols, made, strict=True):
        cut = tiles[0][row : row + 64, col : col + 64]
        # The blocks end with cells, so that their pixels are spread evenly over each cell.
        np.testing.assert_allclose(found, np.bincount(cut[cut != IGNORE_INDEX], minlength=4)[:4], atol=1)


def test_many_places_are_thinned_and_the_mix_still_met(tiles, index, monkeypatch):
    config = SamplingConfig(crop_px=64, target_mix=[0.4, 0.3, 0.2, 0.1])
    mixes = []
    for most in (200_000, 900, 100):  # a grid of 8 px has 2500 places, one of 16 px 676
        monkeypatch.setattr("training.sampler._MAX_PLACES", most)
        sampler = CropSampler(index, config, seed=0, multiple_of=8)
        assert sampler.num_places <= most
        mixes.append(_true_mix(tiles, sampler.plan(1), 64))
    np.testing.assert_allclose(mixes, [config.target_mix] * 3, atol=0.03)


def test_plans_do_not_depend_on_the_number_of_threads(index):
    script = (
        "import numpy as np; from napari_glacier.core.config import SamplingConfig;"
        "from training.sampler import CropSampler, TileIndex;"
        "target = (np.arange(512)[:, None] * np.arange(512) // 9000 % 4).astype(np.uint8);"
        "print(CropSampler([TileIndex(target, 4, (1, 2))], SamplingConfig(crop_px=64), 3, 8).plan(2))"
    )
    plans = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(plans) == 1
    assert "Crop(" in plans.pop()
