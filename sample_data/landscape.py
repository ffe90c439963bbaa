"""One synthetic glacier landscape: relief, ice, debris, water, seasonal snow and plants, all from one seed."""

from dataclasses import dataclass

import numpy as np
from napari_glacier._sample import glaciology, lakes, terrain
from napari_glacier._sample.terrain import Floats
from numpy.typing import NDArray
from scipy import ndimage

from napari_glacier.core.errors import ConfigError

Bools = NDArray[np.bool_]

BACKGROUND, GLACIER, DEBRIS, LAKE = 0, 1, 2, 3  # indices of the glacier4 scheme
DEBRIS_LABEL_M = 0.10  # thicker debris hides the ice from a mapper; thinner debris is dirty ice, still glacier


@dataclass(frozen=True, slots=True)
class Landscape:
    """Fields on the final grid: class index, surface height (m), cover fractions in [0, 1].

    `dirt_HW` is debris thickness in units of `DEBRIS_LABEL_M`, at most 4: below 1 it is dirty ice.
    """

    pixel_m: float
    index_HW: NDArray[np.uint8]
    height_HW: Floats
    snow_HW: Floats
    freshness_HW: Floats
    dirt_HW: Floats
    plants_HW: Floats
    turbidity_HW: Floats
    lithology_HW: Floats


