"""What a weight file of another program is of: a form, and the tensors that then find their place."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.shelf import ImportForm, ShelfController
from napari_glacier.core.errors import GlacierError
from napari_glacier.views.background import Background
from napari_glacier.views.base import hint

_USUAL = "unet"


class ImportDialog(QDialog):
    """Asks for architecture, channels and classes, tells what fits, and imports.

    Parameters
    ----------
    controller : ShelfController
    path : Path
        The weight file.
    parent : QWidget

    Attributes
    ----------
    imported : signal (Path)
        The folder of the new model.
    """

    imported = QtSignal(object)

    def __init__(self, controller: ShelfController, path: Path, parent: QWidget) -> None:
        super().__init__(parent)
        self._controller, self._path = controller, path
        self._task: Background | None = None
        self.setWindowTitle(f"Import {path.name}")
        self.resize(540, 560)
        layout = QVBoxLayout(self)
        self._outline = hint("")
        layout.addWidget(self._outline)
        layout.addLayout(self._make_form())
        self._report = hint("")
        self._report.setAlignment(Qt.AlignmentFlag.AlignTop)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setMinimumHeight(110)
        scroll.setWidget(self._report)
        layout.addWidget(scroll, 1)
        row = QHBoxLayout()
        self._check_button, self._import_button, close = (
            QPushButton("Check"),
            QPushButton("Import"),
            QPushButton("Close"),
        )
        self._check_button.setToolTip("Build the network and see which tensors find their place")
        self._import_button.setToolTip("Where every tensor fits: put the model on the dataset's shelf")
        self._check_button.clicked.connect(self.check)
        self._import_button.clicked.connect(self.bring_in)
        close.clicked.connect(self.close)
        for button in (self._check_button, self._import_button, close):
            row.addWidget(button)
        layout.addLayout(row)
        self._run(controller.look_job(path), self._on_looked)

    def _make_form(self) -> QFormLayout:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._name = QLineEdit(self._path.stem)
        self._architecture, self._encoder = QComboBox(), QLineEdit()
        self._encoder.setPlaceholderText("the architecture's own")
        self._channels = QLineEdit(self._controller.usual_channels)
        self._channels.setToolTip("What the network looked at, in its order")
        self._scheme = QComboBox()
        self._scheme.addItems(self._controller.schemes)
        self._arguments, self._renames = QLineEdit(), QLineEdit()
        self._arguments.setPlaceholderText("decoder_channels=[64, 48, 32, 16, 16]; dropout=0.1")
        self._renames.setPlaceholderText("backbone.=encoder.; head.=segmentation_head.")
        for title, field in (
            ("Name", self._name),
            ("Architecture", self._architecture),
            ("Encoder", self._encoder),
            ("Channels", self._channels),
            ("Classes", self._scheme),
            ("Arguments", self._arguments),
            ("Rename", self._renames),
        ):
            form.addRow(title, field)
        return form

    def fill(self, **values: str) -> None:
        """Set fields by their names, as `ImportForm` calls them."""
        for name, value in values.items():
            field = getattr(self, {"name": "_name", "scheme": "_scheme"}.get(name, f"_{name}"))
            if isinstance(field, QComboBox):
                field.setCurrentText(value)
            else:
                field.setText(value)

    @property
    def report(self) -> str:
        """What was last said of the fit."""
        return self._report.text()

    @property
    def running(self) -> bool:
        """Whether the file is being read."""
        return self._task is not None

    def check(self) -> None:
        """See which tensors fit."""
        self._run(self._controller.check_job(self._form()), self._on_checked)

    def bring_in(self) -> None:
        """Import the weights onto the shelf."""
        try:
            job = self._controller.import_job(self._form())
        except GlacierError as error:
            self._on_error(error)
            return
        self._run(job, self._on_imported)

    def done(self, result: int) -> None:
        """Let go of what is under way; Qt calls it however the dialog is closed."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        super().done(result)

    def _form(self) -> ImportForm:
        return ImportForm(
            path=self._path,
            name=self._name.text(),
            architecture=self._architecture.currentText(),
            encoder=self._encoder.text(),
            channels=self._channels.text(),
            scheme=self._scheme.currentText(),
            arguments=self._arguments.text(),
            renames=self._renames.text(),
        )

    def _run(self, job: Any, on_return: Any) -> None:
        def ended(result: Any) -> None:
            self._task = None
            self._show_state()
            on_return(result)

        self._task = Background(self, job, lambda step: self._report.setText(step.message), ended, self._on_error)
        self._show_state()

    def _on_looked(self, found: tuple[list[str], list[str]]) -> None:
        outline, architectures = found
        self._outline.setText("<br>".join([f"<b>{self._path.name}</b>", *outline]))
        self._architecture.addItems(architectures)
        self._architecture.setCurrentText(_USUAL)
        self._report.setText("Say what the network is, then check.")

    def _on_checked(self, fit: Any) -> None:
        said = fit.lines()
        if fit.is_whole:
            said.append("Everything fits. Values are scaled by the statistics of the open dataset.")
        self._report.setText("<br>".join(said))

    def _on_imported(self, folder: Any) -> None:
        self.imported.emit(folder)
        self.close()

    def _on_error(self, error: BaseException) -> None:
        self._task = None
        self._report.setText(f"⚠ {error}")
        self._show_state()

    def _show_state(self) -> None:
        ready = not self.running and self._architecture.count() > 0
        self._check_button.setEnabled(ready)
        self._import_button.setEnabled(ready)
