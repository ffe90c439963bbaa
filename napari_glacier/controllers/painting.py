"""A Labels layer and its journal: what a hand draws, and drawing what changed instead of the whole scene. No Qt."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from napari_glacier.controllers.session import Session
from napari_glacier.core.correction.strokes import Stroke
from napari_glacier.core.tiling import Window
from napari_glacier.core.wording import counted


def draw(layer: Any, window: Window, plane: int = 0) -> None:
    """Draw a window of a Labels layer as its data are now.

    A refresh, napari's public way, copies the whole scene and sends it to the graphics card: a quarter of a second
    for 8192 x 8192 pixels. What napari keeps of the data on screen is brought up to date here instead, as its own
    brush does. Where a person looks at the data from elsewhere (three dimensions, other axes) it is a refresh.

    Parameters
    ----------
    layer : napari.layers.Labels
    window : Window
    plane : int
        Scene of a stack; 0 where there is none. Nothing is drawn where another one is on screen.
    """
    if not layer.visible or window.height <= 0 or window.width <= 0:
        # An invisible layer is drawn when it is shown again.
        return
    kept = layer._slice.image
    lead = (plane,) if layer.ndim == 3 else ()
    as_stored = list(layer._slice_input.displayed) == [layer.ndim - 2, layer.ndim - 1]
    if not layer.loaded or not as_stored or kept.raw.shape != layer.data.shape[-2:]:
        layer.refresh(extent=False)
        return
    if lead and round(float(layer._slice_input.world_slice.point[0])) != plane:
        return
    # A changed pixel changes the contour around it, too.
    rim = int(layer.contour)
    window = Window(window.row - rim, window.col - rim, window.height + 2 * rim, window.width + 2 * rim)
    window = window.clipped(*kept.raw.shape)
    where = window.slices
    kept.raw[where] = layer.data[(*lead, *where)]
    kept.view[where] = layer._raw_to_displayed(kept.raw, where)
    layer.events.labels_update(data=kept.view[where], offset=[window.row, window.col])


def draw_stroke(session: Session, layer: Any, stroke: Stroke) -> None:
    """Draw the patches of a stroke that lie in the scene on screen."""
    for patch in stroke.patches:
        if patch.tile_id not in session.tile_ids:
            continue
        number, place = session.find(patch.tile_id)
        if session.stacked or number == session.scene_number:
            window = Window(place.row + patch.row, place.col + patch.col, *patch.before_HW.shape)
            draw(layer, window, number if session.stacked else 0)


def forget_history(layer: Any) -> None:
    """Empty a Labels layer's undo history.

    Turning editing off is napari's public way to do so; it takes the brush out of the hand, and time.
    """
    layer._reset_history()


class HandStrokes:
    """Brings what is drawn on a Labels layer by hand to the journal, and draws again what the mask refused.

    Data that are put in place of the mask (``layer.data = array``) become one stroke, and the mask is put back: what
    is drawn on an array of its own would reach no file.

    A brush that is held still is on the disk after a moment, so that what one drag drew may be several strokes:
    `Session.drawn_at_once` tells which.

    Parameters
    ----------
    session : Session
    layer : napari.layers.Labels
        Its data are the session's mask.
    plane : callable
        Gives the scene of a stack that is on screen.
    painted : callable
        Called after a stroke.
    """

    def __init__(self, session: Session, layer: Any, plane: Callable[[], int], painted: Callable[[], object]) -> None:
        self._session, self._layer, self._mask = session, layer, layer.data
        self._plane, self._painted = plane, painted
        self._stale: list[Window] = []
        self._held, self._parts = False, list[int]()
        layer.events.paint.connect(self._on_paint)
        # Last, so that others learn of the mask after they did of the array.
        layer.events.data.connect(self._on_data, position="last")
        layer.events.editable.connect(self._on_editable)
        # Last, so that the canvas has drawn the stale pixels before they are drawn over.
        layer.events.labels_update.connect(self._on_drawn, position="last")
        # First, so that a button is known to be up before napari tells what was painted with it.
        layer.mouse_drag_callbacks.insert(0, self._hold)
        self._mask.refused.append(self._on_refused)
        self._mask.recorded.append(self._on_recorded)

    def let_go(self) -> None:
        """Leave the layer and the mask as they were."""
        self._layer.events.paint.disconnect(self._on_paint)
        self._layer.events.data.disconnect(self._on_data)
        self._layer.events.editable.disconnect(self._on_editable)
        self._layer.events.labels_update.disconnect(self._on_drawn)
        with suppress(ValueError):
            # Others may have emptied the list.
            self._layer.mouse_drag_callbacks.remove(self._hold)
        self._mask.refused.remove(self._on_refused)
        self._mask.recorded.remove(self._on_recorded)

    def _hold(self, layer: Any, event: Any) -> Iterator[None]:
        self._held, self._parts = True, []
        yield
        while event.type == "mouse_move":
            yield
        self._held = False

    def _on_recorded(self, stroke_id: int) -> None:
        # Comes from the journal's thread while the hand rests.
        if self._held:
            self._parts.append(stroke_id)

    def _on_paint(self, event: Any = None) -> None:
        last = self._mask.commit()
        parts, self._parts = self._parts, []
        if last is not None:
            parts.append(last)
        if len(parts) > 1:
            self._session.drawn_at_once[parts[-1]] = tuple(parts)
        if parts:
            self._session.drawn.emit(tuple(parts), self._layer)
        self._painted()

    def _on_editable(self, event: Any = None) -> None:
        # napari lets a layer be edited again whose data are set.
        if self._mask.read_only:
            self._layer.editable = False

    def _on_data(self, event: Any = None) -> None:
        from napari.utils.notifications import show_info, show_warning

        given = self._layer.data
        if given is self._mask:
            return
        try:
            reason = self._why_not(given)
            said = reason or self._take(np.asarray(given))
        finally:
            # Draws all of it anew.
            self._stale = []
            self._layer.data = self._mask
        (show_warning if reason else show_info)(said)

    def _why_not(self, given: Any) -> str:
        """Why an array cannot become the labels, or an empty text."""
        if self._mask.read_only:
            return self._session.read_only
        if tuple(given.shape) == self._mask.shape and np.dtype(given.dtype).kind in "biu":
            return ""
        size, needed = (" x ".join(map(str, shape)) for shape in (given.shape, self._mask.shape))
        return (
            f"The labels stay as they are: they cannot be replaced by {size} values of {given.dtype}. "
            f"Give {needed} whole numbers, or add the array as a layer of its own."
        )

    def _take(self, given: Any) -> str:
        """Write an array of the mask's shape as one stroke; gives a sentence on it."""
        wanted = given != np.asarray(self._mask)
        stroke_id = self._mask.assign(given, wanted, tool="paint")
        left = int(np.count_nonzero(given != np.asarray(self._mask)))
        said = [f"The labels were replaced as a whole: {counted(int(wanted.sum()) - left, 'pixel')} changed."]
        if stroke_id is not None:
            # napari's undo would write older values over the new ones; the journal's undo takes its place.
            forget_history(self._layer)
            self._session.drawn.emit((stroke_id,), self._layer)
            self._painted()
            said.append("Undo takes that back.")
        if left:
            said.append(
                f"Not taken: {counted(left, 'pixel')} without data, of a locked class, in an approved tile or of a "
                "number that is no class."
            )
        return " ".join(said)

    def _on_refused(self, rows: slice, cols: slice) -> None:
        self._stale.append(Window(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start))

    def _on_drawn(self, event: Any = None) -> None:
        # napari has put into its own caches what was drawn; the mask knows what was let in.
        refused, self._stale = self._stale, []
        for window in refused:
            draw(self._layer, window, self._plane())
