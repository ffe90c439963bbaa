"""What nobody foresaw is told in a window of its own; what a person can mend is a sentence in the widget."""

import threading

import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication

from napari_glacier.controllers.inference import InferenceController
from napari_glacier.core.errors import DataError
from napari_glacier.core.log_file import log_path
from napari_glacier.views.errors import error_dialog

pytestmark = pytest.mark.gui


def _dock(viewer, name):
    return viewer.window.add_plugin_dock_widget("napari-glacier", name)


def _break(monkeypatch, error):
    def job(self, request):
        yield
        raise error

    monkeypatch.setattr(InferenceController, "job", job)
    monkeypatch.setattr(InferenceController, "take", lambda self, step: None)


def _run(view, qtbot, monkeypatch):
    monkeypatch.setattr(type(view), "_on_step", lambda self, step: None)
    view.choose(scope="all", device="cpu")
    view.run()
    qtbot.waitUntil(lambda: not view.running)


def test_a_worker_that_breaks_opens_the_window_with_details_to_copy(viewer, qtbot, make_dataset, monkeypatch):
    root = make_dataset()
    viewer.open(str(root), plugin="napari-glacier")
    _, view = _dock(viewer, "Predict")
    _break(monkeypatch, RuntimeError("the rows ran out"))

    _run(view, qtbot, monkeypatch)

    qtbot.waitUntil(lambda: error_dialog() is not None)
    dialog = error_dialog()
    assert dialog.said.text() == "RuntimeError: the rows ran out"
    assert view.notice == "⚠ RuntimeError: the rows ran out"
    assert not dialog.isModal()
    dialog.copy_button.click()
    copied = QApplication.clipboard().text()
    for part in (str(root), "Model: Bundled ensemble", "Device: cpu", "Traceback", "unexpected: RuntimeError"):
        assert part in copied
    assert "the rows ran out" in log_path().read_text(encoding="utf-8")

    _run(view, qtbot, monkeypatch)
    qtbot.waitUntil(lambda: "(2 times)" in dialog.said.text())
    assert error_dialog() is dialog


def test_an_error_that_can_be_mended_stays_a_sentence(viewer, qtbot, make_dataset, monkeypatch):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    _, view = _dock(viewer, "Predict")
    _break(monkeypatch, DataError("The tile is damaged. Export it again."))
    _run(view, qtbot, monkeypatch)
    assert view.notice == "⚠ The tile is damaged. Export it again."
    assert error_dialog() is None


def test_errors_of_others_are_left_to_napari_and_threads_are_heard(viewer, qtbot):
    dock, view = _dock(viewer, "Data")
    before = len(notification_manager.records)

    def throw(call):
        try:
            call()
        except Exception as error:  # noqa: BLE001 - handed on as Qt would
            notification_manager.receive_error(type(error), error, error.__traceback__)

    throw(lambda: {}["foreign"])
    assert len(notification_manager.records) == before + 1, "napari has its own way with them"
    qtbot.wait(20)
    assert error_dialog() is None

    # `attempt` passes on what it does not know, from whichever thread.
    thread = threading.Thread(target=lambda: throw(lambda: view.attempt(lambda: {}["ours"])))
    thread.start()
    thread.join()
    qtbot.waitUntil(lambda: error_dialog() is not None and error_dialog().said.text() == "KeyError: 'ours'")

    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not view._open)
    assert error_dialog() is None
    throw(lambda: view.attempt(lambda: {}["ours"]))
    qtbot.wait(20)
    assert error_dialog() is None, "closed widgets watch no more"
