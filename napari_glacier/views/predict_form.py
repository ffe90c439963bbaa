"""The form of a prediction: with which model, of what, and how; and what of it comes back the next time."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QFormLayout, QHBoxLayout

from napari_glacier.controllers.inference import InferenceController, Scope, Tta
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.core.errors import GlacierError
from napari_glacier.views.base import hint
from napari_glacier.views.pieces import ShrinkingBox, browse_button, label_of
from napari_glacier.views.settings import keep, keep_of, kept, kept_of, of_dataset

_SCOPES: tuple[tuple[Scope, str], ...] = (
    ("view", "What is on screen"),
    ("tile", "The tile in the middle"),
    ("all", "Everything"),
)
_TTA: tuple[tuple[Tta, str], ...] = (
    ("own", "as the model says"),
    ("off", "off"),
    (2, "2 views"),
    (6, "6 views"),
    (8, "8 views"),
)
# With a dataset: the model used last, and the one that was promoted then.
_MODEL = "predict_model"


class PredictForm(QFormLayout):
    """Model, part, views, device, and whether probabilities are kept.

    A choice is kept as it is made. The model belongs to the dataset; where none was chosen for it, the one used last
    on any is proposed, unless one was promoted. One promoted since comes before both.

    Parameters
    ----------
    controller : InferenceController
    """

    browsed = QtSignal(object)

    def __init__(self, controller: InferenceController) -> None:
        super().__init__()
        self._controller = controller
        self._usual: Path | None = None
        self.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        row = QHBoxLayout()
        row.setSpacing(4)
        self.models = ShrinkingBox(12)
        self.models.currentIndexChanged.connect(self._show_note)
        self.models.activated.connect(lambda _: self.remember_model())
        browse = browse_button("Choose a checkpoint (.safetensors), an ensemble.yaml or a run folder")
        browse.clicked.connect(self._browse)
        row.addWidget(self.models, 1)
        row.addWidget(browse)
        self.addRow(label_of("Model", self.models), row)
        self._note = hint("")
        self.addRow(self._note)
        self._scope, self._tta, self._device, self._keep = QComboBox(), QComboBox(), QComboBox(), QCheckBox()
        self._scope.addItems([title for _, title in _SCOPES])
        self.addRow("Predict", self._scope)
        self._tta.addItems([title for _, title in _TTA])
        self._tta.setToolTip(
            "Test-time augmentation: the mean over turned and mirrored views; slower, smoother.\nWhere a model says "
            "nothing of it, it is off here; napari-glacier predict takes 6 views then."
        )
        self.addRow("TTA", self._tta)
        self._device.setEditable(True)
        self._device.addItems(["auto", "cpu", "cuda", "mps"])
        self._device.setToolTip("auto takes a GPU where there is one; cuda:1 means the second")
        self.addRow("Device", self._device)
        self._keep.setText("Keep probabilities")
        self._keep.setToolTip(
            "Also write the probability of each class: the Report widget then gives areas with intervals.\n"
            "Takes up to 4 bytes of disk for each pixel and class"
        )
        self.addRow("", self._keep)
        self._restore()
        for box in (self._scope, self._tta, self._device):
            box.activated.connect(lambda _: self.remember())
        self._keep.clicked.connect(lambda _: self.remember())

    @property
    def model(self) -> ModelChoice | None:
        """The model that is chosen."""
        choice = self.models.currentData()
        return choice if isinstance(choice, ModelChoice) else None

    @property
    def scope(self) -> Scope:
        """What is to be predicted."""
        return _SCOPES[self._scope.currentIndex()][0]

    @property
    def tta(self) -> Tta:
        """Over how many views the mean is taken."""
        return _TTA[self._tta.currentIndex()][0]

    @property
    def device(self) -> str:
        """Where the model is to run."""
        return self._device.currentText().strip()

    @property
    def keeps_probabilities(self) -> bool:
        """Whether probabilities are written, too."""
        return self._keep.isChecked()

    def choose(
        self,
        *,
        scope: Scope | None = None,
        tta: Any = None,
        device: str | None = None,
        keep_probabilities: bool | None = None,
    ) -> None:
        """Set choices, for this time."""
        if scope is not None:
            self._scope.setCurrentIndex([name for name, _ in _SCOPES].index(scope))
        if tta is not None:
            self._tta.setCurrentIndex([value for value, _ in _TTA].index(tta))
        if device is not None:
            self._device.setCurrentText(device)
        if keep_probabilities is not None:
            self._keep.setChecked(keep_probabilities)

    def select(self, source: Path | None) -> None:
        """Choose a model of the list; None is the bundled ensemble."""
        for number in range(self.models.count()):
            if self.models.itemData(number).source == source:
                self.models.setCurrentIndex(number)
                return

    def fill(self) -> None:
        """List the models that there are by now; what was chosen stays, unless another was promoted."""
        chosen = self.model
        self.models.blockSignals(True)
        self.models.clear()
        for choice in self._controller.models():
            self.models.addItem(choice.title, choice)
            told = str(choice.source or choice.note)
            self.models.setItemData(self.models.count() - 1, told, Qt.ItemDataRole.ToolTipRole)
        self.models.blockSignals(False)
        usual = self._controller.usual
        if usual != self._usual:
            # What was promoted (or came back by a rollback) is what the dataset works with from now on.
            self._usual = usual
            self.select(usual)
        elif chosen is not None:
            self.select(chosen.source)
        self._show_note()

    def take_dataset(self) -> None:
        """Choose the model that was used last on the open dataset, if it is still there."""
        root = self._root
        own = kept_of(of_dataset(root, _MODEL)) if root is not None else None
        usual = str(self._controller.usual or "")
        if isinstance(own, dict) and own.get("usual") == usual:
            path = str(own.get("model", ""))
        elif usual:
            return
        else:
            path = kept("predict/model", "")
        if not path:
            self.select(None)
        elif Path(path).exists():
            try:
                choice = self._controller.add_model(Path(path))
            except GlacierError:
                return
            self.select(choice.source)

    def remember_model(self) -> None:
        """Keep the model that is chosen: with the dataset, and as the one used last."""
        path = str(self.model.source or "") if self.model is not None else ""
        keep("predict/model", path)
        if self._root is not None:
            keep_of(of_dataset(self._root, _MODEL), {"model": path, "usual": str(self._controller.usual or "")})

    def remember(self) -> None:
        """Keep the other choices."""
        keep("predict/scope", self._scope.currentIndex())
        keep("predict/views", self._tta.currentIndex())
        keep("predict/device", self.device)
        keep("predict/probabilities", int(self._keep.isChecked()))

    @property
    def _root(self) -> Path | None:
        session = self._controller.workspace.session
        return session.root if session is not None else None

    def _restore(self) -> None:
        self._scope.setCurrentIndex(max(0, min(kept("predict/scope", 0), len(_SCOPES) - 1)))
        self._tta.setCurrentIndex(max(0, min(kept("predict/views", 0), len(_TTA) - 1)))
        self._device.setCurrentText(kept("predict/device", "auto"))
        self._keep.setChecked(bool(kept("predict/probabilities", 0)))

    def _show_note(self, *_: Any) -> None:
        choice = self.model
        self._note.setText(
            "Train a model, or choose a checkpoint with the … button." if choice is None else choice.note
        )
        self._note.setVisible(bool(self._note.text()))

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self.parentWidget(), "Choose a model", kept("predict/folder", ""), "Models (*.safetensors *.yaml *.pth)"
        )
        if path:
            keep("predict/folder", str(Path(path).parent))
            self.browsed.emit(Path(path))
