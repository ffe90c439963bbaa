"""A large mosaic corrected through the canvas: while it is worked on, the window goes on with its other events."""

import time
from itertools import pairwise
from threading import Event, Thread

import numpy as np
import pytest
from qtpy.QtCore import QObject, QPoint, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.raster import GeoRef, write_mask, write_raster

SIDE_PX, TILE_PX = 8192, 256


class Heart(QObject):
    """Counts its beats on the GUI thread; a thread with a clock of its own asks for them."""

    def __init__(self):
        super().__init__()
        self.beats = 0
        self._timer = QTimer(self)
        self._timer.setInterval(5)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def _beat(self):
        self.beats += 1


def _watched(heart, work):
    """Do some work; gives the beats in each half second of a clock in another thread."""
    beats, done = [], Event()

    def watch():
        while not done.wait(0.5):
            beats.append(heart.beats)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return beats


@pytest.fixture
def mosaic(tmp_path):
    """Tiles in the middle and in two corners of 8192 x 8192 pixels; the rest are gaps."""
    rng, scheme = np.random.default_rng(0), get_scheme("glacier4")
    middle, last = SIDE_PX // 2, SIDE_PX - TILE_PX
    places = [(middle + row, middle + col) for row in (-TILE_PX, 0) for col in (-TILE_PX, 0)]
    for number, (row, col) in enumerate([*places, (0, 0), (last, last)]):
        index_HW = np.repeat(rng.integers(0, 4, (8, 8)).astype(np.uint8), TILE_PX // 8, 0).repeat(TILE_PX // 8, 1)
        georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0 + 30 * col, 0.0, -30.0, 3_800_000.0 - 30 * row))
        for k, band in enumerate(CANONICAL_BANDS):
            plane_HW = 8_000 + 9_000.0 * index_HW * (1 - 0.1 * k) + rng.integers(0, 200, index_HW.shape)
            write_raster(tmp_path / f"Band{k + 1}" / f"{band}_{number}.tif", plane_HW.astype(np.uint16), georef)
        write_mask(tmp_path / "label" / f"mask_{number}.tif", index_HW, scheme, georef)
    return tmp_path


def test_strokes_fills_and_undo_on_a_large_mosaic_leave_the_window_alive(viewer, qtbot, mosaic):
    viewer.open(str(mosaic), plugin="napari-glacier")
    viewer.window.resize(1000, 640)
    viewer.show()
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
    workspace, tools = workspace_of(viewer), view.controller.tools
    session, layer = workspace.session, workspace.labels_layer
    assert session.mask.shape == (SIDE_PX, SIDE_PX)
    camera, canvas = viewer.scene.camera, viewer.window._qt_viewer.canvas.native
    camera.zoom = 1 / 30
    camera.center = (0.0, *layer.data_to_world((SIDE_PX / 2, SIDE_PX / 2)))
    qtbot.wait(200)
    # On a busy machine a drag may rest for longer than the person who would get two strokes of it.
    session.mask._recorder._idle_s = 30.0
    before = np.asarray(session.mask)
    left, middle = Qt.MouseButton.LeftButton, QPoint(canvas.width() // 2, canvas.height() // 2)
    full_draws, shown = [], []
    layer.events.set_data.connect(full_draws.append)
    layer.events.labels_update.connect(lambda event: shown.append(np.size(event.data)))

    def work():
        view.controller.set_tool("paint")
        view.controller.select_class(3)
        for k in range(4):
            start = middle + QPoint(30 * k - 60, -40)
            QTest.mousePress(canvas, left, Qt.KeyboardModifier.NoModifier, start)
            for step in range(1, 6):
                QTest.mouseMove(canvas, start + QPoint(0, 15 * step))
                QApplication.processEvents()
            QTest.mouseRelease(canvas, left, Qt.KeyboardModifier.NoModifier, start + QPoint(0, 75))
            QApplication.processEvents()
        QTest.keyClick(canvas, Qt.Key.Key_S)
        view.controller.select_class(2)
        qtbot.waitUntil(lambda: bool(tools.source._kept), timeout=5000)
        for k in range(3):
            QTest.mouseClick(canvas, left, Qt.KeyboardModifier.NoModifier, middle + QPoint(100, 60 - 60 * k))
            qtbot.waitUntil(lambda: tools.proposal is not None and not tools.busy, timeout=5000)
        QTest.keyClick(canvas, Qt.Key.Key_Return)
        assert tools.proposal is None
        for _ in range(len(session.journal.history())):
            QTest.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
            QApplication.processEvents()

    heart = Heart()
    qtbot.waitUntil(lambda: heart.beats > 3, timeout=5000)
    start, first = time.monotonic(), heart.beats
    beats = _watched(heart, work)
    assert heart.beats > first + 10
    # Between two looks of the other clock the window did something else, too.
    stood_still = sum(one == other for one, other in pairwise(beats))
    assert stood_still <= len(beats) // 4, (beats, time.monotonic() - start)
    tool_names = [info.tool for info in session.journal.history()]
    assert tool_names[-5:] == ["smart fill", "paint", "paint", "paint", "paint"]
    assert tool_names.count("undo") == 5
    np.testing.assert_array_equal(np.asarray(session.mask), before)
    np.testing.assert_array_equal(layer._slice.image.raw, before)
    # What was drawn, taken and undone was drawn by itself, never the 67 million pixels of the scene.
    assert not full_draws
    assert shown
    assert max(shown) < 1_000_000
