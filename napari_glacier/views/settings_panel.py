"""The folded part of the form of a new run: all that its configuration has besides."""

import html
from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.settings_tree import Setting, SettingsTree
from napari_glacier.views.base import hint
from napari_glacier.views.settings_editors import WheelGuard, make_editor

_TITLE = "More settings"
_HEIGHT_PX = 280
_EDITOR_PX = 110
_RESET_PX = 20


class SettingsPanel(QWidget):
    """A header that unfolds to the settings of a recipe, to be filtered, changed and reset.

    Nothing is made before it is unfolded for the first time.
    """

    changed = QtSignal()

    def __init__(self) -> None:
        super().__init__()
        self.tree: SettingsTree | None = None
        self.rows: dict[str, SettingRow] = {}
        self._recipe = ""
        self._headings: list[tuple[QLabel, frozenset[str]]] = []
        self._guard = WheelGuard(self)
        self.header = QToolButton()
        self.header.setCheckable(True)
        self.header.setAutoRaise(True)
        self.header.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.header.toggled.connect(self._on_toggled)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(4)
        self._layout.addWidget(self.header)
        self._body: QWidget | None = None
        self._show_header()

    @property
    def overrides(self) -> tuple[str, ...]:
        """What a person changed, as ``key=value``."""
        return self.tree.overrides if self.tree is not None else ()

    @property
    def problem(self) -> str:
        """What is wrong with it, in a sentence; empty where nothing is."""
        return self.tree.problem if self.tree is not None else ""

    def take_recipe(self, recipe: str) -> None:
        """Show the values of another recipe; what a person changed stays."""
        self._recipe = recipe
        if self.tree is not None:
            self.tree.take_recipe(recipe)
            self._refresh()

    def take_changes(self, changes: Sequence[str]) -> None:
        """Change just these settings, as ``key=value``; none, where together they are no longer valid."""
        if self.tree is None and not changes:
            return
        tree = self._need_tree()
        tree.reset()
        known = {setting.key for setting in tree}
        for change in changes:
            key, _, text = change.partition("=")
            if key in known:
                tree.set_text(key, "" if text == "null" else text)
        if tree.problem:
            tree.reset()
        self._refresh()

    def reset(self, *keys: str) -> None:
        """Go back to the recipe's values; of all settings where none is named."""
        assert self.tree is not None
        self.tree.reset(*keys)
        self._refresh()
        self.changed.emit()

    def _on_toggled(self, is_open: bool) -> None:
        if is_open and self._body is None:
            self._body = self._make_body(self._need_tree())
            self._layout.addWidget(self._body)
            self._refresh()
        if self._body is not None:
            self._body.setVisible(is_open)
        self._show_header()

    def _need_tree(self) -> SettingsTree:
        if self.tree is None:
            self.tree = SettingsTree(self._recipe)
        return self.tree

    def _make_body(self, tree: SettingsTree) -> QWidget:
        body = QWidget()
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        top = QHBoxLayout()
        top.setSpacing(4)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("Filter: rate, crop, loss…")
        self.filter.setToolTip("Shows the settings whose name or description has these words")
        self.filter.setClearButtonEnabled(True)
        self.filter.textChanged.connect(self._on_filter)
        self.reset_all = QPushButton("Reset all")
        self.reset_all.setToolTip("All settings as the recipe has them")
        self.reset_all.clicked.connect(lambda _=False: self.reset())
        top.addWidget(self.filter, 1)
        top.addWidget(self.reset_all)
        layout.addLayout(top)
        layout.addWidget(self._make_list(tree))
        self._nothing = hint("No setting has these words.")
        self._nothing.setVisible(False)
        layout.addWidget(self._nothing)
        return body

    def _make_list(self, tree: SettingsTree) -> QScrollArea:
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 4, 0)
        column.setSpacing(3)
        for group in tree.groups:
            heading = QLabel(f"<b>{group.name}</b>: {group.help[0].lower()}{group.help[1:]}")
            heading.setContentsMargins(0, 6, 0, 0)
            heading.setWordWrap(True)
            column.addWidget(heading)
            self._headings.append((heading, frozenset(setting.key for setting in group.settings)))
            for setting in group.settings:
                row = SettingRow(setting, self._guard)
                row.edited.connect(self._on_edited)
                row.reset_asked.connect(self.reset)
                self.rows[setting.key] = row
                column.addWidget(row)
        column.addStretch(1)
        self._list = QScrollArea()
        self._list.setWidgetResizable(True)
        self._list.setFrameShape(QFrame.Shape.NoFrame)
        self._list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._list.setFixedHeight(_HEIGHT_PX)
        self._list.setWidget(content)
        return self._list

    def _on_edited(self, key: str, text: str) -> None:
        assert self.tree is not None
        self.tree.set_text(key, text)
        self.rows[key].show_state(self.tree)
        self._show_changes()
        self.changed.emit()

    def _on_filter(self, words: str) -> None:
        assert self.tree is not None
        keys = self.tree.matching(words)
        for key, row in self.rows.items():
            row.setVisible(key in keys)
        for heading, held in self._headings:
            heading.setVisible(bool(held & keys))
        self._list.setVisible(bool(keys))
        self._nothing.setVisible(not keys)

    def _refresh(self) -> None:
        """Show every setting as it is now."""
        assert self.tree is not None
        for row in self.rows.values():
            row.show_state(self.tree)
        self._show_changes()

    def _show_changes(self) -> None:
        if self._body is not None:
            self.reset_all.setVisible(bool(self.overrides))
        self._show_header()

    def _show_header(self) -> None:
        changes = self.overrides
        self.header.setArrowType(Qt.ArrowType.DownArrow if self.header.isChecked() else Qt.ArrowType.RightArrow)
        self.header.setText(f"{_TITLE}: {len(changes)} changed" if changes else _TITLE)
        changed = "<br>".join(html.escape(change) for change in changes)
        self.header.setToolTip(changed or "Everything else that a run is made of, as the recipe has it")


