"""The tool that asks SAM 2: clicks and boxes that propose an object, or all objects of a view to choose from. No Qt."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.desk import Desk, Point
from napari_glacier.controllers.preview import DARK, Preview
from napari_glacier.controllers.prompting import Prompting
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.components import Area
from napari_glacier.core.wording import counted


class SamTool:
    """What clicks and boxes do while SAM 2 is in the hand.

    Parameters
    ----------
    desk : Desk
    preview : Preview
        Shows the outlines of all objects.
    later : callable (Future, callable) -> None
        Goes on when a thread has done something.
    propose : callable (Area) -> None
        Shows an object as a change to be taken.

    Attributes
    ----------
    objects : (Window, int32 array) or None
        Numbered objects of the view, of which clicks take one after the other.
    """

    def __init__(
        self,
        desk: Desk,
        preview: Preview,
        later: Callable[[Future[Any], Callable[[Any], None]], None],
        propose: Callable[[Area], None],
    ) -> None:
        self.objects: tuple[Window, npt.NDArray[np.int32]] | None = None
        self._desk, self._preview, self._later, self._propose = desk, preview, later, propose
        self._prompting = Prompting(desk)

    @property
    def folder(self) -> Path | None:
        """Where the weights lie; None where nobody said."""
        return self._prompting.folder

    @folder.setter
    def folder(self, folder: Path | None) -> None:
        self._prompting.folder = folder

    @property
    def model(self) -> str:
        """What strokes are noted with as their model."""
        return self._prompting.model

    def prepare(self, window: Window) -> None:
        """Begin to look at a view that rests, where there are weights."""
        if self.folder is not None:
            self._prompting.prepare(window)

    def click(self, row: int, col: int, proposed: Area | None) -> None:
        """Take the object here, where all of the view are shown; else say that it belongs to the one wanted.

        A click on what is proposed says that it does not belong.

        Raises
        ------
        DataError
            If there are no weights, or no object is here.
        """
        if self.objects is not None:
            self._take_object(self.objects, row, col)
            return
        inside = proposed is None or not proposed.holds(row, col)
        self._ask(self._prompting.point(row, col, inside=inside), self._propose)

    def box(self, vertices: Sequence[Point]) -> None:
        """Propose the object within the corners of a loop."""
        self.objects = None
        self._ask(self._prompting.box(vertices), self._propose)

    def find_objects(self) -> None:
        """Find all objects of the view; clicks then give one after the other the chosen class.

        Raises
        ------
        DataError
            If nothing of the scene is on screen, or there are no weights.
        """
        self._desk.need_writable()
        seen = self._desk.workspace.visible_window()
        if seen is None:
            raise DataError("Nothing of the dataset is on screen. Move the view over it.")
        window = self._desk.window_around(seen.row + seen.height // 2, seen.col + seen.width // 2)
        self._ask(self._prompting.everything(window), self._show_objects)

    def forget(self) -> None:
        """Begin anew with the next click."""
        self.objects = None
        self._prompting.forget()

    def close(self) -> None:
        """End the thread."""
        self.forget()
        self._prompting.close()

    def _ask(self, answer: Future[Any], go_on: Callable[[Any], None]) -> None:
        self._desk.tell("SAM 2 is looking at the view…")
        self._later(answer, go_on)

    def _show_objects(self, found: tuple[Window, npt.NDArray[np.int32]]) -> None:
        window, label_HW = found
        number = len(np.unique(label_HW[label_HW > 0]))
        if not number:
            raise DataError("SAM 2 is sure of no object in this view. Click one, or look from nearer.")
        self.objects = found
        self._preview.show(window, np.full(label_HW.shape, DARK, np.uint8), _outlines(label_HW))
        self._desk.tell(f"{counted(number, 'object')} found: a click gives one the chosen class. Escape ends it.")

    def _take_object(self, objects: tuple[Window, npt.NDArray[np.int32]], row: int, col: int) -> None:
        window, label_HW = objects
        here = label_HW[row - window.row, col - window.col] if window.holds(row, col) else 0
        if not here:
            raise DataError("SAM 2 found no object here. Escape, then click it.")
        area = Area(window, label_HW == here).trimmed()
        self._desk.write(toolbox.SAM, area, self._desk.chosen_class, self.model)


def _outlines(label_HW: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Pixels that differ from the one to the right or below."""
    edge_HW = np.zeros(label_HW.shape, bool)
    edge_HW[:-1] |= label_HW[:-1] != label_HW[1:]
    edge_HW[:, :-1] |= label_HW[:, :-1] != label_HW[:, 1:]
    return edge_HW
