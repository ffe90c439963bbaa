"""Writing GeoTIFFs: rasters, masks with their legend, and masks of which some pixels changed.

Files are replaced atomically. Arrays are (bands, rows, columns) or, for masks, (rows, columns).
"""

import errno
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt
import tifffile

from napari_glacier.core.classes import ClassScheme, scheme_tags
from napari_glacier.core.errors import SaveError
from napari_glacier.core.files import replacing, write_text_atomically
from napari_glacier.core.raster.arrays import is_array
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.raster.png import is_png
from napari_glacier.core.raster.tiff_reading import (
    GDAL_METADATA,
    GDAL_NODATA,
    AnyArray,
    info_of_tiff,
    mask_band,
    opened_tiff,
    without_nodata,
)

# Tags that tifffile writes itself from the arguments it is given.
_MANAGED_TAGS = frozenset(
    (254, 256, 257, 258, 259, 262, 266, 270, 273, 277, 278, 279, 282, 283, 284, 296, 305, 306, 317, 320)
) | frozenset((322, 323, 324, 325, 338, 339))
_ENCODE_ERRORS = (ValueError, RuntimeError, TypeError, KeyError)


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
        tags.append((GDAL_NODATA, "s", 0, f"{nodata:.17g}"))
    if description:
        tags.append((GDAL_METADATA, "s", 0, _gdal_metadata(description)))
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
    *,
    valid_HW: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Write a class mask as uint8 codes of the scheme, with a colour table and the class names, atomically.

    The names stand in the file's GDAL metadata and, as categories that QGIS shows in its legend, in
    ``<name>.aux.xml`` beside it. `valid_HW` says which pixels carry data: it becomes GDAL's mask band inside the file,
    which leaves the codes as they are.

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
    tags.append((GDAL_METADATA, "s", 0, _gdal_metadata(names | dict(description or {}))))
    _write(Path(path), scheme.encode(index_HW), tags, {"photometric": "palette", "colormap": colormap}, valid_HW)
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

    The file keeps its type, compression, codes and tags; pixels outside `changed_HW` keep their very values, but for
    those that the file calls nodata: they become background, as in all masks here (see `read_mask_codes`). Where a
    class is written with that very code, the file calls nothing nodata any more. Overviews are dropped, also those
    beside the file, since they would show the old labels.

    Raises
    ------
    SaveError
        If the folder or disk refuses, or the file is a PNG; the old file is whole.
    RasterError
        If the old file cannot be read.
    """
    path = Path(path)
    check_writable(path)
    with opened_tiff(path) as tif:
        info = info_of_tiff(path, tif)
        page: Any = tif.pages[0]
        stored = page.asarray()
        pixels = without_nodata(stored, info.nodata, scheme.codes)
        if pixels.shape != index_HW.shape:
            raise SaveError(
                f"{path} holds {pixels.shape[:2]} pixels in {pixels.ndim} dimensions, the labels {index_HW.shape}. "
                "A mask has one band of the tile's size; replace the file by such a mask."
            )
        keeps_nodata = pixels is stored
        pixels[changed_HW] = scheme.encode_like(index_HW, pixels)[changed_HW]
        # A class may have been written with the code that the file calls nodata: it would be background to all readers.
        keeps_nodata &= without_nodata(pixels, info.nodata, scheme.codes) is pixels
        tags = [
            (tag.code, int(tag.dtype), tag.count, _storable(tag.value))
            for tag in page.tags.values()
            if tag.code not in _MANAGED_TAGS and (keeps_nodata or tag.code != GDAL_NODATA)
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
        valid_HW = mask_band(tif)
    _write(path, pixels, tags, layout, valid_HW)


def _write(
    path: Path,
    array: AnyArray,
    tags: list[Any],
    layout: Mapping[str, Any],
    valid_HW: npt.NDArray[np.bool_] | None = None,
) -> None:
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
                _encode(temporary, array, tags, layout, container, valid_HW=valid_HW)
            except _ENCODE_ERRORS:
                # A compression that can be read here but not written (fax, for one): the pixels are what counts.
                plain = {key: value for key, value in layout.items() if key != "predictor"}
                _encode(temporary, array, tags, {**plain, "compression": "deflate"}, container, valid_HW=valid_HW)
        # Pyramids that GIS programs put beside a file.
        path.with_name(f"{path.name}.ovr").unlink(missing_ok=True)
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


def _encode(
    path: Path,
    array: AnyArray,
    tags: list[Any],
    layout: Mapping[str, Any],
    container: Any,
    *,
    valid_HW: npt.NDArray[np.bool_] | None,
) -> None:
    with tifffile.TiffWriter(path, **container) as writer:
        writer.write(array, extratags=tags, metadata=None, **layout)
        if valid_HW is not None:
            writer.write(
                valid_HW, photometric="mask", subfiletype=4, compression="deflate", metadata=None, software=False
            )


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
