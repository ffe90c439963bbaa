"""What the tools of the correction desk do with a click, a loop or a scribble. No Qt.

Every change goes through the mask's door as one stroke with the tool's name: locked classes and nodata stay, the
journal keeps it, undo takes it back.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.desk import Desk, Point
from napari_glacier.controllers.evidence import WORK_PX, EvidenceSource
from napari_glacier.controllers.fill_tool import FillTool
from napari_glacier.controllers.preview import Preview
from napari_glacier.controllers.probe import describe_pixel
from napari_glacier.controllers.region_tools import ACCEPT_ALL, MAX_STRENGTH, Options, RegionTools
from napari_glacier.controllers.sam_tool import SamTool
from napari_glacier.controllers.scribble_tool import SCRIBBLE_PX, ScribbleTool
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools import load_libraries
from napari_glacier.core.tools.components import Area
from napari_glacier.core.wording import counted

_WHEEL_STEP = 3
_MOST_READ_AHEAD_PX = 2048
# Enter waits for what is nearly there; a window is not held up for longer.
_PATIENCE_S = 0.2


@dataclass(frozen=True)
class Proposal:
    """A change that waits to be taken."""

    tool: str
    area: Area
    index_HW: npt.NDArray[np.uint8]
    model: str | None = None


class ToolController:
    """Decides what the tools do. Positions are rows and columns of the scene on screen.

    Parameters
    ----------
    workspace : Workspace

    Attributes
    ----------
    tool : str
        The tool in the hand; empty where it is one of napari's.
    options : Options
    proposal : Proposal or None
    waits : bool
        Whether what takes long is waited for. A window sets it to False, and calls `deliver` often.

    Signals
    -------
    changed() : tool, option or proposal
    told(str) : what was done, or why nothing was
    probed(PixelReport)
    """

    changed = Signal()
    told = Signal(str)
    probed = Signal(object)

    def __init__(self, workspace: Workspace) -> None:
        load_libraries()
        self.workspace = workspace
        self.options = Options()
        self.tool = ""
        self.proposal: Proposal | None = None
        self.waits = True
        # What is worked on in the thread of `source`, and what to do with it.
        self._awaited: tuple[Future[Any], Callable[[Any], None]] | None = None
        self.source = EvidenceSource(workspace)
        self._desk = Desk(workspace, self.source, self.told.emit)
        self._preview = Preview(workspace)
        self._fill = FillTool(self._desk, self.options, self._later, self._propose)
        self._scribble = ScribbleTool(self._desk, self._later, self._propose)
        self.sam = SamTool(self._desk, self._preview, self._later, self._show_object)
        self._regions = RegionTools(self._desk, self.options)
        self._plane = 0
        self._labels = workspace.labels_layer
        self._class_names: tuple[str, ...] = ()
        self._seen: tuple[Window | None, Window | None] = None, None
        workspace.layers_changed.connect(self._on_layers)
        workspace.session_changed.connect(self._on_session)

    # -- choosing

    def select(self, tool: str) -> None:
        """Take a tool into the hand; an empty name puts it down.

        Raises
        ------
        DataError
            If there is nothing to correct, or the dataset is held by another window.
        """
        if tool:
            if self.workspace.labels_layer is None:
                raise DataError("There are no labels to correct. Open a dataset first (Data widget).")
            self._need_right(tool)
        # The tool first: what listens must not take the one before back into the hand.
        if tool in (toolbox.SMART_FILL, toolbox.SCRIBBLE, toolbox.OUTLINE, toolbox.SAM):
            self._preview.bring_up()
        before, self.tool = self.tool, tool
        dropped = self.drop()
        if tool != before and not dropped:
            # What the tool before said is of no use to the next one.
            self.told.emit("")
            self.changed.emit()

    def set_strength(self, strength: int) -> None:
        """Let smart fill grow over more or less; what is proposed follows."""
        strength = min(max(int(strength), 1), MAX_STRENGTH)
        if strength != self.options.strength:
            self.options.strength = strength
            self._fill.regrow()
            self.changed.emit()

    def turn_wheel(self, steps: float) -> None:
        """Shift and the mouse wheel: more or less of what smart fill proposes."""
        if self.tool == toolbox.SMART_FILL and steps:
            self.set_strength(self.options.strength + (_WHEEL_STEP if steps > 0 else -_WHEEL_STEP))

    @property
    def help(self) -> str:
        """What to do with the tool in the hand, and which bands it has to do without in view."""
        if not self.tool:
            return "Smart tools work on the canvas; pick one."
        tool = toolbox.TOOL_OF[self.tool]
        seen = self.workspace.visible_window() if tool.looks and self.workspace.session is not None else None
        missing = self.source.what_is_missing(seen) if seen is not None else ""
        return f"{tool.help} {missing}".rstrip()

    # -- on the canvas

    def click(self, row: float, col: float) -> None:
        """Use the tool on a pixel.

        Raises
        ------
        DataError
            If the tool can do nothing there; says why.
        """
        if not self.tool:
            return
        self._need_right(self.tool)
        at = self._desk.pixel(row, col)
        if self.tool == toolbox.SMART_FILL:
            if self.proposal is not None and self.proposal.area.holds(*at):
                self.take()
            else:
                self._fill.click(*at)
        elif self.tool in (toolbox.SCRIBBLE, toolbox.OUTLINE):
            self.draw_line([at])
        elif self.tool == toolbox.SAM:
            self.sam.click(*at, self.proposal.area if self.proposal is not None else None)
        elif self.tool == toolbox.PIXEL:
            self.probed.emit(describe_pixel(self.workspace, self.source, *at, self._desk.window_around(*at)))
        elif self.tool == toolbox.ACCEPT:
            self._regions.accept_at(*at)
        else:
            self._click_patch(self._desk.component(*at), self._desk.label_at(*at))

    def loop(self, vertices: Sequence[Point]) -> None:
        """Use the tool on all that lies inside a loop.

        Raises
        ------
        DataError
            If the tool has no use for a loop, or nothing lies inside.
        """
        if self.tool not in toolbox.TOOL_OF or not toolbox.TOOL_OF[self.tool].loops:
            raise DataError("This tool takes clicks, not loops.")
        self._need_right(self.tool)
        if self.tool == toolbox.SAM:
            self.sam.box(vertices)
            return
        area = self._desk.inside(vertices)
        act: dict[str, Callable[[Area], object]] = {
            toolbox.COMPONENT: self._regions.flip,
            toolbox.ERASE: self._regions.erase,
            toolbox.ACCEPT: self._regions.accept,
            toolbox.SHAPE: self._regions.reshape_inside,
        }
        act[self.tool](area)

    def prepare_view(self) -> None:
        """Begin to read what tools will ask for, where the view rests; called a few times a second.

        Of views beyond the tools' reach it is what lies around the pointer.
        """
        session = self.workspace.session
        seen = self.workspace.visible_window() if self.workspace.labels_layer is not None else None
        if seen is not None and session is not None and not session.read_only:
            # Here, where the window has just opened, and not at the first key.
            self._preview.prepare()
        window = self._window_at_pointer(seen) if seen is not None else None
        before, self._seen = self._seen, (seen, window)
        if seen is None or window is None or before != self._seen:
            return
        extent_px = max(seen.height, seen.width)
        if extent_px <= _MOST_READ_AHEAD_PX:
            self.source.prepare_painting(seen)
        if self.tool == toolbox.SCRIBBLE:
            self.source.begin_superpixels(window)
        elif self.tool == toolbox.SMART_FILL:
            self.source.prepare(window)
        elif extent_px <= WORK_PX and self.tool == toolbox.SAM:
            # Looking takes seconds: not wherever the pointer goes.
            self.sam.prepare(window)

    def _window_at_pointer(self, seen: Window) -> Window | None:
        """What a click of the pointer would work on; of one beside the view, a click in its middle."""
        place = self.workspace.labels_layer.world_to_data(self.workspace.viewer.cursor.position)
        window = self.source.window_around(*(round(float(k)) for k in place[-2:]))
        return window or self.source.window_around(seen.row + seen.height // 2, seen.col + seen.width // 2)

    def begin_line(self, row: float, col: float) -> None:
        """A hand begins to draw a line with a tool that takes one.

        Raises
        ------
        DataError
            If nothing can be drawn, or a scribble not here.
        """
        self._need_right(self.tool)
        # That there is one is asked now, not when the line is drawn.
        _ = self._desk.chosen_class
        if self.tool == toolbox.SCRIBBLE:
            self._scribble.begin(row, col)

    def trace(self, path: Sequence[Point]) -> None:
        """Show a line or a loop while it is drawn; called for each step of the hand."""
        session = self.workspace.session
        if session is None or session.read_only or self.tool == toolbox.SAM:
            return
        if self.tool == toolbox.SCRIBBLE:
            self._preview.trace(path, SCRIBBLE_PX, self._desk.chosen_class)
        else:
            self._preview.trace(path)

    def end_trace(self, dropped: bool = False) -> None:
        """The hand is up. Scribbles that were not `dropped` stay until they are solved."""
        if dropped or self.tool not in (toolbox.SCRIBBLE, toolbox.SAM):
            self._preview.clear()

    def draw_line(self, path: Sequence[Point]) -> None:
        """Use the tool on a line that was drawn.

        Raises
        ------
        DataError
            If the tool can do nothing with it; says why.
        """
        self._need_right(self.tool)
        if self.tool == toolbox.SCRIBBLE:
            self._scribble.draw(path)
        elif self.tool == toolbox.OUTLINE:
            self._regions.redraw(path)

    # -- what takes long

    @property
    def busy(self) -> bool:
        """Whether something is worked on that a person asked for."""
        return self._awaited is not None

    def deliver(self) -> None:
        """Go on with what was worked on in the thread, once it is done; called often.

        Raises
        ------
        GlacierError
            If it failed.
        """
        if self._awaited is not None and (self.waits or self._awaited[0].done()):
            (work, go_on), self._awaited = self._awaited, None
            go_on(work.result())
            if self.sam.objects is not None:
                self.changed.emit()

    def _later(self, work: Future[Any], go_on: Callable[[Any], None]) -> None:
        """Go on here when a thread has done something; of several only the last counts."""
        self._awaited = work, go_on
        self._plane = self.workspace.plane
        if self.waits:
            self.deliver()

    # -- proposals

    def take(self) -> int:
        """Make the proposed change, also one that is still worked on; gives the number of pixels that changed."""
        if self._awaited is not None:
            wait([self._awaited[0]], _PATIENCE_S)
            self.deliver()
        if self.busy:
            # What is shown lacks what was asked for last, which would be lost.
            self.told.emit("This is still worked on. Press Enter again once it is shown; Escape drops it.")
            return 0
        proposal = self.proposal
        if proposal is None:
            return 0
        self._desk.need_writable()
        # Cleared first: what listens to the stroke must not find it still proposed.
        self._forget()
        changed = self._desk.write(proposal.tool, proposal.area, proposal.index_HW, proposal.model)
        self.changed.emit()
        return changed

    @property
    def can_drop(self) -> bool:
        """Whether there is something to drop: proposed, begun or worked on."""
        begun = self._scribble.begun or self.sam.objects is not None
        return self.proposal is not None or begun or self.busy

    def drop(self) -> bool:
        """Drop what is proposed; whether there was something."""
        had = self.can_drop
        self._forget()
        if had:
            self.told.emit("")
            self.changed.emit()
        return had

    def follow_class(self) -> None:
        """The chosen class changed: a fill that is proposed takes it."""
        proposal = self.proposal
        if proposal is not None and proposal.tool == toolbox.SMART_FILL:
            self._fill.regrow()
        elif proposal is not None and proposal.tool == toolbox.SAM:
            self._show_object(proposal.area)

    def follow_plane(self) -> None:
        """Another scene of a stack is on screen: what was proposed, or is worked on, belongs to the one before."""
        if self.can_drop and self.workspace.plane != self._plane:
            self.drop()

    def find_objects(self) -> None:
        """Drop what is proposed, and let SAM 2 find all objects of the view (`SamTool.find_objects`)."""
        self.drop()
        self._plane = self.workspace.plane
        self.sam.find_objects()

    # -- without a click

    def accept_everywhere(self, in_view: bool) -> int:
        """Accept the prediction of the class and confidence chosen, in view or in the whole scene.

        Raises
        ------
        DataError
            If there is no prediction, or nothing of it qualifies.
        """
        return self._regions.accept(self._everywhere(in_view), ACCEPT_ALL)

    def balance_view(self) -> int:
        """Let the class and the probability chosen decide all in view that nobody worked on (`RegionTools.balance`)."""
        return self._regions.balance(self._everywhere(True))

    def _everywhere(self, in_view: bool) -> Area:
        self._desk.need_writable()
        window = self.workspace.visible_window() if in_view else Window(0, 0, *self._desk.shape)
        if window is None:
            raise DataError("Nothing of the dataset is on screen. Move the view over it.")
        return Area(window, np.ones((window.height, window.width), bool))

    def accept_area(self, area: Area) -> int:
        """Accept the prediction of an area, whatever the class and the confidence."""
        self._desk.need_writable()
        return self._regions.accept(area, whatever=True)

    def write_area(self, tool: str, area: Area, index_HW: npt.NDArray[np.uint8]) -> int:
        """Give an area other classes as one stroke, and say so; gives the number of pixels that changed."""
        self._desk.need_writable()
        return self._desk.write(tool, area, index_HW)

    def snap_last_stroke(self) -> int:
        """Snap the outline of what was drawn last to the strongest edge within reach.

        Raises
        ------
        DataError
            If nothing was drawn in the scene on screen, or it shows no longer.
        """
        self._desk.need_writable()
        return self._regions.snap_last_stroke()

    def close(self) -> None:
        """Drop what is proposed and disconnect from the workspace."""
        self._forget()
        self._preview.close()
        self.sam.close()
        self.source.close()
        self.workspace.layers_changed.disconnect(self._on_layers, missing_ok=True)
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)

    def _click_patch(self, area: Area, label: int) -> None:
        if self.tool == toolbox.COMPONENT:
            self._regions.flip(area)
        elif self.tool == toolbox.ERASE:
            self._regions.erase(area)
        elif self.tool == toolbox.REMOVE:
            self._regions.remove(area)
        elif self.tool == toolbox.HOLES:
            self._regions.fill_holes(area, label)
        elif self.tool == toolbox.SHAPE:
            self._regions.reshape(area, label)
        elif self.tool == toolbox.SNAP:
            self._regions.snap(area, label)

    def _propose(self, tool: str, area: Area, index_HW: npt.NDArray[np.uint8], model: str | None = None) -> None:
        """Show a change; one without a tool is only drawn."""
        self._plane = self.workspace.plane
        self.proposal = Proposal(tool, area, index_HW, model) if tool else None
        self._preview.show(area.window, index_HW, area.where_HW)
        if tool:
            self.told.emit(f"{counted(area.num_px, 'pixel')} proposed: Enter takes them, Escape drops them.")
        self.changed.emit()

    def _show_object(self, area: Area) -> None:
        index_HW = np.full(area.where_HW.shape, self._desk.chosen_class, np.uint8)
        self._propose(toolbox.SAM, area, index_HW, self.sam.model)

    def _forget(self) -> None:
        self.proposal = self._awaited = None
        for tool in (self._fill, self._scribble, self.sam):
            tool.forget()
        self._preview.clear()

    def _need_right(self, tool: str) -> None:
        if tool != toolbox.PIXEL:
            self._desk.need_writable()

    def _on_layers(self) -> None:
        labels = self.workspace.labels_layer
        if labels is None:
            self._on_session()
        elif labels is not self._labels:
            # Another scene is on screen: what was proposed belongs to the one before.
            self.drop()
        self._labels = labels

    def _on_session(self, session: Any = None) -> None:
        self._forget()
        self._preview.close()
        self.tool = ""
        open_ = self.workspace.session
        if open_ is not None and open_.scheme.class_names != self._class_names:
            # A class of the scheme before, which no control would show.
            self.options.accept_class, self._class_names = None, open_.scheme.class_names
        self.changed.emit()
