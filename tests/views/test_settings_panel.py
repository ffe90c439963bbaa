"""The folded settings of the Train widget's form."""

import html

import pytest
import yaml
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication

from napari_glacier.controllers.training import TrainingController
from napari_glacier.core.config_files import load_config, recipe_names
from napari_glacier.views.base import WIDTH_PX
from napari_glacier.views.settings_panel import SettingsPanel


@pytest.fixture
def train(viewer, make_dataset, qtbot):
    """The Train widget of an open dataset of nine tiles, with a recipe chosen."""
    viewer.open(str(make_dataset(grid=(3, 3))), plugin="napari-glacier")
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Train")
    view.fill(recipe="default", epochs=5, device="cpu")
    qtbot.waitUntil(lambda: not view.form.split.busy, timeout=20_000)
    return view


@pytest.fixture
def panel(qtbot):
    """The settings alone, unfolded."""
    panel = SettingsPanel()
    qtbot.addWidget(panel)
    panel.take_recipe("default")
    panel.header.click()
    return panel


@pytest.fixture
def unfolded(train):
    """Those of the Train widget."""
    train.form.settings.header.click()
    return train.form.settings


def _type(qtbot, editor, text):
    editor.selectAll()
    qtbot.keyClicks(editor, text)


def test_nothing_is_made_before_it_is_unfolded(train):
    panel = train.form.settings
    assert (panel.tree, panel.rows, panel.overrides, panel.problem) == (None, {}, (), "")
    panel.header.click()
    rows = dict(panel.rows)
    assert set(rows) == {setting.key for setting in panel.tree}
    panel.header.click()
    assert not rows["optim.lr"].isVisibleTo(panel)
    panel.header.click()
    assert panel.rows == rows
    assert train.plan().settings == ()


def test_looking_changes_nothing(panel):
    for recipe in recipe_names():
        panel.take_recipe(recipe)
        assert panel.overrides == (), recipe
        config = load_config(recipe, ["data.train=."])
        assert panel.rows["optim.lr"].editor.value() == config.optim.lr
        assert panel.rows["train.amp"].editor.currentText() == config.train.amp
        assert panel.rows["model.name"].editor.text() == config.model.name


def test_numbers_are_typed_as_people_write_them(panel, qtbot):
    rate, factor = panel.rows["optim.lr"].editor, panel.rows["optim.plateau_factor"].editor
    _type(qtbot, rate, "2e-3")
    assert panel.overrides == ("optim.lr=0.002",)
    _type(qtbot, rate, "0.00005")
    assert panel.overrides == ("optim.lr=5e-05",)
    _type(qtbot, factor, "0,25")
    assert "optim.plateau_factor=0.25" in panel.overrides
    config = load_config("default", ["data.train=.", *panel.overrides])
    assert (config.optim.lr, config.optim.plateau_factor) == (5e-5, 0.25)
    factor.stepUp()
    assert panel.tree.value("optim.plateau_factor") == pytest.approx(0.3)
    rate.stepUp()
    assert panel.tree.value("optim.lr") == pytest.approx(5.1e-5)


def test_what_is_changed_is_marked_and_can_be_taken_back(panel):
    row = panel.rows["train.monitor"]
    assert not row.name.font().bold()
    assert "What best and early stopping go by" in row.editor.toolTip()
    row.editor.setCurrentText("val_loss")
    assert row.name.font().bold()
    assert panel.header.text() == "More settings: 1 changed"
    assert panel.header.toolTip() == "train.monitor=val_loss"
    panel.rows["train.batch_size"].editor.setValue(4)
    assert set(panel.overrides) == {"train.monitor=val_loss", "train.batch_size=4"}
    row.back.click()
    assert not row.name.font().bold()
    assert row.editor.currentText() == "val_mcc"
    assert panel.overrides == ("train.batch_size=4",)
    panel.reset_all.click()
    assert panel.rows["train.batch_size"].editor.value() == 8
    assert panel.header.text() == "More settings"


def test_values_can_be_read(panel, qtbot):
    panel.resize(WIDTH_PX, 500)
    panel.show()
    encoder, terms = (panel.rows[key].editor for key in ("model.encoder", "loss.terms"))
    for recipe in recipe_names():
        panel.take_recipe(recipe)
        assert encoder.fontMetrics().horizontalAdvance(encoder.text()) < encoder.width() - 10, recipe
        assert terms.text() in html.unescape(terms.toolTip()), recipe
    changed = "{ce: {start: 0.8, end: 0.2, epochs: 60}, iou: {start: 0.2, end: 0.8, epochs: 61}}"
    terms.setText(changed)
    assert changed in terms.toolTip()


