"""The docked widgets in a real napari window."""

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox, QTabBar, QWidget

from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.errors import DataError
from napari_glacier.core.raster import read_raster
from napari_glacier.views.base import WIDTH_PX
from napari_glacier.views.settings import recent_folders

pytestmark = pytest.mark.gui


def _dock(viewer, name):
    return viewer.window.add_plugin_dock_widget("napari-glacier", name)


def test_a_dropped_folder_is_painted_saved_and_closed(viewer, qtbot, make_dataset):
    root = make_dataset()
    _, view = _dock(viewer, "Correct")
    assert not view._desk.isVisibleTo(view)

    viewer.open(str(root), plugin="napari-glacier")

    qtbot.waitUntil(lambda: view._desk.isVisibleTo(view))
    layer = workspace_of(viewer).labels_layer
    assert [one for one in viewer.layers if one.name != "Proposed change"][-1] is layer
    view._class_buttons[3].click()
    assert layer.selected_label == 3
    assert str(layer.mode) == "paint"
    assert view._tool_buttons["paint"].isChecked()
    view._brush_spin.setValue(7)
    assert layer.brush_size == 7
    before = np.asarray(layer.data)
    with layer.block_history():
        layer.paint((100, 100), 3)
    qtbot.waitUntil(lambda: "not yet written" in view._status.text())
    assert view._save_button.isEnabled()

    view._save_button.click()
    qtbot.waitUntil(lambda: "written:" in view.notice)

    place = workspace_of(viewer).session.scenes[0].placements[3]
    assert view.notice == f"1 tile written: {place.tile.id}."
    on_disk = read_raster(place.tile.mask_path)[0]
    assert on_disk[36, 36] == 255
    assert (np.asarray(layer.data) != before).sum() == (
        on_disk != np.array([0, 85, 170, 255])[before[place.slices]]
    ).sum()
    assert not view._save_button.isEnabled()
    bands = [layer.data for layer in viewer.layers if layer.name.startswith("B")]
    assert len(bands) == 5
    assert not any(band.is_read for band in bands), "hidden bands wait until they are looked at"


def test_strokes_of_an_earlier_window_are_told_of(viewer, qtbot, make_dataset, capsys):
    root = make_dataset()
    viewer.open(str(root), plugin="napari-glacier")
    session = workspace_of(viewer).session
    session.mask[100:104, 100:104] = (session.mask[100:104, 100:104] + 1) % 4
    session.commit()
    viewer.layers.clear()

    with notification_manager:
        viewer.open(str(root), plugin="napari-glacier")

    assert any("1 stroke from an earlier session was restored" in note.message for note in notification_manager.records)
    _, view = _dock(viewer, "Correct")
    assert "Discard drops it" in view._recovered.text()
    view.discard()
    assert not view._recovered.isVisibleTo(view)


def test_keys_reach_the_labels_layer(viewer, qtbot, make_dataset):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    dock, view = _dock(viewer, "Correct")
    layer = workspace_of(viewer).labels_layer
    canvas = viewer.window._qt_viewer.canvas.native

    qtbot.keyClick(canvas, Qt.Key.Key_2, Qt.KeyboardModifier.AltModifier)

    assert layer.selected_label == 2
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not view._open)
    qtbot.keyClick(canvas, Qt.Key.Key_1, Qt.KeyboardModifier.AltModifier)
    assert layer.selected_label == 2, "a closed widget lets go of its keys"


def test_mouse_painting_over_nodata_is_refused_on_screen(viewer, qtbot, make_dataset):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    layer = workspace_of(viewer).labels_layer
    layer.mode = "paint"
    layer.brush_size = 8
    with layer.block_history():
        layer._draw(3, (5, 5), (5, 20))

    index = np.asarray(layer.data)
    assert not index[:10, :12].any()
    assert (index[5, 13:20] == 3).all()
    node = viewer.window._qt_viewer.canvas.layer_to_visual[layer].node
    assert np.array_equal(layer._slice.image.raw, index)
    texture = np.asarray(node._data)
    assert (texture[:10, :12] == texture[0, 0]).all()


