"""The scene on screen as the tools see it: pixels by window, patches, what was drawn last, and the door for changes.

No Qt. Positions are rows and columns of the scene on screen.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.evidence import EvidenceSource
from napari_glacier.controllers.predicted import Predicted, shown_prediction
from napari_glacier.controllers.toolbox import title_of
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.reviews import approved_sentence
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools import components
from napari_glacier.core.tools import shape as shapes
from napari_glacier.core.tools.components import Area
from napari_glacier.core.tools.evidence import BoolArray
from napari_glacier.core.wording import counted

# Evidence of a larger patch would take seconds and gigabytes.
_LARGEST_PX = 4096 * 4096

Point = tuple[float, float]


class Desk:
    """Reads the scene on screen and writes changes to it.

    Parameters
    ----------
    workspace : Workspace
    source : EvidenceSource
    tell : callable
        Gets a sentence on each change.
    """

    def __init__(self, workspace: Workspace, source: EvidenceSource, tell: Callable[[str], None]) -> None:
        self.workspace = workspace
        self.source = source
        self.tell = tell

    @property
    def session(self) -> Any:
        """The open dataset; `DataError` where there is none."""
        session = self.workspace.session
        if session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        return session

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the scene."""
        height, width = self.session.mask.shape[-2:]
        return height, width

    @property
    def chosen_class(self) -> int:
        """The class that a person paints with; `DataError` where it is none of the dataset."""
        label = int(self.workspace.labels_layer.selected_label)
        if not 0 <= label < self.session.scheme.num_classes:
            raise DataError(f"Label {label} is no class of this dataset. Choose one of the classes.")
        return label

    def need_writable(self) -> None:
        """Raise `DataError` where the dataset is held by another window."""
        if self.session.read_only:
            raise DataError(self.session.read_only)

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """Labels of a window, a copy."""
        mask = self.session.mask
        lead = (self.workspace.plane,) if mask.ndim == 3 else ()
        pixels: npt.NDArray[np.uint8] = mask[(*lead, *window.slices)]
        return pixels

    def label_at(self, row: int, col: int) -> int:
        """Label of a pixel."""
        return int(self.read(Window(row, col, 1, 1))[0, 0])

    def valid(self, window: Window) -> BoolArray:
        """Pixels of a window that carry data."""
        valid = self.session.valid
        pixels: BoolArray = valid[self.workspace.plane][window.slices] if valid.ndim == 3 else valid[window.slices]
        return pixels

    def touched(self, window: Window) -> BoolArray:
        """Pixels of a window that somebody drew or found right."""
        touched_HW: BoolArray = self.session.touched(window, self.workspace.plane)
        return touched_HW

    def pixel(self, row: float, col: float) -> tuple[int, int]:
        """The pixel at a position; `DataError` outside the scene."""
        height, width = self.shape
        at = round(row), round(col)
        if not (0 <= at[0] < height and 0 <= at[1] < width):
            raise DataError("This is outside the scene.")
        return at

    def window_around(self, row: int, col: int) -> Window:
        """What the tools work on around a pixel; `DataError` where it is not on screen."""
        window = self.source.window_around(row, col)
        if window is None:
            raise DataError("This pixel is not on screen.")
        return window

    def component(self, row: int, col: int) -> Area:
        """The patch of one class that a pixel belongs to."""
        return components.component_at(self.read, self.shape, row, col)

    def inside(self, vertices: Sequence[Point]) -> Area:
        """The pixels inside a loop; `DataError` where there are none."""
        points = np.asarray(vertices, float)
        top, left = np.floor(points.min(axis=0)).astype(int)
        bottom, right = np.ceil(points.max(axis=0)).astype(int)
        window = Window(int(top), int(left), int(bottom - top + 1), int(right - left + 1)).clipped(*self.shape)
        moved = [(row - window.row, col - window.col) for row, col in vertices]
        where_HW = shapes.inside_loop(moved, (window.height, window.width))
        if not where_HW.any():
            raise DataError("The loop holds no pixel of the scene.")
        return Area(window, where_HW)

    def padded(self, area: Area, margin_px: int) -> Area:
        """An area with a margin; `DataError` where it is too large to be worked on."""
        if area.window.height * area.window.width > _LARGEST_PX:
            raise DataError(
                f"This patch spans {area.window.height:,} x {area.window.width:,} pixels. Click a smaller one, or draw "
                "a loop around the part that is meant."
            )
        return area.padded(margin_px, self.shape)

    def drawn(self, strokes: Sequence[Any]) -> tuple[Area, int, npt.NDArray[np.uint8]] | None:
        """What still shows of strokes, the oldest first: pixels of a class on screen, and what was there before."""
        here = {place.tile.id: place for place in self.session.current_scenes[self.workspace.plane].placements}
        # The newest first, so that what was there before all of them remains.
        patches = [
            (here[patch.tile_id], patch)
            for stroke in reversed(strokes)
            for patch in stroke.patches
            if patch.tile_id in here
        ]
        if not patches:
            return None
        corners = np.array(
            [
                (
                    p.row + q.row,
                    p.col + q.col,
                    p.row + q.row + q.before_HW.shape[0],
                    p.col + q.col + q.before_HW.shape[1],
                )
                for p, q in patches
            ]
        )
        (top, left), (bottom, right) = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
        window = Window(int(top), int(left), int(bottom - top), int(right - left))
        now_HW = self.read(window)
        where_HW, before_HW = np.zeros(now_HW.shape, bool), now_HW.copy()
        for (row, col, end, side), (_, patch) in zip((corners - [top, left, top, left]).tolist(), patches, strict=True):
            part = np.s_[row:end, col:side]
            shows_HW = patch.edited & (now_HW[part] == patch.after_HW)
            where_HW[part] |= shows_HW
            before_HW[part] = np.where(shows_HW, patch.before_HW, before_HW[part])
        if not where_HW.any():
            return None
        label = int(np.bincount(now_HW[where_HW]).argmax())
        return Area(window, where_HW & (now_HW == label)), label, before_HW

    def prediction(self) -> Predicted:
        """The prediction on screen; `DataError` where there is none, or its classes are not those of the labels."""
        predicted = shown_prediction(self.workspace)
        if predicted is None:
            raise DataError("There is no prediction to accept. Run a model first (Predict widget).")
        names = self.session.scheme.class_names
        if predicted.class_names and predicted.class_names != names:
            raise DataError(
                f"The model tells {', '.join(predicted.class_names)} apart, the labels have {', '.join(names)}. "
                "Choose a model of the labels' classes."
            )
        return predicted

    def write(
        self,
        tool: str,
        area: Area,
        index_HW: npt.NDArray[np.uint8] | int,
        model: str | None = None,
    ) -> int:
        """Change an area as one stroke of a tool, and say so; gives the number of pixels that changed."""
        index_HW = np.broadcast_to(np.asarray(index_HW, np.uint8), area.where_HW.shape)
        differs_HW = area.where_HW & (self.read(area.window) != index_HW)
        approved = self.session.mask.locked_under(area.window, differs_HW, self.workspace.plane)
        changed = self.workspace.assign_window(area.window, index_HW, area.where_HW, tool, model)
        name = title_of(tool)
        if approved:
            done = f"{counted(changed, 'pixel')} changed" if changed else "nothing changed"
            self.tell(f"{name}: {done}. {approved_sentence(tuple(approved))}")
            return changed
        self.tell(
            f"{name}: {counted(changed, 'pixel')} changed."
            if changed
            else f"{name}: nothing changed. It was so already, or the class is locked."
        )
        return changed
