"""Editors of one setting of a run, by its type; each takes and gives YAML on one line."""

import math
from typing import Any

from qtpy.QtCore import QEvent, QObject, QSignalBlocker, Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QValidator
from qtpy.QtWidgets import QDoubleSpinBox, QLineEdit, QSpinBox, QWidget

from napari_glacier.controllers.settings_tree import Setting
from napari_glacier.core.plain_yaml import read_yaml, write_line
from napari_glacier.views.pieces import ShrinkingBox

_LARGEST_WHOLE = 2**31 - 1
_LARGEST = 1e9
# Digits behind the point that a box keeps: rates go down to 1e-7.
_DIGITS = 12
_STEPS = 20


class WholeBox(QSpinBox):
    """A whole number."""

    edited = QtSignal(str)

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setRange(
            int(setting.least) if setting.least is not None else -_LARGEST_WHOLE,
            int(setting.most) if setting.most is not None else _LARGEST_WHOLE,
        )
        self.valueChanged.connect(lambda value: self.edited.emit(str(value)))

    def show_text(self, text: str) -> None:
        """Show a value without telling of it."""
        with QSignalBlocker(self):
            self.setValue(int(read_yaml(text)))


class NumberBox(QDoubleSpinBox):
    """A number, written as short as it can be: 0.3, 1e-07."""

    edited = QtSignal(str)

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._step = 0.0
        if setting.least is not None and setting.most is not None:
            self._step = (setting.most - setting.least) / _STEPS
        self.setDecimals(_DIGITS)
        self.setRange(
            setting.least if setting.least is not None else -_LARGEST,
            setting.most if setting.most is not None else _LARGEST,
        )
        self.valueChanged.connect(lambda value: self.edited.emit(write_line(value)))

    def show_text(self, text: str) -> None:
        """Show a value without telling of it."""
        value = float(read_yaml(text))
        # What is being typed is not written anew: of 0.0 the way to 0.05 would be lost.
        if value != self.value():
            with QSignalBlocker(self):
                self.setValue(value)

    def textFromValue(self, value: float) -> str:  # noqa: N802 - Qt's own name
        """The number without zeros at its end."""
        return f"{value:.10g}"

    def valueFromText(self, text: str) -> float:  # noqa: N802 - Qt's own name
        """The number that is written; half a number is the one before."""
        try:
            return float(text.replace(",", "."))
        except ValueError:
            return self.value()

    def validate(self, text: str, position: int) -> Any:
        """Let numbers be typed as people write them: 5e-4, 0,5."""
        if set(text) - set("0123456789.,eE+-"):
            return QValidator.State.Invalid, text, position
        try:
            inside = self.minimum() <= float(text.replace(",", ".")) <= self.maximum()
        except ValueError:
            inside = False
        return QValidator.State.Acceptable if inside else QValidator.State.Intermediate, text, position

    def stepBy(self, steps: int) -> None:  # noqa: N802 - Qt's own name
        """A twentieth of the range; where there is none, a tenth of the number's first digit."""
        value = abs(self.value())
        step = self._step or (10.0 ** (math.floor(math.log10(value)) - 1) if value else 0.1)
        self.setValue(self.value() + steps * step)


class ChoiceBox(ShrinkingBox):
    """One of some values."""

    edited = QtSignal(str)

    def __init__(self, setting: Setting) -> None:
        super().__init__(6)
        for choice in setting.choices:
            self.addItem(_shown(choice), "" if choice is None else write_line(choice))
        self.currentIndexChanged.connect(lambda _: self.edited.emit(self.currentData()))

    def show_text(self, text: str) -> None:
        """Show a value without telling of it."""
        with QSignalBlocker(self):
            self.setCurrentIndex(self.findData(text))


class LineBox(QLineEdit):
    """Anything that is YAML: a text, a list, a mapping; nothing is none."""

    edited = QtSignal(str)

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setPlaceholderText("none")
        self.textChanged.connect(self.edited)

    def show_text(self, text: str) -> None:
        """Show a value without telling of it, from its beginning."""
        if text != self.text().strip():
            with QSignalBlocker(self):
                self.setText(text)
            self.setCursorPosition(0)


Editor = WholeBox | NumberBox | ChoiceBox | LineBox
_BOXES: dict[str, type[Editor]] = {"whole": WholeBox, "number": NumberBox, "choice": ChoiceBox, "line": LineBox}


def make_editor(setting: Setting, scrolls: QObject) -> Editor:
    """The editor of a setting; `scrolls` keeps the wheel for the list."""
    editor = _BOXES[setting.kind](setting)
    editor.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    editor.installEventFilter(scrolls)
    return editor


class WheelGuard(QObject):
    """The wheel scrolls the list, and changes no setting over which the mouse happens to be."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's own name
        """Leave the wheel to the list, unless the editor is being used."""
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return False


def _shown(choice: Any) -> str:
    if isinstance(choice, bool):
        return "yes" if choice else "no"
    return "none" if choice is None else str(choice)
