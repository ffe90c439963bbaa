"""Reading image files: TIFFs by tifffile, JPEG 2000 by GDAL, PNGs and NumPy files by their own modules.

Arrays are (bands, rows, columns) or, for masks, (rows, columns); row 0 is the first row of the file.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

import numpy as np
import numpy.typing as npt
import tifffile

from napari_glacier.core.errors import RasterError, SaveError, SchemeError
from napari_glacier.core.raster.archives import span
from napari_glacier.core.raster.arrays import is_array, read_array, read_array_header, read_mask_array
from napari_glacier.core.raster.gdal_parts import is_jpeg2000, jpeg2000_header, read_planes
from napari_glacier.core.raster.georef import GEO_TAGS, GeoRef
from napari_glacier.core.raster.png import is_png, read_png, read_png_header

RASTER_SUFFIXES = (".tif", ".tiff")
GDAL_METADATA, GDAL_NODATA = 42112, 42113
# Masks of indices have no larger ones.
_MOST_INDEX = 3
# What a damaged or foreign file makes tifffile and its codecs raise (ValueError and KeyError included).
_READ_ERRORS = (
    tifffile.TiffFileError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    struct.error,
    RuntimeError,
    OSError,
    MemoryError,
)

# No codec packs pictures closer than this (deflate reaches 1030); less than so much memory is not worth a question.
_HIGHEST_RATIO, _SMALL_BYTES = 5_000, 1 << 28


AnyArray = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What a raster file holds, known without reading its pixels.

    `blocked` says that it is stored in blocks, not in rows; `overviews` how many reduced copies it has.
    """

    path: Path
    height: int
    width: int
    count: int
    dtype: np.dtype[Any]
    nodata: float | None
    georef: GeoRef | None
    blocked: bool = False
    overviews: int = 0


def read_info(path: Path) -> RasterInfo:
    """Size, number of bands, type, nodata value and georeference; a PNG or a NumPy file has no last two.

    A TIFF may lie in a tar archive: ``scene.tar/scene_B2.TIF``.

    Raises
    ------
    RasterError
        If the file is missing, no TIFF (no PNG, by its name), cut short, or not an image of rows, columns and bands.
    """
    path = Path(path)
    if is_png(path):
        header = read_png_header(path)
        _check_size(path, path.stat().st_size, header.height * header.width * header.count * header.dtype.itemsize)
        return RasterInfo(path, header.height, header.width, header.count, header.dtype, None, None)
    if is_array(path):
        tiles = read_array_header(path)
        return RasterInfo(path, tiles.height, tiles.width, tiles.count, tiles.dtype, None, None)
    if is_jpeg2000(path):
        plain = jpeg2000_header(path)
        _check_size(path, path.stat().st_size, int(np.prod(plain.size)) * plain.count * plain.dtype.itemsize)
        return RasterInfo(
            path, *plain.size, plain.count, plain.dtype, plain.nodata, plain.georef, True, plain.overviews
        )
    with opened_tiff(path) as tif:
        return info_of_tiff(path, tif)


def read_mask_info(path: Path, number: int | None = None) -> RasterInfo:
    """As `read_info`, of a mask: the codes of a NumPy file have no axis of bands; `number` is as for `read_raster`."""
    if not is_array(path):
        return read_info(path)
    codes_HW = read_mask_array(path, number)
    return RasterInfo(path, codes_HW.shape[0], codes_HW.shape[1], 1, codes_HW.dtype, None, None)


def read_raster(path: Path, number: int | None = None) -> AnyArray:
    """Pixels of a TIFF, PNG or NumPy file, shape (bands, H, W), in the file's own type; alpha is dropped.

    `number` says which tile of a NumPy file that is a stack.

    Raises
    ------
    RasterError
        As `read_info`, and if the pixels cannot be decoded.
    """
    path = Path(path)
    if is_png(path):
        read_info(path)
        return read_png(path)
    if is_array(path):
        return read_array(path, number)
    if is_jpeg2000(path):
        return read_planes(path)
    with opened_tiff(path) as tif:
        info = info_of_tiff(path, tif)
        series = tif.series[0]
        array = series.asarray()
        axes = series.axes
        order = [axes.index("Y"), axes.index("X")]
        array = np.moveaxis(array, order, (-2, -1))
        return array.reshape(info.count, info.height, info.width)


