"""Fields of the Train widget's form: a folder, and the devices that there are."""

from collections.abc import Generator
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLineEdit, QWidget

from napari_glacier.controllers.training_plans import devices_found
from napari_glacier.views.background import Background
from napari_glacier.views.pieces import browse_button

_USUAL = ("auto", "cpu", "cuda", "mps")


class DeviceBox(QComboBox):
    """Names of devices, to choose or to type; GPUs that are found are added with what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.setEditable(True)
        self.addItems(list(_USUAL))
        self._task = Background(self, _found_devices(), _ignore, self.offer, _ignore)

    def offer(self, found: list[tuple[str, str]]) -> None:
        """Add devices that were found."""
        chosen = self.currentText()
        for name, what in found:
            if self.findText(name) < 0:
                self.addItem(name)
            self.setItemData(self.findText(name), what, Qt.ItemDataRole.ToolTipRole)
        # Of the entry that it was on when a device was typed, news would bring back the name.
        self.setEditText(chosen)
        gpus = [f"{name}: {what}" for name, what in found if name.startswith("cuda:")]
        self.setToolTip(f"Found: {', '.join(gpus) or 'no NVIDIA GPU'}. auto takes what is there.")

    @property
    def num_gpus(self) -> int:
        """How many NVIDIA GPUs were found so far."""
        return sum(self.itemText(number).startswith("cuda:") for number in range(self.count()))

    def stop(self) -> None:
        """Look no further."""
        self._task.cancel()


def folder_field(parent: QWidget, placeholder: str) -> tuple[QLineEdit, QHBoxLayout]:
    """A field for a folder, with a button to choose one."""
    field = QLineEdit()
    field.setPlaceholderText(placeholder)
    # A path is longer than its field.
    field.textChanged.connect(field.setToolTip)
    button = browse_button("Choose a folder")

    def choose() -> None:
        folder = QFileDialog.getExistingDirectory(parent, placeholder, field.text())
        if folder:
            field.setText(folder)
            field.editingFinished.emit()

    button.clicked.connect(choose)
    row = QHBoxLayout()
    row.setSpacing(4)
    row.addWidget(field, 1)
    row.addWidget(button)
    return field, row


def _found_devices() -> Generator[None, None, list[tuple[str, str]]]:
    yield
    return devices_found()


def _ignore(_: Any) -> None:
    """Devices that cannot be looked for can still be typed."""
