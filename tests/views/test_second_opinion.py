"""A second reviewer's masks, walked through by the widget and its keys."""

from threading import Event

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.raster import write_mask


@pytest.fixture
def correct(viewer, make_dataset, tmp_path):
    """The Correct widget; what the labels are, and what those of ``ben`` are, which differ in two places."""
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    viewer.show()
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
    session = workspace_of(viewer).session
    before = np.asarray(session.mask)
    theirs = before.copy()
    for part in (np.s_[60:75, 40:60], np.s_[100:106, 90:95]):
        theirs[part] = (theirs[part] + 1) % 4
    for place in session.scenes[0].placements:
        write_mask(tmp_path / "ben" / f"{place.tile.id}.tif", theirs[place.slices], session.scheme, place.tile.georef)
    return view, before, theirs


def test_a_folder_is_chosen_shown_walked_through_and_left(viewer, qtbot, correct, tmp_path, monkeypatch):
    view, before, theirs = correct
    panel, session = view._next_panel, workspace_of(viewer).session
    assert next(panel._source.itemText(k) for k in range(panel._source.count())) == "Uncertain regions"
    asked = []
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: asked.append(1) or str(tmp_path / "ben"))
    panel._source.activated.emit(panel._source.count() - 1)
    assert asked
    assert panel._source.currentText() == "Second opinion: ben"
    qtbot.waitUntil(lambda: "2 regions differ" in panel._said.text(), timeout=5000)
    assert "Second opinion" in viewer.layers
    assert panel._buttons["accept region"].text() == "Theirs Y"

    canvas = viewer.window._qt_viewer.canvas.native
    QTest.keyClick(canvas, Qt.Key.Key_W)
    assert "for ben" in panel._said.text()
    QTest.keyClick(canvas, Qt.Key.Key_Y)
    now = np.asarray(session.mask)
    np.testing.assert_array_equal(now[60:75, 40:60], theirs[60:75, 40:60])
    np.testing.assert_array_equal(now[100:106, 90:95], before[100:106, 90:95])
    QTest.keyClick(canvas, Qt.Key.Key_U)
    assert "Nothing is left" in panel._said.text()

    panel._source.activated.emit(0)
    assert "Second opinion" not in viewer.layers
    assert panel._source.currentText() == "Uncertain regions"

    # A folder that says nothing is told of, and nothing is compared.
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    panel.ask_folder()
    assert "neither masks of these tiles" in view.notice
    assert view.controller.walk is view.controller.attention

    # Once a good one is chosen, that is forgotten.
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "ben"))
    panel.ask_folder()
    assert view.notice == ""


def test_what_is_done_while_the_two_are_compared_in_a_thread_stays_done(qtbot, correct, tmp_path, monkeypatch):
    view, _, _ = correct
    panel, walk = view._next_panel, view.controller.disagreement
    go_on, plans, plan = Event(), [], walk.plan

    def slow_at_first():
        build = plan()
        plans.append(build)
        return build if len(plans) > 1 else lambda: (build(), go_on.wait(10))[0]

    monkeypatch.setattr(walk, "plan", slow_at_first)
    walk.choose_folder(tmp_path / "ben")
    qtbot.waitUntil(lambda: panel._worker is not None, timeout=5000)
    view.controller.go("next")
    view.controller.go("fixed")
    go_on.set()
    qtbot.waitUntil(lambda: panel._worker is None, timeout=5000)
    assert walk.current is not None
    assert "1 region " in panel._said.text()
