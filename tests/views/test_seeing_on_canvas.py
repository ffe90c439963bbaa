"""Comparing two pictures, judged by what the canvas shows."""

import time

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_glacier.controllers.layers import KEY, class_colormap, class_features, world_placement
from napari_glacier.controllers.seeing import SIDE_BY_SIDE
from napari_glacier.controllers.workspace import workspace_of

PREDICTED, LABELLED = 3, 1


@pytest.fixture
def desk(viewer, qtbot, make_dataset):
    """A region whose labels are all of one class and whose prediction is all of another."""
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    viewer.window.resize(1100, 700)
    viewer.show()
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
    workspace = workspace_of(viewer)
    session = workspace.session
    workspace.assign(np.full(session.mask.shape, LABELLED, np.uint8), np.ones(session.mask.shape, bool), "paint")
    layer = viewer.add_labels(
        np.full(session.mask.shape, PREDICTED, np.uint8),
        name="Prediction",
        colormap=class_colormap(session.scheme),
        features=class_features(session.scheme),
        metadata={KEY: {"session": session, "role": "prediction", "model": "tiny", "known": session.valid}},
        **world_placement(session.georef()),
    )
    layer.opacity = workspace.labels_layer.opacity = 1.0
    viewer.layers.move(viewer.layers.index(layer), viewer.layers.index(workspace.labels_layer))
    viewer.layers.selection.active = workspace.labels_layer
    qtbot.wait(100)
    viewer.reset_view()
    qtbot.wait(100)
    view.view_of = viewer
    return view


def _seen(view, qtbot, row, col):
    """The class whose colour the canvas shows at a share of its height and width; None for no class."""
    qtbot.wait(120)
    picture = np.asarray(view.view_of.screenshot(canvas_only=True, flash=False))[..., :3].astype(int)
    at = picture[round(row * (picture.shape[0] - 1)), round(col * (picture.shape[1] - 1))]
    for index, color in enumerate(view.workspace.session.scheme.colors):
        wanted = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
        if index and np.abs(at - wanted).max() <= 3:
            return index
    return None


def _state(viewer):
    grid, text = viewer.canvas.grid, viewer.canvas.overlays.text
    return (
        [(layer.name, layer.visible) for layer in viewer.layers],
        (grid.enabled, grid.stride, grid.shape),
        (text.text, text.visible),
        viewer.layers.selection.active,
    )


def _key(view, key):
    QTest.keyClick(view.view_of.window._qt_viewer.canvas.native, key)


def test_the_divider_parts_prediction_and_labels_and_is_drawn_with_the_mouse(desk, qtbot):
    viewer, before = desk.view_of, _state(desk.view_of)
    labels = np.asarray(desk.workspace.labels_layer.data)
    _key(desk, Qt.Key.Key_K)
    assert desk.controller.seeing.mode == "swipe"
    assert _seen(desk, qtbot, 0.5, 0.4) == PREDICTED
    assert _seen(desk, qtbot, 0.5, 0.6) == LABELLED

    # A brush is in the hand, and still the divider is taken.
    desk.controller.set_tool("paint")
    canvas = viewer.window._qt_viewer.canvas.native
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    there = QPoint(round(canvas.width() * 0.7), middle.y())
    qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, middle)
    for point in (QPoint((middle.x() + there.x()) // 2, middle.y()), there):
        QTest.mouseMove(canvas, point)
        QApplication.processEvents()
    qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, there)
    assert desk.controller.seeing.divider == pytest.approx(0.7, abs=0.01)
    assert _seen(desk, qtbot, 0.5, 0.6) == PREDICTED
    np.testing.assert_array_equal(np.asarray(desk.workspace.labels_layer.data), labels)

    # Elsewhere the brush draws; on the divider's other side what is drawn shows.
    desk.controller.select_class(2)
    desk.controller.set_brush(20)
    spot = QPoint(round(canvas.width() * 0.78), middle.y())
    qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, spot)
    assert _seen(desk, qtbot, 0.5, 0.78) == 2

    desk.controller.set_tool("pan_zoom")
    _key(desk, Qt.Key.Key_K)
    assert _state(viewer) == before


