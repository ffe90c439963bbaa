"""Run-length encoding of binary masks as in the salt data: pairs of start and length, 1-based, column by column."""

import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import RleError


def encode_rle(mask_HW: npt.NDArray[np.generic]) -> str:
    """Runs of non-zero pixels, shape (H, W), as ``start length start length …``; an empty mask gives an empty text."""
    flat = np.concatenate([[0], np.asarray(mask_HW != 0, np.int8).T.ravel(), [0]])
    edges = np.flatnonzero(np.diff(flat))
    starts, ends = edges[::2], edges[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts.tolist(), ends.tolist(), strict=True))


def decode_rle(text: str, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The mask that runs stand for, shape (height, width).

    Raises
    ------
    RleError
        If the text is not made of pairs of whole numbers, or the runs are out of order, overlap or leave the mask.
    """
    flat = np.zeros(height * width, bool)
    for start, length in parse_runs(text, height * width):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(width, height).T


def parse_runs(text: str, num_pixels: int) -> list[tuple[int, int]]:
    """Runs as pairs of 1-based start and length, checked against a mask of so many pixels.

    Raises
    ------
    RleError
        As `decode_rle`.
    """
    words = text.split()
    # Longer numbers lie outside any mask, and Python refuses to read the longest.
    if not all(word.isascii() and word.isdigit() and len(word) < 19 for word in words) or len(words) % 2:
        raise RleError(f"{_shown(text)} is not made of pairs of start and length. Write '1 5 12 3', or nothing.")
    numbers = [int(word) for word in words]
    runs = list(zip(numbers[::2], numbers[1::2], strict=True))
    end = 0
    for start, length in runs:
        if start < 1 or length < 1 or start + length - 1 > num_pixels:
            raise RleError(
                f"The run '{start} {length}' leaves the mask of {num_pixels} pixels. Starts count from 1, column by "
                "column."
            )
        if start <= end:
            raise RleError(f"The run '{start} {length}' begins before the one before it ends ({end}). Sort the runs.")
        end = start + length - 1
    return runs


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
