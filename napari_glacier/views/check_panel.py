"""The doctor's findings as a short list: what, where, how grave, and the mend."""

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QTextOption
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.check import SEVERITIES, by_gravity, check, counts, verdict
from napari_glacier.core.findings import Diagnosis, Examined, Finding
from napari_glacier.views.background import Background
from napari_glacier.views.base import hint

# Colour and a mark: colour alone says nothing to colour-blind people.
_MARKS = {"error": ("✖", "#e06c3c"), "warning": ("▲", "#e69f00"), "info": ("●", "#56b4e9")}
_TITLES = {"error": "Errors", "warning": "Warnings", "info": "Notes"}


class FindingTable(QAbstractTableModel):
    """Findings as Qt wants them: a mark, the tile, what is the matter."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.rows: list[Finding] = []

    def show_rows(self, rows: list[Finding]) -> None:
        """Show other findings."""
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def rowCount(self, parent: Any = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's own signature
        """Number of findings."""
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Any = QModelIndex()) -> int:  # noqa: N802, B008 - Qt's own signature
        """Mark, tile, message."""
        return 3

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Texts and colours of the cells."""
        finding, column = self.rows[index.row()], index.column()
        mark, color = _MARKS[finding.severity]
        if role == Qt.ItemDataRole.DisplayRole:
            return (mark, finding.tile or "all", finding.message)[column]
        if role == Qt.ItemDataRole.ForegroundRole and column == 0:
            return QColor(color)
        if role == Qt.ItemDataRole.TextAlignmentRole and column == 0:
            return Qt.AlignmentFlag.AlignCenter
        return finding.text if role == Qt.ItemDataRole.ToolTipRole else None


