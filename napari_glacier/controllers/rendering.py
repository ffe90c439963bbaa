"""What layers look like in a window, as pixels: pictures laid one upon the other as the canvas would. No Qt.

Shapes: rgba_HW4 uint8. A stack of scenes has a leading axis N.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tiling import Window

Rgba = npt.NDArray[np.uint8]


def is_picture(layer: Any) -> bool:
    """Whether a layer hides what lies below it: an image, not classes."""
    return not hasattr(layer, "selected_label")


def step_for(screen_px: float) -> int:
    """Every how many pixels are worth drawing, a power of two, where a pixel is so wide on the screen."""
    return 1 << max(int(np.floor(np.log2(1 / screen_px))), 0) if screen_px > 0 else 1


def render(layer: Any, window: Window, step: int, plane: int | None = None) -> Rgba:
    """Colours of a layer in a window.

    Parameters
    ----------
    layer : napari.layers.Image or Labels
    window : Window
        In pixels of the layer's finest level; its first row and column are multiples of `step`.
    step : int
        Every how many rows and columns; a power of two.
    plane : int or None
        Scene of a stack; None where there is no stack.

    Returns
    -------
    uint8 array, shape (ceil(height / step), ceil(width / step), 4)
        Transparent where the layer is; its opacity is left out.
    """
    values = _values(layer, window, step, plane)
    if not is_picture(layer):
        # Classes are few: the colours of all of them are looked up, not those of each pixel.
        drawn: Rgba = _in_bytes(layer.colormap.map(np.arange(256, dtype=np.uint8)))[np.minimum(values, 255)]
        return drawn
    if layer.rgb:
        rgba: Rgba = np.full((*values.shape[:2], 4), 255, np.uint8)
        rgba[..., : values.shape[2]] = values
        return rgba
    low, high = layer.contrast_limits
    levels = (np.arange(256) / 255) ** float(layer.gamma)
    share_HW = np.nan_to_num((np.asarray(values, np.float32) - low) / max(high - low, 1e-12))
    shades: Rgba = _in_bytes(layer.colormap.map(levels))[np.clip(np.round(255 * share_HW), 0, 255).astype(np.intp)]
    return shades


def laid_over(pictures: Sequence[tuple[Rgba, float]]) -> Rgba:
    """Pictures with their opacities, the lowest first, as one on black; transparent where none of them shows."""
    mixed = np.zeros((*pictures[0][0].shape[:2], 3), np.float32)
    covered_HW = np.zeros(mixed.shape[:2], bool)
    for rgba_HW4, opacity in pictures:
        share_HW1 = rgba_HW4[..., 3:].astype(np.float32) * np.float32(opacity / 255)
        mixed += share_HW1 * (rgba_HW4[..., :3] - mixed)
        covered_HW |= share_HW1[..., 0] > 0
    one: Rgba = np.empty((*mixed.shape[:2], 4), np.uint8)
    one[..., :3] = np.round(mixed)
    one[..., 3] = np.where(covered_HW, 255, 0)
    return one


def _in_bytes(colors: Any) -> Rgba:
    return np.round(255 * np.asarray(colors, np.float32)).astype(np.uint8)


def _values(layer: Any, window: Window, step: int, plane: int | None) -> npt.NDArray[Any]:
    data, factor = layer.data, 1
    if layer.multiscale:
        factors = [round(float(pair[0])) for pair in layer.downsample_factors]
        # The coarsest level that is fine enough.
        level = max(k for k, one in enumerate(factors) if one <= step)
        data, factor = layer.data[level], factors[level]
    lead = () if plane is None else (plane,)
    rows, cols = (
        slice(first // factor, -(-(first + length) // factor), max(step // factor, 1))
        for first, length in ((window.row, window.height), (window.col, window.width))
    )
    return np.asarray(data[(*lead, rows, cols)])
