"""From land cover and light to Landsat-8-like digital numbers (Collection 2 Level 2 scaling).

Band axis order everywhere: B2 blue, B3 green, B4 red, B6 SWIR-1, then B10 thermal. All reflectances are approximate,
rounded readings of published spectra; they make a believable scene, not a reference library.
"""

import numpy as np
from napari_glacier._sample import illumination, terrain
from napari_glacier._sample.illumination import Sun
from napari_glacier._sample.landscape import GLACIER, LAKE, Landscape
from napari_glacier._sample.terrain import Floats
from numpy.typing import NDArray
from scipy import ndimage

REFLECTANCE_SCALE, REFLECTANCE_OFFSET = (
    2.75e-5,
    -0.2,
)  # Landsat 8-9 Collection 2 Level 2 Science Product Guide (USGS LSDS-1619)
KELVIN_SCALE, KELVIN_OFFSET = 0.00341802, 149.0
SATURATED_DN = 65_454  # where bright snow ends up in Level 2 surface reflectance of Himalayan scenes
MELTING_K = 273.15

# Approximate reflectance in B2, B3, B4, B6. Snow: Dozier (1989, Remote Sensing of Environment 28): bright in visible
# light, dark in SWIR, darker with grain size. Firn, ice and dirty ice: Zeng et al. (1984, IAHS Publ. 145), Hall et al.
# (1987, Annals of Glaciology 9). Rock, debris and plants: typical of the USGS spectral library (Kokaly et al. 2017).
# Water: bright with rock flour, dark where clear.
SPECTRA: dict[str, tuple[float, float, float, float]] = {
    "fresh snow": (0.95, 0.95, 0.93, 0.12),
    "old snow": (0.78, 0.77, 0.73, 0.06),
    "ice": (0.55, 0.55, 0.49, 0.03),
    "dirty ice": (0.27, 0.28, 0.26, 0.07),
    "debris": (0.13, 0.15, 0.17, 0.22),
    "pale rock": (0.16, 0.19, 0.22, 0.29),
    "dark rock": (0.09, 0.10, 0.11, 0.16),
    "plants": (0.05, 0.08, 0.09, 0.25),
    "turbid water": (0.17, 0.22, 0.18, 0.015),
    "clear water": (0.06, 0.06, 0.04, 0.008),
}
DIFFUSE_SHARE = np.array(
    [0.14, 0.10, 0.07, 0.02]
)  # of the light on a horizontal plane at 5 km: scattering falls with wavelength
SHADE_OVERCORRECTION = np.array([0.30, 0.27, 0.26, 0.045])  # see `level2_bias`


def spectrum(name: str) -> Floats:
    """Reflectances of one material as a (4, 1, 1) array."""
    return np.asarray(SPECTRA[name])[:, None, None]


def mix(first: Floats, second: Floats, share_HW: Floats) -> Floats:
    """Linear mixture: `share_HW` of `second`, the rest `first`."""
    return first + share_HW * (second - first)


def albedo(land: Landscape) -> Floats:
    """Reflectance of the ground (4, H, W), before light and atmosphere."""
    rock = mix(spectrum("dark rock"), spectrum("pale rock"), land.lithology_HW)
    ground = mix(rock, spectrum("plants"), land.plants_HW)
    tone_HW = 0.85 + 0.1 * np.clip(land.dirt_HW, 1.0, 4.0)  # thick debris is drier and paler
    debris = tone_HW * (0.6 * spectrum("debris") + 0.4 * rock)  # the rock of its own walls, freshly broken
    half_HW = np.clip(2.0 * land.dirt_HW, 0.0, 1.0)
    ice = mix(spectrum("ice"), spectrum("dirty ice"), half_HW)
    ice = mix(ice, debris, np.clip(2.0 * land.dirt_HW - 1.0, 0.0, 1.0))
    water = mix(spectrum("clear water"), spectrum("turbid water"), land.turbidity_HW)
    bare = np.where(land.index_HW == 0, ground, np.where(land.index_HW == LAKE, water, ice))
    snow = mix(spectrum("old snow"), spectrum("fresh snow"), land.freshness_HW)
    return mix(bare, snow, land.snow_HW)


