"""The Data widget: open a dataset, see what is in it, fly to its tiles."""

from html import escape
from pathlib import Path
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.exchange import sample_copy, sample_folder
from napari_glacier.controllers.overview import TileRow, class_shares, findings, share_text, summary, tile_rows
from napari_glacier.views.base import GlacierView, group, hint, kept, settings
from napari_glacier.views.pieces import Legend, ShareBar

_COLUMNS = ("Tile", "Split", "Labels", "Edits", "Review")


def _breakable(text: str) -> str:
    """Text whose long names may go on in the next line, so that they do not push the widget out of its dock."""
    return text.replace("_", "_\u200b").replace("/", "/\u200b")


def _let_shrink(box: QComboBox) -> None:
    """A box as wide as its place, not as its longest entry."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(14)


class TileTable(QAbstractTableModel):
    """The tile list as Qt wants it."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.rows: list[TileRow] = []

    def show_rows(self, rows: list[TileRow]) -> None:
        """Show other rows; where only cells changed the selection stays."""
        if [row.tile_id for row in rows] == [row.tile_id for row in self.rows]:
            self.rows = rows
            if rows:
                self.dataChanged.emit(self.index(0, 0), self.index(len(rows) - 1, len(_COLUMNS) - 1))
            return
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def rowCount(self, parent: Any = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's own signature
        """Number of tiles."""
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Any = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's own signature
        """Number of columns."""
        return len(_COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802 - Qt's own name
        """Column titles."""
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return _COLUMNS[section]
        return None

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Texts of the cells."""
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() == 3:
            return Qt.AlignmentFlag.AlignCenter
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return None
        row = self.rows[index.row()]
        cells = (row.tile_id, row.split, row.labels, str(row.unsaved) if row.unsaved else "", row.review)
        return cells[index.column()]


class DataView(GlacierView):
    """Open a dataset and look through its tiles.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._session: Any = None
        self._followed: list[tuple[Any, Any]] = []

        self.body.addWidget(self._make_opening())
        self.body.addWidget(self._make_empty())
        self.body.addWidget(self._make_facts(), 1)
        self.body.addStretch(0)

        self.listen(self.workspace.session_changed, self._on_session)
        self.on_close(self._leave)
        self._path.setText(kept("data/folder", ""))
        self._on_session(self.workspace.session)

    def _make_opening(self) -> QWidget:
        opening = QVBoxLayout()
        row = QHBoxLayout()
        self._path = QLineEdit()
        self._path.setPlaceholderText("Folder of tiles or scene, or a .tar")
        self._path.returnPressed.connect(lambda: self.open(self._path.text()))
        self._open_button = QPushButton("Open…")
        self._open_button.clicked.connect(self._choose)
        row.addWidget(self._path, 1)
        row.addWidget(self._open_button)
        opening.addLayout(row)
        return group("Dataset", opening)

    def _make_empty(self) -> QWidget:
        self._empty = QWidget()
        empty = QVBoxLayout(self._empty)
        empty.setContentsMargins(0, 0, 0, 0)
        empty.addWidget(
            hint(
                "<b>No dataset is open.</b><br>Choose a folder above, or drop one on the window. It holds a folder "
                "for each band (B2, B3, B4, B6, B10, or Band1 to Band5), and one for the masks if there are any; or it "
                "is a Landsat or Sentinel-2 scene as it was downloaded. A .tar of Landsat opens without unpacking: "
                "drop it, or type its path."
            )
        )
        self._sample_button = QPushButton("Open the sample region")
        self._sample_button.setToolTip("A synthetic glacier region with masks, copied to your own folder")
        self._sample_button.clicked.connect(self.open_sample)
        empty.addWidget(self._sample_button)
        return self._empty

    def _make_facts(self) -> QWidget:
        self._facts = QWidget()
        facts = QVBoxLayout(self._facts)
        facts.setContentsMargins(0, 0, 0, 0)
        self._form = QFormLayout()
        self._form.setHorizontalSpacing(10)
        self._form.setVerticalSpacing(2)
        about = QVBoxLayout()
        about.addLayout(self._form)
        self._bar = ShareBar()
        self._legend = Legend()
        about.addWidget(self._bar)
        about.addWidget(self._legend)
        facts.addWidget(group("What is in it", about))
        facts.addWidget(self._make_extras())
        self._findings = hint("")
        findings_layout = QVBoxLayout()
        findings_layout.addWidget(self._findings)
        self._findings_box = group("To know", findings_layout)
        facts.addWidget(self._findings_box)
        facts.addWidget(self._make_tiles(), 1)
        return self._facts

    def _make_extras(self) -> QWidget:
        row = QHBoxLayout()
        self._extra = QComboBox()
        self._extra.setToolTip("Indices, reflectance, temperature and clouds; below the labels, read as you look")
        self._extra.activated.connect(self._say_why_not)
        _let_shrink(self._extra)
        self._add_extra = QPushButton("Add layer")
        self._add_extra.clicked.connect(self.add_extra)
        row.addWidget(self._extra, 1)
        row.addWidget(self._add_extra)
        return group("More layers", row)

    def _make_tiles(self) -> QWidget:
        tiles = QVBoxLayout()
        self._scene = QComboBox()
        self._scene.setToolTip("The tiles differ in size, so one is shown at a time")
        self._scene.activated.connect(self._show_scene)
        _let_shrink(self._scene)
        tiles.addWidget(self._scene)
        self._table = QTableView()
        self._model = TileTable(self)
        self._table.setModel(self._model)
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._table.setShowGrid(False)
        self._table.verticalHeader().setVisible(False)
        self._table.verticalHeader().setDefaultSectionSize(22)
        self._table.setMinimumHeight(140)
        self._table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = self._table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(len(_COLUMNS) - 1, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(36)
        # Names of scenes are long; whole they stand in the cell's tooltip.
        header.setMaximumSectionSize(190)
        self._table.setTextElideMode(Qt.TextElideMode.ElideRight)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setHighlightSections(False)
        self._table.clicked.connect(lambda index: self.fly_to(self._model.rows[index.row()].tile_id))
        tiles.addWidget(self._table, 1)
        tiles.addWidget(QLabel("Click a tile to fly to it."))
        return group("Tiles", tiles)

    def open(self, path: str | Path) -> None:
        """Open a dataset in this window."""
        if not str(path).strip():
            self._choose()
            return
        self.tell("")
        session = self.attempt(lambda: self.workspace.open(path))
        if session is not None:
            settings().setValue("data/folder", str(session.root))
            # The signal comes later on the GUI thread; a person who clicks sees the answer at once.
            self._on_session(session)
            if session.recovered is not None:
                self.tell(f"{session.recovered.sentence} (Correct widget)")

    def open_sample(self) -> None:
        """Open a copy of the bundled region."""
        folder = self.attempt(lambda: sample_copy(sample_folder()))
        if folder is not None:
            self.open(folder)

    def add_extra(self) -> None:
        """Show the layer that is chosen; where it cannot be made, say why."""
        key = self._extra.currentData()
        if key is not None:
            self.tell("")
            self.attempt(lambda: self.workspace.add_extra(key))

    def _say_why_not(self) -> None:
        self.tell(self._extra.currentData(Qt.ItemDataRole.ToolTipRole) or "")

    def fly_to(self, tile_id: str) -> None:
        """Bring a tile to the middle of the view."""
        session = self.workspace.session
        if session is None:
            return
        number, place = session.find(tile_id)
        if not session.stacked and number != session.scene_number:
            self._show_scene(number)
        self.workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width, plane=number)

    def _choose(self) -> None:
        start = self._path.text() or str(Path.home())
        folder = QFileDialog.getExistingDirectory(self, "Open a dataset folder", start)
        if folder:
            self.open(folder)

    def _show_scene(self, number: int) -> None:
        self.attempt(lambda: self.workspace.show_scene(number))
        self._scene.setCurrentIndex(number)
        if self._session is not None:
            self._show_summary(self._session)
        self._refresh()

    def _leave(self) -> None:
        for signal, slot in self._followed:
            signal.disconnect(slot, missing_ok=True)
        self._followed = []

    def _on_session(self, session: Any) -> None:
        if session is self._session and session is not None:
            return
        self._leave()
        self._session = session
        self._empty.setVisible(session is None)
        self._facts.setVisible(session is not None)
        if session is None:
            self._model.show_rows([])
            return
        self._path.setText(str(session.root))
        for signal in (session.edited, session.reviewed):
            slot = self._forward_refresh
            signal.connect(slot)
            self._followed.append((signal, slot))
        self._show_summary(session)
        self._table.setColumnHidden(1, len(session.dataset.splits) < 2)
        one_by_one = len(session.scenes) > 1 and not session.stacked
        self._scene.setVisible(one_by_one)
        self._scene.clear()
        if one_by_one:
            self._scene.addItems([scene.name for scene in session.scenes])
            self._scene.setCurrentIndex(session.scene_number)
        self._refresh()

    def _show_summary(self, session: Any) -> None:
        while self._form.rowCount():
            self._form.removeRow(0)
        for name, text in summary(session):
            label = QLabel(text)
            label.setWordWrap(True)
            self._form.addRow(QLabel(name), label)
        self._show_extras(session)

    def _show_extras(self, session: Any) -> None:
        chosen = self._extra.currentData()
        self._extra.clear()
        for number, extra in enumerate(session.extra_layers()):
            self._extra.addItem(extra.title if not extra.reason else f"{extra.title} – not here", extra.key)
            self._extra.setItemData(number, extra.reason or None, Qt.ItemDataRole.ToolTipRole)
        self._extra.setCurrentIndex(max(self._extra.findData(chosen), 0))

    def _forward_refresh(self, *_: Any) -> None:
        # May come from the journal's idle timer, which is another thread.
        self.later(self._refresh)

    def _refresh(self) -> None:
        session = self.workspace.session
        if session is None or session.closed:
            return
        shares = class_shares(session)
        self._bar.show_shares([(color, share) for color, _, share in shares])
        self._legend.show_rows([(color, name, share_text(share)) for color, name, share in shares])
        found = findings(session)
        self._findings.setText(
            "<ul style='margin: 0 0 0 -24px'>"
            + "".join(f"<li>{_breakable(escape(text, quote=False))}</li>" for text in found)
            + "</ul>"
        )
        self._findings_box.setVisible(bool(found))
        self._model.show_rows(tile_rows(session))
