"""Texture of a band: contrast and energy of its grey-level co-occurrence matrices (Haralick et al. 1973).

Around each pixel, the pairs of neighbours (distance 1; 0, 45, 90 and 135 degrees) in a window of
`WINDOW_PX` squared make one symmetric matrix p(i, j) for each direction, with sum 1. Then
contrast = sum p(i, j) (i - j)^2 and energy = sqrt(sum p(i, j)^2), averaged over the directions.

Levels are spaced evenly in the logarithm of the value, `LEVELS_PER_OCTAVE` for each doubling (steps of
4.4 %), between fixed limits that hold reflectances as well as 16-bit digital numbers. So they depend on no
other pixel: a crop has the texture of the whole, save within `HALO_PX` of its border, where pixels see
fewer pairs. Data of another scale factor have other levels but, to rounding, the same differences.

Shapes: H rows, W columns.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

WINDOW_PX = 7
HALO_PX = WINDOW_PX // 2
LEVELS_PER_OCTAVE = 16
_LOWEST_OCTAVE, _HIGHEST_OCTAVE = -12, 16
NUM_LEVELS = (_HIGHEST_OCTAVE - _LOWEST_OCTAVE) * LEVELS_PER_OCTAVE
# Steps from a pixel to its neighbour (rows, columns).
_STEPS = ((0, 1), (-1, 1), (1, 0), (1, 1))
# Pairs that are none: two values, so that no two of them are ever equal.
_NO_PAIR, _NO_PAIR_EITHER = -1, -2

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]


def grey_levels(band_HW: npt.NDArray[np.floating]) -> IntArray:
    """Level of each value, int32 from 0 to `NUM_LEVELS` - 1; values of 0 or less, which have none, give -1."""
    some_HW = band_HW > 0
    octave_HW = np.log2(band_HW, out=np.zeros(band_HW.shape, np.float32), where=some_HW)
    levels_HW = np.floor((octave_HW - _LOWEST_OCTAVE) * LEVELS_PER_OCTAVE).clip(0, NUM_LEVELS - 1)
    return np.where(some_HW, levels_HW, -1).astype(np.int32)


def glcm_texture(band_HW: npt.NDArray[np.floating], valid_HW: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Contrast and energy of a band around each pixel.

    Parameters
    ----------
    band_HW : float array, shape (H, W)
    valid_HW : bool array, shape (H, W)
        Pairs with a pixel that is not valid, or 0 or less, do not count; a direction without any pair adds 0.

    Returns
    -------
    contrast_HW : float32 array, shape (H, W)
        In squared levels.
    energy_HW : float32 array, shape (H, W)
        Between 0 and 1. Both are 0 where `valid_HW` is not.
    """
    padded_HW = np.pad(np.where(valid_HW, grey_levels(band_HW), -1), HALO_PX, constant_values=-1)
    contrast_HW = np.zeros(band_HW.shape, np.float32)
    energy_HW = np.zeros(band_HW.shape, np.float32)
    for rows, cols in _STEPS:
        # A pair stands at the upper left corner of the rectangle that its two pixels span.
        first_HW = padded_HW[max(-rows, 0) : len(padded_HW) - max(rows, 0), : padded_HW.shape[1] - cols]
        second_HW = padded_HW[max(rows, 0) : len(padded_HW) - max(-rows, 0), cols:]
        window_HW = (WINDOW_PX - abs(rows), WINDOW_PX - cols)
        is_pair_HW = (first_HW >= 0) & (second_HW >= 0)
        num_HW = _sums(is_pair_HW.astype(np.float32), window_HW, band_HW.shape)
        # Whole numbers below 2^24, which float32 adds up without rounding.
        squares_HW = np.where(is_pair_HW, (first_HW - second_HW) ** 2, 0).astype(np.float32)
        share_HW = np.divide(1, num_HW, out=np.zeros_like(num_HW), where=num_HW > 0)
        contrast_HW += _sums(squares_HW, window_HW, band_HW.shape) * share_HW
        equal_HW = _equal_pairs(first_HW, second_HW, is_pair_HW, window_HW, band_HW.shape)
        energy_HW += np.sqrt(equal_HW / 2) * share_HW
    mean_HW = (valid_HW / len(_STEPS)).astype(np.float32)
    return contrast_HW * mean_HW, energy_HW * mean_HW


def _equal_pairs(
    first_HW: IntArray,
    second_HW: IntArray,
    is_pair_HW: npt.NDArray[np.bool_],
    window_HW: tuple[int, int],
    shape_HW: tuple[int, ...],
) -> FloatArray:
    """How many (pair, pair) of each window are equal, plus how many are each other's mirror image, shape (H, W).

    With counts n, a symmetric matrix is n + n', so that the sum of its squares is twice
    sum n(i, j)^2 + sum n(i, j) n(j, i): the two numbers given here. They need no histogram: for every shift
    between two pairs of a window, the places where they are equal are counted by one box filter.
    """
    codes_HW = np.where(is_pair_HW, first_HW * NUM_LEVELS + second_HW, _NO_PAIR).astype(np.int32)
    same_HW = np.where(is_pair_HW, codes_HW, _NO_PAIR_EITHER).astype(np.int32)
    mirrored_HW = np.where(is_pair_HW, second_HW * NUM_LEVELS + first_HW, _NO_PAIR_EITHER).astype(np.int32)
    height, width = window_HW
    num_rows, num_cols = codes_HW.shape
    # At most 42 pairs a window: a box holds at most 84, and all boxes together 42 * 42 * 2.
    total_HW = np.zeros(shape_HW, np.uint16)
    for down in range(height):
        # Half of the shifts; the others are the same pairs the other way round.
        for right in range(0 if down == 0 else 1 - width, width):
            here = np.s_[: num_rows - down, max(-right, 0) : num_cols - max(right, 0)]
            there = np.s_[down:, max(right, 0) : num_cols - max(-right, 0)]
            equal_HW = (codes_HW[here] == same_HW[there]).view(np.uint8)
            equal_HW = equal_HW + (codes_HW[here] == mirrored_HW[there]).view(np.uint8)
            # From the window's first column the two pairs reach over `right` columns to either side.
            part_HW = _sums(equal_HW, (height - down, width - abs(right)), shape_HW)
            total_HW += part_HW if (down, right) == (0, 0) else 2 * part_HW.astype(np.uint16)
    return total_HW.astype(np.float32)


def _sums(values_HW: npt.NDArray[Any], window_HW: tuple[int, int], shape_HW: tuple[int, ...]) -> npt.NDArray[Any]:
    """Sums over the window that begins at each pixel, the first `shape_HW` of them, in the values' own type."""
    sums_HW: npt.NDArray[Any] = cv2.boxFilter(
        values_HW, -1, window_HW[::-1], anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return sums_HW[: shape_HW[0], : shape_HW[1]]
