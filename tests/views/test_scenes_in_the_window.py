"""Scenes dropped on a napari window, and layers added from the Data widget."""

import numpy as np
import pytest
import rasterio
from qtpy.QtCore import Qt

from napari_glacier import _reader
from napari_glacier.controllers import levels
from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.data import mosaic

pytestmark = pytest.mark.gui


def _choose(view, key):
    view._extra.setCurrentIndex(view._extra.findData(key))
    view._say_why_not()


def test_a_dropped_archive_shows_its_facts_and_its_temperature(viewer, qtbot, make_landsat):
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Data")
    viewer.open(str(make_landsat(tar=True)), plugin="napari-glacier")
    qtbot.waitUntil(lambda: view._facts.isVisibleTo(view))
    facts = {
        view._form.itemAt(row, view._form.ItemRole.LabelRole).widget().text(): view._form.itemAt(
            row, view._form.ItemRole.FieldRole
        )
        .widget()
        .text()
        for row in range(view._form.rowCount())
    }
    assert facts["Scene"] == "Landsat 8 OLI/TIRS, Level 1"
    assert facts["Acquired"] == "2020-07-31"
    assert facts["Units"] == "reflectance, kelvin"
    _choose(view, "temperature")
    assert not view.notice
    view._add_extra.click()
    (layer,) = (layer for layer in viewer.layers if layer.name == "Brightness temperature (K)")
    assert layer.get_value((20, 20)) > 150
    assert workspace_of(viewer).labels_layer is viewer.layers[-1]


def test_the_widget_says_why_a_layer_cannot_be_made(viewer, qtbot, make_sentinel2):
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Data")
    view.open(make_sentinel2())
    _choose(view, "temperature")
    assert "B10, which is not there" in view.notice
    assert "not here" in view._extra.currentText()
    assert "B10" in view._extra.currentData(Qt.ItemDataRole.ToolTipRole)
    before = len(viewer.layers)
    view._add_extra.click()
    assert "B10, which is not there" in view.notice
    assert len(viewer.layers) == before


def test_a_large_scene_is_zoomed_and_painted(viewer, qtbot, make_landsat, monkeypatch):
    monkeypatch.setattr(mosaic, "LARGE_PX", 1000)
    monkeypatch.setattr(levels, "_COARSEST_PX", 64)
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Data")
    view.open(make_landsat(shape=(300, 400)))
    composite = next(layer for layer in viewer.layers if layer.visible and getattr(layer, "rgb", False))
    assert composite.multiscale
    labels = workspace_of(viewer).labels_layer
    for zoom in (0.2, 5):
        viewer.scene.camera.zoom *= zoom
        qtbot.wait(20)
    with labels.block_history():
        labels.paint((100, 100), 1)
    assert (np.asarray(labels.data) == 1).any()
    _choose(view, "quality")
    view._add_extra.click()
    assert viewer.layers["Clouds and shadows"].multiscale


def test_the_reader_takes_scenes_and_leaves_the_rest(make_landsat, make_sentinel2, tmp_path):
    folder = make_landsat()
    safe = make_sentinel2()
    archive = make_landsat("LE07_L1TP_149035_20020731_20200908_02_T1", tar=True)
    for path in (folder, next(folder.glob("*_MTL.txt")), safe, safe / "MTD_MSIL2A.xml", archive, folder.parent):
        assert _reader.get_reader(str(path)) is _reader.read_layers, path
    (tmp_path / "readme_MTL.txt").write_text("END\n")
    assert _reader.get_reader(str(tmp_path / "readme_MTL.txt")) is None


def test_an_archive_is_chosen_in_the_dialog(viewer, qtbot, make_landsat, monkeypatch):
    archive = make_landsat(tar=True)
    asked = []

    def choose(parent, title, start, filters):
        asked.append(filters)
        return str(archive), filters

    monkeypatch.setattr("napari_glacier.views.data_view.QFileDialog.getOpenFileName", choose)
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Data")
    folder, file, *_ = view._open_button.menu().actions()
    assert folder.text().startswith("Folder")
    file.trigger()
    assert "*.tar" in asked[0]
    qtbot.waitUntil(lambda: view.workspace.session is not None and view.tiles.settled, timeout=20_000)
    assert view.workspace.session.tile_ids == (archive.stem,)


def test_a_dataset_that_is_dropped_beside_another_is_flown_to(viewer, make_dataset):
    viewer.show()
    viewer.open(str(make_dataset("first")), plugin="napari-glacier")
    far = make_dataset("second")
    for path in far.glob("*/*.tif"):
        with rasterio.open(path, "r+") as file:
            file.transform = rasterio.Affine.translation(90_000, 0) @ file.transform
    viewer.open(str(far), plugin="napari-glacier")
    layer = workspace_of(viewer).labels_layer
    middle = layer.data_to_world([(size - 1) / 2 for size in layer.data.shape])
    assert tuple(viewer.scene.camera.center[-2:]) == pytest.approx(tuple(middle), abs=60)
