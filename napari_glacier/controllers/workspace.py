"""What the plugin's widgets of one napari window share: the session on screen and its layers."""

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psygnal import Signal

from napari_glacier.controllers import painting
from napari_glacier.controllers.extra_layers import extra_layer
from napari_glacier.controllers.layers import KEY, PICTURES, LayerData, say_where, tag_of
from napari_glacier.controllers.opening import Opening
from napari_glacier.controllers.session import Session
from napari_glacier.core.correction.reviews import approved_sentence
from napari_glacier.core.errors import JournalError
from napari_glacier.core.tiling import Window

# A person who goes on drawing on an approved tile is told again after such a pause.
_TELL_AGAIN_S = 5.0

_WORKSPACES: "weakref.WeakKeyDictionary[Any, Workspace]" = weakref.WeakKeyDictionary()


def workspace_of(viewer: Any) -> "Workspace":
    """The workspace of a viewer, made on first asking.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    """
    # Plugins get the viewer in a proxy of a moment's life; the workspace belongs to the viewer itself.
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _WORKSPACES:
        _WORKSPACES[viewer] = Workspace(viewer)
    return _WORKSPACES[viewer]


def attach(viewer: Any, session: Session) -> "Workspace":
    """Make `session` the one this viewer works on; its layers are followed as they are added."""
    workspace = workspace_of(viewer)
    workspace.attach(session)
    return workspace


