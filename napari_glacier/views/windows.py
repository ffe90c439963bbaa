"""What the plugin does for a whole window, whether or not one of its widgets is open."""

from typing import Any

from qtpy.QtWidgets import QWidget

from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.views.closing import ClosingQuestion
from napari_glacier.views.last_time import LastTime
from napari_glacier.views.looks import Looks
from napari_glacier.views.window_bound import SpareTime, free_in_own_context, spare_layer_list


def look_after(viewer: Any) -> LastTime | None:
    """Ask before a viewer's window is closed with unsaved strokes; keep the looks of its layers, and what is open.

    Once set, it stays as long as the window. Gives what knows the widgets of the last time.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
        One without a window is passed over.
    """
    # Plugins get the viewer in a proxy that warns of what has no public name; the window has none.
    viewer = getattr(viewer, "__wrapped__", viewer)
    window = getattr(getattr(viewer, "window", None), "_qt_window", None)
    if not isinstance(window, QWidget):
        return None
    known = window.findChild(LastTime)
    if isinstance(known, LastTime):
        return known
    free_in_own_context(viewer)
    spare_layer_list(viewer)
    workspace_of(viewer).opening.spare_time = SpareTime(window, viewer)
    ClosingQuestion(window, viewer)
    Looks(window, viewer)
    return LastTime(window, viewer)
