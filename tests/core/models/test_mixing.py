"""Fitted weights, against a general optimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import log_loss as oracle_loss

from napari_glacier.core.models.mixing import log_loss, mixing_weights


def _probabilities(num_models, num_pixels=3000, seed=0):
    """What models of different skill give to the truth and to the other two classes."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, num_pixels)
    logits = rng.normal(size=(num_models, 3, num_pixels))
    skill = np.linspace(0.2, 2.0, num_models)
    logits[:, truth, np.arange(num_pixels)] += skill[:, None]
    p = np.exp(logits)
    p /= p.sum(1, keepdims=True)
    return p, truth


@pytest.mark.parametrize("num_models", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_weights_are_those_of_a_general_optimiser(num_models, seed):
    p, truth = _probabilities(num_models, seed=seed)
    true_MN = p[:, truth, np.arange(len(truth))]
    found = minimize(
        lambda w: -np.log(w @ true_MN).mean(),
        np.full(num_models, 1 / num_models),
        bounds=[(0, 1)] * num_models,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    weights = mixing_weights(true_MN)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    assert log_loss(weights, true_MN) <= found.fun + 1e-7
    np.testing.assert_allclose(weights, found.x, atol=2e-3)


def test_the_loss_is_that_of_scikit_learn():
    p, truth = _probabilities(3)
    weights = np.array([0.2, 0.3, 0.5])
    mixed = np.tensordot(weights, p, axes=1)
    true_MN = p[:, truth, np.arange(len(truth))]
    assert log_loss(weights, true_MN) == pytest.approx(oracle_loss(truth, mixed.T), abs=1e-9)


def test_a_model_that_knows_nothing_gets_next_to_nothing():
    p, truth = _probabilities(2)
    true_MN = p[:, truth, np.arange(len(truth))]
    true_MN[0] = 0.0
    weights = mixing_weights(true_MN)
    assert weights[0] < 1e-3
    assert np.isfinite(log_loss(weights, true_MN))


def test_without_pixels_all_count_alike():
    assert mixing_weights(np.empty((3, 0))).tolist() == [1 / 3] * 3
