"""The Predict widget in a real napari window: cancelled, and asked about a pixel by a click on the canvas."""

import threading

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_glacier.controllers import parts
from napari_glacier.controllers.workspace import workspace_of

pytestmark = pytest.mark.gui


@pytest.fixture
def widget(viewer, qtbot, make_dataset, make_checkpoint, monkeypatch):
    """The widget with a scene of many small windows and a model."""
    monkeypatch.setattr(parts, "WINDOW_PX", 64)
    monkeypatch.setattr(parts, "OVERLAP_PX", 16)
    monkeypatch.setattr("napari_glacier.nn.engines.import_openvino", lambda: None)
    viewer.open(str(make_dataset(grid=(3, 3))), plugin="napari-glacier")
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Predict")
    view.use_model(make_checkpoint())
    view.choose(scope="all", tta="off", device="cpu")
    viewer.window._qt_window.resize(1200, 700)
    viewer.window._qt_window.show()
    qtbot.wait(50)
    viewer.reset_view()
    return view


@pytest.fixture
def gate(monkeypatch):
    """Holds networks back before the window whose first row is `gate.row`, until `gate.opened` is set."""
    from napari_glacier.nn.inference import EnsembleRunner

    class Gate:
        row = 96
        opened = threading.Event()
        reached = threading.Event()

    original = EnsembleRunner.__call__

    def held(self, pieces, tick):
        if pieces[0].window.row >= Gate.row:
            Gate.reached.set()
            assert Gate.opened.wait(60)
        return original(self, pieces, tick)

    monkeypatch.setattr(EnsembleRunner, "__call__", held)
    yield Gate
    Gate.opened.set()


