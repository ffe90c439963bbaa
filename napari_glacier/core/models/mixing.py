"""Weights of an ensemble, fitted to labelled pixels.

Legend: M models, N pixels.
"""

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

# Below this no probability falls: a class that a model excludes must not decide everything by one pixel.
_LEAST = 1e-6
_MAX_PASSES = 2_000
_DONE = 1e-8


def log_loss(weights_M: npt.NDArray[np.floating], true_MN: npt.NDArray[np.floating]) -> float:
    """Mean negative logarithm of the mixed probability of the true class.

    Parameters
    ----------
    weights_M : array, shape (M,)
        Summing to 1.
    true_MN : array, shape (M, N)
        Probability that each model gives to each pixel's true class.
    """
    return float(-np.log(weights_M @ _floored(true_MN)).mean())


def mixing_weights(true_MN: npt.NDArray[np.floating]) -> Float64Array:
    """Weights on the simplex with the least log loss of the averaged probabilities.

    The loss is convex in the weights; they are found by expectation-maximisation (Dempster, Laird & Rubin 1977,
    J. R. Stat. Soc. B 39): each model's weight becomes its mean share in the mixed probability of the truth. Every pass
    lowers the loss and stays on the simplex.

    Parameters
    ----------
    true_MN : array, shape (M, N)
        Probability that each model gives to each pixel's true class.

    Returns
    -------
    float64 array, shape (M,)
        Summing to 1; equal where there is no pixel.
    """
    floored_MN = _floored(true_MN)
    num_models, num_pixels = floored_MN.shape
    weights_M: Float64Array = np.full(num_models, 1 / num_models)
    if num_pixels == 0:
        return weights_M
    for _ in range(_MAX_PASSES):
        shares_M = weights_M * (floored_MN @ (1 / (weights_M @ floored_MN))) / num_pixels
        moved = float(np.abs(shares_M - weights_M).max())
        weights_M = shares_M / shares_M.sum()
        if moved < _DONE:
            break
    return weights_M


def _floored(true_MN: npt.NDArray[np.floating]) -> Float64Array:
    return np.maximum(true_MN.astype(np.float64), _LEAST)
