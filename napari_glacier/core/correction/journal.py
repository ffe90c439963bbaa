"""The journal of a data set: every stroke, in the file once drawn; what is saved; the tiles' review states.

One SQLite file beside the tiles. The process that holds its lock file writes; another one reads, and learns
who holds it. Nothing is ever deleted: patches are unsaved, saved, or discarded.
"""

import logging
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.correction.journal_elsewhere import copy_once, take_over
from napari_glacier.core.correction.journal_file import JournalFile
from napari_glacier.core.correction.journal_place import JOURNAL_NAME, is_writable_folder, user_journal_path, user_name
from napari_glacier.core.correction.journal_schema import DISCARDED, REVIEW_STATES, SAVED, UNSAVED
from napari_glacier.core.correction.reviews import (
    EDITED,
    IN_PROGRESS,
    TODO,
    ReviewEvent,
    ReviewLog,
)
from napari_glacier.core.correction.seen import SeenAreas
from napari_glacier.core.correction.settled import SettledAreas
from napari_glacier.core.correction.strokes import (
    MOVES,
    Patch,
    Stroke,
    StrokeInfo,
    pack_patch,
    seal_patch,
    unpack_patch,
    utc_now,
    within,
)
from napari_glacier.core.correction.unsaved_changes import UnsavedChanges
from napari_glacier.core.errors import JournalError

__all__ = ["Journal", "Patch", "Stroke", "StrokeInfo"]

# The tool of a stroke that stands for others, on a mask file that another program changed.
KEEP = "keep"
# Accepting everything at once, and going back and forth, is no work on a tile.
NO_WORK = MOVES | {"accept", KEEP}

# Later than any.
_NO_STROKE = 2**62
# The base of a tile's first save is kept as its origin: it tells a mask that came with the data from one made
# here. While the two are equal nothing was saved, and the origin follows the base.
_SET_BASE = """
INSERT INTO tile (tile_id, base, origin) SELECT tile_id, base, base FROM (SELECT ? AS tile_id, ? AS base) WHERE true
ON CONFLICT (tile_id) DO UPDATE SET base = excluded.base, origin = COALESCE(NULLIF(origin, base), excluded.base)
"""
_BEGIN_REVIEW = f"""
INSERT INTO tile (tile_id, review, review_time) VALUES (?, '{IN_PROGRESS}', ?)
ON CONFLICT (tile_id) DO UPDATE SET review = excluded.review, review_time = excluded.review_time
WHERE review = '{TODO}'
"""
_logger = logging.getLogger(__name__)