def _click(viewer, row, col, *, drag_px=0):
    """Press and release the mouse over a pixel of the scene, as a person does."""
    canvas = viewer.window._qt_viewer.canvas
    layer = workspace_of(viewer).labels_layer
    world = layer.data_to_world((row, col))
    camera = viewer.scene.camera
    down, right = (np.array(world) - np.array(camera.center[-2:])) * camera.zoom
    native = canvas.native
    point = QPoint(round(native.width() / 2 + right), round(native.height() / 2 + down))
    QTest.mousePress(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, point)
    if drag_px:
        QTest.mouseMove(native, point + QPoint(drag_px // 2, 0))
        QTest.mouseMove(native, point + QPoint(drag_px, 0))
    QTest.mouseRelease(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, point + QPoint(drag_px, 0))


def test_layers_grow_and_cancelling_keeps_and_marks_them(viewer, qtbot, widget, gate):
    workspace = workspace_of(viewer)
    widget._job.run_button.click()
    qtbot.waitUntil(lambda: gate.reached.is_set() and workspace.prediction_layer is not None, timeout=60_000)
    qtbot.waitUntil(lambda: widget._last_step.share == 0.5, timeout=10_000)
    layer = workspace.prediction_layer
    assert layer.name == "Prediction (incomplete)"
    assert layer.data[:96].any()
    assert not layer.data[96:].any()
    shown = viewer.window._qt_viewer.canvas.layer_to_visual[layer].node._data
    assert np.array_equal(shown, layer.data), "what is drawn is what has been computed"
    assert not widget._accept_button.isEnabled()
    assert widget._job.bar.maximum() > 0

    task = widget._task
    widget._job.cancel_button.click()

    assert not widget.running, "a person need not wait for the batch under way"
    assert task.is_alive
    assert widget.notice == "Cancelled: 50 % of the scene is predicted and shown. Nothing was written."
    assert "Incomplete" in widget._shown.text()
    assert widget._accept_button.isEnabled()
    assert not (workspace.session.root / "predictions").exists()
    gate.opened.set()
    qtbot.waitUntil(lambda: not task.is_alive, timeout=60_000)
    assert not layer.data[96:].any(), "what comes after cancelling is not shown"


def test_cancelling_while_members_are_made_ready_is_at_once_and_the_next_run_follows(
    viewer, qtbot, widget, monkeypatch
):
    from napari_glacier.nn import predictor

    opened, reached = threading.Event(), threading.Event()
    original = predictor.make_engine

    def slow(*arguments, **settings):
        reached.set()
        assert opened.wait(60)
        return original(*arguments, **settings)

    monkeypatch.setattr(predictor, "make_engine", slow)
    widget.run()
    qtbot.waitUntil(lambda: "preparing member 1 of 1" in widget._job.said, timeout=60_000)
    assert widget._job.bar.maximum() == 0
    assert reached.wait(10)
    first = widget._task
    widget.cancel()
    assert not widget.running
    assert "before any of it" in widget.notice
    widget.run()
    qtbot.waitUntil(lambda: "cancelled" in widget._job.said, timeout=10_000)
    opened.set()
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    assert not first.is_alive
    assert widget.notice.startswith("Predicted with tiny")


def test_a_click_on_the_canvas_asks_the_members(viewer, qtbot, widget):
    workspace, panel = workspace_of(viewer), widget.votes_panel
    widget.run()
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    _click(viewer, 100, 90)
    assert not panel._text.isVisibleTo(panel), "clicks are no questions unless a person wants them to be"
    panel.button.click()
    assert viewer.layers.selection.active is workspace.prediction_layer

    before = workspace.prediction_layer.data.copy()
    _click(viewer, 100, 90)
    qtbot.waitUntil(lambda: panel._answer.isVisibleTo(panel), timeout=60_000)
    name = workspace.session.scheme.class_names[before[100, 90]]
    assert "Row 100, column 90<br>E 502" in panel.text
    assert f"The map shows <b>{name}</b>" in panel.text
    shares = [panel._mean._grid.itemAtPosition(row, 2).widget().text() for row in range(4)]
    assert sum(float(share.removesuffix(" %")) for share in shares) == pytest.approx(100, abs=0.3)
    assert panel._mean._grid.itemAtPosition(0, 1).widget().text() == name
    member = [panel._members._grid.itemAtPosition(0, column).widget().text() for column in (1, 2, 3)]
    assert member == ["tiny", name, shares[0]]
    entropy = float(panel._measures.text().removeprefix("Entropy ").split(",")[0])
    assert entropy == pytest.approx(float(workspace.uncertainty_layer.data[100, 90]), abs=2e-3)

    qtbot.waitUntil(lambda: not panel._measures.visibleRegion().isEmpty(), timeout=5_000)

    _click(viewer, 101, 91)
    assert "Row 101, column 91" in panel.text, "windows asked before answer at once"
    _click(viewer, 4, 5)
    assert "No data" in panel.text
    assert not panel._answer.isVisibleTo(panel)
    _click(viewer, 100, 90, drag_px=60)
    assert "No data" in panel.text, "a drag pans and asks nothing"
    viewer.reset_view()
    qtbot.wait(100)  # until the canvas has been drawn from there

    labels = workspace.labels_layer
    viewer.layers.selection.active = labels
    labels.mode = "paint"
    labels.selected_label = (int(np.asarray(labels.data)[100, 90]) + 1) % 4
    _click(viewer, 100, 90)
    assert np.asarray(labels.data)[100, 90] == labels.selected_label
    assert "No data" in panel.text, "with a brush in hand a click paints and asks nothing"
    assert np.array_equal(workspace.prediction_layer.data, before)


def test_clicks_while_a_run_is_under_way(viewer, qtbot, widget, gate):
    workspace, panel = workspace_of(viewer), widget.votes_panel
    widget.run()
    qtbot.waitUntil(lambda: gate.reached.is_set() and workspace.prediction_layer is not None, timeout=60_000)
    qtbot.waitUntil(lambda: widget._last_step.share == 0.5, timeout=10_000)
    panel.button.click()
    _click(viewer, 170, 90)
    assert "Not predicted (yet)" in panel.text
    _click(viewer, 70, 90)
    assert "The networks are busy" in panel.text
    gate.opened.set()
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    _click(viewer, 170, 90)
    qtbot.waitUntil(lambda: panel._answer.isVisibleTo(panel), timeout=60_000)


def test_an_earlier_prediction_is_chosen_from_the_menu(viewer, qtbot, widget):
    workspace = workspace_of(viewer)
    root = workspace.session.root
    widget.run()
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    before = workspace.prediction_layer.data.copy()
    workspace.close_session()
    assert workspace.prediction_layer is None
    workspace.open(root)
    assert not widget._result.isVisible()
    (root / "predictions" / "tiny").rename(root / "predictions" / "dry & wet")

    widget._earlier.list.aboutToShow.emit()
    earlier, _, from_a_folder = widget._earlier.list.actions()
    assert earlier.text().startswith("dry && wet, "), "a single & would be swallowed"
    assert from_a_folder.text() == "From a folder…"
    earlier.trigger()
    qtbot.waitUntil(lambda: not widget.running, timeout=10_000)

    assert np.array_equal(workspace.prediction_layer.data, before)
    assert widget.notice == "Shown: the map of tiny in predictions/dry & wet."
    assert widget._result.isVisible()
    assert "Incomplete" not in widget._shown.text()


def test_a_folder_without_maps_is_told(viewer, qtbot, widget, tmp_path):
    widget.show_earlier(tmp_path)
    qtbot.waitUntil(lambda: not widget.running, timeout=10_000)
    assert "holds no map of what is on screen" in widget.notice
    assert widget._earlier.isEnabled()
    assert widget._job.run_button.isEnabled()


@pytest.mark.parametrize("how", ["by a person", "by closing the dataset"])
def test_reading_an_earlier_prediction_is_cancelled(viewer, qtbot, widget, monkeypatch, how):
    from napari_glacier.core.data.predictions import PredictedTile

    workspace = workspace_of(viewer)
    widget.run()
    qtbot.waitUntil(lambda: not widget.running, timeout=60_000)
    root = workspace.session.root
    workspace.close_session()
    workspace.open(root)
    opened, read, original = threading.Event(), threading.Event(), PredictedTile.read_index

    def held(self, scheme, rows):
        if read.is_set():
            assert opened.wait(60)
        read.set()
        return original(self, scheme, rows)

    monkeypatch.setattr(PredictedTile, "read_index", held)
    widget.show_earlier(widget.controller.earlier()[0][0])
    qtbot.waitUntil(lambda: workspace.prediction_layer is not None, timeout=10_000)
    if how == "by a person":
        widget._job.cancel_button.click()
    else:
        workspace.close_session()
    opened.set()

    assert not widget.running
    if how == "by closing the dataset":
        assert widget.notice == "Cancelled: its dataset is no longer open."
        return
    assert widget.notice == "Cancelled: what had been read is shown."
    assert "Incomplete" in widget._shown.text()
    assert workspace.prediction_layer.name == "Prediction (incomplete)"
