"""Changing a few pixels through the Labels layer, which then draws these alone and not the whole scene. No Qt."""

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.session import Session
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.strokes import Stroke
from napari_glacier.core.tiling import Window

# No stroke has this id: so many pixels are sooner written as an array and drawn with the whole scene.
TOO_LARGE = -1
_MOST_PX = 100_000

_Points = tuple[npt.NDArray[np.intp], ...]


def paint_window(
    mask: EditableMask,
    layer: Any,
    window: Window,
    *,
    index: Any,
    where: Any,
    tool: str,
    model: str | None,
    plane: int,
) -> int | None:
    """Give pixels of a window other classes as one stroke.

    Parameters
    ----------
    mask : EditableMask
    layer : napari.layers.Labels or None
        Whose data the mask is.
    window : Window
    index, where : array and bool array of the window's shape
    tool, model : see `EditableMask.commit`
    plane : int
        Scene of a stack; 0 where there is none.

    Returns
    -------
    int or None
        The stroke's id; None where nothing changed; `TOO_LARGE` where nothing was done.
    """
    lead = (plane,) if mask.ndim == 3 else ()
    differs_HW = where & (mask[(*lead, *window.slices)] != index)
    rows, cols = np.nonzero(differs_HW)
    if not _drawable(layer, rows.size):
        return TOO_LARGE
    values = np.broadcast_to(index, differs_HW.shape)[rows, cols]
    points = (*(np.full(rows.size, number) for number in lead), rows + window.row, cols + window.col)
    return _paint(mask, layer, points, values, tool=tool, model=model)


def paint_back(session: Session, layer: Any, stroke: Stroke, tool: str) -> int | None:
    """Give pixels of the scene on screen that still show a stroke what they were before it.

    Returns
    -------
    int or None
        Id of the new stroke, of the same group; None where nothing changed; `TOO_LARGE` where nothing was done.
    """
    mask = session.mask
    mask.commit()
    if not _drawable(layer, sum(patch.before_HW.size for patch in stroke.patches)):
        return TOO_LARGE
    axes: list[list[npt.NDArray[np.intp]]] = [[] for _ in range(mask.ndim)]
    values = []
    known = set(session.tile_ids)
    for patch in stroke.patches:
        if patch.tile_id not in known:
            continue
        number, place = session.find(patch.tile_id)
        if not session.stacked and number != session.scene_number:
            continue
        lead = (number,) if session.stacked else ()
        top, left = place.row + patch.row, place.col + patch.col
        height, width = patch.before_HW.shape
        now_HW = mask[(*lead, slice(top, top + height), slice(left, left + width))]
        rows, cols = np.nonzero(patch.edited & (now_HW == patch.after_HW))
        for axis, part in zip(axes, (*(np.full(rows.size, one) for one in lead), rows + top, cols + left), strict=True):
            axis.append(part)
        values.append(patch.before_HW[rows, cols])
    if not values or not sum(part.size for part in values):
        return None
    points = tuple(np.concatenate(axis) for axis in axes)
    return _paint(mask, layer, points, np.concatenate(values), tool=tool, group=stroke.group)


def _drawable(layer: Any, num_pixels: int) -> bool:
    return layer is not None and layer.visible and num_pixels <= _MOST_PX


def _paint(
    mask: EditableMask,
    layer: Any,
    points: _Points,
    values: Any,
    *,
    tool: str,
    model: str | None = None,
    group: str | None = None,
) -> int | None:
    mask.commit()
    if not values.size:
        return None
    with layer.block_history():
        layer.data_setitem(points, values)
        # Before the layer tells that it was painted on: the stroke is this tool's.
        stroke_id = mask.commit(tool, model=model, group=group)
    return stroke_id
