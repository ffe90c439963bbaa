"""The Report widget: km² per class with their intervals, the page with maps, outlines for a GIS."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.report import (
    Made,
    MapChoice,
    OutlineWish,
    ReportController,
    TruthChoice,
    area_lines,
    change_lines,
    further_facts,
)
from napari_glacier.controllers.steps import Step
from napari_glacier.views.background import Background
from napari_glacier.views.base import GlacierView, group, hint
from napari_glacier.views.job_row import JobRow
from napari_glacier.views.pieces import ShrinkingBox, browse_button, clear_layout, label_of, swatch_label
from napari_glacier.views.settings import keep, keep_all, kept

_FORMATS = "GeoPackage (*.gpkg);;GeoJSON (*.geojson);;Shapefile (*.shp)"
_SUFFIXES = {"GeoPackage": ".gpkg", "GeoJSON": ".geojson", "Shapefile": ".shp"}


class ReportView(GlacierView):
    """Measure the open dataset's labels or a prediction of it.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    title = "Report"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.controller = ReportController(self.workspace)
        self._task: Background | None = None
        self.made: Made | None = None
        # End listening to the open dataset.
        self._leave: list[Callable[[], None]] = []

        desk = self.make_desk(
            "<b>Nothing to measure yet.</b><br>Open a dataset. Its labels are measured as they are saved; for a "
            "prediction, run <i>Predict</i> first, with <i>Keep probabilities</i> for intervals."
        )
        desk.addWidget(group("Report on", self._make_choices()))
        self._job = JobRow()
        self._job.run_asked.connect(self.run)
        self._job.cancel_asked.connect(self.cancel)
        desk.addWidget(self._job)
        desk.addWidget(self._make_result())

        self.listen(self.workspace.session_changed, self._on_session)
        self.listen(self.workspace.layers_changed, self._fill)
        self.listen(self.workspace.predicted, self._fill)
        self.on_close(self._stop)
        self._restore()
        self._on_session(self.workspace.session)

    def _make_choices(self) -> QFormLayout:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        row = QHBoxLayout()
        row.setSpacing(4)
        self._maps, self._truth = ShrinkingBox(8), ShrinkingBox(8)
        self._maps.currentIndexChanged.connect(self._fill_truths)
        browse = browse_button("Choose a folder of predicted masks that lies elsewhere")
        browse.clicked.connect(self._browse)
        row.addWidget(self._maps, 1)
        row.addWidget(browse)
        form.addRow(label_of("Map", self._maps), row)
        self._truth.setToolTip(
            "Labelled tiles that show how far the model's probabilities can be believed. Take tiles that it has not "
            "learnt from: on others it is right more often than elsewhere, and intervals come out too narrow"
        )
        form.addRow("Calibrate on", self._truth)
        self._level = QDoubleSpinBox()
        self._level.setRange(50, 99.9)
        self._level.setDecimals(1)
        self._level.setSingleStep(1)
        self._level.setSuffix(" %")
        self._level.setToolTip("Probability that the true area lies in the interval")
        form.addRow("Interval", self._level)
        return form

    def _make_result(self) -> QWidget:
        self._result = QWidget()
        result = QVBoxLayout(self._result)
        result.setContentsMargins(0, 0, 0, 0)
        areas = QVBoxLayout()
        self._areas = QGridLayout()
        self._areas.setHorizontalSpacing(8)
        self._areas.setVerticalSpacing(3)
        areas.addLayout(self._areas)
        self._star = hint("* sum of probabilities, and what the model does not rule out: no confidence interval")
        areas.addWidget(self._star)
        self._facts = QFormLayout()
        self._facts.setVerticalSpacing(2)
        areas.addLayout(self._facts)
        self._changes = QGridLayout()
        self._changes.setHorizontalSpacing(12)
        self._changes.setVerticalSpacing(2)
        areas.addLayout(self._changes)
        buttons = QHBoxLayout()
        self._page_button = QPushButton("Open page")
        self._page_button.setToolTip("The whole report with maps, in the browser")
        self._page_button.clicked.connect(self._open_page)
        self._folder_button = QPushButton("Open folder")
        self._folder_button.setToolTip("The page and the tables as CSV")
        self._folder_button.clicked.connect(self._open_folder)
        buttons.addWidget(self._page_button)
        buttons.addWidget(self._folder_button)
        areas.addLayout(buttons)
        self._areas_box = group("Areas", areas)
        result.addWidget(self._areas_box)
        result.addWidget(group("Outlines", self._make_outlines()))
        self._notes = hint("")
        notes = QVBoxLayout()
        notes.addWidget(self._notes)
        self._notes_box = group("To know", notes)
        result.addWidget(self._notes_box)
        return self._result

    def _make_outlines(self) -> QVBoxLayout:
        layout = QVBoxLayout()
        self._merge = QCheckBox("Debris belongs to the glacier")
        self._merge.setToolTip("One outline around clean ice and debris, as in the RGI")
        self._smooth = QCheckBox("Smooth the stairs of the pixels")
        self._smooth.setToolTip("Borders are simplified to 1 pixel and stay shared; area_km2 stays that of the pixels")
        layout.addWidget(self._merge)
        layout.addWidget(self._smooth)
        form = QFormLayout()
        self._least = QDoubleSpinBox()
        self._least.setRange(0, 100)
        self._least.setDecimals(3)
        self._least.setSingleStep(0.01)
        self._least.setSuffix(" km²")
        self._least.setToolTip("Smaller polygons are left out; the RGI leaves out those under 0.01 km²")
        form.addRow("Smallest area", self._least)
        self._date = QLineEdit()
        self._date.setPlaceholderText("YYYY-MM-DD")
        self._date.setToolTip("Day of the images, where the masks' tags and names do not say it (src_date)")
        form.addRow("Image date", self._date)
        layout.addLayout(form)
        self._outline_button = QPushButton("Save outlines…")
        self._outline_button.setToolTip("GeoPackage, GeoJSON or shapefile with the attributes of the RGI 7")
        self._outline_button.clicked.connect(self._ask_outlines)
        layout.addWidget(self._outline_button)
        return layout

    # -- what a person does

    @property
    def running(self) -> bool:
        """Whether a job is under way."""
        return self._task is not None

    def choose(self, *, maps: Path | None, truth: str = "") -> None:
        """Set the choices of the form: a folder (None: the labels), and how the choice of tiles begins."""
        for number in range(self._maps.count()):
            if self._maps.itemData(number).path == maps:
                self._maps.setCurrentIndex(number)
        for number in range(self._truth.count()):
            if truth and self._truth.itemText(number).startswith(truth):
                self._truth.setCurrentIndex(number)

    def run(self) -> None:
        """Start the report in a thread of its own."""
        if self.running:
            return
        self.tell("")
        self._fill()
        maps, truth = self._maps.currentData(), self._truth.currentData() or TruthChoice("")
        request = self.attempt(lambda: self.controller.request(maps, truth, self._level.value() / 100))
        if request is None:
            return
        self._remember()
        self._start(self.controller.job(request), self._on_made)

    def save_outlines(self, path: Path) -> None:
        """Write the outlines of what was reported on; a file of that name is replaced."""
        if self.running or self.made is None:
            return
        self.tell("")
        self._remember()
        wish = OutlineWish(
            smooth=self._smooth.isChecked(),
            merge_debris=self._merge.isChecked() and self._merge.isEnabled(),
            min_area_km2=self._least.value(),
            src_date=self._date.text().strip(),
        )
        self._start(self.controller.outline_job(self.made, path, wish), self._on_outlined)

    def cancel(self) -> None:
        """End the job: at once for the person, in its own thread at its next step."""
        if self.running:
            self._stop()
            self.tell("Cancelled. Nothing was written.")
            self._show()

    def _start(self, job: Any, on_return: Any) -> None:
        self._task = Background(self, job, self._on_step, on_return, self._on_error)
        self._show()
        self._job.begin("Beginning…")

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # -- what the worker reports

    def _on_step(self, step: Step) -> None:
        self._job.step(step.done, step.total, step.what)

    def _on_made(self, made: Made) -> None:
        self._task = None
        self.made = made
        self._show()
        self.tell(f"Written to {made.page.parent.parent.name}/{made.page.parent.name}.")

    def _on_outlined(self, written: tuple[Path, str]) -> None:
        self._task = None
        self._show()
        self.tell(written[1])

    def _on_error(self, error: BaseException) -> None:
        self._task = None
        self._show()
        self.fail(error)

    # -- showing

    def _on_session(self, session: Any) -> None:
        self._stop()
        self.made = None
        while self._leave:
            self._leave.pop()()
        if session is not None:
            self._leave += [
                self.listen(session.saved, lambda *_: self._fill()),
                self.listen(session.reviewed, lambda *_: self._fill_truths()),
            ]
        self.show_desk(session is not None)
        self._fill()
        self._show()

    def _fill(self) -> None:
        """The maps there are by now; what was chosen stays."""
        chosen = self._maps.currentData()
        self._maps.blockSignals(True)
        self._maps.clear()
        for choice in self.controller.maps():
            self._maps.addItem(choice.title, choice)
            self._maps.setItemData(self._maps.count() - 1, str(choice.path or ""), Qt.ItemDataRole.ToolTipRole)
            if isinstance(chosen, MapChoice) and choice.path == chosen.path:
                self._maps.setCurrentIndex(self._maps.count() - 1)
        self._maps.blockSignals(False)
        self._job.show_running(self.running, can_run=self._maps.count() > 0)
        self._fill_truths()

    def _fill_truths(self) -> None:
        # How many tiles there are of a kind may have changed.
        kind = self._truth.currentText().partition("(")[0]
        self._truth.clear()
        for truth in self.controller.truths(self._maps.currentData()):
            self._truth.addItem(truth.title, truth)
        self._truth.setCurrentIndex(max(self._truth.findText(f"{kind}(", Qt.MatchFlag.MatchStartsWith), 0))
        self._truth.setEnabled(self._truth.count() > 1)

    def _show(self) -> None:
        running = self.running
        self._job.show_running(running, can_run=self._maps.count() > 0)
        self._outline_button.setEnabled(not running)
        made = self.made
        self._result.setVisible(made is not None)
        if made is None:
            return
        self._show_areas(made)
        while self._facts.rowCount():
            self._facts.removeRow(0)
        for name, text in further_facts(made.report):
            label = QLabel(text)
            label.setWordWrap(True)
            self._facts.addRow(QLabel(name), label)
        self._show_changes(made)
        self._merge.setEnabled(made.source.scheme.interface is not None)
        self._notes.setText("<br>".join(made.notes))
        self._notes_box.setVisible(bool(made.notes))

    def _show_areas(self, made: Made) -> None:
        clear_layout(self._areas)
        lines = area_lines(made.report)
        has_interval = any(line.interval for line in lines)
        self._areas_box.setTitle(f"Areas ({100 * made.report.level:g} % intervals)" if has_interval else "Areas")
        row = 0
        for line in lines:
            self._areas.addWidget(swatch_label(line.color), row, 0)
            self._areas.addWidget(QLabel(line.name), row, 1)
            mapped = QLabel(f"<b>{line.mapped}</b> km²")
            mapped.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self._areas.addWidget(mapped, row, 2)
            row += 1
            if line.interval:
                # Below, not beside: four columns of figures are wider than a laptop's dock.
                further = QLabel(f"expected {line.expected} ({line.interval})")
                further.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
                further.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self._areas.addWidget(further, row, 1, 1, 2)
                row += 1
        self._areas.setColumnStretch(1, 1)
        self._star.setVisible(any(line.interval.endswith("*") for line in lines))

    def _show_changes(self, made: Made) -> None:
        clear_layout(self._changes)
        lines = change_lines(made.report)
        if not lines:
            return
        rows = [("Labels change, km²", "gained", "lost"), *((line.name, line.gained, line.lost) for line in lines)]
        for row, texts in enumerate(rows):
            for column, text in enumerate(texts):
                cell = QLabel(text)
                if column:
                    cell.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self._changes.addWidget(cell, row, column)
        self._changes.setColumnStretch(0, 1)

    def _open_page(self) -> None:
        if self.made is not None and not QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.made.page))):
            self.tell(f"No browser was found. The page is {self.made.page}.", error=True)

    def _open_folder(self) -> None:
        if self.made is not None:
            folder = self.made.page.parent
            if not QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder))):
                self.tell(f"No file manager was found. The folder is {folder}.", error=True)

    def _browse(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Choose a folder of predicted masks", kept("report/maps", ""))
        if folder:
            keep("report/maps", folder)
            choice = self.attempt(lambda: self.controller.pick(Path(folder)))
            if choice is not None:
                self._fill()
                self.choose(maps=choice.path)

    def _ask_outlines(self) -> None:
        if self.made is None:
            return
        start = Path(kept("report/outlines", "") or str(self.made.request.root.parent)) / "outlines.gpkg"
        name, chosen = QFileDialog.getSaveFileName(self, "Save outlines", str(start), _FORMATS)
        if name:
            path = Path(name)
            if not path.suffix:
                path = path.with_suffix(_SUFFIXES[chosen.split(" ")[0]])
            keep("report/outlines", str(path.parent))
            self.save_outlines(path)

    def _restore(self) -> None:
        self._level.setValue(kept("report/level", 950) / 10)
        self._merge.setChecked(bool(kept("report/merge", 0)))
        self._smooth.setChecked(bool(kept("report/smooth", 0)))
        self._least.setValue(kept("report/least_m2", 0) / 1e6)

    def _remember(self) -> None:
        keep_all(
            {
                "report/level": round(self._level.value() * 10),
                "report/merge": int(self._merge.isChecked()),
                "report/smooth": int(self._smooth.isChecked()),
                "report/least_m2": round(self._least.value() * 1e6),
            }
        )
