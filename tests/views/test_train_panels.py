"""The panels of the Train widget: the map of the split, curves of several runs, runs in any folder."""

import shutil

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox

from napari_glacier.controllers.training import TrainingController
from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.views.train_pieces import DeviceBox


@pytest.fixture
def train(viewer, make_dataset, qtbot):
    """The Train widget of an open dataset of nine tiles."""
    viewer.open(str(make_dataset(grid=(3, 3))), plugin="napari-glacier")
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Train")
    qtbot.waitUntil(lambda: not view.form.split.busy, timeout=20_000)
    return view


def _run(folder, name, losses):
    run = RunFolder(folder / name)
    run.path.mkdir(parents=True)
    run.config_path.write_text("{}")
    run.append_event("start", config={"train": {"epochs": len(losses)}})
    for epoch, loss in enumerate(losses, start=1):
        run.append_event("epoch", epoch=epoch, epochs=len(losses), train_loss=loss, val_loss=loss, val_mcc=0.1, lr=1e-3)
    run.append_event("done", message="Done.")
    return run


def test_the_map_shows_the_split_and_follows_the_form(train, qtbot):
    panel = train.form.split
    assert "8 train" in panel.text
    assert "1 validates" in panel.text
    train.form.tiles.setCurrentIndex(2)
    qtbot.waitUntil(lambda: "are approved, and 2 are needed" in panel.text, timeout=20_000)
    assert not panel.map.isVisibleTo(panel)
    session = workspace_of(train.workspace.viewer).session
    for tile_id in session.tile_ids[:4]:
        session.set_review(tile_id, "approved")
    panel.look()
    qtbot.waitUntil(lambda: "3 train" in panel.text, timeout=20_000)
    assert "5 left out" in panel.text
    qtbot.mouseClick(panel.map, Qt.MouseButton.LeftButton, pos=panel.map.box_of(session.tile_ids[8]).center().toPoint())
    assert train.workspace.tile_under_view().tile.id == session.tile_ids[8]
    qtbot.keyClick(panel.map, Qt.Key.Key_Left)
    assert train.workspace.tile_under_view().tile.id == session.tile_ids[7]


@pytest.mark.parametrize("data", ["", "train"], ids=["the dataset", "its folder of a split"])
def test_what_is_not_saved_is_asked_about_wherever_in_the_dataset_one_trains(viewer, make_dataset, monkeypatch, data):
    root = make_dataset(splits=("train", "val"))
    viewer.open(str(root), plugin="napari-glacier")
    _, train = viewer.window.add_plugin_dock_widget("napari-glacier", "Train")
    layer = workspace_of(viewer).labels_layer
    layer.paint((20, 20), (int(layer.data[20, 20]) + 1) % 4)
    train.workspace.session.commit()
    train.form.data.setText(str(root / data))
    asked = []
    monkeypatch.setattr(TrainingController, "_launch", lambda *_: pytest.fail("it was started unasked"))
    monkeypatch.setattr(QMessageBox, "question", lambda *said: asked.append(said) or QMessageBox.StandardButton.Cancel)
    train._start_button.click()
    assert len(asked) == 1
    assert train.controller.runs(train.form.output_folder) == []


def test_curves_of_other_runs_are_laid_over(train, qtbot):
    root = train.form.output_folder
    first, second = _run(root, "1-a", [3.0, 2.0]), _run(root, "2-b", [1.0, 0.5, 0.4])
    train._look_for_runs()
    train.controller.follow(second)
    panel = train.run_panel
    panel.fill_overlay()
    (action,) = panel._menu.actions()
    assert action.text() == "1-a"
    action.setChecked(True)
    loss, _, rate = panel._plot._canvas.figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[1.0, 0.5, 0.4], [1.0, 0.5, 0.4], [3.0, 2.0]]
    assert rate.get_yscale() == "log"
    (legend,) = panel._plot._canvas.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training: 2-b", "validation: 2-b", "1-a"]
    first.append_event("epoch", epoch=3, epochs=3, val_loss=1.5)
    panel.poll()
    assert list(panel._plot._canvas.figure.axes[0].lines[-1].get_ydata()) == [3.0, 2.0, 1.5]
    panel.runs.setCurrentIndex(panel.runs.findText("1-a"))
    panel.runs.activated.emit(panel.runs.currentIndex())
    assert train.controller.others.paths == ()


def test_a_run_in_any_folder_is_followed_and_stays_in_the_list(train, tmp_path):
    far = _run(tmp_path / "mounted", "far", [1.0])
    train.open_run(tmp_path)
    assert "is not a run folder" in train.notice
    train.open_run(far.path)
    epochs = train.run_panel._plot._canvas.figure.axes[0]
    assert [tick for tick in epochs.get_xticks() if 0.5 <= tick <= 1.5] == [1], "there are no parts of epochs"
    assert train.controller.run.path == far.path
    assert train.run_panel.runs.currentText() == "far"
    train._look_for_runs()
    assert train.run_panel.runs.currentText() == "far"
    assert train.notice == ""


def test_a_device_that_was_chosen_stays_when_others_are_found(qtbot):
    box = DeviceBox()
    qtbot.addWidget(box)
    qtbot.waitUntil(lambda: bool(box.toolTip()), timeout=20_000)
    box.setCurrentText("mps")
    box.offer([("auto", "the GPUs, else the CPU"), ("cpu", ""), ("cuda:0", "NVIDIA L4 (22 GB)")])
    assert box.currentText() == "mps"
    assert box.num_gpus == 1
    box.stop()


def test_stop_says_that_the_run_folder_is_gone(train, tmp_path, qtbot):
    run = _run(tmp_path, "far", [1.0])
    train.open_run(run.path)
    train._stop_button.setEnabled(True)
    shutil.rmtree(run.path)
    with qtbot.capture_exceptions() as failed:
        train._stop_button.click()
    assert failed == []
    assert "The run cannot be asked to stop" in train.notice


def test_a_dataset_without_runs_lets_go_of_the_run_before(train, make_dataset):
    run = _run(train.form.output_folder, "1-a", [1.0])
    run.best_path.touch()
    run.resume_path.touch()
    run.append_event("stopped")
    train._on_output()
    assert train.controller.run.path == run.path
    assert train._resume_button.isVisibleTo(train)
    assert train.run_panel.predict_button.isEnabled()
    train.workspace.open(make_dataset("other"))
    assert train.controller.run is None
    assert not train._resume_button.isVisibleTo(train)
    assert not train.run_panel.predict_button.isEnabled()
    assert not train._run_box.isVisibleTo(train)