class SettingRow(QWidget):
    """Name, editor and reset of one setting.

    Parameters
    ----------
    setting : Setting
    guard : WheelGuard
    """

    edited = QtSignal(str, str)
    reset_asked = QtSignal(str)

    def __init__(self, setting: Setting, guard: WheelGuard) -> None:
        super().__init__()
        self.setting = setting
        self.name = QLabel(setting.name)
        self.editor = make_editor(setting, guard)
        self.editor.setAccessibleName(setting.key)
        self.editor.edited.connect(lambda text: self.edited.emit(setting.key, text))
        self.back = QToolButton()
        self.back.setText("↺")
        self.back.setAutoRaise(True)
        self.back.setFixedWidth(_RESET_PX)
        self.back.clicked.connect(lambda: self.reset_asked.emit(setting.key))
        policy = self.back.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.back.setSizePolicy(policy)
        first = QHBoxLayout()
        first.setSpacing(4)
        first.addWidget(self.name, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(1)
        layout.addLayout(first)
        if setting.is_long:
            layout.addWidget(self.editor)
        else:
            self.editor.setFixedWidth(_EDITOR_PX)
            first.addWidget(self.editor)
        first.addWidget(self.back)

    def show_state(self, tree: SettingsTree) -> None:
        """Show the value, and whether it is the recipe's."""
        key = self.setting.key
        is_changed = tree.is_changed(key)
        self.editor.show_text(tree.text(key))
        font = self.name.font()
        font.setBold(is_changed)
        self.name.setFont(font)
        self.back.setVisible(is_changed)
        recipes = tree.recipe_text(key) or "none"
        self.back.setToolTip(f"Back to {recipes}")
        key_and_range = f"<b>{key}</b> {self.setting.range}"
        told = f"{key_and_range}<br>{html.escape(self.setting.help)}<br>Recipe {tree.recipe}: {html.escape(recipes)}"
        if is_changed:
            # Its field may be too narrow for it.
            told += f"<br>Changed to: {html.escape(tree.text(key) or 'none')}"
        for widget in (self.name, self.editor):
            widget.setToolTip(told)