def test_discard_asks_first(viewer, qtbot, make_dataset, monkeypatch):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    _, view = _dock(viewer, "Correct")
    layer = workspace_of(viewer).labels_layer
    before = np.asarray(layer.data)
    layer.data[100:105, 100:105] = (before[100:105, 100:105] + 1) % 4
    workspace_of(viewer).session.commit()
    answers = [QMessageBox.StandardButton.Cancel, QMessageBox.StandardButton.Discard]
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answers.pop(0))

    view._ask_discard()
    assert not np.array_equal(np.asarray(layer.data), before)
    view._ask_discard()
    assert np.array_equal(np.asarray(layer.data), before)
    assert view.notice == "1 stroke dropped; the labels are as their files."


def test_data_widget_opens_lists_and_flies(viewer, qtbot, make_dataset, tmp_path):
    _, view = _dock(viewer, "Data")
    assert view._empty.isVisibleTo(view)

    view.open(tmp_path / "nowhere")
    assert "does not exist" in view.notice
    root = make_dataset(splits=("train", "val"))
    view.open(root)

    assert not view.notice
    assert len(view.tiles.model.rows) == 8
    assert not view.tiles.table.isColumnHidden(1)
    assert recent_folders() == [str(root)]
    session = workspace_of(viewer).session
    for row in view.tiles.model.rows:
        view.fly_to(row.tile_id)
        assert workspace_of(viewer).tile_under_view().tile.id == row.tile_id
    session.set_review(row.tile_id, "approved")
    qtbot.waitUntil(lambda: view.tiles.model.rows[-1].review == "approved")


def test_predict_widget_runs_in_a_thread_and_accepts(viewer, qtbot, make_dataset, make_checkpoint):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    _, view = _dock(viewer, "Predict")
    view.use_model(make_checkpoint())
    view.choose(scope="all", tta="off", device="cpu")

    view._job.run_button.click()
    assert view.running
    assert view._job.cancel_button.isEnabled()
    qtbot.waitUntil(lambda: not view.running, timeout=60_000)

    workspace = workspace_of(viewer)
    assert workspace.prediction_layer is not None, view.notice
    assert view.notice.startswith("Predicted with tiny")
    assert view._result.isVisibleTo(view)
    view._accept_button.click()
    assert "pixels changed" in view.notice
    assert np.array_equal(np.asarray(workspace.session.mask), workspace.prediction_layer.data)


def test_predict_widget_says_what_is_wrong_with_a_model(viewer, qtbot, make_dataset, tmp_path):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    _, view = _dock(viewer, "Predict")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a model")
    view.use_model(bad)
    view.choose(scope="all", device="cpu")

    view.run()
    qtbot.waitUntil(lambda: not view.running, timeout=60_000)

    assert view.notice.startswith("⚠")
    assert "bad.safetensors" in view.notice
    assert view._job.run_button.isEnabled()


def test_closing_the_predict_widget_ends_its_job(viewer, qtbot, make_dataset, make_checkpoint):
    viewer.open(str(make_dataset(grid=(4, 4))), plugin="napari-glacier")
    dock, view = _dock(viewer, "Predict")
    view.use_model(make_checkpoint())
    view.choose(scope="all", tta=8, device="cpu")
    view.run()
    task = view._task

    viewer.window.remove_dock_widget(dock)

    qtbot.waitUntil(lambda: not view._open)
    assert task.cancelled
    qtbot.waitUntil(lambda: not task.is_alive, timeout=60_000)
    assert workspace_of(viewer).prediction_layer is None


def test_train_widget_fills_in_the_open_dataset_and_validates(viewer, qtbot, make_dataset, tmp_path):
    _, view = _dock(viewer, "Train")
    root = make_dataset()
    viewer.open(str(root), plugin="napari-glacier")

    qtbot.waitUntil(lambda: view.form.data.text() == str(root))
    assert view.form.output.text() == str(root / "runs")
    view.fill(recipe="smoke", epochs=3)
    assert view.plan().epochs == 3
    view.form.data.setText(str(tmp_path / "nowhere"))
    assert view.start() is None
    assert "does not exist" in view.notice


