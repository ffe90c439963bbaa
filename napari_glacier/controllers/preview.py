"""A change that is proposed but not made, drawn over the labels. No Qt."""

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.layers import KEY, world_placement
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import BoolArray

# Label values of the outline and of pixels without a proposal; classes count from 0 and are far fewer.
NONE, DARK, LIGHT = 255, 254, 253
_OPACITY = 0.65
_DASH_PX = 3
_NOTHING = np.full((1, 1), NONE, np.uint8)


class Preview:
    """Draws classes of some pixels with a dashed dark-and-light outline, which shows on snow, rock and any class.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._layer: Any = None
        self._shown = False
        # The labels that the layer was made for: other scenes lie elsewhere.
        self._labels: Any = None

    @property
    def layer(self) -> Any:
        """The layer drawn, or None."""
        return self._kept if self._shown else None

    @property
    def _kept(self) -> Any:
        return self._layer if self._layer is not None and self._layer in self.workspace.viewer.layers else None

    def prepare(self) -> None:
        """Have a layer at hand: making one takes napari longer than a window may stand still between two clicks."""
        if self._kept is None or self._labels is not self.workspace.labels_layer:
            self.close()
            self._add(Window(0, 0, 1, 1), _NOTHING)

    def show(self, window: Window, index_HW: npt.NDArray[np.uint8], where_HW: BoolArray) -> None:
        """Draw the classes where `where_HW`, in a window of the scene."""
        drawn_HW = np.where(where_HW, index_HW, np.uint8(NONE))
        _outline(drawn_HW, where_HW)
        self.prepare()
        layers = self.workspace.viewer.layers
        if layers[-1] is not self._layer:
            layers.move(layers.index(self._layer), len(layers))
        self._layer.data = drawn_HW
        self._layer.translate = self._corner(window)
        self._shown = True

    def clear(self) -> None:
        """Show nothing; the layer stays for the next time."""
        if self.layer is not None:
            # Hiding a layer takes napari longer than showing an empty one.
            self._layer.data = _NOTHING
        self._shown = False

    def close(self) -> None:
        """Take the layer away."""
        layer, self._layer, self._shown = self._kept, None, False
        if layer is not None:
            self.workspace.viewer.layers.remove(layer)

    def _corner(self, window: Window) -> tuple[float, ...]:
        session = self.workspace.session
        assert session is not None
        place = world_placement(None if session.stacked else session.georef())
        scale, corner = place.get("scale", (1.0, 1.0)), place.get("translate", (0.0, 0.0))
        return tuple(c + s * first for c, s, first in zip(corner, scale, (window.row, window.col), strict=True))

    def _add(self, window: Window, drawn_HW: npt.NDArray[np.uint8]) -> None:
        session, viewer = self.workspace.session, self.workspace.viewer
        assert session is not None
        place = world_placement(None if session.stacked else session.georef())
        active = viewer.layers.selection.active
        layer = viewer.add_labels(
            drawn_HW,
            name="Proposed change",
            colormap=self._colormap(),
            opacity=_OPACITY,
            metadata={KEY: {"role": "preview"}},
            **{**place, "translate": self._corner(window)},
        )
        layer.editable = False
        self._layer, self._labels = layer, self.workspace.labels_layer
        viewer.layers.selection.active = active

    def _colormap(self) -> Any:
        from napari.utils.colormaps import DirectLabelColormap

        session = self.workspace.session
        assert session is not None
        colors: dict[int | None, str] = dict(enumerate(session.scheme.colors))
        return DirectLabelColormap(
            color_dict={**colors, DARK: "black", LIGHT: "white", NONE: "transparent", None: "transparent"}
        )


def _outline(drawn_HW: npt.NDArray[np.uint8], where_HW: BoolArray) -> None:
    """Write the outline of a region over its outermost pixels, in dashes."""
    inner_HW = where_HW.copy()
    inner_HW[1:] &= where_HW[:-1]
    inner_HW[:-1] &= where_HW[1:]
    inner_HW[:, 1:] &= where_HW[:, :-1]
    inner_HW[:, :-1] &= where_HW[:, 1:]
    rows, cols = np.nonzero(where_HW & ~inner_HW)
    drawn_HW[rows, cols] = np.where((rows + cols) // _DASH_PX % 2, DARK, LIGHT)
