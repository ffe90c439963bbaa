"""Probabilities that mean what they say, and intervals of areas that follow from them.

Calibration is isotonic regression (Zadrozny and Elkan 2002, KDD) of the truth on the predicted probability, for each
quantity (a class, or classes together) by itself.

The expected area of a quantity is the sum of calibrated probability times pixel area. Its error is the sum of the
pixels' errors, which are not independent: a wrong decision covers a whole slope. With residual e = truth - p and
s = sqrt(p (1 - p)), the covariance of two pixels is taken as s_i s_j K(d), a kernel K of their distance d. It is
estimated on tiles with truth, from residuals of a calibration fitted WITHOUT the tile (ratio of the sums of e_i e_j and
of s_i s_j by distance), and fitted as a nugget and exponentials with weights that are not negative, so that it is a
valid covariance. Errors as sums of correlation ranges: Hugonnet et al. 2022, IEEE JSTARS 15. To the variance that
follows, the one of the calibration itself is added (jackknife over the tiles).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]

# Steps of the probability, equal in log-odds, so that 0.999 and 0.9999 are told apart.
_LOGIT_EDGES = np.linspace(-12.0, 12.0, 481)
# Steps with fewer pixels than this share are joined: an isotonic step of a few (correlated) pixels is chance.
_LEAST_SHARE = 0.002
_RANGES_PX = 2.0 ** np.arange(0, 10)
_LAG_EDGES_PX = np.r_[0.0, 0.5, 1.2, 1.8, 2.5, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0, 56.0, 80.0, 112.0, 160.0]
_LAG_EDGES_PX = np.r_[_LAG_EDGES_PX, 224.0, 320.0, 448.0, 640.0]
_BLOCK_PX = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """A tile with truth: predicted probability (nan where it does not count), and the truth."""

    id: str
    probability_HW: Image
    truth_HW: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Curve:
    """A rising curve from predicted to observed probability; straight between its points."""

    predicted: Floats
    observed: Floats

    def __call__(self, probability: Image) -> Image:
        """Calibrated probabilities; nan stays nan."""
        return np.interp(probability, self.predicted, self.observed).astype(np.float32)


@dataclass(frozen=True)
class Kernel:
    """Covariance of standardised errors by distance: a nugget at 0 and a sum of exponentials."""

    nugget: float
    weights: Floats
    ranges_px: Floats

    def __call__(self, distance_px: Floats) -> Floats:
        """Values at distances in pixels."""
        decay = np.exp(-distance_px[..., None] / self.ranges_px) @ self.weights
        return np.asarray(decay + self.nugget * (distance_px == 0), np.float64)

    @property
    def reach_px(self) -> float:
        """Distance beyond which nothing is left to speak of."""
        used = self.ranges_px[self.weights > 1e-9]
        return 4.0 * float(used.max()) if used.size else 1.0

    @property
    def effective_px(self) -> float:
        """Integral of the kernel: how many pixels err together, in effect."""
        return float(self.nugget + (2 * np.pi * self.ranges_px**2) @ self.weights)


@dataclass(frozen=True)
class Reliability:
    """Observed share of the class by predicted probability, in bins of equal width."""

    predicted: Floats
    observed: Floats
    pixels: npt.NDArray[np.int64]
    brier: float

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance from the diagonal, weighted by pixels (Naeini et al. 2015)."""
        filled = self.pixels > 0
        gap = np.abs(self.predicted[filled] - self.observed[filled])
        return float(gap @ self.pixels[filled] / max(self.pixels.sum(), 1))


@dataclass(frozen=True)
class Expectation:
    """An expected area and what its error is made of; those of places far apart add up.

    Attributes
    ----------
    area : float
    variance : float
        Of the pixels' errors.
    left_out : array
        The area by each curve that was fitted without one tile; empty where there are none.
    """

    area: float
    variance: float
    left_out: Floats

    def __add__(self, other: "Expectation") -> "Expectation":
        return Expectation(self.area + other.area, self.variance + other.variance, self.left_out + other.left_out)

    @property
    def deviation(self) -> float:
        """Standard deviation: of the pixels' errors and, by the jackknife, of the calibration."""
        count = self.left_out.size
        of_curve = (count - 1) / count * float(np.sum((self.left_out - self.left_out.mean()) ** 2)) if count else 0.0
        return float(np.sqrt(self.variance + of_curve))


