"""Water of the synthetic region: proglacial lakes below glacier tongues, tarns on trough floors, ponds on debris.

A proglacial lake lies in the bed a tongue left behind, dammed by its old moraine; ponds sit on gentle debris-covered
ice (Quincey et al. 2007, Global and Planetary Change 56: mostly where the glacier slopes by less than 2 degrees).
"""

import numpy as np
from napari_glacier._sample.glaciology import Bools, Ice, strongest_upstream
from napari_glacier._sample.terrain import Drainage, Floats, base_of, slope_deg, spectral_noise
from scipy import ndimage


def proglacial(rng: np.random.Generator, bed_HW: Floats, tree: Drainage, ice: Ice, cell_m: float) -> Floats:
    """Depth of water (m, below zero outside) in front of glacier tongues.

    From every tongue that carries enough ice and ends on gentle ground, a reach of 0.9 to 2.6 km of the channel is
    flooded up to a moraine dam; the shore is a height above that reach, so it follows the valley sides.
    """
    ice_N = ice.mask_HW.ravel()
    receiver = tree.receiver_N
    flux_N = strongest_upstream(tree, ice.flux_HW.ravel())
    calm_HW = ndimage.gaussian_filter(bed_HW, 200.0 / cell_m, mode="nearest")
    gentle_N = (slope_deg(calm_HW, cell_m) < 22.0).ravel()
    ends = np.flatnonzero(ice_N & (receiver >= 0) & ~ice_N[receiver] & (flux_N > 4.0e5) & gentle_N)
    dam_N = np.zeros(bed_HW.size)
    for end in ends[np.argsort(-flux_N[ends], kind="stable")]:
        reach_m, height_m = rng.uniform(900.0, 2_600.0), rng.uniform(45.0, 75.0)
        node, walked = int(receiver[end]), 0.0
        while node >= 0 and walked < reach_m and not ice_N[node] and dam_N[node] == 0.0:
            taper = min(1.0, 0.45 + 2.0 * (1.0 - walked / reach_m))
            dam_N[node] = height_m * taper
            walked += tree.distance_N[node]
            node = int(receiver[node])
    base_N = base_of(tree, dam_N > 0)
    anchor_N = np.maximum(base_N, 0)
    above_N = bed_HW.ravel() - bed_HW.ravel()[anchor_N]
    rows, cols = np.divmod(np.arange(bed_HW.size), bed_HW.shape[1])
    far_N = cell_m * np.hypot(rows - rows[anchor_N], cols - cols[anchor_N]) > 550.0
    depth_N = np.where((base_N >= 0) & ~far_N, dam_N[anchor_N] - above_N, -40.0)
    return ndimage.gaussian_filter(np.maximum(depth_N, -40.0).reshape(bed_HW.shape), 45.0 / cell_m)


def tarns(rng: np.random.Generator, surface_HW: Floats, ice_HW: Bools, cell_m: float) -> Bools:
    """Clear lakes in hollows of gentle ground away from the ice."""
    calm_HW = ndimage.gaussian_filter(surface_HW, 90.0 / cell_m, mode="nearest")
    hollow_HW = ndimage.gaussian_filter(surface_HW, 400.0 / cell_m, mode="nearest") - calm_HW
    noise_HW = spectral_noise(rng, surface_HW.shape, 3.0, 900.0 / cell_m)
    near_ice_HW = ndimage.binary_dilation(ice_HW, iterations=3)
    return (slope_deg(calm_HW, cell_m) < 10.0) & (hollow_HW > 8.0) & (noise_HW > 1.0) & ~near_ice_HW


def ponds(rng: np.random.Generator, ice_surface_HW: Floats, debris_HW: Bools, cell_m: float) -> Bools:
    """Small supraglacial ponds: patches of one to a few dozen pixels where debris-covered ice is flattest."""
    tilt_HW = slope_deg(ndimage.gaussian_filter(ice_surface_HW, 150.0 / cell_m), cell_m)
    noise_HW = spectral_noise(rng, ice_surface_HW.shape, 2.8, 300.0 / cell_m)
    inside_HW = ndimage.binary_erosion(debris_HW, iterations=2)
    return inside_HW & (noise_HW > 2.15 + np.clip(tilt_HW - 3.0, 0.0, 12.0) / 5.0)


def level_out(surface_HW: Floats, water_HW: Bools) -> Floats:
    """Heights with every connected lake flat at its own median."""
    parts_HW, count = ndimage.label(water_HW, structure=np.ones((3, 3)))
    if count == 0:
        return surface_HW
    levels = ndimage.median(surface_HW, parts_HW, np.arange(1, count + 1))
    return np.where(water_HW, np.concatenate([[0.0], levels])[parts_HW], surface_HW)
