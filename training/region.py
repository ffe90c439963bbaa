"""Where to learn from corrections: the scenes that hold some, and the crops of them that a network is tuned on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from napari_glacier.core.channels import assemble_channels, blank_missing, required_bands
from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.journal_place import journal_root
from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.data.mosaic import Mosaic, plan_scenes
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.scene import band_gaps
from napari_glacier.nn.zoo.surroundings import Grid
from training.corrections import TileCorrections, read_corrections, target_of
from training.tuning import Crops

CROP_PX = 192
# Corrections in so many places, and as many places without; what is over is left out, and said.
MAX_CROPS = 16
# A third of the region, in squares of this side, is kept back when it is tried out how far learning carries.
PROBE_PX = 48
# Close to a correction the old answer is likely wrong, too: it is not repeated there.
RIM_PX = 4
# Where the look at the surroundings is fixed it is taken once, at every other pixel both ways.
DESCRIBED_STEP = 2
# What would change is shown for at most so many pixels around the corrections.
SHOWN_PX = 2048


@dataclass(frozen=True, slots=True)
class Place:
    """A scene of the dataset with its corrections."""

    scene: Mosaic
    corrections: tuple[TileCorrections, ...]

    @property
    def targets(self) -> dict[str, Any]:
        """What a person said, by tile."""
        return {one.tile_id: one.target_HW for one in self.corrections}


def read_places(dataset: Dataset) -> list[Place]:
    """Scenes of a dataset on which somebody corrected something.

    Raises
    ------
    DataError
        If nobody did.
    """

    root = journal_root(dataset.root)
    found: list[TileCorrections] = []
    if root is not None:
        with Journal.open(root) as journal:
            found = read_corrections(dataset, journal)
    if not found:
        raise DataError(
            f"Nothing was corrected or found right in {dataset.root} yet, so there is nothing to learn from. Correct "
            "some of the prediction first: a few strokes in two or three places are enough."
        )
    by_tile = {one.tile_id: one for one in found}
    places = []
    for scene in plan_scenes(dataset):
        own = tuple(by_tile[place.tile.id] for place in scene.placements if place.tile.id in by_tile)
        if own:
            places.append(Place(scene, own))
    return places


def plan_crops(places: Sequence[Place], seed: int = 0) -> list[tuple[int, Window]]:
    """Where to learn: windows on the corrections, those with most first, and as many drawn anywhere else.

    Returns
    -------
    list of (number of the place, window)
    """

    on_corrections = [
        (count, number, _around(centre, place.scene.shape))
        for number, place in enumerate(places)
        for count, centre in _where_corrected(place, CROP_PX // 2)
    ]
    on_corrections.sort(key=lambda entry: -entry[0])
    chosen = [(number, window) for _, number, window in on_corrections[:MAX_CROPS]]
    draw = np.random.default_rng(seed)
    elsewhere = []
    for _ in range(MAX_CROPS):
        number = int(draw.integers(len(places)))
        # Anywhere on a tile: of a mosaic strewn over a country most is gap.
        at = places[number].scene.placements[int(draw.integers(len(places[number].scene.placements)))]
        centre = (at.row + int(draw.integers(at.tile.height)), at.col + int(draw.integers(at.tile.width)))
        elsewhere.append((number, _around(centre, places[number].scene.shape)))
    return [*chosen, *elsewhere]


def _where_corrected(place: Place, cell_px: int) -> list[tuple[int, tuple[int, int]]]:
    """Number and middle of the corrected pixels in each square of a scene that holds some of a tile."""
    placed = {at.tile.id: at for at in place.scene.placements}
    found = []
    for one in place.corrections:
        rows, cols = np.nonzero(one.target_HW != IGNORE_INDEX)
        rows, cols = rows + placed[one.tile_id].row, cols + placed[one.tile_id].col
        cells = np.stack([rows // cell_px, cols // cell_px])
        for cell in np.unique(cells, axis=1).T:
            inside = (cells == cell[:, None]).all(axis=0)
            found.append((int(inside.sum()), (int(rows[inside].mean()), int(cols[inside].mean()))))
    return found


def _around(centre: tuple[int, int], shape: tuple[int, int]) -> Window:

    size = [min(CROP_PX, length) for length in shape]
    first = [min(max(at - side // 2, 0), length - side) for at, side, length in zip(centre, size, shape, strict=True)]
    # One size for all, so that crops of small scenes can share a batch; beyond the scene there is no data.
    return Window(first[0], first[1], CROP_PX, CROP_PX)


def read_crops(
    places: Sequence[Place], windows: Sequence[tuple[int, Window]], member: LoadedModel, into: tuple[int, ...] = ()
) -> Crops:
    """Read windows as a member of an ensemble takes them; for `into` see `Crops`.

    Of a network whose look at the surroundings is fixed (`describe`), features of every other pixel take the place of
    the image, taken with all that it looks at beyond a crop: every step of learning would compute them again.
    """
    card = member.card
    network: Any = member.model
    describes = hasattr(network, "describe")
    rim_px, step = (network.reach_px, DESCRIBED_STEP) if describes else (0, 1)
    bands = required_bands(card.channels)
    gaps = [band_gaps(place.scene, bands) for place in places]
    images, targets, replays, probes = [], [], [], []
    for number, window in windows:
        wide = Window(window.row - rim_px, window.col - rim_px, window.height + 2 * rim_px, window.width + 2 * rim_px)
        image_CHW, valid_HW = places[number].scene.read(wide, bands)
        input_CHW = card.normalisation.apply(assemble_channels(image_CHW, bands, valid_HW, card.channels), valid_HW)
        for gap in gaps[number]:
            inside = gap.within(wide)
            if inside is not None:
                blank_missing(input_CHW, card.channels, gap.bands, inside)
        rows_of, cols_of = (slice(rim_px, rim_px + side, step) for side in (window.height, window.width))
        valid_HW = valid_HW[rows_of, cols_of]
        if describes:
            features_NFhw = network.describe(torch.from_numpy(input_CHW)[None], Grid(rim_px, rim_px, step))
            input_CHW = features_NFhw[0, :, : valid_HW.shape[0], : valid_HW.shape[1]].numpy()
        target_HW = target_of(places[number].scene, window, places[number].targets)
        said_HW = target_HW != IGNORE_INDEX
        near_HW = binary_dilation(said_HW, iterations=RIM_PX) if said_HW.any() else said_HW
        images.append(input_CHW)
        targets.append(target_HW[::step, ::step])
        rows, cols = np.ogrid[window.row : window.row + CROP_PX : step, window.col : window.col + CROP_PX : step]
        probes.append((rows // PROBE_PX + 2 * (cols // PROBE_PX)) % 3 == 0)
        replays.append(valid_HW & ~near_HW[::step, ::step])
    image_NCHW, target_NHW, replay_NHW, probe_NHW = (
        torch.from_numpy(np.stack(part)) for part in (images, targets, replays, probes)
    )
    return Crops(image_NCHW, target_NHW, replay_NHW, probe_NHW, into)


class Excerpt:
    """The part of a scene around its corrections, at most `SHOWN_PX` on a side, as a scene of its own.

    Where they lie further apart it is the part that holds most of them.
    """

    def __init__(self, place: Place) -> None:
        where = _where_corrected(place, SHOWN_PX // 8)
        centres_N2 = np.array([centre for _, centre in where])
        # In the middle of all, and around each group.
        windows = [_shown((centres_N2.min(axis=0) + centres_N2.max(axis=0)) // 2, place.scene.shape)]
        windows += [_shown(centre_2, place.scene.shape) for centre_2 in centres_N2]
        window = max(windows, key=lambda one: sum(count for count, centre in where if one.holds(*centre)))
        self._scene, self._window = place.scene, window
        self.name, self.shape = place.scene.name, (window.height, window.width)
        self.placements = tuple(
            replace(at, row=at.row - window.row, col=at.col - window.col) for at in place.scene.tiles_in(window)
        )

    def read(self, window: Window, bands: Sequence[str]) -> Any:
        """Bands and validity of a window of the excerpt."""
        moved = replace(window, row=window.row + self._window.row, col=window.col + self._window.col)
        return self._scene.read(moved, bands)


def _shown(centre_2: Any, shape: tuple[int, int]) -> Window:
    height, width = (min(SHOWN_PX, length) for length in shape)
    row, col = (
        min(max(int(at) - side // 2, 0), length - side)
        for at, side, length in zip(centre_2, (height, width), shape, strict=True)
    )
    return Window(row, col, height, width)
