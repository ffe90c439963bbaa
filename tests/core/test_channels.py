import numpy as np
import pytest

from napari_glacier.core.channels import Normalisation, assemble_channels, required_bands
from napari_glacier.core.errors import ConfigError


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
