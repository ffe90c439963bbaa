"""What a person chose comes back in the next window."""

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QTabBar

from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.views import settings as settings_module
from napari_glacier.views.looks import Looks
from napari_glacier.views.settings import keep, keep_all, kept, of_dataset, recent_folders, settings

pytestmark = pytest.mark.gui


def _dock(viewer, name):
    return viewer.window.add_plugin_dock_widget("napari-glacier", name)


def test_opacity_and_brush_come_back_with_the_next_dataset(viewer, qtbot, make_dataset):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    layer = workspace_of(viewer).labels_layer
    assert layer.opacity != 0.31
    layer.opacity, layer.brush_size = 0.31, 17
    band = next(layer for layer in viewer.layers if layer.name.startswith("B2"))
    band.opacity = 0.5
    qtbot.waitUntil(lambda: kept("looks/labels_opacity", 0) == 31)
    viewer.layers.clear()

    viewer.open(str(make_dataset("another")), plugin="napari-glacier")
    again = workspace_of(viewer).labels_layer
    assert again is not layer
    assert again.opacity == 0.31
    assert again.brush_size == 17
    assert next(layer for layer in viewer.layers if layer.name.startswith("B2")).opacity == 1.0
    assert len(viewer.window._qt_window.findChildren(Looks)) == 1


def _shown(viewer):
    return {layer.name for layer in viewer.layers if layer.visible}


def test_layers_shown_and_classes_locked_come_back_with_their_dataset(viewer, qtbot, make_dataset):
    first, second = make_dataset(), make_dataset("second")
    workspace = workspace_of(viewer)
    dock, view = _dock(viewer, "Correct")
    controller = view.controller
    workspace.open(first)
    usual = _shown(viewer)
    for name, visible in (("Labels", False), ("True colour", False), ("B6 SWIR", True), ("B2 blue", True)):
        viewer.layers[name].visible = visible
    viewer.layers["B6 SWIR"].opacity = 0.4
    viewer.layers["B6 SWIR"].name = "mine"
    controller.lock(0, True)
    controller.lock(2, True)
    controller.lock(0, False)
    # What is hidden to compare two pictures, and still hidden when the dataset is left, is no choice.
    controller.seeing.choose("SWIR-green-blue", "True colour")
    controller.seeing.toggle("flicker")
    assert _shown(viewer) == {"SWIR-green-blue"}

    workspace.open(second)
    assert _shown(viewer) == usual == {"Labels", "True colour"}
    assert not any(item.locked for item in controller.classes)
    controller.lock(3, True)
    viewer.layers["Labels"].visible = False

    workspace.open(first)
    assert _shown(viewer) == {"B6 SWIR", "B2 blue"}
    assert (viewer.layers["B6 SWIR"].opacity, viewer.layers["B2 blue"].opacity) == (0.4, 1.0)
    assert [item.index for item in controller.classes if item.locked] == [2]
    assert workspace.session.mask.locked_classes == {2}
    viewer.layers["Labels"].visible = True
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not view._open)

    # Locks hold for napari's own brush, too, where the Correct widget is not open.
    viewer.layers.clear()
    viewer.open(str(second), plugin="napari-glacier")
    assert workspace.labels_layer.data.locked_classes == {3}
    assert not workspace.labels_layer.visible
    settings().setValue(of_dataset(first, "layers"), '{"Labels": {"visible": "no"}, "B2 blue": {"opacity": 7}}')
    settings().setValue(of_dataset(first, "locked_glacier4"), '{"2": true}')
    workspace.open(first)
    assert _shown(viewer) == usual, "what cannot be read is passed over"
    assert not workspace.session.mask.locked_classes


