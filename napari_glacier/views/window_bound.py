"""What goes with a whole window rather than with one of its widgets."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEventLoop, QObject, Qt, QTimer
from qtpy.QtWidgets import QApplication, QWidget

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


class SpareTime(WindowBound):
    """The window's time between what a person does in it."""

    # Between two steps the window paints and answers.
    _PAUSE_MS = 20

    @property
    def is_there(self) -> bool:
        """Whether the window is on screen, so that its events are served."""
        return self.window.isVisible()

    def paint(self) -> None:
        """Paint what is new; clicks and keys wait."""
        QApplication.processEvents(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)

    def spend_on(self, step: Callable[[], bool]) -> None:
        """Call `step` again and again, never while a mouse button is held, until it gives False."""

        def go_on() -> None:
            if self.workspace is None:
                return
            drawing = QApplication.mouseButtons() != Qt.MouseButton.NoButton
            if drawing or step():
                QTimer.singleShot(self._PAUSE_MS, self, go_on)
            else:
                # Python goes through all that opening has made, a quarter of a second: better now than in a stroke.
                gc.collect()

        QTimer.singleShot(self._PAUSE_MS, self, go_on)


def free_in_own_context(viewer: Any) -> None:
    """Let what a layer leaves behind on the graphics card be freed there, not in whatever OpenGL context is current.

    napari 0.9 frees the buffers and textures of a layer that was taken away at once, outside painting, where Qt's own
    context for the window is current: the canvas then draws with what is gone, and the process ends.
    """
    # All three are napari's own affair: where one is missing the window does without.
    canvas = getattr(getattr(getattr(viewer.window, "_qt_viewer", None), "canvas", None), "_scene_canvas", None)
    if canvas is None:
        return
    finish = canvas.context.finish

    def finish_here() -> None:
        canvas.set_current()
        finish()

    canvas.context.finish = finish_here


# What a layer's row in napari's list shows of it.
_SHOWN_IN_LIST = frozenset(("thumbnail", "name", "visible", "loaded", "locked"))


def spare_layer_list(viewer: Any) -> None:
    """Let napari's list of layers hear of a layer what its row shows, and nothing else.

    It lays all rows out anew and paints them, in Python, whatever it hears of any layer: also at every step of a
    brush, and while the view moves.
    """
    # The list is napari's own affair, as above.
    view = getattr(getattr(viewer.window, "_qt_viewer", None), "layers", None)
    source = getattr(view.model(), "sourceModel", None) if view is not None else None
    hear = getattr(source(), "_process_event", None) if source is not None else None
    if hear is None:
        return
    heard = weakref.WeakMethod(hear)

    def hear_what_is_shown(event: Any) -> None:
        hear = heard() if event.type in _SHOWN_IN_LIST else None
        if hear is not None:
            hear(event)

    viewer.layers.events.disconnect(hear)
    viewer.layers.events.connect(hear_what_is_shown)
