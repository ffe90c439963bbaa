"""Where one band is read."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BandSource:
    """Where a band of a tile is read: a file, the position of the band in it, and its nodata value.

    Without a position it is the mean of all planes: grey from colours. A pixel of the file is `zoom` x `zoom` pixels
    of the tile.
    """

    path: Path
    index: int | None = 0
    nodata: float | None = None
    zoom: int = 1
