"""What a person chose comes back in the next window."""

import pytest

from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.views.looks import Looks
from napari_glacier.views.settings import kept, settings

pytestmark = pytest.mark.gui


def _dock(viewer, name):
    return viewer.window.add_plugin_dock_widget("napari-glacier", name)


def test_opacity_and_brush_come_back_with_the_next_dataset(viewer, qtbot, make_dataset):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    layer = workspace_of(viewer).labels_layer
    assert layer.opacity != 0.31
    layer.opacity, layer.brush_size = 0.31, 17
    band = next(layer for layer in viewer.layers if layer.name.startswith("B2"))
    band.opacity = 0.5
    qtbot.waitUntil(lambda: kept("looks/labels_opacity", 0) == 31)
    viewer.layers.clear()

    viewer.open(str(make_dataset("another")), plugin="napari-glacier")
    again = workspace_of(viewer).labels_layer
    assert again is not layer
    assert again.opacity == 0.31
    assert again.brush_size == 17
    assert next(layer for layer in viewer.layers if layer.name.startswith("B2")).opacity == 1.0
    assert len(viewer.window._qt_window.findChildren(Looks)) == 1


def test_the_model_used_last_is_chosen_again(viewer, qtbot, make_dataset, make_checkpoint):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    dock, view = _dock(viewer, "Predict")
    assert view.model.source is None
    model = make_checkpoint()
    view.use_model(model)
    view.choose(scope="tile", tta=2, device="cpu")
    view.run()
    view.cancel()
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not view._open)

    dock, again = _dock(viewer, "Predict")
    assert again is not view
    assert again.model.source == model
    assert again._tta.currentText() == "2 views"
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not again._open)

    model.unlink()
    _, last = _dock(viewer, "Predict")
    assert last.model.source is None, "a model that is gone is not offered"


def test_a_value_of_another_kind_is_passed_over():
    settings().setValue("predict/tta", "seven")
    assert kept("predict/tta", 2) == 2
