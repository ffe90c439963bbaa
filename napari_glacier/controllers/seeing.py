"""Two pictures of one place compared by eye: a divider between them, side by side, or one after the other. No Qt."""

from collections.abc import Callable
from typing import Any

from psygnal import Signal

from napari_glacier.controllers.layers import COMPOSITES, KEY, PICTURES, tag_of
from napari_glacier.controllers.rendering import is_picture
from napari_glacier.controllers.swipe import Swipe
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.errors import DataError

SWIPE, SIDE_BY_SIDE, FLICKER = "swipe", "side by side", "flicker"
MODES = (SWIPE, SIDE_BY_SIDE, FLICKER)

_OWN = ("swipe", "copy", "preview")
_GAP_PX = 4


class SeeingController:
    """Decides which layers are seen while a person compares two of them; ending it brings back what was seen before.

    Parameters
    ----------
    workspace : Workspace

    Attributes
    ----------
    mode : str
        One of `MODES`; empty while nothing is compared.
    blinks : bool
        Whether it flickers by itself.

    Signals
    -------
    changed() : mode, pictures, divider
    """

    changed = Signal()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.mode = ""
        self._chosen: tuple[str, str] = ("", "")
        self._before: _Before | None = None
        self._swipe: Swipe | None = None
        self.blinks = False
        self._shown = 0
        # What is compared, and all layers there were when it was laid side by side: napari counts them.
        self._compared: tuple[Any, ...] = ()
        self._laid: set[Any] = set()
        self._busy = False
        workspace.layers_changed.connect(self._on_layers)
        workspace.session_changed.connect(self._on_layers)

    # -- what can be compared

    @property
    def pictures(self) -> list[Any]:
        """Layers to choose from: labels, prediction, composites, what was added, and bands that are shown."""
        session = self.workspace.session
        if session is None:
            return []
        return [
            layer
            for layer in reversed(list(self.workspace.viewer.layers))
            if tag_of(layer).get("session") is session
            and tag_of(layer).get("role") not in _OWN
            and (tag_of(layer).get("role") != "band" or layer.visible)
        ]

    @property
    def pair(self) -> tuple[Any, Any] | None:
        """The layers on the left and on the right; None where there are not two.

        Unless others were chosen: those that are compared by now, else prediction and labels, or two composites.
        """
        layers = self.pictures
        by_name = {layer.name: layer for layer in layers}
        left, right = (by_name.get(name) for name in self._chosen)
        prediction, labels = self.workspace.prediction_layer, self.workspace.labels_layer
        usual = [prediction, labels] if prediction is not None else [layer for layer in layers if is_picture(layer)]
        # Comparing changes the order of the layers, and a prediction may come meanwhile.
        usual = [layer for layer in [*self._compared, *usual] if layer is not None and layer in layers]
        left = left if left is not None else next((one for one in usual if one is not right), None)
        right = right if right is not None else next((one for one in usual if one is not left), None)
        return (left, right) if left is not None and right is not None and left is not right else None

    @property
    def why_not(self) -> str:
        """Why nothing can be compared, what composites lack for it, and the mend; empty where there is a pair.

        Empty, too, while the second composite is about to come.
        """
        session = self.workspace.session
        if session is None or self.pair is not None or self.workspace.opening.under_way:
            return ""
        lacking = {name: [band for band in of if band not in session.dataset.bands] for name, of in COMPOSITES.items()}
        needs = [
            f"{name} needs {' and '.join(bands)}"
            for name, bands in lacking.items()
            if 0 < len(bands) < len(COMPOSITES[name])
        ]
        return (
            f"Comparing takes two pictures, and there is one{': ' if needs else ''}{', '.join(needs)}. Predict, show a "
            "band, too (the eyes in the layer list), or add a picture or an index in the Data widget (About)."
        )

    def choose(self, left: str, right: str) -> None:
        """Compare layers of these names from now on; the other one is exchanged where both are the same."""
        before = self.pair
        if left == right and before is not None:
            names = before[0].name, before[1].name
            left, right = (left, names[0]) if left != names[0] else (names[1], right)
        self._chosen = left, right
        self._again()

    def exchange(self) -> None:
        """Left to the right, right to the left."""
        pair = self.pair
        if pair is not None:
            self._chosen = pair[1].name, pair[0].name
            self._again()

    # -- comparing

    def toggle(self, mode: str) -> None:
        """Begin to compare in one of the `MODES`, or end it where that is what is done now.

        Raises
        ------
        DataError
            If there are no two layers to compare.
        """
        if self.mode == mode:
            self.end()
        else:
            self._begin(mode)
            self.blinks = mode == FLICKER

    def end(self) -> None:
        """Bring back what was seen before."""
        before, swipe = self._before, self._swipe
        self._before = self._swipe = None
        self.mode, self._compared = "", ()
        self._busy = True
        try:
            if swipe is not None:
                swipe.close()
            if before is not None:
                before.restore()
        finally:
            self._busy = False
        self.changed.emit()

    def step(self) -> None:
        """While it flickers by itself: the other picture."""
        if self.mode == FLICKER and self.blinks:
            self._show_alone(1 - self._shown % 2)

    def flip(self) -> Callable[[], None]:
        """See the next of: left, right, what lies below both, as before; gives what goes one back.

        Raises
        ------
        DataError
            If there are no two layers to compare.
        """
        before = self._shown if self.mode == FLICKER else -1
        if before < 0:
            self._begin(FLICKER)
        elif before + 1 < len(self._views()):
            self._show_alone(before + 1)
        else:
            self.end()
        self.blinks = False
        return lambda: self._flip_back(before)

    def refresh(self) -> None:
        """Let the drawing beside the divider follow the view, and the panes layers that came or went.

        Called a few times a second.
        """
        if self._swipe is not None:
            self._swipe.refresh()
        if self.mode == SIDE_BY_SIDE and self._laid != set(self.workspace.viewer.layers):
            self._again()

    @property
    def divider(self) -> float:
        """Where the divider is, as a share of the canvas's width."""
        return self._swipe.share if self._swipe is not None else 0.5

    def move_divider(self, share: float) -> None:
        """Put the divider elsewhere."""
        if self._swipe is not None:
            self._swipe.move(share)

    def close(self) -> None:
        """End it, and disconnect from the workspace."""
        self.workspace.layers_changed.disconnect(self._on_layers, missing_ok=True)
        self.workspace.session_changed.disconnect(self._on_layers, missing_ok=True)
        self.end()

    def _begin(self, mode: str) -> None:
        pair = self.pair
        if pair is None:
            raise DataError("There is nothing to compare yet. Run a model (Predict widget), or show two composites.")
        share = self.divider
        self.end()
        left, right = pair
        self._busy = True
        try:
            self._before = _Before(self.workspace, self.pictures)
            base = self._base(left, right)
            if mode == SWIPE:
                # The labels can be painted on only where they are themselves.
                on_left = left is not self.workspace.labels_layer
                drawn, live = (left, right) if on_left else (right, left)
                self._show_only([live] if is_picture(live) else [base, live])
                pictures = [drawn] if is_picture(drawn) else [base, drawn]
                self._swipe = Swipe(self.workspace, [one for one in pictures if one], on_left, self.changed.emit)
                self._swipe.move(share)
                self._before.say(f"◀  {left.name}   |   {right.name}  ▶")
            elif mode == SIDE_BY_SIDE:
                self._lay_side_by_side(base, left, right)
                self._before.say(f"◀  {left.name}   |   {right.name}  ▶")
            self.mode, self._compared = mode, pair
            if mode == FLICKER:
                self._show_alone(0)
        finally:
            self._busy = False
        self.changed.emit()

    def _base(self, left: Any, right: Any) -> Any:
        """What lies below classes: the picture among the two, else the uppermost composite that is seen, or None."""
        for layer in (left, right):
            if is_picture(layer):
                return layer
        composites = [one for one in self.pictures if tag_of(one).get("role") in PICTURES]
        return next((one for one in composites if one.visible), composites[0] if composites else None)

    def _show_only(self, wanted: list[Any]) -> None:
        for layer in self.pictures:
            layer.visible = any(layer is one for one in wanted)

    def _views(self) -> list[list[Any]]:
        """What is seen one after the other: left, right, and what lies below where both are classes."""
        if self.pair is None:
            return []
        base = self._base(*self.pair)
        below = [] if base is None else [base]
        views = [[layer] if is_picture(layer) else [*below, layer] for layer in self.pair]
        return [*views, below] if below and not any(is_picture(layer) for layer in self.pair) else views

    def _show_alone(self, number: int) -> None:
        views = self._views()
        if self._before is None or number >= len(views):
            return
        self._shown = number
        self._show_only(views[number])
        self._before.say(str(views[number][-1].name))
        self.changed.emit()

    def _flip_back(self, number: int) -> None:
        if number < 0:
            self.end()
            return
        if self.mode != FLICKER:
            self._begin(FLICKER)
        self._show_alone(number)

    def _lay_side_by_side(self, base: Any, left: Any, right: Any) -> None:
        """napari's grid of two: the lower half of the layers goes to the left, the upper one to the right."""
        before, viewer = self._before, self.workspace.viewer
        assert before is not None
        on_left, on_right = [left], [right]
        if base is not None and not (is_picture(left) and is_picture(right)):
            copy = before.copy_of(base)
            if not is_picture(left):
                on_left.insert(0, copy if base is right else base)
            if not is_picture(right):
                on_right.insert(0, copy)
        self._show_only([*on_left, *on_right])
        for layer in [*on_left, *on_right]:
            viewer.layers.move(viewer.layers.index(layer), len(viewer.layers))
        # Hidden layers count, too: where there are too few of them below, empty ones are put there.
        before.pad(max(len(on_right) - (len(viewer.layers) - len(on_right)), 0))
        grid = viewer.canvas.grid
        grid.stride, grid.shape, grid.spacing = viewer.layers.index(on_right[0]), (1, 2), _GAP_PX
        grid.enabled = True
        self._laid = set(viewer.layers)

    def _again(self) -> None:
        mode, blinks = self.mode, self.blinks
        if mode and self.pair is not None:
            self._begin(mode)
            self.blinks = blinks
        else:
            self.changed.emit()

    def _on_layers(self, session: Any = None) -> None:
        if self._busy:
            return
        if self.mode and (self._before is None or not self._before.holds()):
            self.end()
        else:
            self.changed.emit()


