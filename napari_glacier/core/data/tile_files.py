"""A tile made of the files of its bands, which have to fit together; on request those that do not are left out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_glacier.core.bands import ALL_BANDS, CANONICAL_BANDS
from napari_glacier.core.data.tiles import BandSource, Tile, band_size_message, raster_name
from napari_glacier.core.errors import BandError, DataError
from napari_glacier.core.raster import RasterInfo, read_info

# Reasons by file while `leaving_out_damaged`; a context's own, as several threads open data sets.
_DAMAGED: ContextVar[dict[Path, str] | None] = ContextVar("_DAMAGED", default=None)


@contextmanager
def leaving_out_damaged() -> Iterator[dict[Path, str]]:
    """Let tiles whose files are damaged or do not fit together pass, without a size, instead of refusing them all.

    Yields the reasons, by the first file of each such tile; of a scene by its folder or archive.
    """
    reasons: dict[Path, str] = {}
    token = _DAMAGED.set(reasons)
    try:
        yield reasons
    finally:
        _DAMAGED.reset(token)


def damaged_so_far() -> dict[Path, str] | None:
    """Where to note what cannot be read, and why, while `leaving_out_damaged`; else None."""
    return _DAMAGED.get()


def info_of(path: Path) -> RasterInfo:
    """What a file holds; while `leaving_out_damaged`, of a damaged one that it has no pixels."""
    damaged = _DAMAGED.get()
    if damaged is None:
        return read_info(path)
    try:
        return read_info(path)
    except DataError as error:
        damaged[path] = str(error)
        # As many bands as a file with all bands has, so that it passes for one.
        return RasterInfo(path, 0, 0, len(CANONICAL_BANDS), np.dtype(np.float32), None, None)


def make_tile(tile_id: str, split: str, bands: Mapping[str, BandSource], mask: Path | None, mask_folder: Path) -> Tile:
    """A tile of files that fit together; one without a size where they do not and may be left out."""
    damaged = _DAMAGED.get()
    if damaged is None:
        return _whole_tile(tile_id, split, bands, mask, mask_folder)
    reason = None
    try:
        tile = _whole_tile(tile_id, split, bands, mask, mask_folder)
    except DataError as error:
        reason = str(error)
        tile = Tile(tile_id, split, bands, 0, 0, None, None, mask_folder)
    # Beside a damaged file, the others seem to be of another size.
    reason = next((damaged[source.path] for source in bands.values() if source.path in damaged), reason)
    if reason is None:
        return tile
    damaged[tile.files[0]] = reason
    return replace(tile, height=0, width=0, mask_path=None)


def _whole_tile(
    tile_id: str, split: str, bands: Mapping[str, BandSource], mask: Path | None, mask_folder: Path
) -> Tile:
    infos = {path: info_of(path) for path in {source.path: None for source in bands.values()}}
    ordered = {band: replace(bands[band], nodata=infos[bands[band].path].nodata) for band in ALL_BANDS if band in bands}
    sizes = {
        band: (infos[source.path].height * source.zoom, infos[source.path].width * source.zoom)
        for band, source in ordered.items()
    }
    usual = max(set(sizes.values()), key=list(sizes.values()).count)
    for band, size in sizes.items():
        if size != usual:
            raise BandError(band_size_message(tile_id, band, size, usual))
    placed = {
        band: ref if source.zoom == 1 else ref.refined(source.zoom)
        for band, source in ordered.items()
        if (ref := infos[source.path].georef) is not None
    }
    georef = next(iter(placed.values()), None)
    for band, ref in placed.items():
        if georef is not None and not ref.same_grid(georef):
            raise BandError(
                f"Band {band} of tile {tile_id} lies elsewhere than its first band ({ref.crs_name} {ref.transform} "
                f"against {georef.crs_name} {georef.transform}). Re-export the band on the tile's grid."
            )
    name = next(iter(ordered.values())).path.name
    return Tile(
        id=tile_id,
        split=split,
        bands=ordered,
        height=usual[0],
        width=usual[1],
        georef=georef,
        mask_path=mask,
        new_mask_path=mask_folder / raster_name(name),
        blocked=all(infos[source.path].blocked for source in ordered.values()),
        reduced=all(infos[source.path].overviews > 0 for source in ordered.values()),
    )
