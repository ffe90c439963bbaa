"""Sunlight on relief: incidence, cast shadow by ray casting, sky view and light reflected by the slopes around.

North is up (row 0), so a sun at azimuth 150 degrees stands towards the bottom right.
"""

from dataclasses import dataclass

import numpy as np
from napari_glacier._sample.terrain import Floats, gradient, slope_deg
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sun:
    """Position of the sun in degrees: azimuth clockwise from north, elevation above the horizon."""

    azimuth_deg: float = 152.0
    elevation_deg: float = 36.0


def incidence(height_HW: Floats, pixel_m: float, sun: Sun) -> Floats:
    """Cosine of the angle between sun and surface normal, 0 where the surface faces away."""
    azimuth, elevation = np.radians([sun.azimuth_deg, sun.elevation_deg])
    east_HW, north_HW = gradient(height_HW, pixel_m)
    towards = np.sin(elevation) - np.cos(elevation) * (east_HW * np.sin(azimuth) + north_HW * np.cos(azimuth))
    return np.maximum(towards / np.sqrt(1.0 + east_HW**2 + north_HW**2), 0.0)


def cast_shadow(height_HW: Floats, pixel_m: float, sun: Sun) -> Bools:
    """True where relief between a pixel and the sun hides it.

    From every pixel a ray climbs towards the sun; it advances one whole pixel along the longer axis a step, and the
    relief under it is interpolated linearly between the two pixels it passes. Outside the array the ray is free.
    """
    azimuth, elevation = np.radians([sun.azimuth_deg, sun.elevation_deg])
    d_row, d_col = -np.cos(azimuth), np.sin(azimuth)
    longest = max(abs(d_row), abs(d_col))
    d_row, d_col = d_row / longest, d_col / longest
    rise = pixel_m * float(np.hypot(d_row, d_col)) * np.tan(elevation)
    height, width = height_HW.shape
    relief = float(np.ptp(height_HW))
    shadow_HW = np.zeros(height_HW.shape, dtype=bool)
    for step in range(1, max(height, width)):
        if step * rise > relief:
            break
        row, col = d_row * step, d_col * step
        row_0, col_0 = int(np.floor(row + 1e-9)), int(np.floor(col + 1e-9))
        weight = max(row - row_0, col - col_0, 0.0)  # one of the two is a whole number
        row_1, col_1 = row_0 + (row - row_0 > 1e-9), col_0 + (col - col_0 > 1e-9)
        top, bottom = max(0, -row_0, -row_1), min(height, height - row_0, height - row_1)
        left, right = max(0, -col_0, -col_1), min(width, width - col_0, width - col_1)
        if top >= bottom or left >= right:
            break
        near = height_HW[top + row_0 : bottom + row_0, left + col_0 : right + col_0]
        far = height_HW[top + row_1 : bottom + row_1, left + col_1 : right + col_1]
        ray = height_HW[top:bottom, left:right] + step * rise
        shadow_HW[top:bottom, left:right] |= (1.0 - weight) * near + weight * far > ray
    return shadow_HW


def sky_view(height_HW: Floats, pixel_m: float) -> Floats:
    """Share of the sky an inclined plane sees, (1 + cos slope) / 2 (the isotropic model; far relief is ignored)."""
    return (1.0 + np.cos(np.radians(slope_deg(height_HW, pixel_m)))) / 2.0