def test_the_model_used_last_is_chosen_again(viewer, qtbot, make_dataset, make_checkpoint):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    dock, view = _dock(viewer, "Predict")
    assert view.model.source is None
    model = make_checkpoint()
    view.use_model(model)
    view.choose(scope="tile", tta=2, device="cpu")
    view.run()
    view.cancel()
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not view._open)

    dock, again = _dock(viewer, "Predict")
    assert again is not view
    assert again.model.source == model
    assert (again.form.scope, again.form.tta, again.form.device) == ("tile", 2, "cpu")
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not again._open)

    model.unlink()
    _, last = _dock(viewer, "Predict")
    assert last.model.source is None, "a model that is gone is not offered"


def test_a_model_belongs_to_the_dataset_that_it_was_chosen_for(viewer, qtbot, make_dataset, make_checkpoint):
    first, second = make_dataset(), make_dataset("second")
    model = make_checkpoint("one")
    viewer.open(str(first), plugin="napari-glacier")
    _, view = _dock(viewer, "Predict")
    view.use_model(model)
    viewer.open(str(second), plugin="napari-glacier")
    qtbot.waitUntil(lambda: view.workspace.session.root == second)
    assert view.model.source == model, "nothing was chosen for it yet: the model used last"
    view.use_bundled()
    view.form.models.activated.emit(view.form.models.currentIndex())  # as a person's choice does
    workspace_of(viewer).open(first)
    assert view.model.source == model
    workspace_of(viewer).open(second)
    assert view.model.source is None


def test_a_model_promoted_since_comes_before_the_one_used_last(viewer, make_dataset, make_checkpoint):
    from napari_glacier.core.models.promotion import promote
    from napari_glacier.nn.shelving import model_files

    root = make_dataset()
    viewer.open(str(root), plugin="napari-glacier")
    _, view = _dock(viewer, "Predict")
    used = make_checkpoint("used")
    view.use_model(used)
    promote(root, model_files(make_checkpoint("better"), "better"))
    workspace_of(viewer).models_changed.emit()
    champion = view.model.source
    assert champion != used
    workspace_of(viewer).close_session()
    workspace_of(viewer).open(root)
    assert view.model.source == champion
    view.use_model(used)
    workspace_of(viewer).close_session()
    workspace_of(viewer).open(root)
    assert view.model.source == used, "chosen in spite of the champion, it is what the person wants"


def test_a_plan_of_training_comes_back_with_its_dataset(viewer, qtbot, make_dataset):
    first, second = make_dataset(), make_dataset("second")
    viewer.open(str(first), plugin="napari-glacier")
    dock, view = _dock(viewer, "Train")
    form = view.form
    form.choose_recipe("finetune")
    form.epochs.setValue(7)
    form.settings.header.click()
    form.settings.rows["optim.lr"].editor.setValue(0.002)
    assert view.plan().settings == ("optim.lr=0.002",)
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not view._open)

    _, again = _dock(viewer, "Train")
    plan = again.plan()
    assert (plan.recipe, plan.epochs, plan.settings) == ("finetune", 7, ("optim.lr=0.002",))
    assert "1 changed" in again.form.settings.header.text()
    again.form.settings.header.click()
    assert again.form.settings.rows["optim.lr"].editor.value() == 0.002
    workspace_of(viewer).open(second)
    qtbot.waitUntil(lambda: again.form.data.text() == str(second))
    assert again.plan().recipe == "tiny_data", "of another dataset nothing was chosen: what suits it is proposed"


def test_datasets_that_were_opened_are_offered_the_last_one_first(viewer, qtbot, make_dataset):
    _, view = _dock(viewer, "Data")
    roots = [make_dataset(name) for name in ("a & b", "second", "third")]
    for root in roots:
        workspace_of(viewer).open(root)
    menu = view._open_button.menu()
    menu.aboutToShow.emit()
    offered = [action for action in menu.actions() if action.toolTip() in map(str, roots)]
    assert [action.toolTip() for action in offered] == [str(roots[1]), str(roots[0])]
    offered[1].trigger()
    qtbot.waitUntil(lambda: workspace_of(viewer).session is not None and workspace_of(viewer).session.root == roots[0])
    assert recent_folders() == [str(roots[k]) for k in (0, 2, 1)]


