"""Changing pixels of a Labels layer so that it draws these alone and not the whole scene. No Qt."""

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.session import Session
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.strokes import Stroke
from napari_glacier.core.tiling import Window

# No stroke has this id: so many pixels are sooner written as an array and drawn by `draw`.
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


def draw(layer: Any, window: Window, plane: int = 0) -> None:
    """Draw a window of a Labels layer as its data are now.

    A refresh, napari's public way, copies the whole scene and sends it to the graphics card: a quarter of a second
    for 8192 x 8192 pixels. What napari keeps of the data on screen is brought up to date here instead, as its own
    brush does. Where a person looks at the data from elsewhere (three dimensions, other axes) it is a refresh.

    Parameters
    ----------
    layer : napari.layers.Labels
    window : Window
    plane : int
        Scene of a stack; 0 where there is none. Nothing is drawn where another one is on screen.
    """
    if not layer.visible or window.height <= 0 or window.width <= 0:
        # An invisible layer is drawn when it is shown again.
        return
    kept, where = layer._slice.image, window.slices
    lead = (plane,) if layer.ndim == 3 else ()
    as_stored = list(layer._slice_input.displayed) == [layer.ndim - 2, layer.ndim - 1]
    if not layer.loaded or not as_stored or kept.raw.shape != layer.data.shape[-2:]:
        layer.refresh(extent=False)
        return
    if lead and round(float(layer._slice_input.world_slice.point[0])) != plane:
        return
    kept.raw[where] = layer.data[(*lead, *where)]
    kept.view[where] = layer._raw_to_displayed(kept.raw, where)
    layer.events.labels_update(data=kept.view[where], offset=[window.row, window.col])


def draw_stroke(session: Session, layer: Any, stroke: Stroke) -> None:
    """Draw the patches of a stroke that lie in the scene on screen."""
    for patch in stroke.patches:
        if patch.tile_id not in session.tile_ids:
            continue
        number, place = session.find(patch.tile_id)
        if session.stacked or number == session.scene_number:
            window = Window(place.row + patch.row, place.col + patch.col, *patch.before_HW.shape)
            draw(layer, window, number if session.stacked else 0)


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
