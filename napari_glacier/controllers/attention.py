"""What to look at next, kept up to date while a person works. No Qt."""

import zlib
from collections.abc import Callable
from threading import RLock
from typing import Any

import numpy as np
from psygnal import Signal

from napari_glacier.controllers.predicted import shown_prediction
from napari_glacier.controllers.session import Session
from napari_glacier.controllers.tools import ToolController
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.attention import AttentionQueue, UncertainRegion
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.correction.strokes import Patch
from napari_glacier.core.errors import DataError, JournalError
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.components import Area
from napari_glacier.core.tools.evidence import BoolArray

# Taking over whole predictions is not looking at them.
_UNSEEN_TOOLS = ("accept",)
_APPROVED = "approved"
# A region is shown with at least this much around it.
_SURROUNDINGS_PX = 48
_SPARSE_PX = 8


class AttentionController:
    """Leads from one uncertain region to the next.

    Parameters
    ----------
    workspace : Workspace
    tools : ToolController
        Accepts predictions.

    Signals
    -------
    changed() : perhaps from another thread
    """

    changed = Signal()

    def __init__(self, workspace: Workspace, tools: ToolController) -> None:
        self.workspace = workspace
        self.tools = tools
        self.current: UncertainRegion | None = None
        self.stale = True
        self._queue: AttentionQueue | None = None
        self._lock = RLock()
        # Strokes recorded while a queue is built elsewhere.
        self._missed: list[Patch] = []
        self._building = False
        self._print: tuple[int, ...] = ()
        self._followed: tuple[Any, Any, Any] = (None, None, None)
        workspace.session_changed.connect(self._follow)
        workspace.layers_changed.connect(self._follow)
        self._follow()

    @property
    def available(self) -> bool:
        """Whether there is a prediction with its uncertainty to go by."""
        return shown_prediction(self.workspace) is not None and self.workspace.uncertainty_layer is not None

    def plan(self) -> Callable[[], AttentionQueue] | None:
        """What builds a queue of what is on screen, less what was looked at; None where there is nothing to go by.

        Called on the GUI thread; what it gives may run in another one. See `install`.
        """
        session, predicted = self.workspace.session, shown_prediction(self.workspace)
        doubt = self.workspace.uncertainty_layer
        if session is None or predicted is None or doubt is None or doubt.data.shape != session.mask.shape:
            return None
        self.stale = False
        self._building = True
        self._missed = []
        entropy, known, georef = doubt.data, predicted.known_everywhere() & session.valid, session.georef()
        area_m2 = georef.pixel_area_m2 if georef is not None else None

        def build() -> AttentionQueue:
            queue = AttentionQueue(np.asarray(entropy, np.float32), known, area_m2 / 1e6 if area_m2 else 1.0)
            for patch in session.journal.drawn(_UNSEEN_TOOLS):
                _mark(session, queue, patch.tile_id, (patch.row, patch.col), patch.edited)
            for area in session.journal.seen.all():
                _mark(session, queue, area.tile_id, (area.row, area.col), area.where_HW)
            for tile in session.dataset.tiles:
                if session.review(tile.id) == _APPROVED:
                    _mark(session, queue, tile.id, (0, 0), np.ones((tile.height, tile.width), bool))
            return queue

        return build

    def install(self, queue: AttentionQueue | None) -> None:
        """Use a queue that was built."""
        with self._lock:
            self._queue = queue
            self.current = None
            for patch in self._missed if queue is not None else ():
                self._mark_patch(patch)
            self._missed, self._building = [], False
        self.changed.emit()

    def regions(self) -> list[UncertainRegion]:
        """What is left to look at, best first."""
        with self._lock:
            return self._queue.regions() if self._queue is not None else []

    @property
    def in_km2(self) -> bool:
        """Whether stakes are areas; pixels otherwise."""
        session = self.workspace.session
        georef = session.georef() if session is not None else None
        return georef is not None and georef.pixel_area_m2 is not None

    def next(self) -> UncertainRegion:
        """Fly to the region with most at stake that is not the one on screen now.

        Raises
        ------
        DataError
            If nothing is left, or there is no prediction.
        """
        if self.stale or self._queue is None:
            build = self.plan()
            self.install(build() if build is not None else None)
        if self._queue is None:
            raise DataError("There is no prediction to go by. Run a model first (Predict widget).")
        regions = self.regions()
        if self.current is not None and len(regions) > 1:
            regions = [region for region in regions if region.number != self.current.number] or regions
        if not regions:
            raise DataError("Nothing uncertain is left in this scene.")
        self.current = regions[0]
        window = self.current.window
        margin = max(_SURROUNDINGS_PX, max(window.height, window.width) // 2)
        self.workspace.fly_to(
            window.row - margin,
            window.col - margin,
            window.height + 2 * margin,
            window.width + 2 * margin,
            self.current.plane,
        )
        self.changed.emit()
        return self.current

    def accept(self) -> None:
        """Take the prediction over in the region on screen, and go on."""
        region, where_HW = self._need_current()
        self.tools.accept_area(Area(region.window, where_HW))
        self._settle(region, where_HW)

    def fixed(self) -> None:
        """Note that the labels of the region on screen are right as they are now, and go on."""
        self._settle(*self._need_current())

    def skip(self) -> None:
        """Put the region on screen behind all others, and go on."""
        region, _ = self._need_current()
        with self._lock:
            if self._queue is not None:
                self._queue.skip(region.number)
        self._go_on()

    def close(self) -> None:
        """Disconnect from the workspace."""
        self.workspace.session_changed.disconnect(self._follow, missing_ok=True)
        self.workspace.layers_changed.disconnect(self._follow, missing_ok=True)
        self._let_go()

    def _settle(self, region: UncertainRegion, where_HW: BoolArray) -> None:
        session = self.workspace.session
        assert session is not None
        if session.read_only:
            raise JournalError(session.read_only)
        areas = []
        for place in session.current_scenes[region.plane].tiles_in(region.window):
            seen = _cut(region.window, where_HW, place)
            if seen is not None:
                areas.append(seen)
        session.journal.seen.add(areas, session.journal.author)
        with self._lock:
            if self._queue is not None:
                self._queue.settle(region.number)
        self._go_on()

    def _go_on(self) -> None:
        try:
            self.next()
        except DataError as error:
            self.current = None
            self.tools.told.emit(str(error))
            self.changed.emit()

    def _need_current(self) -> tuple[UncertainRegion, BoolArray]:
        if self.current is None or self._queue is None:
            raise DataError("No region is chosen. Fly to the next one first.")
        with self._lock:
            return self.current, self._queue.where(self.current.number)

    def _follow(self, session: Any = None) -> None:
        session, layer = self.workspace.session, self.workspace.prediction_layer
        mask = session.mask if session is not None and not session.closed else None
        if self._followed == (session, layer, mask):
            return
        self._let_go()
        self._followed = session, layer, mask
        if session is not None:
            session.reviewed.connect(self._on_reviewed)
        if mask is not None:
            mask.recorded.append(self._on_recorded)
        if layer is not None:
            layer.events.set_data.connect(self._on_prediction)
        self.stale = True
        self._print = self._fingerprint()
        self.install(None)

    def _let_go(self) -> None:
        session, layer, mask = self._followed
        if session is not None:
            session.reviewed.disconnect(self._on_reviewed, missing_ok=True)
        if mask is not None and self._on_recorded in mask.recorded:
            mask.recorded.remove(self._on_recorded)
        if layer is not None:
            layer.events.set_data.disconnect(self._on_prediction)
        self._followed = (None, None, None)

    def _on_prediction(self, event: Any = None) -> None:
        # napari says the same when a layer is only shown or hidden.
        if self._fingerprint() != self._print:
            self._print = self._fingerprint()
            self.stale = True
            self.changed.emit()

    def _fingerprint(self) -> tuple[int, ...]:
        both = (self.workspace.prediction_layer, self.workspace.uncertainty_layer)
        layers = [layer for layer in both if layer is not None]
        sparse = [np.ascontiguousarray(np.asarray(layer.data)[..., ::_SPARSE_PX, ::_SPARSE_PX]) for layer in layers]
        return tuple(zlib.crc32(part.tobytes()) for part in sparse)

    def _on_recorded(self, stroke_id: int) -> None:
        session = self._followed[0]
        if session is None or session.closed:
            return
        stroke = session.journal.stroke(stroke_id)
        if stroke.tool in _UNSEEN_TOOLS:
            return
        with self._lock:
            for patch in stroke.patches:
                self._mark_patch(patch)
                if self._building:
                    self._missed.append(patch)
        self.changed.emit()

    def _mark_patch(self, patch: Patch) -> None:
        if self._queue is not None:
            _mark(self._followed[0], self._queue, patch.tile_id, (patch.row, patch.col), patch.edited)

    def _on_reviewed(self, tile_id: str) -> None:
        # A tile may lose its approval as well as gain it.
        self.stale = True
        self.changed.emit()


def _mark(session: Session, queue: AttentionQueue, tile_id: str, corner: tuple[int, int], where_HW: BoolArray) -> None:
    """Note in a queue that pixels of a tile were looked at; those of another scene are passed over."""
    number, place = session.find(tile_id)
    if session.stacked or number == session.scene_number:
        window = Window(place.row + corner[0], place.col + corner[1], *where_HW.shape)
        queue.mark(number if session.stacked else 0, window, where_HW)


def _cut(window: Window, where_HW: BoolArray, place: Any) -> SeenArea | None:
    """The part of an area that lies on a tile, in the tile's pixels."""
    top, left = max(window.row, place.row), max(window.col, place.col)
    bottom = min(window.row + window.height, place.row + place.tile.height)
    right = min(window.col + window.width, place.col + place.tile.width)
    part_HW = where_HW[top - window.row : bottom - window.row, left - window.col : right - window.col]
    if not part_HW.any():
        return None
    return SeenArea(place.tile.id, top - place.row, left - place.col, part_HW)
