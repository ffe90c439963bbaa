"""Tools that act at once: flip, remove, holes, erase, shape, outline, snap, accept. No Qt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.desk import Desk, Point
from napari_glacier.controllers.predicted import Predicted
from napari_glacier.core.correction.journal import NO_WORK
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools import components
from napari_glacier.core.tools import shape as shapes
from napari_glacier.core.tools.components import Area
from napari_glacier.core.tools.evidence import BoolArray, balanced
from napari_glacier.core.tools.redrawing import redraw_outline

DEFAULT_STRENGTH = 45
MAX_STRENGTH = 100
# A prediction of everything is accepted under this name: it is not the same as having looked.
ACCEPT_ALL = "accept"

_UNKNOWN = 255
_LOOK_BACK = 20
# What a drawn outline may span; more would hold up the window.
_LARGEST_LINE_PX = 2048 * 1024
# Edges are gradients over three smoothed pixels.
_EDGE_MARGIN_PX = 3


@dataclass
class Options:
    """Settings of the tools.

    Attributes
    ----------
    strength : int
        Of smart fill, 1 to `MAX_STRENGTH`.
    radius_px : int
        By how much Shape changes a patch.
    operation : str
        One of `shapes.OPERATIONS`.
    reach_px : int
        How far Snap moves an outline.
    accept_class : int or None
        Only this class of the prediction is accepted; None for all.
    confidence : float
        Only what was predicted with at least this confidence is accepted.
    """

    strength: int = DEFAULT_STRENGTH
    radius_px: int = 2
    operation: shapes.Operation = "grow"
    reach_px: int = 4
    accept_class: int | None = None
    confidence: float = 0.0

    @property
    def tolerance(self) -> float:
        """Strength in standard deviations; finer steps where it is small."""
        return 3.0 * (self.strength / MAX_STRENGTH) ** 2


class RegionTools:
    """What the tools do to a patch, to what lies inside a loop, or with a line.

    Parameters
    ----------
    desk : Desk
    options : Options
    """

    def __init__(self, desk: Desk, options: Options) -> None:
        self._desk = desk
        self._options = options

    def flip(self, area: Area) -> None:
        """Give an area the chosen class."""
        self._desk.write(toolbox.COMPONENT, area, self._desk.chosen_class)

    def erase(self, area: Area) -> None:
        """Make an area background."""
        self._desk.write(toolbox.ERASE, area, 0)

    def remove(self, area: Area) -> None:
        """Give a patch the commonest class around it."""
        wide = area.padded(1, self._desk.shape)
        around = components.surrounding_class(
            self._desk.read(wide.window), wide.where_HW, self._desk.valid(wide.window)
        )
        self._desk.write(toolbox.REMOVE, area, around)

    def fill_holes(self, area: Area, label: int) -> None:
        """Give the holes of a patch the patch's class; `DataError` where it has none."""
        holes_HW = components.holes_of(area.where_HW)
        if not holes_HW.any():
            raise DataError("This patch has no holes.")
        self._desk.write(toolbox.HOLES, Area(area.window, holes_HW), label)

    def reshape(self, area: Area, label: int) -> None:
        """Change an area of a class as `shapes.reshape` does; what it gives up goes to its neighbours."""
        operation, radius_px = self._options.operation, self._options.radius_px
        # Votes on pixels that are gained reach twice as far.
        wide = self._desk.padded(area, 2 * radius_px + 1)
        valid_HW = self._desk.valid(wide.window)
        class_HW = (self._desk.read(wide.window) == label) & valid_HW
        after_HW = shapes.reshape(wide.where_HW, operation, radius_px, class_HW, valid_HW)
        self._exchange(toolbox.SHAPE, wide, after_HW, label)

    def reshape_inside(self, area: Area) -> None:
        """The same for the chosen class inside a loop; `DataError` where it does not occur."""
        label = self._desk.chosen_class
        inside_HW = area.where_HW & (self._desk.read(area.window) == label)
        if not inside_HW.any():
            raise DataError("The chosen class does not occur inside the loop. Choose the class to be shaped.")
        self.reshape(Area(area.window, inside_HW), label)

    def redraw(self, line: Sequence[Point]) -> int:
        """Let the chosen class end at a line (`core.tools.redrawing`); gives the number of pixels that changed.

        What the class gives up goes to its neighbours.

        Raises
        ------
        DataError
            If the line lies outside the scene, is too long, or encloses nothing.
        """
        label, height, width = self._desk.chosen_class, *self._desk.shape
        if not any(0 <= round(row) < height and 0 <= round(col) < width for row, col in line):
            raise DataError("This is outside the scene.")
        spans = [round(float(k)) + 1 for k in np.ptp(line, axis=0)]
        if spans[0] * spans[1] > _LARGEST_LINE_PX:
            raise DataError(f"This line spans {spans[0]:,} x {spans[1]:,} pixels. Draw it in parts.")
        changed = Area(Window(0, 0, 0, 0), np.zeros((0, 0), bool))
        if len(line) > 1:
            window, before_HW, after_HW = redraw_outline(
                lambda part: self._desk.read(part) == label, self._desk.shape, line
            )
            changed = Area(window, (before_HW ^ after_HW) & self._desk.valid(window)).trimmed()
        if not changed.num_px:
            raise DataError(
                "This line encloses nothing near by, between itself and the outline of "
                f"{self._desk.session.scheme.class_names[label]}. Draw from that outline and back to it, or choose "
                "the class whose outline is wrong."
            )
        wide = changed.padded(1, self._desk.shape)
        before_HW = self._desk.read(wide.window) == label
        return self._exchange(toolbox.OUTLINE, Area(wide.window, before_HW), before_HW ^ wide.where_HW, label)

    def snap(self, area: Area, label: int, before_HW: npt.NDArray[np.uint8] | None = None) -> int:
        """Move the outline of a patch to the strongest edge within reach; gives the number of pixels that changed.

        Parameters
        ----------
        area : Area
        label : int
            The patch's class.
        before_HW : uint8 array, optional
            What the patch gives up becomes this again; its neighbours' class where it is not given.
        """
        wide = self._desk.padded(area, self._options.reach_px + _EDGE_MARGIN_PX)
        evidence = self._desk.source.evidence(wide.window)
        after_HW = shapes.snap_boundary(wide.where_HW, evidence.edges, self._options.reach_px, evidence.valid_HW)
        given_back_HW = None
        if before_HW is not None:
            given_back_HW = self._desk.read(wide.window)
            given_back_HW[wide.where_HW] = before_HW[area.where_HW]
        return self._exchange(toolbox.SNAP, wide, after_HW, label, given_back_HW)

    def snap_last_stroke(self) -> int:
        """Snap what was drawn last; `DataError` where nothing was drawn in the scene on screen, or shows no longer."""
        journal = self._desk.session.journal
        self._desk.session.mask.commit()
        for info in journal.history(_LOOK_BACK):
            if info.unsaved and info.tool not in NO_WORK:
                parts = self._desk.session.drawn_at_once.get(info.id, (info.id,))
                drawn = self._desk.drawn([journal.stroke(part) for part in parts])
                if drawn is not None:
                    return self.snap(*drawn)
        raise DataError("Nothing was drawn in this scene that could be snapped. Draw a region first.")

    def accept_at(self, row: int, col: int) -> int:
        """Accept the prediction's patch at a pixel; `DataError` where nothing was predicted."""
        predicted = self._desk.prediction()
        if not predicted.known(Window(row, col, 1, 1))[0, 0]:
            raise DataError("Nothing was predicted at this pixel. Predict the visible area first.")
        return self.accept(components.component_at(_unknown_apart(predicted), self._desk.shape, row, col))

    def accept(self, area: Area, tool: str = toolbox.ACCEPT, *, whatever: bool = False) -> int:
        """Take the prediction of an area over into the labels; gives the number of pixels that changed.

        Parameters
        ----------
        area : Area
        tool : str
        whatever : bool
            Whatever the class and the confidence, not only those that were chosen.

        Raises
        ------
        DataError
            If there is no prediction, or nothing of it qualifies.
        """
        predicted = self._desk.prediction()
        index_HW = predicted.index(area.window)
        where_HW = area.where_HW & predicted.known(area.window)
        if not whatever:
            where_HW &= self._qualifies(predicted, area.window, index_HW)
        if not where_HW.any():
            raise DataError("Nothing of the prediction there has the class and the confidence chosen.")
        return self._desk.write(tool, Area(area.window, where_HW), index_HW, predicted.model)

    def balance(self, area: Area) -> int:
        """Let the class and the probability chosen decide an area; gives the number of pixels that changed.

        Pixels become of the class where that has at least the probability, and of the likeliest other class elsewhere.
        What somebody drew or found right stays. As accepting everything at once, it is not looking.

        Raises
        ------
        DataError
            If there is no prediction, no class or probability is chosen, or all of the area was worked on.
        """
        predicted = self._desk.prediction()
        label, least = self._options.accept_class, self._options.confidence
        if label is None or least <= 0:
            raise DataError("Balancing needs a class, and from which probability on it is taken. Choose both first.")
        probability_KHW = predicted.probability(area.window, self._desk.session.scheme.num_classes)
        where_HW = area.where_HW & predicted.known(area.window) & ~self._desk.touched(area.window)
        if not where_HW.any():
            raise DataError("Nothing was predicted there that is not drawn or found right already.")
        index_HW = balanced(probability_KHW, label, least)
        return self._desk.write(ACCEPT_ALL, Area(area.window, where_HW), index_HW, predicted.model)

    def _qualifies(self, predicted: Predicted, window: Window, index_HW: npt.NDArray[np.uint8]) -> BoolArray:
        where_HW = np.ones(index_HW.shape, bool)
        if self._options.accept_class is not None:
            where_HW &= index_HW == self._options.accept_class
        if self._options.confidence > 0:
            where_HW &= predicted.confidence(window) >= self._options.confidence
        return where_HW

    def _exchange(
        self,
        tool: str,
        area: Area,
        after_HW: BoolArray,
        label: int,
        given_back_HW: npt.NDArray[np.uint8] | None = None,
    ) -> int:
        """Let an area take its new form; what it gives up goes to its neighbours, or back to what it was."""
        lost_HW = area.where_HW & ~after_HW
        index_HW = np.full(after_HW.shape, label, np.uint8)
        if lost_HW.any():
            if given_back_HW is None:
                now_HW = self._desk.read(area.window)
                given_back_HW = components.nearest_other(now_HW, area.where_HW, self._desk.valid(area.window))
            index_HW[lost_HW] = given_back_HW[lost_HW]
        return self._desk.write(tool, Area(area.window, lost_HW | (after_HW & ~area.where_HW)), index_HW)


def _unknown_apart(predicted: Predicted) -> Callable[[Window], npt.NDArray[np.uint8]]:
    """Reads predicted classes with a value of its own where nothing was predicted."""

    def read(window: Window) -> npt.NDArray[np.uint8]:
        return np.where(predicted.known(window), predicted.index(window), np.uint8(_UNKNOWN))

    return read