def build(rng: np.random.Generator, shape: tuple[int, int], pixel_m: float = 30.0) -> Landscape:
    """Generate a landscape of `shape` pixels; both sides must be multiples of 8.

    Relief and ice flow are computed on cells of two pixels, then refined; the outermost 40 pixels or so slope to the
    border, where all water leaves, and should be cut off.

    Raises
    ------
    ConfigError
        If a side is no multiple of 8.
    """
    if shape[0] % 8 or shape[1] % 8:
        raise ConfigError(f"A landscape of {shape[0]} x {shape[1]} pixels: give sides that are multiples of 8.")
    cell_m = 2.0 * pixel_m
    coarse = (shape[0] // 2, shape[1] // 2)
    bed_HW = terrain.mountains(rng, coarse, cell_m)
    weather_HW = 50.0 * terrain.spectral_noise(rng, coarse, 3.0, 9_000.0 / cell_m)
    tree = terrain.drain(bed_HW, cell_m)
    ice_age = glaciology.glaciate(bed_HW, tree, cell_m, glaciology.Climate(ela_m=4_750.0), weather_HW)
    trim_HW = np.where(ice_age.flux_HW > 1.0e5, np.clip(1.3 * ice_age.depth_HW, 25.0, 350.0), 0.0)
    bed_HW = terrain.carve_troughs(bed_HW, tree, trim_HW.ravel(), cell_m)
    tree = terrain.drain(bed_HW, cell_m)
    ice = glaciology.glaciate(bed_HW, tree, cell_m, glaciology.Climate(), weather_HW)
    debris_m_HW = glaciology.debris_thickness(rng, ice, bed_HW, cell_m)
    flood_HW = lakes.proglacial(rng, bed_HW, tree, ice, cell_m)

    ground_HW = terrain.roughen(rng, terrain.refine(bed_HW, shape), pixel_m)
    ice_HW = terrain.refine(np.where(ice.mask_HW, ice.depth_HW, 0.0), shape) > 0.5 * glaciology.THINNEST_M
    ice_top_HW = terrain.refine(ice.surface_HW, shape)
    # The cover reaches the edge of the ice: spread it outwards before refining, or interpolation leaves a clean rim.
    nearest = ndimage.distance_transform_edt(~ice.mask_HW, return_distances=False, return_indices=True)
    debris_m_HW = terrain.refine(debris_m_HW[tuple(nearest)], shape) * (
        1.0 + 0.25 * terrain.spectral_noise(rng, shape, 1.5, 8.0)
    )
    debris_HW = glaciology.drop_small(ice_HW & (debris_m_HW > DEBRIS_LABEL_M), 12) & ice_HW
    hummocks_HW = np.clip(debris_m_HW, 0.0, 1.0) * 9.0 * terrain.spectral_noise(rng, shape, 2.0, 10.0)
    height_HW = np.where(ice_HW, ice_top_HW + hummocks_HW, ground_HW)
    proglacial_HW = (terrain.refine(flood_HW, shape) > 0.0) & ~ice_HW
    tarn_HW = lakes.tarns(rng, height_HW, ice_HW, pixel_m) & ~proglacial_HW
    pond_HW = lakes.ponds(rng, ice_top_HW, debris_HW, pixel_m)
    water_HW = glaciology.drop_small(proglacial_HW | tarn_HW, 6) & ~ice_HW | pond_HW
    height_HW = lakes.level_out(height_HW, water_HW)

    index_HW = np.zeros(shape, dtype=np.uint8)
    index_HW[ice_HW] = GLACIER
    index_HW[debris_HW] = DEBRIS
    index_HW[water_HW] = LAKE
    turbid_HW = np.clip(0.55 + 0.25 * terrain.spectral_noise(rng, shape, 3.0, 40.0), 0.1, 1.0)
    snow_HW, fresh_HW = seasonal_snow(rng, height_HW, index_HW, pixel_m)
    return Landscape(
        pixel_m=pixel_m,
        index_HW=index_HW,
        height_HW=height_HW,
        snow_HW=snow_HW,
        freshness_HW=fresh_HW,
        dirt_HW=np.where(ice_HW, np.clip(debris_m_HW / DEBRIS_LABEL_M, 0.0, 4.0), 0.0),
        plants_HW=vegetation(rng, height_HW, pixel_m),
        turbidity_HW=np.where(tarn_HW, 0.1, turbid_HW),
        lithology_HW=np.clip(0.5 + 0.4 * terrain.spectral_noise(rng, shape, 2.6, 150.0), 0.0, 1.0),
    )


def seasonal_snow(
    rng: np.random.Generator, height_HW: Floats, index_HW: NDArray[np.uint8], pixel_m: float
) -> tuple[Floats, Floats]:
    """Snow cover fraction and its freshness: more with altitude, on shaded slopes, in gullies; less on steep rock.

    Snow outside the glaciers is what makes the scene hard: it looks like a glacier and is labelled background.
    """
    smooth_HW = ndimage.gaussian_filter(height_HW, 60.0 / pixel_m, mode="nearest")
    _, north_HW = terrain.gradient(smooth_HW, pixel_m)
    shade_HW = -north_HW / np.sqrt(1.0 + north_HW**2)
    gully_HW = ndimage.gaussian_filter(height_HW, 150.0 / pixel_m, mode="nearest") - smooth_HW
    patchy_HW = terrain.spectral_noise(rng, height_HW.shape, 2.4, 1_500.0 / pixel_m)
    steep_HW = terrain.slope_deg(smooth_HW, pixel_m)
    score_HW = (height_HW - 5_170.0) / 130.0 + 2.2 * shade_HW + 0.05 * np.clip(gully_HW, -30, 30) + 0.9 * patchy_HW
    score_HW -= 0.14 * np.clip(steep_HW - 34.0, 0.0, 30.0)
    score_HW -= np.where(index_HW == DEBRIS, 1.5, 0.0)  # dark debris melts its snow first
    snow_HW = 1.0 / (1.0 + np.exp(-3.0 * score_HW))
    snow_HW[index_HW == LAKE] = 0.0
    fresh_HW = 1.0 / (1.0 + np.exp(-(height_HW - 5_300.0) / 90.0 - 0.8 * patchy_HW - 1.5 * shade_HW))
    return snow_HW, fresh_HW


def vegetation(rng: np.random.Generator, height_HW: Floats, pixel_m: float) -> Floats:
    """Alpine meadow and soil cover fraction, below about 4 600 m and on ground that is not too steep."""
    patchy_HW = terrain.spectral_noise(rng, height_HW.shape, 2.6, 1_200.0 / pixel_m)
    steep_HW = terrain.slope_deg(height_HW, pixel_m)
    score_HW = (4_550.0 - height_HW) / 150.0 + patchy_HW - 0.10 * np.clip(steep_HW - 25.0, 0.0, 30.0)
    return 0.8 / (1.0 + np.exp(-2.0 * score_HW))
