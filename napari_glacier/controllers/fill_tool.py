"""Smart fill: a click proposes the connected pixels that are like the one clicked. No Qt."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.desk import Desk
from napari_glacier.controllers.region_tools import Options
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools import growing
from napari_glacier.core.tools.components import Area
from napari_glacier.core.tools.evidence import Evidence, FloatArray


class FillTool:
    """What clicks do while Smart fill is in the hand.

    Parameters
    ----------
    desk : Desk
    options : Options
        Its tolerance says how far a fill goes.
    later : callable (Future, callable) -> None
        Goes on when a thread has done something.
    propose : callable (str, Area, uint8 array) -> None
        Shows a change to be taken.
    """

    def __init__(
        self,
        desk: Desk,
        options: Options,
        later: Callable[[Future[Any], Callable[[Any], None]], None],
        propose: Callable[[str, Area, npt.NDArray[np.uint8]], None],
    ) -> None:
        self._desk, self._options, self._later, self._propose = desk, options, later, propose
        # The pixel clicked, and how far all others of the window are from it in their values.
        self._seed: tuple[int, int, Window, FloatArray] | None = None

    def click(self, row: int, col: int) -> None:
        """Propose what is like this pixel.

        Raises
        ------
        DataError
            If it carries no data.
        """
        window = self._desk.window_around(row, col)
        at = row - window.row, col - window.col

        def plant(evidence: Evidence) -> None:
            if not evidence.valid_HW[at]:
                raise DataError("There are no data at this pixel.")
            self._seed = row, col, window, growing.likeness(evidence, *at)
            self.regrow()

        read = self._desk.source.prepare(window)
        if read.done():
            plant(read.result())
        else:
            self._later(read, plant)

    def regrow(self) -> None:
        """Propose it with the tolerance and the class as they are now; nothing where no pixel was clicked."""
        if self._seed is None:
            return
        row, col, window, distance_HW = self._seed
        grown_HW = growing.grow(distance_HW, row - window.row, col - window.col, self._options.tolerance)
        index_HW = np.full(grown_HW.shape, self._desk.chosen_class, np.uint8)
        self._propose(toolbox.SMART_FILL, Area(window, grown_HW), index_HW)

    def forget(self) -> None:
        """Begin anew with the next click."""
        self._seed = None
