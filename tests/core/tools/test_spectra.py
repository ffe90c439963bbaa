import numpy as np
import pytest

from napari_glacier.core.tools.spectra import class_means


def test_class_means_are_those_of_valid_pixels():
    rng = np.random.default_rng(0)
    image = rng.normal(9000, 2000, (5, 30, 40)).astype(np.float32)
    index = rng.integers(0, 3, (30, 40), np.uint8)
    valid = rng.random((30, 40)) < 0.7
    means = class_means(image, index, valid, 4)
    assert means.shape == (4, 5)
    for label in range(3):
        assert means[label] == pytest.approx(image[:, valid & (index == label)].mean(axis=1, dtype=float), rel=1e-6)
    assert np.isnan(means[3]).all()
