"""What to look at next, kept up to date while a person works. No Qt."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from napari_glacier.controllers.predicted import shown_prediction
from napari_glacier.controllers.region_walk import Built, RegionWalk, mark, on_tiles
from napari_glacier.controllers.tools import ToolController
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.attention import AttentionQueue, UncertainRegion
from napari_glacier.core.correction.journal import NO_WORK
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.errors import DataError
from napari_glacier.core.tools.components import Area
from napari_glacier.core.tools.evidence import BoolArray
from napari_glacier.core.wording import listed

_APPROVED = "approved"
_SPARSE_PX = 8


class AttentionController(RegionWalk):
    """Leads from one uncertain region to the next.

    Parameters
    ----------
    workspace : Workspace
    tools : ToolController
        Accepts predictions.
    """

    nothing_to_go_by = (
        "There is no prediction that says how sure it is. Run a model, or show an earlier prediction (Predict widget)."
    )
    nothing_left = "Nothing uncertain is left in this scene."
    # Taking over whole predictions is not looking at them, and neither is taking that back.
    unseen_tools = tuple(sorted(NO_WORK))

    def __init__(self, workspace: Workspace, tools: ToolController) -> None:
        super().__init__(workspace, tools)
        self._print: tuple[int, ...] = ()
        # The layer of uncertainty that was found to hold some.
        self._telling: Any = None
        self._followed: tuple[Any, Any, Any] = (None, None, None)
        workspace.session_changed.connect(self._follow)
        workspace.layers_changed.connect(self._follow)
        self._follow()

    @property
    def available(self) -> bool:
        """Whether there is a prediction with its uncertainty to go by."""
        doubt = self.workspace.uncertainty_layer
        if shown_prediction(self.workspace) is None or doubt is None:
            return False
        if doubt is not self._telling:
            # Of an earlier prediction it may not have been kept.
            sparse = np.asarray(doubt.data)[..., ::_SPARSE_PX, ::_SPARSE_PX]
            self._telling = doubt if np.isfinite(sparse).any() else None
        return self._telling is not None

    def plan(self) -> Callable[[], Built] | None:
        """What builds a queue of what is on screen, less what was looked at; None where there is nothing to go by.

        Called on the GUI thread; what it gives may run in another one. See `install`.
        """
        session, predicted = self.workspace.session, shown_prediction(self.workspace)
        doubt = self.workspace.uncertainty_layer
        if session is None or predicted is None or doubt is None or doubt.data.shape != session.mask.shape:
            return None
        number = self._begin()
        entropy, known, georef = doubt.data, predicted.known_everywhere() & session.valid, session.georef()
        area_m2 = georef.pixel_area_m2 if georef is not None else None

        def build() -> Built:
            doubts = np.nan_to_num(np.asarray(entropy, np.float32))
            queue = AttentionQueue(doubts, known, area_m2 / 1e6 if area_m2 else 1.0)
            for patch in session.journal.drawn(self.unseen_tools):
                mark(session, queue, patch.tile_id, (patch.row, patch.col), patch.edited)
            for area in session.journal.seen.all():
                mark(session, queue, area.tile_id, (area.row, area.col), area.where_HW)
            for tile in session.dataset.tiles:
                if session.review(tile.id) == _APPROVED:
                    mark(session, queue, tile.id, (0, 0), np.ones((tile.height, tile.width), bool))
            return Built(number, queue)

        return build

    def accept(self) -> None:
        """Take the prediction over in the region on screen, and go on; what was drawn or found right there stays.

        What a lock keeps from being taken over is not noted as found right.

        Raises
        ------
        DataError
            If there is no region, or locked classes keep all of it; that one stays in the queue.
        """
        region, where_HW = self._need_on_screen()
        if not where_HW.any():
            self._go_on()
            return
        self.tools.accept_area(Area(region.window, where_HW))
        session, predicted = self._need_writable(), shown_prediction(self.workspace)
        assert predicted is not None
        lead = (region.plane,) if session.stacked else ()
        labels_HW = session.mask[(*lead, *region.window.slices)]
        taken_HW = where_HW & (labels_HW == predicted.index(region.window))
        if not taken_HW.any():
            locked = sorted(session.locked_classes & set(np.unique(labels_HW[where_HW]).tolist()))
            names = listed([session.scheme.class_names[index] for index in locked])
            if not names:
                # Approved meanwhile, which was told.
                return
            raise DataError(
                f"Nothing was accepted: the labels here are of a locked class. Unlock {names} first, or choose Right "
                "where they are right, Later where they are not."
            )
        self._settle(region, taken_HW)

    def fixed(self) -> None:
        """Note that the labels of the region on screen are right as they are now, and go on."""
        region, where_HW = self._need_on_screen()
        # What was said of the region before is not said of this one.
        self.tools.told.emit("")
        self._settle(region, where_HW)

    def close(self) -> None:
        """Disconnect from the workspace."""
        self.workspace.session_changed.disconnect(self._follow, missing_ok=True)
        self.workspace.layers_changed.disconnect(self._follow, missing_ok=True)
        self._let_go()

    def _settle(self, region: UncertainRegion, where_HW: BoolArray) -> None:
        session = self._need_writable()
        cuts = on_tiles(session.current_scenes[region.plane], region.window, where_HW)
        areas = [SeenArea(tile_id, *corner, where_HW[part]) for tile_id, corner, part in cuts]
        session.journal.seen.add(areas, session.journal.author)
        with self._lock:
            if self._queue is not None:
                self._queue.settle(region.number)
        self._go_on()

    def _follow(self, session: Any = None) -> None:
        session, layer = self.workspace.session, self.workspace.prediction_layer
        mask = session.mask if session is not None and not session.closed else None
        if self._followed == (session, layer, mask):
            return
        self._let_go()
        self._followed = session, layer, mask
        self._watch(session, mask)
        if layer is not None:
            layer.events.set_data.connect(self._on_prediction)
        self.stale = True
        self._print = self._fingerprint()
        self.install(None)

    def _let_go(self) -> None:
        self._telling = None
        self._watch(None, None)
        layer = self._followed[1]
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