def test_train_widget_proposes_a_recipe_and_keeps_the_one_that_was_chosen(viewer, qtbot, make_dataset):
    _, view = _dock(viewer, "Train")
    assert view.plan().recipe == "default"
    first, second = make_dataset(), make_dataset("second")
    viewer.open(str(first), plugin="napari-glacier")
    qtbot.waitUntil(lambda: view.form.data.text() == str(first))
    assert (view.plan().recipe, view.plan().epochs) == ("tiny_data", 10)
    assert "4 labelled tiles" in view.form._recipe_note.text()
    view.form.recipe.setCurrentText("deeplab")
    view.form.recipe.activated.emit(view.form.recipe.currentIndex())  # as a person's choice does
    viewer.open(str(second), plugin="napari-glacier")
    qtbot.waitUntil(lambda: view.form.data.text() == str(second))
    assert view.plan().recipe == "deeplab"
    assert "tiny_data is proposed" in view.form._recipe_note.text()


def test_widgets_fit_beside_the_canvas_of_a_small_laptop(viewer, qtbot, make_dataset):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    for name in ("Data", "Predict", "Correct", "Train", "Report"):
        dock, view = _dock(viewer, name)
        assert view.minimumSizeHint().width() <= 360, name
        for part in view.findChildren(QWidget):
            part.setVisible(True)
        assert view.body.minimumSize().width() <= WIDTH_PX, name
        viewer.window.remove_dock_widget(dock)
        qtbot.waitUntil(lambda view=view: not view._open)


def test_the_plugins_docks_lie_as_tabs_beside_each_other(viewer, qtbot):
    first, _ = viewer.window.add_plugin_dock_widget("napari-glacier", "Predict")
    qtbot.wait(50)
    second, _ = viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
    qtbot.wait(50)
    window = first.parent()
    assert second in window.tabifiedDockWidgets(first)
    # The one that was asked for is the one that is seen.
    (bar,) = [bar for bar in window.findChildren(QTabBar) if bar.count() == 2]
    qtbot.waitUntil(lambda: bar.tabText(bar.currentIndex()) == second.windowTitle())


def test_a_dataset_dropped_twice_is_shown_once(viewer, qtbot, make_dataset):
    root = make_dataset()
    viewer.open(str(root), plugin="napari-glacier")
    layers = list(viewer.layers)
    viewer.open(str(root), plugin="napari-glacier")
    assert list(viewer.layers) == layers


def test_reader_leaves_other_files_alone_and_explains_broken_datasets(make_dataset, tmp_path):
    from napari_glacier._reader import get_reader
    from napari_glacier.core.raster import write_raster

    write_raster(tmp_path / "photo.tif", np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    for path in ("photo.tif", "text.tif", "pictures", "missing.tif"):
        assert get_reader(str(tmp_path / path)) is None
    assert get_reader([str(tmp_path / "photo.tif")]) is None

    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="A dataset has a folder for each band"):
        get_reader(str(tmp_path / "empty"))(str(tmp_path / "empty"))

    root = make_dataset()
    for band in (root / "Band4").glob("*.tif"):
        band.unlink()
        write_raster(band, np.zeros((20, 20), np.uint16))
    reader = get_reader(str(root))
    with pytest.raises(DataError, match="20 x 20"):
        reader(str(root))


