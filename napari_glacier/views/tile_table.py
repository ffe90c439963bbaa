"""The tile list: small pictures, class mix as a bar, edits and review state; fast with thousands of tiles."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QAbstractTableModel, QModelIndex, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QImage, QPainter, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QStyledItemDelegate, QStyleOptionViewItem, QTableView

from napari_glacier.controllers.footprints import REVIEW_COLORS
from napari_glacier.controllers.overview import share_text
from napari_glacier.controllers.tile_list import Key, TileRow
from napari_glacier.views.pieces import swatch

COLUMNS: tuple[tuple[Key, str, int], ...] = (
    ("tile", "Tile", 100),
    ("split", "Split", 42),
    ("classes", "Classes", 54),
    ("edits", "Edits", 38),
    ("review", "Review", 90),
)
CLASSES, EDITS, REVIEW = 2, 3, 4
_ROW_PX, _ICON_PX, _DOT_PX = 30, 28, 10
# Pictures that are kept; others are made again when they are scrolled to.
_KEPT = 1000


class TileTable(QAbstractTableModel):
    """The rows that are shown, and their pictures.

    Parameters
    ----------
    parent : QObject
    want : callable (tile id) -> None
        Called for a tile whose picture is looked at and not there yet.
    sorted_by : callable (key, descending) -> None
        Called when a person clicks a column's title.
    """

    def __init__(self, parent: Any, want: Callable[[str], None], sorted_by: Callable[[Key, bool], None]) -> None:
        super().__init__(parent)
        self.rows: list[TileRow] = []
        self.colors: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] = ()
        self._want, self._sorted_by = want, sorted_by
        self._numbers: dict[str, int] = {}
        self._pictures: OrderedDict[str, QIcon] = OrderedDict()
        blank = QPixmap(_ICON_PX, _ICON_PX)
        blank.fill(Qt.GlobalColor.transparent)
        self._blank = QIcon(blank)
        self._dots = {state: swatch(color, _DOT_PX) for state, color in REVIEW_COLORS.items()}

    def forget(self, colors: Sequence[str], class_names: Sequence[str]) -> None:
        """Begin with another dataset."""
        self.colors, self.class_names = tuple(colors), tuple(class_names)
        self._pictures.clear()
        self.show_rows([])

    def show_rows(self, rows: list[TileRow]) -> None:
        """Show other rows; where only cells changed the selection stays."""
        if [row.tile_id for row in rows] == [row.tile_id for row in self.rows]:
            changed = [n for n, (new, old) in enumerate(zip(rows, self.rows, strict=True)) if new != old]
            self.rows = rows
            if changed:
                self.dataChanged.emit(self.index(changed[0], 0), self.index(changed[-1], len(COLUMNS) - 1))
            return
        self.beginResetModel()
        self.rows = rows
        self._numbers = {row.tile_id: number for number, row in enumerate(rows)}
        self.endResetModel()

    def show_picture(self, tile_id: str, rgba_HW4: npt.NDArray[np.uint8]) -> None:
        """Show the picture of a tile."""
        height, width = rgba_HW4.shape[:2]
        pixels = np.ascontiguousarray(rgba_HW4)
        image = QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGBA8888).copy()
        self._pictures[tile_id] = QIcon(QPixmap.fromImage(image))
        while len(self._pictures) > _KEPT:
            self._pictures.popitem(last=False)
        number = self._numbers.get(tile_id)
        if number is not None:
            place = self.index(number, 0)
            self.dataChanged.emit(place, place, [Qt.ItemDataRole.DecorationRole])

    def number_of(self, tile_id: str) -> int | None:
        """The row in which a tile is shown."""
        return self._numbers.get(tile_id)

    def rowCount(self, parent: Any = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's own signature
        """Number of tiles."""
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Any = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's own signature
        """Number of columns."""
        return len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802 - Qt's own name
        """Column titles."""
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return COLUMNS[section][1]
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """A click on a column's title: whoever has all rows sorts them."""
        if 0 <= column < len(COLUMNS):
            self._sorted_by(COLUMNS[column][0], order == Qt.SortOrder.DescendingOrder)

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Texts, pictures and colours of the cells."""
        row, column = self.rows[index.row()], index.column()
        if role == Qt.ItemDataRole.DecorationRole:
            if column == 0:
                return self._picture(row.tile_id)
            return self._dots[row.review] if column == REVIEW else None
        if role == Qt.ItemDataRole.TextAlignmentRole and column == EDITS:
            return Qt.AlignmentFlag.AlignCenter
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._mix_text(row) if column == CLASSES else f"{row.tile_id}: click to fly there"
        if role == Qt.ItemDataRole.DisplayRole:
            return (row.tile_id, row.split, "", str(row.unsaved) if row.unsaved else "", row.review)[column]
        return None

    def _picture(self, tile_id: str) -> QIcon:
        picture = self._pictures.get(tile_id)
        if picture is None:
            self._want(tile_id)
            return self._blank
        self._pictures.move_to_end(tile_id)
        return picture

    def _mix_text(self, row: TileRow) -> str:
        if row.shares == ():
            return "Nodata only"
        if row.bare:
            return "Not labelled"
        if row.shares is None:
            return "Not counted yet"
        mix = ", ".join(f"{name} {share_text(s)}" for name, s in zip(self.class_names, row.shares, strict=True))
        return f"{mix} of the valid pixels"


class MixDelegate(QStyledItemDelegate):
    """Draws the shares of the classes as a bar; of a tile without labels it says so."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Any) -> None:
        """Draw the cell."""
        super().paint(painter, option, index)
        model = index.model()
        row: TileRow = model.rows[index.row()]
        box = QRectF(option.rect).adjusted(4, 9, -4, -9)
        painter.save()
        if row.bare:
            painter.setPen(QColor(128, 128, 128))
            painter.drawText(QRectF(option.rect), Qt.AlignmentFlag.AlignCenter, "none")
            painter.restore()
            return
        if row.shares:
            left = box.left()
            for color, share in zip(model.colors, row.shares, strict=True):
                painter.fillRect(QRectF(left, box.top(), box.width() * share, box.height()), QColor(color))
                left += box.width() * share
        painter.setPen(QColor(128, 128, 128))
        painter.drawRect(box)
        painter.restore()


def make_table(model: TileTable) -> QTableView:
    """A view of the list whose cost does not grow with its length."""
    table = QTableView()
    table.setModel(model)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    table.setShowGrid(False)
    table.setWordWrap(False)
    table.setIconSize(QSize(_ICON_PX, _ICON_PX))
    table.setItemDelegateForColumn(CLASSES, MixDelegate(table))
    table.setMinimumHeight(140)
    table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
    vertical = table.verticalHeader()
    vertical.setVisible(False)
    # Rows of one height: nothing is measured.
    vertical.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
    vertical.setDefaultSectionSize(_ROW_PX)
    header = table.horizontalHeader()
    header.setMinimumSectionSize(30)
    for number, (_, _, width) in enumerate(COLUMNS):
        table.setColumnWidth(number, width)
    header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    header.setHighlightSections(False)
    header.setSortIndicator(0, Qt.SortOrder.AscendingOrder)
    table.setSortingEnabled(True)
    return table
