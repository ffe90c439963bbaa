import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.segmentation import random_walker

from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import Evidence
from napari_glacier.core.tools.scribbles import UNMARKED, random_walk, reach_of, solve_scribbles
from napari_glacier.core.tools.superpixels import superpixels


def _dense(edges, weight, seed, prior):
    first, second = edges
    num = prior.shape[1]
    count = len(seed)
    adjacency = np.zeros((count, count))
    adjacency[first, second] = adjacency[second, first] = weight
    laplacian = np.diag(adjacency.sum(axis=1)) - adjacency
    free = seed < 0
    marked = np.eye(num)[seed[~free]]
    system = laplacian[np.ix_(free, free)] + np.diag(prior[free].sum(axis=1))
    answer = np.zeros((count, num))
    answer[~free] = marked
    answer[free] = np.linalg.solve(system, prior[free] - laplacian[np.ix_(free, ~free)] @ marked)
    return answer


@pytest.mark.parametrize("with_prior", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_random_walk_solves_gradys_equations(seed, with_prior):
    rng = np.random.default_rng(seed)
    count = 40
    pairs = {(k, k + 1) for k in range(count - 1)}
    pairs |= {tuple(sorted(pair)) for pair in rng.integers(0, count, (60, 2)) if pair[0] != pair[1]}
    first, second = np.array(sorted(pairs)).T
    weight = rng.random(len(first)) + 0.01
    seeds = np.full(count, -1)
    seeds[[0, 13, 39]] = [0, 1, 2]
    prior = rng.random((count, 3)) * 0.2 if with_prior else np.zeros((count, 3))

    found = random_walk(first, second, weight, seed_N=seeds, num_seeds=3, prior_NK=prior)

    assert found == pytest.approx(_dense((first, second), weight, seeds, prior), abs=1e-9)
    assert found.sum(axis=1) == pytest.approx(np.ones(count))


def test_random_walk_on_a_grid_is_scikit_images():
    rng = np.random.default_rng(4)
    image = gaussian_filter(rng.normal(size=(20, 24)), 2)
    markers = np.zeros(image.shape, int)
    markers[3, 3], markers[16, 20], markers[4, 20] = 1, 2, 3
    beta, tiny = 130.0, 1e-10
    expected = random_walker(image, markers, beta=beta, mode="bf", return_full_prob=True)

    number = np.arange(image.size).reshape(image.shape)
    first = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    second = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    squared = np.square(image.ravel()[first] - image.ravel()[second])
    # scikit-image divides by ten standard deviations of the image, and adds a small weight.
    weight = np.exp(-beta * squared / (10 * image.std())) + tiny
    seeds = markers.ravel() - 1
    found = random_walk(first, second, weight, seed_N=seeds, num_seeds=3, prior_NK=np.zeros((image.size, 3)))

    assert found.T.reshape(3, *image.shape) == pytest.approx(expected, abs=2e-3)


def test_nodes_without_a_way_to_a_seed_get_nothing():
    found = random_walk(
        np.array([0, 2]),
        np.array([1, 3]),
        np.ones(2),
        seed_N=np.array([0, -1, -1, -1]),
        num_seeds=2,
        prior_NK=np.zeros((4, 2)),
    )
    assert found.tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]


def _scene(seed=0, size=96):
    """Two materials with a wavy border, noise, and a nodata corner."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(size, size)), size / 8)
    truth = (field > np.median(field)).astype(np.uint8) + 1
    spectrum = np.stack([(truth == 2) * scale + rng.normal(0, 0.25, truth.shape) for scale in (1.2, -0.8, 0.5)])
    valid = np.ones(truth.shape, bool)
    valid[:20, :20] = False
    spectrum = np.where(valid, spectrum, 0).astype(np.float32)
    return truth, Evidence(Window(0, 0, size, size), spectrum, valid)


def test_superpixels_tile_the_window_and_know_their_neighbours():
    _, evidence = _scene()
    cut = superpixels(evidence, 8)

    assert set(np.unique(cut.label_HW)) <= set(range(cut.count))
    pairs = {}
    for one, other in ((cut.label_HW[:, :-1], cut.label_HW[:, 1:]), (cut.label_HW[:-1], cut.label_HW[1:])):
        for a, b in zip(one.ravel(), other.ravel(), strict=True):
            if a != b:
                key = min(a, b), max(a, b)
                pairs[key] = pairs.get(key, 0) + 1
    assert {(a, b): n for a, b, n in zip(cut.first_E, cut.second_E, cut.border_E, strict=True)} == pairs
    for number in np.unique(cut.label_HW)[::7]:
        mine = cut.label_HW == number
        assert cut.features_NF[number] == pytest.approx(evidence.features[:, mine].mean(axis=1), abs=1e-5)
        assert evidence.valid_HW[mine].all() or not evidence.valid_HW[mine].any()
        assert cut.valid_N[number] == evidence.valid_HW[mine].all()


@pytest.mark.parametrize("seed", range(4))
def test_a_few_strokes_find_both_materials(seed):
    truth, evidence = _scene(seed)
    marks = np.full(truth.shape, UNMARKED, np.uint8)
    for label in (1, 2):
        rows, cols = np.nonzero((truth == label) & evidence.valid_HW)
        middle = np.argsort(gaussian_filter((truth == label).astype(float), 4)[rows, cols])[-1]
        row, col = rows[middle], cols[middle]
        marks[max(row - 1, 0) : row + 2, max(col - 5, 0) : col + 5] = label
    marks[(marks != truth) & (marks != UNMARKED)] = UNMARKED

    index, probability = solve_scribbles(evidence, marks)

    valid = evidence.valid_HW
    assert (index[~valid] == UNMARKED).all()
    assert (index[valid] == truth[valid]).mean() > 0.98
    drawn = (marks != UNMARKED) & valid
    assert np.array_equal(index[drawn], marks[drawn])
    assert probability[valid].min() >= 0.5 - 1e-6
    assert probability.max() <= 1 + 1e-6


def test_only_the_area_meant_is_solved_and_one_class_is_not_enough():
    truth, evidence = _scene()
    marks = np.full(truth.shape, UNMARKED, np.uint8)
    marks[60:64, 30:40] = 1
    with pytest.raises(ValueError, match="two classes"):
        solve_scribbles(evidence, marks)
    marks[80:84, 60:70] = 2
    within = reach_of(marks, 3)
    index, _ = solve_scribbles(evidence, marks, superpixels(evidence), within)
    outside = superpixels(evidence).label_HW
    untouched = ~np.isin(outside, np.unique(outside[within]))
    assert untouched.any()
    assert (index[untouched] == UNMARKED).all()
    assert (index[within] != UNMARKED).all()


def test_the_reach_is_the_convex_hull():
    from skimage.morphology import convex_hull_image

    marks = np.full((40, 50), UNMARKED, np.uint8)
    marks[[5, 30, 12], [8, 20, 44]] = [0, 1, 2]
    assert (reach_of(marks, 0) ^ convex_hull_image(marks != UNMARKED)).sum() <= 8  # pixels that the hull's line cuts
    assert not reach_of(np.full((4, 4), UNMARKED, np.uint8), 2).any()
    wide = reach_of(marks, 3)
    assert wide[2, 8]
    assert not wide[0, 20]
