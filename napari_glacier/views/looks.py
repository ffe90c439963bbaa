"""How a person likes the layers to look and to be painted: it comes back with the next dataset."""

import weakref
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

from napari_glacier.controllers.workspace import tag_of
from napari_glacier.views.settings import kept, settings
from napari_glacier.views.window_bound import WindowBound

# While a slider is dragged, nothing is written.
_REST_MS = 400
# What is kept of which layers: attribute, how many steps a unit has (only whole numbers are kept), and the least.
# A layer that cannot be seen does not come back so, and background is a class to erase with, not to begin with.
_KEPT: dict[str, tuple[tuple[str, int, int], ...]] = {
    "labels": (("opacity", 100, 1), ("brush_size", 1, 1), ("contour", 1, 0), ("selected_label", 1, 1)),
    "prediction": (("opacity", 100, 1), ("contour", 1, 0)),
    "uncertainty": (("opacity", 100, 1),),
}


class Looks(WindowBound):
    """Gives layers the looks kept for their kind, and keeps what a person changes."""

    def __init__(self, window: QWidget, viewer: Any) -> None:
        super().__init__(window, viewer)
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._changed: dict[str, int] = {}
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REST_MS)
        self._timer.timeout.connect(self.write)
        if self.workspace is not None:
            self.workspace.layers_changed.connect(self._on_layers)
        self._on_layers()

    def write(self) -> None:
        """Write what was changed."""
        changed, self._changed = self._changed, {}
        if changed:
            store = settings()
            for key, value in changed.items():
                store.setValue(key, value)

    def _on_layers(self) -> None:
        workspace = self.workspace
        if workspace is None:
            return
        by_role = {
            "labels": workspace.labels_layer,
            "prediction": workspace.prediction_layer,
            "uncertainty": workspace.uncertainty_layer,
        }
        for role, layer in by_role.items():
            if layer is not None and layer not in self._known:
                self._known.add(layer)
                for name, steps, least in _KEPT[role]:
                    self._dress(layer, name, steps, least)

    def _dress(self, layer: Any, name: str, steps: int, least: int) -> None:
        value = kept(_key(layer, name), -1)
        if value >= least:
            setattr(layer, name, value / steps if steps > 1 else value)
        getattr(layer.events, name).connect(self._on_changed)

    def _on_changed(self, event: Any) -> None:
        layer = event.source
        for name, steps, least in _KEPT.get(tag_of(layer).get("role", ""), ()):
            value = round(getattr(layer, name) * steps)
            if event.type == name and (value >= least or name != "selected_label"):
                self._changed[_key(layer, name)] = max(value, least)
                self._timer.start()


def _key(layer: Any, name: str) -> str:
    tag = tag_of(layer)
    # Class 1 of one scheme is not class 1 of another.
    scheme = f"_{tag['session'].scheme.name}" if name == "selected_label" else ""
    return f"looks/{tag['role']}_{name}{scheme}"