def read_part(
    path: Path,
    rows: tuple[int, int],
    cols: tuple[int, int] | None = None,
    shape: tuple[int, int] | None = None,
    number: int | None = None,
) -> AnyArray:
    """Part of a raster, shape (bands, h, w), in the file's own type; what lies elsewhere is not decoded.

    Parameters
    ----------
    path : Path
    rows, cols : pairs of int
        First, and the one after the last; all columns by default.
    shape : pair of int, optional
        Rows and columns to give instead: of every group of pixels one is taken, from the file's overviews where it
        has any.
    number : int, optional
        As for `read_raster`.

    Raises
    ------
    RasterError
        As `read_raster`.
    """
    if is_png(path) or is_array(path):
        part = read_raster(path, number)[:, slice(*rows), slice(*cols) if cols else slice(None)]
        if shape is None:
            return part
        picked = [
            ((np.arange(n) + 0.5) * length / n).astype(int) for n, length in zip(shape, part.shape[1:], strict=True)
        ]
        return part[:, picked[0][:, None], picked[1]]
    return read_planes(path, rows, cols, shape)


def read_mask_codes(path: Path, number: int | None = None, codes: Sequence[int] = ()) -> AnyArray:
    """Codes of a mask file, shape (H, W), in the file's own type; the first plane of a coloured PNG.

    `number` is as for `read_raster`. Where the file calls a value nodata that stands beside codes of 0 to 3, as 255
    does in the masks of many programs, these pixels are 0; `codes`, those of the scheme, tell where 255 is a class.

    Raises
    ------
    SchemeError
        If a TIFF has more than one band, or a PNG a colour table.
    RasterError
        As `read_raster`.
    """
    if is_array(path):
        return read_mask_array(path, number)
    if is_png(path) and read_png_header(path).has_palette:
        raise SchemeError(f"The mask {path} has a colour table. Export it as a grey PNG, one value for each class.")
    raster = read_raster(path)
    if raster.shape[0] != 1 and not is_png(path):
        raise SchemeError(f"The mask {path} has {raster.shape[0]} bands; one band of class codes is needed.")
    codes_HW: AnyArray = raster[0]
    return codes_HW if is_png(path) else without_nodata(codes_HW, read_info(path).nodata, codes)


def read_mask_validity(path: Path) -> npt.NDArray[np.bool_] | None:
    """Which pixels of a mask carry data, bool (H, W); None where its file does not tell.

    It does by GDAL's mask band inside it, as the masks that `predict` writes have.

    Raises
    ------
    RasterError
        As `read_raster`.
    """
    if is_png(path) or is_array(path):
        return None
    with opened_tiff(path) as tif:
        return mask_band(tif)


def mask_band(tif: tifffile.TiffFile) -> npt.NDArray[np.bool_] | None:
    """GDAL's mask band inside an open TIFF, of the size of its pixels, bool (H, W); None where it has none."""
    first: Any = tif.pages[0]
    for page in tif.pages[1:]:
        if isinstance(page, tifffile.TiffPage) and page.is_mask and page.shape == first.shape[:2]:
            return np.asarray(page.asarray() != 0)
    return None


def without_nodata(codes_HW: AnyArray, nodata: float | None, codes: Sequence[int] = ()) -> AnyArray:
    """Codes of a mask with 0 for what its file calls nodata; the same array where that is none, or a code of others.

    Of a scheme with codes like 85 and 170, 255 is a class also in a file that holds no other one.
    """
    if nodata is None or not nodata > _MOST_INDEX:
        return codes_HW
    if nodata in codes and any(_MOST_INDEX < code != nodata for code in codes):
        return codes_HW
    gone_HW = codes_HW == nodata
    if not gone_HW.any() or (codes_HW[~gone_HW] > _MOST_INDEX).any():
        return codes_HW
    return np.where(gone_HW, codes_HW.dtype.type(0), codes_HW)


