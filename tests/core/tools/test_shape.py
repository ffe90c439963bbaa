import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label
from skimage.draw import polygon2mask
from skimage.morphology import closing, dilation, disk, erosion, opening

from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import Evidence
from napari_glacier.core.tools.shape import OPERATIONS, depth, inside_loop, reshape, snap_boundary


@pytest.mark.parametrize("radius", [1, 2, 5, 9])
@pytest.mark.parametrize("operation", ["grow", "shrink", "open", "close"])
def test_morphology_is_scikit_images_with_a_disk(operation, radius):
    where = np.zeros((70, 80), bool)
    where[12:-12, 12:-12] = gaussian_filter(np.random.default_rng(radius).normal(size=(46, 56)), 3) > 0
    # The same disk: pixels whose centre is at most `radius` away.
    by = {"grow": dilation, "shrink": erosion, "open": opening, "close": closing}[operation]
    assert np.array_equal(reshape(where, operation, radius), by(where, disk(radius)))


@pytest.mark.parametrize("radius", [1, 4, 9])
def test_smoothing_is_a_vote_of_the_valid_pixels_around(radius):
    rng = np.random.default_rng(radius)
    where = gaussian_filter(rng.normal(size=(40, 50)), 1) > 0
    valid = gaussian_filter(rng.normal(size=(40, 50)), 3) > -0.1
    where &= valid
    expected = where.copy()
    for row, col in np.argwhere(valid & dilation(where, disk(radius))):
        near = (np.add.outer((np.arange(40) - row) ** 2, (np.arange(50) - col) ** 2) <= radius**2) & valid
        share = where[near].mean()
        expected[row, col] = where[row, col] if share == 0.5 else share > 0.5
    smooth = reshape(where, "smooth", radius, valid_HW=valid)
    assert np.array_equal(smooth, expected)
    assert (smooth != where).any()


def test_sieving_drops_small_parts_but_for_those_that_go_on_beyond():
    where = gaussian_filter(np.random.default_rng(3).normal(size=(80, 90)), 1.5) > 0.05
    sieved = reshape(where, "sieve", 4)
    parts, count = label(where, np.ones((3, 3)))
    dropped = set()
    for part in range(1, count + 1):
        rows, cols = np.nonzero(parts == part)
        is_cut = rows.min() == 0 or cols.min() == 0 or rows.max() == 79 or cols.max() == 89
        if len(rows) < disk(4).sum() and not is_cut:
            dropped.add(part)
    assert dropped
    assert np.array_equal(sieved, where & ~np.isin(parts, list(dropped)))
    # Of a large part a loop holds a few pixels.
    large = np.zeros((40, 40), bool)
    large[10:30, 10:30] = True
    loop = np.zeros((40, 40), bool)
    loop[10:13, 10:13] = True
    assert np.array_equal(reshape(loop, "sieve", 4, class_HW=large), loop)
    assert not reshape(loop, "sieve", 4).any()
    # And smoothing rounds its corner alone.
    assert np.array_equal(reshape(loop, "smooth", 1, class_HW=large) & loop, reshape(large, "smooth", 1) & loop)


def test_a_region_does_not_recede_from_the_scenes_border():
    where = np.zeros((20, 20), bool)
    where[:10] = True
    assert np.array_equal(np.argwhere(reshape(where, "shrink", 3).all(axis=1)).ravel(), np.arange(7))
    for operation in OPERATIONS:
        assert reshape(np.ones((6, 6), bool), operation, 2).all()
        assert not reshape(np.zeros((6, 6), bool), operation, 2).any()
    with pytest.raises(ValueError, match="use one of grow"):
        reshape(where, "melt", 1)  # type: ignore[arg-type]


def test_depth_by_brute_force():
    where = gaussian_filter(np.random.default_rng(1).normal(size=(25, 25)), 2) > 0
    outside = np.argwhere(~where)
    for row, col in np.argwhere(where):
        expected = np.sqrt(np.square(outside - (row, col)).sum(axis=1).min())
        assert depth(where)[row, col] == pytest.approx(expected, abs=1e-4)


def _disk(centre, radius, shape=(80, 90)):
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (cols - centre[1]) ** 2 <= radius**2


def _edges(truth, noise=0.05):
    rng = np.random.default_rng(0)
    spectrum = np.stack([truth * scale + rng.normal(0, noise, truth.shape) for scale in (1.5, -1.0)])
    return Evidence(Window(0, 0, *truth.shape), spectrum.astype(np.float32), np.ones(truth.shape, bool)).edges


@pytest.mark.parametrize(("off", "radius"), [((0, 0), 17), ((0, 0), 23), ((3, -2), 20), ((-2, 3), 18)])
def test_a_sloppy_outline_snaps_to_the_edge(off, radius):
    truth = _disk((40, 45), 20)
    sloppy = _disk((40 + off[0], 45 + off[1]), radius)
    free = np.ones(truth.shape, bool)

    snapped = snap_boundary(sloppy, _edges(truth), 6, free)

    wrong_before, wrong_after = (sloppy ^ truth).sum(), (snapped ^ truth).sum()
    # What is left is the width of the blurred edge on some pixels of the outline.
    assert wrong_after < 0.3 * wrong_before
    assert wrong_after < 0.75 * 2 * np.pi * 20


def test_nothing_moves_beyond_reach_or_on_pixels_that_are_not_free():
    truth, sloppy = _disk((40, 45), 25), _disk((40, 45), 20)
    free = np.ones(truth.shape, bool)
    free[:, 50:] = False
    snapped = snap_boundary(sloppy, _edges(truth), 3, free)
    moved = snapped ^ sloppy
    assert not moved[:, 50:].any()
    assert not moved[depth(sloppy) > 3].any()
    assert not moved[depth(~sloppy) > 3].any()
    for same in (np.zeros_like(truth), np.ones_like(truth)):
        assert np.array_equal(snap_boundary(same, _edges(truth), 3, free), same)
    assert np.array_equal(snap_boundary(sloppy, _edges(truth), 0, free), sloppy)


def test_a_tongue_narrower_than_the_reach_keeps_its_middle():
    tongue = np.zeros((60, 60), bool)
    tongue[10:50, 28:33] = True
    tongue[30, 10:28] = True
    snapped = snap_boundary(tongue, _edges(tongue), 8, np.ones(tongue.shape, bool))
    assert snapped[12:48, 30].all()
    assert snapped[30, 12:28].all()


def test_a_loop_holds_the_pixels_inside():
    vertices = [(2.0, 3.0), (15.0, 5.0), (9.0, 18.0)]
    assert np.array_equal(inside_loop(vertices, (20, 20)), polygon2mask((20, 20), vertices))
    inside = inside_loop(vertices, (20, 20))
    assert inside[8, 8]
    assert not inside[3, 15]
