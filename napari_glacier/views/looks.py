"""How a person likes the layers to look: opacity and brush size come back with the next dataset."""

import weakref
from typing import Any

from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QWidget

from napari_glacier.controllers.workspace import Workspace, tag_of, workspace_of
from napari_glacier.views.settings import kept, settings

# While a slider is dragged, nothing is written.
_REST_MS = 400
# What is kept of which layers: attribute, and how many steps a unit has (only whole numbers are kept).
_KEPT: dict[str, tuple[tuple[str, int], ...]] = {
    "labels": (("opacity", 100), ("brush_size", 1)),
    "prediction": (("opacity", 100),),
    "uncertainty": (("opacity", 100),),
}


class Looks(QObject):
    """Gives layers the looks kept for their kind, and keeps what a person changes.

    Parameters
    ----------
    window : QWidget
        Lives as long as this.
    viewer : napari.Viewer or napari.components.ViewerModel
    """

    def __init__(self, window: QWidget, viewer: Any) -> None:
        super().__init__(window)
        self._workspace: Workspace = workspace_of(viewer)
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._changed: dict[str, int] = {}
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REST_MS)
        self._timer.timeout.connect(self.write)
        self._workspace.layers_changed.connect(self._on_layers)
        self._on_layers()

    def write(self) -> None:
        """Write what was changed."""
        changed, self._changed = self._changed, {}
        if changed:
            store = settings()
            for key, value in changed.items():
                store.setValue(key, value)

    def _on_layers(self) -> None:
        by_role = {
            "labels": self._workspace.labels_layer,
            "prediction": self._workspace.prediction_layer,
            "uncertainty": self._workspace.uncertainty_layer,
        }
        for role, layer in by_role.items():
            if layer is not None and layer not in self._known:
                self._known.add(layer)
                for name, steps in _KEPT[role]:
                    self._dress(layer, name, steps)

    def _dress(self, layer: Any, name: str, steps: int) -> None:
        value = kept(_key(layer, name), 0)
        if value > 0:
            setattr(layer, name, value / steps if steps > 1 else value)
        getattr(layer.events, name).connect(self._on_changed)

    def _on_changed(self, event: Any) -> None:
        layer = event.source
        for name, steps in _KEPT.get(tag_of(layer).get("role", ""), ()):
            if event.type == name:
                self._changed[_key(layer, name)] = max(round(getattr(layer, name) * steps), 1)
                self._timer.start()


def _key(layer: Any, name: str) -> str:
    return f"looks/{tag_of(layer)['role']}_{name}"
