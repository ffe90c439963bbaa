"""A walk from one region to the next, kept up to date while a person works. No Qt."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import RLock
from typing import Any

from psygnal import Signal

from napari_glacier.controllers.session import Session
from napari_glacier.controllers.tools import ToolController
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.attention import AttentionQueue, UncertainRegion
from napari_glacier.core.correction.strokes import Patch
from napari_glacier.core.data.mosaic import Mosaic
from napari_glacier.core.errors import DataError, JournalError
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import BoolArray

# A region is shown with at least this much around it.
_SURROUNDINGS_PX = 48


@dataclass(frozen=True)
class Built:
    """What was built of a plan.

    Attributes
    ----------
    plan : int
        The plan's number: what was built of an outdated one is not used.
    queue : AttentionQueue
    """

    plan: int
    queue: AttentionQueue


class RegionWalk(ABC):
    """Leads from one region of a queue to the next; what the queue holds is for a subclass to say.

    Parameters
    ----------
    workspace : Workspace
    tools : ToolController
        Writes into the labels, and tells.

    Attributes
    ----------
    current : UncertainRegion or None
        The region flown to.
    stale : bool
        The queue is to be built anew.

    Signals
    -------
    changed() : perhaps from another thread
    """

    changed = Signal()

    # What is said where there is no queue, and where it is empty.
    nothing_to_go_by = ""
    nothing_left = ""
    # Strokes of these tools are no looking.
    unseen_tools: tuple[str, ...] = ()

    def __init__(self, workspace: Workspace, tools: ToolController) -> None:
        self.workspace = workspace
        self.tools = tools
        self.current: UncertainRegion | None = None
        self.stale = True
        self._queue: AttentionQueue | None = None
        # Of the last plan; one more once that is built, or once nothing can come of it.
        self._plan_number = 0
        self._lock = RLock()
        # Strokes recorded while a queue is built elsewhere.
        self._missed: list[Patch] = []
        self._building = False
        self._watched: tuple[Any, Any] = (None, None)

    @property
    @abstractmethod
    def available(self) -> bool:
        """Whether there is something to go by."""

    @abstractmethod
    def plan(self) -> Callable[[], Built] | None:
        """What builds a queue of what is on screen, less what was looked at; None where there is nothing to go by.

        Called on the GUI thread; what it gives may run in another one. See `install`.
        """

    @abstractmethod
    def accept(self) -> None:
        """Take over what is proposed in the region on screen, and go on."""

    @abstractmethod
    def fixed(self) -> None:
        """Note that the labels of the region on screen are right as they are now, and go on."""

    @property
    def here(self) -> str:
        """What there is to say of the region on screen."""
        return f"{self.current.uncertainty:.0%} uncertain" if self.current is not None else ""

    def draw(self) -> None:  # noqa: B027 (most draw nothing)
        """Bring what is shown on the canvas up to date; on the GUI thread."""

    def install(self, built: Built | None) -> None:
        """Use what was built, or nothing.

        Passed over is what was planned before another plan was made, or before something else was installed: it may be
        of another scene, and it knows nothing of what was found right since.
        """
        with self._lock:
            if built is not None and built.plan != self._plan_number:
                return
            self._plan_number += 1
            self._use(built)
            for patch in self._missed if built is not None else ():
                self._mark_patch(patch)
            self._missed, self._building = [], False
        self.changed.emit()

    def regions(self) -> list[UncertainRegion]:
        """What is left to look at, best first."""
        with self._lock:
            return self._queue.regions() if self._queue is not None else []

    @property
    def in_km2(self) -> bool:
        """Whether stakes are areas; pixels otherwise."""
        session = self.workspace.session
        georef = session.georef() if session is not None else None
        return georef is not None and georef.pixel_area_m2 is not None

    def next(self) -> UncertainRegion:
        """Fly to the region with most at stake that is not the one on screen now.

        Raises
        ------
        DataError
            If nothing is left, or there is nothing to go by.
        """
        self._renew()
        if self._queue is None:
            raise DataError(self.nothing_to_go_by)
        regions = self.regions()
        if self.current is not None and len(regions) > 1:
            regions = [region for region in regions if region.number != self.current.number] or regions
        if not regions:
            raise DataError(self.nothing_left)
        self.current = regions[0]
        self._fly_to(self.current)
        self.changed.emit()
        return self.current

    def skip(self) -> None:
        """Put the region on screen behind all others, and go on."""
        region, _ = self._need_current()
        self.tools.told.emit("")
        self._renew()
        with self._lock:
            for left in self.regions():
                # A new queue numbers its regions anew.
                if self._queue is not None and (left.plane, left.window) == (region.plane, region.window):
                    self._queue.skip(left.number)
        self._go_on()

    def _fly_to(self, region: UncertainRegion) -> None:
        window = region.window
        margin = max(_SURROUNDINGS_PX, max(window.height, window.width) // 2)
        self.workspace.fly_to(
            window.row - margin,
            window.col - margin,
            window.height + 2 * margin,
            window.width + 2 * margin,
            region.plane,
        )

    def _begin(self) -> int:
        """Note that a queue is being built from now on; gives the plan's number."""
        with self._lock:
            self._plan_number += 1
            self.stale, self._building, self._missed = False, True, []
            return self._plan_number

    def _renew(self) -> None:
        """Build the queue here and now, unless it is up to date."""
        # What is being built elsewhere would later take the place of the queue that the person goes on with.
        if self.stale or self._building or self._queue is None:
            build = self.plan()
            self.install(build() if build is not None else None)

    def _use(self, built: Any) -> None:
        """Take what was built, or nothing, for the queue; the lock is held."""
        self._queue = built.queue if built is not None else None
        self.current = None

    def _need_writable(self) -> Session:
        session = self.workspace.session
        assert session is not None
        if session.read_only:
            raise JournalError(session.read_only)
        return session

    def _go_on(self) -> None:
        try:
            self.next()
        except DataError as error:
            self.current = None
            self.tools.told.emit(str(error))
            self.changed.emit()

    def _need_on_screen(self) -> tuple[UncertainRegion, BoolArray]:
        """The region flown to, which is to be on screen: nobody decides on what is not seen."""
        region, where_HW = self._need_current()
        session = self.workspace.session
        if session is not None and session.stacked and region.plane != self.workspace.plane:
            shown = session.scenes[self.workspace.plane].name
            self._fly_to(region)
            raise DataError(
                f"Scene {shown} was on screen, and the region is of {session.scenes[region.plane].name}. It is on "
                "screen again: look at it, then choose once more."
            )
        return region, where_HW

    def _need_current(self) -> tuple[UncertainRegion, BoolArray]:
        if self.current is None or self._queue is None:
            raise DataError("No region is chosen. Fly to the next one first.")
        with self._lock:
            return self.current, self._queue.where(self.current.number)

    def _watch(self, session: Any, mask: Any) -> None:
        """Listen to the strokes and reviews of a session, and to no others."""
        before, before_mask = self._watched
        if before is not None:
            before.reviewed.disconnect(self._on_reviewed, missing_ok=True)
            before.reloaded.disconnect(self._on_reloaded, missing_ok=True)
        if before_mask is not None and self._on_recorded in before_mask.recorded:
            before_mask.recorded.remove(self._on_recorded)
        self._watched = session, mask
        if session is not None:
            session.reviewed.connect(self._on_reviewed)
            session.reloaded.connect(self._on_reloaded)
        if mask is not None:
            mask.recorded.append(self._on_recorded)

    def _on_recorded(self, stroke_id: int) -> None:
        session = self._watched[0]
        if session is None or session.closed:
            return
        stroke = session.journal.stroke(stroke_id)
        if stroke.tool in self.unseen_tools:
            return
        with self._lock:
            for patch in stroke.patches:
                self._mark_patch(patch)
                if self._building:
                    self._missed.append(patch)
        self.changed.emit()

    def _mark_patch(self, patch: Patch) -> None:
        """Note that what a stroke changed was looked at; the lock is held."""
        if self._queue is not None:
            mark(self._watched[0], self._queue, patch.tile_id, (patch.row, patch.col), patch.edited)

    def _on_reviewed(self, tile_id: str) -> None:
        # A tile may lose its approval as well as gain it.
        self._on_reloaded()

    def _on_reloaded(self) -> None:
        # What was drawn and dropped is to be looked at again.
        self.stale = True
        self.changed.emit()


