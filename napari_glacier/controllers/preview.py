"""A change that is proposed but not made, drawn over the labels. No Qt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers import painting
from napari_glacier.controllers.desk import Point
from napari_glacier.controllers.layers import KEY, world_placement
from napari_glacier.controllers.scribble_tool import draw_path
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import BoolArray

# Label values of the outline and of pixels without a proposal; classes count from 0 and are far fewer.
NONE, DARK, LIGHT = 255, 254, 253
_OPACITY = 0.65
_DASH_PX = 3
# Width of what a hand draws where it is to be no class.
_LINE_SCREEN_PX = 2
# As much as the tools work on at a time.
_SHEET_PX = 1024
_NOWHERE = Window(0, 0, 0, 0)


class Preview:
    """Draws classes of some pixels with a dashed dark-and-light outline, which shows on snow, rock and any class.

    The layer is a sheet that is laid where it is needed and drawn on in parts: giving a layer other data lets napari
    translate its shaders again, which takes longer than a window may stand still.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._layer: Any = None
        # Where the sheet lies in the scene, and which part of the scene is drawn on it.
        self._sheet = _NOWHERE
        self._drawn = _NOWHERE
        # The labels that the layer was made for: other scenes lie elsewhere.
        self._labels: Any = None

    @property
    def _kept(self) -> Any:
        return self._layer if self._layer is not None and self._layer in self.workspace.viewer.layers else None

    def prepare(self) -> None:
        """Have a layer at hand: making one takes napari longer than a window may stand still between two clicks."""
        if self._kept is None or self._labels is not self.workspace.labels_layer:
            self.close()
            self._add(self._sheet_over(_NOWHERE))

    def show(self, window: Window, index_HW: npt.NDArray[np.uint8], where_HW: BoolArray) -> None:
        """Draw the classes where `where_HW`, in a window of the scene."""
        drawn_HW = np.where(where_HW, index_HW, np.uint8(NONE))
        _outline(drawn_HW, where_HW)
        self.bring_up()
        self._lay_under(window)
        before, self._drawn = self._drawn, window
        self._on_sheet(before)[:] = NONE
        self._on_sheet(window)[:] = drawn_HW
        for part in {before, window}:
            self._draw(part)

    def trace(self, path: Sequence[Point], wide_px: int = 0, label: int = LIGHT) -> None:
        """Draw the last step of a line that a hand draws, over what is shown.

        Parameters
        ----------
        path : sequence of (row, col)
            All of it, up to where the hand is.
        wide_px : int
            Width of the line in pixels of the scene; 0 is a fine line on the screen.
        label : int
            Class that the line is drawn in; without one it is light with a dark rim.
        """
        self.bring_up()
        wide_px = wide_px or max(round(_LINE_SCREEN_PX / self._screen_px()), 1)
        steps = path[-2:]
        window = self._around(steps, wide_px + 1)
        if not self._is_on_sheet(window):
            whole = self._around(path, wide_px + 1)
            # A longer line loses its beginning: a larger sheet would hold up the window.
            shown = path if max(whole.height, whole.width) <= _SHEET_PX else steps
            extent_px = int(np.ptp(shown, axis=0).max()) + 1
            # With room on all sides for a hand that goes on, so that the sheet is laid anew seldom.
            self._lay_under(self._around(shown, max((_SHEET_PX - extent_px) // 2 - 1, wide_px + 1)))
            steps, window = path, self._sheet
        if not window.height or not window.width:
            return
        self._drawn = self._drawn.union(window)
        on_sheet_HW = self._on_sheet(window)
        if label == LIGHT:
            on_sheet_HW[_line(steps, window, wide_px + 2) & (on_sheet_HW != LIGHT)] = DARK
        on_sheet_HW[_line(steps, window, wide_px)] = label
        self._draw(window)

    def clear(self) -> None:
        """Show nothing; the layer stays for the next time."""
        before, self._drawn = self._drawn, _NOWHERE
        if self._kept is not None:
            self._on_sheet(before)[:] = NONE
            self._draw(before)

    def close(self) -> None:
        """Take the layer away."""
        layer, self._layer, self._drawn = self._kept, None, _NOWHERE
        if layer is not None:
            self.workspace.remove_layer(layer)

    def bring_up(self) -> None:
        """Have the layer at hand, on top of all others; moving it there takes napari long, too."""
        self.prepare()
        layers = self.workspace.viewer.layers
        if layers[-1] is not self._layer:
            layers.move(layers.index(self._layer), len(layers))

    def _is_on_sheet(self, window: Window) -> bool:
        return self._sheet.union(window) == self._sheet

    def _around(self, points: Sequence[Point], margin_px: int) -> Window:
        """The part of the scene around points; of no pixels where they lie outside."""
        assert self.workspace.session is not None
        first, last = np.floor(np.min(points, axis=0)).astype(int), np.ceil(np.max(points, axis=0)).astype(int)
        row, col = (int(k) - margin_px for k in first)
        height, width = (int(k) + 1 + 2 * margin_px for k in last - first)
        return Window(row, col, height, width).clipped(*self.workspace.session.mask.shape[-2:])

    def _screen_px(self) -> float:
        """Size of a pixel of the scene on the screen."""
        return abs(float(self._layer.scale[-1])) * float(self.workspace.viewer.scene.camera.zoom)

    def _lay_under(self, window: Window) -> None:
        """Lay the sheet so that it holds a window; a larger one where it has no room."""
        if self._is_on_sheet(window):
            return
        sheet = self._sheet_over(window)
        self._on_sheet(self._drawn)[:] = NONE
        self._drawn = _NOWHERE
        if (sheet.height, sheet.width) != (self._sheet.height, self._sheet.width):
            self._layer.data = _blank(sheet)
        self._sheet = sheet
        self._layer.translate = self._corner(sheet)

    def _sheet_over(self, window: Window) -> Window:
        """A sheet that holds a window and lies inside the scene: the scene's extent stays as it is."""
        assert self.workspace.session is not None
        rows, cols = self.workspace.session.mask.shape[-2:]
        height, width = min(max(window.height, _SHEET_PX), rows), min(max(window.width, _SHEET_PX), cols)
        return Window(min(window.row, rows - height), min(window.col, cols - width), height, width)

    def _on_sheet(self, window: Window) -> npt.NDArray[np.uint8]:
        """The part of the sheet that lies on a window of the scene."""
        part: npt.NDArray[np.uint8] = self._layer.data[self._moved(window).slices]
        return part

    def _moved(self, window: Window) -> Window:
        return Window(window.row - self._sheet.row, window.col - self._sheet.col, window.height, window.width)

    def _draw(self, window: Window) -> None:
        painting.draw(self._layer, self._moved(window))

    def _corner(self, window: Window) -> tuple[float, ...]:
        session = self.workspace.session
        assert session is not None
        place = world_placement(None if session.stacked else session.georef())
        scale, corner = place.get("scale", (1.0, 1.0)), place.get("translate", (0.0, 0.0))
        return tuple(c + s * first for c, s, first in zip(corner, scale, (window.row, window.col), strict=True))

    def _add(self, sheet: Window) -> None:
        session, viewer = self.workspace.session, self.workspace.viewer
        assert session is not None
        place = world_placement(None if session.stacked else session.georef())
        active = viewer.layers.selection.active
        layer = viewer.add_labels(
            _blank(sheet),
            name="Proposed change",
            colormap=self._colormap(),
            opacity=_OPACITY,
            metadata={KEY: {"role": "preview"}},
            **{**place, "translate": self._corner(sheet)},
        )
        layer.editable = False
        self._layer, self._labels, self._sheet = layer, self.workspace.labels_layer, sheet
        viewer.layers.selection.active = active

    def _colormap(self) -> Any:
        from napari.utils.colormaps import DirectLabelColormap

        session = self.workspace.session
        assert session is not None
        colors: dict[int | None, str] = dict(enumerate(session.scheme.colors))
        return DirectLabelColormap(
            color_dict={**colors, DARK: "black", LIGHT: "white", NONE: "transparent", None: "transparent"}
        )


def _line(path: Sequence[Point], window: Window, wide_px: int) -> BoolArray:
    """Pixels of a window under a line."""
    line_HW = np.zeros((window.height, window.width), np.uint8)
    draw_path(line_HW, [(row - window.row, col - window.col) for row, col in path], 1, wide_px)
    return line_HW.astype(bool)


def _blank(sheet: Window) -> npt.NDArray[np.uint8]:
    return np.full((sheet.height, sheet.width), NONE, np.uint8)


def _outline(drawn_HW: npt.NDArray[np.uint8], where_HW: BoolArray) -> None:
    """Write the outline of a region over its outermost pixels, in dashes."""
    inner_HW = where_HW.copy()
    inner_HW[1:] &= where_HW[:-1]
    inner_HW[:-1] &= where_HW[1:]
    inner_HW[:, 1:] &= where_HW[:, :-1]
    inner_HW[:, :-1] &= where_HW[:, 1:]
    rows, cols = np.nonzero(where_HW & ~inner_HW)
    drawn_HW[rows, cols] = np.where((rows + cols) // _DASH_PX % 2, DARK, LIGHT)
