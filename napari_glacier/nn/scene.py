"""What a predictor needs of a raster, and where bands of it are missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tiling import Window
from napari_glacier.core.wording import listed

_TILES_NAMED = 8


class Scene(Protocol):
    """What a predictor needs of a raster: a size and pixels.

    Where it is made of tiles, its `placements` (see `Placement`) say which bands are there.
    """

    name: str
    shape: tuple[int, int]

    def read(self, window: Window, bands: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Bands of a window, (C, h, w), and the pixels that carry data, (h, w).

        Whatever `required_bands` names may be asked for: satellite bands, terrain, planes of pictures.
        """


@dataclass(frozen=True, slots=True)
class BandGap:
    """A tile without some of the bands asked for, and the pixels that it covers."""

    tile_id: str
    area: Window
    bands: frozenset[str]

    def within(self, window: Window) -> tuple[slice, slice] | None:
        """Rows and columns of a window's pixels that the tile covers; None where they do not meet."""
        top, left = max(self.area.row - window.row, 0), max(self.area.col - window.col, 0)
        bottom = min(self.area.row + self.area.height - window.row, window.height)
        right = min(self.area.col + self.area.width - window.col, window.width)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def band_gaps(scene: Scene, bands: Sequence[str]) -> tuple[BandGap, ...]:
    """Tiles of a scene that lack some of the bands; none for a scene that is not made of tiles.

    Parameters
    ----------
    scene : Scene
    bands : sequence of str
    """
    gaps = []
    for place in getattr(scene, "placements", ()):
        lacking = frozenset(bands) - frozenset(place.tile.bands)
        if lacking:
            area = Window(place.row, place.col, place.tile.height, place.tile.width)
            gaps.append(BandGap(place.tile.id, area, lacking))
    return tuple(gaps)


def gaps_warning(scene: Scene, bands: Sequence[str], gaps: Sequence[BandGap]) -> list[str]:
    """Say which tiles lack which bands, and what is done about it.

    Returns
    -------
    list of str
        Empty, or one sentence for the scene.
    """
    if not gaps:
        return []
    by_bands: dict[str, list[str]] = {}
    for gap in gaps:
        by_bands.setdefault(", ".join(band for band in bands if band in gap.bands), []).append(gap.tile_id)
    num_tiles = len(getattr(scene, "placements", ()))
    said = []
    for lacking, ids in by_bands.items():
        if len(ids) == num_tiles:
            said.append(f"{scene.name} has no {lacking}")
            continue
        named = listed(ids, _TILES_NAMED)
        said.append(f"tile {named} has no {lacking}" if len(ids) == 1 else f"tiles {named} have no {lacking}")
    return [
        f"Bands are missing: {'; '.join(said)}. Channels made of them are set to the training mean there, and the "
        "map is less certain. Add the bands if they exist."
    ]
