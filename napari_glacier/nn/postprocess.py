"""From class probabilities to a clean class map.

Legend: K classes (0 is the background), H rows, W columns.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.errors import ConfigError

IndexArray = npt.NDArray[np.uint8]

_EIGHT = np.ones((3, 3), bool)
_FOUR = ndimage.generate_binary_structure(2, 1)


def resolve_thresholds(thresholds: Mapping[str, float] | None, scheme: ClassScheme) -> dict[int, float]:
    """Turn thresholds by class name into thresholds by class index.

    Raises
    ------
    ConfigError
        If a class is unknown or the background, or a threshold is not between 0 and 1.
    """
    resolved = {}
    for name, value in (thresholds or {}).items():
        if name not in scheme.class_names[1:]:
            raise ConfigError(
                f"A threshold was given for {name!r}. The classes that can have one are: "
                f"{', '.join(scheme.class_names[1:])} (background is what remains)."
            )
        if not 0 < value < 1:
            raise ConfigError(f"The threshold of {name} is {value}; it must lie between 0 and 1.")
        resolved[scheme.class_names.index(name)] = float(value)
    return resolved


def classify(probabilities_KHW: npt.NDArray[np.float32], thresholds: Mapping[int, float] | None = None) -> IndexArray:
    """Choose a class for each pixel.

    Without thresholds, the most probable one. A class with a threshold may be chosen where its probability
    reaches the threshold, a class without one where it is the most probable; among several the more
    probable wins, and where there is none the pixel is background.

    Parameters
    ----------
    probabilities_KHW : float32 array, shape (K, H, W)
    thresholds : mapping of class index to probability, optional

    Returns
    -------
    uint8 array, shape (H, W)
    """
    likeliest_HW: IndexArray = probabilities_KHW.argmax(axis=0).astype(np.uint8)
    if not thresholds:
        return likeliest_HW
    chosen_HW = np.zeros_like(likeliest_HW)
    best_HW = np.zeros(likeliest_HW.shape, np.float32)
    for k in range(1, len(probabilities_KHW)):
        p_HW = probabilities_KHW[k]
        eligible_HW = p_HW >= thresholds[k] if k in thresholds else likeliest_HW == k
        wins_HW = eligible_HW & (p_HW > best_HW)
        chosen_HW[wins_HW] = k
        best_HW[wins_HW] = p_HW[wins_HW]
    return chosen_HW


def remove_small_components(index_HW: IndexArray, min_px: int) -> IndexArray:
    """Replace patches of one class (8-connected) of fewer than `min_px` pixels by what surrounds them.

    The background is never such a patch (see `fill_small_holes`). A patch takes the most common class
    among the pixels that touch it, as they were before: a speck of debris inside clean ice becomes ice, not a hole.

    Returns
    -------
    uint8 array, shape (H, W); a new one
    """
    out_HW = index_HW.copy()
    if min_px <= 1:
        return out_HW
    for k in np.unique(index_HW[index_HW > 0]):
        labels_HW, _ = ndimage.label(index_HW == k, structure=_EIGHT)
        sizes = np.bincount(labels_HW.ravel())
        small = np.flatnonzero(sizes < min_px)
        _replace_by_surroundings(index_HW, out_HW, labels_HW, small[small > 0])
    return out_HW


def fill_small_holes(index_HW: IndexArray, max_px: int) -> IndexArray:
    """Fill background enclosed by other classes, where it has fewer than `max_px` pixels.

    Background is 4-connected here, the counterpart of 8-connected classes. What touches the border of the
    array is no hole: it may go on outside. A hole takes the most common class among the pixels touching it.

    Returns
    -------
    uint8 array, shape (H, W); a new one
    """
    out_HW = index_HW.copy()
    if max_px <= 1:
        return out_HW
    labels_HW, _ = ndimage.label(index_HW == 0, structure=_FOUR)
    sizes = np.bincount(labels_HW.ravel())
    fillable = sizes < max_px
    fillable[0] = False
    for border in (labels_HW[0], labels_HW[-1], labels_HW[:, 0], labels_HW[:, -1]):
        fillable[border] = False
    _replace_by_surroundings(index_HW, out_HW, labels_HW, np.flatnonzero(fillable), structure=_FOUR)
    return out_HW


def _replace_by_surroundings(
    index_HW: IndexArray,
    out_HW: IndexArray,
    labels_HW: npt.NDArray[np.integer],
    chosen: npt.NDArray[np.integer],
    structure: npt.NDArray[np.bool_] = _EIGHT,
) -> None:
    boxes = ndimage.find_objects(labels_HW)
    height, width = index_HW.shape
    for label in chosen:
        rows, cols = boxes[label - 1]
        around = (
            slice(max(rows.start - 1, 0), min(rows.stop + 1, height)),
            slice(max(cols.start - 1, 0), min(cols.stop + 1, width)),
        )
        patch = labels_HW[around] == label
        ring = ndimage.binary_dilation(patch, structure=structure) & ~patch
        neighbours = index_HW[around][ring]
        out_HW[around][patch] = np.bincount(neighbours).argmax() if neighbours.size else 0
