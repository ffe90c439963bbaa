"""Layers that a person removes by hand: the widgets say so, and bring them back."""

import subprocess
import sys

import numpy as np
import pytest
from qtpy.QtWidgets import QPushButton

from napari_glacier.controllers.workspace import workspace_of

pytestmark = pytest.mark.gui


def _dock(viewer, name):
    return viewer.window.add_plugin_dock_widget("napari-glacier", name)[1]


def _way_back(view):
    buttons = [button for button in view.findChildren(QPushButton) if button.text() == "Bring Labels back"]
    return next((button for button in buttons if button.isVisibleTo(view)), None)


@pytest.mark.parametrize("georeferenced", [True, False], ids=["a mosaic", "a stack"])
def test_labels_come_back_with_what_was_drawn(viewer, qtbot, make_dataset, georeferenced):
    viewer.open(str(make_dataset(georeferenced=georeferenced)), plugin="napari-glacier")
    views = [_dock(viewer, name) for name in ("Data", "Predict", "Correct", "Train", "Report")]
    correct = views[2]
    workspace = workspace_of(viewer)
    assert not any(map(_way_back, views))
    at = (0, 30, 30) if not georeferenced else (30, 30)
    drawn = int((np.asarray(workspace.labels_layer.data)[at] + 1) % 4)
    with workspace.labels_layer.block_history():
        workspace.labels_layer.paint(at, drawn)

    viewer.layers.remove(workspace.labels_layer)
    assert all(map(_way_back, views))
    # Nobody is told to open what is open.
    assert not correct._empty.isVisibleTo(correct)
    assert not correct._desk.isVisibleTo(correct)

    _way_back(correct).click()
    layer = workspace.labels_layer
    assert not any(map(_way_back, views))
    assert viewer.layers.selection.active is layer
    assert int(np.asarray(layer.data)[at]) == drawn
    assert correct._desk.isVisibleTo(correct)
    before = np.asarray(workspace.session.mask).copy()
    correct.controller.undo()
    assert (np.asarray(workspace.session.mask) != before).any()


def test_closing_or_changing_the_dataset_offers_no_labels(viewer, qtbot, make_dataset):
    first, second = make_dataset("first"), make_dataset("second", seed=1)
    view = _dock(viewer, "Data")
    view.open(first)
    view.tell("Something about the first.", error=True)
    view.open(second)
    assert _way_back(view) is None
    assert view.notice == ""
    viewer.layers.clear()
    assert _way_back(view) is None


def test_a_prediction_comes_back_as_it_was(viewer, qtbot, make_dataset, make_checkpoint):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    view = _dock(viewer, "Predict")
    view.use_model(make_checkpoint())
    view.choose(scope="all", device="cpu")
    view.run()
    qtbot.waitUntil(lambda: not view.running, timeout=120_000)
    workspace = workspace_of(viewer)
    before = np.asarray(workspace.prediction_layer.data).copy()
    assert "Uncertainty" in view._shown.text()
    workspace.uncertainty_layer.visible = True
    assert "hidden" not in view._shown.text()
    assert not view._layers_back.isVisibleTo(view)

    viewer.layers.remove(workspace.uncertainty_layer)
    assert "Uncertainty" not in view._shown.text()
    viewer.layers.remove(workspace.prediction_layer)
    assert not view._result.isVisibleTo(view)
    assert view.notice == ""
    view._layers_back.click()
    np.testing.assert_array_equal(workspace.prediction_layer.data, before)
    assert workspace.uncertainty_layer is not None
    assert view._result.isVisibleTo(view)
    assert not view._layers_back.isVisibleTo(view)

    # Nothing is taken over unseen.
    labels = np.asarray(workspace.session.mask).copy()
    viewer.layers.remove(workspace.labels_layer)
    view.accept()
    assert "Labels was removed" in view.notice
    np.testing.assert_array_equal(workspace.session.mask, labels)
    _way_back(view).click()
    assert view.notice == ""


_STACK_BENEATH_A_PICTURE = """
import sys
import time

import napari
import numpy as np
from qtpy.QtWidgets import QApplication


def wait():
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        QApplication.processEvents()


viewer = napari.Viewer()
viewer.open(sys.argv[1], plugin="napari-glacier")
viewer.add_image(np.zeros((64, 64)), name="mine")
wait()
for layer in [layer for layer in viewer.layers if layer.name != "mine"]:
    viewer.layers.remove(layer)
wait()
viewer.add_labels(np.zeros((64, 64), np.uint8))
wait()
print("alive", len(viewer.layers), flush=True)
viewer.close()
"""


def test_a_stack_goes_from_beneath_a_picture_that_stays(make_dataset):
    # In a process of its own: what a layer leaves on the graphics card, freed in a context that is not the canvas's,
    # ends the process with a segmentation fault.
    command = [sys.executable, "-c", _STACK_BENEATH_A_PICTURE, str(make_dataset(georeferenced=False))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split() == ["alive", "2"], f"exit status {done.returncode}\n{done.stderr[-2000:]}"


def test_the_list_of_layers_is_laid_out_anew_for_what_it_shows_and_for_nothing_else(viewer, qtbot, make_dataset):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    _dock(viewer, "Correct")
    layer = workspace_of(viewer).labels_layer
    heard = []
    view = viewer.window._qt_viewer.layers
    view.model().dataChanged.connect(lambda first, last, roles: heard.append(view.model().data(first)))
    # The like is told of a layer at every step of a brush, and while the view moves.
    layer.events.extent()
    layer.brush_size += 1
    assert heard == []
    layer.visible = not layer.visible
    layer.events.thumbnail()
    layer.name = "Glaciers"
    assert heard[:2] == ["Labels", "Labels"]
    assert heard[-1] == "Glaciers"
    number = view.model().rowCount()
    viewer.add_labels(np.zeros((4, 4), np.uint8), name="Another one")
    assert view.model().rowCount() == number + 1
