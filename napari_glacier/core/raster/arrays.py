"""NumPy files as tiles and masks: what their header says, and their pixels, mapped and not loaded.

Tiles are (H, W, C), or stacks of such, (N, H, W, C). Masks are (H, W), or stacks of such, (N, H, W); a last axis of
length 1 is passed over. Row 0 is the first row of the tile. Such files have neither nodata value nor georeference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import RasterError, SchemeError
from napari_glacier.core.files import replacing

ARRAY_SUFFIXES = (".npy",)

AnyArray = npt.NDArray[Any]

# The header is text that is parsed as Python literals: a damaged one fails in as many ways as there are.
_READ_ERRORS = (
    *(ValueError, TypeError, KeyError, EOFError, OSError, SyntaxError, TokenError),
    *(RecursionError, OverflowError, MemoryError),
)


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """Size, planes and type of the tiles of a file, and of how many it is a stack (None: it is one tile)."""

    height: int
    width: int
    count: int
    dtype: np.dtype[Any]
    num_tiles: int | None


def is_array(path: Path) -> bool:
    """Whether a file's name says that it is a NumPy file."""
    return path.suffix.lower() in ARRAY_SUFFIXES


def read_array_header(path: Path) -> ArrayHeader:
    """What a file of tiles holds, without reading its pixels.

    Raises
    ------
    RasterError
        If the file is missing, no NumPy file, cut short, or of another kind than rows, columns and planes of numbers.
    """
    array = _mapped(path)
    if array.ndim not in (3, 4):
        raise RasterError(
            f"{path} has the shape {array.shape}; a tile is (rows, columns, bands), a stack of tiles "
            "(tiles, rows, columns, bands). Save the array in this order."
        )
    height, width, count = array.shape[-3:]
    return ArrayHeader(height, width, count, array.dtype, array.shape[0] if array.ndim == 4 else None)


def read_array(path: Path, number: int | None = None) -> AnyArray:
    """Planes of a tile, shape (C, H, W), in the file's own type, read from disk as they are looked at.

    Parameters
    ----------
    path : Path
    number : int, optional
        Which tile of a stack.

    Raises
    ------
    RasterError
        As `read_array_header`, and if the file has no tile of that number.
    """
    header = read_array_header(path)
    tile_HWC = _item(path, _mapped(path), number, header.num_tiles)
    return np.moveaxis(tile_HWC, 2, 0)


def read_mask_array(path: Path, number: int | None = None) -> AnyArray:
    """Codes of a mask, shape (H, W), in the file's own type.

    Raises
    ------
    SchemeError
        If the file is not one of class codes.
    RasterError
        As `read_array`.
    """
    array = _mapped(path)
    if array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != (2 if number is None else 3):
        wanted = "(rows, columns)" if number is None else "(tiles, rows, columns)"
        raise SchemeError(
            f"The mask {path} has the shape {array.shape}; class codes of the shape {wanted} are needed. "
            "Where each class has a plane of its own, save their number (argmax) instead."
        )
    return _item(path, array, number, array.shape[0] if array.ndim == 3 else None)


def read_mask_arrays(path: Path) -> AnyArray:
    """All codes of a file, be it one mask or a stack, in any shape."""
    return _mapped(path)


def write_array(path: Path, array: AnyArray) -> None:
    """Write a NumPy file so that `path` holds the old or the new one, never a part; the same array, the same bytes."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)


def _item(path: Path, array: AnyArray, number: int | None, num_tiles: int | None) -> AnyArray:
    if num_tiles is None and number is None:
        return array
    if num_tiles is None or number is None or not 0 <= number < num_tiles:
        held = "one tile" if num_tiles is None else f"{num_tiles} tiles"
        raise RasterError(f"{path} holds {held}, and tile {number} was asked for. Save it again with its stack.")
    item: AnyArray = array[number]
    return item


def _mapped(path: Path) -> AnyArray:
    if not path.is_file():
        raise RasterError(f"{path} does not exist or is not a file. Give the path of a NumPy file.")
    try:
        array = _open_mapped(path)
    except PermissionError as error:
        raise RasterError(f"{path} may not be read ({error.strerror}). Change its permissions.") from error
    except _READ_ERRORS as error:
        raise RasterError(
            f"{path} is no NumPy file of numbers, or is cut short ({type(error).__name__}: {error}). "
            "Save it again with numpy.save, or remove it from the dataset."
        ) from error
    if array.dtype.kind not in "buif" or 0 in array.shape:
        raise RasterError(
            f"{path} holds an array of {array.dtype} and the shape {array.shape}; numbers of at least one pixel are "
            "needed. Save it again."
        )
    return array


def _open_mapped(path: Path) -> AnyArray:
    # Mapping allocates nothing, and refuses a shape that is larger than the file.
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        readers: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"version {version} of the format")
        shape, fortran, dtype = readers[version](file)
        if any(length < 0 for length in shape):
            raise ValueError(f"the shape {shape}")
        if dtype.hasobject:
            raise ValueError("Python objects, which are never loaded")
        if 0 in shape:
            return np.empty(shape, dtype)
        offset = file.tell()
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
