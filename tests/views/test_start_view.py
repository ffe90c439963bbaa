"""Start here, in a real napari window."""

import numpy as np
import pytest
from qtpy.QtWidgets import QTabBar

from napari_glacier.controllers.exchange import UNMAPPED_TILES
from napari_glacier.controllers.workspace import workspace_of

pytestmark = pytest.mark.gui


def _dock(viewer, name):
    return viewer.window.add_plugin_dock_widget("napari-glacier", name)[1]


def _ticked(view):
    return [key for key, mark in view._marks.items() if mark.text() == "✓"]


def test_the_buttons_lead_through_the_steps(viewer, qtbot, make_checkpoint):
    view = _dock(viewer, "Start here")
    assert view._button.text() == "Open the region"
    assert not view._again_button.isVisibleTo(view)

    view._button.click()
    workspace = workspace_of(viewer)
    qtbot.waitUntil(lambda: _ticked(view) == ["open"])
    assert view._again_button.isVisibleTo(view)

    predict = view.go()
    predict.use_model(make_checkpoint())
    predict.choose(device="cpu")
    predict.run()
    qtbot.waitUntil(lambda: _ticked(view) == ["open", "predict"], timeout=120_000)
    assert view.go() is predict
    # The last rows may be seen before the prediction is over.
    qtbot.waitUntil(predict._accept_button.isEnabled)
    predict._accept_button.click()
    qtbot.waitUntil(lambda: _ticked(view) == ["open", "predict", "accept"])

    correct = view.go()
    assert workspace.tile_under_view().tile.id == UNMAPPED_TILES[0]
    layer = workspace.labels_layer
    _, place = workspace.session.find(UNMAPPED_TILES[0])
    at = (place.row + 30, place.col + 30)
    layer.brush_size = 5
    with layer.block_history():
        layer.paint(at, int((np.asarray(layer.data)[at] + 1) % 4))
    layer.events.paint(value=[])
    qtbot.waitUntil(lambda: "Painted" in view._text.text())
    correct.save()
    qtbot.waitUntil(lambda: "fix" in _ticked(view))

    train = view.go()
    assert train.plan().recipe == "quick"
    assert train.plan().data == workspace.session.root
    # It stands above the widgets, which are tabs beside each other.
    docks = viewer.window._qt_window.tabifiedDockWidgets(view.parent())
    assert not docks
    assert view.height() < 260


def test_closing_it_lets_go_and_it_can_be_taken_up_again(viewer, qtbot):
    view = _dock(viewer, "Start here")
    view._button.click()
    qtbot.waitUntil(lambda: _ticked(view) == ["open"])
    viewer.window.remove_dock_widget(view.parent())
    qtbot.waitUntil(lambda: not view._open)
    viewer.layers.clear()

    again = _dock(viewer, "Start here")
    assert again._button.text() == "Open it and go on"
    again._button.click()
    qtbot.waitUntil(lambda: _ticked(again) == ["open"])


@pytest.mark.parametrize("size", [(1366, 768), (1000, 600)])
def test_its_buttons_are_whole_from_the_first_look_on(viewer, qtbot, size):
    viewer.window.resize(*size)
    viewer.show()
    view = _dock(viewer, "Start here")
    bar = view._scroll.verticalScrollBar()
    qtbot.waitUntil(lambda: view._button.height() > 0 and view._button.isVisible())
    qtbot.wait(300)
    assert bar.maximum() == 0
    _dock(viewer, "Data")
    qtbot.wait(300)
    assert bar.maximum() == 0


def test_beginning_again_in_a_window_on_screen_paints_the_fresh_copy(viewer, qtbot):
    # Layers leave and others come in one turn of Qt's loop: painting in between, and then anew, ended the process.
    viewer.window._qt_window.resize(1200, 700)
    viewer.window._qt_window.show()
    view = _dock(viewer, "Start here")
    view._button.click()
    qtbot.waitUntil(lambda: _ticked(view) == ["open"])
    qtbot.wait(100)

    view.steps.begin_again()
    viewer.window._qt_window.resize(1100, 650)
    qtbot.wait(200)

    layer = workspace_of(viewer).labels_layer
    assert layer in viewer.window._qt_viewer.canvas.layer_to_visual
    assert viewer.window._qt_viewer.canvas.screenshot().size


def test_it_opens_above_what_is_docked_already(viewer, qtbot):
    viewer.window.resize(1366, 768)
    viewer.show()
    names = ("Data", "Predict", "Correct")
    docks = [_dock(viewer, name).parent() for name in names]
    qtbot.wait(200)
    window = viewer.window._qt_window
    start = _dock(viewer, "Start here").parent()
    qtbot.waitUntil(lambda: start.y() < docks[2].y() and start.geometry().bottom() < docks[2].y())

    # What were tabs are tabs, in their order, with the same one in front.
    def tabs():
        bars = [bar for bar in window.findChildren(QTabBar) if bar.isVisible() and bar.tabText(0) == "Data"]
        return [([bar.tabText(k) for k in range(bar.count())], bar.tabText(bar.currentIndex())) for bar in bars]

    # Qt clears the bar away that was there before.
    qtbot.waitUntil(lambda: tabs() == [(list(names), "Correct")])
    train = _dock(viewer, "Train").parent()
    qtbot.waitUntil(lambda: start.geometry().bottom() < train.y())
