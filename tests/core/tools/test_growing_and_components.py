from collections import deque

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.measure import euler_number, label

from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.components import Area, component_at, holes_of, nearest_other, surrounding_class
from napari_glacier.core.tools.evidence import Evidence
from napari_glacier.core.tools.growing import SMALL_HOLE_PX, connected_to, fill_small_holes, grow, likeness


def _walk(where, start, steps):
    reached, waiting = {start}, deque([start])
    while waiting:
        r, c = waiting.popleft()
        for dr, dc in steps:
            at = r + dr, c + dc
            if 0 <= at[0] < where.shape[0] and 0 <= at[1] < where.shape[1] and where[at] and at not in reached:
                reached.add(at)
                waiting.append(at)
    out = np.zeros(where.shape, bool)
    out[tuple(zip(*reached, strict=True))] = True
    return out


FOUR = [(0, 1), (1, 0), (0, -1), (-1, 0)]
EIGHT = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c]


@pytest.fixture(params=range(3))
def evidence(request):
    rng = np.random.default_rng(request.param)
    spectrum = gaussian_filter(rng.normal(size=(3, 40, 50)), (0, 2, 2)).astype(np.float32) * 10
    valid = np.ones((40, 50), bool)
    valid[:8, 30:] = False
    return Evidence(Window(0, 0, 40, 50), np.where(valid, spectrum, 0).astype(np.float32), valid)


def test_likeness_is_the_distance_of_features(evidence):
    distance = likeness(evidence, 20, 25)
    features = evidence.features
    for row, col in ((0, 0), (39, 49), (20, 25), (11, 44)):
        expected = np.linalg.norm(features[:, row, col] - features[:, 20, 25])
        assert distance[row, col] == pytest.approx(expected, abs=1e-4)
    assert np.isinf(distance[~evidence.valid_HW]).all()
    with pytest.raises(IndexError, match="outside a window"):
        likeness(evidence, -1, 3)


@pytest.mark.parametrize("tolerance", [0.1, 0.5, 1.5, 99.0])
def test_growing_is_a_walk_over_like_pixels_with_small_holes_filled(evidence, tolerance):
    distance = likeness(evidence, 20, 25)
    grown = grow(distance, 20, 25, tolerance)

    walked = _walk(distance <= tolerance, (20, 25), FOUR)
    holes = label(~walked, connectivity=1)
    for number in range(1, holes.max() + 1):
        hole = holes == number
        rows, cols = np.nonzero(hole)
        at_border = rows.min() == 0 or cols.min() == 0 or rows.max() == 39 or cols.max() == 49
        if hole.sum() <= SMALL_HOLE_PX and not at_border:
            walked |= hole
    assert np.array_equal(grown, walked & evidence.valid_HW)
    assert grown[20, 25]
    assert not grown[~evidence.valid_HW].any()


def test_more_tolerance_never_gives_less_and_nodata_gives_nothing(evidence):
    distance = likeness(evidence, 20, 25)
    before = np.zeros(distance.shape, bool)
    for tolerance in np.linspace(0, 3, 12):
        grown = grow(distance, 20, 25, tolerance)
        assert not (before & ~grown).any()
        before = grown
    assert not grow(likeness(evidence, 2, 40), 2, 40, 99.0).any()


@pytest.mark.parametrize("connectivity", [4, 8])
def test_connected_pixels(connectivity):
    rng = np.random.default_rng(3)
    where = rng.random((30, 33)) < 0.55
    for row, col in ((0, 0), (15, 15), (29, 32), (7, 3)):
        expected = _walk(where, (row, col), FOUR if connectivity == 4 else EIGHT) if where[row, col] else where & False
        assert np.array_equal(connected_to(where, row, col, connectivity), expected)


def test_small_holes_only():
    where = np.ones((20, 20), bool)
    where[3, 3] = where[10:13, 10:13] = False
    where[0, 7] = False
    assert np.array_equal(np.argwhere(~fill_small_holes(where, 8)), np.argwhere(~where)[[0, *range(2, 11)]])
    assert fill_small_holes(np.ones((4, 4), bool), 8).all()


@pytest.mark.parametrize("at", [(5, 5), (300, 400), (599, 10), (250, 799)])
def test_a_component_is_found_whatever_window_it_needs(at):
    rng = np.random.default_rng(5)
    index = (gaussian_filter(rng.normal(size=(600, 800)), 25) > 0).astype(np.uint8)
    index[gaussian_filter(rng.normal(size=(600, 800)), 2) > 0.12] = 2
    read = []

    def part(window):
        read.append(window)
        return index[window.slices]

    area = component_at(part, index.shape, *at)

    expected = label(index == index[at], connectivity=2)
    expected = expected == expected[at]
    found = np.zeros(index.shape, bool)
    found[area.window.slices] = area.where_HW
    assert np.array_equal(found, expected)
    assert area.holds(*at)
    assert area.num_px == expected.sum()
    assert area.where_HW.any(axis=0).all() or area.where_HW[:, [0, -1]].any(axis=0).all()


def test_a_small_component_of_a_large_scene_needs_a_small_window():
    index = np.zeros((5000, 5000), np.uint8)
    index[2000:2010, 3000:3020] = 1
    asked = []

    def part(window):
        asked.append(window.height * window.width)
        return index[window.slices]

    assert component_at(part, index.shape, 2005, 3005).window == Window(2000, 3000, 10, 20)
    assert max(asked) <= 256 * 256


def test_padding_keeps_the_pixels_and_stops_at_the_scenes_border():
    area = Area(Window(0, 5, 3, 4), np.eye(3, 4, dtype=bool))
    wide = area.padded(2, (20, 10))
    assert wide.window == Window(0, 3, 5, 7)
    assert wide.trimmed().window == Window(0, 5, 3, 3)
    assert wide.num_px == 3
    assert wide.holds(1, 6)
    assert not wide.holds(1, 7)
    assert Area(Window(4, 4, 3, 3), np.zeros((3, 3), bool)).trimmed().num_px == 0


def test_holes_have_no_way_out():
    rng = np.random.default_rng(6)
    where = gaussian_filter(rng.normal(size=(60, 60)), 2) > -0.05
    holes = holes_of(where)
    assert holes.any()
    outside = _walk(np.pad(~where, 1, constant_values=True), (0, 0), FOUR)[1:-1, 1:-1]
    assert np.array_equal(holes, ~where & ~outside)
    filled = where | holes
    assert euler_number(filled, connectivity=2) == label(filled, connectivity=2).max()


def test_what_surrounds_a_patch_counts_valid_pixels_only():
    index = np.full((9, 9), 3, np.uint8)
    index[3:6, 3:6] = 1
    index[2, 2:7] = 2
    where = index == 1
    valid = np.ones((9, 9), bool)
    assert surrounding_class(index, where, valid) == 3
    valid[3:, :] = False
    assert surrounding_class(index, where, valid) == 2
    assert surrounding_class(index, np.ones((9, 9), bool), valid) == 0


def test_the_nearest_other_class_by_brute_force():
    rng = np.random.default_rng(7)
    index = rng.integers(0, 4, (15, 17), np.uint8)
    taken = rng.random((15, 17)) < 0.5
    valid = rng.random((15, 17)) < 0.8
    found = nearest_other(index, taken, valid)
    sources = np.argwhere(valid & ~taken)
    for row, col in np.argwhere(taken):
        distance = np.square(sources - (row, col)).sum(axis=1)
        nearest = {int(index[tuple(at)]) for at in sources[distance == distance.min()]}
        assert int(found[row, col]) in nearest
    assert not nearest_other(index, np.ones_like(taken), valid).any()