@dataclass(frozen=True)
class Calibration:
    """The calibration of one quantity, with what is known of its errors.

    Attributes
    ----------
    name : str
    curve : Curve
        Fitted on all samples.
    without : tuple of Curve
        Fitted without one sample each; empty for a single sample.
    kernel : Kernel
    before, after : Reliability
        Of the probabilities as predicted, and as calibrated by curves that have not seen the tile.
    tiles : tuple of str
    """

    name: str
    curve: Curve
    without: tuple[Curve, ...]
    kernel: Kernel
    before: Reliability
    after: Reliability
    tiles: tuple[str, ...]

    def expected_area(self, probability_HW: Image, area_HW: Image) -> Expectation:
        """Expected area in the unit of `area_HW`; nan counts as no area.

        Parameters
        ----------
        probability_HW : float32 array
            As predicted.
        area_HW : float32 array
            Area of each pixel.
        """
        known = np.isfinite(probability_HW)
        calibrated_HW = np.where(known, self.curve(probability_HW), 0).astype(np.float32)
        expected = float(np.sum(calibrated_HW * area_HW, dtype=np.float64))
        spread_HW = np.sqrt(calibrated_HW * (1 - calibrated_HW)) * area_HW
        variance = correlated_variance(spread_HW, self.kernel)
        return Expectation(expected, variance, self._left_out(probability_HW[known], area_HW[known]))

    def _left_out(self, probability: Image, area: Image) -> Floats:
        # Areas by step of the probability stand for the pixels: curves hardly change within a step.
        step = _step(probability)
        weight = np.bincount(step, weights=area, minlength=len(_LOGIT_EDGES) + 1)
        centre = np.bincount(step, weights=area * probability, minlength=len(weight))
        middle = np.divide(centre, weight, out=np.zeros_like(centre), where=weight > 0).astype(np.float32)
        return np.array([curve(middle) @ weight for curve in self.without])


def calibrate(name: str, samples: Sequence[Sample]) -> Calibration:
    """Fit the calibration of a quantity on tiles with truth.

    Parameters
    ----------
    name : str
    samples : sequence of Sample
        Tiles that the model has not learnt from; at least one pixel of one of them counts.
    """
    counts = [_counts(sample) for sample in samples]
    total = sum(counts[1:], counts[0])
    curve = _fit(total)
    # A tile without a single known pixel takes no part.
    folds = [k for k, own in enumerate(counts) if own[0].sum() > 0]
    without = tuple(_fit(total - counts[k]) for k in folds) if len(folds) > 1 else ()
    curves = dict(zip(folds, without, strict=True)) if without else dict.fromkeys(folds, curve)
    residuals = []
    predicted, calibrated, truths = [], [], []
    for k in folds:
        sample = samples[k]
        known = np.isfinite(sample.probability_HW)
        held_out_HW = curves[k](sample.probability_HW)
        residuals.append(_residuals(held_out_HW, sample.truth_HW, known))
        predicted.append(sample.probability_HW[known])
        calibrated.append(held_out_HW[known])
        truths.append(sample.truth_HW[known])
    truth = np.concatenate(truths)
    return Calibration(
        name,
        curve,
        without,
        fit_kernel(residuals),
        reliability(np.concatenate(predicted), truth),
        reliability(np.concatenate(calibrated), truth),
        tuple(samples[k].id for k in folds),
    )


