"""A pixel's spectrum beside those of the classes, drawn by Qt: matplotlib would take half a second on first use."""

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_glacier.controllers.probe import PixelReport

_HEIGHT_PX = 132
_LEGEND_PX = 16
_AXIS_PX = 16
_MARGIN_PX = 10
# Classes differ by dashes as well as by colour.
_DASHES = (
    Qt.PenStyle.SolidLine,
    Qt.PenStyle.DashLine,
    Qt.PenStyle.DotLine,
    Qt.PenStyle.DashDotLine,
    Qt.PenStyle.DashDotDotLine,
)


class SpectrumPlot(QWidget):
    """Lines over the bands: one of the pixel, thick, and one of each class nearby.

    Each band has a scale of its own, from the least to the greatest value shown: a thermal band would otherwise hide
    what the others say.
    """

    def __init__(self) -> None:
        super().__init__()
        self._report: PixelReport | None = None
        self._classes: list[tuple[str, str]] = []
        self._text = QColor("white")
        self.setFixedHeight(_HEIGHT_PX)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_theme(self, viewer: Any) -> None:
        """Take the text colour of the viewer's theme."""
        from napari.utils.theme import get_theme

        self._text = QColor(get_theme(viewer.theme).text.as_hex())
        self.update()

    def show_report(self, report: PixelReport, classes: Sequence[tuple[str, str]]) -> None:
        """Draw a pixel; classes are names and colours."""
        self._report, self._classes = report, list(classes)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's own name
        """Draw the lines, the bands' names and the legend."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(self._text)
        if self._report is None:
            painter.drawText(QRectF(self.rect()), int(Qt.AlignmentFlag.AlignCenter), "Click a pixel.")
            painter.end()
            return
        font = painter.font()
        font.setPointSizeF(max(font.pointSizeF() * 0.85, 7.0))
        painter.setFont(font)
        area = QRectF(
            _MARGIN_PX + 6, 4, self.width() - 2 * (_MARGIN_PX + 6), self.height() - _AXIS_PX - _LEGEND_PX - 10
        )
        report = self._report
        lines = list(report.class_spectra.items())
        ranges = [_range([report.spectrum[k], *(means[k] for _, means in lines)]) for k in range(len(report.bands))]
        step = area.width() / max(len(report.bands) - 1, 1)
        faint = QColor(self._text)
        faint.setAlpha(50)
        for k, band in enumerate(report.bands):
            x = area.left() + k * step
            painter.setPen(faint)
            painter.drawLine(QPointF(x, area.top()), QPointF(x, area.bottom()))
            painter.setPen(self._text)
            painter.drawText(QRectF(x - 30, area.bottom() + 3, 60, _AXIS_PX), int(Qt.AlignmentFlag.AlignHCenter), band)
        for label, means in lines:
            painter.setPen(self._pen(label))
            painter.drawPolyline(QPolygonF(_points(means, ranges, area, step)))
        painter.setPen(QPen(self._text, 2.5))
        points = _points(report.spectrum, ranges, area, step)
        painter.drawPolyline(QPolygonF(points))
        painter.setBrush(self._text)
        for point in points:
            painter.drawEllipse(point, 2.5, 2.5)
        self._draw_legend(painter, [label for label, _ in lines])
        painter.end()

    def _pen(self, label: int) -> QPen:
        return QPen(QColor(self._classes[label][1]), 1.8, _DASHES[label % len(_DASHES)])

    def _draw_legend(self, painter: QPainter, labels: Sequence[int]) -> None:
        entries = [("pixel", QPen(self._text, 2.5)), *((self._classes[k][0], self._pen(k)) for k in labels)]
        y = self.height() - _LEGEND_PX / 2
        width = self.width() / len(entries)
        for number, (name, pen) in enumerate(entries):
            x = number * width
            painter.setPen(pen)
            painter.drawLine(QPointF(x + 2, y), QPointF(x + 16, y))
            painter.setPen(self._text)
            room = QRectF(x + 19, y - _LEGEND_PX / 2, width - 19, _LEGEND_PX)
            shown = painter.fontMetrics().elidedText(name, Qt.TextElideMode.ElideRight, int(room.width()))
            painter.drawText(room, int(Qt.AlignmentFlag.AlignVCenter), shown)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def _points(values: Sequence[float], ranges: Sequence[tuple[float, float]], area: QRectF, step: float) -> list[QPointF]:
    return [
        QPointF(area.left() + k * step, area.bottom() - area.height() * (value - low) / (high - low))
        for k, (value, (low, high)) in enumerate(zip(values, ranges, strict=True))
    ]
