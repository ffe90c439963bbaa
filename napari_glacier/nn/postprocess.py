"""From class probabilities to a clean class map.

Legend: K classes (0 is the background), H rows, W columns.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.errors import ConfigError

IndexArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

# Row and column steps to the neighbours of a pixel.
_FOUR = ((-1, 0), (0, -1), (0, 1), (1, 0))
_EIGHT = (*_FOUR, (-1, -1), (-1, 1), (1, -1), (1, 1))
# Rows at once where a temporary array for all of a large scene would take gigabytes.
_STRIP_ROWS = 512


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
    Of classes that are equally common, it takes the first.

    Returns
    -------
    uint8 array, shape (H, W); a new one
    """
    out_HW = index_HW.copy()
    if min_px <= 1:
        return out_HW
    for k in _classes_in(index_HW):
        labels_HW, sizes = _label(index_HW == k, 8)
        _replace_by_surroundings(index_HW, out_HW, k, labels_HW, chosen=sizes < min_px, steps=_EIGHT)
    return out_HW


def fill_small_holes(index_HW: IndexArray, max_px: int) -> IndexArray:
    """Fill background enclosed by other classes, where it has fewer than `max_px` pixels.

    Background is 4-connected here, the counterpart of 8-connected classes. What touches the border of the
    array is no hole: it may go on outside. A hole takes the most common class among the pixels touching it,
    the first of those that are equally common.

    Returns
    -------
    uint8 array, shape (H, W); a new one
    """
    out_HW = index_HW.copy()
    if max_px <= 1 or not index_HW.size:
        return out_HW
    labels_HW, sizes = _label(index_HW == 0, 4)
    fillable = sizes < max_px
    for border in (labels_HW[0], labels_HW[-1], labels_HW[:, 0], labels_HW[:, -1]):
        fillable[border] = False
    _replace_by_surroundings(index_HW, out_HW, 0, labels_HW, chosen=fillable, steps=_FOUR)
    return out_HW


def open_classes(index_HW: IndexArray, radius_px: int, valid_HW: BoolArray | None = None) -> IndexArray:
    """Take from each class what no disc of `radius_px` inside that class covers: spurs, bridges, specks.

    Morphological opening, of each class but the background as it was before. What a class loses goes, patch by
    patch (8-connected), to the most common other class among the valid pixels touching the patch as they were
    before, the first of those that are equally common, and to the background where there is none: a vein of debris
    in clean ice becomes ice. No class has priority: each pixel is of one class, and at most that one loses it.

    Parameters
    ----------
    index_HW : uint8 array, shape (H, W)
    radius_px : int
        Of the disc, the pixels at most that far from its centre; 0 changes nothing.
    valid_HW : bool array, shape (H, W), optional
        Nodata is neither changed nor asked, and like what lies outside the array it is no obstacle to a disc, whose
        centre must be a valid pixel: ice that ends where the data end keeps its edge. All pixels are valid by default.

    Returns
    -------
    uint8 array, shape (H, W); a new one

    Raises
    ------
    ConfigError
        If the radius is below 0.
    """
    disc = _disc(radius_px, "opening")
    out_HW = index_HW.copy()
    if disc is None:
        return out_HW
    for k in _classes_in(index_HW):
        of_class_HW = index_HW == k
        if valid_HW is not None:
            of_class_HW &= valid_HW
        centres_HW = _eroded(of_class_HW if valid_HW is None else of_class_HW | ~valid_HW, disc)
        if valid_HW is not None:
            centres_HW &= valid_HW
        lost_HW = of_class_HW & ~_dilated(centres_HW, disc)
        labels_HW, sizes = _label(lost_HW, 8)
        every = np.ones(len(sizes), bool)
        _replace_by_surroundings(index_HW, out_HW, k, labels_HW, chosen=every, steps=_EIGHT, valid_HW=valid_HW)
    return out_HW


def close_classes(index_HW: IndexArray, radius_px: int, valid_HW: BoolArray | None = None) -> IndexArray:
    """Give to each class the background that no disc of `radius_px` outside that class covers: gaps, bays, pinholes.

    Morphological closing, of each class but the background as it was before. Only background is given away. Where
    several classes claim a pixel, the last in the scheme has priority: schemes name the rare and particular classes
    last.

    Parameters
    ----------
    index_HW, radius_px, valid_HW
        See `open_classes`. Nodata and what lies outside the array are no obstacle to a disc here, either, though
        its centre must be a valid pixel: a bay that is open only to them is closed.

    Returns
    -------
    uint8 array, shape (H, W); a new one

    Raises
    ------
    ConfigError
        If the radius is below 0.
    """
    disc = _disc(radius_px, "closing")
    out_HW = index_HW.copy()
    if disc is None:
        return out_HW
    free_HW = index_HW == 0 if valid_HW is None else (index_HW == 0) & valid_HW
    for k in _classes_in(index_HW):
        of_class_HW = index_HW == k
        if valid_HW is not None:
            of_class_HW &= valid_HW
        reached_HW = _dilated(of_class_HW, disc)
        if valid_HW is not None:
            reached_HW |= ~valid_HW
        out_HW[_eroded(reached_HW, disc) & free_HW] = k
    return out_HW


