"""The Correct widget: classes, tools, locks, what to look at next, undo, saving."""

from typing import Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.views.adapt_panel import AdaptPanel
from napari_glacier.views.base import GlacierView, group, hint
from napari_glacier.views.history_dialog import HistoryDialog
from napari_glacier.views.keys_dialog import KeysDialog, use_kept_keys
from napari_glacier.views.next_panel import NextPanel
from napari_glacier.views.pieces import checked_style, clear_layout, literal, swatch_icon, theme_icon
from napari_glacier.views.review_panel import ReviewPanel
from napari_glacier.views.seeing_panel import SeeingPanel
from napari_glacier.views.tool_panel import ToolPanel

_TOOLS = (
    ("paint", "Paint", "paint", "Brush (P or 2); [ and ] change its size"),
    ("fill", "Fill", "fill", "Fill a connected area (F or 4)"),
    ("polygon", "Polygon", "polygon", "Draw a polygon (3); double-click or Enter closes it"),
    ("erase", "Erase", "erase", "Paint background (E or 1)"),
    ("pick", "Pick", "picker", "Take the class under the cursor (L or 5)"),
    ("pan_zoom", "Look", "zoom", "Move around without painting (Z or 6)"),
)


class CorrectView(GlacierView):
    """Correct the labels of the open dataset.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    title = "Correct"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.controller = CorrectionController(self.workspace)
        self._scheme_shown: tuple[str, ...] = ()
        self._saving: Any = None
        self._history: HistoryDialog | None = None
        self._class_buttons: list[QPushButton] = []
        self._lock_buttons: list[QToolButton] = []

        desk = self.make_desk(
            "<b>Nothing to correct yet.</b><br>Drop a folder of tiles or a scene on the window, or open one. Tiles "
            "without masks are drawn from nothing, or from a prediction."
        )

        self._recovered = hint("")
        desk.addWidget(self._recovered)
        self._keep_button = QPushButton("Keep on top of the changed files")
        self._keep_button.clicked.connect(lambda: self.attempt(self.controller.keep_on_top))
        desk.addWidget(self._keep_button)
        self._class_grid = QGridLayout()
        self._class_grid.setColumnStretch(0, 1)
        desk.addWidget(group("Class", self._class_grid))
        desk.addWidget(group("Tool", self._make_tools()))
        use_kept_keys(self.controller.pointer)
        self._tool_panel = ToolPanel(self.controller, self.attempt)
        desk.addWidget(group("Smart tools", _alone(self._tool_panel)))
        self._next_panel = NextPanel(self.controller, self.attempt)
        desk.addWidget(group("What next", _alone(self._next_panel)))
        self._seeing_panel = SeeingPanel(self.controller, self.attempt)
        self._seeing_box = group("Compare", _alone(self._seeing_panel))
        desk.addWidget(self._seeing_box)
        self._review_panel = ReviewPanel(self.controller, self.attempt, self.tell)
        desk.addWidget(group("Review", _alone(self._review_panel)))
        self._adapt_panel = AdaptPanel(self.controller.adapting, self.attempt, self.tell)
        desk.addWidget(group("Learn", _alone(self._adapt_panel)))
        self._saving_box = group("Corrections", self._make_saving())
        # Whether one's work is safe stays in sight, however far the rest is scrolled.
        self.foot.addWidget(self._saving_box)

        self._connect(napari_viewer)
        self._set_icons()
        self._show_state()
        self._show_status()

    def _connect(self, napari_viewer: Any) -> None:
        self.listen(self.controller.changed, self._show_state)
        self.listen(self.controller.status_changed, self._show_status)
        self.listen(self.controller.tools.changed, self._show_tools)
        self.listen(self.controller.tools.told, self.tell)
        self.listen(self.controller.tools.probed, self._tool_panel.show_pixel)
        self.listen(self.controller.seeing.changed, self._seeing_panel.refresh)
        self.listen(self.controller.attention.changed, self._next_panel.refresh)
        self.listen(self.controller.disagreement.changed, self._next_panel.refresh)
        self.listen(self.controller.review.changed, self._show_tile)
        self.listen(self.controller.adapting.changed, self._adapt_panel.refresh)
        self.listen(self.workspace.models_changed, self._adapt_panel.refresh)
        self.on_close(self._next_panel.close_worker)
        napari_viewer.events.theme.connect(self._set_icons)
        self.on_close(lambda: napari_viewer.events.theme.disconnect(self._set_icons))
        self.on_close(self.controller.close)
        # Which tile lies in the middle of the view changes with every pan; four looks a second are enough.
        self.every(250, self._show_tile)
        self.every(400, self._look_for_regions)
        self.every(120, self.controller.tools.prepare_view)
        self.controller.tools.waits = False
        self.every(15, lambda: self.attempt(self.controller.tools.deliver))
        self.every(50, self.controller.seeing.refresh)
        self.every(500, self.controller.seeing.step)
        self.every(300, lambda: self.attempt(self.controller.adapting.poll))

    def _make_tools(self) -> QVBoxLayout:
        layout = QVBoxLayout()
        row = QHBoxLayout()
        row.setSpacing(2)
        self._tools = QButtonGroup(self)
        self._tools.setExclusive(True)
        self._tool_buttons: dict[str, QToolButton] = {}
        for mode, title, _, tip in _TOOLS:
            button = QToolButton()
            button.setText(title)
            button.setCheckable(True)
            button.setToolTip(tip)
            button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
            button.setIconSize(QSize(20, 20))
            button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            button.clicked.connect(lambda _=False, mode=mode: self.attempt(lambda: self.controller.set_tool(mode)))
            self._tools.addButton(button)
            self._tool_buttons[mode] = button
            row.addWidget(button, 1)
        layout.addLayout(row)
        brush = QHBoxLayout()
        brush.addWidget(QLabel("Brush"))
        self._brush_slider = QSlider(Qt.Orientation.Horizontal)
        self._brush_slider.setRange(1, 100)
        self._brush_spin = QSpinBox()
        for control in (self._brush_slider, self._brush_spin):
            control.setToolTip("Diameter of the brush in pixels")
        self._brush_spin.setRange(1, 1000)
        self._brush_spin.setSuffix(" px")
        self._brush_slider.valueChanged.connect(self._on_brush)
        self._brush_spin.valueChanged.connect(self._on_brush)
        brush.addWidget(self._brush_slider, 1)
        brush.addWidget(self._brush_spin)
        self._keys_button = QPushButton("Keys…")
        self._keys_button.setMinimumWidth(1)
        self._keys_button.setToolTip("See and change the keys of the smart tools")
        self._keys_button.clicked.connect(self.choose_keys)
        brush.addWidget(self._keys_button)
        layout.addLayout(brush)
        return layout

    def _make_saving(self) -> QVBoxLayout:
        layout = QVBoxLayout()
        self._status = hint("")
        layout.addWidget(self._status)
        row = QHBoxLayout()
        row.setSpacing(2)
        self._undo_button = QPushButton("Undo")
        self._undo_button.setToolTip("Take back the last stroke (Ctrl+Z)")
        self._undo_button.clicked.connect(lambda: self.attempt(self.controller.undo))
        self._redo_button = QPushButton("Redo")
        self._redo_button.setToolTip("Draw it again (Ctrl+Shift+Z)")
        self._redo_button.clicked.connect(lambda: self.attempt(self.controller.redo))
        self._history_button = QPushButton("History…")
        self._history_button.setToolTip("What was drawn, by whom and when; take it out again; export it")
        self._history_button.clicked.connect(self.show_history)
        self._save_button = QPushButton("Save")
        self._save_button.setToolTip(
            "Write the corrected mask files; their first originals are kept in labels_original"
        )
        self._save_button.clicked.connect(self.save_in_background)
        self._discard_button = QPushButton("Discard…")
        self._discard_button.setToolTip("Drop every stroke that was not saved")
        self._discard_button.clicked.connect(self._ask_discard)
        buttons = (self._undo_button, self._redo_button, self._history_button, self._save_button, self._discard_button)
        for button in buttons:
            # Longer words in another style or language do not widen the window.
            button.setMinimumWidth(1)
            row.addWidget(button)
        layout.addLayout(row)
        return layout

    def choose_keys(self) -> None:
        """Show the keys of the tools, to be changed."""
        KeysDialog(self.controller.pointer, self).exec()
        self._tool_panel.refresh()
        self._next_panel.refresh()
        self._seeing_panel.refresh()

    def show_history(self) -> HistoryDialog:
        """Show what was drawn, in a window beside the canvas."""
        if self._history is None:
            self._history = HistoryDialog(self.controller, self.attempt, self)
            self.on_close(self._history.close_worker)
        self._history.refresh()
        self._history.show()
        self._history.raise_()
        return self._history

    def save(self) -> None:
        """Write the corrections and say what was written."""
        self.tell("")
        said = self.attempt(self.controller.save)
        if said:
            self.tell(said)
        self._show_status()

    def save_in_background(self) -> None:
        """Write the corrections in a thread of their own: many tiles take longer than a window may freeze."""
        from superqt.utils import create_worker

        if self._saving is not None:
            return
        self.tell("Saving…")
        worker = create_worker(self.controller.save, _ignore_errors=True)
        worker.returned.connect(self._on_saved)
        worker.errored.connect(self._on_save_failed)
        self._saving = worker
        self._show_status()
        worker.start()

    def _on_saved(self, said: str) -> None:
        self._saving = None
        if self._open:
            self.tell(said)
            self._show_status()

    def _on_save_failed(self, error: BaseException) -> None:
        self._saving = None
        if self._open:
            self.fail(error)
            self._show_status()

    def discard(self) -> None:
        """Drop what was not saved."""
        said = self.attempt(self.controller.discard)
        if said:
            self.tell(said)
        self._show_status()

    def _ask_discard(self) -> None:
        answer = QMessageBox.question(
            self,
            "Discard corrections",
            f"{self.controller.status}\n\nDrop them and show the labels as their files are?",
            QMessageBox.StandardButton.Discard | QMessageBox.StandardButton.Cancel,
            QMessageBox.StandardButton.Cancel,
        )
        if answer == QMessageBox.StandardButton.Discard:
            self.discard()

    def _on_brush(self, diameter_px: int) -> None:
        if self.controller.ready:
            self.controller.set_brush(diameter_px)

    def _show_state(self) -> None:
        ready = self.controller.ready
        self.show_desk(ready)
        # Where only the Labels layer is missing, the way back to it stands above.
        self._empty.setVisible(not ready and not self.workspace.labels_taken_away)
        self._saving_box.setVisible(ready)
        if not ready:
            return
        names = tuple(item.name for item in self.controller.classes)
        if names != self._scheme_shown:
            self._build_classes()
            self._tool_panel.show_classes()
            self._scheme_shown = names
        for item, button, lock in zip(self.controller.classes, self._class_buttons, self._lock_buttons, strict=True):
            button.setChecked(item.selected)
            lock.setChecked(item.locked)
            lock.setIcon(theme_icon(self.workspace.viewer, "lock" if item.locked else "lock_open"))
        for box in self._desk.findChildren(QGroupBox):
            box.setEnabled(self.controller.writable)
        # Looking is not changing.
        self._seeing_box.setEnabled(True)
        for button in (self._undo_button, self._redo_button):
            button.setEnabled(self.controller.writable)
        self._show_tools()
        for control in (self._brush_slider, self._brush_spin):
            control.blockSignals(True)
            control.setValue(self.controller.brush_px)
            control.blockSignals(False)

    def _show_tools(self) -> None:
        """One tool is in the hand, ours or napari's."""
        tool = "" if self.controller.tools.tool else self.controller.tool
        self._tools.setExclusive(False)
        for name, button in self._tool_buttons.items():
            button.setChecked(name == tool)
        self._tools.setExclusive(True)
        self._tool_panel.refresh()
        self._next_panel.refresh()

    def _look_for_regions(self) -> None:
        if self.isVisible() and self.controller.ready:
            self._next_panel.look()

    def _build_classes(self) -> None:
        clear_layout(self._class_grid)
        self._class_buttons, self._lock_buttons = [], []
        before: QWidget = self._keep_button
        for row, item in enumerate(self.controller.classes):
            button = QPushButton(swatch_icon(item.color), f" {literal(item.name)}")
            button.setCheckable(True)
            button.setStyleSheet("QPushButton { text-align: left; padding: 5px; }")
            button.setToolTip(f"Paint {item.name} ({item.key.replace('-', '+')})")
            button.clicked.connect(
                lambda _=False, index=item.index: self.attempt(lambda: self.controller.select_class(index))
            )
            key = QLabel(item.key.replace("-", "+"))
            key.setEnabled(False)
            lock = QToolButton()
            lock.setCheckable(True)
            lock.setFixedWidth(26)
            lock.setStyleSheet(checked_style(self.workspace.viewer))
            lock.setAccessibleName(f"Lock {item.name}")
            lock.setToolTip(f"Lock {item.name}: its pixels stay whatever is painted over them")
            lock.clicked.connect(lambda on, index=item.index: self.controller.lock(index, on))
            self._class_grid.addWidget(button, row, 0)
            self._class_grid.addWidget(key, row, 1)
            self._class_grid.addWidget(lock, row, 2)
            # Made after all else, they would come last.
            self.setTabOrder(before, button)
            self.setTabOrder(button, lock)
            before = lock
            self._class_buttons.append(button)
            self._lock_buttons.append(lock)

    def _show_status(self) -> None:
        if self._history is not None and self._history.isVisible():
            self._history.refresh()
        self._status.setText(self.controller.status)
        said = " ".join(text for text in (self.controller.recovered, self.controller.conflicts) if text)
        self._recovered.setText(said)
        self._recovered.setVisible(bool(said))
        self._keep_button.setVisible(bool(self.controller.conflicts))
        for button in (self._save_button, self._discard_button):
            button.setEnabled(self.controller.has_unsaved and self._saving is None)

    def _show_tile(self) -> None:
        if self.isVisible() and self.controller.ready:
            self._review_panel.refresh()
            self._seeing_panel.look()

    def _set_icons(self, event: Any = None) -> None:
        viewer = self.workspace.viewer
        style = checked_style(viewer)
        for mode, _, icon, _ in _TOOLS:
            self._tool_buttons[mode].setIcon(theme_icon(viewer, icon))
            self._tool_buttons[mode].setStyleSheet(style)
        for item, lock in zip(self.controller.classes, self._lock_buttons, strict=False):
            lock.setIcon(theme_icon(viewer, "lock" if item.locked else "lock_open"))
            lock.setStyleSheet(style)
        self._tool_panel.set_style(viewer)
        self._seeing_panel.set_style(viewer)


def _alone(widget: QWidget) -> QVBoxLayout:
    layout = QVBoxLayout()
    layout.addWidget(widget)
    return layout
