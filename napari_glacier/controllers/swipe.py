"""A divider on the canvas that is drawn to and fro, with another picture on one side of it. No Qt.

napari clips layers in three dimensions only, so the other picture is drawn, at the screen's resolution, as one image
over the part of the view that it covers. The layers below stay as they are, and can be painted on.
"""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.layers import KEY
from napari_glacier.controllers.rendering import Rgba, laid_over, render, step_for
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.tiling import Window

# As near as this a press takes the divider.
_GRASP_PX = 7.0
_LINE_PX = 2.0
# What the divider cannot be drawn beyond, as a share of the canvas.
_LEAST, _MOST = 0.02, 0.98

Redrawn = Callable[[], None]


class Swipe:
    """Draws some layers over the left or the right part of the view, with a line where it ends.

    Parameters
    ----------
    workspace : Workspace
    pictures : list of layers
        What to draw, the lowest first.
    on_left : bool
        Which side of the divider it lies on.
    moved : callable
        Told when the divider was moved.
    """

    def __init__(self, workspace: Workspace, pictures: list[Any], on_left: bool, moved: Redrawn) -> None:
        self.workspace = workspace
        self.share = 0.5
        self._pictures = pictures
        self._on_left = on_left
        self._moved = moved
        self._stale = True
        self._drawn: tuple[Rgba, npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None = None
        self._image: Any = None
        self._line: Any = None
        self._watch(True)
        self.refresh()

    def refresh(self) -> None:
        """Draw again, if the view or what is drawn changed since."""
        if not self._stale:
            return
        self._stale = False
        drawn = self._render()
        self._drawn = drawn
        if drawn is None:
            for layer in (self._image, self._line):
                if layer is not None:
                    layer.visible = False
            return
        self._cut()

    def move(self, share: float) -> None:
        """Put the divider at a share of the canvas's width."""
        self.share = min(max(share, _LEAST), _MOST)
        self._cut()
        self._moved()

    def close(self) -> None:
        """Take the drawing away."""
        self._watch(False)
        self._clear()

    def _clear(self) -> None:
        for layer in (self._image, self._line):
            if layer is not None:
                self.workspace.remove_layer(layer)
        self._image = self._line = None

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers that are drawn with."""
        return tuple(layer for layer in (self._image, self._line) if layer is not None)

    # -- drawing

    def _render(self) -> tuple[Rgba, npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
        """The picture of the whole view, the matrix that takes its pixels to the world, and where it is not empty."""
        window, labels = self.workspace.visible_window(), self.workspace.labels_layer
        if window is None or labels is None:
            return None
        to_world = self._to_world(labels)
        camera = self.workspace.viewer.scene.camera
        step = step_for(float(np.hypot(*to_world[:2, 1]) * camera.zoom))
        row, col = window.row - window.row % step, window.col - window.col % step
        # napari's corners name the last pixels in view, some of which show in part.
        bottom, right = window.row + window.height + 1, window.col + window.width + 1
        window = Window(row, col, bottom - row, right - col).clipped(*labels.data.shape[-2:])
        plane = self.workspace.plane if labels.ndim == 3 else None
        parts = [(render(layer, window, step, plane), float(layer.opacity)) for layer in self._pictures]
        height, width = (min(part.shape[axis] for part, _ in parts) for axis in (0, 1))
        rgba_HW4 = laid_over([(part[:height, :width], opacity) for part, opacity in parts])
        middle = (step - 1) / 2
        to_data = np.array([[step, 0, row + middle], [0, step, col + middle], [0, 0, 1.0]])
        return rgba_HW4, to_world @ to_data, rgba_HW4[..., 3] > 0

    def _to_world(self, labels: Any) -> npt.NDArray[np.float64]:
        lead = (self.workspace.plane,) if labels.ndim == 3 else ()
        origin, down, across = (
            np.asarray(labels.data_to_world((*lead, *at)))[-2:] for at in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
        )
        return np.array([[*pair] for pair in zip(down - origin, across - origin, origin, strict=True)] + [[0, 0, 1.0]])

    def _cut(self) -> None:
        """Leave the picture's side of the divider, and draw the line."""
        if self._drawn is None:
            return
        rgba_HW4, to_world, there_HW = self._drawn
        east = self._east()
        rows, cols = np.arange(rgba_HW4.shape[0]), np.arange(rgba_HW4.shape[1])
        east_HW = to_world[1, 0] * rows[:, None] + to_world[1, 1] * cols + to_world[1, 2]
        rgba_HW4[..., 3] = np.where(there_HW & ((east_HW < east) == self._on_left), 255, 0)
        self._show(rgba_HW4, to_world, east)

    def _show(self, rgba_HW4: Rgba, to_world: npt.NDArray[np.float64], east: float) -> None:
        viewer = self.workspace.viewer
        line, width = self._line_at(east)
        if self._image is not None and self._image in viewer.layers and self._line in viewer.layers:
            self._image.data = rgba_HW4
            self._image.affine = to_world
            self._line.data = line
            self._line.edge_width = width
            self._image.visible = self._line.visible = True
            return
        # One of the two may be left where the other was deleted.
        self._clear()
        active = viewer.layers.selection.active
        units = self.workspace.labels_layer.units[-2:]
        self._image = viewer.add_image(
            rgba_HW4,
            rgb=True,
            name="Swipe",
            affine=to_world,
            units=units,
            metadata={KEY: {"role": "swipe"}},
        )
        self._line = viewer.add_vectors(
            line,
            name="Divider",
            vector_style="line",
            edge_width=width,
            edge_color=np.array([[1, 1, 1, 1], [0, 0, 0, 1]], float),
            units=units,
            opacity=1.0,
            metadata={KEY: {"role": "swipe"}},
        )
        if active in viewer.layers:
            viewer.layers.selection.active = active

    def _line_at(self, east: float) -> tuple[npt.NDArray[np.float64], float]:
        """A white and a black line side by side from the top of the canvas to its foot: seen on snow and on rock."""
        camera, canvas = self.workspace.viewer.scene.camera, self.workspace.viewer.canvas.size
        length, width = canvas[0] / camera.zoom, _LINE_PX / camera.zoom
        top = camera.center[-2] - length / 2
        vectors = [[[top, east + side * width / 2], [length, 0.0]] for side in (-1, 1)]
        return np.array(vectors), width

    def _east(self) -> float:
        """Where the divider is in world coordinates."""
        viewer = self.workspace.viewer
        camera = viewer.scene.camera
        return float(camera.center[-1] + (self.share - 0.5) * viewer.canvas.size[1] / camera.zoom)

    # -- what happens outside

    def _watch(self, on: bool) -> None:
        viewer = self.workspace.viewer
        events = [viewer.scene.camera.events.center, viewer.scene.camera.events.zoom, viewer.canvas.events.size]
        events.append(viewer.dims.events.point)
        for layer in self._pictures:
            events += [layer.events.set_data, layer.events.opacity]
            events += [] if not hasattr(layer.events, "contrast_limits") else [layer.events.contrast_limits]
            events += [] if not hasattr(layer.events, "labels_update") else [layer.events.labels_update]
        for event in events:
            (event.connect if on else event.disconnect)(self._on_changed)
        if on:
            viewer.mouse_drag_callbacks.append(self._on_drag)
        elif self._on_drag in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.remove(self._on_drag)

    def _on_changed(self, event: Any = None) -> None:
        self._stale = True

    def _on_drag(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        zoom = float(viewer.scene.camera.zoom)
        if event.button != 1 or abs(event.position[-1] - self._east()) * zoom > _GRASP_PX:
            return
        layer = viewer.layers.selection.active
        # The layer's own tool must not draw where the divider is taken; napari asks the layer after the viewer.
        callbacks = list(layer.mouse_drag_callbacks) if layer is not None else []
        pans = layer is not None and layer.mouse_pan
        if layer is not None:
            layer.mouse_drag_callbacks.clear()
            layer.mouse_pan = False
        try:
            yield
            while event.type == "mouse_move":
                camera = viewer.scene.camera
                self.move(0.5 + (event.position[-1] - camera.center[-1]) * zoom / viewer.canvas.size[1])
                yield
        finally:
            if layer is not None:
                layer.mouse_drag_callbacks.extend(callbacks)
                layer.mouse_pan = pans
