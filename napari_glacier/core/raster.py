"""The one door for image files: everything else takes arrays and a `GeoRef`.

Arrays are (bands, rows, columns) or, for masks, (rows, columns); row 0 is the first row of the file.
"""

import errno
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr, unescape

import numpy as np
import numpy.typing as npt
import tifffile

from napari_glacier.core.archives import file_of, span
from napari_glacier.core.arrays import is_array, read_array, read_array_header, read_mask_array
from napari_glacier.core.classes import ClassScheme, scheme_tags
from napari_glacier.core.errors import RasterError, SaveError, SchemeError
from napari_glacier.core.files import replacing, write_text_atomically
from napari_glacier.core.gdal_parts import is_jpeg2000, jpeg2000_header, read_planes
from napari_glacier.core.georef import GEO_TAGS, GeoRef
from napari_glacier.core.png import is_png, read_png, read_png_header

__all__ = [
    "RASTER_SUFFIXES",
    "GeoRef",
    "RasterInfo",
    "file_of",
    "read_description",
    "read_info",
    "read_mask_codes",
    "read_part",
    "read_raster",
    "rewrite_mask",
    "write_cog",
    "write_mask",
    "write_raster",
]

RASTER_SUFFIXES = (".tif", ".tiff")
_GDAL_METADATA, _GDAL_NODATA = 42112, 42113
# Tags that tifffile writes itself from the arguments it is given.
_MANAGED_TAGS = frozenset(
    (254, 256, 257, 258, 259, 262, 266, 270, 273, 277, 278, 279, 282, 283, 284, 296, 305, 306, 317, 320)
) | frozenset((322, 323, 324, 325, 338, 339))
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

_ENCODE_ERRORS = (ValueError, RuntimeError, TypeError, KeyError)

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
    with _opened(path) as tif:
        return _info(path, tif)


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
    with _opened(path) as tif:
        info = _info(path, tif)
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


