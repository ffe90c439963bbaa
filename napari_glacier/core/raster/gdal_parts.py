"""Parts of rasters, and JPEG 2000, by way of GDAL. Called by `raster` alone, which is the door for image files."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import RasterError
from napari_glacier.core.raster.archives import file_of, gdal_name
from napari_glacier.core.raster.georef import GeoRef

JPEG2000_SUFFIXES = (".jp2", ".j2k")

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Header:
    """What GDAL says of a file without decoding it."""

    size: tuple[int, int]
    count: int
    dtype: np.dtype[Any]
    nodata: float | None
    georef: GeoRef | None
    overviews: int


def is_jpeg2000(path: Path) -> bool:
    """Whether a path names a JPEG 2000 file."""
    return path.suffix.lower() in JPEG2000_SUFFIXES


def jpeg2000_header(path: Path) -> Header:
    """Size, type and georeference of a JPEG 2000 file.

    Raises
    ------
    RasterError
        If it cannot be opened as one.
    """
    with _opened(path) as dataset:
        georef = None
        if dataset.crs is not None and not dataset.transform.is_identity:
            epsg = dataset.crs.to_epsg()
            if epsg is not None:
                georef = GeoRef.from_epsg(epsg, tuple(dataset.transform)[:6], dataset.crs.is_geographic)
        return Header(
            (dataset.height, dataset.width),
            dataset.count,
            np.dtype(dataset.dtypes[0]),
            dataset.nodata,
            georef,
            len(dataset.overviews(1)),
        )


def read_planes(
    path: Path,
    rows: tuple[int, int] | None = None,
    cols: tuple[int, int] | None = None,
    shape: tuple[int, int] | None = None,
) -> AnyArray:
    """Planes of a file or of a part of it, shape (bands, h, w); see `raster.read_part`.

    Raises
    ------
    RasterError
        If the file is missing, or cannot be decoded.
    """
    from rasterio.windows import Window

    with _opened(path) as dataset:
        top, bottom = rows or (0, dataset.height)
        left, right = cols or (0, dataset.width)
        if not (0 <= top < bottom <= dataset.height and 0 <= left < right <= dataset.width):
            raise RasterError(
                f"{path} is {dataset.height} x {dataset.width}; it has no rows {top} to {bottom} and columns {left} "
                f"to {right}. Was it replaced while it was open? Open it again."
            )
        window = Window(left, top, right - left, bottom - top)
        size = shape or (bottom - top, right - left)
        planes: AnyArray = dataset.read(window=window, out_shape=(dataset.count, *size))
        if dataset.count == 1 and dataset.subdatasets:
            planes = np.concatenate([planes, *_further_pages(dataset, window, size)])
        return planes


def _further_pages(dataset: Any, window: Any, size: tuple[int, int]) -> Iterator[AnyArray]:
    """The pages after the first that are bands of their own, as tifffile writes an array of several planes."""
    import rasterio

    for name in dataset.subdatasets[1:]:
        with rasterio.open(name) as page:
            if page.shape == dataset.shape:
                yield page.read(window=window, out_shape=(page.count, *size))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # 0.2 s to import, and only large scenes and JPEG 2000 are read this way.
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    if not file_of(path).is_file():
        raise RasterError(f"{path} does not exist or is not a file. Give the path of an image.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(gdal_name(path)) as dataset:
                yield dataset
    except (RasterioError, UnicodeError) as error:
        raise RasterError(
            f"{path} is damaged and cannot be decoded ({error}). Copy, download or export it again."
        ) from error