def reliability(probability: Image, truth: npt.NDArray[np.bool_], bins: int = 15) -> Reliability:
    """Observed share by predicted probability in bins of equal width, and the Brier score."""
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    pixels = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=probability, minlength=bins)
    hits = np.bincount(index, weights=truth, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted, observed = sums / pixels, hits / pixels
    brier = float(np.mean((probability - truth) ** 2, dtype=np.float64)) if len(probability) else float("nan")
    return Reliability(predicted, observed, pixels, brier)


def fit_kernel(residuals: Sequence[tuple[Image, Image]]) -> Kernel:
    """The kernel of residuals e and standard deviations s, both 0 where a pixel does not count; see the module.

    Distances up to half the smaller side of the tiles are looked at.
    """
    from scipy.optimize import nnls

    num, den = np.zeros(len(_LAG_EDGES_PX) - 1), np.zeros(len(_LAG_EDGES_PX) - 1)
    lag_sum, lag_count = np.zeros_like(num), np.zeros_like(num)
    for error_HW, spread_HW in residuals:
        for rows in range(0, error_HW.shape[0], _BLOCK_PX):
            for cols in range(0, error_HW.shape[1], _BLOCK_PX):
                block = np.s_[rows : rows + _BLOCK_PX, cols : cols + _BLOCK_PX]
                pairs, lag_HW = _pair_sums(error_HW[block]), _lags(spread_HW[block].shape)
                bins = np.digitize(lag_HW, _LAG_EDGES_PX) - 1
                near = (bins < len(num)) & (lag_HW <= min(spread_HW[block].shape) / 2)
                num += np.bincount(bins[near], weights=pairs[near], minlength=len(num))
                den += np.bincount(bins[near], weights=_pair_sums(spread_HW[block])[near], minlength=len(num))
                lag_sum += np.bincount(bins[near], weights=lag_HW[near], minlength=len(num))
                lag_count += np.bincount(bins[near], minlength=len(num))
    used = (den > 1e-9 * max(den.max(initial=0), 1e-30)) & (lag_count > 0)
    if not used.any() or den[0] <= 0:
        # No doubt anywhere, hence no error to be explained.
        return Kernel(1.0, np.zeros(1), np.ones(1))
    lag = np.divide(lag_sum, lag_count, out=np.zeros_like(lag_sum), where=lag_count > 0)
    ratio = num[used] / den[used]
    ranges = _RANGES_PX[max(lag[used].max(), 1.0) >= _RANGES_PX]
    columns = np.column_stack([lag[used] == 0, np.exp(-lag[used][:, None] / ranges)]).astype(float)
    # What counts for a sum over an area is the kernel's integral, to which far rings of many pairs add most.
    weight = np.sqrt(den[used])
    solution, _ = nnls(columns * weight[:, None], ratio * weight)
    return Kernel(float(solution[0]), solution[1:], ranges)


def correlated_variance(spread_HW: Image, kernel: Kernel) -> float:
    """Variance of a sum of errors with standard deviations `spread_HW` and covariance s_i s_j K(distance)."""
    from scipy import fft

    height, width = spread_HW.shape
    reach = int(np.ceil(min(kernel.reach_px, max(height, width))))
    size = (fft.next_fast_len(height + reach, real=True), fft.next_fast_len(width + reach, real=True))
    spectrum = fft.rfft2(spread_HW.astype(np.float32), size)
    kernel_HW = kernel(np.hypot(*_wrapped(size))).astype(np.float32)
    # The kernel's circular transform is real; Parseval's sum counts the columns that rfft leaves out.
    power = np.abs(spectrum) ** 2 * fft.rfft2(kernel_HW).real
    double = np.full(power.shape[1], 2.0)
    double[0] = 1.0
    if size[1] % 2 == 0:
        double[-1] = 1.0
    return max(float((power.sum(axis=0, dtype=np.float64) @ double) / (size[0] * size[1])), 0.0)


def curves_of(calibrations: Mapping[str, Calibration]) -> dict[str, dict[str, list[float]]]:
    """The curves as plain numbers, to be kept in a file."""
    return {
        name: {"predicted": one.curve.predicted.tolist(), "observed": one.curve.observed.tolist()}
        for name, one in calibrations.items()
    }


def _step(probability: Image) -> npt.NDArray[np.int64]:
    clipped = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.digitize(np.log(clipped / (1 - clipped)), _LOGIT_EDGES)


def _counts(sample: Sample) -> Floats:
    """Pixels, sum of probabilities and sum of truth by step, shape (3, steps)."""
    known = np.isfinite(sample.probability_HW)
    probability, truth = sample.probability_HW[known], sample.truth_HW[known]
    step, size = _step(probability), len(_LOGIT_EDGES) + 1
    weights = (None, probability, truth)
    return np.stack([np.bincount(step, weights=weight, minlength=size).astype(float) for weight in weights])


def _fit(counts: Floats) -> Curve:
    from scipy.optimize import isotonic_regression

    counts = np.maximum(counts, 0)
    pixels = counts[0]
    if pixels.sum() < 1:
        return Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    filled = np.cumsum(pixels)
    group = np.minimum((filled - pixels / 2) / (filled[-1] * _LEAST_SHARE), 1 / _LEAST_SHARE).astype(np.int64)
    joined = np.stack([np.bincount(group, weights=row) for row in counts])
    joined = joined[:, joined[0] > 0]
    predicted = joined[1] / joined[0]
    observed = isotonic_regression(joined[2] / joined[0], weights=joined[0]).x
    return Curve(predicted, np.clip(observed, 0, 1))


def _residuals(
    calibrated_HW: Image, truth_HW: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]
) -> tuple[Image, Image]:
    error_HW = np.where(known, truth_HW - calibrated_HW, 0).astype(np.float32)
    spread_HW = np.where(known, np.sqrt(calibrated_HW * (1 - calibrated_HW)), 0).astype(np.float32)
    return error_HW, spread_HW


def _padded(shape: tuple[int, ...]) -> tuple[int, int]:
    from scipy import fft

    height, width = (fft.next_fast_len(size + size // 2 + 1, real=True) for size in shape)
    return height, width


def _pair_sums(values_HW: Image) -> Floats:
    """Sum of products of all pairs of pixels by their offset; offsets up to half the size are exact."""
    from scipy import fft

    size = _padded(values_HW.shape)
    return np.asarray(fft.irfft2(np.abs(fft.rfft2(values_HW.astype(np.float64), size)) ** 2, size), np.float64)


def _lags(shape: tuple[int, ...]) -> Floats:
    return np.hypot(*_wrapped(_padded(shape)))


def _wrapped(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Distances along rows and columns from the first pixel of an array that goes round."""
    rows, cols = (np.minimum(np.arange(n), n - np.arange(n)).astype(float) for n in size)
    return rows[:, None], cols[None, :]
