"""What a bundle calls of libraries that it may not import: OpenCV, SciPy's ndimage and imagecodecs.

`write_bundle` turns the imports of these libraries in the code it copies into imports of this file, which needs
numpy, tifffile and Pillow (required by segmentation-models-pytorch) alone. The originals are faster, and the tests'
oracle.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_glacier.core.errors import ConfigError

AnyArray = npt.NDArray[Any]

BORDER_CONSTANT = 0
_LZW_CLEAR, _LZW_END = 256, 257


class PngError(RuntimeError):
    """A PNG that cannot be decoded."""


def boxFilter(  # noqa: N802 (OpenCV's name)
    values_HW: AnyArray, depth: int, size: tuple[int, int], *, anchor: tuple[int, int], normalize: bool, borderType: int
) -> AnyArray:
    """Sums over the window of `size` (columns, rows) that begins at each pixel, with zeros past the border.

    Exact for whole numbers below 2^53; of `cv2.boxFilter` only what the textures ask for.
    """
    assert (depth, anchor, normalize, borderType) == (-1, (0, 0), False, BORDER_CONSTANT)
    cols, rows = size
    height, width = values_HW.shape
    total_HW = np.zeros((height + rows, width + cols))
    total_HW[1 : height + 1, 1 : width + 1] = values_HW
    total_HW = total_HW.cumsum(0).cumsum(1)
    first, last = slice(0, height), slice(rows, rows + height)
    left, right = slice(0, width), slice(cols, cols + width)
    sums_HW: AnyArray = total_HW[last, right] - total_HW[first, right] - total_HW[last, left] + total_HW[first, left]
    return np.asarray(sums_HW, values_HW.dtype)


def __getattr__(name: str) -> Callable[..., None]:
    """Whatever else the copied code imports by name: there until it is called, as a bundle never should."""
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*arguments: object, **options: object) -> None:
        raise ConfigError(f"{name} needs a library that a bundle has not. Use napari-glacier itself for this.")

    return absent


def png_decode(data: bytes) -> AnyArray:
    """Pixels of a PNG, (H, W) or (H, W, planes)."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        usual = "RGBA" if "transparency" in picture.info else "RGB"
        pixels = np.asarray(picture.convert(usual) if picture.mode == "P" else picture)
    return pixels.astype(np.uint16) if pixels.dtype == np.int32 else pixels.astype(pixels.dtype.newbyteorder("="))


def lzw_decode(data: bytes, out: Any = None) -> bytes:
    """Decode a strip of a TIFF compressed by LZW (TIFF 6.0, section 13).

    Parameters
    ----------
    data : bytes
    out : object, optional
        Size or buffer that tifffile offers; not needed.
    """
    data = bytes(data)
    if data[:1] == b"\0" and len(data) > 1 and data[1] & 1:
        raise ValueError("LZW of the kind before TIFF 6.0")
    usual = [bytes([value]) for value in range(256)] + [b"", b""]
    table, width, before = list(usual), 9, b""
    decoded = []
    buffer = num_bits = 0
    for byte in data:
        buffer, num_bits = (buffer << 8) | byte, num_bits + 8
        if num_bits < width:
            continue
        num_bits -= width
        code, buffer = buffer >> num_bits, buffer & ((1 << num_bits) - 1)
        if code == _LZW_END:
            break
        if code == _LZW_CLEAR:
            table, width, before = list(usual), 9, b""
            continue
        if code > len(table) or (code == len(table) and not before):
            raise ValueError("damaged LZW data")
        entry = table[code] if code < len(table) else before + before[:1]
        decoded.append(entry)
        if before:
            table.append(before + entry[:1])
        before = entry
        # A code longer one entry early, as TIFF has it.
        width = 12 if len(table) >= 2047 else 11 if len(table) >= 1023 else 10 if len(table) >= 511 else 9
    return b"".join(decoded)


def floatpred_decode(data: AnyArray, axis: int = -1, out: Any = None) -> AnyArray:
    """Undo the floating point predictor of TIFF (Adobe Photoshop TIFF technical note 3) along the columns.

    Parameters
    ----------
    data : float array, shape (…, columns, samples) with axis -2
    axis : int
    out : object, optional
        Buffer that tifffile offers; not needed.
    """
    assert axis == -2
    cols, samples = data.shape[-2:]
    size = data.dtype.itemsize
    raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1, cols * size, samples)
    planes = raw.cumsum(axis=1, dtype=np.uint8).reshape(-1, size, cols * samples)
    # Most significant bytes first.
    values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(data.dtype.newbyteorder(">"))
    return values.astype(data.dtype).reshape(data.shape)


def equip_tifffile() -> None:
    """Give tifffile the decoders that it lacks where imagecodecs is not installed."""
    codecs = getattr(tifffile.tifffile, "imagecodecs", None)
    for decode in (lzw_decode, floatpred_decode):
        if codecs is not None and not hasattr(codecs, decode.__name__):
            setattr(codecs, decode.__name__, decode)
