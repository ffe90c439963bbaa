"""What was drawn in a dataset, by whom and when; taking it out again; writing it down. No Qt."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.correction.history import Sitting, reversal, revert_group, sittings
from napari_glacier.core.correction.patch_files import By, export_corrections
from napari_glacier.core.correction.reviews import approved_sentence
from napari_glacier.core.correction.strokes import REVERT, StrokeInfo
from napari_glacier.core.errors import DataError, JournalError
from napari_glacier.core.wording import counted

# A browser shows so many at first; older ones are reached by asking for more.
LIMIT = 300
_ALL = 1_000_000
# Around a stroke that is flown to.
_MARGIN_PX = 20


@dataclass(frozen=True, slots=True)
class Reverted:
    """What taking strokes out did.

    Attributes
    ----------
    num_changed : int
        Pixels that got back what they were.
    num_covered : int
        Pixels that stay, because something was drawn over them later.
    num_locked : int
        Pixels that stay, because their class is locked.
    approved : tuple of str
        Tiles that stay, because they are approved.
    stroke_ids : tuple of int
        The new strokes.
    """

    num_changed: int
    num_covered: int
    num_locked: int = 0
    approved: tuple[str, ...] = ()
    stroke_ids: tuple[int, ...] = ()

    @property
    def sentence(self) -> str:
        """What a person is told."""
        said = f"{counted(self.num_changed, 'pixel')} got back what they were." if self.num_changed else ""
        if self.num_covered:
            said += f" {counted(self.num_covered, 'pixel')} stay: something was drawn over them later."
        if self.num_locked:
            said += f" {counted(self.num_locked, 'pixel')} stay: their class is locked."
        if self.approved:
            said += f" {approved_sentence(self.approved)}"
        return said.strip() or "Nothing changed: these pixels are what they were already."


def revert(session: Session, stroke_ids: Collection[int], tile_ids: Collection[str] | None = None) -> Reverted:
    """Take strokes out again by new ones: where something was drawn over them later, that stays.

    Parameters
    ----------
    session : Session
    stroke_ids : collection of int
    tile_ids : collection of str, optional
        Only on these tiles.

    Raises
    ------
    JournalError
        If the dataset is held elsewhere, or the journal cannot be written.
    """
    if session.journal.read_only:
        raise JournalError(session.read_only)
    session.commit()
    chosen = frozenset(stroke_ids)
    touched = {patch.tile_id for number in chosen for patch in session.journal.stroke(number).patches}
    touched &= set(session.tile_ids) if tile_ids is None else set(tile_ids)
    approved = touched & session.approved
    by_mask: dict[int, dict[str, Any]] = {}
    num_covered = num_locked = 0
    for tile_id in sorted(touched - approved):
        number = 0 if session.stacked else session.find(tile_id)[0]
        present_HW = session.mask_of(number).tile(tile_id)
        taken = reversal(session.journal.on_tile(tile_id), tile_id, chosen, present_HW)
        by_mask.setdefault(number, {})[tile_id] = (taken.values_HW, taken.where_HW)
        num_covered += taken.num_covered
        locked_HW = np.isin(present_HW, sorted(session.locked_classes))
        num_locked += int(np.count_nonzero(taken.where_HW & locked_HW & (taken.values_HW != present_HW)))
    # A group for each scene: undo there takes back what was reverted there.
    made = [
        session.mask_of(number).assign_tiles(tiles, REVERT, revert_group(chosen)) for number, tiles in by_mask.items()
    ]
    new = [stroke_id for stroke_id in made if stroke_id is not None]
    num_changed = sum(session.journal.num_pixels(new).values())
    return Reverted(num_changed, num_covered, num_locked, tuple(sorted(approved)), tuple(new))


class HistoryController:
    """Decides what the history browser does.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        # Strokes never change, so they are counted once.
        self._pixels: dict[int, int] = {}
        self._counted_for: Any = None

    def strokes(self, limit: int = LIMIT, tile_id: str = "") -> list[StrokeInfo]:
        """The latest strokes, newest first; on one tile where it is given. None where no dataset is open."""
        session = self.workspace.session
        if session is None:
            return []
        session.commit()
        return list(session.journal.history(limit, tile_id=tile_id))

    def num_pixels(self, strokes: Sequence[StrokeInfo]) -> dict[int, int]:
        """How many pixels each of these strokes changed; may be asked from another thread."""
        session = self._need_session()
        if session is not self._counted_for:
            self._pixels, self._counted_for = {}, session
        unknown = [stroke.id for stroke in strokes if stroke.id not in self._pixels]
        self._pixels.update(session.journal.num_pixels(unknown))
        return {stroke.id: self._pixels[stroke.id] for stroke in strokes}

    def sitting_of(self, stroke_id: int) -> Sitting:
        """The sitting that a stroke belongs to: one person's strokes without a rest of half an hour."""
        for sitting in sittings(self._need_session().journal.history(_ALL)):
            if stroke_id in sitting.stroke_ids:
                return sitting
        raise DataError(f"There is no stroke {stroke_id}.")

    def revert_stroke(self, stroke_id: int) -> str:
        """Take one stroke out; gives a sentence on what that did."""
        return self._revert([stroke_id])

    def revert_tile(self, tile_id: str) -> str:
        """Take everything out that was ever drawn on a tile."""
        session = self._need_session()
        session.commit()
        return self._revert([stroke.id for stroke in session.journal.on_tile(tile_id)], [tile_id])

    def revert_sitting(self, stroke_id: int) -> str:
        """Take out the sitting that a stroke belongs to."""
        discarded = {one.id for one in self.sitting_of(stroke_id).strokes if one.discarded}
        return self._revert([number for number in self.sitting_of(stroke_id).stroke_ids if number not in discarded])

    def fly_to(self, stroke_id: int) -> None:
        """Show where a stroke was drawn; the tile with most of it, where it spans several scenes."""
        session = self._need_session()
        patches = [p for p in session.journal.stroke(stroke_id).patches if p.tile_id in set(session.tile_ids)]
        if not patches:
            raise DataError("The tiles of this stroke are no longer in the dataset.")
        largest = max(patches, key=lambda patch: patch.before_HW.size)
        number, _ = session.find(largest.tile_id)
        if not session.stacked and number != session.scene_number:
            self.workspace.show_scene(number)
        corners = []
        for patch in patches:
            other, at = session.find(patch.tile_id)
            if other == number:
                top, left = at.row + patch.row, at.col + patch.col
                corners.append((top, left, top + patch.before_HW.shape[0], left + patch.before_HW.shape[1]))
        top, left = np.min(corners, axis=0)[:2] - _MARGIN_PX
        bottom, right = np.max(corners, axis=0)[2:] + _MARGIN_PX
        self.workspace.fly_to(top, left, bottom - top, right - left, number if session.stacked else 0)

    def export(self, folder: Path, by: By = "stroke") -> str:
        """Write all corrections as patches into a new or empty folder; gives a sentence on what was written."""
        session = self._need_session()
        session.commit()
        rows = export_corrections(session.dataset, session.journal, folder, by)
        return f"{len(rows):,} patches and corrections.csv written to {folder}."

    def _revert(self, stroke_ids: Sequence[int], tile_ids: Sequence[str] | None = None) -> str:
        session = self._need_session()
        if not stroke_ids:
            return "Nothing was drawn there."
        done = revert(session, stroke_ids, tile_ids)
        if done.stroke_ids:
            self.workspace.draw_strokes(done.stroke_ids)
            self.workspace.painted.emit()
        return done.sentence

    def _need_session(self) -> Session:
        if self.workspace.session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        return self.workspace.session
