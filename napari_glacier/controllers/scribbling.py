"""Scribbles on a sheet of class indices: drawing one, and solving what lies between them. No Qt."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.desk import Point
from napari_glacier.core.tools import scribbles
from napari_glacier.core.tools.components import Area
from napari_glacier.core.tools.evidence import Evidence
from napari_glacier.core.tools.superpixels import Superpixels

SCRIBBLE_PX = 5


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
