"""What people corrected in a dataset, as targets to learn from: from the journal, before or after it was saved.

A pixel counts where somebody drew another class than there was, found it right, or approved its tile. Predictions
that were accepted wholesale do not: a model would learn from itself.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.correction.journal import NO_WORK, Journal
from napari_glacier.core.correction.reviews import APPROVED
from napari_glacier.core.correction.saving import read_present_mask
from napari_glacier.core.correction.strokes import MaskArray
from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.data.mosaic import Mosaic
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.tiling import Window


@dataclass(frozen=True, slots=True)
class TileCorrections:
    """What is known of a tile by a person's hand.

    Attributes
    ----------
    tile_id : str
    target_HW : uint8 array
        Class indices, `IGNORE_INDEX` where nobody said anything.
    num_drawn : int
        Pixels that were drawn.
    num_confirmed : int
        Pixels that were found right, or lie on an approved tile.
    """

    tile_id: str
    target_HW: MaskArray
    num_drawn: int
    num_confirmed: int


def read_corrections(dataset: Dataset, journal: Journal) -> list[TileCorrections]:
    """Tiles on which somebody corrected or confirmed something; reads the journal, writes nothing.

    Parameters
    ----------
    dataset : Dataset
    journal : Journal
    """
    seen: dict[str, list[tuple[tuple[slice, slice], npt.NDArray[np.bool_]]]] = {}
    for area in journal.seen.all():
        height, width = area.where_HW.shape
        part = (slice(area.row, area.row + height), slice(area.col, area.col + width))
        seen.setdefault(area.tile_id, []).append((part, area.where_HW))
    states = journal.review_states()
    found = []
    for tile in dataset.tiles:
        is_approved = states.get(tile.id) == APPROVED
        drawn_HW, present_HW = _drawn(dataset, tile, journal)
        confirmed_HW = np.full(drawn_HW.shape, is_approved)
        for part, where_HW in seen.get(tile.id, ()):
            confirmed_HW[part] |= where_HW
        if not (drawn_HW.any() or confirmed_HW.any()):
            continue
        valid_HW = dataset.read(tile, ())[1]
        drawn_HW &= valid_HW
        confirmed_HW &= valid_HW & ~drawn_HW
        target_HW = np.where(drawn_HW | confirmed_HW, present_HW, np.uint8(IGNORE_INDEX))
        found.append(TileCorrections(tile.id, target_HW, int(drawn_HW.sum()), int(confirmed_HW.sum())))
    return [one for one in found if one.num_drawn or one.num_confirmed]


def _drawn(dataset: Dataset, tile: Tile, journal: Journal) -> tuple[npt.NDArray[np.bool_], MaskArray]:
    """Pixels that are now of another class than before they were first drawn; and the tile's classes as they are."""
    file_HW = read_present_mask(dataset, tile)
    present_HW = np.zeros((tile.height, tile.width), np.uint8) if file_HW is None else file_HW.copy()
    for stroke in journal.unsaved(tile.id):
        for patch in stroke.patches:
            patch.apply(present_HW)
    first_HW = present_HW.copy()
    drawn_HW = np.zeros(first_HW.shape, bool)
    for stroke in journal.on_tile(tile.id):
        if stroke.tool in NO_WORK:
            continue
        for patch in stroke.patches:
            here = patch.slices
            new_HW = patch.edited & ~drawn_HW[here]
            first_HW[here][new_HW] = patch.before_HW[new_HW]
            drawn_HW[here] |= patch.edited
    return drawn_HW & (present_HW != first_HW), present_HW


def target_of(scene: Mosaic, window: Window, targets: dict[str, MaskArray]) -> MaskArray:
    """Targets of a window of a scene, `IGNORE_INDEX` where no tile says anything.

    Parameters
    ----------
    scene : Mosaic
    window : Window
    targets : dict of tile id to uint8 array
    """
    target_HW = np.full((window.height, window.width), IGNORE_INDEX, np.uint8)
    for place in scene.tiles_in(window):
        if place.tile.id not in targets:
            continue
        top, left = max(place.row, window.row), max(place.col, window.col)
        bottom = min(place.row + place.tile.height, window.row + window.height)
        right = min(place.col + place.tile.width, window.col + window.width)
        of_tile_HW = targets[place.tile.id]
        target_HW[top - window.row : bottom - window.row, left - window.col : right - window.col] = of_tile_HW[
            top - place.row : bottom - place.row, left - place.col : right - place.col
        ]
    return target_HW
