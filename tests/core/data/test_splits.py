"""Folds and hold-outs against brute force over small sets, and distances against a look at every pixel."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pyproj
import pytest

from napari_glacier.core.data.leakage import buffer_for, centres_m, excluded_windows, find_leaks
from napari_glacier.core.data.splits import hold_out, make_folds
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.raster.georef import GeoRef

GRID = np.array([(col * 1000.0, row * 1000.0) for row in range(4) for col in range(5)])


def _tile(name: str, row: float, col: float, *, size=(40, 50), epsg: int | None = 32643, pixel: float = 30.0) -> Tile:
    transform = (pixel, 0.0, 500_000.0 + pixel * col, 0.0, -pixel, 3_800_000.0 - pixel * row)
    georef = None if epsg is None else GeoRef.from_epsg(epsg, transform, geographic=epsg == 4326)
    return Tile(name, "all", {}, *size, georef, None, Path(name))


def _spread(folds, centres) -> float:
    return sum(((centres[fold] - centres[fold].mean(0)) ** 2).sum() for fold in folds)


def _kept(folds, pixels) -> bool:
    """Whether each class of two tiles or more stays in every fold's training tiles, by the definition."""
    present = pixels > 0
    everything = set(range(len(pixels)))
    return all(
        present[sorted(everything - set(fold))].any(0)[k]
        for fold in folds
        for k in range(pixels.shape[1])
        if present[:, k].sum() > 1
    )


@pytest.mark.parametrize("num_folds", [2, 3, 5, 7, 20])
@pytest.mark.parametrize("placed", [True, False])
def test_folds_share_out_all_tiles_evenly_and_the_same_each_time(num_folds, placed):
    pixels = np.random.default_rng(1).integers(0, 100, (20, 4))
    centres = GRID if placed else None
    folds = make_folds(pixels, num_folds, 3, centres)
    assert sorted(t for fold in folds for t in fold) == list(range(20))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    assert len(folds) == num_folds
    assert folds == make_folds(pixels, num_folds, 3, centres)


def test_placed_folds_are_compact():
    pixels = np.full((20, 2), 10)
    folds = make_folds(pixels, 4, 0, GRID)
    rng = np.random.default_rng(5)
    drawn = [_spread(np.array_split(rng.permutation(20), 4), GRID) for _ in range(200)]
    assert _spread(folds, GRID) < 0.7 * min(drawn)
    # Five tiles on a square grid cannot lie closer than a cross; four such folds no closer than four crosses.
    assert _spread(folds, GRID) <= 4 * 6.8e6


def test_two_far_groups_are_the_two_folds():
    rng = np.random.default_rng(0)
    centres = np.concatenate([rng.normal(0, 100, (6, 2)), rng.normal(9000, 100, (6, 2))])
    folds = make_folds(np.ones((12, 2), int), 2, 0, centres)
    assert sorted(folds) == [list(range(6)), list(range(6, 12))]


@pytest.mark.parametrize("placed", [True, False])
def test_a_class_of_two_tiles_is_never_held_out_whole(placed):
    centres = GRID if placed else None
    for first, second in [(0, 1), (7, 8), (0, 19)]:
        pixels = np.full((20, 3), 10)
        pixels[:, 2] = 0
        pixels[[first, second], 2] = 5
        for num_folds in (2, 4, 5):
            assert _kept(make_folds(pixels, num_folds, 0, centres), pixels)


def test_rare_classes_are_in_as_many_folds_as_can_be():
    pixels = np.full((12, 3), 100)
    pixels[:, 2] = 0
    pixels[[0, 3, 5, 9], 2] = 7
    folds = make_folds(pixels, 4, 0)
    assert all((pixels[fold, 2] > 0).sum() == 1 for fold in folds)
    # In a row of tiles three neighbours are the closest folds; of these one has two lakes, and its neighbour none.
    line = np.stack([np.arange(12) * 500.0, np.zeros(12)], 1)
    folds = make_folds(pixels, 4, 0, line)
    assert all((pixels[fold, 2] > 0).sum() == 1 for fold in folds)
    assert _spread(folds, line) < 2 * _spread(np.arange(12).reshape(4, 3), line)


def test_many_tiles_are_shared_out_evenly_in_seconds():
    rng = np.random.default_rng(2)
    centres = rng.uniform(0, 1e5, (701, 2))
    folds = make_folds(np.ones((701, 4), int), 5, 0, centres)
    assert sorted(map(len, folds)) == [140, 140, 140, 140, 141]
    assert _spread(folds, centres) < 0.5 * _spread(np.array_split(rng.permutation(701), 5), centres)


