"""Whether data that differ from a model's training data are told from such that do not."""

from typing import Literal

import numpy as np
import pytest

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.data.statistics import PooledStatistics
from napari_glacier.nn.drift import drift_warnings

MEAN, DEVIATION = 12_000.0, 3_000.0


def _normalisation(method: Literal["zscore", "percentile"], seen_N: np.ndarray) -> Normalisation:
    if method == "zscore":
        return Normalisation((float(seen_N.mean()),), (float(seen_N.std()),), method)
    low, high = np.percentile(seen_N, [2, 98])
    return Normalisation((float(low),), (float(high - low),), method)


@pytest.mark.parametrize("method", ["zscore", "percentile"])
@pytest.mark.parametrize(
    ("shift", "spread", "odd"),
    [(0.0, 1.0, False), (2.0, 1.0, False), (0.0, 4.0, False), (3.0, 1.0, True), (0.0, 6.0, True), (0.0, 0.15, True)],
)
def test_drift_is_the_same_in_either_normalisation(make_card, method, shift, spread, odd) -> None:
    rng = np.random.default_rng(0)
    card = make_card(("B2",), normalisation=_normalisation(method, rng.normal(MEAN, DEVIATION, 100_000)))
    statistics = PooledStatistics(1)
    other_HW = rng.normal(MEAN + shift * DEVIATION, spread * DEVIATION, (200, 200)).astype(np.float32)
    statistics.update(other_HW[None], np.ones(other_HW.shape, bool))
    assert bool(drift_warnings({"B2": statistics}, [card])) is odd


def test_the_method_is_kept_with_the_numbers() -> None:
    normalisation = Normalisation((1.0,), (2.0,), "percentile")
    assert Normalisation.from_dict(normalisation.as_dict()) == normalisation
    assert Normalisation.from_dict({"mean": [1.0], "std": [2.0]}).method == "zscore"
    with pytest.raises(ValueError, match="neither zscore nor percentile"):
        Normalisation.from_dict({"mean": [1.0], "std": [2.0], "method": "minmax"})


def test_models_of_one_training_are_told_of_together(make_card) -> None:
    statistics = PooledStatistics(1)
    statistics.update(np.full((1, 9, 9), 20_000.0, np.float32), np.ones((9, 9), bool))
    of_same = [make_card(("B2",), name=name, normalisation=Normalisation((10.0,), (2.0,))) for name in ("a", "b")]
    other = make_card(("B2",), name="c", normalisation=Normalisation((20.0,), (2.0,)))
    said = drift_warnings({"B2": statistics}, [*of_same, other])
    assert ["a, b were" in text for text in said] == [True, False]
    assert "B2 is 20,000 ± 0, seen 10 ± 2" in said[0]
    assert "c was" in said[1]
