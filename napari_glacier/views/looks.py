"""How a person likes the layers to look and to be painted: it comes back with the next dataset or with its own."""

import re
import weakref
from typing import Any

from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QWidget

from napari_glacier.controllers.layers import tag_of
from napari_glacier.views.settings import keep_all, keep_of, kept, kept_of, of_dataset
from napari_glacier.views.window_bound import WindowBound

# While a slider is dragged, nothing is written.
_REST_MS = 400
# What is kept of which layers for all datasets: attribute, how many steps a unit has (only whole numbers are kept),
# and the least. A layer that cannot be seen does not come back so, and background is a class to erase with, not to
# begin with.
_KEPT: dict[str, tuple[tuple[str, int, int], ...]] = {
    "labels": (("opacity", 100, 1), ("brush_size", 1, 1), ("contour", 1, 0), ("selected_label", 1, 1)),
    "prediction": (("opacity", 100, 1), ("contour", 1, 0)),
    "uncertainty": (("opacity", 100, 1),),
}
# What is kept with a dataset, of the layers that it opens with.
_OF_DATASET: dict[str, tuple[str, ...]] = {
    "labels": ("visible",),
    "composite": ("visible", "opacity"),
    "band": ("visible", "opacity"),
}
_LAYERS, _LOCKED = "layers", "locked"
_LEAST_OPACITY = 0.01


class Looks(WindowBound):
    """Gives layers the looks kept for their kind or for their dataset, and keeps what a person changes."""

    def __init__(self, window: QWidget, viewer: Any) -> None:
        super().__init__(window, viewer)
        # Layers by the names that they came with: a person may give them others.
        self._known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._changed: dict[str, int] = {}
        self._changed_of_dataset: dict[str, dict[str, dict[str, Any]]] = {}
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REST_MS)
        self._timer.timeout.connect(self.write)
        window.installEventFilter(self)
        if self.workspace is not None:
            self.workspace.layers_changed.connect(self._on_layers)
            self.workspace.locks_changed.connect(self._keep_locks)
        self._on_layers()

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Write before the window closes."""
        if event.type() == QEvent.Type.Close and watched is self.window:
            self.write()
        return False

    def write(self) -> None:
        """Write what was changed."""
        of_datasets, self._changed_of_dataset = self._changed_of_dataset, {}
        for key, layers in of_datasets.items():
            before = _layers_kept(key)
            keep_of(key, before | {name: {**before.get(name, {}), **looks} for name, looks in layers.items()})
        changed, self._changed = self._changed, {}
        keep_all(changed)

    def _on_layers(self) -> None:
        workspace = self.workspace
        if workspace is None or workspace.session is None:
            return
        ours = [layer for layer in workspace.viewer.layers if tag_of(layer).get("session") is workspace.session]
        new = [layer for layer in ours if layer not in self._known and _role(layer) in {*_KEPT, *_OF_DATASET}]
        if not new:
            return
        # The same dataset may have been left a moment ago.
        self.write()
        key = of_dataset(workspace.session.root, _LAYERS)
        of_dataset_kept = _layers_kept(key)
        for layer in new:
            self._known[layer] = _name(layer)
            for name, steps, least in _KEPT.get(_role(layer), ()):
                self._dress(layer, name, steps, least)
            for name in _OF_DATASET.get(_role(layer), ()):
                value = of_dataset_kept.get(self._known[layer], {}).get(name)
                if value is not None:
                    setattr(layer, name, value)
                getattr(layer.events, name).connect(self._on_changed_of_dataset)
            if _role(layer) == "labels":
                _give_locks(layer)

    def _dress(self, layer: Any, name: str, steps: int, least: int) -> None:
        value = kept(_key(layer, name), -1)
        if value >= least:
            setattr(layer, name, value / steps if steps > 1 else value)
        getattr(layer.events, name).connect(self._on_changed)

    def _on_changed(self, event: Any) -> None:
        layer = event.source
        for name, steps, least in _KEPT.get(_role(layer), ()):
            # A class picked on the canvas is a number of NumPy, which settings would not hold.
            value = round(float(getattr(layer, name)) * steps)
            if event.type == name and (value >= least or name != "selected_label"):
                self._changed[_key(layer, name)] = max(value, least)
                self._timer.start()

    def _on_changed_of_dataset(self, event: Any) -> None:
        workspace, layer = self.workspace, event.source
        if workspace is None or workspace.compares:
            return
        value = bool(layer.visible) if event.type == "visible" else max(float(layer.opacity), _LEAST_OPACITY)
        layers = self._changed_of_dataset.setdefault(of_dataset(tag_of(layer)["session"].root, _LAYERS), {})
        layers.setdefault(self._known[layer], {})[event.type] = value
        self._timer.start()

    def _keep_locks(self) -> None:
        workspace = self.workspace
        if workspace is not None and workspace.session is not None:
            keep_of(_locks_key(workspace.session), sorted(workspace.session.locked_classes))


def _give_locks(layer: Any) -> None:
    """Lock the classes that were locked when the dataset was left."""
    session = tag_of(layer)["session"]
    locked = kept_of(_locks_key(session))
    if isinstance(locked, list):
        session.locked_classes.clear()
        session.locked_classes.update(index for index in range(session.scheme.num_classes) if index in locked)


def _layers_kept(key: str) -> dict[str, dict[str, Any]]:
    """What is kept of a dataset's layers, as far as it can be used."""
    found = kept_of(key)
    layers = found.items() if isinstance(found, dict) else ()
    return {name: _usable(looks) for name, looks in layers if isinstance(looks, dict)}


def _usable(looks: dict[str, Any]) -> dict[str, Any]:
    visible, opacity = looks.get("visible"), looks.get("opacity")
    usable: dict[str, Any] = {"visible": visible} if isinstance(visible, bool) else {}
    if isinstance(opacity, float | int) and _LEAST_OPACITY <= opacity <= 1:
        usable["opacity"] = opacity
    return usable


def _role(layer: Any) -> str:
    return str(tag_of(layer).get("role", ""))


def _name(layer: Any) -> str:
    """What a layer is called in every window; napari numbers names that are there already."""
    return str(tag_of(layer).get("band") or re.sub(r" \[\d+\]$", "", layer.name))


def _locks_key(session: Any) -> str:
    # Class 1 of one scheme is not class 1 of another.
    return of_dataset(session.root, f"{_LOCKED}_{session.scheme.name}")


def _key(layer: Any, name: str) -> str:
    scheme = f"_{tag_of(layer)['session'].scheme.name}" if name == "selected_label" else ""
    return f"looks/{_role(layer)}_{name}{scheme}"
