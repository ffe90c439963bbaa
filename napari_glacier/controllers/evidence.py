"""Evidence for the tools: read, standardised and kept for the view one works in. No Qt."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.predicted import shown_prediction
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.bands import CANONICAL_BANDS, TERRAIN_BANDS
from napari_glacier.core.data.mosaic import Mosaic
from napari_glacier.core.data.validity import LazyValidity
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import Evidence, standardise
from napari_glacier.core.tools.superpixels import Superpixels, superpixels
from napari_glacier.core.wording import listed

# The tools look at no more than this around a click: a screenful.
WORK_PX = 1024
_STEP_PX = 256

_KEPT = 3
Made = TypeVar("Made")
_MeanAndStd = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
_Statistics = dict[Any, _MeanAndStd]
_SAMPLES, _SAMPLE_PX = 16, 256


class EvidenceSource:
    """Gives the evidence of windows of the scene on screen; what was given last is kept.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._statistics: _Statistics = {}
        self._kept: OrderedDict[Any, Future[Evidence]] = OrderedDict()
        self._cuts: OrderedDict[Any, Future[Superpixels]] = OrderedDict()
        self._executor: ThreadPoolExecutor | None = None
        self._followed: Any = None
        self._looked_at: Window | None = None
        workspace.layers_changed.connect(self._on_layers)
        workspace.session_changed.connect(self._on_session)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that were measured, in the data's order; the terrain says nothing of what covers it."""
        session = self.workspace.session
        return tuple(band for band in session.dataset.bands if band not in TERRAIN_BANDS) if session else ()

    def bands_in(self, window: Window) -> tuple[str, ...]:
        """Those of the bands that every tile in a window of the scene on screen has; all where they share none.

        A band that a tile lacks reads as 0: tools would find an edge around the tile, and dark ground inside.
        """
        tiles = [place.tile for place in self.scene().tiles_in(window)]
        return tuple(band for band in self.bands if all(band in tile.bands for tile in tiles)) or self.bands

    def what_is_missing(self, window: Window) -> str:
        """Which of a satellite's bands tools do without in a window, where, and the mend; empty where none is."""
        tiles = [place.tile for place in self.scene().tiles_in(window)]
        bands = self.bands_in(window)
        lacking = [band for band in CANONICAL_BANDS if band not in bands]
        if not lacking or any(tile.is_picture for tile in tiles):
            return ""
        without = [tile.id for tile in tiles if not set(lacking) <= set(tile.bands)]
        where = "here" if len(without) == len(tiles) else f"in {listed(without)}"
        are, them = ("is", "it") if len(lacking) == 1 else ("are", "them")
        return (
            f"⚠ {_and(lacking)} {are} missing {where}: the tool looks at {_and(bands)} alone. Add {them}, if there are "
            "files."
        )

    def window_around(self, row: int, col: int) -> Window | None:
        """What the tools work on after a click: what is on screen, at most `WORK_PX` each way around the click.

        None where the click is not on the part of the scene that is on screen.
        """
        seen = self.workspace.visible_window()
        if seen is None or not (seen.row <= row < seen.row + seen.height and seen.col <= col < seen.col + seen.width):
            return None
        return Window(
            _start(seen.row, seen.height, row),
            _start(seen.col, seen.width, col),
            min(seen.height, WORK_PX),
            min(seen.width, WORK_PX),
        )

    def scene(self) -> Mosaic:
        """The scene on screen."""
        session = self.workspace.session
        assert session is not None
        return session.current_scenes[self.workspace.plane]

    def evidence(self, window: Window) -> Evidence:
        """The evidence of a window of the scene on screen."""
        return self.prepare(window).result()

    def prepare(self, window: Window) -> "Future[Evidence]":
        """Begin to read a window, in a thread: it is there when a person clicks."""
        self._follow_prediction()
        key = self._key(window)
        if key not in self._kept:
            self._kept[key] = self.submit(self._plan(window))
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def prepare_painting(self, window: Window) -> None:
        """Begin to read what the first stroke and the first click ask for, in a thread.

        Where a window of a large scene carries data, and what its bands are like.
        """
        session = self.workspace.session
        if session is None or window == self._looked_at:
            return
        self._looked_at = window
        valid, scene, bands, statistics = session.valid, self.scene(), self.bands, self._statistics
        if isinstance(valid, LazyValidity):
            self.submit(lambda: valid[window.slices])
        self.submit(lambda: _remembered(statistics, scene, bands))

    def begin_superpixels(self, window: Window) -> "tuple[Future[Evidence], Future[Superpixels]]":
        """Begin to cut a window into superpixels, in a thread: they are ready when the stroke has been drawn."""
        key = self._key(window)
        evidence = self.prepare(window)
        if key not in self._cuts:
            # One thread takes what it is given in order: the evidence is there by then.
            self._cuts[key] = self.submit(lambda: superpixels(evidence.result()))
            while len(self._cuts) > 1:
                self._cuts.popitem(last=False)
        return evidence, self._cuts[key]

    def submit(self, make: Callable[[], Made]) -> "Future[Made]":
        """Do something in the thread, after what it was given before."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "evidence")
        return self._executor.submit(make)

    def forget(self) -> None:
        """Drop what is kept: the prediction changed."""
        self._kept.clear()
        self._cuts.clear()

    def close(self) -> None:
        """Disconnect from the workspace, and end the thread."""
        self.workspace.layers_changed.disconnect(self._on_layers, missing_ok=True)
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)
        self._follow(None)
        if self._executor is not None:
            self._executor.shutdown()
        self.forget()

    def _plan(self, window: Window) -> Callable[[], Evidence]:
        """What reads a window, in any thread; layers are asked for now, on the GUI thread."""
        session = self.workspace.session
        assert session is not None
        scene, every, predicted = self.scene(), self.bands, shown_prediction(self.workspace)
        num_classes, statistics = session.scheme.num_classes, self._statistics
        bands = self.bands_in(window)
        looked_at = [every.index(band) for band in bands]

        def make() -> Evidence:
            image_CHW, valid_HW = scene.read(window, bands)
            mean_C, std_C = (values[looked_at] for values in _remembered(statistics, scene, every))
            probability_KHW = None
            if predicted is not None:
                known_HW = predicted.known(window)
                if known_HW.any():
                    count = len(predicted.class_names) or num_classes
                    # Where nothing was predicted every class is as likely as the others.
                    probability_KHW = np.where(known_HW, predicted.probability(window, count), np.float32(1 / count))
            evidence = Evidence(window, standardise(image_CHW, valid_HW, mean_C, std_C), valid_HW, probability_KHW)
            # Smoothing takes as long as reading.
            _ = evidence.features
            return evidence

        return make

    def _key(self, window: Window) -> Any:
        return self.scene().name, self.workspace.plane, window

    def _on_session(self, session: Any) -> None:
        # Another dictionary: what the thread is at may still write into the one before.
        self._statistics = {}
        self._looked_at = None
        self._follow(None)
        # Scenes of another dataset may have the same names.
        self.forget()

    def _on_layers(self) -> None:
        self._follow_prediction()

    def _follow_prediction(self) -> None:
        self._follow(self.workspace.prediction_layer)

    def _follow(self, layer: Any) -> None:
        if layer is self._followed:
            return
        if self._followed is not None:
            self._followed.events.set_data.disconnect(self._on_prediction)
        self._followed = layer
        if layer is not None:
            layer.events.set_data.connect(self._on_prediction)
        self.forget()

    def _on_prediction(self, event: Any = None) -> None:
        self.forget()


def _and(bands: Sequence[str]) -> str:
    return " and ".join(", ".join(part) for part in (bands[:-1], bands[-1:]) if part)


def _start(first: int, length: int, at: int) -> int:
    """Where a window of at most `WORK_PX` around `at` begins inside a longer one.

    On a coarse grid, so that what was read ahead around a pointer that rests serves a click beside it, too.
    """
    steps = max(at - WORK_PX // 2 - first, 0) // _STEP_PX
    return min(first + steps * _STEP_PX, first + max(length - WORK_PX, 0))


def _remembered(statistics: _Statistics, scene: Mosaic, bands: tuple[str, ...]) -> _MeanAndStd:
    """The statistics of a scene, worked out the first time."""
    key = (scene.name, scene.shape, bands)
    if key not in statistics:
        statistics[key] = _scene_statistics(scene, bands)
    return statistics[key]


def _scene_statistics(scene: Mosaic, bands: tuple[str, ...]) -> _MeanAndStd:
    """Mean and standard deviation of each band over evenly spread windows of the tiles that have it."""
    spread = [
        (place, row, col)
        for place in scene.placements
        for row in range(0, place.tile.height, _SAMPLE_PX)
        for col in range(0, place.tile.width, _SAMPLE_PX)
    ]
    values_of: list[list[npt.NDArray[np.float32]]] = [[] for _ in bands]
    for place, row, col in spread[:: -(-len(spread) // _SAMPLES)]:
        tile = place.tile
        height, width = min(_SAMPLE_PX, tile.height - row), min(_SAMPLE_PX, tile.width - col)
        image_CHW, valid_HW = scene.read(Window(place.row + row, place.col + col, height, width), bands)
        for values, band, band_HW in zip(values_of, bands, image_CHW, strict=True):
            if band in tile.bands:
                values.append(band_HW[valid_HW])
    found = [np.concatenate(values).astype(float) if values else np.zeros(0) for values in values_of]
    known = [values if values.size else np.zeros(1) for values in found]
    return np.array([values.mean() for values in known]), np.array([values.std() for values in known])