def test_the_divider_keeps_its_place_on_the_screen_when_the_view_moves(desk, qtbot):
    desk.controller.seeing.toggle("swipe")
    camera = desk.view_of.scene.camera
    camera.zoom *= 2.5
    camera.center = (0, camera.center[1] + 300, camera.center[2] - 200)
    assert _seen(desk, qtbot, 0.5, 0.47) == PREDICTED
    assert _seen(desk, qtbot, 0.5, 0.53) == LABELLED
    desk.controller.seeing.exchange()
    assert _seen(desk, qtbot, 0.5, 0.47) == LABELLED
    assert _seen(desk, qtbot, 0.5, 0.53) == PREDICTED
    desk.controller.seeing.end()


def test_side_by_side_moves_together_and_everything_comes_back(desk, qtbot):
    viewer, before = desk.view_of, _state(desk.view_of)
    _key(desk, Qt.Key.Key_O)
    assert _seen(desk, qtbot, 0.5, 0.25) == PREDICTED
    assert _seen(desk, qtbot, 0.5, 0.75) == LABELLED
    desk.controller.seeing.toggle("swipe")
    assert not viewer.canvas.grid.enabled
    desk.controller.seeing.toggle("swipe")
    assert _state(viewer) == before


def test_layers_that_come_or_go_leave_the_sides_as_they_are(desk, qtbot):
    viewer, before = desk.view_of, _state(desk.view_of)
    own = viewer.add_points([[0, 0]], name="mine", visible=False)
    viewer.layers.move(viewer.layers.index(own), 0)
    viewer.layers.selection.active = desk.workspace.labels_layer
    desk.controller.seeing.toggle(SIDE_BY_SIDE)
    place = viewer.add_points([[0, 0]], name="more", visible=False)
    assert _seen(desk, qtbot, 0.5, 0.25) == PREDICTED
    assert _seen(desk, qtbot, 0.5, 0.75) == LABELLED
    viewer.layers.remove(own)
    assert _seen(desk, qtbot, 0.5, 0.25) == PREDICTED
    assert _seen(desk, qtbot, 0.5, 0.75) == LABELLED
    desk.controller.seeing.end()
    viewer.layers.remove(place)
    viewer.layers.selection.active = desk.workspace.labels_layer
    assert _state(viewer) == before


def test_a_prediction_that_arrives_takes_no_composites_place_beside_another(desk, qtbot):
    viewer, seeing = desk.view_of, desk.controller.seeing
    layer = desk.workspace.prediction_layer
    viewer.layers.remove(layer)
    seeing.toggle(SIDE_BY_SIDE)
    sides = [one.name for one in seeing.pair]
    assert "Labels" not in sides
    viewer.layers.insert(viewer.layers.index(desk.workspace.labels_layer), layer)
    for column in (0.25, 0.75):
        assert _seen(desk, qtbot, 0.5, column) is None
    assert [one.name for one in seeing.pair] == sides
    seeing.end()
    assert desk.workspace.prediction_layer.visible


def test_a_key_tapped_goes_on_and_a_key_held_comes_back(desk, qtbot):
    viewer, before = desk.view_of, _state(desk.view_of)
    canvas = viewer.window._qt_viewer.canvas.native
    for wanted in (PREDICTED, LABELLED, None):
        _key(desk, Qt.Key.Key_T)
        assert _seen(desk, qtbot, 0.5, 0.5) == wanted
    _key(desk, Qt.Key.Key_T)
    assert _state(viewer) == before

    QTest.keyPress(canvas, Qt.Key.Key_T)
    assert _seen(desk, qtbot, 0.5, 0.5) == PREDICTED
    time.sleep(0.4)
    QTest.keyRelease(canvas, Qt.Key.Key_T)
    assert _state(viewer) == before


