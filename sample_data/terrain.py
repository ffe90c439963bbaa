"""High-mountain relief for the synthetic sample region: spectral noise, river incision, drainage trees, troughs.

Arrays are ``name_HW`` with row 0 in the north; heights in metres. Flat ("raveled") node arrays end in ``_N``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ERODIBILITY = 1.1e-5  # m^0.1 / yr, within the range of crystalline rock (Stock & Montgomery 1999)
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # half of the eight; the graph is undirected


def spectral_noise(rng: np.random.Generator, shape: tuple[int, int], beta: float, longest_px: float) -> Floats:
    """Fractal noise by spectral synthesis: power falls as frequency^-beta (Voss 1988, "Fractals in nature").

    Parameters
    ----------
    rng : numpy Generator
        The only source of chance.
    shape : (height, width)
        Of the result.
    beta : float
        Spectral exponent; natural relief lies near 3.5 to 4.5 in two dimensions.
    longest_px : float
        Wavelengths longer than this carry no more power than this one.

    Returns
    -------
    float64 array of `shape`, mean 0, standard deviation 1.
    """
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    amplitude = np.maximum(frequency, 1.0 / longest_px) ** (-beta / 2)
    amplitude[0, 0] = 0.0
    phase = rng.uniform(0.0, 2 * np.pi, amplitude.shape)
    noise_HW = np.fft.irfft2(amplitude * np.exp(1j * phase), s=shape)
    standard_HW: Floats = (noise_HW - noise_HW.mean()) / noise_HW.std()
    return standard_HW


@dataclass(frozen=True, slots=True)
class Drainage:
    """A tree in which every node drains to the border: `receiver_N` (-1 at outlets), step length, downstream order.

    `order_N` lists outlets first: walk it forwards to go upstream, backwards to go downstream.
    """

    receiver_N: Ints
    distance_N: Floats
    order_N: Ints


def drain(height_HW: Floats, cell_m: float) -> Drainage:
    """Route every cell to the border along its lowest pass.

    The minimum spanning tree of the eight-neighbour graph with edge weight max(h_i, h_j) holds, for every cell,
    the path to the border whose highest point is lowest, which is what priority flooding finds
    (Barnes et al. 2014, Computers & Geosciences 62). A tiny term breaks ties towards the
    steepest neighbour.
    """
    height, width = height_HW.shape
    count = height * width
    z_N = height_HW.ravel() - height_HW.min() + 1.0
    index_HW = np.arange(count).reshape(height, width)
    starts, ends, lengths = [], [], []
    for d_row, d_col in NEIGHBOURS:
        left, right = max(0, -d_col), width - max(0, d_col)
        a = index_HW[: height - d_row, left:right].ravel()
        b = index_HW[d_row:, left + d_col : right + d_col].ravel()
        starts.append(a)
        ends.append(b)
        lengths.append(np.full(a.size, cell_m * np.hypot(d_row, d_col)))
    a, b, length = np.concatenate(starts), np.concatenate(ends), np.concatenate(lengths)
    tie = 1e-3 * np.abs(z_N[a] - z_N[b]) / length
    weight = np.maximum(z_N[a], z_N[b]) - 1e-3 * np.minimum(tie, 0.1) + 1e-4
    border = np.unique(np.concatenate([index_HW[0], index_HW[-1], index_HW[:, 0], index_HW[:, -1]]))
    rows = np.concatenate([a, border])
    cols = np.concatenate([b, np.full(border.size, count)])
    weights = np.concatenate([weight, z_N[border]])
    graph = sparse.coo_matrix((weights, (rows, cols)), shape=(count + 1, count + 1)).tocsr()
    tree = csgraph.minimum_spanning_tree(graph)
    order, parent = csgraph.breadth_first_order(tree, count, directed=False, return_predecessors=True)
    receiver_N = parent[:count].astype(np.int64)
    receiver_N[receiver_N == count] = -1
    down_N = np.where(receiver_N < 0, np.arange(count), receiver_N)
    step_rows = down_N // width - np.arange(count) // width
    step_cols = down_N % width - np.arange(count) % width
    distance_N = cell_m * np.maximum(np.hypot(step_rows, step_cols), 1.0)
    return Drainage(receiver_N, distance_N, order[1:].astype(np.int64))


def accumulate(tree: Drainage, source_N: Floats) -> Floats:
    """Sum of `source_N` over everything upstream of a node, the node included."""
    total = source_N.tolist()
    receiver = tree.receiver_N.tolist()
    for node in reversed(tree.order_N.tolist()):
        if receiver[node] >= 0:
            total[receiver[node]] += total[node]
    return np.asarray(total)


def incise(
    height_HW: Floats, uplift_HW: Floats, repose_HW: Floats, *, cell_m: float, steps: int, dt_yr: float
) -> Floats:
    """Uplift against river incision, dh/dt = U - K A^0.45 S, solved implicitly from the outlets up.

    The solver is the one of Braun & Willett (2013, Geomorphology 180-181). Slopes steeper than `repose_HW` (a tangent,
    different from rock to rock) fail at once; a little diffusion stands for soil creep.
    """
    height_HW = height_HW.copy()
    for _ in range(steps):
        tree = drain(height_HW, cell_m)
        area_N = accumulate(tree, np.full(height_HW.size, cell_m**2))
        pull = (ERODIBILITY * dt_yr * area_N**0.45 / tree.distance_N).tolist()
        limit = (repose_HW.ravel() * tree.distance_N).tolist()
        receiver = tree.receiver_N.tolist()
        z = (height_HW + uplift_HW * dt_yr).ravel().tolist()
        base = height_HW.ravel().tolist()
        for node in tree.order_N.tolist():
            down = receiver[node]
            if down < 0:
                z[node] = base[node]
                continue
            implicit = (z[node] + pull[node] * z[down]) / (1.0 + pull[node])
            z[node] = min(implicit, z[down] + limit[node])
        height_HW = ndimage.gaussian_filter(np.asarray(z).reshape(height_HW.shape), 0.35, mode="nearest")
    return height_HW


def refine(field_HW: Floats, shape: tuple[int, int]) -> Floats:
    """Bilinear upsampling after a light smoothing, so that a coarser grid leaves no steps (centres stay aligned)."""
    smooth = ndimage.gaussian_filter(field_HW, 0.5, mode="nearest")
    rows = (np.arange(shape[0]) + 0.5) * field_HW.shape[0] / shape[0] - 0.5
    cols = (np.arange(shape[1]) + 0.5) * field_HW.shape[1] / shape[1] - 0.5
    grid = np.meshgrid(rows, cols, indexing="ij")
    fine_HW: Floats = ndimage.map_coordinates(smooth, grid, order=1, mode="nearest")
    return fine_HW


def gradient(height_HW: Floats, cell_m: float) -> tuple[Floats, Floats]:
    """Slope components (dz/d_east, dz/d_north), dimensionless, after Horn (1981)."""
    east = ndimage.sobel(height_HW, axis=1, mode="nearest") / (8 * cell_m)
    south = ndimage.sobel(height_HW, axis=0, mode="nearest") / (8 * cell_m)
    return east, -south


def slope_deg(height_HW: Floats, cell_m: float) -> Floats:
    """Steepness in degrees."""
    return np.degrees(np.arctan(np.hypot(*gradient(height_HW, cell_m))))


def base_of(tree: Drainage, channel_N: NDArray[np.bool_]) -> Ints:
    """For every node the first channel node downstream of it (itself if it is one), -1 where there is none."""
    base = np.where(channel_N, np.arange(channel_N.size), -1).tolist()
    receiver = tree.receiver_N.tolist()
    for node in tree.order_N.tolist():
        if base[node] < 0 and receiver[node] >= 0:
            base[node] = base[receiver[node]]
    return np.asarray(base, dtype=np.int64)


def carve_troughs(height_HW: Floats, tree: Drainage, depth_N: Floats, cell_m: float) -> Floats:
    """Turn V-shaped valleys into glacial troughs below a former ice surface `depth_N` above each channel node.

    The height above the nearest channel (HAND, Rennó et al. 2008, Remote Sensing of Environment 112) is h; below the
    trimline D it becomes h (h / D), a parabola, the shape of glaciated valleys (Svensson 1959,
    Journal of Glaciology 3).
    """
    z_N = height_HW.ravel()
    base_N = base_of(tree, depth_N > 0)
    found_N = base_N >= 0
    anchor_N = np.where(found_N, base_N, 0)
    above_N = np.maximum(z_N - z_N[anchor_N], 0.0)
    trim_N = np.where(found_N, depth_N[anchor_N], 0.0)
    inside_N = found_N & (above_N < trim_N)
    carved_N = np.where(inside_N, z_N[anchor_N] + above_N**2 / np.maximum(trim_N, 1.0), z_N)
    carved_HW = carved_N.reshape(height_HW.shape)
    soft_HW = ndimage.gaussian_filter(carved_HW, 90.0 / cell_m, mode="nearest")
    weight_HW = ndimage.gaussian_filter(inside_N.reshape(height_HW.shape).astype(float), 90.0 / cell_m, mode="nearest")
    trough_HW: Floats = weight_HW * soft_HW + (1 - weight_HW) * carved_HW
    return trough_HW


def mountains(rng: np.random.Generator, shape: tuple[int, int], cell_m: float) -> Floats:
    """Fluvially dissected high mountains on a grid of `shape` cells of `cell_m` metres.

    Coarse to fine: 4 cells, then 2, then 1, each started from the refined coarser landscape.
    Returns heights in metres from about 3 600 in the valleys to about 6 900 on the summits.
    """
    coarse = (shape[0] // 4, shape[1] // 4)
    longest_px = 9_000.0 / (4 * cell_m)
    pattern_HW = spectral_noise(rng, coarse, 3.2, longest_px)
    uplift_HW = 0.0026 * np.clip(1.0 + 0.30 * pattern_HW, 0.3, None)
    height_HW = 60.0 * spectral_noise(rng, coarse, 3.0, longest_px)
    height_HW -= height_HW.min()
    for factor, steps, dt_yr in ((4, 40, 2.5e4), (2, 10, 1.2e4), (1, 3, 6e3)):
        level = (shape[0] // factor, shape[1] // factor)
        if factor < 4:
            height_HW = refine(height_HW, level)
            height_HW += 12.0 * factor * spectral_noise(rng, level, 2.6, 1_200.0 / (factor * cell_m))
        repose_HW = np.clip(0.62 + 0.16 * spectral_noise(rng, level, 2.0, 2_500.0 / (factor * cell_m)), 0.3, 1.2)
        height_HW = incise(
            height_HW, refine(uplift_HW, level), repose_HW, cell_m=factor * cell_m, steps=steps, dt_yr=dt_yr
        )
    low, high = np.percentile(height_HW, [2.0, 99.9])
    scaled_HW: Floats = 3_700.0 + (height_HW - low) * 2_900.0 / (high - low)
    return scaled_HW


def roughen(rng: np.random.Generator, height_HW: Floats, cell_m: float) -> Floats:
    """Add crags and gullies at the finest scale, strong on steep ground and absent on valley floors."""
    steep_HW = np.clip((slope_deg(ndimage.gaussian_filter(height_HW, 2.0), cell_m) - 8.0) / 25.0, 0.0, 1.0)
    ridged_HW = 1.0 - 2.0 * np.abs(spectral_noise(rng, height_HW.shape, 3.0, 700.0 / cell_m))
    fine_HW = spectral_noise(rng, height_HW.shape, 2.8, 300.0 / cell_m)
    return height_HW + steep_HW * (10.0 * ridged_HW + 4.0 * fine_HW)
