"""numpy's index forms, brought down to two: a box of slices, or the coordinates of points."""

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

Box = tuple[slice, ...]
Points = tuple[npt.NDArray[np.intp], ...]


def as_box(key: Any, shape: tuple[int, ...]) -> tuple[Box, tuple[int, ...]] | None:
    """A basic index (integers, slices, ellipsis) as one slice an axis.

    Returns
    -------
    (box, dropped axes) or None
        Axes indexed by an integer keep length 1 in the box and are missing from what numpy would return;
        None where the index is an array or a boolean.

    Raises
    ------
    IndexError
        If there are more indices than axes, or an integer lies outside.
    """
    entries = list(key) if isinstance(key, tuple) else [key]
    if any(entry is None or isinstance(entry, (bool, np.bool_, np.ndarray, list, tuple)) for entry in entries):
        return None
    num_ellipses = sum(entry is Ellipsis for entry in entries)
    num_missing = len(shape) - (len(entries) - num_ellipses)
    if num_missing < 0 or num_ellipses > 1:
        raise IndexError(f"The index {key} does not fit an array of shape {shape}.")
    at = entries.index(Ellipsis) if num_ellipses else len(entries)
    entries[at : at + num_ellipses] = [slice(None)] * num_missing
    box, dropped = [], []
    for axis, (entry, length) in enumerate(zip(entries, shape, strict=True)):
        if isinstance(entry, slice):
            box.append(entry)
            continue
        try:
            number = operator.index(entry)
        except TypeError:
            return None
        if not -length <= number < length:
            raise IndexError(f"Index {number} is outside axis {axis} of length {length}.")
        box.append(slice(number % length, number % length + 1))
        dropped.append(axis)
    return tuple(box), tuple(dropped)


def as_points(key: Any, shape: tuple[int, ...]) -> Points:
    """Coordinates of what any index selects, one array an axis, by numpy's own rules (nothing is allocated
    but the result)."""
    coordinates = []
    for axis, length in enumerate(shape):
        grid = np.arange(length).reshape([-1 if k == axis else 1 for k in range(len(shape))])
        coordinates.append(np.asarray(np.broadcast_to(grid, shape)[key]))
    return tuple(coordinates)


def box_ranges(box: Box, shape: tuple[int, ...]) -> tuple[range, ...]:
    """The positions that a box selects on each axis."""
    return tuple(range(*entry.indices(length)) for entry, length in zip(box, shape, strict=True))


def extent(selected: npt.NDArray[np.bool_], ranges: tuple[range, ...]) -> tuple[range, ...]:
    """Smallest box of an array around the True elements of a selection, whose axes lie at `ranges`.

    At least one element is True.
    """
    found = []
    for axis, positions in enumerate(ranges):
        others = tuple(k for k in range(selected.ndim) if k != axis)
        hits = np.flatnonzero(selected.any(axis=others))
        ends = positions[int(hits[0])], positions[int(hits[-1])]
        found.append(range(min(ends), max(ends) + 1))
    return tuple(found)
