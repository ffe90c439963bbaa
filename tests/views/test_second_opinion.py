"""A second reviewer's masks, walked through by the widget and its keys."""

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.raster import write_mask


def test_a_folder_is_chosen_shown_walked_through_and_left(viewer, qtbot, make_dataset, tmp_path, monkeypatch):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    viewer.show()
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
    workspace, panel = workspace_of(viewer), view._next_panel
    session = workspace.session
    before = np.asarray(session.mask)
    theirs = before.copy()
    for part in (np.s_[60:75, 40:60], np.s_[100:106, 90:95]):
        theirs[part] = (theirs[part] + 1) % 4
    for place in session.scenes[0].placements:
        write_mask(tmp_path / "ben" / f"{place.tile.id}.tif", theirs[place.slices], session.scheme, place.tile.georef)

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
