"""Correcting labels: classes, tools, locks, undo, saving, review states. No Qt."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from psygnal import Signal

from napari_glacier.controllers.adapting import AdaptController
from napari_glacier.controllers.attention import AttentionController
from napari_glacier.controllers.disagreement import DisagreementController
from napari_glacier.controllers.history import HistoryController
from napari_glacier.controllers.journal_undo import JournalUndo
from napari_glacier.controllers.painting import forget_history
from napari_glacier.controllers.pointer import CLASS_KEYS, REDO_KEY, UNDO_KEY, Pointer
from napari_glacier.controllers.region_walk import RegionWalk
from napari_glacier.controllers.review import ReviewController
from napari_glacier.controllers.seeing import SIDE_BY_SIDE, SWIPE, SeeingController
from napari_glacier.controllers.tools import ToolController
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.reviews import approved_sentence
from napari_glacier.core.correction.saving import SaveReport
from napari_glacier.core.errors import DataError, JournalError, SaveError
from napari_glacier.core.wording import counted, listed

TOOLS = ("paint", "fill", "polygon", "erase", "pick", "pan_zoom")


@dataclass(frozen=True, slots=True)
class ClassButton:
    """What the button of a class shows."""

    index: int
    name: str
    color: str
    key: str
    locked: bool
    selected: bool


class CorrectionController:
    """Decides what the Correct widget does with the Labels layer of a workspace.

    Parameters
    ----------
    workspace : Workspace

    Attributes
    ----------
    tools : ToolController
        Tools beside napari's own.
    attention : AttentionController
        What to look at next.
    disagreement : DisagreementController
        What somebody else sees otherwise.
    review : ReviewController
        States of the tiles, and the walk from one to the next.
    history : HistoryController
        What was drawn, and taking it out again.
    adapting : AdaptController
        Models that learn from the corrections at once.
    seeing : SeeingController
        Two pictures of one place, compared by eye.
    pointer : Pointer
        Mouse and keys of the tools.

    Signals
    -------
    changed() : class, tool, brush or lock
    status_changed() : strokes, saved state, review
    """

    changed = Signal()
    status_changed = Signal()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._layer: Any = None
        self._session: Any = None
        self.tools = ToolController(workspace)
        self.attention = AttentionController(workspace, self.tools)
        self.disagreement = DisagreementController(workspace, self.tools)
        self.review = ReviewController(workspace)
        self.history = HistoryController(workspace)
        self.adapting = AdaptController(workspace)
        self.seeing = SeeingController(workspace)
        self.pointer = Pointer(
            self.tools,
            {
                "next tile": self.review.next,
                "previous tile": self.review.previous,
                "approve tile": self.review.approve,
                "next": partial(self.go, "next"),
                "accept region": partial(self.go, "accept region"),
                "fixed": partial(self.go, "fixed"),
                "skip": partial(self.go, "skip"),
                "swipe": lambda: self.seeing.toggle(SWIPE),
                "side by side": lambda: self.seeing.toggle(SIDE_BY_SIDE),
            },
            held={"flicker": self.seeing.flip},
        )
        self._journal_undo = JournalUndo(workspace)
        self._drew_with = ""
        # Whether the last undo or redo said so.
        self._nothing_left = False
        workspace.session_changed.connect(self._on_session)
        workspace.layers_changed.connect(self._follow_layer)
        workspace.locks_changed.connect(self._on_locks)
        self._on_session(workspace.session)

    @property
    def walk(self) -> RegionWalk:
        """Through which regions the keys lead: differing ones while one compares, else uncertain ones."""
        return self.attention if self.disagreement.source is None else self.disagreement

    def go(self, what: str) -> None:
        """Do with the region on screen, as `walk` has it: next, accept region, fixed, skip."""
        walk = self.walk
        acts: dict[str, Callable[[], object]] = {
            "next": walk.next,
            "accept region": walk.accept,
            "fixed": walk.fixed,
            "skip": walk.skip,
        }
        acts[what]()

    @property
    def writable(self) -> bool:
        """Whether this window may correct the dataset (another one may hold it)."""
        session = self.workspace.session
        return session is not None and not session.read_only

    @property
    def ready(self) -> bool:
        """Whether there is a Labels layer to correct."""
        return self._layer is not None

    @property
    def classes(self) -> tuple[ClassButton, ...]:
        """The classes of the open dataset, background first."""
        session, layer = self.workspace.session, self._layer
        if session is None:
            return ()
        scheme = session.scheme
        selected = int(layer.selected_label) if layer is not None else -1
        locked = session.locked_classes
        return tuple(
            ClassButton(index, name, scheme.colors[index], CLASS_KEYS[index], index in locked, index == selected)
            for index, name in enumerate(scheme.class_names)
        )

    @property
    def tool(self) -> str:
        """The Labels layer's mode."""
        return str(self._layer.mode) if self._layer is not None else "pan_zoom"

    @property
    def brush_px(self) -> int:
        """Diameter of the brush in pixels."""
        return int(self._layer.brush_size) if self._layer is not None else 10

    def select_class(self, index: int) -> None:
        """Paint with a class from now on; looking around becomes painting."""
        layer = self._need_layer()
        layer.selected_label = index
        self.workspace.viewer.layers.selection.active = layer
        if not self.tools.tool and str(layer.mode) in {"pan_zoom", "transform", "erase", "pick"}:
            self.set_tool("paint")
        self.changed.emit()

    def set_tool(self, tool: str) -> None:
        """Change the layer's mode; the journal notes strokes under the tool's name."""
        layer = self._need_layer()
        self.workspace.viewer.layers.selection.active = layer
        self.tools.select("")
        if tool != str(layer.mode):
            self.tools.told.emit("")
        layer.mode = tool

    def set_brush(self, diameter_px: int) -> None:
        """Change the brush's diameter."""
        self._need_layer().brush_size = max(1, int(diameter_px))

    def lock(self, index: int, locked: bool) -> None:
        """Keep the pixels of a class as they are, whatever is painted over them."""
        session = self.workspace.session
        if session is None:
            return
        (session.locked_classes.add if locked else session.locked_classes.discard)(index)
        session.locks_changed.emit()

    def undo(self) -> None:
        """Take back the last stroke, of this sitting or an unsaved one of an earlier; the journal keeps that, too.

        Where there is none, that is said.

        Raises
        ------
        DataError
            If approved tiles or locked classes keep it.
        JournalError
            If the dataset is held by another window; also of `redo`.
        """
        self._need_layer()
        self._need_writable()
        self._tell_nothing_left("" if self._journal_undo.undo() else "undo")
        self.status_changed.emit()

    def redo(self) -> None:
        """Draw again what was taken back; where there is nothing, that is said."""
        self._need_layer()
        self._need_writable()
        self._tell_nothing_left("" if self._journal_undo.redo() else "redo")
        self.status_changed.emit()

    @property
    def status(self) -> str:
        """One sentence on what is not yet in the mask files."""
        session = self.workspace.session
        if session is None:
            return ""
        if session.read_only:
            return session.read_only
        unsaved = session.unsaved()
        if not unsaved:
            return "Everything is saved."
        return f"Corrections in {counted(len(unsaved), 'tile')}, safe in the journal, not yet written to mask files."

    @property
    def has_unsaved(self) -> bool:
        """Whether Save and Discard have something to do."""
        session = self.workspace.session
        return session is not None and not session.closed and not session.read_only and bool(session.unsaved())

    @property
    def recovered(self) -> str:
        """What was brought back from an earlier sitting, or an empty text."""
        session = self.workspace.session
        if session is None or session.recovered is None or session.read_only:
            return ""
        return session.recovered.sentence

    @property
    def conflicts(self) -> str:
        """Which mask files changed outside while corrections to them were waiting."""
        session = self.workspace.session
        if session is None or not session.conflicts:
            return ""
        return (
            f"The mask files of {listed(session.conflicts)} were changed by another program after they were "
            "corrected here. Keep puts the corrections on top of them, Discard drops the corrections."
        )

    def keep_on_top(self) -> None:
        """Put the corrections on top of what another program wrote into the mask files."""
        self._need_session().keep_on_top()

    def save(self) -> str:
        """Write the corrections into the mask files; gives a sentence on what was done.

        Raises
        ------
        SaveError
            If a tile could not be written; names each one and why. What could be written is.
        JournalError
            If the dataset is held by another window.
        """
        session = self._need_writable()
        report = session.save()
        self.status_changed.emit()
        return summarise(report)

    def discard(self) -> str:
        """Drop what was not saved and show the masks as their files are."""
        session = self._need_writable()
        kept = sorted(session.unsaved().keys() & session.approved)
        number = session.discard()
        self.status_changed.emit()
        if kept:
            are = "is approved and keeps its" if len(kept) == 1 else "are approved and keep their"
            return f"{counted(number, 'stroke')} dropped; {listed(kept)} {are} corrections."
        return f"{counted(number, 'stroke')} dropped; the labels are as their files."

    def close(self) -> None:
        """Disconnect from the workspace and its layer."""
        self.pointer.close()
        self.seeing.close()
        self.review.close()
        self.adapting.close()
        self.attention.close()
        self.disagreement.close()
        self.tools.close()
        self._journal_undo.close()
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)
        self.workspace.layers_changed.disconnect(self._follow_layer, missing_ok=True)
        self.workspace.locks_changed.disconnect(self._on_locks, missing_ok=True)
        self._leave_session()
        self._leave_layer()

    def _tell_nothing_left(self, step: str) -> None:
        """Say that a step found nothing, and take that back with the next one that did; an empty text is such a one."""
        if step or self._nothing_left:
            self.tools.told.emit(f"There is nothing left to {step} here." if step else "")
        self._nothing_left = bool(step)

    def _need_layer(self) -> Any:
        if self._layer is None:
            raise DataError("There are no labels to correct. Open a dataset first (Data widget).")
        return self._layer

    def _need_session(self) -> Any:
        if self.workspace.session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        return self.workspace.session

    def _need_writable(self) -> Any:
        session = self._need_session()
        if session.read_only:
            raise JournalError(session.read_only)
        return session

    def _on_session(self, session: Any) -> None:
        self._leave_session()
        self._session = session
        if session is not None:
            session.edited.connect(self._on_edited)
            session.reviewed.connect(self._on_reviewed)
            session.refused.connect(self._on_refused)
        self._follow_layer()
        self.status_changed.emit()

    def _leave_session(self) -> None:
        if self._session is not None:
            self._session.edited.disconnect(self._on_edited, missing_ok=True)
            self._session.reviewed.disconnect(self._on_reviewed, missing_ok=True)
            self._session.refused.disconnect(self._on_refused, missing_ok=True)
        self._session = None

    def _on_locks(self) -> None:
        self.changed.emit()

    def _on_edited(self) -> None:
        self.status_changed.emit()

    def _on_reviewed(self, tile_id: str) -> None:
        if self._layer is not None:
            # napari's own undo knows of no approval; the journal's undo takes its place.
            forget_history(self._layer)
        self.status_changed.emit()

    def _on_refused(self, tile_ids: tuple[str, ...]) -> None:
        self.tools.told.emit(approved_sentence(tile_ids))

    def _follow_layer(self) -> None:
        layer = self.workspace.labels_layer
        if layer is not self._layer:
            self._leave_layer()
            self._layer = layer
            if layer is not None:
                for index in range(len(self.classes)):
                    layer.bind_key(CLASS_KEYS[index], self._key_action(index), overwrite=True)
                # napari's own undo knows nothing of accepted predictions and earlier sittings.
                layer.bind_key(UNDO_KEY, lambda _: self.undo(), overwrite=True)
                layer.bind_key(REDO_KEY, lambda _: self.redo(), overwrite=True)
                layer.events.mode.connect(self._on_mode)
                layer.events.selected_label.connect(self._on_changed)
                layer.events.brush_size.connect(self._on_changed)
                layer.data.tool = str(layer.mode)
        self.changed.emit()

    def _leave_layer(self) -> None:
        if self._layer is not None:
            self._layer.events.mode.disconnect(self._on_mode)
            self._layer.events.selected_label.disconnect(self._on_changed)
            self._layer.events.brush_size.disconnect(self._on_changed)
            for index in range(len(self.classes)):
                self._layer.bind_key(CLASS_KEYS[index], None, overwrite=True)
            for key in (UNDO_KEY, REDO_KEY):
                self._layer.bind_key(key, None, overwrite=True)
        self._layer = None

    def _key_action(self, index: int) -> Any:
        def choose_class(layer: Any) -> None:
            self.select_class(index)

        return choose_class

    def _on_mode(self, event: Any) -> None:
        tool = str(event.mode)
        if tool in TOOLS and self._layer is not None:
            self._layer.data.tool = tool
            if tool not in (self._drew_with, "pan_zoom"):
                self._drew_with = tool
                self.tools.told.emit("")
        self.changed.emit()

    def _on_changed(self, event: Any) -> None:
        self.changed.emit()


def summarise(report: SaveReport) -> str:
    """A sentence on a save.

    Raises
    ------
    SaveError
        If a tile was not written; says which were, and why each other one was not.
    """
    saved = f"{counted(len(report.saved), 'tile')} written: {listed(report.saved)}." if report.saved else ""
    if report.failed:
        raise SaveError(" ".join(filter(None, (saved, *report.failed.values(), report.note))))
    return " ".join(filter(None, (saved or "There was nothing to write.", report.note)))