def test_a_wrong_value_is_told_at_once_and_nothing_starts(train, unfolded, qtbot):
    assert train._start_button.isEnabled()
    _type(qtbot, unfolded.rows["sampling.crops_per_epoch"].editor, "many <b>")
    said = "⚠ sampling.crops_per_epoch is &#x27;many &lt;b&gt;&#x27;: Input should be a valid integer"
    assert train.form.estimate.text().startswith(said)
    assert not train._start_button.isEnabled()
    assert train.start() is None
    assert "Input should be a valid integer" in train.notice
    assert train.show_commands() is None
    assert train.controller.runs(train.form.output_folder) == []
    _type(qtbot, unfolded.rows["sampling.crops_per_epoch"].editor, "64")
    assert train._start_button.isEnabled()
    assert "memory" in train.form.estimate.text()


def test_the_run_that_starts_has_the_values(train, unfolded, qtbot, monkeypatch):
    launched = []
    monkeypatch.setattr(TrainingController, "_launch", lambda self, run, *arguments: launched.append(arguments))
    unfolded.rows["optim.lr"].editor.setValue(0.003)
    unfolded.rows["data.review"].editor.setCurrentText("none")
    _type(qtbot, unfolded.rows["loss.terms"].editor, "{ce: 1, dice: {steps: {1: 0.5, 3: 0.25}}}")
    unfolded.header.click()  # folded again
    run = train.start()
    assert launched == [("--config", str(run.config_path))]
    written = yaml.safe_load(run.config_path.read_text())
    assert written["optim"]["lr"] == 0.003
    assert written["loss"]["terms"]["ce"] == 1
    assert list(written["loss"]["terms"]["dice"]["steps"].values()) == [0.5, 0.25]
    changes = ["optim.lr=0.003", "loss.terms={ce: 1, dice: {steps: {1: 0.5, 3: 0.25}}}"]
    folders = [f"data.train={train.form.data.text()}", f"output={train.form.output.text()}"]
    same = load_config("default", [*folders, "train.epochs=5", "device=cpu", *changes])
    assert load_config(run.config_path) == same
    dialog = train.show_commands()
    assert "optim.lr=0.003" in dialog._text.toPlainText()
    dialog.close()


def test_map_and_estimate_follow(train, unfolded, qtbot):
    assert "1 validates" in train.form.split.text
    before = train.form.estimate.text()
    unfolded.rows["data.val_fraction"].editor.setValue(0.5)
    qtbot.waitUntil(lambda: "4 validate" in train.form.split.text, timeout=20_000)
    unfolded.rows["train.batch_size"].editor.setValue(64)
    assert train.form.estimate.text() != before
    _type(qtbot, unfolded.rows["folds"].editor, "3")
    qtbot.waitUntil(lambda: not train.form.split.isVisibleTo(train.form), timeout=20_000)


def test_changes_stay_with_another_recipe(panel):
    panel.rows["loss.focal_gamma"].editor.setValue(1.5)
    panel.take_recipe("finetune")
    assert panel.rows["loss.focal_gamma"].editor.value() == 1.5
    assert panel.rows["optim.lr"].editor.value() == 1e-4
    assert panel.overrides == ("loss.focal_gamma=1.5",)


def test_words_leave_the_settings_that_have_them(panel):
    def shown():
        return {key for key, row in panel.rows.items() if row.isVisibleTo(panel)}

    panel.filter.setText("learning rate")
    assert shown() == panel.tree.matching("learning rate")
    assert {"optim.lr", "optim.encoder_lr"} <= shown() < set(panel.rows)
    panel.filter.setText("zzz")
    assert shown() == set()
    assert panel._nothing.isVisibleTo(panel)
    panel.filter.clear()
    assert shown() == set(panel.rows)


def test_the_wheel_scrolls_and_changes_nothing(panel):
    editor = panel.rows["train.batch_size"].editor
    editor.clearFocus()
    turn = QWheelEvent(
        QPointF(5, 5),
        QPointF(editor.mapToGlobal(QPoint(5, 5))),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(editor, turn)
    assert editor.value() == 8
    assert panel.overrides == ()
