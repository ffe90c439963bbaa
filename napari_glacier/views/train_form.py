"""The form of a new run: what is asked, what becomes of the tiles, and what the run will want."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QPushButton, QSpinBox, QVBoxLayout, QWidget

from napari_glacier.controllers.split_map import PlannedSplit
from napari_glacier.controllers.training import TrainingController
from napari_glacier.controllers.training_plans import Plan, TilesThatCount, tiles_that_count
from napari_glacier.core.errors import ConfigError
from napari_glacier.views.base import group, hint
from napari_glacier.views.pieces import ShrinkingBox, label_of
from napari_glacier.views.settings import keep, keep_of, kept, kept_of, of_dataset
from napari_glacier.views.settings_panel import SettingsPanel
from napari_glacier.views.split_panel import SplitPanel
from napari_glacier.views.train_pieces import DeviceBox, folder_field

_TILES: tuple[tuple[TilesThatCount, str], ...] = (
    ("all", "All with a mask"),
    ("edited", "Edited or approved"),
    ("approved", "Approved"),
)
# With a dataset: recipe, epochs, tiles, start, changed settings.
_REMEMBERED = "train"


class TrainForm(QWidget):
    """Recipe, data, output, tiles, epochs, start and device of a run, and folded below them all else.

    Parameters
    ----------
    controller : TrainingController
    """

    output_changed = QtSignal()
    commands_asked = QtSignal()
    estimated = QtSignal()

    def __init__(self, controller: TrainingController) -> None:
        super().__init__()
        self._controller = controller
        self._split: PlannedSplit | None = None
        # What a person chose is not changed when a dataset is opened with which nothing was chosen yet.
        self._recipe_chosen = False
        self.recipe, self.tiles, self.start_from = QComboBox(), QComboBox(), ShrinkingBox()
        self.epochs, self.device = QSpinBox(), DeviceBox()
        self._recipe_note, self.estimate = hint(""), hint("")
        self.settings = SettingsPanel()
        self.settings.changed.connect(self._look_again)
        self.settings.changed.connect(self.remember)
        self.split = SplitPanel(lambda: controller.split_of(self.plan()) if self.data.text() else None)
        self.split.found.connect(self._on_split)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(group("New run", self._make_fields()))
        layout.addLayout(self._make_estimate())
        self.fill_starts()

    def _make_fields(self) -> QFormLayout:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.recipe.addItems(self._controller.recipes())
        self.recipe.currentTextChanged.connect(self.show_recipe)
        self.recipe.activated.connect(self._on_recipe_chosen)
        form.addRow("Recipe", self.recipe)
        form.addRow(self._recipe_note)
        self.data, data_row = folder_field(self, "Folder of tiles with masks")
        self.data.editingFinished.connect(self._look_again)
        self.data.textChanged.connect(self.show_estimate)
        form.addRow(label_of("Data", self.data), data_row)
        self.output, output_row = folder_field(self, "Where the run folder goes")
        self.output.editingFinished.connect(self.output_changed)
        form.addRow(label_of("Output", self.output), output_row)
        for key, title in _TILES:
            self.tiles.addItem(title, key)
        self.tiles.setToolTip("Which labelled tiles of the open dataset count, by their review states")
        self.tiles.currentIndexChanged.connect(self._look_again)
        form.addRow("Tiles", self.tiles)
        form.addRow(self.split)
        self.epochs.setRange(1, 100_000)
        self.epochs.valueChanged.connect(self.show_estimate)
        self.epochs.editingFinished.connect(self.remember)
        form.addRow("Epochs", self.epochs)
        self.start_from.setToolTip("Fresh weights, or those of a model that is there already")
        self.start_from.currentIndexChanged.connect(self._look_again)
        form.addRow("Start from", self.start_from)
        self.device.currentTextChanged.connect(self.show_estimate)
        for box in (self.recipe, self.tiles, self.start_from, self.device):
            box.activated.connect(lambda _: self.remember())
        form.addRow("Device", self.device)
        form.addRow(self.settings)
        return form

    def _make_estimate(self) -> QHBoxLayout:
        row = QHBoxLayout()
        commands = QPushButton("Commands…")
        commands.setToolTip(
            "The same run for a terminal, several GPUs, or a cluster, and how to follow it; to be copied"
        )
        commands.clicked.connect(self.commands_asked)
        row.addWidget(self.estimate, 1)
        row.addWidget(commands, 0, Qt.AlignmentFlag.AlignTop)
        return row

    def plan(self) -> Plan:
        """What the form says.

        Raises
        ------
        ConfigError, DataError
            If a further setting is wrong, or too few tiles are of the review states asked for.
        """
        if self.settings.problem:
            raise ConfigError(self.settings.problem)
        source = self.start_from.currentData()
        return Plan(
            recipe=self.recipe.currentText(),
            data=Path(self.data.text()).expanduser(),
            output=self.output_folder or Path(),
            epochs=self.epochs.value(),
            init_from=str(source) if source is not None else None,
            device=self.device.currentText().strip() or "auto",
            tiles=tiles_that_count(self._controller.session_of(Path(self.data.text())), self.tiles.currentData()),
            settings=self.settings.overrides,
        )

    @property
    def output_folder(self) -> Path | None:
        """Where runs go; None where nothing is filled in."""
        return Path(self.output.text()).expanduser() if self.output.text() else None

    def choose_recipe(self, name: str) -> None:
        """Take a recipe as a person does: it stays whatever is opened."""
        self._recipe_chosen = True
        self.recipe.setCurrentText(name)

    def prepare(self, recipe: str, changes: Sequence[str]) -> None:
        """Fill in a recipe with just these changes, ``key=value``, for a person to look at and start."""
        self.choose_recipe(recipe)
        self.show_recipe(recipe)
        self.settings.take_changes(changes)
        self._look_again()

    def take_dataset(self) -> None:
        """Take the open dataset's folders and the recipe that suits it, and look at its tiles."""
        if self._controller.default_data is not None:
            self.data.setText(str(self._controller.default_data))
            self.output.setText(str(self._controller.default_output))
        if not self._take_remembered() and not self._recipe_chosen and self.recipe.count():
            proposal = self._controller.proposal
            usual = kept("train/recipe", "")
            usual = usual if self.recipe.findText(usual) >= 0 else self._controller.recipes()[0]
            self.recipe.setCurrentText(proposal.recipe if proposal is not None else usual)
        self._show_note(self.recipe.currentText())
        self._look_again()

    def remember(self) -> None:
        """Keep what is chosen: the device for all runs, the rest with the dataset."""
        keep("train/device", self.device.currentText().strip() or "auto")
        keep("train/recipe", self.recipe.currentText())
        if self.data.text().strip() and not self.settings.problem:
            chosen = {
                "recipe": self.recipe.currentText(),
                "epochs": self.epochs.value(),
                "tiles": self.tiles.currentData(),
                "start": self.start_from.currentData(),
                "settings": list(self.settings.overrides),
            }
            keep_of(of_dataset(self.data.text(), _REMEMBERED), chosen)

    def _take_remembered(self) -> bool:
        """Fill in what was chosen with this dataset last; False where nothing was, or its recipe is gone."""
        chosen = kept_of(of_dataset(self.data.text(), _REMEMBERED)) if self.data.text().strip() else None
        if not isinstance(chosen, dict) or self.recipe.findText(str(chosen.get("recipe"))) < 0:
            return False
        self.recipe.setCurrentText(str(chosen["recipe"]))
        # Of another dataset it might be here.
        self.show_recipe(self.recipe.currentText())
        if isinstance(epochs := chosen.get("epochs"), int):
            self.epochs.setValue(epochs)
        self.tiles.setCurrentIndex(max(0, self.tiles.findData(chosen.get("tiles"))))
        self.fill_starts()
        self.start_from.setCurrentIndex(max(0, self.start_from.findData(chosen.get("start"))))
        self.settings.take_changes([str(change) for change in chosen.get("settings") or ()])
        return True

    def fill_starts(self) -> None:
        """List the models that a run can start from."""
        chosen = self.start_from.currentText()
        self.start_from.blockSignals(True)
        self.start_from.clear()
        self.start_from.addItem("fresh weights", None)
        for title, source in self._controller.starts():
            self.start_from.addItem(title, source)
        self.start_from.setCurrentIndex(max(0, self.start_from.findText(chosen)))
        self.start_from.blockSignals(False)

    def show_recipe(self, name: str) -> None:
        """Say what a recipe is for, and take its epochs and its start."""
        if not name:
            self._recipe_note.setText("No recipes are installed; reinstall napari-glacier.")
            return
        self._show_note(name)
        self.settings.take_recipe(name)
        self.epochs.setValue(self._controller.recipe_epochs(name))
        self.start_from.setCurrentIndex(max(0, self.start_from.findData(self._controller.recipe_start(name))))
        self._look_again()

    def _show_note(self, name: str) -> None:
        """What the recipe is for, and why another one or this one is proposed."""
        if not name:
            return
        proposal = self._controller.proposal
        lines = [_as_sentence(self._controller.recipe_note(name)), proposal.reason if proposal is not None else ""]
        self._recipe_note.setText("<br>".join(line for line in lines if line))
        self._recipe_note.setVisible(any(lines))

    def _on_recipe_chosen(self, *_: Any) -> None:
        self._recipe_chosen = True

    def show_estimate(self, *_: Any) -> None:
        """Say how long the run may take and how much memory it may want, or what it lacks."""
        plan = Plan(
            self.recipe.currentText(),
            Path(self.data.text()).expanduser(),
            Path(),
            epochs=self.epochs.value(),
            init_from=self.start_from.currentData(),
            device=self.device.currentText().strip() or "auto",
            settings=self.settings.overrides,
        )
        tiles = self._split.of("trains") if self._split is not None else ()
        told = self.lacking or self._controller.estimate(plan, self.output_folder, tiles, self.device.num_gpus)
        self.estimate.setText(told)
        self.estimated.emit()

    @property
    def lacking(self) -> str:
        """What there must be, or be otherwise, before training can start; empty where all is there."""
        if self.settings.problem:
            return f"⚠ {html.escape(self.settings.problem)}"
        if not self.data.text().strip() or not self.output.text().strip():
            return "Choose a dataset with masks and an output folder first."
        session = self._controller.session_of(Path(self.data.text()))
        # What was drawn is saved on starting, if the person likes.
        if session is None or session.unsaved() or any(tile.mask_path is not None for tile in session.dataset.tiles):
            return ""
        return (
            "No tile of this dataset has a mask to learn from. <i>Predict</i>, take the prediction over, fix it in "
            "<i>Correct</i> and <b>Save</b>."
        )

    def _look_again(self, *_: Any) -> None:
        # While a value is being typed the map stays: what is below it would jump.
        if not self.settings.problem:
            self.split.later()
        self.show_estimate()

    def _on_split(self, split: PlannedSplit | None) -> None:
        self._split = split
        self.show_estimate()


def _as_sentence(text: str) -> str:
    return text if not text or text[-1] in ".!?" else f"{text}."
