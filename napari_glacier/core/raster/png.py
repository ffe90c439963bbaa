"""PNG pictures: what their header says, and their pixels without transparency."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import RasterError

PNG_SUFFIXES = (".png",)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour types of the PNG specification (ISO/IEC 15948, 11.2.2): planes without alpha.
_PLANES = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
_PALETTE = 3


@dataclass(frozen=True, slots=True)
class PngHeader:
    """Size, planes without alpha, type of the pixels, and whether they go through a colour table."""

    height: int
    width: int
    count: int
    dtype: np.dtype[Any]
    has_palette: bool


def is_png(path: Path) -> bool:
    """Whether a file's name says that it is a PNG."""
    return path.suffix.lower() in PNG_SUFFIXES


def read_png_header(path: Path) -> PngHeader:
    """What a PNG holds, without decoding its pixels; goes through its chunks to see that it is whole.

    Raises
    ------
    RasterError
        If the file is missing, no PNG, or cut short.
    """
    try:
        with path.open("rb") as file:
            if file.read(8) != _SIGNATURE:
                raise RasterError(f"{path} is not a PNG image. Re-export it as PNG, or remove it from the dataset.")
            size = path.stat().st_size
            fields = None
            while (start := file.read(8)) and len(start) == 8:
                length, kind = struct.unpack(">I4s", start)
                if file.tell() + length + 4 > size:
                    break
                if kind == b"IHDR" and length == 13:
                    fields = struct.unpack(">IIBBBBB", file.read(13))
                    file.seek(4, 1)
                elif kind == b"IEND":
                    return _header(path, fields)
                else:
                    file.seek(length + 4, 1)
    except FileNotFoundError as error:
        raise RasterError(f"{path} does not exist or is not a file. Give the path of a PNG.") from error
    except OSError as error:
        raise RasterError(f"{path} may not be read ({error.strerror}). Change its permissions.") from error
    raise RasterError(f"{path} is cut short: the end of the picture is missing. Copy or download it again.")


def read_png(path: Path) -> npt.NDArray[Any]:
    """Pixels of a PNG, shape (1 or 3, H, W), uint8 or uint16; alpha is dropped, a palette is turned into RGB.

    Raises
    ------
    RasterError
        As `read_png_header`, and if the pixels cannot be decoded.
    """
    header = read_png_header(path)
    try:
        array = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except (imagecodecs.PngError, ValueError, RuntimeError, OSError) as error:
        raise RasterError(
            f"{path} is damaged and cannot be decoded ({type(error).__name__}: {error}). "
            "Copy, download or export it again."
        ) from error
    planes = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return planes[: header.count]


def _header(path: Path, fields: tuple[int, ...] | None) -> PngHeader:
    if fields is None or fields[3] not in _PLANES or 0 in fields[:2]:
        raise RasterError(f"{path} is damaged: its header is not that of a PNG. Copy, download or export it again.")
    width, height, bits, color_type = fields[:4]
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    return PngHeader(height, width, _PLANES[color_type], dtype, color_type == _PALETTE)