def mark(session: Session, queue: AttentionQueue, tile_id: str, corner: tuple[int, int], where_HW: BoolArray) -> None:
    """Note in a queue that pixels of a tile were looked at.

    Tiles of another scene are passed over, and those that are not open: the journal knows tiles of other splits, and
    such as were deleted.
    """
    if tile_id not in session.tile_ids:
        return
    number, place = session.find(tile_id)
    end = corner[0] + where_HW.shape[0], corner[1] + where_HW.shape[1]
    if end[0] > place.tile.height or end[1] > place.tile.width:
        # The tile was exchanged for a smaller one.
        return
    if session.stacked or number == session.scene_number:
        window = Window(place.row + corner[0], place.col + corner[1], *where_HW.shape)
        queue.mark(number if session.stacked else 0, window, where_HW)


def on_tiles(
    scene: Mosaic, window: Window, where_HW: BoolArray
) -> Iterator[tuple[str, tuple[int, int], tuple[slice, slice]]]:
    """The tiles that an area lies on: id, the area's first pixel there, and which part of the area it is."""
    for place in scene.tiles_in(window):
        top, left = max(window.row, place.row), max(window.col, place.col)
        bottom = min(window.row + window.height, place.row + place.tile.height)
        right = min(window.col + window.width, place.col + place.tile.width)
        part = slice(top - window.row, bottom - window.row), slice(left - window.col, right - window.col)
        if where_HW[part].any():
            yield place.tile.id, (top - place.row, left - place.col), part