class Workspace:
    """Follows the layers of one viewer and ties the Labels layer to the journal.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
        Held weakly: a closed window is let go.

    Signals
    -------
    session_changed(Session or None), layers_changed(), painted()
    predicted() : a prediction is whole
    models_changed() : a model was promoted, rolled back or put on the dataset's shelf
    locks_changed() : a person locked a class or gave it free

    Attributes
    ----------
    opening : Opening
        The order in which layers come.
    compares : bool
        Layers are shown and hidden for a moment, to be compared: what is seen is nobody's choice.
    """

    session_changed = Signal(object)
    layers_changed = Signal()
    painted = Signal()
    predicted = Signal()
    models_changed = Signal()
    locks_changed = Signal()

    def __init__(self, viewer: Any) -> None:
        self._viewer = weakref.ref(viewer)
        self.session: Session | None = None
        self.compares = False
        # A layer's connections, to be undone when it leaves.
        self._adopted: dict[Any, list[Callable[[], None]]] = {}
        self._replacing = False
        # Whether somebody takes layers away at this moment, and whether a person has taken the Labels layer.
        self._removing = self._labels_taken = False
        self.opening = Opening(self)
        self._told: tuple[tuple[str, ...], float] = ((), 0.0)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def viewer(self) -> Any:
        """The viewer; RuntimeError once it is gone."""
        viewer = self._viewer()
        if viewer is None:
            raise RuntimeError("the viewer of this workspace is closed")
        return viewer

    def open(self, path: str | Path, scheme: str | None = None) -> Session:
        """Open a dataset and show it; what was open before leaves the window.

        Raises
        ------
        GlacierError
            If the folder cannot be opened; the window stays as it is.
        """
        session = Session.open(path, scheme=scheme)
        self.show(session)
        return session

    def show(self, session: Session) -> None:
        """Show a session that is open, perhaps opened in another thread; what was shown before leaves the window.

        Raises
        ------
        GlacierError
            If its scene cannot be read, or what was drawn a moment ago cannot be recorded; the window stays as it is,
            and a session that no window shows is closed.
        """
        if self.shows(session):
            return
        previous = self.session
        try:
            layers = session.layer_data()
            if previous is not None and previous is not session:
                # What cannot be recorded keeps its window.
                previous.commit()
        except BaseException:
            if session is not previous:
                session.release(self)
            raise
        if previous is not None and previous is not session:
            self._remove_layers_of(previous)
        self.attach(session)
        self._put_layers(layers)

    def attach(self, session: Session) -> None:
        """Make `session` the current one and adopt those of its layers that are already here."""
        if session is not self.session:
            self.session, self._labels_taken = session, False
            session.hold(self)
            session.failed.connect(_warn)
            session.refused.connect(self._tell_approved)
            session.scene_shown.connect(self._follow_scene)
            session.drawn.connect(self._draw)
            session.reloaded.connect(self._draw_anew)
            session.locks_changed.connect(self._on_locks)
            layers = list(self.viewer.layers)
            for number, layer in enumerate(layers):
                # napari puts a copy above what it is of.
                _let_copy_be(layer, layers[:number])
                self._adopt(layer)
            self.session_changed.emit(session)

    def shows(self, session: Session) -> bool:
        """Whether the session's layers are in this window."""
        return session is self.session and self.labels_layer is not None

    def show_scene(self, number: int) -> None:
        """Show a scene of the session in place of the one on screen (all at once where they are stacked).

        Raises
        ------
        GlacierError
            If a file of the scene cannot be read; the one on screen stays.
        """
        session = self._need_session()
        self._put_layers(session.layer_data(number))
        session.scene_shown.emit()

    def _follow_scene(self) -> None:
        """Another window shows another scene: what is drawn and predicted belongs to the dataset's current one."""
        session = self._need_session()
        here = any(tag_of(layer).get("session") is session for layer in self.viewer.layers)
        if here and self.labels_layer is None:
            self._put_layers(session.layer_data())

    def _put_layers(self, layers: Sequence[LayerData]) -> None:
        with self.quietly():
            self._remove_layers_of(self._need_session())
            for data, arguments, kind in self.opening.picture_first(layers):
                getattr(self.viewer, f"add_{kind}")(data, **arguments)
        self.viewer.layers.selection.active = self.labels_layer
        self.viewer.reset_view()
        self.layers_changed.emit()

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Move layers of ours, each of which would else be told of by `layers_changed`."""
        self._replacing = True
        try:
            yield
        finally:
            self._replacing = False

    def add_extra(self, key: str) -> Any:
        """Show one of `extra_layers`: an index or the like below the labels, a picture above the other pictures.

        One that is there already is shown again. Gives the layer.

        Raises
        ------
        GlacierError
            If it cannot be made of the data on screen.
        """
        session = self._need_session()
        data, arguments, kind = extra_layer(session, key)
        layers, labels, tag = self.viewer.layers, self.labels_layer, arguments["metadata"][KEY]
        layer = next((one for one in layers if tag_of(one) == tag), None)
        if layer is None:
            place = len(layers) if labels is None else layers.index(labels)
            if tag["role"] in PICTURES:
                # What is made of them, or predicted, stays above.
                below = enumerate(list(layers)[:place], 1)
                place = max((number for number, one in below if tag_of(one).get("role") in PICTURES), default=0)
            layer = getattr(self.viewer, f"add_{kind}")(data, **arguments)
            if kind == "labels":
                layer.editable = False
            layers.move(layers.index(layer), place)
            if labels is not None:
                layers.selection.active = labels
        layer.visible = True
        return layer

    def close_session(self) -> None:
        """Take the session's layers away and release it (and with it the dataset's lock)."""
        if self.session is not None:
            session = self.session
            self._remove_layers_of(session)
            self._release(session)

    @property
    def labels_taken_away(self) -> bool:
        """Whether a person has removed the Labels layer, while other layers of the dataset are here."""
        return self.session is not None and self._labels_taken

    def bring_labels_back(self) -> None:
        """Show the Labels layer again that was taken away; strokes were never in it alone.

        Raises
        ------
        GlacierError
            If a file of the scene cannot be read.
        """
        if self.labels_taken_away:
            data, arguments, _ = self._need_session().layer_data()[-1]
            self.viewer.layers.selection.active = self.viewer.add_labels(data, **arguments)

    @property
    def labels_layer(self) -> Any:
        """The Labels layer that edits the session's mask on screen, or None."""
        return self._find("labels")

    @property
    def prediction_layer(self) -> Any:
        """The Labels layer that shows the last prediction, or None."""
        return self._find("prediction")

    @property
    def uncertainty_layer(self) -> Any:
        """The image layer with the last prediction's entropy, or None."""
        return self._find("uncertainty")

    @property
    def plane(self) -> int:
        """Which scene of a stack is on screen; 0 where there is no stack."""
        session = self.session
        if session is None or not session.stacked:
            return 0
        axis = self._stack_axis
        return min(max(round(float(self.viewer.dims.point[axis])), 0), len(session.scenes) - 1)

    @property
    def _stack_axis(self) -> int:
        """Which of the viewer's axes leads through a stack: layers of more axes put theirs before it."""
        return max(int(self.viewer.dims.ndim) - self._need_session().mask.ndim, 0)

    def visible_window(self) -> Window | None:
        """The part of the scene that the canvas shows, in its pixels; None where nothing of it does."""
        layer = self.labels_layer
        if layer is None:
            return None
        height, width = layer.data.shape[-2:]
        (top, left), (bottom, right) = layer.corner_pixels[:, -2:]
        window = Window(int(top), int(left), int(bottom - top), int(right - left)).clipped(height, width)
        return window if window.height > 0 and window.width > 0 else None

    def assign(self, index: Any, where: Any, tool: str, model: str | None = None) -> int:
        """Write many labels at once as one stroke; gives the number of pixels that changed."""
        with self._shown_all_the_same():
            stroke_id = self._need_session().mask.assign(index, where, tool, model)
        return self._show_stroke(stroke_id)

    def assign_window(self, window: Window, index: Any, where: Any, tool: str, model: str | None = None) -> int:
        """The same for a window of the scene (of the stack's scene on screen)."""
        mask = self._need_session().mask
        with self._shown_all_the_same():
            stroke_id = mask.assign_window(window, index, where, tool, model=model, plane=self.plane)
        return self._show_stroke(stroke_id)

    def take_back(self, stroke: Any, tool: str = "undo") -> int | None:
        """`EditableMask.undo_stroke`, and draw it; gives the new stroke's id, None where nothing changed."""
        with self._shown_all_the_same():
            stroke_id = self._need_session().mask.undo_stroke(stroke, tool)
        if stroke_id is not None:
            self.draw_strokes([stroke_id])
        return stroke_id

    def draw_strokes(self, stroke_ids: Sequence[int]) -> None:
        """Draw what strokes changed that were not made through a layer, in all windows that show the dataset."""
        if stroke_ids:
            self._need_session().drawn.emit(tuple(stroke_ids), None)

    def _draw(self, stroke_ids: Sequence[int], by: Any) -> None:
        session, layer = self._need_session(), self.labels_layer
        if layer is not None and layer is not by:
            # napari's undo would write older values over the new ones; the journal's undo takes its place.
            painting.forget_history(layer)
            for stroke_id in stroke_ids:
                painting.draw_stroke(session, layer, session.journal.stroke(stroke_id))

    def _draw_anew(self) -> None:
        layer = self.labels_layer
        if layer is not None:
            painting.forget_history(layer)
            layer.refresh(extent=False)

    @contextmanager
    def _shown_all_the_same(self) -> Iterator[None]:
        """Draw what was written though it could not be recorded: the mask holds it, and the journal is tried again."""
        try:
            yield
        except JournalError:
            self._draw_anew()
            raise

    def _num_pixels(self, stroke_id: int | None) -> int:
        if stroke_id is None:
            return 0
        return sum(int(patch.edited.sum()) for patch in self._need_session().journal.stroke(stroke_id).patches)

    def _show_stroke(self, stroke_id: int | None) -> int:
        if stroke_id is None:
            return 0
        self.draw_strokes([stroke_id])
        self.painted.emit()
        return self._num_pixels(stroke_id)

    def fly_to(self, row: float, col: float, height: float, width: float, plane: int = 0) -> None:
        """Centre the view on a rectangle of the scene and zoom so that it fits with a margin."""
        layer = self.labels_layer
        if layer is None:
            return
        session = self._need_session()
        lead = (plane,) if session.stacked else ()
        if session.stacked:
            self.viewer.dims.set_point(self._stack_axis, plane)
        centre = layer.data_to_world((*lead, row + (height - 1) / 2, col + (width - 1) / 2))
        corner = layer.data_to_world((*lead, row + height, col + width))
        extent = [max(abs(corner[axis] - centre[axis]) * 2, 1e-9) for axis in (-2, -1)]
        camera = self.viewer.scene.camera
        camera.center = (camera.center[0], centre[-2], centre[-1])
        grid = self.viewer.canvas.grid
        panes = grid.actual_shape(self.viewer.layers) if grid.enabled else (1, 1)
        canvas = [size / number for size, number in zip(self.viewer.canvas.size, panes, strict=True)]
        camera.zoom = 0.9 * min(size / length for size, length in zip(canvas, extent, strict=True))

    def tile_under_view(self) -> Any:
        """The placement of the tile at the centre of the view, else the nearest one, else None."""
        layer, session = self.labels_layer, self.session
        if layer is None or session is None:
            return None
        if session.stacked:
            return session.scenes[self.plane].placements[0]
        centre = self.viewer.scene.camera.center
        row, col = layer.world_to_data(centre[-2:])

        def distance(place: Any) -> float:
            down = max(place.row - row, row - place.row - place.tile.height, 0)
            across = max(place.col - col, col - place.col - place.tile.width, 0)
            return float(down**2 + across**2)

        return min(session.current_scenes[0].placements, key=distance, default=None)

    def close(self) -> None:
        """Let go of the viewer, its layers and the session."""
        viewer = self._viewer()
        if viewer is not None:
            viewer.layers.events.inserted.disconnect(self._on_inserted)
            viewer.layers.events.removed.disconnect(self._on_removed)
        for layer in list(self._adopted):
            self._drop(layer)
        if self.session is not None:
            self._release(self.session)
        _WORKSPACES.pop(viewer, None)

    def _tell_approved(self, tile_ids: tuple[str, ...]) -> None:
        """Say that approved tiles stay as they are: once for a stroke, which comes in many pieces."""
        from napari.utils.notifications import show_info

        now = time.monotonic()
        if tile_ids != self._told[0] or now - self._told[1] > _TELL_AGAIN_S:
            show_info(approved_sentence(tile_ids))
        self._told = (tile_ids, now)

    def _on_locks(self) -> None:
        self.locks_changed.emit()

    def _need_session(self) -> Session:
        if self.session is None:
            raise RuntimeError("no dataset is open in this window")
        return self.session

    def _find(self, role: str) -> Any:
        session = self.session
        if session is None:
            return None
        for layer in reversed(list(self.viewer.layers)):
            tag = tag_of(layer)
            found = tag.get("session") is session and tag.get("role") == role
            if found and (role != "labels" or _edits_mask(layer, session)):
                return layer
        return None

    def _on_inserted(self, event: Any) -> None:
        _let_copy_be(event.value, self.viewer.layers)
        session = tag_of(event.value).get("session")
        if session is None:
            return
        if session is not self.session and tag_of(event.value).get("role") == "labels" and not session.closed:
            # Layers of another dataset were dropped on this window: the widgets go with the newest, and so does the
            # view, which napari leaves where it is.
            self.attach(session)
            self.fly_to(0, 0, *session.mask.shape[-2:])
        if session is self.session:
            self._adopt(event.value)
            if not self._replacing:
                self.layers_changed.emit()
        if tag_of(event.value).get("role") == "labels":
            self.opening.add_unseen(event.value)

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        session = tag_of(layer).get("session")
        self._drop(layer)
        if session is None or self._replacing:
            return
        before, self._removing = self._removing, True
        try:
            if not any(tag_of(other).get("session") is session for other in self.viewer.layers):
                self._release(session)
            elif session is self.session and tag_of(layer).get("role") == "labels":
                self._labels_taken = self.labels_layer is None
            self.layers_changed.emit()
        finally:
            self._removing = before

    def remove_layer(self, layer: Any) -> None:
        """Take a layer of ours away, if it is there.

        Of several layers that a person deletes together it goes by itself: napari takes one after the other, and
        stumbles where one is gone.
        """
        layers = self.viewer.layers
        if layer in layers and not (self._removing and layer in layers.selection):
            layers.remove(layer)

    def _adopt(self, layer: Any) -> None:
        tag = tag_of(layer)
        if tag.get("session") is not self.session or layer in self._adopted:
            return
        undo: list[Callable[[], None]] = [say_where(layer, tag["session"])]
        if tag.get("role") == "labels":
            self._labels_taken = False
            layer.editable = not layer.data.read_only
            strokes = painting.HandStrokes(tag["session"], layer, lambda: self.plane, self.painted.emit)
            undo.append(strokes.let_go)
        self._adopted[layer] = undo

    def _drop(self, layer: Any) -> None:
        for undo in self._adopted.pop(layer, ()):
            undo()

    def _remove_layers_of(self, session: Session) -> None:
        layers = self.viewer.layers
        # Else napari collects garbage after each of them, a third of a second every time.
        with layers.batched_update():
            for layer in [layer for layer in layers if tag_of(layer).get("session") is session]:
                # What listens may have taken some away: a comparison ends, and its copies go.
                if layer in layers:
                    layers.remove(layer)

    def _release(self, session: Session) -> None:
        session.failed.disconnect(_warn, missing_ok=True)
        session.refused.disconnect(self._tell_approved, missing_ok=True)
        session.scene_shown.disconnect(self._follow_scene, missing_ok=True)
        session.drawn.disconnect(self._draw, missing_ok=True)
        session.reloaded.disconnect(self._draw_anew, missing_ok=True)
        session.locks_changed.disconnect(self._on_locks, missing_ok=True)
        try:
            session.release(self)
        finally:
            if session is self.session:
                self.session = None
                self.session_changed.emit(None)


def _warn(error: Exception) -> None:
    """Tell of a stroke that could not be recorded; comes from the journal's thread, napari brings it to its own."""
    from napari.utils.notifications import show_warning

    show_warning(str(error))


def _edits_mask(layer: Any, session: Session) -> bool:
    """Whether what is drawn on a layer goes into the session's mask on screen."""
    return hasattr(layer.events, "paint") and layer.data is session.mask


def _let_copy_be(layer: Any, others: Iterable[Any]) -> None:
    """Take the tag off a copy of one of our layers: an ordinary layer of napari's, which edits no tile.

    napari's *Duplicate Layer* and *Convert to Image* hand the very tag on to the layer they make. What we add gets a
    tag of its own, as bands do, which share their role.
    """
    tag = tag_of(layer)
    role, session = tag.get("role"), tag.get("session")
    strays = role == "labels" and session is not None and not _edits_mask(layer, session)
    # A picture has no classes to accept.
    strays |= role == "prediction" and not hasattr(layer, "features")
    if strays or any(tag_of(other) is tag for other in others if other is not layer):
        layer.metadata = {key: value for key, value in layer.metadata.items() if key != KEY}
