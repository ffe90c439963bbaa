"""The part of the Correct widget with the tools beside napari's own: buttons, their settings, what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.probe import PixelReport
from napari_glacier.controllers.region_tools import MAX_STRENGTH
from napari_glacier.core.tools.shape import OPERATIONS
from napari_glacier.views.pieces import checked_style, swatch_icon
from napari_glacier.views.settings import keep, kept
from napari_glacier.views.spectrum_plot import SpectrumPlot

_COLUMNS = 4
_ANY = "Any class"
_SAM_SETTING = "correct/sam2"


class ToolPanel(QWidget):
    """Buttons of the tools, and the settings of the one chosen.

    Parameters
    ----------
    controller : CorrectionController
    attempt : callable
        Runs what a person asked for and tells of what goes wrong.
    """

    def __init__(
        self,
        controller: CorrectionController,
        attempt: Callable[[Callable[[], Any]], Any],
    ) -> None:
        super().__init__()
        self._tools = controller.tools
        self._pointer = controller.pointer
        self._controller = controller
        self._attempt = attempt
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(self._make_buttons())
        self._settings = QStackedWidget()
        self._pages: dict[str, QWidget] = {}
        for name, page in (
            (toolbox.SMART_FILL, self._make_strength()),
            (toolbox.SCRIBBLE, self._make_take()),
            (toolbox.SNAP, self._make_snap()),
            (toolbox.ACCEPT, self._make_accept()),
            (toolbox.SHAPE, self._make_shape()),
            (toolbox.SAM, self._make_sam()),
            (toolbox.PIXEL, self._make_pixel()),
        ):
            self._settings.addWidget(page)
            self._pages[name] = page
        layout.addWidget(self._settings)
        self._help = QLabel()
        self._help.setWordWrap(True)
        layout.addWidget(self._help)

    # -- what is shown

    def refresh(self) -> None:
        """Show the tool in hand, its settings and what is proposed."""
        tool, options = self._tools.tool, self._tools.options
        # An exclusive group shows no button checked only while it is not exclusive.
        self._group.setExclusive(False)
        for name, button in self._buttons.items():
            button.setChecked(name == tool)
            button.setText(f"{toolbox.TOOL_OF[name].title}\n{shown_key(self._pointer.keys[name])}".rstrip())
        self._group.setExclusive(True)
        page = self._pages.get(tool)
        for other in self._pages.values():
            # Only the page on top asks for room.
            policy = QSizePolicy.Policy.Preferred if other is page else QSizePolicy.Policy.Ignored
            other.setSizePolicy(QSizePolicy.Policy.Preferred, policy)
        if page is not None:
            self._settings.setCurrentWidget(page)
        self._settings.setVisible(page is not None)
        self._help.setVisible(tool != toolbox.PIXEL or not self._pixel_text.text())
        self._help.setText(self._tools.help)
        for control, value in ((self._strength, options.strength), (self._reach, options.reach_px)):
            control.blockSignals(True)
            control.setValue(value)
            control.blockSignals(False)
        for take in self._take_buttons:
            take.setEnabled(self._tools.proposal is not None)
        for drop in self._drop_buttons:
            drop.setEnabled(self._tools.can_drop)

    def show_classes(self) -> None:
        """Offer the classes of the open dataset for accepting."""
        chosen = self._tools.options.accept_class
        self._accept_class.clear()
        self._accept_class.addItem(_ANY, None)
        for item in self._controller.classes:
            self._accept_class.addItem(swatch_icon(item.color), item.name, item.index)
        self._accept_class.setCurrentIndex(0 if chosen is None else chosen + 1)

    def show_pixel(self, report: PixelReport) -> None:
        """Draw what is known about a pixel."""
        classes = self._controller.classes
        self._plot.show_report(report, [(item.name, item.color) for item in classes])
        lines = [report.place, f"Label: <b>{classes[report.label].name}</b>"]
        if report.predicted is not None and report.predicted < len(classes):
            lines[1] += f" · predicted <b>{classes[report.predicted].name}</b>, {report.confidence:.0%} sure"
        if report.lacking:
            lines.append(f"⚠ This tile has no {' and no '.join(report.lacking)}.")
        self._pixel_text.setText("<br>".join(lines))
        self._help.hide()

    def set_style(self, viewer: Any) -> None:
        """Take the theme's colours."""
        for button in self._buttons.values():
            button.setStyleSheet(checked_style(viewer))
        self._plot.set_theme(viewer)

    # -- how it is made

    def _make_buttons(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setSpacing(2)
        self._group = QButtonGroup(self)
        self._buttons: dict[str, QToolButton] = {}
        for number, tool in enumerate(toolbox.TOOLS):
            button = QToolButton()
            button.setCheckable(True)
            button.setToolTip(tool.help)
            # A row fits beside the scroll bar of the narrowest dock.
            button.setMinimumWidth(1)
            button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            button.clicked.connect(lambda _=False, name=tool.name: self._choose(name))
            self._group.addButton(button)
            self._buttons[tool.name] = button
            grid.addWidget(button, number // _COLUMNS, number % _COLUMNS)
        for column in range(_COLUMNS):
            grid.setColumnStretch(column, 1)
        return grid

    def _choose(self, name: str) -> None:
        # The button of the tool in hand puts it down.
        self._attempt(lambda: self._tools.select("" if name == self._tools.tool else name))
        self.refresh()

    def _make_strength(self) -> QWidget:
        page, row = _page()
        row.addWidget(QLabel("Grow"))
        self._strength = QSlider(Qt.Orientation.Horizontal)
        self._strength.setRange(1, MAX_STRENGTH)
        self._strength.setToolTip("How unlike a pixel may be (Shift+wheel over the canvas)")
        self._strength.valueChanged.connect(self._tools.set_strength)
        row.addWidget(self._strength, 1)
        self._take_buttons: list[QPushButton] = []
        self._drop_buttons: list[QPushButton] = []
        self._add_take(row)
        return page

    def _make_take(self) -> QWidget:
        page, row = _page()
        self._add_take(row)
        return page

    def _add_take(self, row: QHBoxLayout) -> None:
        for text, act, buttons in (
            ("Take", self._tools.take, self._take_buttons),
            ("Drop", self._tools.drop, self._drop_buttons),
        ):
            button = QPushButton(text)
            button.clicked.connect(lambda _=False, act=act: self._attempt(act))
            buttons.append(button)
            row.addWidget(button)

    def _make_snap(self) -> QWidget:
        page, row = _page()
        row.addWidget(QLabel("Reach"))
        self._reach = _spin(1, 30, self._tools.options.reach_px)
        self._reach.valueChanged.connect(lambda value: setattr(self._tools.options, "reach_px", value))
        row.addWidget(self._reach)
        button = QPushButton("Snap last stroke")
        button.clicked.connect(lambda: self._attempt(self._tools.snap_last_stroke))
        row.addWidget(button, 1)
        return page

    def _make_sam(self) -> QWidget:
        page, row = _page()
        kept_folder = kept(_SAM_SETTING, "")
        self._tools.sam.folder = Path(kept_folder) if kept_folder else None
        button = QPushButton("Weights…")
        button.setToolTip("Choose the folder with config.json and model.safetensors of a SAM 2; nothing is downloaded")
        button.clicked.connect(self._choose_weights)
        row.addWidget(button)
        button = QPushButton("All in view")
        button.setToolTip("Find all objects of the view; then a click gives one the chosen class")
        button.clicked.connect(lambda: self._attempt(self._tools.find_objects))
        row.addWidget(button)
        self._add_take(row)
        return page

    def _choose_weights(self) -> None:
        start = str(self._tools.sam.folder or "")
        folder = QFileDialog.getExistingDirectory(self, "Folder with the weights of SAM 2", start)
        if folder:
            keep(_SAM_SETTING, folder)
            self._tools.sam.folder = Path(folder)

    def _make_shape(self) -> QWidget:
        page, row = _page()
        self._operation = QComboBox()
        for operation in OPERATIONS:
            self._operation.addItem(operation.capitalize(), operation)
        self._operation.activated.connect(
            lambda number: setattr(self._tools.options, "operation", self._operation.itemData(number))
        )
        row.addWidget(self._operation, 1)
        row.addWidget(QLabel("by"))
        self._radius = _spin(1, 50, self._tools.options.radius_px)
        self._radius.valueChanged.connect(lambda value: setattr(self._tools.options, "radius_px", value))
        row.addWidget(self._radius)
        return page

    def _make_accept(self) -> QWidget:
        page = QWidget()
        grid = QGridLayout(page)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        self._accept_class = QComboBox()
        self._accept_class.activated.connect(
            lambda number: setattr(self._tools.options, "accept_class", self._accept_class.itemData(number))
        )
        self._confidence = _spin(0, 99, 0, " %")
        self._confidence.setPrefix("≥ ")
        self._confidence.setToolTip("Accept only what was predicted with at least this confidence")
        self._confidence.valueChanged.connect(lambda percent: setattr(self._tools.options, "confidence", percent / 100))
        grid.addWidget(self._accept_class, 0, 0)
        grid.addWidget(self._confidence, 0, 1)
        for column, (text, in_view) in enumerate((("All in view", True), ("All of the scene", False))):
            button = QPushButton(text)
            button.clicked.connect(
                lambda _=False, in_view=in_view: self._attempt(lambda: self._tools.accept_everywhere(in_view))
            )
            grid.addWidget(button, 1, column)
        balance = QPushButton("Balance in view")
        balance.setToolTip(
            "Give the class chosen to all that is at least so likely to be of it, and the likeliest other class to the "
            "rest: for a place where the model is too fond of a class, or too wary of it. What was drawn or found "
            "right stays."
        )
        balance.clicked.connect(lambda: self._attempt(self._tools.balance_view))
        grid.addWidget(balance, 2, 0, 1, 2)
        return page

    def _make_pixel(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        self._plot = SpectrumPlot()
        self._pixel_text = QLabel()
        self._pixel_text.setWordWrap(True)
        column.addWidget(self._plot)
        column.addWidget(self._pixel_text)
        return page


def shown_key(key: str) -> str:
    """A key as people write it: Shift+N."""
    return key[:-1].replace("-", "+") + key[-1:]


def _page() -> tuple[QWidget, QHBoxLayout]:
    page = QWidget()
    row = QHBoxLayout(page)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(4)
    return page, row


def _spin(low: int, high: int, value: int, suffix: str = " px") -> QSpinBox:
    spin = QSpinBox()
    spin.setRange(low, high)
    spin.setValue(value)
    spin.setSuffix(suffix)
    return spin
