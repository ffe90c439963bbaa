"""Choosing the keys of the tools."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QGridLayout, QKeySequenceEdit, QLabel, QVBoxLayout, QWidget

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.pointer import Pointer
from napari_glacier.views.settings import keep_all, kept

_SETTINGS = "keys/"
_PER_COLUMN = 10
# Qt's names of modifiers and keys, and napari's.
_NAMES = (
    ("Ctrl", "Control"),
    ("Return", "Enter"),
    ("Esc", "Escape"),
    ("Del", "Delete"),
    ("Ins", "Insert"),
    ("PgUp", "PageUp"),
    ("PgDown", "PageDown"),
)


class KeysDialog(QDialog):
    """A list of actions, each with the key that starts it.

    Parameters
    ----------
    pointer : Pointer
    parent : QWidget
    """

    def __init__(self, pointer: Pointer, parent: QWidget) -> None:
        super().__init__(parent)
        self._pointer = pointer
        self.setWindowTitle("Keys of the correction tools")
        layout = QVBoxLayout(self)
        grid = QGridLayout()
        self._edits: dict[str, Any] = {}
        for number, name in enumerate(pointer.keys):
            edit = QKeySequenceEdit(QKeySequence(to_qt(pointer.keys[name])))
            row, column = number % _PER_COLUMN, 2 * (number // _PER_COLUMN)
            grid.addWidget(QLabel(toolbox.title_of(name)), row, column)
            grid.addWidget(edit, row, column + 1)
            self._edits[name] = edit
        layout.addLayout(grid)
        self._problem = QLabel("1-7 E P F L Z M X B and - = [ ] belong to napari's own tools.")
        self._problem.setWordWrap(True)
        layout.addWidget(self._problem)
        box = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok
            | QDialogButtonBox.StandardButton.Cancel
            | QDialogButtonBox.StandardButton.RestoreDefaults
        )
        box.accepted.connect(self.accept)
        box.rejected.connect(self.reject)
        defaults = box.button(QDialogButtonBox.StandardButton.RestoreDefaults)
        defaults.clicked.connect(lambda: self.fill(toolbox.DEFAULT_KEYS))
        layout.addWidget(box)

    def fill(self, keys: Mapping[str, str]) -> None:
        """Show other keys; they count once the dialog is accepted."""
        for name, key in keys.items():
            self._edits[name].setKeySequence(QKeySequence(to_qt(key)))

    def accept(self) -> None:
        """Use the keys and remember them, unless two actions share one; an empty field is no key."""
        keys = {
            name: to_napari(edit.keySequence().toString(QKeySequence.SequenceFormat.PortableText))
            for name, edit in self._edits.items()
        }
        try:
            self._pointer.set_keys(keys)
        except ValueError as error:
            self._problem.setText(f"⚠ {error}")
            return
        keep_all({_SETTINGS + name: key for name, key in keys.items()})
        super().accept()


def use_kept_keys(pointer: Pointer) -> None:
    """Use the keys that were chosen in an earlier sitting; those that cannot be used are passed over."""
    chosen = {name: kept(_SETTINGS + name, key) for name, key in toolbox.DEFAULT_KEYS.items()}
    try:
        # All at once: two actions may have exchanged their keys.
        pointer.set_keys(chosen)
    except ValueError:
        for name, key in chosen.items():
            with suppress(ValueError):
                pointer.set_keys({name: key})


def to_qt(key: str) -> str:
    """Shift-N as Qt writes it: Shift+N; no key stays an empty text."""
    return "+".join({napari: qt for qt, napari in _NAMES}.get(part, part) for part in _parts(key, "-"))


def to_napari(key: str) -> str:
    """Shift+N as napari writes it: Shift-N; of several strokes the first, no key stays an empty text."""
    # Qt puts a comma and a blank between strokes; a comma alone is a key.
    stroke = key.split(", ", maxsplit=1)[0]
    return "-".join(dict(_NAMES).get(part, part) for part in _parts(stroke, "+"))


def _parts(stroke: str, joint: str) -> list[str]:
    """Modifiers and key of a stroke; the last character is of the key, also where it is the joint."""
    *modifiers, key = stroke[:-1].split(joint)
    return [*modifiers, key + stroke[-1:]]
