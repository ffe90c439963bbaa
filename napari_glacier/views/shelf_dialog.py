"""The model shelf: a list, the card of what is chosen, and what can be made of it."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.shelf import ShelfController, weighing_text
from napari_glacier.core.errors import GlacierError
from napari_glacier.core.models.shelf import ShelfModel
from napari_glacier.views.background import Background
from napari_glacier.views.base import hint
from napari_glacier.views.import_dialog import ImportDialog

_COLUMNS = ("Model", "Kind", "MCC", "MB", "Made")
_SIZE_PX = (640, 560)
_MODEL = Qt.ItemDataRole.UserRole


class ShelfDialog(QDialog):
    """Shows the models of the open dataset.

    Parameters
    ----------
    controller : ShelfController
    device : callable () -> str
        Where models are run.
    parent : QWidget
    """

    distil_asked = QtSignal(str, tuple)

    def __init__(self, controller: ShelfController, device: Callable[[], str], parent: QWidget) -> None:
        super().__init__(parent)
        self.controller = controller
        self._device = device
        self._task: Background | None = None
        self._importing: ImportDialog | None = None
        self.setWindowTitle("Models")
        self.resize(*_SIZE_PX)
        layout = QVBoxLayout(self)
        self._list = QTreeWidget()
        self._list.setHeaderLabels(_COLUMNS)
        self._list.setRootIsDecorated(False)
        header = self._list.header()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self._list.currentItemChanged.connect(lambda *_: self._show_card())
        self._list.itemChanged.connect(lambda *_: self._show_state())
        layout.addWidget(self._list, 3)
        self._card = hint("")
        self._card.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._card.setAlignment(Qt.AlignmentFlag.AlignTop)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setWidget(self._card)
        layout.addWidget(scroll, 2)
        layout.addLayout(self._make_composing())
        layout.addLayout(self._make_buttons())
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setFixedHeight(6)
        layout.addWidget(self._bar)
        self._said = QLabel()
        self._said.setWordWrap(True)
        self._said.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout.addWidget(self._said)
        self.fill()

    def _make_composing(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self._name = QLineEdit("ensemble")
        self._name.setToolTip("What the ensemble of the ticked models is called")
        self._fitted = QCheckBox("fit weights")
        self._fitted.setChecked(True)
        self._fitted.setToolTip("On labelled tiles that none of them has learnt from; else all count alike")
        self._compose_button = QPushButton("Make an ensemble")
        self._compose_button.setToolTip("Of the ticked models")
        self._compose_button.clicked.connect(self.compose)
        self._name.returnPressed.connect(self._compose_button.click)
        row.addWidget(QLabel("Ticked models as"))
        row.addWidget(self._name, 1)
        row.addWidget(self._fitted)
        row.addWidget(self._compose_button)
        return row

    def _make_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self._import_button = QPushButton("Import weights…")
        self._import_button.setToolTip("A plain state dict of another program (.pth, .safetensors)")
        self._import_button.clicked.connect(self._choose_weights)
        self._distil_button = QPushButton("Distil…")
        self._distil_button.setToolTip("Fill in the Train form: one small network learns from the chosen model")
        self._distil_button.clicked.connect(self.distil)
        self._bundle_button = QPushButton("Export bundle…")
        self._bundle_button.setToolTip("A folder that maps tiles where this program is not installed")
        self._bundle_button.clicked.connect(self._choose_bundle_folder)
        self._cancel_button = QPushButton("Cancel")
        self._cancel_button.clicked.connect(self.cancel)
        close = QPushButton("Close")
        close.clicked.connect(self.close)
        row.addWidget(self._import_button)
        row.addWidget(self._distil_button)
        row.addWidget(self._bundle_button)
        row.addStretch(1)
        row.addWidget(self._cancel_button)
        row.addWidget(close)
        return row

    @property
    def said(self) -> str:
        """The sentence at the foot."""
        return self._said.text()

    @property
    def running(self) -> bool:
        """Whether a job is under way."""
        return self._task is not None

    def fill(self) -> None:
        """List the models that there are now; ticks and choice stay where they can."""
        chosen, ticked = self.chosen, [model.source for model in self.ticked]
        self._list.clear()
        for model in self.controller.models():
            item = QTreeWidgetItem(list(self.controller.row(model)))
            item.setData(0, _MODEL, model)
            item.setToolTip(0, str(model.source or "comes with the plugin"))
            if not model.problem:
                is_ticked = model.source in ticked
                item.setCheckState(0, Qt.CheckState.Checked if is_ticked else Qt.CheckState.Unchecked)
            for column in (2, 3):
                item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self._list.addTopLevelItem(item)
            if chosen is not None and model.source == chosen.source:
                self._list.setCurrentItem(item)
        first = self._list.topLevelItem(0)
        if self._list.currentItem() is None and first is not None:
            self._list.setCurrentItem(first)
        self._show_card()

    @property
    def chosen(self) -> ShelfModel | None:
        """The model whose card is shown."""
        item = self._list.currentItem()
        return item.data(0, _MODEL) if item is not None else None

    @property
    def ticked(self) -> list[ShelfModel]:
        """The models that an ensemble would be made of."""
        items = [self._list.topLevelItem(k) for k in range(self._list.topLevelItemCount())]
        return [i.data(0, _MODEL) for i in items if i is not None and i.checkState(0) == Qt.CheckState.Checked]

    def compose(self) -> None:
        """Make an ensemble of the ticked models."""
        fitted, name = self._fitted.isChecked(), self._name.text()
        self._start(
            lambda: self.controller.compose_job(self.ticked, name, fitted=fitted, device=self._device()),
            lambda made: f"{made[0].name} is on the shelf. {weighing_text(made[1])}",
        )

    def export(self, out: Path) -> None:
        """Export the chosen model as a bundle."""
        model = self.chosen
        if model is not None:
            self._start(lambda: self.controller.bundle_job(model, out), str)

    def distil(self) -> None:
        """Have a run planned in which one network learns from the chosen model."""
        model = self.chosen
        if model is None:
            return
        try:
            changes = self.controller.distil_changes(model)
        except GlacierError as error:
            self._said.setText(f"⚠ {error}")
            return
        self.distil_asked.emit(model.title, changes)

    def cancel(self) -> None:
        """End the job under way."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._said.setText("Cancelled.")
            self._show_state()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's own name
        """Enter presses the button that has the focus; Qt would press the first one, wherever the focus is."""
        if event.key() not in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            super().keyPressEvent(event)

    def done(self, result: int) -> None:
        """Let go of what is under way; Qt calls it however the dialog is closed."""
        self.cancel()
        super().done(result)

    def _start(self, make: Callable[[], Generator[Any, None, Any]], tell: Callable[[Any], str]) -> None:
        def on_return(result: Any) -> None:
            self._task = None
            self.controller.added()
            self.fill()
            self._said.setText(tell(result))
            self._show_state()

        try:
            job = make()
        except GlacierError as error:
            self._said.setText(f"⚠ {error}")
            return
        self._said.setText("")
        self._task = Background(self, job, self._on_step, on_return, self._on_error)
        self._show_state()

    def _on_step(self, progress: Any) -> None:
        self._bar.setMaximum(0 if progress.preparing and not progress.done else progress.total)
        self._bar.setValue(progress.done)
        self._said.setText(progress.message)

    def _on_error(self, error: BaseException) -> None:
        self._task = None
        known = isinstance(error, GlacierError | OSError)
        self._said.setText(f"⚠ {error}" if known else f"⚠ {type(error).__name__}: {error}")
        self._show_state()

    def _choose_weights(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Weights of another program", "", "Weights (*.pth *.pt *.safetensors)"
        )
        if path:
            self.import_weights(Path(path))

    def import_weights(self, path: Path) -> ImportDialog:
        """Open the form that asks what a weight file is of."""
        self._importing = ImportDialog(self.controller, path, self)
        self._importing.imported.connect(self._on_imported)
        self._importing.show()
        return self._importing

    def _on_imported(self, folder: Any) -> None:
        self.controller.added()
        self.fill()
        self._said.setText(f"{folder.name} is on the shelf. Compare it with the champion before you rely on it.")

    def _choose_bundle_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "An empty folder for the bundle")
        if folder:
            self.export(Path(folder))

    def _show_card(self) -> None:
        model = self.chosen
        self._card.setText(self.controller.card_text(model) if model is not None else "There is no model yet.")
        self._show_state()

    def _show_state(self) -> None:
        model = self.chosen
        self._compose_button.setEnabled(not self.running and len(self.ticked) > 1)
        self._distil_button.setEnabled(not self.running and model is not None and not model.problem)
        self._bundle_button.setEnabled(not self.running and model is not None and not model.problem)
        self._import_button.setEnabled(not self.running)
        self._cancel_button.setVisible(self.running)
        self._bar.setVisible(self.running)
