"""A tile: its identity, its size and place, the files of its bands, and its mask."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_glacier.core.georef import GeoRef


@dataclass(frozen=True, slots=True)
class BandSource:
    """Where a band of a tile is read: a file, the position of the band in it, and its nodata value."""

    path: Path
    index: int = 0
    nodata: float | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: its identity, size and place, the files of its bands, and its mask.

    `new_mask_path` is where a mask goes that does not exist yet: the label folder, under Band1's name.
    """

    id: str
    split: str
    bands: Mapping[str, BandSource]
    height: int
    width: int
    georef: GeoRef | None
    mask_path: Path | None
    new_mask_path: Path

    @property
    def name(self) -> str:
        """File name of the first band, which predictions take."""
        return next(iter(self.bands.values())).path.name


def band_size_message(tile_id: str, band: str, size: tuple[int, ...], usual: tuple[int, int]) -> str:
    """Why a band of another size cannot be used, and the mend."""
    return (
        f"Band {band} of tile {tile_id} is {size[0]} x {size[1]}, the other bands are {usual[0]} x {usual[1]}. "
        f"Re-export {band} on the same grid, or remove the tile from the dataset."
    )
