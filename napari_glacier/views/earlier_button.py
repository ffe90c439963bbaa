"""A button that opens the list of predictions which are on disk already."""

from datetime import datetime
from pathlib import Path

from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton

from napari_glacier.controllers.inference import InferenceController
from napari_glacier.views.pieces import literal


class EarlierButton(QPushButton):
    """Offers the predictions in the open dataset's folder, the newest first, and those of any other folder.

    Parameters
    ----------
    controller : InferenceController

    Signals
    -------
    chosen(Path) : the folder
    """

    chosen = QtSignal(object)

    def __init__(self, controller: InferenceController) -> None:
        super().__init__("Show an earlier prediction")
        self._controller = controller
        self.setToolTip(
            "Lay a map over the scene that is on disk already: of an earlier sitting, or of napari-glacier predict"
        )
        self.list = QMenu(self)
        self.list.setToolTipsVisible(True)
        self.list.aboutToShow.connect(self._fill)
        self.setMenu(self.list)

    def _fill(self) -> None:
        self.list.clear()
        for folder, time in self._controller.earlier():
            made = datetime.fromtimestamp(time).strftime("%d %b %Y, %H:%M")
            action = self.list.addAction(literal(f"{folder.name}, {made}"))
            action.setToolTip(str(folder))
            action.triggered.connect(lambda _=False, folder=folder: self.chosen.emit(folder))
        self.list.addSeparator()
        self.list.addAction("From a folder…", self._browse)

    def _browse(self) -> None:
        session = self._controller.workspace.session
        beside = str(session.root) if session is not None else ""
        folder = QFileDialog.getExistingDirectory(self, "A folder that was predicted to", beside)
        if folder:
            self.chosen.emit(Path(folder))
