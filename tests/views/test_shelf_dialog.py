"""The model shelf in the window."""

import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from qtpy.QtCore import Qt

from napari_glacier.nn.ensemble import resolve_models
from napari_glacier.views.shelf_dialog import ShelfDialog

pytestmark = pytest.mark.gui


@pytest.fixture
def root(make_dataset, make_checkpoint):
    root = make_dataset()
    for name in ("1-old", "2-new"):
        folder = root / "runs" / name
        folder.mkdir(parents=True)
        (folder / "best.safetensors").write_bytes(make_checkpoint().read_bytes())
        (folder / "run.yaml").write_text("{}")
    return root


@pytest.fixture
def shelf(viewer, root):
    viewer.open(str(root), plugin="napari-glacier")
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Train")
    view.fill(device="cpu")
    yield view.show_models()
    view._shelf.close()


def _item(shelf: ShelfDialog, title):
    return next(
        item for k in range(shelf._list.topLevelItemCount()) if (item := shelf._list.topLevelItem(k)).text(0) == title
    )


def test_distilling_fills_in_the_train_form_and_starts_nothing(shelf, qtbot, root):
    from napari_glacier.controllers.training_plans import overrides
    from napari_glacier.core.config_files import load_config
    from training.distill import load_teachers

    train = shelf.parent()
    shelf._list.setCurrentItem(_item(shelf, "2-new"))
    shelf._distil_button.click()
    assert not shelf.isVisible()
    assert not train.controller.active
    plan = train.plan()
    assert (plan.recipe, plan.data) == ("distill", root)
    assert "2-new" in train.notice
    config = load_config(plan.recipe, overrides(plan))
    teachers = load_teachers(config.distill, train.workspace.session.scheme, config.data.channels)
    assert [member.card.name for member in teachers.members] == ["tiny"]

    shelf._list.setCurrentItem(_item(train.show_models(), "Bundled ensemble"))
    shelf._distil_button.click()
    assert train.plan().settings == (), "the recipe's own teachers"


def test_cards_are_shown_and_an_ensemble_is_made(shelf, qtbot, root):
    assert not shelf._compose_button.isEnabled()
    shelf._list.setCurrentItem(_item(shelf, "2-new"))
    assert "Network: unet tu-mobilenetv3_small_050" in shelf._card.text()
    assert "does not say which" in shelf._card.text()
    for title in ("1-old", "2-new"):
        _item(shelf, title).setCheckState(0, Qt.CheckState.Checked)
    shelf._name.setText("both")

    shelf._compose_button.click()
    assert shelf.running
    qtbot.waitUntil(lambda: not shelf.running, timeout=60_000)

    assert shelf.said.startswith("both is on the shelf. Weights: ")
    made = resolve_models(root / "models" / "both")
    assert (made.name, len(made.members)) == ("both", 2)
    assert _item(shelf, "both").text(1) == "kept"
    train = shelf.parent()
    qtbot.waitUntil(lambda: train.form.start_from.findText("both") >= 0)
    assert train.compare_panel._champion.findText("both") >= 0
    shelf._name.setText(" ")
    shelf._compose_button.click()
    assert "needs a name" in shelf.said
    assert yaml.safe_load((root / "models" / "both" / "ensemble.yaml").read_text())["name"] == "both"


def test_enter_presses_no_button_but_the_one_with_the_focus(shelf, qtbot):
    for title in ("1-old", "2-new"):
        _item(shelf, title).setCheckState(0, Qt.CheckState.Checked)
    shelf._name.setText(" ")
    # A name is asked for as soon as an ensemble would be made.
    for field in (shelf._list, shelf._fitted):
        qtbot.keyClick(field, Qt.Key.Key_Return)
        assert (shelf.said, shelf.running) == ("", False), type(field).__name__
    qtbot.keyClick(shelf._name, Qt.Key.Key_Return)
    assert "needs a name" in shelf.said

    qtbot.keyClick(shelf._distil_button, Qt.Key.Key_Return)
    assert not shelf.isVisible(), "Distil hides the window and fills in the form"


def test_models_are_those_of_the_open_dataset(shelf, make_dataset):
    assert shelf._list.topLevelItemCount() == 3
    shelf.parent().workspace.open(make_dataset("other"))
    assert [shelf._list.topLevelItem(k).text(0) for k in range(shelf._list.topLevelItemCount())] == ["Bundled ensemble"]


def test_a_broken_model_is_shown_with_its_reason(shelf, root):
    (root / "runs" / "3-broken").mkdir()
    (root / "runs" / "3-broken" / "best.safetensors").write_bytes(b"cut short")
    shelf.fill()
    shelf._list.setCurrentItem(_item(shelf, "3-broken"))
    assert "is no checkpoint of napari-glacier" in shelf._card.text()
    assert not shelf._bundle_button.isEnabled()


def test_foreign_weights_are_guided_in(shelf, qtbot, root, tmp_path):
    network = smp.Unet(
        "tu-mobilenetv3_small_050", encoder_weights=None, in_channels=5, classes=4, decoder_channels=[16] * 5
    )
    path = tmp_path / "theirs.pth"
    torch.save({f"net.{key}": value for key, value in network.state_dict().items()}, path)
    form = shelf.import_weights(path)
    qtbot.waitUntil(lambda: not form.running, timeout=60_000)
    assert "5 channels in" in form._outline.text()

    form.fill(encoder="tu-mobilenetv3_small_050")
    form.bring_in()
    qtbot.waitUntil(lambda: not form.running, timeout=30_000)
    assert "does not fit unet as described" in form.report
    form.fill(arguments="decoder_channels=[16, 16, 16, 16, 16]")
    form.check()
    qtbot.waitUntil(lambda: not form.running, timeout=30_000)
    assert "Everything fits" in form.report
    form.fill(channels="B2, B99")
    form.check()
    qtbot.waitUntil(lambda: not form.running, timeout=30_000)
    assert "not known" in form.report
    form.fill(channels="B2, B3, B4, B6, B10")
    form.bring_in()
    qtbot.waitUntil(lambda: not form.running, timeout=30_000)

    assert _item(shelf, "theirs").text(1) == "imported"
    assert resolve_models(root / "models" / "theirs").members[0].card.name == "theirs"


def test_a_bundle_is_exported(shelf, qtbot, tmp_path):
    shelf._list.setCurrentItem(_item(shelf, "2-new"))
    shelf.export(tmp_path / "bundle")
    qtbot.waitUntil(lambda: not shelf.running, timeout=120_000)
    assert (tmp_path / "bundle" / "solution.py").is_file(), shelf.said