def read_mask_codes(path: Path, number: int | None = None) -> AnyArray:
    """Codes of a mask file, shape (H, W), in the file's own type; the first plane of a coloured PNG.

    `number` is as for `read_raster`.

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
    return codes_HW


def read_description(path: Path) -> dict[str, str]:
    """GDAL metadata items of a TIFF, such as the class names and the model that `write_mask` notes."""
    with _opened(Path(path)) as tif:
        page: Any = tif.pages[0]
        text = page.tags[_GDAL_METADATA].value if _GDAL_METADATA in page.tags else ""
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    try:
        items = ElementTree.fromstring(text).iter("Item") if text else ()
    except ElementTree.ParseError:
        return {}
    return {item.get("name", ""): unescape(item.text or "") for item in items if "sample" not in item.attrib}


def write_raster(
    path: Path,
    array: AnyArray,
    georef: GeoRef | None = None,
    nodata: float | None = None,
    description: Mapping[str, str] | None = None,
) -> None:
    """Write an array of shape (H, W) or (bands, H, W) as a deflate-compressed GeoTIFF, atomically.

    Parameters
    ----------
    path : Path
    array : array of any number type
    georef : GeoRef, optional
    nodata : float, optional
        Written as GDAL's nodata value.
    description : mapping of str to str, optional
        Written as GDAL metadata items; ``band_1`` and so on are the names of the bands, too.

    Raises
    ------
    SaveError
        If the folder or disk refuses, or the name is that of a PNG; what was there before is whole.
    """
    check_writable(path)
    tags = georef.extra_tags() if georef else []
    if nodata is not None:
        tags.append((_GDAL_NODATA, "s", 0, f"{nodata:.17g}"))
    if description:
        tags.append((_GDAL_METADATA, "s", 0, _gdal_metadata(description)))
    planes = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    layout = {"photometric": "minisblack", "planarconfig": "separate" if planes.ndim == 3 else None}
    _write(Path(path), planes, tags, layout)


def write_cog(
    path: Path,
    array_CHW: AnyArray,
    georef: GeoRef | None = None,
    nodata: float | None = None,
    description: Mapping[str, str] | None = None,
) -> None:
    """Write bands as a cloud-optimised GeoTIFF (tiles, overviews, deflate), atomically; else as `write_raster`.

    For measures that people look at zoomed out and in parts, in a GIS or over a network. Overviews of integers take
    the nearest pixel, as codes have no mean.
    """
    import rasterio.shutil
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    check_writable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            plain = temporary.with_name(f"{temporary.stem}-plain.tif")
            try:
                write_raster(plain, array_CHW, georef, nodata, description)
                codes = {"overview_resampling": "nearest"} if np.issubdtype(array_CHW.dtype, np.integer) else {}
                rasterio.shutil.copy(plain, temporary, driver="COG", compress="deflate", predictor="yes", **codes)
            finally:
                plain.unlink(missing_ok=True)
    except (OSError, RasterioError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SaveError(
            f"{path} could not be written ({reason}). Free disk space or choose a folder you may write to."
        ) from error


def write_mask(
    path: Path,
    index_HW: npt.NDArray[np.uint8],
    scheme: ClassScheme,
    georef: GeoRef | None = None,
    description: Mapping[str, str] | None = None,
) -> None:
    """Write a class mask as uint8 codes of the scheme, with a colour table and the class names, atomically.

    The names stand in the file's GDAL metadata and, as categories that QGIS shows in its legend, in
    ``<name>.aux.xml`` beside it.

    Raises
    ------
    SaveError
        If the folder or disk refuses, or the name is that of a PNG; what was there before is whole.
    """
    check_writable(path)
    colormap = np.zeros((3, 256), np.uint16)
    for code, color in zip(scheme.codes, scheme.colors, strict=True):
        rgb = [0, 0, 0] if code == 0 else [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        colormap[:, code] = [channel * 257 for channel in rgb]
    names = scheme_tags(scheme)
    tags = georef.extra_tags() if georef else []
    tags.append((_GDAL_METADATA, "s", 0, _gdal_metadata(names | dict(description or {}))))
    _write(Path(path), scheme.encode(index_HW), tags, {"photometric": "palette", "colormap": colormap})
    by_code = dict(zip(scheme.codes, scheme.class_names, strict=True))
    categories = "".join(f"<Category>{escape(by_code.get(code, ''))}</Category>" for code in range(max(by_code) + 1))
    sidecar = Path(f"{path}.aux.xml")
    try:
        write_text_atomically(
            sidecar,
            f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{categories}</CategoryNames>'
            "</PAMRasterBand></PAMDataset>\n",
        )
    except OSError as error:
        raise SaveError(f"The class names beside {path} could not be written ({error.strerror}).") from error


def check_writable(path: Path) -> None:
    """Refuse to write over a file of a kind that is only read, with `SaveError`."""
    kind = "PNG" if is_png(Path(path)) else "NumPy file" if is_array(Path(path)) else None
    if kind is not None:
        raise SaveError(
            f"{path} is a {kind}, and only TIFFs are written; nothing was changed. "
            f"Convert it to a TIFF of the same name and take the {kind} away, then try again."
        )


def rewrite_mask(
    path: Path, index_HW: npt.NDArray[np.uint8], changed_HW: npt.NDArray[np.bool_], scheme: ClassScheme
) -> None:
    """Change pixels of an existing mask file and nothing else, atomically.

    The file keeps its type, compression, codes and tags; pixels outside `changed_HW` keep their very values.
    Overviews are dropped, since they would show the old labels.

    Raises
    ------
    SaveError
        If the folder or disk refuses, or the file is a PNG; the old file is whole.
    RasterError
        If the old file cannot be read.
    """
    path = Path(path)
    check_writable(path)
    with _opened(path) as tif:
        _info(path, tif)
        page: Any = tif.pages[0]
        pixels = page.asarray()
        if pixels.shape != index_HW.shape:
            raise SaveError(
                f"{path} holds {pixels.shape[:2]} pixels in {pixels.ndim} dimensions, the labels {index_HW.shape}. "
                "A mask has one band of the tile's size; replace the file by such a mask."
            )
        tags = [
            (tag.code, int(tag.dtype), tag.count, _storable(tag.value))
            for tag in page.tags.values()
            if tag.code not in _MANAGED_TAGS
        ]
        layout = {
            "photometric": page.photometric,
            "compression": page.compression,
            "predictor": page.predictor if page.predictor != 1 else None,
            "colormap": page.colormap,
            "byteorder": tif.byteorder,
            "bigtiff": tif.is_bigtiff,
            "tile": (page.tilelength, page.tilewidth) if page.is_tiled else None,
            "rowsperstrip": None if page.is_tiled else page.rowsperstrip,
            "description": _storable(page.description) or None,
            "software": _storable(page.software) or False,
        }
    pixels[changed_HW] = scheme.encode_like(index_HW, pixels)[changed_HW]
    _write(path, pixels, tags, layout)


def _write(path: Path, array: AnyArray, tags: list[Any], layout: Mapping[str, Any]) -> None:
    layout = {"software": "napari-glacier", **layout}
    if "compression" not in layout:
        layout["compression"] = "deflate"
        layout["predictor"] = {"f": 3, "i": 2, "u": 2}.get(array.dtype.kind)
        if "colormap" in layout:
            layout["predictor"] = None
    container = {
        "byteorder": layout.pop("byteorder", None),
        "bigtiff": layout.pop("bigtiff", array.nbytes > 3 * 2**30),
    }
    layout = {key: value for key, value in layout.items() if value is not None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            try:
                _encode(temporary, array, tags, layout, container)
            except _ENCODE_ERRORS:
                # A compression that can be read here but not written (fax, for one): the pixels are what counts.
                plain = {key: value for key, value in layout.items() if key != "predictor"}
                _encode(temporary, array, tags, {**plain, "compression": "deflate"}, container)
    except _ENCODE_ERRORS as error:
        raise SaveError(
            f"{path} could not be encoded ({type(error).__name__}: {error}); what was there before is unchanged. "
            "Re-export the mask as a plain 8-bit GeoTIFF."
        ) from error
    except OSError as error:
        raise SaveError(
            f"{path} could not be written ({error.strerror or error}); what was there before is unchanged. "
            f"{_mend_of(error)}"
        ) from error


def _mend_of(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}:
        return "Free disk space, then try again."
    return "Make the file and its folder writable for you, then try again."


def _encode(path: Path, array: AnyArray, tags: list[Any], layout: Mapping[str, Any], container: Any) -> None:
    with tifffile.TiffWriter(path, **container) as writer:
        writer.write(array, extratags=tags, metadata=None, **layout)


def _info(path: Path, tif: tifffile.TiffFile) -> RasterInfo:
    series = tif.series[0]
    page: Any = series.pages[0]
    axes, shape = series.axes, series.shape
    others = [n for axis, n in zip(axes, shape, strict=True) if axis not in "YX"]
    if "Y" not in axes or "X" not in axes or len([n for n in others if n > 1]) > 1:
        raise RasterError(f"{path} has the axes {axes} {shape}; an image of rows, columns and bands is needed.")
    _check_complete(path, tif)
    _check_size(path, tif.filehandle.size, int(np.prod(shape, dtype=object)) * np.dtype(series.dtype).itemsize)
    tags = {tag.code: tag.value for tag in page.tags.values() if tag.code in (*GEO_TAGS, _GDAL_NODATA)}
    text = str(tags.get(_GDAL_NODATA, "")).strip().strip("\0")
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
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
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


def _gdal_metadata(items: Mapping[str, str]) -> bytes:
    # GDAL unescapes a value once as XML and once more as its own text.
    inner = "".join(f"<Item name={quoteattr(key)}>{escape(escape(value))}</Item>" for key, value in items.items())
    for key, value in items.items():
        if (band := re.fullmatch(r"band_([1-9]\d*)", key)) is not None:
            place = f'sample="{int(band[1]) - 1}" role="description"'
            inner += f'<Item name="DESCRIPTION" {place}>{escape(escape(value))}</Item>'
    return f"<GDALMetadata>{inner}</GDALMetadata>".encode()


def _storable(value: Any) -> Any:
    """Text as UTF-8 bytes where it is more than ASCII, which is what GDAL reads; anything else as it is."""
    return value.encode() if isinstance(value, str) and not value.isascii() else value
