"""A small map of the tiles in the colours of their review states, or of anything else that is said of tiles."""

from collections.abc import Mapping

from qtpy.QtCore import QEvent, QPointF, QRectF, Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_glacier.controllers.footprints import REVIEW_COLORS, Footprints

_MARGIN_PX, _HEIGHT_PX = 5, 132
# Steps to the right and down.
_ARROWS: dict[int, tuple[int, int]] = {
    Qt.Key.Key_Left: (-1, 0),
    Qt.Key.Key_Right: (1, 0),
    Qt.Key.Key_Up: (0, -1),
    Qt.Key.Key_Down: (0, 1),
}


class FootprintMap(QWidget):
    """Boxes of tiles; a click on one tells which, and so do the arrow keys, which go on from there.

    Parameters
    ----------
    colors : mapping of str to str
        Of each state.
    usual : str
        The state of a tile of which nothing is said.
    height_px : int
    """

    clicked = QtSignal(str)

    def __init__(
        self, colors: Mapping[str, str] = REVIEW_COLORS, usual: str = "todo", height_px: int = _HEIGHT_PX
    ) -> None:
        super().__init__()
        self._colors, self._usual = colors, usual
        self._prints: Footprints | None = None
        self._states: Mapping[str, str] = {}
        self._shown: frozenset[str] = frozenset()
        self._chosen: str | None = None
        self.setFixedHeight(height_px)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName("Map of the tiles")

    def show_prints(self, prints: Footprints | None) -> None:
        """Show other tiles."""
        self._prints, self._chosen = prints, None
        self.update()

    def show_states(self, states: Mapping[str, str], shown: frozenset[str]) -> None:
        """Show the states; tiles that are not in the list are drawn faintly."""
        self._states, self._shown = states, shown
        self.update()

    def choose(self, tile_id: str | None) -> None:
        """Frame a tile."""
        self._chosen = tile_id
        self.update()

    def box_of(self, tile_id: str) -> QRectF | None:
        """Where a tile is drawn."""
        if self._prints is None or tile_id not in self._prints.tile_ids:
            return None
        scale, left, top = self._fit()
        x0, y0, x1, y1 = self._prints.boxes_N4[self._prints.tile_ids.index(tile_id)]
        return QRectF(left + x0 * scale, top + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's own name
        """Draw the boxes."""
        if self._prints is None or not self._prints.tile_ids:
            return
        painter = QPainter(self)
        scale, left, top = self._fit()
        colors = {state: QColor(color) for state, color in self._colors.items()}
        framed: QRectF | None = None
        for tile_id, (x0, y0, x1, y1) in zip(self._prints.tile_ids, self._prints.boxes_N4.tolist(), strict=True):
            box = QRectF(left + x0 * scale, top + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale)
            # Very small tiles stay to be seen; larger ones leave a line between them.
            gap = 0.5 if min(box.width(), box.height()) > 4 else 0.0
            box = QRectF(box.x() + gap, box.y() + gap, max(box.width() - 2 * gap, 1), max(box.height() - 2 * gap, 1))
            painter.setOpacity(1.0 if tile_id in self._shown else 0.25)
            painter.fillRect(box, colors[self._states.get(tile_id, self._usual)])
            if tile_id == self._chosen:
                framed = box
        if framed is not None:
            painter.setOpacity(1.0)
            painter.setPen(QPen(self.palette().color(self.foregroundRole()), 2))
            painter.drawRect(framed.adjusted(-1, -1, 1, 1))
        if self.hasFocus():
            painter.setOpacity(0.5)
            painter.setPen(QPen(self.palette().color(self.foregroundRole()), 1, Qt.PenStyle.DotLine))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's own name
        """A click flies to the tile."""
        tile_id = self._at(event.position())
        if tile_id is not None:
            self._take(tile_id)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's own name
        """An arrow key goes on to the tile that lies there, or begins with the first one."""
        step = _ARROWS.get(event.key())
        if step is None or self._prints is None or not self._prints.tile_ids:
            super().keyPressEvent(event)
            return
        ids, chosen = self._prints.tile_ids, self._chosen
        tile_id = self._prints.beside(chosen, *step) if chosen in ids else ids[0]
        if tile_id is not None:
            self._take(tile_id)

    def _take(self, tile_id: str) -> None:
        self.choose(tile_id)
        self.clicked.emit(tile_id)

    def event(self, event: QEvent) -> bool:
        """The tooltip names the tile under the mouse."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            tile_id = self._at(QPointF(event.pos()))
            QToolTip.showText(
                event.globalPos(), f"{tile_id}: {self._states.get(tile_id, self._usual)}" if tile_id else ""
            )
            return True
        return bool(super().event(event))

    def _at(self, point: QPointF) -> str | None:
        if self._prints is None or not self._prints.tile_ids:
            return None
        scale, left, top = self._fit()
        return self._prints.at((point.x() - left) / scale, (point.y() - top) / scale)

    def _fit(self) -> tuple[float, float, float]:
        """Pixels for a unit of the map, and where its corner is drawn: whole, in the middle."""
        assert self._prints is not None
        width, height = (max(float(length), 1e-9) for length in self._prints.boxes_N4[:, 2:].max(axis=0))
        room_x, room_y = self.width() - 2 * _MARGIN_PX, self.height() - 2 * _MARGIN_PX
        scale = max(min(room_x / width, room_y / height), 1e-12)
        return scale, (self.width() - width * scale) / 2, (self.height() - height * scale) / 2
