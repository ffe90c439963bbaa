"""Calibration and intervals, against scikit-learn, brute force, and worlds in which the truth is drawn."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss

from napari_glacier.core.calibration import (
    Calibration,
    Expectation,
    Kernel,
    Sample,
    calibrate,
    correlated_variance,
    fit_kernel,
    reliability,
)


def world(rng, size=96, correlation_px=5.0, overconfidence=1.0):
    """Probabilities and a truth drawn from them whose errors go together over some distance."""
    signal = gaussian_filter(rng.normal(size=(size, size)), 9, mode="wrap")
    signal /= signal.std()
    error = gaussian_filter(rng.normal(size=(size, size)), correlation_px, mode="wrap")
    # Of unit variance over many worlds, not within this one.
    error *= 2 * np.sqrt(np.pi) * correlation_px
    z = (signal - 0.3) / 0.6
    return norm.cdf(z * overconfidence).astype(np.float32), signal + 0.6 * error > 0.3


def test_intervals_hold_the_truth_as_often_as_they_say_where_independent_pixels_would_not():
    rng = np.random.default_rng(0)
    inside, naive = [], []
    for _ in range(60):
        samples = [Sample(str(k), *world(rng, overconfidence=2.5)) for k in range(6)]
        calibration = calibrate("glacier", samples)
        probability_HW, truth_HW = world(rng, overconfidence=2.5)
        expected = calibration.expected_area(probability_HW, np.ones_like(probability_HW))
        miss = abs(expected.area - truth_HW.sum())
        inside.append(miss < 1.96 * expected.deviation)
        calibrated_HW = calibration.curve(probability_HW)
        naive.append(miss < 1.96 * np.sqrt((calibrated_HW * (1 - calibrated_HW)).sum()))
    # 95 % of 60 worlds, with three standard deviations of chance.
    assert np.mean(inside) > 0.865
    assert np.mean(naive) < 0.5


def test_calibration_brings_the_reliability_curve_to_the_diagonal():
    rng = np.random.default_rng(1)
    samples = [Sample(str(k), *world(rng, 128, 3.0, 3.0)) for k in range(8)]
    calibration = calibrate("glacier", samples)
    assert calibration.before.error > 0.05
    assert calibration.after.error < calibration.before.error / 3
    assert calibration.after.brier < calibration.before.brier
    assert calibration.tiles == tuple("01234567")
    assert len(calibration.without) == 8


def test_the_curve_is_that_of_isotonic_regression():
    rng = np.random.default_rng(2)
    samples = [Sample("a", *world(rng, 256, 3.0, 2.0))]
    curve = calibrate("glacier", samples).curve
    assert (np.diff(curve.observed) >= 0).all()
    probability, truth = samples[0].probability_HW.ravel(), samples[0].truth_HW.ravel()
    oracle = IsotonicRegression(out_of_bounds="clip").fit(probability, truth)
    at = np.linspace(0.01, 0.99, 50)
    # Steps of 0.2 % of the pixels smooth the oracle's, which follow single pixels.
    assert np.abs(curve(at.astype(np.float32)) - oracle.predict(at)).max() < 0.06
    assert curve(probability).sum(dtype=np.float64) == pytest.approx(truth.sum(), rel=2e-3)


def test_reliability_is_the_share_of_truth_in_each_bin():
    rng = np.random.default_rng(3)
    probability = rng.random(5000).astype(np.float32)
    truth = rng.random(5000) < probability**2
    found = reliability(probability, truth, bins=10)
    for k in range(10):
        own = (probability >= k / 10) & (probability < (k + 1) / 10)
        assert found.pixels[k] == own.sum()
        assert found.observed[k] == pytest.approx(truth[own].mean())
        assert found.predicted[k] == pytest.approx(probability[own].mean(), rel=1e-5)
    assert found.brier == pytest.approx(brier_score_loss(truth, probability), rel=1e-5)


@pytest.mark.parametrize("shape", [(9, 7), (1, 12), (8, 8)])
def test_the_variance_of_a_sum_is_that_of_all_pairs(shape):
    spread_HW = np.random.default_rng(4).random(shape).astype(np.float32)
    kernel = Kernel(0.3, np.array([0.4, 0.2]), np.array([2.0, 16.0]))
    places = np.argwhere(np.ones(shape))
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    expected = spread_HW.ravel() @ kernel(distance) @ spread_HW.ravel()
    assert correlated_variance(spread_HW, kernel) == pytest.approx(expected, rel=1e-5)


def test_a_kernel_is_found_again_from_the_errors_it_made():
    rng = np.random.default_rng(5)
    ones = np.ones((128, 128), np.float32)
    steps = np.minimum(np.arange(128), 128 - np.arange(128))
    spectrum = np.sqrt(np.fft.fft2(np.exp(-np.hypot(steps[:, None], steps[None]) / 6)).real)
    fields = [np.fft.ifft2(spectrum * np.fft.fft2(rng.normal(size=(128, 128)))).real for _ in range(120)]
    found = fit_kernel([(field.astype(np.float32), ones) for field in fields])
    # Against the integral of exp(-d / 6) over the plane. Weights that cannot be negative lean to the long side.
    assert 0.95 < found.effective_px / (2 * np.pi * 36) < 1.3
    # A covariance of another form, exp(-d^2 / 64), errs on the side of wide intervals (a quarter, by its root).
    gaussian = [gaussian_filter(rng.normal(size=(128, 128)), 4, mode="wrap") * 8 * np.sqrt(np.pi) for _ in range(60)]
    found = fit_kernel([(field.astype(np.float32), ones) for field in gaussian])
    assert 1 < found.effective_px / (64 * np.pi) < 1.25**2 * 1.1
    independent = [(rng.normal(size=(128, 128)).astype(np.float32), ones) for _ in range(10)]
    assert fit_kernel(independent).effective_px == pytest.approx(1, abs=0.3)


def test_nodata_counts_for_nothing():
    rng = np.random.default_rng(6)
    samples = [Sample(str(k), *world(rng)) for k in range(3)]
    cut = [Sample(s.id, np.where(np.arange(96) < 60, s.probability_HW, np.nan), s.truth_HW) for s in samples]
    small = [Sample(s.id, s.probability_HW[:, :60], s.truth_HW[:, :60]) for s in samples]
    first, second = calibrate("glacier", cut), calibrate("glacier", small)
    np.testing.assert_array_equal(first.curve.observed, second.curve.observed)
    assert first.after.pixels.sum() == 3 * 96 * 60
    area_HW = np.ones((96, 96), np.float32)
    whole = first.expected_area(cut[0].probability_HW, area_HW)
    part = first.expected_area(small[0].probability_HW, area_HW[:, :60])
    assert whole.area == pytest.approx(part.area, rel=1e-6)
    assert whole.deviation == pytest.approx(part.deviation, rel=1e-4)


def test_the_calibration_s_own_error_does_not_average_out_over_places():
    one = Expectation(10.0, 4.0, np.array([9.0, 10.0, 11.0]))
    two = one + one
    assert (two.area, two.variance) == (20.0, 8.0)
    # Jackknife: (n - 1) / n times the sum of squares; the curve's part doubles, the pixels' grows by its root.
    assert one.deviation == pytest.approx(np.sqrt(4 + 2 / 3 * 2))
    assert two.deviation == pytest.approx(np.sqrt(8 + 2 / 3 * 8))


def test_a_tile_without_doubt_and_one_without_data_do_not_break_it():
    sure = np.zeros((20, 20), np.float32)
    sure[:10] = 1
    nothing = Sample("gap", np.full((20, 20), np.nan, np.float32), np.zeros((20, 20), bool))
    calibration: Calibration = calibrate("glacier", [Sample("a", sure, sure > 0), nothing])
    assert calibration.tiles == ("a",)
    expected = calibration.expected_area(sure, np.ones_like(sure))
    assert expected.area == pytest.approx(200)
    assert expected.deviation == pytest.approx(0, abs=1e-3)
