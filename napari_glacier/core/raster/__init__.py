"""The one door for image files: everything else takes arrays and a `GeoRef`.

Arrays are (bands, rows, columns) or, for masks, (rows, columns); row 0 is the first row of the file.
"""

from napari_glacier.core.raster.archives import file_of
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.raster.tiff_reading import (
    RASTER_SUFFIXES,
    RasterInfo,
    read_description,
    read_info,
    read_mask_codes,
    read_mask_info,
    read_mask_validity,
    read_part,
    read_raster,
)
from napari_glacier.core.raster.tiff_writing import check_writable, rewrite_mask, write_cog, write_mask, write_raster

__all__ = [
    "RASTER_SUFFIXES",
    "GeoRef",
    "RasterInfo",
    "check_writable",
    "file_of",
    "read_description",
    "read_info",
    "read_mask_codes",
    "read_mask_info",
    "read_mask_validity",
    "read_part",
    "read_raster",
    "rewrite_mask",
    "write_cog",
    "write_mask",
    "write_raster",
]
