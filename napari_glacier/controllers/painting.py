"""Drawing the pixels of a Labels layer that changed, and not the whole scene. No Qt."""

from typing import Any

from napari_glacier.controllers.session import Session
from napari_glacier.core.correction.strokes import Stroke
from napari_glacier.core.tiling import Window


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
