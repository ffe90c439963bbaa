import numpy as np
import pytest

from napari_glacier.core.data.statistics import PooledStatistics, Quantiles


def test_one_pass_over_parts_equals_two_passes_over_all():
    rng = np.random.default_rng(3)
    # Far from zero and of unequal size and spread: where a sum of squares or a mean of stds goes wrong.
    images = [rng.normal(1e5 + 50 * k, 1 + 10 * k, (5, 20 + k, 31)).astype(np.float32) for k in range(6)]
    valid = [rng.random(image.shape[1:]) < 0.1 + 0.15 * k for k, image in enumerate(images)]
    first, second = PooledStatistics(5), PooledStatistics(5)
    for k, (image, mask) in enumerate(zip(images, valid, strict=True)):
        (first if k < 2 else second).update(image, mask)
    first.merge(second)
    everything = np.concatenate([i[:, v].astype(np.float64) for i, v in zip(images, valid, strict=True)], axis=1)
    assert first.count == everything.shape[1]
    np.testing.assert_allclose(first.mean, everything.mean(1), rtol=1e-13)
    np.testing.assert_allclose(first.std, everything.std(1), rtol=1e-11)


def test_an_image_without_valid_pixels_changes_nothing():
    statistics = PooledStatistics(2)
    statistics.update(np.ones((2, 4, 4)), np.zeros((4, 4), bool))
    statistics.merge(PooledStatistics(2))
    assert statistics.count == 0
    assert statistics.std.tolist() == [0, 0]


def test_real_tiles_have_the_means_that_are_known_of_them(real_tiles):
    from napari_glacier.core.data.dataset import open_dataset

    dataset = open_dataset(real_tiles)
    statistics, raw = PooledStatistics(5), []
    for tile in dataset.tiles[:4]:
        image_CHW, valid_HW = dataset.read(tile)
        statistics.update(image_CHW, valid_HW)
        raw.append(image_CHW[:, (image_CHW != 0).any(0)].astype(np.float64))
    np.testing.assert_allclose(statistics.mean, np.concatenate(raw, 1).mean(1), rtol=1e-12)


def test_a_channel_that_an_image_lacks_does_not_count_and_constants_are_not_scaled():
    rng = np.random.default_rng(1)
    whole, lacking = rng.normal(300, 5, (3, 9, 9)), rng.normal(300, 5, (3, 9, 9))
    whole[2] = lacking[2] = 0.1  # has no exact binary value
    lacking[1] = 0
    valid_HW = np.ones((9, 9), bool)
    statistics = PooledStatistics(3)
    statistics.update(lacking, valid_HW, [True, False, True])
    statistics.update(whole, valid_HW)
    assert statistics.count == 162
    np.testing.assert_allclose(statistics.mean[1], whole[1].mean(), rtol=1e-13)
    np.testing.assert_allclose(statistics.std[1], whole[1].std(), rtol=1e-11)
    np.testing.assert_allclose(statistics.std[0], np.stack([whole[0], lacking[0]]).std(), rtol=1e-11)
    assert statistics.is_constant.tolist() == [False, False, True]
    assert statistics.normalisation().std[2] == 1.0


def test_quantiles_of_whole_numbers_are_exact_over_parts():
    rng = np.random.default_rng(5)
    parts = [rng.integers(low, low + 30_000, 5000 + 100 * low % 7).astype(np.uint16) for low in (0, 100, 35_000)]
    quantiles = Quantiles()
    for part in parts:
        quantiles.update(part.reshape(-1, 1))
    everything = np.concatenate(parts)
    for share in (0.0, 0.02, 0.5, 0.977, 0.98, 1.0):
        assert quantiles.at(share) == np.quantile(everything.astype(np.float64), share)


def test_quantiles_of_countless_values_are_near(monkeypatch):
    monkeypatch.setattr("napari_glacier.core.data.statistics._MAX_VALUES", 5000)
    rng = np.random.default_rng(6)
    parts = [np.concatenate([rng.normal(0, 300, 20_000), [0.0]]).astype(np.float32) for _ in range(3)]
    quantiles = Quantiles()
    for part in parts:
        quantiles.update(part)
    for share in (0.02, 0.3, 0.98):
        assert quantiles.at(share) == pytest.approx(np.quantile(np.concatenate(parts), share), rel=2**-13 + 1e-4)


def test_no_values_have_no_quantile():
    with pytest.raises(ValueError, match="no values"):
        Quantiles().at(0.5)
