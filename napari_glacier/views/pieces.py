"""Small drawn things: colour swatches, icons in the theme's colour, a bar of class shares."""

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QEvent, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QHelpEvent, QIcon, QPainter, QPaintEvent, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QLabel,
    QLayout,
    QPushButton,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QToolTip,
    QWidget,
)
from superqt import QElidingLabel

SWATCH_PX = 14
# What napari's style takes of a box for the arrow, and leaves free beside the text.
_ARROW_PX = 46


def swatch(color: str, size_px: int = SWATCH_PX) -> QPixmap:
    """A small square of a colour with a thin border, which keeps it visible on any theme."""
    # Drawn large, so that it stays sharp on displays that scale.
    pixmap = QPixmap(size_px * 2, size_px * 2)
    pixmap.setDevicePixelRatio(2.0)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QColor(128, 128, 128))
    painter.setBrush(QColor(color))
    painter.drawRoundedRect(QRectF(0.5, 0.5, size_px - 1, size_px - 1), 3, 3)
    painter.end()
    return pixmap


def swatch_icon(color: str) -> QIcon:
    """The same as an icon for buttons."""
    return QIcon(swatch(color))


def theme_icon(viewer: Any, name: str) -> QIcon:
    """One of napari's own icons in the colours of the viewer's theme."""
    return QIcon(f"theme_{viewer.theme}:/{name}.svg")


def checked_style(viewer: Any) -> str:
    """Style of tool buttons in the theme's colours; napari's own style sheet does not mark a checked one."""
    from napari.utils.theme import get_theme

    theme = get_theme(viewer.theme)
    return (
        f"QToolButton {{ background: {theme.foreground.as_hex()}; border: 0; border-radius: 2px; padding: 3px 0; }}"
        f"QToolButton:hover {{ background: {theme.highlight.as_hex()}; }}"
        f"QToolButton:checked {{ background: {theme.current.as_hex()}; }}"
    )


def clear_layout(layout: QLayout) -> None:
    """Take every widget out of a layout and delete it."""
    while layout.count():
        item = layout.takeAt(0)
        widget = item.widget() if item is not None else None
        if widget is not None:
            # Deleting waits for the event loop; until then the old row would show through the new one.
            widget.hide()
            widget.deleteLater()


def swatch_label(color: str) -> QLabel:
    """A swatch to put beside a name."""
    label = QLabel()
    label.setPixmap(swatch(color))
    label.setFixedSize(QSize(SWATCH_PX + 2, SWATCH_PX + 2))
    return label


def literal(text: str) -> str:
    """A person's own text for a button or a menu, where Qt takes an & for the mark of a key."""
    return text.replace("&", "&&")


def browse_button(tip: str) -> QPushButton:
    """A narrow button beside a field, for what is chosen elsewhere."""
    button = QPushButton("…")
    button.setFixedWidth(30)
    button.setToolTip(tip)
    button.setAccessibleName(tip)
    return button


def label_of(title: str, field: QWidget) -> QLabel:
    """A title that names a field for screen readers, too, where the field shares its row with others."""
    label = QLabel(title)
    label.setBuddy(field)
    return label


class ShrinkingBox(QComboBox):
    """A box as wide as its place; of a longer entry it shows the end, by which runs and folders are told apart.

    The open list shows entries whole, and so does the tip of the box.

    Parameters
    ----------
    letters : int
        For which there is always room.
    """

    def __init__(self, letters: int = 14) -> None:
        super().__init__()
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(letters)

    def showPopup(self) -> None:  # noqa: N802 - Qt's own name
        """Open the list as wide as its longest entry."""
        entries = self.view()
        bar = entries.verticalScrollBar()
        scrolls = self.count() > self.maxVisibleItems() and bar is not None
        entries.setMinimumWidth(entries.sizeHintForColumn(0) + (bar.sizeHint().width() if scrolls else 0))
        super().showPopup()

    def event(self, event: QEvent) -> bool:
        """Say in the tip what is chosen where it is cut."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip and self._is_cut:
            tip = "\n".join(text for text in (self.currentText(), self.toolTip()) if text)
            QToolTip.showText(event.globalPos(), tip, self)
            return True
        return bool(super().event(event))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's own name
        """Draw the entry cut at its beginning; Qt itself would cut it off at the end, without a sign."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        option.currentText = self._shown()
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()

    @property
    def _is_cut(self) -> bool:
        return self._shown() != self.currentText()

    def _shown(self) -> str:
        # A style sheet's own figure for this room leaves out a third of it.
        room = self.width() - _ARROW_PX
        return self.fontMetrics().elidedText(self.currentText(), Qt.TextElideMode.ElideLeft, room)


class ShareBar(QWidget):
    """A bar cut into the shares of the classes."""

    def __init__(self) -> None:
        super().__init__()
        self._shares: list[tuple[str, float]] = []
        self.setFixedHeight(10)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_shares(self, shares: Sequence[tuple[str, float]]) -> None:
        """Show colours with their shares of the whole."""
        self._shares = list(shares)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's own name
        """Draw the shares from left to right."""
        painter = QPainter(self)
        total = sum(share for _, share in self._shares)
        left = 0.0
        for color, share in self._shares:
            width = self.width() * share / total if total else 0.0
            painter.fillRect(QRectF(left, 0, width, self.height()), QColor(color))
            left += width
        painter.end()


class Legend(QWidget):
    """Rows of swatch, class name and a figure."""

    def __init__(self) -> None:
        super().__init__()
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(6)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(1, 1)

    def show_rows(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Show rows of colour, name and any number of texts set flush right; long names are cut short."""
        clear_layout(self._grid)
        for number, (color, name, *figures) in enumerate(rows):
            self._grid.addWidget(swatch_label(color), number, 0)
            title = QElidingLabel(name)
            # Names of members often differ at their ends alone.
            title.setElideMode(Qt.TextElideMode.ElideMiddle)
            title.setToolTip(name)
            self._grid.addWidget(title, number, 1)
            for column, figure in enumerate(figures):
                label = QLabel(figure)
                label.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self._grid.addWidget(label, number, 2 + column)
