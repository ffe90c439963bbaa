"""Relief, ice and light of a small landscape: physics that must hold for any seed."""

import heapq
from dataclasses import replace

import numpy as np
import pytest
from napari_glacier._sample import glaciology, illumination, landscape, radiometry, terrain

from napari_glacier.core.errors import ConfigError


@pytest.fixture(scope="module")
def land():
    return landscape.build(np.random.default_rng(5), (256, 320))


def flooded(height_HW):
    """Lowest level at which water leaves each cell: priority flooding by the book."""
    level = np.full(height_HW.shape, np.inf)
    rows, cols = height_HW.shape
    queue = [
        (height_HW[r, c], r, c) for r in range(rows) for c in range(cols) if r in (0, rows - 1) or c in (0, cols - 1)
    ]
    for z, r, c in queue:
        level[r, c] = z
    heapq.heapify(queue)
    while queue:
        z, r, c = heapq.heappop(queue)
        for i in range(max(r - 1, 0), min(r + 2, rows)):
            for j in range(max(c - 1, 0), min(c + 2, cols)):
                if np.isinf(level[i, j]):
                    level[i, j] = max(z, height_HW[i, j])
                    heapq.heappush(queue, (level[i, j], i, j))
    return level


def test_drainage_leaves_over_the_lowest_pass():
    height_HW = 100.0 * terrain.spectral_noise(np.random.default_rng(1), (30, 34), 2.0, 20.0)
    tree = terrain.drain(height_HW, 30.0)
    highest = height_HW.ravel().copy()
    for node in tree.order_N:
        if tree.receiver_N[node] >= 0:
            highest[node] = max(highest[node], highest[tree.receiver_N[node]])
    np.testing.assert_allclose(highest.reshape(height_HW.shape), flooded(height_HW), atol=1e-2)
    area_N = terrain.accumulate(tree, np.ones(height_HW.size))
    assert area_N[tree.receiver_N < 0].sum() == height_HW.size


def test_ice_flux_balances_on_one_slope():
    height_HW = np.broadcast_to(np.linspace(2_000.0, 0.0, 60)[:, None], (60, 3)) + np.array([500.0, 0.0, 500.0])
    tree = terrain.drain(height_HW, 100.0)
    gains = np.where(height_HW.ravel() > 1_900.0, 1.0, 0.0)
    flux_N = glaciology.ice_flux(tree, gains, 100.0)  # no melt: all that fell leaves
    assert flux_N[tree.receiver_N < 0].sum() == pytest.approx(gains.sum() * 100.0**2)
    melting = glaciology.ice_flux(tree, np.where(gains > 0, gains, -3.0), 100.0)
    assert melting[tree.receiver_N < 0].sum() < flux_N[tree.receiver_N < 0].sum()
    assert (melting >= 0).all()


def test_thickness_carries_its_flux():
    flux = np.array([5.0e5, 7.0e6])
    slope = np.array([0.2, 0.1])
    thickness = glaciology.ice_thickness(flux, slope)
    deformation = 0.4 * glaciology.RATE_FACTOR * (glaciology.DRIVING * slope) ** 3 * thickness**5
    np.testing.assert_allclose(deformation * glaciology.glacier_width_m(flux), flux, rtol=1e-9)
    assert 40.0 < thickness[0] < thickness[1] < 400.0


def test_ice_and_snow_are_never_warmer_than_melting(land):
    _, direct_HW = radiometry.reflected(land, illumination.Sun())
    kelvin_HW = radiometry.temperature(land, direct_HW, np.random.default_rng(0))
    glacier_HW = land.index_HW == landscape.GLACIER
    assert glacier_HW.any()
    assert kelvin_HW[glacier_HW].max() <= radiometry.MELTING_K
    deep_snow = replace(land, snow_HW=np.ones_like(land.snow_HW), index_HW=np.zeros_like(land.index_HW))
    assert radiometry.temperature(deep_snow, direct_HW, np.random.default_rng(0)).max() <= radiometry.MELTING_K
    debris_HW = land.index_HW == landscape.DEBRIS
    assert kelvin_HW[debris_HW].mean() > kelvin_HW[glacier_HW].mean()


def test_glaciers_thin_out_below_the_snow_line(land):
    glacier_HW, debris_HW = land.index_HW == landscape.GLACIER, land.index_HW == landscape.DEBRIS
    assert land.height_HW[debris_HW].mean() < land.height_HW[glacier_HW].mean()
    assert (land.dirt_HW[debris_HW] >= 1.0).mean() > 0.95  # the rest are small closed holes


def test_lakes_are_flat(land):
    parts_HW, count = terrain.ndimage.label(land.index_HW == landscape.LAKE, structure=np.ones((3, 3)))
    assert count > 0
    for part in range(1, count + 1):
        assert np.ptp(land.height_HW[parts_HW == part]) == 0.0


def test_odd_sides_are_refused():
    with pytest.raises(ConfigError, match="multiples of 8"):
        landscape.build(np.random.default_rng(0), (250, 320))
