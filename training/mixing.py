"""How often each place is drawn, so that the classes come in a wanted mix.

The weights w of the places minimise, over w >= 0 with w_m <= cap,

    sum_m v_m log(v_m / (n_m b_m))  +  1 / slack sum_k t_k log(t_k / y_k),      y_k = sum_m v_m f_mk,

where v_m = w_m n_m as shares of all pixels, n_m is the number of counted pixels at a place, b_m how welcome it is
beyond chance, f_m the mix at the place, t the target and y the mix of all. The minimiser is an exponential family
cut off at the cap; its few parameters are those of the convex dual (Boyd & Vandenberghe, Convex Optimization,
2004, section 5: entropy maximisation), which is solved here. The slack keeps the dual bounded where no weights
reach the target: the mix is then the one from which the target diverges least (Kullback & Leibler), so that a
rare class is not given up to come nearer to the target with the common ones.

Shapes: M places, K classes, N crops, A alternatives for each crop.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

FloatArray = npt.NDArray[np.float64]

# A mix that can be reached is missed by less than 1 % for this.
_SLACK = 1e-3
# The divergence takes a smaller share for this one, so that a class of which none is wanted is kept low, too.
_SMALLEST_SHARE = 0.01
# The cap is in units of the mean weight, which depends on the weights; it settles at once.
_CAP_PASSES = 4
# Parameters are rounded so that the last bits of a sum, which depend on the machine, do not move a crop.
_DECIMALS = 6
# A plan this near the expected mix is left as it was drawn.
_NEAR_ENOUGH = 0.003


def balanced_weights(
    counts_MK: npt.NDArray[np.int64], target_K: FloatArray, chance_M: FloatArray, most: float
) -> FloatArray:
    """Weights nearest to chance under which the expected mix of classes is the target.

    Where the target cannot be had, the mix is about the one from which the target diverges least.

    Parameters
    ----------
    counts_MK : int64
        Pixels of each class at every place; at least one of any class.
    target_K : float64
        Wanted shares; they add up to 1.
    chance_M : float64
        How often a place is drawn, relative to others, where the mix does not matter.
    most : float
        The largest weight, in units of the mean weight; 1 or more.

    Returns
    -------
    float64 array of shape (M,), adding up to 1
    """
    pixels_M = counts_MK.sum(1).astype(np.float64)
    off_MK = counts_MK / pixels_M[:, None] - target_K
    pixels_M /= pixels_M.mean()
    log_chance_M = np.log(chance_M)
    share_K = np.maximum(target_K, _SMALLEST_SHARE)
    # One multiplier a class, and the normalisation. No BLAS: its sums depend on the number of threads.
    parameters = np.zeros(off_MK.shape[1] + 1)
    bounds = [(-0.999 / _SLACK, None)] * off_MK.shape[1] + [(None, None)]
    mean_weight = 1.0
    for _ in range(_CAP_PASSES):
        ceiling = float(np.log(most * mean_weight))

        def dual(x: FloatArray, ceiling: float = ceiling) -> tuple[float, FloatArray]:
            exponent_M = _exponents(x, off_MK, log_chance_M)
            share_M = pixels_M * np.exp(np.minimum(exponent_M, ceiling))
            # Past the cap the exponential goes on as its tangent.
            value = (share_M * (1 + np.maximum(exponent_M - ceiling, 0))).mean()
            slope_K = np.einsum("mk,m->k", off_MK, share_M) / len(share_M)
            strained_K = _SLACK * x[:-1]
            penalty = (share_K * (x[:-1] - np.log1p(strained_K) / _SLACK)).sum()
            slope_K += share_K * strained_K / (1 + strained_K)
            return float(value + x[-1] + penalty), np.append(slope_K, 1 - share_M.mean())

        options = {"gtol": 1e-6, "ftol": 1e-12, "maxiter": 2000, "maxfun": 4000}
        parameters = minimize(dual, parameters, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
        exponent_M = _exponents(parameters.round(_DECIMALS), off_MK, log_chance_M)
        weight_M = np.exp(np.minimum(exponent_M, ceiling))
        mean_weight = float(weight_M.mean())
    return np.asarray(weight_M / weight_M.sum(), np.float64)


def choose_mix(
    counts_NAK: npt.NDArray[np.int64], wanted_K: FloatArray, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Choose one of the alternatives for each crop, so that the crops together come near the wanted mix.

    Starts from a random choice and changes crop after crop until the mix is near enough.

    Returns
    -------
    int64 array of shape (N,)
    """
    num_crops, num_alternatives, _ = counts_NAK.shape
    chosen_N: npt.NDArray[np.int64] = rng.integers(num_alternatives, size=(num_crops,))
    pixels_K = counts_NAK[np.arange(num_crops), chosen_N].sum(0)
    for crop in rng.permutation(num_crops).tolist():
        if np.abs(pixels_K / pixels_K.sum() - wanted_K).max() < _NEAR_ENOUGH:
            break
        made_AK = pixels_K - counts_NAK[crop, chosen_N[crop]] + counts_NAK[crop]
        miss_A = np.abs(made_AK / made_AK.sum(1, keepdims=True) - wanted_K).max(1)
        chosen_N[crop] = miss_A.argmin()
        pixels_K = made_AK[chosen_N[crop]]
    return chosen_N


def _exponents(x: FloatArray, off_MK: FloatArray, log_chance_M: FloatArray) -> FloatArray:
    return np.asarray(log_chance_M + np.einsum("mk,k->m", off_MK, x[:-1]) - x[-1], np.float64)