def reflected(land: Landscape, sun: Sun) -> tuple[Floats, Floats]:
    """Apparent reflectance (4, H, W) without topographic correction, and direct light relative to flat ground (H, W).

    Direct beam by incidence and cast shadow, diffuse light by sky view, and light from the slopes around by their mean
    brightness (the three terms of Proy, Tanré & Deschamps 1989, Remote Sensing of Environment 30).
    """
    ground = albedo(land)
    flat = np.sin(np.radians(sun.elevation_deg))
    shadow_HW = illumination.cast_shadow(land.height_HW, land.pixel_m, sun).astype(float)
    lit_HW = 1.0 - ndimage.gaussian_filter(shadow_HW, 0.5)  # penumbra
    direct_HW = illumination.incidence(land.height_HW, land.pixel_m, sun) / flat * lit_HW
    sky_HW = illumination.sky_view(land.height_HW, land.pixel_m)
    gleam_HW = 0.2 * land.snow_HW * np.clip(direct_HW - 0.9, 0.0, None)  # snow is no Lambertian surface: by eye
    out = np.empty_like(ground)
    for band, diffuse in enumerate(DIFFUSE_SHARE):
        around_HW = ndimage.gaussian_filter(ground[band] * direct_HW, 300.0 / land.pixel_m, mode="nearest")
        light_HW = (1 - diffuse) * direct_HW + diffuse * sky_HW + (1 - sky_HW) * around_HW
        out[band] = ground[band] * light_HW * (1.0 + gleam_HW)
    return out, direct_HW


def level2_bias(land: Landscape, direct_HW: Floats) -> Floats:
    """What flat-ground atmospheric correction takes away in the shade (4, H, W), as reflectance.

    Level-2 processing removes path light as if the ground were sunlit, so shaded slopes come out too dark, often
    negative; real Himalayan tiles reach the lower end of the range there and lose single bands to 0. Bright snow around
    passes for haze and makes it worse. Amounts chosen by eye.
    """
    shade_HW = np.clip(1.0 - direct_HW / 0.35, 0.0, 1.0)
    glare_HW = ndimage.gaussian_filter(land.snow_HW, 100.0 / land.pixel_m)
    return SHADE_OVERCORRECTION[:, None, None] * shade_HW * (0.45 + 0.8 * glare_HW)


def temperature(land: Landscape, direct_HW: Floats, rng: np.random.Generator) -> Floats:
    """Surface temperature in kelvin: lapse rate, cover and sunlight; ice and snow are never above melting.

    Debris stores the morning's sun and is warmer than ice, but colder than rock of the same height, since ice lies
    under it (Mihalcea et al. 2008, Cold Regions Science and Technology 52).
    """
    air_HW = 269.0 - 0.0062 * (land.height_HW - 4_600.0)
    air_HW += 0.7 * terrain.spectral_noise(rng, air_HW.shape, 3.5, 200.0)
    sun_HW = np.clip(direct_HW, 0.0, 1.6)
    rock_HW = air_HW - 4.0 + 19.0 * sun_HW
    debris_HW = air_HW - 4.0 + 13.0 * sun_HW
    cold_HW = np.minimum(air_HW - 6.0 + 4.0 * sun_HW, MELTING_K - 0.2)
    covered_HW = mix(cold_HW, debris_HW, np.clip(2.0 * land.dirt_HW - 1.0, 0.0, 1.0))
    bare_HW = np.where(land.index_HW == 0, rock_HW, covered_HW)
    bare_HW = np.where(land.index_HW == GLACIER, np.minimum(bare_HW, MELTING_K), bare_HW)
    surface_HW = mix(bare_HW, cold_HW, land.snow_HW)
    lake_HW = np.clip(air_HW + 3.0, MELTING_K + 0.5, MELTING_K + 8.0)
    return np.where(land.index_HW == LAKE, lake_HW, surface_HW)


def render(land: Landscape, sun: Sun, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Digital numbers (5, H, W) as uint16, no nodata yet: every pixel has at least one band above 0.

    Adjacency blur and point spread are Gaussians (about a pixel in reflectance, 100 m detectors in the thermal band);
    noise is about a 12-bit step in reflectance and 0.15 K. Bands darker than the number range become 0 on their own.
    """
    reflectance, direct_HW = reflected(land, sun)
    reflectance *= 1.0 + 0.03 * terrain.spectral_noise(rng, direct_HW.shape, 1.2, 6.0)
    out = np.empty((5, *direct_HW.shape), dtype=np.uint16)
    bias = level2_bias(land, direct_HW)
    for band in range(4):
        sharp_HW = ndimage.gaussian_filter(reflectance[band], 0.55)
        seen_HW = 0.94 * sharp_HW + 0.06 * ndimage.gaussian_filter(sharp_HW, 6.0)
        sigma_HW = 0.002 + 0.006 * np.sqrt(np.maximum(seen_HW, 0.0))
        seen_HW += sigma_HW * rng.standard_normal(seen_HW.shape) - ndimage.gaussian_filter(bias[band], 1.0)
        dn_HW = np.rint((seen_HW - REFLECTANCE_OFFSET) / REFLECTANCE_SCALE)
        lowest = 1 if band == 3 else 0
        out[band] = np.clip(dn_HW, lowest, SATURATED_DN)
    kelvin_HW = ndimage.gaussian_filter(temperature(land, direct_HW, rng), 1.4)
    kelvin_HW += 0.15 * rng.standard_normal(kelvin_HW.shape)
    out[4] = np.clip(np.rint((kelvin_HW - KELVIN_OFFSET) / KELVIN_SCALE), 1, 65_535)
    return out
