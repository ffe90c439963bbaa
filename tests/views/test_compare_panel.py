"""Champion and challenger in the Train widget, as a person goes through it."""

import dataclasses

import pytest
import torch
from qtpy.QtWidgets import QMessageBox

from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.models.promotion import read_history
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint
from napari_glacier.views.base import WIDTH_PX

pytestmark = pytest.mark.gui


@pytest.fixture
def root(make_dataset, make_checkpoint):
    """A dataset with two finished runs."""
    root = make_dataset()
    loaded = load_checkpoint(make_checkpoint())
    for number, name in enumerate(("20260101-000000-old", "20260102-000000-new")):
        run = RunFolder(root / "runs" / name)
        run.path.mkdir(parents=True)
        run.config_path.write_text("{}")
        run.append_event("done")
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                parameter.add_(0.05 * number * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        save_checkpoint(run.best_path, loaded.model, dataclasses.replace(loaded.card, name=name))
    return root


def _press(monkeypatch, which):
    """Have message boxes answered with their n-th button."""
    pressed = {}
    monkeypatch.setattr(
        QMessageBox, "exec", lambda box: pressed.update({box: box.buttons()[which]}) or shown.append(box)
    )
    monkeypatch.setattr(QMessageBox, "clickedButton", lambda box: pressed[box])
    shown: list[QMessageBox] = []
    return shown


def test_compare_promote_predict_and_roll_back(viewer, qtbot, root, monkeypatch):
    viewer.open(str(root), plugin="napari-glacier")
    _, predict = viewer.window.add_plugin_dock_widget("napari-glacier", "Predict")
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Train")
    panel = view.compare_panel
    assert not panel._result.isVisibleTo(view)
    assert panel._challenger.currentText() == "20260102-000000-new", "the run that is followed"
    panel.choose(champion=root / "runs" / "20260101-000000-old" / "best.safetensors")
    view.fill(device="cpu")

    panel._compare_button.click()
    assert panel.running
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)

    assert view.notice == ""
    assert panel._result.isVisibleTo(view)
    # With the scroll bar that a laptop's height asks for.
    assert view.body.minimumSize().width() <= WIDTH_PX - 16
    texts = [panel._table.itemAt(n).widget().text() for n in range(panel._table.count())]
    assert {"MCC", "glacier", "lake"} <= set(texts)
    assert "Changed pixels" in [layer.name for layer in viewer.layers]
    panel._score.setCurrentIndex(1)
    row = next(r for r in panel.controller.match.comparison.rows["all_pixels"] if r.score == "f1")
    texts = [panel._table.itemAt(n).widget().text() for n in range(panel._table.count())]
    assert f"{row.champion:.3f}" in texts

    shown = _press(monkeypatch, 1)
    panel._promote_button.click()
    assert "20260102-000000-new" in shown[0].text()
    assert read_history(root) == [], "cancelled"
    _press(monkeypatch, 0)
    panel._promote_button.click()
    qtbot.waitUntil(lambda: "is the champion now" in view.notice, timeout=20_000)

    kept = root / "models" / "20260102-000000-new"
    qtbot.waitUntil(lambda: predict.model.source == kept)
    assert predict.model.title.startswith("★")
    assert panel._champion.currentData().source == kept
    assert panel._back_button.isVisibleTo(view)

    panel._back_button.click()
    qtbot.waitUntil(lambda: predict.model.source is None)
    assert "Bundled ensemble again" in view.notice
    assert not panel._back_button.isVisibleTo(view)
    assert len(read_history(root)) == 2


def test_a_comparison_can_be_cancelled_and_says_what_is_wrong(viewer, qtbot, root):
    viewer.open(str(root), plugin="napari-glacier")
    dock, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Train")
    panel = view.compare_panel
    view.fill(device="cpu")
    panel._champion.setCurrentIndex(panel._challenger.currentIndex())
    panel._compare_button.click()
    assert "the same model" in view.notice
    panel._champion.setCurrentIndex(0)
    panel._compare_button.click()
    task = panel._task
    panel._cancel_button.click()
    assert task.cancelled
    assert not panel.running
    assert panel._doing.text() == "Cancelled."
    panel._compare_button.click()
    task = panel._task
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not view._open)
    assert task.cancelled
    qtbot.waitUntil(lambda: not task.is_alive, timeout=60_000)
    assert workspace_of(viewer).session is not None


def test_a_comparison_leaves_with_its_dataset(viewer, qtbot, root, make_dataset):
    viewer.open(str(root), plugin="napari-glacier")
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Train")
    panel = view.compare_panel
    view.fill(device="cpu")
    panel._champion.setCurrentIndex(0)
    panel._challenger.setCurrentIndex(1)
    panel._compare_button.click()
    task = panel._task
    assert panel._doing.isVisibleTo(panel)
    view.workspace.open(make_dataset("other"))
    assert not panel.running
    assert not panel._doing.isVisibleTo(panel), "nobody is at work any more"
    qtbot.waitUntil(lambda: not task.is_alive, timeout=60_000)


def test_the_form_knows_review_states_and_gives_commands(viewer, qtbot, root):
    viewer.open(str(root), plugin="napari-glacier")
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Train")
    session = workspace_of(viewer).session
    view.fill(recipe="smoke", epochs=3)
    view.form.tiles.setCurrentIndex(2)
    assert view.show_commands() is None
    assert "are approved, and 2 are needed" in view.notice
    for tile_id in session.tile_ids[:3]:
        session.set_review(tile_id, "approved")
    assert view.plan().tiles == session.tile_ids[:3]
    dialog = view.show_commands()
    dialog.copy()
    assert f"'data.tiles=[{', '.join(session.tile_ids[:3])}]'" in dialog._text.toPlainText()
    dialog.close()

    started = RunFolder.create(root / "runs", "in-a-terminal")
    started.config_path.write_text("{}")
    started.write_process()
    qtbot.waitUntil(lambda: view.controller.run.path == started.path, timeout=10_000)
    assert view.run_panel.runs.currentText() == started.path.name
