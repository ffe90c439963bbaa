import numpy as np
import pytest
import scipy.stats
import torch

from napari_glacier.nn.uncertainty import entropy, mutual_information


@pytest.fixture
def members() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.dirichlet([0.4] * 4, size=(3, 6, 5)).transpose(0, 3, 1, 2)


def test_entropy_equals_scipys(members) -> None:
    ours = entropy(torch.from_numpy(members[0])).numpy()
    np.testing.assert_allclose(ours, scipy.stats.entropy(members[0], axis=0, base=4), atol=1e-12)


def test_entropy_at_the_ends() -> None:
    sure, clueless = torch.tensor([0.0, 1.0, 0.0]), torch.full((3,), 1 / 3)
    assert entropy(sure).item() == 0
    assert entropy(clueless).item() == pytest.approx(1)


def test_mutual_information_equals_the_mean_divergence(members) -> None:
    """It is the weighted mean Kullback-Leibler divergence of the members from their mean."""
    weights = np.array([0.5, 0.3, 0.2])
    mean = np.tensordot(weights, members, 1)
    oracle = sum(w * scipy.stats.entropy(p, mean, axis=0, base=4) for w, p in zip(weights, members, strict=True))
    ours = mutual_information(torch.from_numpy(members), torch.from_numpy(weights)).numpy()
    np.testing.assert_allclose(ours, oracle, atol=1e-12)


def test_mutual_information_of_agreement_is_zero(members) -> None:
    one = torch.from_numpy(members[:1])
    assert not mutual_information(one).any()
    assert mutual_information(torch.cat([one, one])).abs().max() < 1e-12