def test_saving_a_layer_writes_one_georeferenced_geotiff(viewer, make_dataset, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    layer = workspace_of(viewer).labels_layer
    path = tmp_path / "out.tif"

    viewer.layers.save(str(path), selected=True, plugin="napari-glacier")

    with rasterio.open(path) as written:
        assert written.crs.to_epsg() == 32643
        assert written.transform[:6] == (30.0, 0.0, 500_000.0, 0.0, -30.0, 3_800_000.0)
        assert np.array_equal(written.read(1), np.array([0, 85, 170, 255])[np.asarray(layer.data)])
        assert written.colormap(1)[85][:3] == (0x56, 0xB4, 0xE9)


@pytest.mark.parametrize("way", ["napari", "Data widget"])
def test_on_screen_the_picture_comes_first_and_hidden_layers_in_time(viewer, qtbot, make_dataset, way):
    _dock(viewer, "Correct")
    viewer.show()
    qtbot.waitUntil(viewer.window._qt_window.isVisible)
    drawn_before_labels = []

    def look(event):
        if not any(layer.name == "Labels" for layer in viewer.layers):
            picture = [layer for layer in viewer.layers if layer.name == "True colour"]
            drawn_before_labels.extend(layer._slice.image.view.any() for layer in picture)

    viewer.window._qt_viewer.canvas._scene_canvas.events.draw.connect(look)
    if way == "napari":
        viewer.open(str(make_dataset()), plugin="napari-glacier")
    else:
        workspace_of(viewer).open(make_dataset())

    assert True in drawn_before_labels
    labels = workspace_of(viewer).labels_layer
    assert viewer.layers.selection == {labels}
    labels.mode = "paint"
    qtbot.waitUntil(lambda: "SWIR-green-blue" in viewer.layers)
    names = [layer.name for layer in viewer.layers if layer.name != "Proposed change"]
    assert names == [
        "B10 thermal",
        "B6 SWIR",
        "B4 red",
        "B3 green",
        "B2 blue",
        "SWIR-green-blue",
        "True colour",
        "Labels",
    ]
    assert viewer.layers.selection == {labels}
    assert str(labels.mode) == "paint"
    assert [name for name in names if viewer.layers[name].visible] == ["True colour", "Labels"]
    viewer.window._qt_window.hide()


def test_what_is_closed_at_once_brings_no_hidden_layers_after(viewer, qtbot, make_dataset):
    viewer.show()
    qtbot.waitUntil(viewer.window._qt_window.isVisible)
    viewer.open(str(make_dataset("first")), plugin="napari-glacier")
    viewer.layers.clear()
    viewer.open(str(make_dataset("second")), plugin="napari-glacier")

    qtbot.waitUntil(lambda: len(viewer.layers) >= 8)
    qtbot.wait(300)
    assert len(viewer.layers) == 8
    assert {layer.metadata["napari_glacier"]["session"].root.name for layer in viewer.layers} == {"second"}
    viewer.window._qt_window.hide()


def test_a_scene_changed_at_once_has_its_own_hidden_layers(viewer, qtbot, make_dataset):
    viewer.show()
    qtbot.waitUntil(viewer.window._qt_window.isVisible)
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    workspace = workspace_of(viewer)
    first = workspace.labels_layer
    workspace.show_scene(0)

    assert workspace.labels_layer is not first
    qtbot.waitUntil(lambda: len(viewer.layers) >= 8)
    qtbot.wait(300)
    assert len(viewer.layers) == 8
    assert len({layer.name for layer in viewer.layers}) == 8
    viewer.window._qt_window.hide()


def test_a_view_of_three_dimensions_lies_flat_for_a_dataset(viewer, qtbot, make_dataset):
    viewer.show()
    qtbot.waitUntil(viewer.window._qt_window.isVisible)
    viewer.dims.ndisplay = 3
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    assert viewer.dims.ndisplay == 2
    assert len(viewer.layers) < 8
    # Turned by a key before the hidden composites are there, which napari then cannot add.
    viewer.dims.ndisplay = 3
    qtbot.wait(300)

    viewer.dims.ndisplay = 2
    qtbot.waitUntil(lambda: len(viewer.layers) >= 8)
    viewer.dims.ndisplay = 3
    workspace_of(viewer).show_scene(0)
    assert viewer.dims.ndisplay == 2
    qtbot.waitUntil(lambda: len(viewer.layers) >= 8)
    viewer.window._qt_window.hide()