def test_it_flickers_by_itself(desk, qtbot):
    panel, seen = desk._seeing_panel, set()
    panel._buttons["flicker"].click()
    both = {PREDICTED, LABELLED}
    qtbot.waitUntil(lambda: bool(seen.add(_seen(desk, qtbot, 0.5, 0.5)) or seen >= both), timeout=30_000)
    panel._buttons["flicker"].click()
    assert desk.controller.seeing.mode == ""


def test_two_composites_are_compared_where_they_are_chosen(desk, qtbot):
    seeing = desk.controller.seeing
    seeing.choose("SWIR-green-blue", "True colour")
    seeing.toggle("swipe")
    visible = {layer.name for layer in desk.view_of.layers if layer.visible}
    assert {"True colour", "Swipe"} <= visible
    assert not visible & {"Labels", "Prediction", "SWIR-green-blue"}
    picture = desk.view_of.layers["Swipe"].data
    rendered = np.asarray(desk.view_of.layers["SWIR-green-blue"].data)
    assert picture[..., :3].shape == rendered[..., :3].shape
    opaque = rendered[..., 3] > 0
    np.testing.assert_array_equal(picture[..., :3][opaque], rendered[..., :3][opaque])
    # The same twice is no comparison: the other one is exchanged.
    seeing.choose("True colour", "True colour")
    assert [layer.name for layer in seeing.pair] == ["True colour", "SWIR-green-blue"]
    seeing.end()


def test_a_layer_that_is_taken_away_ends_it(desk, qtbot):
    viewer = desk.view_of
    desk.controller.seeing.toggle("swipe")
    viewer.layers.remove("Prediction")
    assert desk.controller.seeing.mode == ""
    assert {"Swipe", "Divider"}.isdisjoint(layer.name for layer in viewer.layers)
    # What remains are two composites.
    assert all(layer.name != "Prediction" for layer in desk.controller.seeing.pair)


@pytest.mark.parametrize("key", [None, Qt.Key.Key_O, Qt.Key.Key_K, Qt.Key.Key_T])
def test_all_layers_are_deleted_together(desk, qtbot, key, make_dataset):
    viewer, seeing = desk.view_of, desk.controller.seeing
    grid, text = viewer.canvas.grid, viewer.canvas.overlays.text
    before = grid.enabled, grid.stride, grid.shape, text.text
    if key is not None:
        _key(desk, key)
        assert seeing.mode
    viewer.layers.select_all()
    viewer.layers.remove_selected()
    qtbot.wait(100)
    assert list(viewer.layers) == []
    assert seeing.mode == ""
    assert (grid.enabled, grid.stride, grid.shape, text.text) == before
    assert desk.workspace.session is None
    # And the window goes on with another dataset.
    desk.workspace.open(make_dataset("other"))
    qtbot.wait(100)
    _key(desk, Qt.Key.Key_S)
    assert desk.controller.tools.tool == "smart fill"


def test_where_there_is_one_picture_it_is_said_what_a_second_would_be(viewer, qtbot, make_dataset):
    root = make_dataset()
    for folder in ("Band4", "Band5"):  # without B6 there is one composite
        for path in (root / folder).glob("*.tif"):
            path.unlink()
    viewer.open(str(root), plugin="napari-glacier")
    viewer.show()
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
    panel = view._seeing_panel
    qtbot.waitUntil(panel._why_not.isVisible)
    assert "there is one: SWIR-green-blue needs B6. Predict, show a band" in panel._why_not.text()
    assert not any(button.isEnabled() for button in panel._buttons.values())
    # What the sentence proposes.
    viewer.layers["B3 green"].visible = True
    qtbot.waitUntil(lambda: all(button.isEnabled() for button in panel._buttons.values()))
    assert not panel._why_not.isVisible()
    viewer.layers["B3 green"].visible = False
    qtbot.waitUntil(panel._why_not.isVisible)