class Journal:
    """The journal of one data set; open it with `Journal.open`. Safe to use from several threads.

    Attributes
    ----------
    path : Path
        Where it lies.
    file : JournalFile
        What holds it; for queries of other modules that keep something in it.
    read_only : bool
        Another process holds the journal: nothing can be recorded here.
    holder : str or None
        Who holds it, where that is another process.
    mended : str
        What came back of a damaged file on opening, and what did not; empty where it was sound.
    author : str
        Written with each stroke.
    seen : SeenAreas
        Areas that were looked at and found right.
    settled : SettledAreas
        What of a second opinion was turned down.
    reviews : ReviewLog
        What was said of the tiles.
    damaged : set of int
        Strokes read so far that lack what could not be read of them.
    """

    def __init__(self, file: JournalFile, author: str) -> None:
        self.file = file
        self.author = author
        self.path = file.path
        self.seen = SeenAreas(file)
        self.settled = SettledAreas(file)
        self.reviews = ReviewLog(file)
        self.damaged: set[int] = set()
        # Asked for with every look at the desk; finding them takes a walk through all strokes.
        self._authors: list[str] | None = None
        self._authors_lock = Lock()
        self._unsaved_changes = UnsavedChanges(file, self._strokes)
        self.read_only = file.read_only
        self.holder = file.holder
        self.mended = file.mended

    @classmethod
    def open(cls, root: Path, author: str | None = None) -> "Journal":
        """Open the journal of the data set in `root`, making it where there is none.

        Where the folder is read-only, or its file system gives no locks, the journal lies in the user's data
        folder; strokes and review states kept there are brought home once the folder can be written.

        Raises
        ------
        JournalError
            If the file is no journal, was written by a newer version, or cannot be created. Of a damaged one
            everything that can be read comes back; see `mended`.
        """
        root = Path(root).absolute()
        author = author or user_name()
        elsewhere = user_journal_path(root)
        at_home = "it is read-only"
        if is_writable_folder(root):
            try:
                journal = cls(JournalFile(root / JOURNAL_NAME), author)
            except (OSError, NotImplementedError) as error:
                at_home = _reason(error)
                _logger.warning("The journal of %s is kept in %s: %s", root, elsewhere.parent, at_home)
            else:
                journal._bring_home(elsewhere)
                return journal
        try:
            elsewhere.parent.mkdir(parents=True, exist_ok=True)
            copy_once(root / JOURNAL_NAME, elsewhere)
            return cls(JournalFile(elsewhere), author)
        except (OSError, NotImplementedError) as error:
            raise JournalError(
                f"A journal can be kept neither in {root} ({at_home}) nor in {elsewhere.parent} ({_reason(error)}), "
                "so edits would be lost. Free disk space, make one of them writable, or name a folder on a local "
                "disk in NAPARI_GLACIER_DATA_DIR."
            ) from error

    def close(self) -> None:
        """Close the file and give up the lock; again is harmless."""
        self.file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(
        self,
        patches: Sequence[Patch],
        *,
        tool: str,
        model: str | None = None,
        group: str | None = None,
        bases: Mapping[str, str] | None = None,
    ) -> int:
        """Write one stroke. Tiles that were ``todo`` are ``in progress`` then.

        It outlives the process when this returns; the disk has it a moment later (`JournalFile.wait_for_disk`).

        Parameters
        ----------
        patches : sequence of Patch
        tool : str
            What made it: paint, fill, undo, …
        model : str, optional
            The model whose prediction was accepted.
        group : str, optional
            Common to strokes that belong together; a new one where not given.
        bases : mapping of str to str, optional
            Base fingerprints of tiles, set in the same transaction.

        Returns
        -------
        int
            The stroke's id; ids grow.

        Raises
        ------
        JournalError
            If the disk is full or the journal is held by another process; nothing was written then.
        """
        stroke = Stroke(0, group or uuid.uuid4().hex, tool, self.author, utc_now(), model, tuple(patches))
        return self.insert(stroke, bases or {}, begins_review=tool not in NO_WORK, waits=False)

    def insert(
        self,
        stroke: Stroke,
        bases: Mapping[str, str],
        *,
        begins_review: bool = False,
        set_aside: Collection[str] = (),
        stands_for: str | None = None,
        waits: bool = True,
    ) -> int:
        """Write a stroke; its patches on tiles that are `set_aside` are kept as discarded ones.

        What waits on the tile that it `stands_for` waits no longer. Returns when the disk has it, if it `waits`.
        """
        packed = [(pack_patch(p), DISCARDED if p.tile_id in set_aside else UNSAVED) for p in stroke.patches]
        with self.file.writing(waits) as connection:
            if stands_for is not None:
                waiting = f"state = {UNSAVED} AND tile_id = ?"
                connection.execute(f"UPDATE patch SET state = {SAVED} WHERE {waiting}", (stands_for,))
            cursor = connection.execute(
                "INSERT INTO stroke (grp, tool, author, time, model) VALUES (?, ?, ?, ?, ?)",
                (stroke.group, stroke.tool, stroke.author, stroke.time, stroke.model),
            )
            stroke_id = cursor.lastrowid
            assert stroke_id is not None
            connection.executemany(
                "INSERT INTO patch (stroke_id, tile_id, row, col, height, width, before, after, state) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(stroke_id, *seal_patch(patch, stroke_id), state) for patch, state in packed],
            )
            connection.executemany(_SET_BASE, bases.items())
            if begins_review:
                tiles = sorted({patch.tile_id for patch in stroke.patches})
                connection.executemany(_BEGIN_REVIEW, [(tile_id, stroke.time) for tile_id in tiles])
        with self._authors_lock:
            if self._authors is not None and stroke.author not in self._authors:
                self._authors.append(stroke.author)
        return stroke_id

    def unsaved(self, tile_id: str | None = None) -> list[Stroke]:
        """Strokes in order, each with those of its patches that are not saved yet (of one tile, where given).

        Patches already saved are left out: replaying them would bring old values back.
        """
        where, values = f"state = {UNSAVED}", ()
        if tile_id is not None:
            return self._strokes(f"{where} AND tile_id = ?", (tile_id,))
        return self._strokes(where, values)

    def drawn(self, except_tools: Sequence[str] = ()) -> list[Patch]:
        """Patches of all strokes that were not discarded, oldest first, but for those of some tools."""
        places = ", ".join("?" * len(except_tools))
        strokes = self._strokes(f"state != {DISCARDED} AND s.tool NOT IN ({places})", tuple(except_tools))
        return [patch for stroke in strokes for patch in stroke.patches]

    def touched(self, tile_id: str, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Pixels of a tile that somebody drew, saved or not, undone or not, or found right, bool (H, W)."""
        where_HW = np.zeros(shape, bool)
        names = tuple(sorted(NO_WORK))
        places = ", ".join("?" * len(names))
        drawn = f"state != {DISCARDED} AND tile_id = ? AND s.tool NOT IN ({places})"
        for stroke in self._strokes(drawn, (tile_id, *names)):
            for patch in stroke.patches:
                if patch.fits(shape):
                    where_HW[patch.slices] |= patch.edited
        for area in self.seen.all():
            if area.tile_id == tile_id and within(area.slices, shape):
                where_HW[area.slices] |= area.where_HW
        return where_HW

    def unsaved_tiles(self) -> dict[str, int]:
        """Tiles with unsaved patches, and how many strokes those belong to."""
        rows = self.file.read(
            f"SELECT tile_id, COUNT(DISTINCT stroke_id) FROM patch WHERE state = {UNSAVED} GROUP BY tile_id"
        )
        return dict(rows)

    def changed_tiles(self) -> dict[str, int]:
        """`unsaved_tiles` without those whose strokes were all taken back: their mask files are as the labels are.

        Classes that a hand painted over and painted back count as changed.
        """
        return self._unsaved_changes.tiles()

    def stroke(self, stroke_id: int) -> Stroke:
        """One stroke with all its patches, saved or not; `JournalError` where there is none of that id."""
        found = self._strokes("stroke_id = ?", (stroke_id,))
        if not found:
            raise JournalError(f"{self.path} has no stroke {stroke_id}. Take an id from the history.")
        return found[0]

    def discard_unsaved(self, tile_ids: Iterable[str]) -> None:
        """Give up the unsaved patches of tiles; they stay in the file, marked discarded.

        The tiles' bases are forgotten: the next strokes are drawn on the files as they are then.
        """
        tiles = [(tile_id,) for tile_id in tile_ids]
        with self.file.writing() as connection:
            connection.executemany(
                f"UPDATE patch SET state = {DISCARDED} WHERE state = {UNSAVED} AND tile_id = ?", tiles
            )
            connection.executemany(
                "UPDATE tile SET base = NULL, origin = NULLIF(origin, base) WHERE tile_id = ?", tiles
            )

    def on_tile(self, tile_id: str) -> list[Stroke]:
        """Strokes on a tile that were not discarded, oldest first, each with its patches there, saved or not."""
        return self._strokes(f"state != {DISCARDED} AND tile_id = ?", (tile_id,))

    def num_pixels(self, stroke_ids: Iterable[int]) -> dict[int, int]:
        """How many pixels each stroke changed."""
        counts = {}
        for stroke_id in stroke_ids:
            patches = self._strokes("stroke_id = ?", (stroke_id,))
            counts[stroke_id] = sum(int(patch.edited.sum()) for stroke in patches for patch in stroke.patches)
        return counts

    def history(self, limit: int = 100, older_than: int | None = None, tile_id: str = "") -> list[StrokeInfo]:
        """The latest strokes without their pixels, newest first.

        Parameters
        ----------
        limit : int
        older_than : int, optional
            Only strokes before this one.
        tile_id : str
            Only strokes on this tile, where one is given.
        """
        on_tile = "AND id IN (SELECT stroke_id FROM patch WHERE tile_id = ?) " if tile_id else ""
        rows = self.file.read(
            "SELECT s.id, s.grp, s.tool, s.author, s.time, s.model, p.tile_id, MIN(p.state) FROM "
            f"(SELECT * FROM stroke WHERE id < ? {on_tile}ORDER BY id DESC LIMIT ?) s "
            "JOIN patch p ON p.stroke_id = s.id "
            "GROUP BY s.id, p.tile_id ORDER BY s.id DESC, p.tile_id",
            (_NO_STROKE if older_than is None else older_than, *([tile_id] if tile_id else []), limit),
        )
        found: dict[int, StrokeInfo] = {}
        for stroke_id, group, tool, author, time, model, tile, state in rows:
            before = found.get(stroke_id)
            tiles = (*before.tile_ids, tile) if before else (tile,)
            unsaved = state == UNSAVED or (before is not None and before.unsaved)
            discarded = state == DISCARDED and (before is None or before.discarded)
            found[stroke_id] = StrokeInfo(stroke_id, group, tool, author, time, model, tiles, unsaved, discarded)
        return list(found.values())

    def authors(self) -> list[str]:
        """Who drew strokes, in the order of their first ones."""
        with self._authors_lock:
            # While this process holds the journal nobody else adds one.
            if self._authors is None or self.read_only:
                rows = self.file.read("SELECT author FROM stroke GROUP BY author ORDER BY MIN(id)")
                self._authors = [name for (name,) in rows]
            return list(self._authors)

    def review(self, tile_id: str) -> str:
        """Review state of a tile: one of `REVIEW_STATES`, ``todo`` at first."""
        return str(self._tile_field("review", tile_id) or REVIEW_STATES[0])

    def review_states(self) -> dict[str, str]:
        """Review state of every tile that the journal knows."""
        return dict(self.file.read("SELECT tile_id, review FROM tile"))

    def set_review(self, tile_id: str, state: str, note: str = "") -> None:
        """Set the review state of a tile; the state, the note, the author and the time are kept in `reviews`."""
        if state not in REVIEW_STATES:
            raise JournalError(f"{state!r} is no review state. Use one of: {', '.join(REVIEW_STATES)}.")
        self.reviews.add([ReviewEvent(tile_id, state, note.strip(), self.author, utc_now())])

    def base_fingerprint(self, tile_id: str) -> str | None:
        """Fingerprint of the mask that a tile's unsaved strokes were drawn on; None before the first stroke."""
        return self._tile_field("base", tile_id)

    def origin_fingerprint(self, tile_id: str) -> str | None:
        """The first base fingerprint a tile ever had; ``absent`` where its mask was made here."""
        return self._tile_field("origin", tile_id)

    def set_base_fingerprint(self, tile_id: str, fingerprint: str) -> None:
        """Say which mask the unsaved strokes of a tile belong on."""
        with self.file.writing() as connection:
            connection.execute(_SET_BASE, (tile_id, fingerprint))

    def rebase(self, whole: Patch, fingerprint: str) -> int:
        """Let one stroke stand for all unsaved ones of a tile, on another base; these count as saved from then on.

        Parameters
        ----------
        whole : Patch
            The tile as it is without its unsaved strokes and with them.
        fingerprint : str
            Of the mask without them.

        Returns
        -------
        int
            The new stroke's id.
        """
        group, tile_id = uuid.uuid4().hex, whole.tile_id
        stroke = Stroke(0, group, KEEP, self.author, utc_now(), None, (whole,))
        return self.insert(stroke, {tile_id: fingerprint}, stands_for=tile_id)

    def begin_save(self, tile_id: str, up_to: int, fingerprint_after: str) -> None:
        """Note that the strokes of a tile up to id `up_to` are about to be written, giving `fingerprint_after`."""
        with self.file.writing() as connection:
            connection.execute(
                "INSERT INTO tile (tile_id, saving_up_to, saving_fingerprint) VALUES (?, ?, ?) ON CONFLICT (tile_id) "
                "DO UPDATE SET saving_up_to = excluded.saving_up_to, saving_fingerprint = excluded.saving_fingerprint",
                (tile_id, up_to, fingerprint_after),
            )

    def finish_save(self, tile_id: str) -> None:
        """Mark the strokes of the save that was begun as saved; its fingerprint becomes the tile's base.

        A tile that was ``in progress`` is ``edited`` then.
        """
        with self.file.writing() as connection:
            connection.execute(
                f"UPDATE patch SET state = {SAVED} WHERE state = {UNSAVED} AND tile_id = ? "
                "AND stroke_id <= (SELECT saving_up_to FROM tile WHERE tile_id = ?)",
                (tile_id, tile_id),
            )
            connection.execute(
                "UPDATE tile SET base = COALESCE(saving_fingerprint, base), saving_up_to = NULL, "
                "saving_fingerprint = NULL WHERE tile_id = ?",
                (tile_id,),
            )
            connection.execute(
                f"UPDATE tile SET review = '{EDITED}', review_time = ? WHERE tile_id = ? AND review = '{IN_PROGRESS}'",
                (utc_now(), tile_id),
            )

    def forget_save(self, tile_id: str) -> None:
        """Drop the note of `begin_save`: nothing was written."""
        with self.file.writing() as connection:
            connection.execute(
                "UPDATE tile SET saving_up_to = NULL, saving_fingerprint = NULL WHERE tile_id = ?", (tile_id,)
            )

    def begun_saves(self) -> dict[str, str]:
        """Tiles whose save was begun and not finished, with the fingerprint the file has if it was written."""
        return dict(self.file.read("SELECT tile_id, saving_fingerprint FROM tile WHERE saving_fingerprint IS NOT NULL"))

    def _tile_field(self, field: str, tile_id: str) -> str | None:
        rows = self.file.read(f"SELECT {field} FROM tile WHERE tile_id = ?", (tile_id,))
        return rows[0][0] if rows else None

    def _strokes(self, where: str, values: tuple[Any, ...]) -> list[Stroke]:
        rows = self.file.read(
            "SELECT s.id, s.grp, s.tool, s.author, s.time, s.model, "
            "p.tile_id, p.row, p.col, p.height, p.width, p.before, p.after "
            f"FROM patch p JOIN stroke s ON s.id = p.stroke_id WHERE {where} ORDER BY s.id, p.id",
            values,
        )
        patches: dict[tuple[Any, ...], list[Patch]] = {}
        for row in rows:
            found = patches.setdefault(row[:6], [])
            if (patch := unpack_patch(row[0], *row[6:])) is not None:
                found.append(patch)
            elif row[0] not in self.damaged:
                # It does not take the others with it.
                _logger.warning("%s is damaged: not all of stroke %d could be read", self.path, row[0])
                self.damaged.add(row[0])
        return [
            Stroke(stroke_id, group, tool, author, time, model, tuple(found))
            for (stroke_id, group, tool, author, time, model), found in patches.items()
        ]

    def _bring_home(self, elsewhere: Path) -> None:
        """Take over what the journal in the user's folder holds, where there is one, then set that one aside.

        A failure leaves that journal where it is, for the next opening.
        """
        if self.read_only or not elsewhere.is_file():
            return
        try:
            with Journal(JournalFile(elsewhere), self.author) as other:
                if other.read_only:
                    return
                take_over(self, other)
                self.file.wait_for_disk()
                self.mended = f"{self.mended} {other.mended}".strip()
            elsewhere.replace(elsewhere.with_suffix(f".taken-over-{datetime.now():%Y%m%d-%H%M%S}.sqlite"))
        except (OSError, NotImplementedError) as error:
            _logger.warning("%s could not be taken over and is kept: %s", elsewhere, _reason(error))
        except BaseException:
            self.close()
            raise


def _reason(error: OSError | NotImplementedError) -> str:
    return getattr(error, "strerror", None) or str(error) or "its file system gives no locks"
