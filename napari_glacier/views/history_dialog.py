"""The history browser: strokes with time, author, tool, tiles, pixels and model; taking them out; writing them down."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QMessageBox,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.history import LIMIT
from napari_glacier.controllers.toolbox import title_of
from napari_glacier.core.correction.strokes import StrokeInfo
from napari_glacier.core.wording import counted, listed
from napari_glacier.views.pieces import literal

_COLUMNS = ("Time", "Author", "Tool", "Tiles", "Pixels", "Model", "State")
_PIXELS = _COLUMNS.index("Pixels")
SIZE_PX = (760, 420)


class HistoryDialog(QDialog):
    """A window beside the canvas that lists what was drawn.

    Parameters
    ----------
    controller : CorrectionController
    attempt : callable
        Runs what a person asked for and tells of what goes wrong.
    parent : QWidget
    """

    def __init__(
        self,
        controller: CorrectionController,
        attempt: Callable[[Callable[[], Any]], Any],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self._history = controller.history
        self._review = controller.review
        self._controller = controller
        self._attempt = attempt
        self._rows: list[StrokeInfo] = []
        self._limit = LIMIT
        self._worker: Any = None
        self.setWindowTitle("History of corrections")
        self.resize(*SIZE_PX)
        layout = QVBoxLayout(self)
        layout.addLayout(self._make_top())
        self._table = QTableWidget(0, len(_COLUMNS))
        self._table.setHorizontalHeaderLabels(_COLUMNS)
        self._table.verticalHeader().setVisible(False)
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        header = self._table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(_COLUMNS.index("Tiles"), QHeaderView.ResizeMode.Stretch)
        self._table.itemSelectionChanged.connect(self._show_buttons)
        self._table.cellDoubleClicked.connect(lambda row, _: self._fly())
        layout.addWidget(self._table, 1)
        self._said = QLabel()
        self._said.setWordWrap(True)
        layout.addWidget(self._said)
        layout.addLayout(self._make_buttons())

    @property
    def chosen(self) -> StrokeInfo | None:
        """The stroke that is selected."""
        rows = {index.row() for index in self._table.selectedIndexes()}
        return self._rows[rows.pop()] if len(rows) == 1 else None

    def choose(self, stroke_id: int) -> None:
        """Select a stroke of the list."""
        self._table.selectRow([stroke.id for stroke in self._rows].index(stroke_id))

    def refresh(self) -> None:
        """List what was drawn; the pixels are counted in a thread."""
        chosen = self.chosen
        tile_id = self._review.tile_id if self._only_here.isChecked() else ""
        rows = self._attempt(lambda: self._history.strokes(self._limit, tile_id)) or []
        if rows != self._rows or not rows:
            self._rows = rows
            self._fill()
            if chosen is not None and chosen.id in [stroke.id for stroke in rows]:
                self.choose(chosen.id)
            self._count()
        self._show_buttons()

    def close_worker(self) -> None:
        """Stop listening to pixels that are being counted."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.returned.disconnect(self._show_pixels)

    def _make_top(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self._only_here = QCheckBox("Only the tile in view")
        self._only_here.toggled.connect(lambda _: self.refresh())
        self._more = QPushButton("Older")
        self._more.setToolTip("List older strokes, too")
        self._more.clicked.connect(self._list_more)
        self._count_label = QLabel()
        row.addWidget(self._only_here)
        row.addStretch(1)
        row.addWidget(self._count_label)
        row.addWidget(self._more)
        return row

    def _make_buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(2)
        self._show_button = QPushButton("Show")
        self._show_button.setToolTip("Fly to where it was drawn (or double-click)")
        self._show_button.clicked.connect(self._fly)
        # What Enter does on a row of the list; else it would be the first button.
        self._show_button.setDefault(True)
        self._revert_button = QPushButton("Revert stroke")
        self._revert_button.setToolTip("Take this stroke out; what was drawn over it later stays")
        self._revert_button.clicked.connect(self.revert_stroke)
        self._tile_button = QPushButton("Revert tile…")
        self._tile_button.setToolTip("Take out everything that was ever drawn on the tile in view")
        self._tile_button.clicked.connect(self._ask_tile)
        self._sitting_button = QPushButton("Revert session…")
        self._sitting_button.setToolTip("Take out what this person drew around then, without a rest of half an hour")
        self._sitting_button.clicked.connect(self._ask_sitting)
        self._export_button = QPushButton("Export…")
        self._export_button.setToolTip("Write all corrections as GeoTIFF patches and a table")
        self._export_button.clicked.connect(self._ask_folder)
        close = QPushButton("Close")
        close.clicked.connect(self.close)
        for button in (self._show_button, self._revert_button, self._tile_button, self._sitting_button):
            row.addWidget(button)
        row.addStretch(1)
        row.addWidget(self._export_button)
        row.addWidget(close)
        return row

    def _fill(self) -> None:
        self._table.setRowCount(len(self._rows))
        for number, stroke in enumerate(self._rows):
            for column, text in enumerate(_cells(stroke)):
                item = QTableWidgetItem(text)
                item.setToolTip(", ".join(stroke.tile_ids) if _COLUMNS[column] == "Tiles" else text)
                if column == _PIXELS:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self._table.setItem(number, column, item)

    def _count(self) -> None:
        from superqt.utils import create_worker

        self.close_worker()
        rows = list(self._rows)
        if not rows:
            return
        self._worker = create_worker(lambda: (rows, self._history.num_pixels(rows)), _ignore_errors=True)
        self._worker.returned.connect(self._show_pixels)
        self._worker.start()

    def _show_pixels(self, counted_rows: tuple[Sequence[StrokeInfo], dict[int, int]]) -> None:
        self._worker = None
        rows, counts = counted_rows
        if rows != self._rows:
            return
        for number, stroke in enumerate(self._rows):
            item = self._table.item(number, _PIXELS)
            if item is not None:
                item.setText(f"{counts[stroke.id]:,}")

    def _show_buttons(self) -> None:
        chosen, writable = self.chosen, self._controller.writable
        tile_id = self._review.tile_id
        self._show_button.setEnabled(chosen is not None)
        can_revert = chosen is not None and writable and not chosen.discarded
        self._revert_button.setEnabled(can_revert)
        self._sitting_button.setEnabled(can_revert)
        self._tile_button.setText(f"Revert tile {literal(tile_id)}…" if tile_id else "Revert tile…")
        self._tile_button.setEnabled(bool(tile_id) and writable)
        self._export_button.setEnabled(bool(self._rows))
        self._more.setVisible(len(self._rows) >= self._limit)
        self._count_label.setText(counted(len(self._rows), "stroke"))

    def _list_more(self) -> None:
        self._limit *= 4
        self.refresh()

    def _fly(self) -> None:
        chosen = self.chosen
        if chosen is not None:
            self._attempt(lambda: self._history.fly_to(chosen.id))
            self._show_buttons()

    def revert_stroke(self) -> None:
        """Take the selected stroke out."""
        chosen = self.chosen
        if chosen is not None:
            self._do(lambda: self._history.revert_stroke(chosen.id))

    def _ask_tile(self) -> None:
        tile_id = self._review.tile_id
        if self._sure(f"Take out everything that was ever drawn on tile {tile_id}, by anybody?"):
            self._do(lambda: self._history.revert_tile(tile_id))

    def _ask_sitting(self) -> None:
        chosen = self.chosen
        if chosen is None:
            return
        sitting = self._history.sitting_of(chosen.id)
        begin, end = (time.astimezone().strftime("%d %b %H:%M") for time in (sitting.start, sitting.end))
        tiles = listed(sorted({tile_id for stroke in sitting.strokes for tile_id in stroke.tile_ids}))
        strokes = counted(len(sitting.strokes), "stroke")
        if self._sure(f"Take out {strokes} of {sitting.author} from {begin} to {end} on {tiles}?"):
            self._do(lambda: self._history.revert_sitting(chosen.id))

    def _sure(self, question: str) -> bool:
        answer = QMessageBox.question(
            self,
            "Revert corrections",
            f"{question}\n\nThis is a new stroke: Undo brings it back, and nothing leaves the journal. What others "
            "drew over it later stays.",
            QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel,
            QMessageBox.StandardButton.Cancel,
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the patches", str(Path.home()))
        if folder:
            self._do(lambda: self._history.export(Path(folder)))

    def _do(self, act: Callable[[], str]) -> None:
        self._said.setText(self._attempt(act) or "")
        self.refresh()


def _cells(stroke: StrokeInfo) -> tuple[str, ...]:
    when = datetime.fromisoformat(stroke.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    state = "discarded" if stroke.discarded else "not saved" if stroke.unsaved else "saved"
    return when, stroke.author, title_of(stroke.tool), listed(stroke.tile_ids), "…", stroke.model or "", state