class _Before:
    """What a window showed before two pictures were compared.

    Parameters
    ----------
    workspace : Workspace
    layers : list of layers
        Those that may be hidden and shown.
    """

    def __init__(self, workspace: Workspace, layers: list[Any]) -> None:
        viewer = workspace.viewer
        self._viewer = viewer
        self._session = workspace.session
        self._workspace = workspace
        workspace.compares = True
        self._visible = [(layer, layer.visible) for layer in layers]
        self._order = list(viewer.layers)
        self._active = viewer.layers.selection.active
        self._added: list[Any] = []
        grid, text = viewer.canvas.grid, viewer.canvas.overlays.text
        self._grid = {name: getattr(grid, name) for name in ("enabled", "stride", "shape", "spacing")}
        self._text = {name: getattr(text, name) for name in ("text", "visible", "position", "font_size")}

    def holds(self) -> bool:
        """Whether all layers are still there, and their dataset."""
        here = list(self._viewer.layers)
        return self._workspace.session is self._session and all(layer in here for layer, _ in self._visible)

    def say(self, text: str) -> None:
        """Write on the canvas what is seen."""
        overlay = self._viewer.canvas.overlays.text
        overlay.text, overlay.position, overlay.font_size = text, "top_center", 12
        overlay.visible = bool(text)

    def copy_of(self, layer: Any) -> Any:
        """A second layer with the same data, for the other pane."""
        data, arguments, _ = layer.as_layer_data_tuple()
        tag = {"session": self._session, "role": "copy"}
        copy = self._viewer.add_image(
            data, **{**arguments, "name": f"{layer.name} (copy)", "visible": True, "metadata": {KEY: tag}}
        )
        self._added.append(copy)
        return copy

    def pad(self, number: int) -> None:
        """Hidden empty layers at the bottom."""
        for _ in range(number):
            empty = self._viewer.add_points(ndim=2, name=" ", visible=False, metadata={KEY: {"role": "copy"}})
            self._added.append(empty)
            self._viewer.layers.move(self._viewer.layers.index(empty), 0)
        self.keep_selection()

    def keep_selection(self) -> None:
        """Have the layer chosen that was before; where it is one of several, these stay."""
        layers = self._viewer.layers
        if self._active in layers and self._active not in layers.selection:
            layers.selection.active = self._active

    def restore(self) -> None:
        """Bring it back, as far as its layers are still there."""
        viewer = self._viewer
        for layer in self._added:
            self._workspace.remove_layer(layer)
        for name, value in self._grid.items():
            setattr(viewer.canvas.grid, name, value)
        for name, value in self._text.items():
            setattr(viewer.canvas.overlays.text, name, value)
        for layer, visible in self._visible:
            if layer in viewer.layers:
                layer.visible = visible
        self._workspace.compares = False
        wanted = [layer for layer in self._order if layer in viewer.layers]
        now = list(viewer.layers)
        for number, layer in reversed(list(enumerate(now))):
            if layer not in wanted:
                # What came meanwhile stays below what it lies below: an index does not come to hide the labels.
                above = next((one for one in now[number + 1 :] if one in wanted), None)
                wanted.insert(len(wanted) if above is None else wanted.index(above), layer)
        if wanted != list(viewer.layers):
            for layer in wanted:
                viewer.layers.move(viewer.layers.index(layer), len(viewer.layers))
            self.keep_selection()
