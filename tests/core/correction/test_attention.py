import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.measure import label, perimeter_crofton, regionprops

from napari_glacier.core.correction.attention import MAX_EXTENT_PX, AttentionQueue, outline_sides
from napari_glacier.core.tiling import Window


def _spread(shape=(120, 150), seed=0):
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=shape), 5)
    return np.clip(field / field.std() * 0.25 + 0.2, 0, 1).astype(np.float32)


def test_regions_are_the_connected_uncertain_pixels():
    entropy = _spread()
    known = np.ones(entropy.shape, bool)
    known[:30] = False
    regions = AttentionQueue(entropy, known, 0.0009, threshold=0.5, min_area_px=10).regions()

    parts = [p for p in regionprops(label((entropy >= 0.5) & known, connectivity=2)) if p.area >= 10]
    assert len(regions) == len(parts) > 3
    found = {(r.window.row, r.window.col, r.num_px): r for r in regions}
    for part in parts:
        region = found[part.bbox[0], part.bbox[1], part.area]
        rows, cols = part.coords.T
        assert region.stake_km2 == pytest.approx(entropy[rows, cols].sum(dtype=float) * 0.0009)
        assert region.uncertainty == pytest.approx(entropy[rows, cols].mean(), rel=1e-5)
    assert [r.score for r in regions] == sorted((r.score for r in regions), reverse=True)


def test_a_frayed_region_comes_before_a_compact_one_of_the_same_stake():
    entropy = np.zeros((60, 120), np.float32)
    entropy[10:20, 10:20] = 0.8
    entropy[40, 5:105] = 0.8
    first, second = AttentionQueue(entropy, np.ones(entropy.shape, bool)).regions()
    assert first.stake_km2 == pytest.approx(second.stake_km2)
    assert first.window == Window(40, 5, 1, 100)
    # A square's outline is the measure: 40 sides for 100 pixels, the line has 202.
    assert first.score / second.score == pytest.approx(202 / 40)


def test_outline_counts_pixel_sides():
    where = gaussian_filter(np.random.default_rng(3).normal(size=(40, 40)), 2) > 0
    padded = np.pad(where, 1)
    sides = sum(
        padded[r, c] != padded[r + dr, c + dc] for r in range(41) for c in range(41) for dr, dc in ((0, 1), (1, 0))
    )
    assert outline_sides(where) == sides
    assert sides > perimeter_crofton(padded)  # sides run round every corner


def test_what_was_looked_at_leaves_the_queue():
    entropy = _spread(seed=1)
    queue = AttentionQueue(entropy, np.ones(entropy.shape, bool), threshold=0.4, min_area_px=10)
    before = queue.regions()
    top = before[0]
    where = queue.where(top.number)
    half = where.copy()
    half[: where.shape[0] // 2] = False

    queue.mark(0, top.window, half)
    after = {region.number: region for region in queue.regions()}
    assert after[top.number].num_px == (where & ~half).sum()
    assert after[top.number].stake_km2 == pytest.approx(
        entropy[top.window.slices][where & ~half].sum(dtype=float), rel=1e-6
    )
    assert {n: r for n, r in after.items() if n != top.number} == {
        r.number: r for r in before if r.number != top.number
    }

    queue.settle(top.number)
    assert top.number not in {region.number for region in queue.regions()}
    assert queue.stake_km2 == pytest.approx(sum(r.stake_km2 for r in before[1:]))
    queue.mark(0, Window(0, 0, *entropy.shape), np.ones(entropy.shape, bool))
    assert queue.regions() == []


def test_marks_reach_past_a_regions_window_on_every_side():
    entropy = np.zeros((40, 40), np.float32)
    entropy[10:20, 10:20] = 0.9
    for window in (Window(0, 0, 15, 40), Window(15, 0, 25, 40), Window(0, 0, 40, 15), Window(12, 12, 3, 3)):
        queue = AttentionQueue(entropy, np.ones(entropy.shape, bool), min_area_px=1)
        queue.mark(0, window, np.ones((window.height, window.width), bool))
        left = entropy > 0
        left[window.slices] = False
        assert queue.regions()[0].num_px == left.sum()
    queue.mark(1, Window(0, 0, 40, 40), np.ones((40, 40), bool))
    assert queue.regions(), "another scene of a stack"


def test_skipped_regions_come_last_and_in_order():
    queue = AttentionQueue(_spread(seed=2), np.ones((120, 150), bool), threshold=0.4)
    numbers = [region.number for region in queue.regions()]
    assert len(numbers) > 3
    queue.skip(numbers[0])
    queue.skip(numbers[2])
    rest = [number for number in numbers if number not in (numbers[0], numbers[2])]
    assert [region.number for region in queue.regions()] == [*rest, numbers[0], numbers[2]]


def test_a_region_that_spans_the_scene_is_cut_to_screenfuls():
    entropy = np.zeros((500, 700), np.float32)
    entropy[::10] = entropy[:, ::10] = 0.7
    regions = AttentionQueue(entropy, np.ones(entropy.shape, bool)).regions()
    assert sum(region.num_px for region in regions) == (entropy > 0).sum()
    assert max(max(r.window.height, r.window.width) for r in regions) <= MAX_EXTENT_PX


def test_a_stack_has_regions_on_its_planes():
    entropy = np.stack([np.zeros((80, 90), np.float32), _spread((80, 90))])
    regions = AttentionQueue(entropy, np.ones(entropy.shape, bool), threshold=0.5).regions()
    assert {region.plane for region in regions} == {1}
