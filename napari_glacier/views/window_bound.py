"""What goes with a whole window rather than with one of its widgets."""

import weakref
from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QWidget

from napari_glacier.controllers.workspace import Workspace, workspace_of


class WindowBound(QObject):
    """Lives as long as a window, and lets its viewer go before.

    Parameters
    ----------
    window : QWidget
    viewer : napari.Viewer or napari.components.ViewerModel
    """

    def __init__(self, window: QWidget, viewer: Any) -> None:
        super().__init__(window)
        self._viewer = weakref.ref(viewer)

    @property
    def window(self) -> QWidget:
        """The window itself."""
        window = self.parent()
        assert isinstance(window, QWidget)
        return window

    @property
    def workspace(self) -> Workspace | None:
        """What is open in the window; None once its viewer is gone."""
        viewer = self._viewer()
        return workspace_of(viewer) if viewer is not None else None