def test_the_class_in_the_hand_comes_back_for_the_same_classes_alone(viewer, qtbot, make_dataset):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    _dock(viewer, "Correct")[1].controller.select_class(3)
    qtbot.waitUntil(lambda: kept("looks/labels_selected_label_glacier4", 0) == 3)
    workspace_of(viewer).open(make_dataset("two", scheme="glacier2"))
    assert workspace_of(viewer).labels_layer.selected_label == 1
    workspace_of(viewer).open(make_dataset("four"))
    assert workspace_of(viewer).labels_layer.selected_label == 3


@pytest.mark.usefixtures("_plugin")
def test_widgets_of_last_time_are_opened_on_request_where_they_lay(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    window = viewer.window._qt_window
    docks = {name: _dock(viewer, name)[0] for name in ("Data", "Predict", "Report")}
    qtbot.waitUntil(lambda: docks["Report"] in window.tabifiedDockWidgets(docks["Data"]))
    window.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, docks["Predict"])
    viewer.close()

    viewer = make_napari_viewer()
    window = viewer.window._qt_window
    _, train = _dock(viewer, "Train")
    qtbot.waitUntil(lambda: not train.offer.isHidden())
    assert len(viewer.window.dock_widgets) == 1, "nothing opens by itself"
    train.offer.button.click()
    qtbot.waitUntil(lambda: len(viewer.window.dock_widgets) == 4)
    assert train.offer.isHidden()
    docks = {widget.title: widget.parent() for widget in viewer.window.dock_widgets.values()}
    qtbot.waitUntil(lambda: window.dockWidgetArea(docks["Predict"]) == Qt.DockWidgetArea.LeftDockWidgetArea)
    qtbot.waitUntil(lambda: docks["Report"] in window.tabifiedDockWidgets(docks["Data"]))
    assert not window.tabifiedDockWidgets(docks["Predict"])
    (bar,) = [bar for bar in window.findChildren(QTabBar) if bar.parent() is window and bar.count() > 1]
    qtbot.waitUntil(lambda: bar.tabText(bar.currentIndex()) == docks["Report"].windowTitle())
    viewer.close()

    viewer = make_napari_viewer()
    _, view = _dock(viewer, "Data")
    qtbot.waitUntil(lambda: not view.offer.isHidden())
    _dock(viewer, "Report")
    qtbot.waitUntil(view.offer.isHidden)


def test_a_value_of_another_kind_is_passed_over():
    settings().setValue("predict/tta", "seven")
    assert kept("predict/tta", 2) == 2


def test_a_choice_is_at_hand_before_the_disk_has_it():
    # The disk that is waited for.
    disk = Event()
    settings_module._disk.submit(disk.wait)
    keep("predict/model", "first")
    keep_all({"predict/model": "second", "predict/views": 8})
    assert (kept("predict/model", ""), kept("predict/views", 0)) == ("second", 8)
    assert not settings().contains("predict/model")
    disk.set()
    settings_module._disk.submit(lambda: None).result()
    assert not settings_module._waiting
    text = Path(settings().fileName()).read_text()
    assert "model=second" in text
    assert "views=8" in text
    assert (kept("predict/model", ""), kept("predict/views", 0)) == ("second", 8)


@pytest.mark.parametrize("moment", ["keep('data/folder', 'here')", "atexit.register(keep, 'data/folder', 'here')"])
def test_a_choice_of_the_last_moment_is_kept(tmp_path, moment):
    program = (
        "import atexit; from qtpy.QtCore import QSettings; from napari_glacier.views.settings import keep; "
        f"QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, {str(tmp_path)!r}); {moment}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    (file,) = tmp_path.rglob("*.ini")
    assert "folder=here" in file.read_text()
