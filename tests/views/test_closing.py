"""The question before a window is closed with strokes in no mask file."""

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QMainWindow, QMessageBox

from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.errors import JournalError, SaveError
from napari_glacier.core.raster import read_raster
from napari_glacier.views.windows import look_after

pytestmark = pytest.mark.gui


class _Shell:
    """What napari's Window is to a viewer."""

    def __init__(self) -> None:
        self._qt_window = QMainWindow()


class _Viewer(ViewerModel):
    """A viewer whose window may be closed for good: napari's own would be torn down under its fixture."""

    @property
    def window(self):
        return _SHELLS[-1]


_SHELLS: list[_Shell] = []


@pytest.fixture
def shell(qtbot):
    _SHELLS.append(_Shell())
    window = _SHELLS[-1]._qt_window
    qtbot.addWidget(window)
    viewer = _Viewer()
    look_after(viewer)
    look_after(viewer)
    window.show()
    yield viewer
    workspace_of(viewer).close()
    _SHELLS.clear()


@pytest.fixture
def region(shell, make_dataset):
    """A data set with one stroke on its last tile."""
    session = workspace_of(shell).open(make_dataset())
    _draw(session)
    return session


def _draw(session):
    session.mask[100:104, 100:104] = (session.mask[100:104, 100:104] + 1) % 4
    session.commit()


def _close_by_hand(window, qtbot, button):
    """Close a window from within an event loop, as a click does, and press a button of the question."""
    asked = []

    def answer():
        box = QApplication.activeModalWidget()
        if isinstance(box, QMessageBox):
            asked.append(f"{box.text()} {box.informativeText()}")
            box.button(button).click()

    with qtbot.waitCallback() as done:
        QTimer.singleShot(0, lambda: done(window.close()))
        # What is asked runs a loop of its own, in which this one is due.
        QTimer.singleShot(50, answer)
    return asked


def _mask(session):
    return read_raster(session.find(session.tile_ids[-1])[1].tile.mask_path)[0]


def test_cancel_stays_and_close_anyway_keeps_the_strokes_in_the_journal(shell, region, qtbot):
    window = shell.window._qt_window
    before = _mask(region)

    asked = _close_by_hand(window, qtbot, QMessageBox.StandardButton.Cancel)
    assert window.isVisible()
    assert len(asked) == 1
    assert asked[0].startswith("1 tile of dataset has corrections that are not in the mask files yet.")
    assert "safe either way" in asked[0]

    asked = _close_by_hand(window, qtbot, QMessageBox.StandardButton.Discard)
    assert len(asked) == 1
    assert not window.isVisible()
    assert np.array_equal(_mask(region), before)
    assert region.unsaved() == {region.tile_ids[-1]: 1}


def test_save_writes_the_mask_and_closes(shell, region, qtbot):
    window, before = shell.window._qt_window, _mask(region)
    assert len(_close_by_hand(window, qtbot, QMessageBox.StandardButton.Save)) == 1
    assert not window.isVisible()
    assert (_mask(region) != before).sum() == 16
    assert not region.unsaved()


def test_where_saving_fails_the_window_stays(shell, region, qtbot, monkeypatch):
    told = []
    monkeypatch.setattr(QMessageBox, "warning", lambda *arguments: told.append(arguments[-1]))

    def save(self):
        raise SaveError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(Session, "save", save)
        _close_by_hand(shell.window._qt_window, qtbot, QMessageBox.StandardButton.Save)
    assert shell.window._qt_window.isVisible()
    assert told == ["The disk is full.\n\nThe strokes stay in the journal."]
    assert QApplication.overrideCursor() is None


def test_nothing_is_asked_where_nothing_waits_or_nobody_is_there(shell, region, qtbot, monkeypatch):
    window = shell.window._qt_window
    monkeypatch.setattr(QMessageBox, "exec", lambda *_: pytest.fail("asked"))
    # A script that closes its window: no event loop is running.
    window.close()
    assert not window.isVisible()
    window.show()
    region.save()
    assert not _close_by_hand(window, qtbot, QMessageBox.StandardButton.Cancel)
    assert not window.isVisible()


def test_a_dropped_folder_is_enough_to_be_asked(viewer, make_dataset, qtbot):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    _draw(workspace_of(viewer).session)
    window = viewer.window._qt_window
    asked = _close_by_hand(window, qtbot, QMessageBox.StandardButton.Cancel)
    assert len(asked) == 1
    assert viewer.layers, "nothing was closed"


def test_where_the_last_strokes_cannot_be_recorded_closing_asks(shell, region, qtbot, monkeypatch):
    window = shell.window._qt_window

    def full(*arguments, **keywords):
        raise JournalError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(region.journal, "record", full)
        region.mask[50:54, 100:104] = (region.mask[50:54, 100:104] + 1) % 4
        asked = _close_by_hand(window, qtbot, QMessageBox.StandardButton.Cancel)
        assert len(asked) == 1
        assert "The disk is full." in asked[0]
        assert "loses what was drawn since" in asked[0]
        assert window.isVisible()
    # Space was made: the strokes are recorded, and the usual question comes.
    asked = _close_by_hand(window, qtbot, QMessageBox.StandardButton.Discard)
    assert "safe either way" in asked[0]
    assert not window.isVisible()
