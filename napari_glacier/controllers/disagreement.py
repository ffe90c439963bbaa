"""Where somebody else would give pixels another class: shown, counted, and walked through. No Qt."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.layers import KEY, tag_of, world_placement
from napari_glacier.controllers.region_walk import Built, RegionWalk, on_tiles
from napari_glacier.controllers.session import Session
from napari_glacier.controllers.tools import ToolController
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.attention import AttentionQueue, UncertainRegion
from napari_glacier.core.correction.disagreement import (
    UNSAID,
    Opinions,
    contrary,
    opinions_in,
    without_settled,
    words,
)
from napari_glacier.core.correction.settled import SettledArea
from napari_glacier.core.correction.strokes import MOVES, MaskArray, Patch
from napari_glacier.core.errors import DataError
from napari_glacier.core.tools.components import Area

# What strokes are noted under that take over somebody else's class.
TOOL = "second opinion"
ROLE, LAYER = "second opinion", "Second opinion"
EVERYBODY = "everybody"

_OPACITY = 0.9


@dataclass(frozen=True)
class Disagreements(Built):
    """What was found for a source and a scene, and the queue of it.

    Attributes
    ----------
    other : uint8 array of the mask's shape
        Somebody else's class; `UNSAID` where nobody differs.
    """

    other: npt.NDArray[np.uint8]


class DisagreementController(RegionWalk):
    """Leads from one region to the next that somebody else sees otherwise.

    Parameters
    ----------
    workspace : Workspace
    tools : ToolController
        Writes into the labels.

    Attributes
    ----------
    source : str or Opinions or None
        An author of the journal, `EVERYBODY`, or what was read of a folder; None where nothing is compared.
    """

    nothing_to_go_by = "Nobody's labels are compared. Choose an author, or the folder of a second reviewer."
    nothing_left = "Nothing is left on which the two differ in this scene."

    def __init__(self, workspace: Workspace, tools: ToolController) -> None:
        super().__init__(workspace, tools)
        self.source: str | Opinions | None = None
        self._found: Disagreements | None = None
        self._drawn = False
        self._followed: Any = None
        workspace.session_changed.connect(self._follow)
        workspace.layers_changed.connect(self._follow)
        self._follow()

    # -- whom to compare with

    @property
    def authors(self) -> tuple[str, ...]:
        """Who drew in this dataset, where there are several: `EVERYBODY` first."""
        session = self.workspace.session
        names = session.journal.authors() if session is not None and not session.closed else []
        return (EVERYBODY, *names) if len(names) > 1 else ()

    @property
    def source_name(self) -> str:
        """Author or folder; empty where there is none."""
        return self.source.name if isinstance(self.source, Opinions) else self.source or ""

    def choose_author(self, name: str) -> None:
        """Compare with what an author of the journal drew last, or with what any of them did."""
        self._choose(name)

    def choose_folder(self, folder: Path) -> None:
        """Compare with a second reviewer's masks, or exported corrections.

        Raises
        ------
        GlacierError
            If nothing in the folder belongs to a tile, or it cannot be read.
        """
        session = self.workspace.session
        if session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        self._choose(opinions_in(folder, session.dataset))

    def stop(self) -> None:
        """Compare with nobody; the layer goes."""
        self._choose(None)

    def _choose(self, source: "str | Opinions | None") -> None:
        # What was wrong with another choice is so no longer.
        self.tools.told.emit("")
        self.source = source
        self.stale = True
        self.install(None)

    # -- the queue

    @property
    def available(self) -> bool:
        """Whether there is somebody to compare with."""
        return self.source is not None and self.workspace.labels_layer is not None

    def plan(self) -> Callable[[], Disagreements] | None:
        """What finds the disagreements of the scene on screen; None where there is nobody to compare with."""
        session, source = self.workspace.session, self.source
        if session is None or source is None or self.workspace.labels_layer is None:
            return None
        # Before the plan: these strokes are in the labels that are compared.
        session.commit()
        number = self._begin()
        shape, scenes = session.mask.shape, session.current_scenes
        first = 0 if session.stacked else session.scene_number
        georef = session.georef()
        area_m2 = georef.pixel_area_m2 if georef is not None else None

        def build() -> Disagreements:
            other = np.full(shape, UNSAID, np.uint8)
            settled: dict[str, list[SettledArea]] = {}
            for area in session.journal.settled.all():
                settled.setdefault(area.tile_id, []).append(area)
            for plane, scene in enumerate(scenes):
                for place in scene.placements:
                    tile_HW = _differing(session, source, first + plane, place)
                    if tile_HW is not None:
                        lead = (plane,) if len(shape) == 3 else ()
                        other[(*lead, *place.slices)] = without_settled(tile_HW, settled.get(place.tile.id, ()))
            differs = other != UNSAID
            queue = AttentionQueue(differs, differs, area_m2 / 1e6 if area_m2 else 1.0, threshold=0.5, min_area_px=1)
            return Disagreements(number, queue, other)

        return build

    @property
    def here(self) -> str:
        """What the two say of the region on screen: ``glacier here, debris there``."""
        session, region, found = self.workspace.session, self.current, self._found
        if session is None or region is None or found is None:
            return ""
        _, where_HW = self._need_current()
        if not where_HW.any():
            return ""
        names = session.scheme.class_names
        lead = (region.plane,) if session.stacked else ()
        ours, theirs = (
            np.bincount(np.asarray(data[(*lead, *region.window.slices)])[where_HW]).argmax()
            for data in (session.mask, found.other)
        )
        return f"{names[ours]} in the labels, {names[theirs]} for {self.source_name}"

    def accept(self) -> None:
        """Give the region on screen their class, and go on."""
        region, where_HW = self._need_on_screen()
        session, found = self._need_writable(), self._found
        assert found is not None
        theirs_HW = self._theirs(session, found, region)
        self.tools.write_area(TOOL, Area(region.window, where_HW), np.where(where_HW, theirs_HW, 0).astype(np.uint8))
        self._go_on()

    def fixed(self) -> None:
        """Keep the labels of the region on screen: this class is not offered there again; and go on."""
        region, where_HW = self._need_on_screen()
        session, found = self._need_writable(), self._found
        assert found is not None
        self.tools.told.emit("")
        theirs_HW = np.where(where_HW, self._theirs(session, found, region), np.uint8(UNSAID))
        cuts = on_tiles(session.current_scenes[region.plane], region.window, where_HW)
        areas = [SettledArea(tile_id, *corner, theirs_HW[part]) for tile_id, corner, part in cuts]
        session.journal.settled.add(areas, session.journal.author)
        with self._lock:
            found.queue.settle(region.number)
            lead = (region.plane,) if session.stacked else ()
            found.other[(*lead, *region.window.slices)][where_HW] = UNSAID
        self._drawn = False
        self._go_on()

    # -- the layer

    @property
    def layer(self) -> Any:
        """The layer that shows their classes where they differ, or None."""
        return next((one for one in self.workspace.viewer.layers if tag_of(one).get("role") == ROLE), None)

    def draw(self) -> None:
        """Bring the layer up to date; on the GUI thread."""
        if self._drawn:
            return
        self._drawn = True
        layer, found, session = self.layer, self._found, self.workspace.session
        if found is None or session is None:
            if layer is not None:
                self.workspace.remove_layer(layer)
        elif layer is not None and layer.data is found.other:
            layer.refresh(extent=False)
        else:
            if layer is not None:
                self.workspace.remove_layer(layer)
            self._put_layer(session, found)

    def close(self) -> None:
        """Take the layer away and disconnect from the workspace."""
        self.workspace.session_changed.disconnect(self._follow, missing_ok=True)
        self.workspace.layers_changed.disconnect(self._follow, missing_ok=True)
        self._watch(None, None)
        layer = self.layer
        if layer is not None:
            self.workspace.remove_layer(layer)

    def _put_layer(self, session: Session, found: Disagreements) -> None:
        from napari.utils.colormaps import DirectLabelColormap

        viewer = self.workspace.viewer
        active = viewer.layers.selection.active
        colors: dict[int | None, Any] = {UNSAID: "transparent", None: "transparent"}
        colors |= dict(enumerate(session.scheme.colors))
        layer = viewer.add_labels(
            found.other,
            name=LAYER,
            colormap=DirectLabelColormap(color_dict=colors),
            opacity=_OPACITY,
            metadata={KEY: {"session": session, "role": ROLE}},
            **world_placement(None if session.stacked else session.georef(), found.other.ndim),
        )
        layer.editable = False
        viewer.layers.selection.active = active if active in viewer.layers else layer

    @staticmethod
    def _theirs(session: Session, found: Disagreements, region: UncertainRegion) -> MaskArray:
        lead = (region.plane,) if session.stacked else ()
        theirs_HW: MaskArray = found.other[(*lead, *region.window.slices)].copy()
        return theirs_HW

    def _follow(self, session: Any = None) -> None:
        session = self.workspace.session
        mask = session.mask if session is not None and not session.closed else None
        if self._followed == (session, mask):
            return
        if self._followed is None or self._followed[0] is not session:
            # Another data set: its tiles have other reviewers.
            self.source = None
        self._followed = session, mask
        self._watch(session, mask)
        self.stale = True
        self.install(None)

    def _use(self, built: Any) -> None:
        super()._use(built)
        self._found, self._drawn = built, False

    def _on_recorded(self, stroke_id: int) -> None:
        session = self._watched[0]
        if session is not None and not session.closed and session.journal.stroke(stroke_id).tool in MOVES:
            # What was agreed upon may be so no longer, also where it is being compared at this moment.
            self.stale = True
        super()._on_recorded(stroke_id)

    def _mark_patch(self, patch: Patch) -> None:
        super()._mark_patch(patch)
        session, found = self._watched[0], self._found
        if found is None:
            return
        number, place = session.find(patch.tile_id)
        if session.stacked or number == session.scene_number:
            lead = (number,) if session.stacked else ()
            rows, cols = patch.slices
            part = (
                slice(place.row + rows.start, place.row + rows.stop),
                slice(place.col + cols.start, place.col + cols.stop),
            )
            found.other[(*lead, *part)][patch.edited] = UNSAID
        self._drawn = False


def _differing(session: Session, source: "str | Opinions", number: int, place: Any) -> MaskArray | None:
    """Their class where it is not that of the labels, on a tile; None where they say nothing of it."""
    tile = place.tile
    if isinstance(source, Opinions):
        word_HW = source.of(tile) if tile.id in source.tile_ids else None
        said = [] if word_HW is None else [word_HW]
    else:
        strokes = session.journal.on_tile(tile.id)
        by_author = words(strokes, tile.id, (tile.height, tile.width)) if strokes else {}
        said = list(by_author.values()) if source == EVERYBODY else [by_author[source]] if source in by_author else []
    if not said:
        return None
    present_HW, valid_HW = session.tile_labels(number, place)
    other_HW = contrary(said, present_HW)
    other_HW[~valid_HW] = UNSAID
    return other_HW
