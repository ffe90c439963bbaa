"""Smart scribble: strokes of two classes or more propose what lies between them. No Qt."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.desk import Desk, Point
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools import scribbles
from napari_glacier.core.tools.components import Area
from napari_glacier.core.tools.evidence import Evidence
from napari_glacier.core.tools.superpixels import Superpixels

SCRIBBLE_PX = 5


class ScribbleTool:
    """What strokes do while Smart scribble is in the hand.

    Parameters
    ----------
    desk : Desk
    later : callable (Future, callable) -> None
        Goes on when a thread has done something.
    propose : callable (str, Area, uint8 array) -> None
        Shows a change to be taken; one of no tool is only shown.
    """

    def __init__(
        self,
        desk: Desk,
        later: Callable[[Future[Any], Callable[[Any], None]], None],
        propose: Callable[[str, Area, npt.NDArray[np.uint8]], None],
    ) -> None:
        self._desk, self._later, self._propose = desk, later, propose
        self._marks: tuple[Window, npt.NDArray[np.uint8]] | None = None

    @property
    def begun(self) -> bool:
        """Whether something was scribbled that is neither taken nor dropped."""
        return self._marks is not None

    def begin(self, row: float, col: float) -> None:
        """A scribble begins here: what does not depend on where it goes is started on.

        Raises
        ------
        DataError
            If this is outside the scene.
        """
        self._desk.source.begin_superpixels(self._marks_around(*self._desk.pixel(row, col))[0])

    def draw(self, path: Sequence[Point]) -> None:
        """Scribble with the chosen class; as soon as there are two classes, what lies between is proposed.

        Raises
        ------
        DataError
            If the scribble begins outside the scene.
        """
        source = self._desk.source
        window, marks_HW = self._marks_around(*self._desk.pixel(*path[0]))
        draw_path(marks_HW, [(row - window.row, col - window.col) for row, col in path], self._desk.chosen_class)
        drawn, (evidence, cut) = marks_HW.copy(), source.begin_superpixels(window)
        if np.unique(drawn).size > 2:
            self._later(source.submit(lambda: solved(evidence.result(), cut.result(), drawn)), self._show)
        else:
            self._show((Area(window, drawn != scribbles.UNMARKED), None))

    def forget(self) -> None:
        """Begin anew with the next scribble."""
        self._marks = None

    def _show(self, solution: tuple[Area, npt.NDArray[np.uint8] | None]) -> None:
        area, index_HW = solution
        if index_HW is not None:
            self._propose(toolbox.SCRIBBLE, area, index_HW)
        elif self._marks is not None:
            self._propose("", area, self._marks[1])
            self._desk.tell("Now scribble over another class (Alt+number chooses it).")

    def _marks_around(self, row: int, col: int) -> tuple[Window, npt.NDArray[np.uint8]]:
        """The scribbles so far, as long as one draws where they were begun; else a clean sheet."""
        if self._marks is None or not self._marks[0].holds(row, col):
            window = self._desk.window_around(row, col)
            self._marks = window, np.full((window.height, window.width), scribbles.UNMARKED, np.uint8)
        return self._marks


def solved(
    evidence: Evidence, cut: Superpixels, marks_HW: npt.NDArray[np.uint8]
) -> tuple[Area, npt.NDArray[np.uint8] | None]:
    """The solution of scribbles and where it says something; no solution where they lie on data of one class only."""
    drawn_HW = marks_HW != scribbles.UNMARKED
    if np.unique(marks_HW[drawn_HW & evidence.valid_HW]).size < 2:
        return Area(evidence.window, drawn_HW), None
    within_HW = scribbles.reach_of(marks_HW, SCRIBBLE_PX)
    index_HW, _ = scribbles.solve_scribbles(evidence, marks_HW, cut, within_HW)
    return Area(evidence.window, (index_HW != scribbles.UNMARKED) & within_HW), index_HW


def draw_path(marks_HW: npt.NDArray[np.uint8], path: Sequence[Point], label: int, wide_px: int = SCRIBBLE_PX) -> None:
    """Draw a line through points, as far as it lies inside."""
    import cv2

    # OpenCV counts columns first.
    points = np.round(np.asarray(path, float)[:, ::-1]).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(marks_HW, [points], False, int(label), wide_px)
    if len(points) == 1:
        cv2.circle(marks_HW, tuple(points[0, 0].tolist()), wide_px // 2, int(label), -1)
