import time
from collections import Counter

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.feature import graycomatrix, graycoprops

from napari_glacier.core.channels import MAX_RATIO, Normalisation, assemble_channels, required_bands
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.texture import HALO_PX, NUM_LEVELS, glcm_texture, grey_levels


def test_channels_are_made_from_bands_by_name():
    rng = np.random.default_rng(0)
    image_CHW = rng.uniform(1, 100, (3, 6, 7)).astype(np.float32)
    image_CHW[:, 0, 0] = 0
    valid_HW = image_CHW.any(0)
    bands = required_bands(["NDSI", "valid", "B2"])
    assert bands == ("B2", "B3", "B6")
    made_CHW = assemble_channels(image_CHW, bands, valid_HW, ["NDSI", "valid", "B2"])
    green, swir = image_CHW[1, 1:], image_CHW[2, 1:]
    np.testing.assert_allclose(made_CHW[0, 1:], (green - swir) / (green + swir), rtol=1e-6)
    assert made_CHW[0, 0, 0] == 0
    np.testing.assert_array_equal(made_CHW[1], valid_HW)
    np.testing.assert_array_equal(made_CHW[2], image_CHW[0])


def test_the_ratio_of_red_and_swir_stays_within_bounds():
    red, swir = np.array([[4.0, 0, 5, -1, 900]], np.float32), np.array([[2.0, 0, 0, 3, 1]], np.float32)
    image_CHW = np.stack([red, swir])
    assert required_bands(["ratio"]) == ("B4", "B6")
    made_CHW = assemble_channels(image_CHW, ("B4", "B6"), np.ones((1, 5), bool), ["ratio"])
    np.testing.assert_array_equal(made_CHW[0], [[2, 0, MAX_RATIO, 0, MAX_RATIO]])


def test_unknown_and_doubled_channels_are_refused():
    with pytest.raises(ConfigError, match="B11"):
        required_bands(["B2", "B11"])
    with pytest.raises(ConfigError, match="twice"):
        required_bands(["B2", "B2"])


def test_normalisation_leaves_nodata_at_zero_and_survives_a_round_trip():
    image_CHW = np.array([[[10.0, 20.0, 0.0]], [[1.0, 3.0, 0.0]]], np.float32)
    valid_HW = np.array([[True, True, False]])
    normalisation = Normalisation((15.0, 2.0), (5.0, 1.0))
    scaled_CHW = Normalisation.from_dict(normalisation.as_dict()).apply(image_CHW, valid_HW)
    assert scaled_CHW.dtype == np.float32
    np.testing.assert_allclose(scaled_CHW, [[[-1, 1, 0]], [[-1, 1, 0]]])


def test_a_channel_without_spread_is_shifted_and_not_blown_up():
    scaled_CHW = Normalisation((271.0,), (0.0,)).apply(np.array([[[271.5]]], np.float32), np.array([[True]]))
    np.testing.assert_allclose(scaled_CHW, [[[0.5]]])


def _scikit_image(band_HW, row, col):
    levels_HW = grey_levels(band_HW[row - HALO_PX : row + HALO_PX + 1, col - HALO_PX : col + HALO_PX + 1])
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrices = graycomatrix(levels_HW.astype(np.uint16), [1], angles, NUM_LEVELS, symmetric=True, normed=True)
    return graycoprops(matrices, "contrast").mean(), graycoprops(matrices, "energy").mean()


@pytest.mark.parametrize("kind", ["noise", "smooth", "reflectance"])
def test_texture_equals_scikit_images(kind):
    rng = np.random.default_rng(1)
    band_HW = rng.uniform(1, 65535, (40, 50))
    if kind != "noise":
        band_HW = gaussian_filter(band_HW, 3) * (1 if kind == "smooth" else 2e-5)
    contrast_HW, energy_HW = glcm_texture(band_HW.astype(np.float32), np.ones((40, 50), bool))
    for _ in range(12):
        row, col = rng.integers(HALO_PX, (40 - HALO_PX, 50 - HALO_PX))
        expected = _scikit_image(band_HW.astype(np.float32), row, col)
        assert (contrast_HW[row, col], energy_HW[row, col]) == pytest.approx(expected, rel=1e-5)


def test_texture_counts_pairs_of_data_only():
    """At the border and beside nodata, checked by going through the pairs one by one."""
    rng = np.random.default_rng(2)
    band_HW = np.exp(gaussian_filter(rng.normal(size=(12, 14)), 1)).astype(np.float32) * 9000
    valid_HW = rng.random((12, 14)) > 0.2
    band_HW[3, 4], valid_HW[3, 4] = 0, True
    levels_HW = np.where(valid_HW, grey_levels(band_HW), -1)
    contrast_HW, energy_HW = glcm_texture(band_HW, valid_HW)
    for row, col in np.ndindex(12, 14):
        if not valid_HW[row, col]:
            assert contrast_HW[row, col] == energy_HW[row, col] == 0
            continue
        top, left = max(row - HALO_PX, 0), max(col - HALO_PX, 0)
        window_HW = levels_HW[top : row + HALO_PX + 1, left : col + HALO_PX + 1]
        contrasts, energies = [], []
        for down, right in ((0, 1), (1, 1), (1, 0), (1, -1)):
            counts: Counter[tuple[int, int]] = Counter()
            for (r, c), first in np.ndenumerate(window_HW):
                inside = r + down < window_HW.shape[0] and 0 <= c + right < window_HW.shape[1]
                second = window_HW[r + down, c + right] if inside else -1
                if first >= 0 and second >= 0:
                    counts[first, second] += 1
                    counts[second, first] += 1
            total = max(counts.total(), 1)
            contrasts.append(sum(n * (int(i) - int(j)) ** 2 for (i, j), n in counts.items()) / total)
            energies.append(np.sqrt(sum(n * n for n in counts.values())) / total)
        assert contrast_HW[row, col] == pytest.approx(np.mean(contrasts), rel=1e-5)
        assert energy_HW[row, col] == pytest.approx(np.mean(energies), rel=1e-5)


def test_texture_of_a_crop_is_that_of_the_whole_but_for_its_halo():
    band_HW = np.random.default_rng(3).uniform(5000, 30_000, (60, 60)).astype(np.float32)
    valid_HW = band_HW > 6000
    image_CHW, channels = np.stack([band_HW, band_HW * 2]), ["energy", "B2", "contrast"]
    bands = required_bands(channels)
    assert bands == ("B2", "B6")
    whole_CHW = assemble_channels(image_CHW, bands, valid_HW, channels)
    part_CHW = assemble_channels(image_CHW[:, 10:40, 20:45], bands, valid_HW[10:40, 20:45], channels)
    inner = np.s_[:, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX]
    np.testing.assert_allclose(part_CHW[inner], whole_CHW[:, 10:40, 20:45][inner], rtol=1e-5)
    np.testing.assert_array_equal(part_CHW[1], band_HW[10:40, 20:45])
    np.testing.assert_array_equal([whole_CHW[2], whole_CHW[0]], glcm_texture(band_HW * 2, valid_HW))


def test_texture_of_a_tile_is_quick():
    band_HW = np.random.default_rng(4).uniform(5000, 30_000, (512, 512)).astype(np.float32)
    valid_HW = np.ones((512, 512), bool)
    started = time.process_time()
    glcm_texture(band_HW, valid_HW)
    # 0.12 s on one core; a histogram for each pixel takes minutes.
    assert time.process_time() - started < 2