class CheckPanel(QWidget):
    """Runs the doctor in a thread and lists what it finds; a click on a finding tells its tile.

    Signals
    -------
    tile_chosen(str), changed(), failed(BaseException)
    """

    tile_chosen = QtSignal(str)
    changed = QtSignal()
    failed = QtSignal(object)

    def __init__(self) -> None:
        super().__init__()
        self._session: Any = None
        self._task: Background | None = None
        self._findings: list[Finding] = []
        self._num_tiles = 0
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setSpacing(4)
        self._told = hint("")
        layout.addWidget(self._told)
        row = QHBoxLayout()
        self.run_button = QPushButton("Check every file")
        self.run_button.setToolTip("Reads every band and mask: damage, exchanged bands, odd values, tiles too near")
        self.run_button.clicked.connect(self.run)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.clicked.connect(self.cancel)
        row.addWidget(self.run_button, 2)
        row.addWidget(self.cancel_button, 1)
        layout.addLayout(row)
        self._with_model = QCheckBox("Compare values with the bundled model")
        self._with_model.setToolTip("Warns where bands are far from what the model learnt from")
        layout.addWidget(self._with_model)
        self._bar = QProgressBar()
        self._bar.setFormat("%v of %m tiles")
        layout.addWidget(self._bar)
        layout.addLayout(self._make_kinds())
        self.model = FindingTable(self)
        layout.addWidget(self._make_table(), 1)
        # Names of scenes and paths have no place to break: a label would grow as wide as they are.
        self._detail = QPlainTextEdit()
        self._detail.setReadOnly(True)
        self._detail.setFrameShape(QFrame.Shape.NoFrame)
        self._detail.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self._detail.setFixedHeight(112)
        layout.addWidget(self._detail)
        layout.addStretch(0)
        self._show()

    def _make_kinds(self) -> QHBoxLayout:
        kinds = QHBoxLayout()
        self._kinds: dict[str, QCheckBox] = {}
        for severity in SEVERITIES:
            box = QCheckBox(_TITLES[severity])
            box.setChecked(True)
            box.toggled.connect(self._fill)
            self._kinds[severity] = box
            kinds.addWidget(box)
        kinds.addStretch(1)
        return kinds

    def _make_table(self) -> QTableView:
        self.table = QTableView()
        self.table.setModel(self.model)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.setMinimumHeight(120)
        self.table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.table.verticalHeader().setVisible(False)
        self.table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.table.verticalHeader().setDefaultSectionSize(22)
        header = self.table.horizontalHeader()
        header.setVisible(False)
        header.setMinimumSectionSize(22)
        self.table.setColumnWidth(0, 24)
        self.table.setColumnWidth(1, 70)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        self.table.selectionModel().currentRowChanged.connect(lambda index, _: self._explain(index.row()))
        # By the mouse, or by Enter.
        for chosen in (self.table.clicked, self.table.activated):
            chosen.connect(lambda index: self.choose(index.row()))
        return self.table

    @property
    def running(self) -> bool:
        """Whether the doctor is at work."""
        return self._task is not None

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, the gravest first."""
        return self._findings

    def show_session(self, session: Any, known: Sequence[Finding]) -> None:
        """Begin with a dataset and what is known of it without reading it."""
        self.stop()
        self._session = session
        self._findings = list(known)
        self._num_tiles = 0
        self._show()

    def show_known(self, known: Sequence[Finding]) -> None:
        """What is known by now without reading the files; nothing where the doctor has spoken."""
        if not self.running and not self._num_tiles and list(known) != self._findings:
            self._findings = list(known)
            self._fill()

    def run(self) -> None:
        """Start the doctor in a thread of its own."""
        if self._session is None or self.running:
            return
        session = self._session
        scheme = None if session.assumed_scheme else session.scheme.name
        models = (None,) if self._with_model.isChecked() else ()
        self._findings, self._num_tiles = [], 0
        self._task = Background(
            self, check(session.root, scheme, models), self._on_step, self._on_diagnosis, self._on_error
        )
        self._bar.setMaximum(0)
        self._show()

    def cancel(self) -> None:
        """End the check; what was found so far stays."""
        if self.running:
            self.stop()
            self._show()
            self._told.setText(f"Cancelled. {verdict(self._findings, self._num_tiles)}")

    def stop(self) -> None:
        """End the check without a word."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def choose(self, row: int) -> None:
        """What a click on a finding does."""
        finding = self.model.rows[row]
        self._explain(row)
        if finding.tile is not None:
            self.tile_chosen.emit(finding.tile)

    def _explain(self, row: int) -> None:
        if 0 <= row < len(self.model.rows):
            finding = self.model.rows[row]
            where = f"Tile {finding.tile}: " if finding.tile else ""
            self._detail.setPlainText(f"{where}{finding.message}" + (f"\n→ {finding.mend}" if finding.mend else ""))

    def _on_step(self, step: Examined) -> None:
        self._num_tiles = step.done
        self._bar.setMaximum(step.total)
        self._bar.setValue(step.done)
        if step.findings:
            self._findings += step.findings
            self._tell_kinds()

    def _on_diagnosis(self, diagnosis: Diagnosis) -> None:
        self._task = None
        self._findings = by_gravity(diagnosis.findings)
        self._num_tiles = diagnosis.summary.get("tiles", 0)
        self._show()
        self._told.setText(verdict(self._findings, self._num_tiles))

    def _on_error(self, error: BaseException) -> None:
        self._task = None
        self._show()
        self.failed.emit(error)

    def _show(self) -> None:
        running = self.running
        self.run_button.setEnabled(not running and self._session is not None)
        self.cancel_button.setEnabled(running)
        self._with_model.setEnabled(not running)
        self._bar.setVisible(running)
        self._told.setText(
            "Reading every file…" if running else "What is wrong with the data, before anything is trained on them."
        )
        self._fill()

    def _tell_kinds(self) -> None:
        for severity, number in counts(self._findings).items():
            self._kinds[severity].setText(f"{_MARKS[severity][0]} {_TITLES[severity]} {number}")

    def _fill(self) -> None:
        self._tell_kinds()
        shown = {severity for severity, box in self._kinds.items() if box.isChecked()}
        self.model.show_rows(by_gravity([one for one in self._findings if one.severity in shown]))
        self._detail.setPlainText("")
        for part in (self.table, self._detail):
            part.setVisible(bool(self.model.rows))
        self.changed.emit()
