"""Where the ice, the debris and the lakes of the synthetic region are, from altitude, aspect and a steady flux of ice.

Not a flow model: mass balance is summed along the drainage tree until it has melted, thickness follows from the flux
by the shallow-ice law, and the ice fills its valley to that thickness. Heights in m, balance in m of ice a year.
"""

from dataclasses import dataclass

import numpy as np
from napari_glacier._sample.terrain import Drainage, Floats, base_of, gradient, slope_deg, spectral_noise
from numpy.typing import NDArray
from scipy import ndimage

Bools = NDArray[np.bool_]

RATE_FACTOR = 7.6e-17  # Pa^-3 / yr: Glen's A for temperate ice, 2.4e-24 Pa^-3 / s (Cuffey & Paterson 2010, table 3.4)
THINNEST_M = 3.0  # less than this is snow, not a glacier
DRIVING = 917.0 * 9.81  # Pa / m: density times gravity


@dataclass(frozen=True, slots=True)
class Climate:
    """Mass balance: linear around an equilibrium line altitude that is lower on shaded (northern) slopes."""

    ela_m: float = 5_230.0
    aspect_m: float = 130.0  # half the difference between south and north faces
    melt_gradient: float = 0.0055  # 1 / yr, below the line
    snow_gradient: float = 0.0030  # 1 / yr, above it
    most_snow: float = 1.1  # m / yr
    most_melt: float = 3.5  # m / yr


def balance(height_HW: Floats, cell_m: float, climate: Climate, weather_HW: Floats) -> Floats:
    """Yearly specific balance in m of ice. `weather_HW` (m) shifts the equilibrium line from place to place."""
    smooth_HW = ndimage.gaussian_filter(height_HW, 180.0 / cell_m, mode="nearest")
    _, north_HW = gradient(smooth_HW, cell_m)
    northness_HW = -north_HW / np.sqrt(1.0 + north_HW**2)  # sine of the tilt towards north
    line_HW = climate.ela_m + weather_HW - climate.aspect_m * northness_HW / 0.5
    above_HW = height_HW - line_HW
    return np.where(
        above_HW > 0,
        np.minimum(climate.snow_gradient * above_HW, climate.most_snow),
        np.maximum(climate.melt_gradient * above_HW, -climate.most_melt),
    )


def glacier_width_m(flux: Floats | float) -> Floats | float:
    """Width of a valley glacier carrying `flux` m^3 / yr: 700 m at 7e6, growing with its 0.45th power.

    A power law in the spirit of Bahr (1997, Journal of Glaciology 43); both numbers are a round guess.
    """
    return 700.0 * (flux / 7.0e6) ** 0.45


def ice_flux(tree: Drainage, balance_N: Floats, cell_m: float) -> Floats:
    """Steady flux of ice (m^3 / yr) through every node: gains upstream, less the melt of its tongue."""
    gain = (np.maximum(balance_N, 0.0) * cell_m**2).tolist()
    melt = (np.maximum(-balance_N, 0.0) * tree.distance_N).tolist()
    receiver = tree.receiver_N.tolist()
    flux = gain
    for node in reversed(tree.order_N.tolist()):
        if melt[node] > 0.0 and flux[node] > 0.0:
            flux[node] = max(0.0, flux[node] - melt[node] * float(glacier_width_m(flux[node])))
        if receiver[node] >= 0:
            flux[receiver[node]] += flux[node]
    return np.asarray(flux)


def ice_thickness(flux_N: Floats, slope_N: Floats) -> Floats:
    """Thickness (m) that carries `flux_N` on a surface slope (tangent) by internal deformation.

    Shallow-ice flux per width q = 2 A / (n + 2) (rho g S)^n H^(n + 2) with n = 3, solved for H
    (Cuffey & Paterson 2010, chapter 8).
    """
    per_width = flux_N / np.maximum(glacier_width_m(np.maximum(flux_N, 1.0)), 30.0)
    stress = DRIVING * np.maximum(slope_N, 0.05)
    return (5.0 * per_width / (2.0 * RATE_FACTOR * stress**3)) ** 0.2