def _lakes_in_a_corner(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Tiles of a square grid; only those of a corner hold lakes, every other one of them."""
    centres = np.array([(col * 1000.0, row * 1000.0) for row in range(side) for col in range(side)])
    pixels = np.full((side**2, 3), 100)
    pixels[:, 2] = np.where((centres.sum(1) < 400.0 * side) & (np.arange(side**2) % 2 == 0), 20, 0)
    return pixels, centres


def test_a_clustered_class_reaches_every_fold_at_little_cost():
    pixels, centres = _lakes_in_a_corner(20)
    folds = make_folds(pixels, 5, 0, centres)
    assert all((pixels[fold, 2] > 0).any() for fold in folds)
    # Up to four tiles of eighty each lie apart for that.
    bare = make_folds(pixels[:, :2], 5, 0, centres)
    assert _spread(folds, centres) < 1.25 * _spread(bare, centres)


def test_no_swap_would_make_the_folds_better():
    """Each swap of two tiles is tried and scored as the docstring of make_folds says."""
    rng = np.random.default_rng(11)
    for trial in range(3):
        centres = rng.uniform(0, 1e4, (30, 2))
        pixels = np.full((30, 3), 10)
        pixels[:, 1] = rng.integers(0, 2, 30)
        pixels[:, 2] = np.where(centres.sum(1) < np.quantile(centres.sum(1), 0.2), 5, 0)
        total = _spread([list(range(30))], centres)

        def score(fold_of, pixels=pixels, centres=centres, total=total):
            folds = [np.flatnonzero(fold_of == f) for f in range(3)]
            holding = np.array([(pixels[fold] > 0).any(0) for fold in folds]).sum(0)
            could = np.minimum((pixels > 0).sum(0), 3)
            lost = ((holding == 1) & ((pixels > 0).sum(0) > 1)).sum()
            return _spread(folds, centres) / total + 1000 * lost + 0.1 * (could - holding).sum(), holding < could

        fold_of = np.empty(30, int)
        for f, fold in enumerate(make_folds(pixels, 3, trial, centres)):
            fold_of[fold] = f
        best, lacking = score(fold_of)
        for i, j in combinations(range(30), 2):
            swapped = fold_of.copy()
            swapped[[i, j]] = fold_of[[j, i]]
            # Swaps are made for the sake of classes, not to refine the clusters.
            if (lacking & ((pixels[i] > 0) != (pixels[j] > 0))).any():
                assert score(swapped)[0] >= best - 1e-9


def test_ten_thousand_tiles_are_split_well():
    pixels, centres = _lakes_in_a_corner(100)
    folds = make_folds(pixels, 5, 0, centres)
    held_out = hold_out(pixels, 0.15, 0, centres_T2=centres)
    drawn = [make_folds(pixels, 5, 0), hold_out(pixels, 0.15, 0)]
    # Looking at every swap and at every tile around every tile would take until the time limit of a test.
    assert sorted(t for fold in folds for t in fold) == list(range(10_000))
    assert all(len(fold) == 2000 and (pixels[fold, 2] > 0).any() for fold in folds)
    assert len(held_out) == len(drawn[1]) == 1500
    # Shares of tiles with lakes agree; a square of so many tiles is the most compact of all clusters but the disc.
    assert (pixels[held_out, 2] > 0).mean() == pytest.approx((pixels[:, 2] > 0).mean(), rel=0.3)
    square = _spread([list(range(1521))], np.stack(np.divmod(np.arange(1521), 39), 1) * 1000.0)
    assert _spread([held_out], centres) < 1.1 * square
    assert _spread(folds, centres) < 0.5 * _spread([list(range(10_000))], centres)


@pytest.mark.parametrize("num_folds", [1, 5])
def test_more_folds_than_tiles_are_refused(num_folds):
    with pytest.raises(ConfigError, match="4 tiles"):
        make_folds(np.ones((4, 2), int), num_folds, 0)


def test_a_placed_hold_out_is_a_cluster_with_every_class():
    pixels = np.full((20, 3), 100)
    pixels[:, 2] = 0
    pixels[[0, 6, 19], 2] = 30
    held_out = hold_out(pixels, 0.2, 0, centres_T2=GRID)
    assert len(held_out) == 4
    assert 1 <= (pixels[held_out, 2] > 0).sum() <= 2
    spreads = [_spread([list(four)], GRID) for four in combinations(range(20), 4)]
    assert _spread([held_out], GRID) <= np.quantile(spreads, 0.02)
    assert held_out == hold_out(pixels, 0.2, 0, centres_T2=GRID)
    among = hold_out(pixels, 0.2, 0, [1, 3, 5, 8, 9], GRID)
    assert set(among) <= {1, 3, 5, 8, 9}


def test_the_only_tile_of_a_class_is_not_held_out_though_it_is_near():
    pixels = np.full((20, 3), 100)
    pixels[:, 2] = 0
    pixels[6, 2] = 30
    for seed in range(4):
        assert 6 not in hold_out(pixels, 0.3, seed, centres_T2=GRID)


def test_tiles_without_which_a_class_is_lost_are_passed_over():
    """Against a plain walk from the nearest tile outwards, one cluster for each eligible tile."""

    def clusters(pixels, centres, eligible, size):
        for middle in eligible:
            chosen, passed = [], []
            for t in sorted(eligible, key=lambda t: ((centres[t] - centres[middle]) ** 2).sum()):
                left = [u for u in range(len(pixels)) if u not in [*chosen, t]]
                loses = ((pixels[t] > 0) & ~(pixels[left] > 0).any(0)).any()
                (passed if loses or len(chosen) == size else chosen).append(t)
            yield frozenset(chosen + passed[: size - len(chosen)])

    rng = np.random.default_rng(3)
    for trial in range(20):
        centres = rng.uniform(0, 1e4, (14, 2))
        pixels = np.full((14, 4), 10)
        for k in (1, 2, 3):
            pixels[:, k] = 0
            pixels[rng.choice(14, int(rng.integers(1, 4)), replace=False), k] = 10
        eligible = sorted(rng.choice(14, int(rng.integers(4, 15)), replace=False).tolist())
        found = hold_out(pixels, 0.5, trial, eligible, centres)
        expected = set(clusters(pixels, centres, eligible, min(7, len(eligible))))
        assert frozenset(found) in expected
        lost = [(pixels[sorted(set(range(14)) - set(c))] == 0).all(0).sum() for c in expected]
        assert (pixels[sorted(set(range(14)) - set(found))] == 0).all(0).sum() == min(lost)


def test_excluded_pixels_are_those_within_the_buffer():
    rng = np.random.default_rng(4)
    for trial in range(12):
        buffer = int(rng.integers(0, 25))
        train = _tile("a", *rng.integers(-70, 70, 2), size=(30, 34))
        held_out = [_tile("b", *rng.integers(-70, 70, 2)), _tile("c", *rng.integers(-70, 70, 2), size=(20, 20))]
        place = np.array([t.georef.transform[5] for t in (train, *held_out)])
        rows0 = np.round((3_800_000.0 - place) / 30).astype(int)
        cols0 = np.round((np.array([t.georef.transform[2] for t in (train, *held_out)]) - 500_000.0) / 30).astype(int)
        rows, cols = np.mgrid[rows0[0] : rows0[0] + 30, cols0[0] : cols0[0] + 34]
        distance = np.full(rows.shape, 10**6)
        for tile, row0, col0 in zip(held_out, rows0[1:], cols0[1:], strict=True):
            other_rows, other_cols = np.mgrid[row0 : row0 + tile.height, col0 : col0 + tile.width].reshape(2, -1)
            away = np.maximum(abs(rows[..., None] - other_rows), abs(cols[..., None] - other_cols))
            distance = np.minimum(distance, away.min(-1))
        excluded = np.zeros(rows.shape, bool)
        for window in excluded_windows([train], held_out, buffer)[0]:
            assert window == window.clipped(30, 34), trial
            excluded[window.slices] = True
        np.testing.assert_array_equal(excluded, distance <= buffer)


def test_pairs_and_distances_are_those_of_a_brute_force_search():
    rng = np.random.default_rng(7)
    places = rng.integers(-150, 150, (14, 2))
    tiles = [_tile(str(k), *place) for k, place in enumerate(places)]
    train, val, buffer = tiles[:8], tiles[8:], 40
    expected = {}
    for t, v in [(t, v) for v in range(8, 14) for t in range(8)]:
        here = np.mgrid[:41:1, :51:1].reshape(2, -1).T  # corners of pixels, so that touching tiles are 0 apart
        (r0, c0), (r1, c1) = places[t], places[v]
        apart = np.array([np.clip(here[:, 0] + r1, r0, r0 + 40), np.clip(here[:, 1] + c1, c0, c0 + 50)]).T
        away = np.abs(here + np.array([r1, c1]) - apart)
        chebyshev, euclid = away.max(1).min(), np.hypot(*away.T).min()
        shared = abs(r1 - r0) < 40 and abs(c1 - c0) < 50
        if shared or chebyshev < buffer:
            relation = "overlap" if shared else "touch" if chebyshev == 0 else "near"
            expected[str(t), str(v)] = (relation, chebyshev, 30 * euclid)
    found = find_leaks(train, val, buffer, masked=True)
    assert {(x.train_tile, x.val_tile) for x in found.leaks} == set(expected)
    assert len(expected) > 5
    for leak in found.leaks:
        relation, gap, metres = expected[leak.train_tile, leak.val_tile]
        assert (leak.relation, leak.gap_px) == (relation, gap)
        assert leak.distance_m == pytest.approx(metres, abs=1e-3)
        assert leak.masked


def test_touching_tiles_touch_and_a_buffer_of_nothing_masks_nothing_of_them():
    tiles = [_tile("a", 0, 0), _tile("b", 0, 50), _tile("c", 40, 50), _tile("d", 20, 20)]
    leaks = find_leaks(tiles[1:], tiles[:1], 0, masked=True).leaks
    assert [(x.train_tile, x.relation, x.distance_m, x.masked) for x in leaks] == [
        ("b", "touch", 0.0, False),
        ("c", "touch", 0.0, False),
        ("d", "overlap", 0.0, True),
    ]
    assert excluded_windows(tiles[1:3], tiles[:1], 0) == ((), ())


def test_without_a_reference_system_it_cannot_be_told():
    bare, placed = _tile("bare", 0, 0, epsg=None), _tile("placed", 0, 0)
    found = find_leaks([bare], [placed], 10, masked=True)
    assert found.leaks == ()
    assert found.unplaced == ("bare",)
    assert "cannot be told" in found.summary()
    assert centres_m([bare, placed]) is None
    assert excluded_windows([bare], [placed], 10) == ((),)
    # Coordinates of another system mean other places.
    assert find_leaks([_tile("other", 0, 0, epsg=32644)], [placed], 10, masked=True).leaks == ()


def test_degrees_become_metres():
    # A thousandth of a degree a pixel at 34.2 degrees north: 111.19 m down, about 91.9 m across.
    def at(row, col):
        georef = GeoRef.from_epsg(4326, (1e-3, 0, 75 + 1e-3 * col, 0, -1e-3, 34.2 - 1e-3 * row), geographic=True)
        return Tile(f"{row} {col}", "all", {}, 100, 100, georef, None, Path("m"))

    below, beside = find_leaks([at(110, 0), at(0, 110)], [at(0, 0)], 20, masked=False).leaks
    assert below.distance_m == pytest.approx(10 * 111.195, rel=1e-3)
    assert beside.distance_m == pytest.approx(10 * 111.195 * np.cos(np.radians(34.15)), rel=1e-3)
    centres = centres_m([at(0, 0), at(110, 0)])
    assert np.hypot(*(centres[1] - centres[0])) == pytest.approx(110 * 111.195, rel=1e-3)


def test_the_usual_buffer_is_at_most_a_quarter_of_a_tile():
    assert buffer_for(None, [_tile("a", 0, 0, size=(512, 512)), _tile("b", 0, 0, size=(200, 512))]) == 50
    assert buffer_for(None, [_tile("a", 0, 0, size=(4000, 512))]) == 128
    assert buffer_for(300, [_tile("a", 0, 0)]) == 300


def test_tiles_of_one_ground_in_two_zones_are_near():
    to_44 = pyproj.Transformer.from_crs(32643, 32644, always_xy=True)

    def tile(zone, number, x, y):
        georef = GeoRef.from_epsg(zone, (30.0, 0.0, x, 0.0, -30.0, y))
        return Tile(f"{zone}_{number}", "all", {}, 64, 64, georef, None, Path("x"))

    places = [(770_000.0 + 64 * 30 * number, 3_800_000.0) for number in range(3)]
    west = [tile(32643, number, *place) for number, place in enumerate(places)]
    east = [tile(32644, number, *to_44.transform(*place)) for number, place in enumerate(places)]
    leaks = find_leaks(west, east, 8, masked=True).leaks
    same = {(leak.train_tile[-1], leak.val_tile[-1]) for leak in leaks if leak.relation == "overlap"}
    assert {("0", "0"), ("1", "1"), ("2", "2")} <= same
    # The grids are turned against one another by 3 degrees.
    (windows,) = excluded_windows(west[:1], east[:1], 0)
    assert sum(window.height * window.width for window in windows) > 0.95 * 64 * 64
    centres = centres_m([*west, *east])
    np.testing.assert_allclose(centres[:3], centres[3:], atol=100)
    assert np.linalg.norm(centres[1] - centres[0]) == pytest.approx(64 * 30, rel=0.01)
    assert sorted(map(sorted, make_folds(np.ones((6, 1)), 3, 0, centres))) == [[0, 3], [1, 4], [2, 5]]