def _classes_in(index_HW: IndexArray) -> list[int]:
    """Classes other than the background that occur, from the first."""
    highest = int(index_HW.max(initial=0))
    return [k for k in range(1, highest + 1) if (index_HW == k).any()]


def _label(mask_HW: BoolArray, connectivity: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Number of each pixel's patch, 0 outside, and size of each patch in pixels."""
    labels_HW: Any
    _, labels_HW, statistics, _ = cv2.connectedComponentsWithStats(
        mask_HW.view(np.uint8), connectivity=connectivity, ltype=cv2.CV_32S
    )
    return labels_HW, statistics[:, cv2.CC_STAT_AREA].astype(np.int64)


def _disc(radius_px: int, operation: str) -> IndexArray | None:
    if radius_px < 0:
        raise ConfigError(f"The radius of the {operation} is {radius_px} px; it must be 0 (off) or more pixels.")
    if radius_px == 0:
        return None
    steps = np.arange(-radius_px, radius_px + 1)
    disc: IndexArray = (steps[:, None] ** 2 + steps**2 <= radius_px**2).astype(np.uint8)
    return disc


# Beyond the border, both find what changes nothing (OpenCV's default border).
def _eroded(mask_HW: BoolArray, disc: IndexArray) -> BoolArray:
    return cv2.erode(mask_HW.view(np.uint8), disc).view(np.bool_)


def _dilated(mask_HW: BoolArray, disc: IndexArray) -> BoolArray:
    return cv2.dilate(mask_HW.view(np.uint8), disc).view(np.bool_)


def _strips(height: int) -> Iterator[slice]:
    for start in range(0, height, _STRIP_ROWS):
        yield slice(start, min(start + _STRIP_ROWS, height))


def _replace_by_surroundings(
    index_HW: IndexArray,
    out_HW: IndexArray,
    of_class: int,
    labels_HW: npt.NDArray[np.int32],
    *,
    chosen: BoolArray,
    steps: tuple[tuple[int, int], ...],
    valid_HW: BoolArray | None = None,
) -> None:
    """Give the chosen patches of a class, in `out_HW`, the most common other class among the pixels touching them.

    Each valid pixel of another class that is a step from a patch has one vote there; 0 where nobody votes.
    """
    chosen[0] = False
    if not chosen.any():
        return
    # Numbers of the chosen patches alone, from 1, so that the votes take no more memory than they must.
    numbers = np.cumsum(chosen, dtype=np.int32) * chosen
    num_classes = int(index_HW.max()) + 1
    votes = np.zeros((int(numbers.max()) + 1) * num_classes, np.int64)
    height, width = index_HW.shape
    for rows in _strips(height):
        top, bottom = max(rows.start - 1, 0), min(rows.stop + 1, height)
        padded_hw = np.zeros((rows.stop - rows.start + 2, width + 2), np.int32)
        padded_hw[top - rows.start + 1 : bottom - rows.start + 1, 1:-1] = numbers[labels_HW[top:bottom]]
        index_hW = index_HW[rows]
        near_hW = cv2.dilate((padded_hw > 0).view(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1].view(np.bool_)
        voters_hW = near_hW & (index_hW != of_class)
        if valid_HW is not None:
            voters_hW &= valid_HW[rows]
        row_N, col_N = np.nonzero(voters_hW)
        class_N = index_hW[row_N, col_N]
        heard: list[npt.NDArray[np.int32]] = []
        for row, col in steps:
            patch_N = padded_hw[row_N + row + 1, col_N + col + 1]
            # One vote a patch, whatever the number of its pixels that the voter touches.
            fresh_N = patch_N > 0
            for earlier_N in heard:
                fresh_N &= patch_N != earlier_N
            heard.append(patch_N)
            ballots_N = patch_N[fresh_N].astype(np.int64) * num_classes + class_N[fresh_N]
            np.add.at(votes, ballots_N, 1)
    winner = votes.reshape(-1, num_classes).argmax(axis=1).astype(np.uint8)
    for rows in _strips(height):
        patch_hW = numbers[labels_HW[rows]]
        np.copyto(out_HW[rows], winner[patch_hW], where=patch_hW > 0)
