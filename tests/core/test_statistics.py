import numpy as np

from napari_glacier.core.statistics import PooledStatistics


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
    from napari_glacier.core.dataset import open_dataset

    dataset = open_dataset(real_tiles)
    statistics, raw = PooledStatistics(5), []
    for tile in dataset.tiles[:4]:
        image_CHW, valid_HW = dataset.read(tile)
        statistics.update(image_CHW, valid_HW)
        raw.append(image_CHW[:, (image_CHW != 0).any(0)].astype(np.float64))
    np.testing.assert_allclose(statistics.mean, np.concatenate(raw, 1).mean(1), rtol=1e-12)
