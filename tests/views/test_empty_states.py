"""What the widgets say where there is nothing yet, and where their buttons lead."""

import pytest
from qtpy.QtWidgets import QDockWidget, QPushButton

from napari_glacier.controllers.workspace import workspace_of

pytestmark = pytest.mark.gui


def _dock(viewer, name):
    return viewer.window.add_plugin_dock_widget("napari-glacier", name)[1]


def _open_now(viewer):
    return {dock.widget().__class__.__name__ for dock in viewer.window._qt_window.findChildren(QDockWidget)}


@pytest.mark.parametrize("name", ["Predict", "Correct", "Train", "Report"])
def test_without_a_dataset_a_button_leads_to_one(viewer, qtbot, make_dataset, name):
    view = _dock(viewer, name)
    assert view._empty.isVisibleTo(view)
    buttons = view._empty.findChildren(QPushButton)
    assert [button.text() for button in buttons] == ["Open a dataset…", "Start here, with a sample"]
    for button in buttons:
        button.click()
    assert {"DataView", "StartView"} <= _open_now(viewer)

    viewer.open(str(make_dataset()), plugin="napari-glacier")
    qtbot.waitUntil(lambda: not view._empty.isVisibleTo(view))
    viewer.layers.clear()
    qtbot.waitUntil(lambda: view._empty.isVisibleTo(view))


def test_training_says_what_it_lacks(viewer, qtbot, make_dataset):
    view = _dock(viewer, "Train")
    assert not view._start_button.isEnabled()
    assert view.form.estimate.text() == "Choose a dataset with masks and an output folder first."

    viewer.open(str(make_dataset(masks=False)), plugin="napari-glacier")
    qtbot.waitUntil(lambda: "No tile of this dataset has a mask" in view.form.estimate.text())
    assert not view._start_button.isEnabled()

    session = workspace_of(viewer).session
    session.mask[100:104, 100:104] = 1
    session.commit()
    session.save()
    view._look_for_runs()
    assert view._start_button.isEnabled()
    assert "No tile" not in view.form.estimate.text()