def read_description(path: Path) -> dict[str, str]:
    """GDAL metadata items of a TIFF, such as the class names and the model that `write_mask` notes; else empty."""
    if is_png(path) or is_array(path):
        return {}
    with opened_tiff(Path(path)) as tif:
        page: Any = tif.pages[0]
        text = page.tags[GDAL_METADATA].value if GDAL_METADATA in page.tags else ""
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    try:
        items = ElementTree.fromstring(text).iter("Item") if text else ()
    except ElementTree.ParseError:
        return {}
    return {item.get("name", ""): unescape(item.text or "") for item in items if "sample" not in item.attrib}


def info_of_tiff(path: Path, tif: tifffile.TiffFile) -> RasterInfo:
    """What an open TIFF holds. RasterError if it is no image, cut short, or its header is damaged."""
    series = tif.series[0]
    page: Any = series.pages[0]
    axes, shape = series.axes, series.shape
    others = [n for axis, n in zip(axes, shape, strict=True) if axis not in "YX"]
    if "Y" not in axes or "X" not in axes or len([n for n in others if n > 1]) > 1:
        raise RasterError(f"{path} has the axes {axes} {shape}; an image of rows, columns and bands is needed.")
    _check_complete(path, tif)
    _check_size(path, tif.filehandle.size, int(np.prod(shape, dtype=object)) * np.dtype(series.dtype).itemsize)
    tags = {tag.code: tag.value for tag in page.tags.values() if tag.code in (*GEO_TAGS, GDAL_NODATA)}
    text = str(tags.get(GDAL_NODATA, "")).strip().strip("\0")
    return RasterInfo(
        path=path,
        height=shape[axes.index("Y")],
        width=shape[axes.index("X")],
        count=int(np.prod(others)) if others else 1,
        dtype=np.dtype(series.dtype),
        nodata=float(text) if text else None,
        georef=GeoRef.from_tags(tags),
        blocked=bool(page.is_tiled),
        overviews=len(series.levels) - 1,
    )


def _check_size(path: Path, size: int, num_bytes: int) -> None:
    """Refuse a header that asks for far more memory than a file of `size` bytes can have pixels for."""
    if num_bytes > max(_SMALL_BYTES, _HIGHEST_RATIO * size):
        raise RasterError(
            f"{path} says that it holds {num_bytes:,} bytes of pixels, and has {size:,} bytes: its header is damaged. "
            "Copy, download or export it again."
        )


def _check_complete(path: Path, tif: tifffile.TiffFile) -> None:
    """A file cut short still opens; its last strips lie beyond its end."""
    size = tif.filehandle.size
    for page in tif.series[0].pages:
        if page is None:
            continue
        end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
        if end > size:
            raise RasterError(
                f"{path} is cut short: it has {size} bytes, its pixels need {end}. Copy or download it again."
            )


@contextmanager
def opened_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """An open TIFF, also one within a tar file; what goes wrong with it becomes a `RasterError` that says the mend."""
    member = span(path)
    if member is None and not path.is_file():
        raise RasterError(f"{path} does not exist or is not a file. Give the path of a TIFF.")
    place = {} if member is None else {"offset": member[1], "size": member[2]}
    try:
        with tifffile.TiffFile(path if member is None else member[0], **place) as tif:  # type: ignore[arg-type]
            yield tif
    except (RasterError, SaveError):
        raise
    except tifffile.TiffFileError as error:
        raise RasterError(
            f"{path} is not a TIFF image ({error}). Re-export it as GeoTIFF, or remove it from the dataset."
        ) from error
    except PermissionError as error:
        raise RasterError(f"{path} may not be read ({error.strerror}). Change its permissions.") from error
    except _READ_ERRORS as error:
        raise RasterError(
            f"{path} is damaged and cannot be decoded ({type(error).__name__}: {error}). "
            "Copy, download or export it again."
        ) from error