@dataclass(frozen=True, slots=True)
class Ice:
    """Fields on the working grid: ice mask, ice depth (also below the mask's threshold), surface, balance and flux."""

    mask_HW: Bools
    depth_HW: Floats
    surface_HW: Floats
    balance_HW: Floats
    flux_HW: Floats


def glaciate(bed_HW: Floats, tree: Drainage, cell_m: float, climate: Climate, weather_HW: Floats) -> Ice:
    """Lay the steady-state glaciers of `climate` on the bed.

    A valley glacier fills its valley up to bed plus thickness of the channel it belongs to (height above nearest
    channel); an accumulation basin is ice where snow outlasts the year and the ground is gentle enough to hold it.
    """
    balance_HW = balance(bed_HW, cell_m, climate, weather_HW)
    flux_N = ice_flux(tree, balance_HW.ravel(), cell_m)
    calm_HW = ndimage.gaussian_filter(bed_HW, 240.0 / cell_m, mode="nearest")
    tilt_N = np.tan(np.radians(slope_deg(calm_HW, cell_m))).ravel()
    channel_N = flux_N > 1.0e5
    thickness_N = np.where(channel_N, ice_thickness(flux_N, tilt_N), 0.0)
    base_N = base_of(tree, channel_N)
    anchor_N = np.maximum(base_N, 0)
    bed_N = bed_HW.ravel()
    level_N = np.where(base_N >= 0, bed_N[anchor_N] + thickness_N[anchor_N], bed_N - 50.0)
    level_HW = np.clip(level_N - bed_N, -150.0, 400.0).reshape(bed_HW.shape)
    fill_HW = ndimage.gaussian_filter(level_HW, 70.0 / cell_m, mode="nearest")
    steep_HW = slope_deg(ndimage.gaussian_filter(bed_HW, 60.0 / cell_m, mode="nearest"), cell_m)
    crest_HW = bed_HW - ndimage.gaussian_filter(bed_HW, 200.0 / cell_m, mode="nearest")  # wind keeps crests bare
    steep_HW += np.clip(crest_HW - 4.0, 0.0, 40.0)
    holds_HW = np.clip((30.0 - steep_HW) / 8.0, -1.0, 1.0) * np.clip(balance_HW / 0.3, 0.0, 1.0) * 30.0
    holds_HW = ndimage.gaussian_filter(holds_HW, 35.0 / cell_m)
    depth_HW = np.maximum(np.maximum(holds_HW, np.where(steep_HW < 40.0, fill_HW, -1.0)), 0.0)
    mask_HW = drop_small(depth_HW > THINNEST_M, int(6.0e4 / cell_m**2))
    surface_HW = bed_HW + np.where(mask_HW, depth_HW, 0.0)
    smooth_HW = masked_smooth(surface_HW, mask_HW, 120.0 / cell_m)
    above_HW = np.where(mask_HW, np.maximum(smooth_HW, bed_HW - 5.0), bed_HW)
    surface_HW = np.where(mask_HW, masked_smooth(above_HW, mask_HW, 75.0 / cell_m), bed_HW)
    return Ice(mask_HW, depth_HW, surface_HW, balance_HW, flux_N.reshape(bed_HW.shape))


