"""Mouse and keys of the canvas, brought to the tools. No Qt: napari's events are plain objects."""

import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.tools import ToolController
from napari_glacier.core.errors import GlacierError

# A hand moves the mouse a little while it clicks.
_CLICK_PX = 4.0
# A key down for longer than this is held, not tapped.
_HELD_S = 0.35
# Bound only while a tool is chosen: napari's polygon needs them, too.
_WHILE_CHOSEN = ("take", "drop")
# What the correction desk binds on the same layer; napari's Labels layer takes 1-7 and E P F L Z M X B - = for itself.
CLASS_KEYS = tuple(f"Alt-{index}" for index in range(10))
UNDO_KEY, REDO_KEY = "Control-Z", "Control-Shift-Z"
_RESERVED = {**dict.fromkeys(CLASS_KEYS, "the choice of a class"), UNDO_KEY: "undo", REDO_KEY: "redo"}


class Pointer:
    """Ties a Labels layer's mouse and keys to the tools; `keys` has the key of each action, "" where it has none.

    Parameters
    ----------
    tools : ToolController
    commands : mapping of str to callable
        What the keys of `toolbox.COMMANDS` do, for those commands that are not the pointer's own.
    held : mapping of str to callable
        The same for keys that may be held down: the callable gives what is done when a key held is let go.
    """

    def __init__(
        self,
        tools: ToolController,
        commands: Mapping[str, Callable[[], object]] | None = None,
        held: Mapping[str, Callable[[], Callable[[], object]]] | None = None,
    ) -> None:
        self.tools = tools
        self.workspace = tools.workspace
        self.keys = dict(toolbox.DEFAULT_KEYS)
        self._commands: dict[str, Callable[[], object]] = {
            **(commands or {}),
            "take": tools.take,
            "drop": self._drop,
            "snap last": tools.snap_last_stroke,
        }
        self._held = dict(held or {})
        self._layer: Any = None
        # Whether Escape was pressed since the mouse was.
        self._dropped = False
        # Whether a line or a loop is being drawn.
        self._drawing = False
        tools.changed.connect(self._on_tool)
        self.workspace.layers_changed.connect(self._follow_layer)
        self.workspace.session_changed.connect(self._follow_layer)
        self._follow_layer()

    def set_keys(self, keys: Mapping[str, str]) -> None:
        """Use other keys; names that are not given keep theirs.

        Parameters
        ----------
        keys : mapping of str to str
            Key of each action as napari writes it: ``Control-Shift-A``. An empty text is no key.

        Raises
        ------
        ValueError
            If two actions would share a key, it chooses a class, undoes or redoes, or napari has no such key;
            nothing changes then.
        """
        wanted = {**self.keys, **{name: key for name, key in keys.items() if name in self.keys}}
        used = {_stroke(key): what for key, what in _RESERVED.items()}
        for name, key in wanted.items():
            if not key:
                continue
            stroke, title = _stroke(key), f'"{toolbox.title_of(name)}"'
            if not stroke:
                raise ValueError(
                    f"napari has no key {key}; {title} needs a letter, a digit, one of F1 to F12 or a key such as "
                    "PageUp, alone or with Control, Alt, Shift or Meta before it: Control-Shift-A."
                )
            if stroke in used:
                raise ValueError(f"{key} is the key of {used[stroke]} already; {title} needs another one.")
            used[stroke] = title
        self._bind(False)
        self.keys = wanted
        self._bind(True)

    def close(self) -> None:
        """Let go of the layer and the tools."""
        self.tools.changed.disconnect(self._on_tool, missing_ok=True)
        self.workspace.layers_changed.disconnect(self._follow_layer, missing_ok=True)
        self.workspace.session_changed.disconnect(self._follow_layer, missing_ok=True)
        self._leave_layer()

    # -- the layer

    def _follow_layer(self, session: Any = None) -> None:
        layer = self.workspace.labels_layer
        if layer is self._layer:
            return
        self._leave_layer()
        self._layer = layer
        if layer is not None:
            layer.mouse_drag_callbacks.append(self._on_mouse)
            layer.mouse_wheel_callbacks.append(self._on_wheel)
            self.workspace.viewer.mouse_drag_callbacks.append(self._on_any_mouse)
            layer.events.mode.connect(self._on_mode)
            layer.events.selected_label.connect(self._on_class)
            self.workspace.viewer.dims.events.point.connect(self._on_plane)
            self._bind(True)
            self._on_tool()

    def _leave_layer(self) -> None:
        layer = self._layer
        if layer is not None:
            self._bind(False)
            layer.mouse_drag_callbacks.remove(self._on_mouse)
            layer.mouse_wheel_callbacks.remove(self._on_wheel)
            self.workspace.viewer.mouse_drag_callbacks.remove(self._on_any_mouse)
            layer.events.mode.disconnect(self._on_mode)
            layer.events.selected_label.disconnect(self._on_class)
            self.workspace.viewer.dims.events.point.disconnect(self._on_plane)
            if str(layer.mode) == "pan_zoom":
                layer.mouse_pan = True
        self._layer = None

    def _bind(self, on: bool) -> None:
        if self._layer is None:
            return
        for name, key in self.keys.items():
            if not key:
                continue
            bound = on and (name not in _WHILE_CHOSEN or bool(self.tools.tool))
            self._layer.bind_key(key, self._key_action(name) if bound else None, overwrite=True)

    def _key_action(self, name: str) -> Callable[[Any], object]:
        if name in self._held:
            return self._held_action(self._held[name])

        def act(layer: Any) -> None:
            if name in toolbox.TOOL_OF:
                self._attempt(lambda: self.tools.select(name))
            elif name in self._commands:
                self._attempt(self._commands[name])

        return act

    def _held_action(self, begin: Callable[[], Callable[[], object]]) -> Callable[[Any], Generator[None, None, None]]:
        def act(layer: Any) -> Generator[None, None, None]:
            ends: list[Callable[[], object]] = []
            self._attempt(lambda: ends.append(begin()))
            # Not from the press: where a machine is slow to begin, a tap would be taken for holding.
            begun = time.monotonic()
            yield
            # A key that was only tapped leaves it as it is.
            if time.monotonic() - begun > _HELD_S:
                for end in ends:
                    self._attempt(end)

        return act

    def _drop(self) -> None:
        self._dropped = True
        if not self.tools.drop():
            self.tools.select("")

    def _gave_up(self, tool: str, plane: int) -> bool:
        """Whether a line was dropped while it was drawn: by Escape, another tool, or another scene of a stack."""
        return self._dropped or self.tools.tool != tool or self.workspace.plane != plane

    def _attempt(self, act: Callable[[], object]) -> bool:
        """Do something; whether that went. Why not is said where people look, not raised into napari's event loop."""
        try:
            act()
        except GlacierError as error:
            self.tools.told.emit(str(error))
            return False
        return True

    def _on_tool(self) -> None:
        layer, tool = self._layer, self.tools.tool
        if layer is None or layer is not self.workspace.labels_layer:
            # Of the scene before; the next one is about to be followed.
            return
        if tool:
            self.workspace.viewer.layers.selection.active = layer
            # napari's own tools are put down; ours work in the mode that draws nothing.
            if str(layer.mode) != "pan_zoom":
                layer.mode = "pan_zoom"
            layer.mouse_pan = not toolbox.TOOL_OF[tool].draws
        elif str(layer.mode) == "pan_zoom":
            layer.mouse_pan = True
        for name in _WHILE_CHOSEN:
            if self.keys[name]:
                layer.bind_key(self.keys[name], self._key_action(name) if tool else None, overwrite=True)

    def _on_mode(self, event: Any) -> None:
        if str(event.mode) != "pan_zoom" and self.tools.tool:
            self.tools.select("")

    def _on_class(self, event: Any) -> None:
        self._attempt(self.tools.follow_class)

    def _on_plane(self, event: Any = None) -> None:
        self.tools.follow_plane()

    # -- the mouse

    def _on_wheel(self, layer: Any, event: Any) -> None:
        if "Shift" in event.modifiers:
            # Some systems turn the wheel with Shift into a sideways one.
            self._attempt(lambda: self.tools.turn_wheel(float(np.sum(event.delta))))

    def _on_any_mouse(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """Drop a line that was left for another layer: napari tells of mice only to the one that is chosen."""
        yield
        while True:
            if self._drawing and viewer.layers.selection.active is not self._layer:
                self._drawing, self._dropped = False, True
                self.tools.drop()
                self.tools.end_trace(dropped=True)
            if event.type != "mouse_move":
                return
            yield

    def _on_mouse(self, layer: Any, event: Any) -> Generator[None, None, None]:
        tool = self.tools.tool
        if not tool or event.button != 1:
            return
        shift = "Shift" in event.modifiers
        path = [self._at(layer, event)]
        kind = toolbox.TOOL_OF[tool]
        drawing, looping = kind.draws and not shift, kind.loops and shift
        panning_from = event.position if kind.draws and shift else None
        plane, self._dropped = self.workspace.plane, False
        if drawing:
            drawing = self._attempt(lambda: self.tools.begin_line(*path[0]))
        self._drawing = drawing or looping
        # The view stays while a loop is drawn, also when Shift is let go before the button is.
        layer.mouse_pan = not kind.draws and not shift
        yield
        while event.type == "mouse_move":
            if panning_from is not None:
                self._pan(panning_from, event.position)
            else:
                path.append(self._at(layer, event))
                if (drawing or looping) and not self._gave_up(tool, plane):
                    self._attempt(lambda: self.tools.trace(path))
            yield
        self._drawing = False
        self._on_tool()
        gave_up = self._gave_up(tool, plane)
        if drawing or looping:
            self.tools.end_trace(dropped=gave_up)
        if panning_from is not None or gave_up or (kind.draws and not drawing):
            return
        moved = self._far(path)
        if drawing:
            # A hand moves the mouse a little while it clicks: that is no line.
            self._attempt(lambda: self.tools.draw_line(path if moved else path[:1]))
        elif moved and looping:
            self._attempt(lambda: self.tools.loop(path))
        elif not moved:
            self._attempt(lambda: self.tools.click(*path[0]))

    @staticmethod
    def _at(layer: Any, event: Any) -> tuple[float, float]:
        row, col = layer.world_to_data(event.position)[-2:]
        return float(row), float(col)

    def _far(self, path: list[tuple[float, float]]) -> bool:
        layer = self._layer
        scale = abs(float(layer.scale[-1])) * float(self.workspace.viewer.scene.camera.zoom)
        spread = np.ptp(np.asarray(path), axis=0).max() * scale
        return bool(spread > _CLICK_PX)

    def _pan(self, start: Any, now: Any) -> None:
        camera = self.workspace.viewer.scene.camera
        centre = np.array(camera.center)
        centre[-2:] += np.subtract(start, now)[-2:]
        camera.center = tuple(centre)


def _stroke(key: str) -> str:
    """A key written in the one way that napari compares by; empty where it can never be pressed."""
    from napari.utils.key_bindings import coerce_keybinding

    parts = coerce_keybinding(key).parts
    # Of several strokes in a row napari would see each one alone; what it does not know counts as a modifier.
    return str(parts[0]) if len(parts) == 1 and not parts[0].is_modifier_key() else ""
