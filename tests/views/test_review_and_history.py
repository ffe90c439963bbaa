"""Review and history in the Correct widget, driven by its buttons."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox

from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.errors import JournalError


@pytest.fixture
def desk(viewer, qtbot, make_dataset):
    """The Correct widget over a small mosaic."""
    workspace = workspace_of(viewer)
    workspace.open(make_dataset())
    viewer.window.resize(1300, 760)
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
    return view


def paint(workspace, row, col):
    layer = workspace.labels_layer
    layer.brush_size = 6
    layer.mode = "paint"
    layer.paint((row, col), (int(layer.data[row, col]) + 1) % 4)


def test_a_tile_is_approved_locked_and_given_back(desk, qtbot):
    workspace, panel = desk.workspace, desk._review_panel
    _, place = workspace.session.find("00_01")
    workspace.fly_to(place.row, place.col, 64, 64)
    panel._note.setText("checked against 2019")
    panel.refresh()

    panel._approve.click()

    assert workspace.session.review("00_01") == "approved"
    assert "approved and locked" in desk.notice
    assert "checked against 2019" in panel._said.text()
    assert panel._note.text() == ""
    before = np.asarray(workspace.session.mask)
    paint(workspace, place.row + 20, place.col + 20)
    assert np.array_equal(np.asarray(workspace.session.mask), before)
    assert "Take the approval back" in desk.notice
    assert panel._approve.text() == "Take back"
    panel._approve.click()
    assert workspace.session.review("00_01") == "in progress"
    paint(workspace, place.row + 20, place.col + 20)
    assert not np.array_equal(np.asarray(workspace.session.mask), before)


def test_a_note_that_cannot_be_kept_stays_to_be_kept_later(desk, qtbot, monkeypatch):
    panel, session = desk._review_panel, desk.workspace.session
    panel._note.setText("a shadow, no lake")

    def full(*_):
        raise JournalError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(session.journal, "set_review", full)
        qtbot.keyClick(panel._note, Qt.Key.Key_Return)
    assert "disk is full" in desk.notice
    assert panel._note.text() == "a shadow, no lake"
    qtbot.keyClick(panel._note, Qt.Key.Key_Return)
    assert panel._note.text() == ""
    assert session.journal.reviews.of(desk.controller.review.tile_id)[-1].note == "a shadow, no lake"


def test_the_history_is_empty_where_the_dataset_has_left(desk, qtbot):
    paint(desk.workspace, 20, 20)
    desk.workspace.session.commit()
    dialog = desk.show_history()
    qtbot.waitUntil(lambda: dialog._worker is None)
    assert dialog._table.rowCount() == 1
    desk.workspace.viewer.layers.clear()
    assert dialog._table.rowCount() == 0
    assert desk.notice == "", "nobody asked for anything"
    dialog.close()


def test_the_walk_keeps_to_the_state_chosen(desk):
    workspace, panel = desk.workspace, desk._review_panel
    workspace.session.set_review("01_01", "rejected", "lake")
    panel._filter.setCurrentText("rejected")
    panel._filter.textActivated.emit("rejected")
    panel._next.click()
    assert desk.controller.review.tile_id == "01_01"
    assert panel._states.currentText() == "rejected"
    assert "lake" in panel._said.text()
    panel._note.setText("a shadow, no lake")
    panel._note.returnPressed.emit()
    assert "a shadow, no lake" in panel._said.text()
    panel._filter.textActivated.emit("edited")
    panel._previous.click()
    assert "None of 4 tiles is in the state chosen" in desk.notice


def test_the_history_lists_strokes_and_takes_them_out(desk, qtbot, monkeypatch):
    workspace = desk.workspace
    start = np.asarray(workspace.session.mask)
    paint(workspace, 30, 30)
    paint(workspace, 30, 100)
    paint(workspace, 100, 100)
    drawn = np.asarray(workspace.session.mask)

    desk._history_button.click()

    dialog = desk._history
    table = dialog._table
    assert table.rowCount() == 3
    qtbot.waitUntil(lambda: table.item(0, 4).text() != "…")
    assert int(table.item(2, 4).text()) == (drawn != start)[:64, :64].sum()
    assert [table.item(0, column).text() for column in (2, 3, 6)] == ["Paint", "01_01", "not saved"]
    assert not dialog._revert_button.isEnabled()
    table.selectRow(2)
    dialog._revert_button.click()
    expected = drawn.copy()
    expected[:64, :64] = start[:64, :64]
    assert np.array_equal(np.asarray(workspace.session.mask), expected)
    assert "got back what they were" in dialog._said.text()
    qtbot.waitUntil(lambda: table.rowCount() == 4)
    assert table.item(0, 2).text() == "Revert"

    table.selectRow(3)
    monkeypatch.setattr(QMessageBox, "question", lambda *args: QMessageBox.StandardButton.Cancel)
    dialog._sitting_button.click()
    assert np.array_equal(np.asarray(workspace.session.mask), expected)
    asked = []

    def yes(*args):
        asked.append(args[2])
        return QMessageBox.StandardButton.Yes

    monkeypatch.setattr(QMessageBox, "question", yes)
    dialog._sitting_button.click()
    assert "4 strokes of" in asked[0]
    assert np.array_equal(np.asarray(workspace.session.mask), start)
    dialog._only_here.setChecked(True)
    workspace.fly_to(64, 64, 64, 64)
    dialog.refresh()
    assert {table.item(row, 3).text().count("01_01") for row in range(table.rowCount())} == {1}
    dialog.close()


def test_learning_without_corrections_says_what_is_missing_and_can_be_cancelled(desk, qtbot, make_checkpoint):
    from napari_glacier.controllers.models import ModelChoice

    panel, adapting = desk._adapt_panel, desk.controller.adapting
    choice = ModelChoice("tiny", make_checkpoint())
    adapting.models = lambda: [choice]
    panel.refresh()
    panel.learn()
    qtbot.waitUntil(lambda: not panel._learn.isEnabled())
    assert panel._cancel.isVisibleTo(panel)
    qtbot.waitUntil(panel._learn.isEnabled, timeout=60_000)
    assert "⚠ Nothing was corrected" in panel._said.text()
    assert not panel._keep.isVisibleTo(panel)
    panel.learn()
    panel._cancel.click()
    qtbot.waitUntil(panel._learn.isEnabled)
    assert adapting.state == "idle"
