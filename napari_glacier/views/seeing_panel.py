"""The part of the Correct widget that compares two pictures of one place: divider, side by side, flicker."""

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QSizePolicy, QSlider, QToolButton

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.seeing import FLICKER, SIDE_BY_SIDE, SWIPE
from napari_glacier.views.desk_panel import DeskPanel
from napari_glacier.views.pieces import ShrinkingBox, checked_style
from napari_glacier.views.tool_panel import shown_key

_BUTTONS = (
    (SWIPE, "Swipe", "A divider between the two; draw it with the mouse, or by the slider"),
    (SIDE_BY_SIDE, "Side by side", "Both beside each other; they move together"),
    (FLICKER, "Flicker", "One after the other by itself; tap its key for the next one, hold it to look for as long"),
)
_FINE = 1000


class SeeingPanel(DeskPanel):
    """Which two pictures, and how.

    Parameters
    ----------
    controller : CorrectionController
    attempt : callable
        As of `DeskPanel`.
    """

    def __init__(self, controller: CorrectionController, attempt: Callable[[Callable[[], Any]], Any]) -> None:
        super().__init__(attempt)
        self._seeing = controller.seeing
        self._pointer = controller.pointer
        # One above the other: beside each other they would cut the names of most layers.
        pair = QGridLayout()
        pair.setSpacing(2)
        self._column.addLayout(pair)
        self._left, self._right = ShrinkingBox(6), ShrinkingBox(6)
        self._exchange = QToolButton()
        self._exchange.setText("⇄")
        self._exchange.setToolTip("Exchange left and right")
        self._exchange.clicked.connect(self._seeing.exchange)
        self._exchange.setAccessibleName("Exchange")
        self._exchange.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Expanding)
        for row_number, (box, side) in enumerate(((self._left, "Left"), (self._right, "Right"))):
            title = QLabel(side)
            title.setBuddy(box)
            box.activated.connect(self._choose)
            pair.addWidget(title, row_number, 0)
            pair.addWidget(box, row_number, 1)
        pair.addWidget(self._exchange, 0, 2, 2, 1)
        pair.setColumnStretch(1, 1)
        row = self._add_row()
        self._buttons: dict[str, QToolButton] = {}
        for mode, _, tip in _BUTTONS:
            button = QToolButton()
            button.setCheckable(True)
            button.setToolTip(tip)
            button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            button.clicked.connect(lambda _=False, mode=mode: self._turn(mode))
            self._buttons[mode] = button
            row.addWidget(button, 1)
        self._why_not = QLabel()
        self._why_not.setWordWrap(True)
        self._column.addWidget(self._why_not)
        self._divider = QSlider(Qt.Orientation.Horizontal)
        self._divider.setRange(0, _FINE)
        self._divider.setToolTip("Where the divider is; it can be drawn on the canvas, too")
        self._divider.valueChanged.connect(lambda value: self._seeing.move_divider(value / _FINE))
        self._column.addWidget(self._divider)
        self.refresh()

    def refresh(self) -> None:
        """Show what can be compared, and how it is."""
        names = [layer.name for layer in self._seeing.pictures]
        pair = self._seeing.pair
        for number, box in enumerate((self._left, self._right)):
            if [box.itemText(k) for k in range(box.count())] != names:
                box.clear()
                box.addItems(names)
            if pair is not None:
                box.setCurrentText(pair[number].name)
            box.setEnabled(pair is not None)
        self._exchange.setEnabled(pair is not None)
        self._why_not.setText(self._seeing.why_not)
        self._why_not.setVisible(bool(self._why_not.text()))
        for mode, title, _ in _BUTTONS:
            button = self._buttons[mode]
            button.setText(f"{title} {shown_key(self._pointer.keys[mode])}".rstrip())
            button.setChecked(mode == self._seeing.mode)
            button.setEnabled(pair is not None)
        self._divider.setVisible(self._seeing.mode == SWIPE)
        self._divider.blockSignals(True)
        self._divider.setValue(round(_FINE * self._seeing.divider))
        self._divider.blockSignals(False)

    def look(self) -> None:
        """Follow the layer list: bands can be compared while they are shown."""
        shown = [self._left.itemText(k) for k in range(self._left.count())]
        # What is compared is hidden and shown in turn.
        if not self._seeing.mode and [layer.name for layer in self._seeing.pictures] != shown:
            self.refresh()

    def set_style(self, viewer: Any) -> None:
        """Take the theme's colours."""
        for button in (*self._buttons.values(), self._exchange):
            button.setStyleSheet(checked_style(viewer))

    def _choose(self, number: int) -> None:
        left, right = self._left.currentText(), self._right.currentText()
        self._attempt(lambda: self._seeing.choose(left, right))

    def _turn(self, mode: str) -> None:
        self._attempt(lambda: self._seeing.toggle(mode))
        self.refresh()