def drop_small(mask_HW: Bools, least_px: int) -> Bools:
    """Remove eight-connected parts below `least_px` and close holes below half of that."""
    for value, least in ((True, least_px), (False, least_px // 2)):
        parts_HW, _ = ndimage.label(mask_HW == value, structure=np.ones((3, 3)))
        small = np.bincount(parts_HW.ravel()) < least
        small[0] = False
        mask_HW = np.where(small[parts_HW], not value, mask_HW)
    return mask_HW


def masked_smooth(values_HW: Floats, mask_HW: Bools, sigma_px: float) -> Floats:
    """Gaussian mean of `values_HW` taken over the mask only."""
    weight_HW = ndimage.gaussian_filter(mask_HW.astype(float), sigma_px)
    total_HW = ndimage.gaussian_filter(np.where(mask_HW, values_HW, 0.0), sigma_px)
    return total_HW / np.maximum(weight_HW, 1e-6)


def strongest_upstream(tree: Drainage, value_N: Floats) -> Floats:
    """Largest value met anywhere upstream of a node."""
    largest = value_N.tolist()
    receiver = tree.receiver_N.tolist()
    for node in reversed(tree.order_N.tolist()):
        if receiver[node] >= 0:
            largest[receiver[node]] = max(largest[receiver[node]], largest[node])
    return np.asarray(largest)


def streaks(noise_HW: Floats, surface_HW: Floats, mask_HW: Bools, cell_m: float, length_px: int) -> Floats:
    """Noise drawn out along the flow of the ice, as moraines are (line integral convolution, Cabral & Leedom 1993)."""
    east_HW, north_HW = gradient(masked_smooth(surface_HW, mask_HW, 200.0 / cell_m), cell_m)
    norm_HW = np.hypot(east_HW, north_HW) + 1e-9
    step_row_HW, step_col_HW = north_HW / norm_HW, -east_HW / norm_HW  # downhill; rows grow southwards
    row, col = (axis.astype(float) for axis in np.nonzero(mask_HW))
    total = np.zeros(row.size)
    for _ in range(length_px):  # upstream: what lies on the ice here fell on it further up
        at = (np.rint(row).astype(int), np.rint(col).astype(int))
        total += noise_HW[at]
        row = np.clip(row - step_row_HW[at], 0, mask_HW.shape[0] - 1)
        col = np.clip(col - step_col_HW[at], 0, mask_HW.shape[1] - 1)
    result_HW = np.zeros(mask_HW.shape)
    if total.size:
        result_HW[mask_HW] = (total - total.mean()) / (total.std() + 1e-9)
    return result_HW


def debris_thickness(rng: np.random.Generator, ice: Ice, bed_HW: Floats, cell_m: float) -> Floats:
    """Debris cover in metres (0 off the ice), growing down-glacier below the equilibrium line.

    Rock that fell on the ice comes to the surface as the ice above it melts, so the cover grows with melt; it is
    thicker near rock walls (lateral moraines), in streaks along the flow (medial moraines) and patchy at its upper edge
    (Paul, Huggel & Kääb 2004, Remote Sensing of Environment 89; Anderson & Anderson 2016, The Cryosphere 10).
    """
    steep_HW = slope_deg(ndimage.gaussian_filter(bed_HW, 1.0), cell_m)
    wall_HW = np.where(ice.mask_HW, 0.0, np.clip((steep_HW - 25.0) / 20.0, 0.0, 1.0))
    supply_HW = ndimage.gaussian_filter(wall_HW, 450.0 / cell_m)
    inside_m_HW = ndimage.distance_transform_edt(ice.mask_HW) * cell_m
    margin_HW = np.exp(-inside_m_HW / 110.0)
    melt_HW = np.clip(-ice.balance_HW, 0.0, 3.0)
    medial_HW = streaks(rng.standard_normal(bed_HW.shape), ice.surface_HW, ice.mask_HW, cell_m, int(2_400 / cell_m))
    regional_HW = spectral_noise(rng, bed_HW.shape, 3.0, 6_000.0 / cell_m)
    patchy_HW = spectral_noise(rng, bed_HW.shape, 2.0, 500.0 / cell_m)
    score_HW = (
        1.15 * melt_HW
        + 2.2 * supply_HW
        + 0.9 * margin_HW
        + 0.8 * np.tanh(medial_HW)
        + 0.35 * regional_HW
        + 0.28 * patchy_HW
        - 2.5
    )
    gentle_HW = np.clip((40.0 - slope_deg(ice.surface_HW, cell_m)) / 8.0, 0.0, 1.0)  # steep ice sheds what falls on it
    covered_HW = ice.mask_HW & (ice.balance_HW < 0.05)
    return np.where(covered_HW, np.clip(0.18 * score_HW, 0.0, 1.5) * gentle_HW, 0.0)
