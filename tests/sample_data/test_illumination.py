"""Light on relief, against a ray marched pixel by pixel and against plain trigonometry."""

import numpy as np
import pytest
from napari_glacier._sample.illumination import Sun, cast_shadow, incidence


def bilinear(height_HW, row, col):
    """Height at a fractional position, None outside; written out on purpose."""
    rows, cols = height_HW.shape
    if row < -1e-9 or col < -1e-9 or row > rows - 1 + 1e-9 or col > cols - 1 + 1e-9:
        return None
    row, col = min(max(row, 0.0), rows - 1.0), min(max(col, 0.0), cols - 1.0)
    r, c = min(int(row), rows - 2), min(int(col), cols - 2)
    u, v = row - r, col - c
    near = (1 - v) * height_HW[r, c] + v * height_HW[r, c + 1]
    far = (1 - v) * height_HW[r + 1, c] + v * height_HW[r + 1, c + 1]
    return (1 - u) * near + u * far


def marched(height_HW, pixel_m, sun):
    azimuth, elevation = np.radians([sun.azimuth_deg, sun.elevation_deg])
    d_row, d_col = -np.cos(azimuth), np.sin(azimuth)
    stretch = 1.0 / max(abs(d_row), abs(d_col))
    shadow = np.zeros(height_HW.shape, dtype=bool)
    for row in range(height_HW.shape[0]):
        for col in range(height_HW.shape[1]):
            for step in range(1, sum(height_HW.shape)):
                along = step * stretch
                ground = bilinear(height_HW, row + along * d_row, col + along * d_col)
                if ground is None:
                    break
                if ground > height_HW[row, col] + along * pixel_m * np.tan(elevation) + 1e-9:
                    shadow[row, col] = True
                    break
    return shadow


@pytest.mark.parametrize("azimuth_deg", [0.0, 37.0, 90.0, 135.0, 152.0, 205.0, 300.0])
def test_cast_shadow_equals_a_marched_ray(azimuth_deg):
    height_HW = np.random.default_rng(3).uniform(0.0, 260.0, (21, 26))
    height_HW[8:11, 9:14] += 500.0
    sun = Sun(azimuth_deg, 40.0)
    expected = marched(height_HW, 30.0, sun)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(cast_shadow(height_HW, 30.0, sun), expected)


def test_a_wall_throws_a_shadow_as_long_as_trigonometry_says():
    height_HW = np.zeros((50, 9))
    height_HW[40] = 300.0
    shadow_HW = cast_shadow(height_HW, 30.0, Sun(azimuth_deg=180.0, elevation_deg=30.0))
    length_px = int(300.0 / np.tan(np.radians(30.0)) / 30.0)
    assert shadow_HW[40 - length_px : 40].all()
    assert not shadow_HW[: 40 - length_px].any()
    assert not shadow_HW[40:].any()


def test_incidence_is_one_on_a_slope_that_faces_the_sun():
    south_HW = np.broadcast_to(np.arange(20)[:, None] * -30.0, (20, 20))  # falls southwards by 45 degrees
    inside = slice(2, -2), slice(2, -2)
    np.testing.assert_allclose(incidence(south_HW, 30.0, Sun(180.0, 45.0))[inside], 1.0)
    np.testing.assert_allclose(incidence(south_HW, 30.0, Sun(0.0, 45.0))[inside], 0.0, atol=1e-12)
    np.testing.assert_allclose(incidence(np.zeros((8, 8)), 30.0, Sun(100.0, 36.0)), np.sin(np.radians(36.0)))
