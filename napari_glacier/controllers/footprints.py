"""Where the tiles of a dataset lie beside each other, for a small map. No Qt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import GlacierError
from napari_glacier.core.raster.georef import GeoRef

# Of Okabe and Ito (2008): told apart by colour-blind people, on dark and on light.
REVIEW_COLORS = {
    "todo": "#8c8c8c",
    "in progress": "#56b4e9",
    "edited": "#e69f00",
    "approved": "#009e73",
    "rejected": "#d55e00",
}
_GAP = 0.12


@dataclass(frozen=True, slots=True, eq=False)
class Footprints:
    """Boxes of tiles.

    Attributes
    ----------
    tile_ids : tuple of str
    boxes_N4 : float64 array
        Left, top, right and bottom of each; down is positive, the first is at (0, 0) or beyond.
    note : str
        What a person should know of the map; empty where it is what it seems to be.
    """

    tile_ids: tuple[str, ...]
    boxes_N4: npt.NDArray[np.float64]
    note: str = ""

    def at(self, x: float, y: float) -> str | None:
        """The tile at a point; of several the smallest."""
        left, top, right, bottom = self.boxes_N4.T
        hit = np.flatnonzero((left <= x) & (x <= right) & (top <= y) & (y <= bottom))
        if not hit.size:
            return None
        sizes = (right - left)[hit] * (bottom - top)[hit]
        return self.tile_ids[int(hit[np.argmin(sizes)])]

    def beside(self, tile_id: str, across: int, down: int) -> str | None:
        """The nearest tile to the right (`across` 1), to the left (-1), below (`down` 1) or above (-1), if any."""
        centres_N2 = (self.boxes_N4[:, :2] + self.boxes_N4[:, 2:]) / 2
        away_N2 = centres_N2 - centres_N2[self.tile_ids.index(tile_id)]
        ahead, aside = away_N2 @ (across, down), np.abs(away_N2 @ (down, across))
        there = np.flatnonzero((ahead > 0) & (aside <= ahead))
        if not there.size:
            return None
        return self.tile_ids[int(there[np.argmin(np.hypot(ahead, aside)[there])])]


def footprints(tiles: Sequence[Tile]) -> Footprints:
    """Boxes of tiles in their common system, else in degrees; tiles without a place in rows, as a stack is."""
    placed = [tile for tile in tiles if tile.georef is not None]
    if not placed:
        return _in_rows(tiles, "The tiles have no place: in rows, as they follow each other.")
    missing = len(tiles) - len(placed)
    note = f"{missing} of {len(tiles)} tiles have no place and are not on the map." if missing else ""
    corners_N42 = np.array([_corners(tile.georef, tile.height, tile.width) for tile in placed if tile.georef])
    keys = [tile.georef.crs_key for tile in placed if tile.georef]
    if len(set(keys)) > 1:
        try:
            corners_N42 = _in_degrees(placed, corners_N42)
        except GlacierError:
            return _in_rows(tiles, "The tiles' systems are not known: in rows, as they follow each other.")
        note = f"{note} Several systems: drawn by longitude and latitude.".strip()
    x, y = corners_N42[..., 0], -corners_N42[..., 1]
    if len(set(keys)) > 1 or (placed[0].georef is not None and placed[0].georef.is_geographic):
        # A degree of longitude is shorter than one of latitude.
        x = x * np.cos(np.radians(float(y.mean())))
    boxes_N4 = np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)
    boxes_N4 -= np.tile(boxes_N4[:, :2].min(axis=0), 2)
    return Footprints(tuple(tile.id for tile in placed), boxes_N4, note)


def _corners(georef: GeoRef, height: int, width: int) -> list[tuple[float, float]]:
    a, b, c, d, e, f = georef.transform
    return [(a * col + b * row + c, d * col + e * row + f) for row in (0, height) for col in (0, width)]


def _in_degrees(tiles: Sequence[Tile], corners_N42: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from napari_glacier.core.raster.projection import crs_of, to_longitude_latitude

    found = np.empty_like(corners_N42)
    keys = [tile.georef.crs_key if tile.georef else None for tile in tiles]
    for key in set(keys):
        where = [number for number, own in enumerate(keys) if own == key]
        georef = tiles[where[0]].georef
        assert georef is not None
        transformer = to_longitude_latitude(crs_of(georef, f"tile {tiles[where[0]].id}"))
        found[where] = np.stack(transformer.transform(corners_N42[where, :, 0], corners_N42[where, :, 1]), axis=-1)
    return found


def _in_rows(tiles: Sequence[Tile], note: str) -> Footprints:
    columns = max(int(np.ceil(len(tiles) ** 0.5 * 1.4)), 1)
    number = np.arange(len(tiles))
    left, top = (number % columns).astype(float), (number // columns).astype(float)
    side = 1 - _GAP
    return Footprints(tuple(tile.id for tile in tiles), np.stack([left, top, left + side, top + side], axis=1), note)
