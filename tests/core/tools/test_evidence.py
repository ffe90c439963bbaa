import numpy as np
import pytest

from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import PROBABILITY_WEIGHT, Evidence, soft_labels, standardise


def _evidence(probability=True, nodata=True, seed=0):
    rng = np.random.default_rng(seed)
    valid = np.ones((9, 11), bool)
    if nodata:
        valid[:3, :4] = False
    p = rng.dirichlet(np.ones(3), (9, 11)).transpose(2, 0, 1).astype(np.float32) if probability else None
    spectrum = np.where(valid, rng.normal(size=(4, 9, 11)), 0).astype(np.float32)
    return Evidence(Window(0, 0, 9, 11), spectrum, valid, p)


def test_standardise_is_in_standard_deviations_and_blind_to_nodata():
    rng = np.random.default_rng(1)
    image = rng.normal(9000, 300, (2, 6, 7))
    image[:, 0, 0] = np.nan
    image[1, 5, 5] = 1e9
    valid = np.ones((6, 7), bool)
    valid[0, 0] = False
    z = standardise(image, valid, (9000, 9000), (300, 0))
    assert z.dtype == np.float32
    assert z[:, 0, 0].tolist() == [0, 0]
    assert z[1, 5, 5] == 5
    inner = np.s_[1:, 1:5]
    assert z[0][inner] == pytest.approx(np.clip((image[0][inner] - 9000) / 300, -5, 5), abs=1e-4)


@pytest.mark.parametrize("probability", [True, False])
def test_features_are_the_blurred_values_of_valid_pixels(probability):
    evidence = _evidence(probability)
    planes = list(evidence.spectrum_CHW / 2)  # four bands
    if probability:
        planes += list(np.sqrt(evidence.probability_KHW) * PROBABILITY_WEIGHT / np.sqrt(2))
    # Every pixel's mean over the valid pixels beside it, by hand; the border is mirrored.
    where = np.pad(evidence.valid_HW, 1, mode="reflect")
    for plane, found in zip(planes, evidence.features, strict=True):
        wide = np.pad(plane, 1, mode="reflect")
        for row in range(9):
            for col in range(11):
                around = np.s_[row : row + 3, col : col + 3]
                expected = wide[around][where[around]].mean() if evidence.valid_HW[row, col] else 0.0
                assert found[row, col] == pytest.approx(expected, abs=1e-5)


def test_edges_are_where_the_spectrum_changes():
    spectrum = np.zeros((2, 20, 20), np.float32)
    spectrum[:, :, 10:] = 2.0
    edges = Evidence(Window(0, 0, 20, 20), spectrum, np.ones((20, 20), bool)).edges
    assert set(np.argwhere(edges > 0)[:, 1]) == {8, 9, 10, 11}
    assert edges[5].argmax() in (9, 10)


def test_soft_labels_sum_to_one_and_keep_the_likeliest_class():
    rng = np.random.default_rng(2)
    index = rng.integers(0, 4, (5, 6), np.uint8)
    entropy = rng.random((5, 6))
    p = soft_labels(index, entropy, 4)
    assert p.sum(axis=0) == pytest.approx(np.ones((5, 6)), abs=1e-6)
    assert np.array_equal(p.argmax(axis=0), index)
    assert p.max(axis=0) == pytest.approx(1 - entropy * 3 / 4, abs=1e-6)
