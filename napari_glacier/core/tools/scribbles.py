"""Smart scribble: a few strokes of each class, and a random walk decides what lies between them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.correction.strokes import MaskArray
from napari_glacier.core.tools.evidence import BoolArray, Evidence, FloatArray
from napari_glacier.core.tools.superpixels import Superpixels, superpixels

if TYPE_CHECKING:
    from scipy import sparse

UNMARKED = 255

# A random walk may cross any border, if seldom.
_LEAST_WEIGHT = 1e-4
# Pull of the classes' looks against that of the neighbours, for a border of mean length.
_PRIOR = 0.2
# Scribbles slip over borders: a superpixel counts as scribbled when this share of it is.
_SEED_SHARE = 0.15
# Looks of a class are learnt from this many of its scribbled pixels.
_LOOKS_PX = 256
# Superpixels are right to about this; within it the outline is drawn by the pixels themselves.
_REFINE_PX = 3


def random_walk(
    first_E: npt.NDArray[np.intp],
    second_E: npt.NDArray[np.intp],
    weight_E: npt.NDArray[np.floating],
    *,
    seed_N: npt.NDArray[np.integer],
    num_seeds: int,
    prior_NK: npt.NDArray[np.floating],
) -> npt.NDArray[np.float64]:
    """Probability that a walk from each node first reaches a seed of each class, with a prior (Grady 2005).

    Solves ``(L_u + diag(sum_k prior_k)) x_k = prior_k - B m_k`` for the unseeded nodes.

    Parameters
    ----------
    first_E, second_E : int arrays
        Edges, each once.
    weight_E : float array
        Positive.
    seed_N : int array
        Class of each seeded node, from 0; negative elsewhere.
    num_seeds : int
        Number of classes K.
    prior_NK : float array
        Not negative; 0 for none. A node with neither prior nor a path to a seed gets 0 of everything.

    Returns
    -------
    float64 array, shape (N, K)
    """
    from scipy import sparse
    from scipy.sparse import linalg

    count = len(seed_N)
    ends = np.concatenate([first_E, second_E]), np.concatenate([second_E, first_E])
    weights = sparse.coo_matrix((np.tile(weight_E, 2).astype(float), ends), shape=(count, count)).tocsr()
    answer_NK = np.zeros((count, num_seeds))
    seeded_N = seed_N >= 0
    answer_NK[seeded_N, seed_N[seeded_N]] = 1.0
    prior_N = prior_NK.sum(axis=1)
    free_N = ~seeded_N & _has_anchor(weights, seeded_N | (prior_N > 0))
    if not free_N.any():
        return answer_NK
    degree_N = np.asarray(weights.sum(axis=1)).ravel() + prior_N
    to_free = weights[free_N]
    system = (sparse.diags(degree_N[free_N]) - to_free[:, free_N]).tocsc()
    right = prior_NK[free_N] + to_free[:, seeded_N] @ answer_NK[seeded_N]
    # The graph is nearly planar: with this ordering a direct solution takes tens of milliseconds.
    factor = linalg.splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    answer_NK[free_N] = factor.solve(np.ascontiguousarray(right))
    return answer_NK


def solve_scribbles(
    evidence: Evidence, marks_HW: MaskArray, cut: Superpixels | None = None, within_HW: BoolArray | None = None
) -> tuple[MaskArray, FloatArray]:
    """Give every pixel to the class whose scribbles reach it most easily.

    Superpixels alike in features are near to each other; and each class pulls at those that look like what was
    scribbled with it.

    Parameters
    ----------
    evidence : Evidence
    marks_HW : uint8 array
        Class of scribbled pixels, `UNMARKED` elsewhere.
    cut : Superpixels, optional
        Of the same evidence, where they are at hand.
    within_HW : bool array, optional
        Only superpixels that reach in here take part.

    Returns
    -------
    index_HW : uint8 array
        The class; `UNMARKED` on nodata, outside of `within_HW` and where no scribble reaches.
    probability_HW : float32 array
        Of that class in the walk, between 0 and 1.

    Raises
    ------
    ValueError
        If fewer than two classes were scribbled on pixels that carry data.
    """
    cut = cut or superpixels(evidence)
    marked_HW = (marks_HW != UNMARKED) & evidence.valid_HW
    classes = np.unique(marks_HW[marked_HW])
    if classes.size < 2:
        raise ValueError(f"scribbles of two classes are needed, there are {classes.size}")
    take_N = cut.valid_N.copy()
    if within_HW is not None:
        inside_N = np.zeros(cut.count, bool)
        inside_N[cut.label_HW[within_HW | marked_HW]] = True
        take_N &= inside_N
    seed_N = _seeds(cut, marks_HW, marked_HW, classes)
    number_N = np.cumsum(take_N) - 1
    edge_E = take_N[cut.first_E] & take_N[cut.second_E]
    first_E, second_E = cut.first_E[edge_E], cut.second_E[edge_E]
    weight_E, spread = _weights(cut, first_E, second_E, edge_E)
    features_NF, seeds_N = cut.features_NF[take_N], seed_N[take_N]
    drawn = [evidence.features[:, marked_HW & (marks_HW == label)].T for label in classes]
    prior_NK = _looks(features_NF, drawn, spread) * (_PRIOR * float(weight_E.mean() if weight_E.size else 1))
    walked_NK = random_walk(
        number_N[first_E], number_N[second_E], weight_E, seed_N=seeds_N, num_seeds=classes.size, prior_NK=prior_NK
    )

    index_N = np.full(cut.count, UNMARKED, np.uint8)
    probability_N = np.zeros(cut.count, np.float32)
    best_N = walked_NK.argmax(axis=1)
    reached_N = walked_NK.max(axis=1)
    index_N[take_N] = np.where(reached_N > 0, classes[best_N], UNMARKED)
    probability_N[take_N] = reached_N
    index_HW, probability_HW = index_N[cut.label_HW], probability_N[cut.label_HW]
    index_HW[~evidence.valid_HW] = UNMARKED
    index_HW = _refined(index_HW, evidence.edges, marked_HW)
    # What a person drew stays as drawn, where two classes share a superpixel, too.
    index_HW[marked_HW] = marks_HW[marked_HW]
    probability_HW[marked_HW] = 1.0
    return index_HW, probability_HW


def _seeds(
    cut: Superpixels, marks_HW: MaskArray, marked_HW: BoolArray, classes: npt.NDArray[np.uint8]
) -> npt.NDArray[np.intp]:
    """Of each superpixel, the class scribbled most on it, as its number in `classes`; -1 where none was."""
    key = cut.label_HW[marked_HW].astype(np.intp) * classes.size + np.searchsorted(classes, marks_HW[marked_HW])
    votes_NK = np.bincount(key, minlength=cut.count * classes.size).reshape(cut.count, classes.size)
    size_N = np.bincount(cut.label_HW.ravel(), minlength=cut.count)
    enough_N = votes_NK.sum(axis=1) >= _SEED_SHARE * size_N
    # A class with only a dot to its name keeps the superpixel it covers best.
    enough_N[votes_NK.argmax(axis=0)] = True
    return np.where(enough_N & votes_NK.any(axis=1), votes_NK.argmax(axis=1), -1)


def _weights(
    cut: Superpixels, first_E: npt.NDArray[np.intp], second_E: npt.NDArray[np.intp], edge_E: BoolArray
) -> tuple[npt.NDArray[np.float64], float]:
    squared_E = np.square(cut.features_NF[first_E] - cut.features_NF[second_E]).sum(axis=1, dtype=float)
    # What counts as a small difference is what neighbours usually differ by in this window.
    spread = max(float(np.median(squared_E)) if squared_E.size else 1.0, 1e-6)
    return cut.border_E[edge_E] * (np.exp(-squared_E / (2 * spread)) + _LEAST_WEIGHT), spread


def _looks(features_NF: FloatArray, drawn: Sequence[npt.NDArray[np.float32]], spread: float) -> npt.NDArray[np.float64]:
    """How much each superpixel looks like the nearest of each class's scribbled pixels; sums to 1 over classes."""
    from scipy.spatial import cKDTree

    nearest = [cKDTree(pixels_NF[:: -(-len(pixels_NF) // _LOOKS_PX)]).query(features_NF)[0] for pixels_NF in drawn]
    squared_NK = np.square(np.stack(nearest, axis=1))
    squared_NK -= squared_NK.min(axis=1, keepdims=True)
    like_NK: npt.NDArray[np.float64] = np.exp(-squared_NK / (4 * spread))
    like_NK /= like_NK.sum(axis=1, keepdims=True)
    return like_NK


def _refined(index_HW: MaskArray, edge_HW: FloatArray, marked_HW: BoolArray) -> MaskArray:
    """Let the outlines between classes run along the strongest edge nearby: a watershed in a band around them."""
    import cv2
    from skimage.segmentation import watershed

    box = np.ones((3, 3), np.uint8)
    # Where the neighbourhood holds more than one class (255 stands for none, and stays).
    band_HW = cv2.dilate(index_HW, box, iterations=_REFINE_PX) != cv2.erode(index_HW, box, iterations=_REFINE_PX)
    known_HW = index_HW != UNMARKED
    band_HW &= (
        known_HW & ~marked_HW & ~cv2.dilate((~known_HW).astype(np.uint8), box, iterations=_REFINE_PX).astype(bool)
    )
    if not band_HW.any():
        return index_HW
    rim_HW = cv2.dilate(band_HW.astype(np.uint8), box).astype(bool) & known_HW
    marker_HW = np.where(rim_HW & ~band_HW, index_HW.astype(np.int32) + 1, 0)
    flood: Any = watershed
    side_HW = flood(edge_HW, marker_HW, mask=rim_HW)
    return np.where(band_HW & (side_HW > 0), side_HW - 1, index_HW).astype(np.uint8)


def _has_anchor(weights: "sparse.csr_matrix", anchored_N: BoolArray) -> BoolArray:
    """Nodes connected to a seed or a prior; the others would make the system singular."""
    if anchored_N.all():
        return anchored_N
    from scipy.sparse.csgraph import connected_components

    _, part_N = connected_components(weights, directed=False)
    reached_N: BoolArray = np.isin(part_N, np.unique(part_N[anchored_N]))
    return reached_N


def reach_of(marks_HW: MaskArray, margin_px: int) -> BoolArray:
    """The area a person means by scribbles: their convex hull and a margin."""
    import cv2

    rows, cols = np.nonzero(marks_HW != UNMARKED)
    within_HW: npt.NDArray[Any] = np.zeros(marks_HW.shape, np.uint8)
    if rows.size:
        hull = cv2.convexHull(np.stack([cols, rows], axis=1).astype(np.int32))
        cv2.fillConvexPoly(within_HW, hull, 1)
        if margin_px:
            within_HW = cv2.dilate(within_HW, np.ones((2 * margin_px + 1, 2 * margin_px + 1), np.uint8))
    return within_HW.astype(bool)
