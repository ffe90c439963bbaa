"""A tile: its identity, its size and place, the files of its bands, and its mask."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_glacier.core.bands import CANONICAL_BANDS, PICTURE_BANDS
from napari_glacier.core.data.band_source import BandSource
from napari_glacier.core.raster import RASTER_SUFFIXES
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.scenes.products import Product

__all__ = ["BandSource", "Placement", "Tile", "band_size_message", "raster_name"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: its identity, size and place, the files of its bands, and its mask.

    `bands` come in the order of `ALL_BANDS`; at least one of them is spectral, or of a picture.
    `new_mask_path` is where a mask goes that does not exist yet: the label folder, under Band1's name, as a TIFF.
    `number` is its position where its files are stacks of tiles.

    `product` is there for scenes as their makers deliver them. `blocked` says that the files are stored in blocks,
    so that a part costs no more than its own pixels; else whole rows are read. `reduced` says that they hold reduced
    copies of themselves, so that a view from afar costs little.

    `parts` are the scenes that it was joined of, the one to be taken first in front, and `rule` says how (see
    `joining`); its `bands` are then those of its first part, for their names and types alone.
    """

    id: str
    split: str
    bands: Mapping[str, BandSource]
    height: int
    width: int
    georef: GeoRef | None
    mask_path: Path | None
    new_mask_path: Path
    number: int | None = None
    product: Product | None = None
    blocked: bool = False
    reduced: bool = False
    parts: tuple["Placement", ...] = ()
    rule: str = ""

    @property
    def name(self) -> str:
        """File name of the first band, which predictions take; of a tile of many files that of its own new mask."""
        own = self.number is not None or self.parts
        return self.new_mask_path.name if own else next(iter(self.bands.values())).path.name

    @property
    def is_picture(self) -> bool:
        """Whether the tile is a picture (grey or colours), not a satellite's bands."""
        return not self.bands.keys().isdisjoint(PICTURE_BANDS)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that decide its pixels, and which of them are nodata."""
        if self.parts:
            return tuple(dict.fromkeys(path for part in self.parts for path in part.tile.files))
        quality = self.product.quality if self.product is not None else None
        fill = [quality.pixel] if quality is not None and quality.pixel is not None else []
        return tuple(dict.fromkeys(source.path for source in (*self.bands.values(), *fill)))

    @property
    def usual_bands(self) -> tuple[str, ...]:
        """The bands that a tile of this kind should have, and that say which of its pixels are nodata."""
        return PICTURE_BANDS if self.is_picture else CANONICAL_BANDS

    @property
    def distinct_bands(self) -> tuple[str, ...]:
        """Its bands without those that are another one again: a picture of one plane is grey, and all colours."""
        first_of: dict[BandSource, str] = {}
        for band, source in self.bands.items():
            first_of.setdefault(source, band)
        return tuple(first_of.values())


@dataclass(frozen=True, slots=True)
class Placement:
    """A tile and the position of its first pixel in the scene."""

    tile: Tile
    row: int
    col: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the scene that the tile covers."""
        return slice(self.row, self.row + self.tile.height), slice(self.col, self.col + self.tile.width)


def band_size_message(tile_id: str, band: str, size: tuple[int, ...], usual: tuple[int, int]) -> str:
    """Why a band of another size cannot be used, and the mend."""
    return (
        f"Band {band} of tile {tile_id} is {size[0]} x {size[1]}, the other bands are {usual[0]} x {usual[1]}. "
        f"Re-export {band} on the same grid, or remove the tile from the dataset."
    )


def raster_name(file_name: str) -> str:
    """Name of the mask of a tile whose first band has this name: the same, with the ending of a TIFF for pictures."""
    path = Path(file_name)
    return file_name if path.suffix.lower() in RASTER_SUFFIXES else f"{path.stem}.tif"
