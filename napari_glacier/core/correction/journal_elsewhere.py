"""A journal away from its data set: the copy in the user's folder, and bringing home what was drawn there."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from napari_glacier.core.correction.journal_schema import REVIEW_STATES, UNSAVED
from napari_glacier.core.correction.reviews import APPROVED, SET_STATE, ReviewEvent
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.correction.settled import SettledArea
from napari_glacier.core.correction.strokes import utc_now
from napari_glacier.core.files import replacing

if TYPE_CHECKING:
    from napari_glacier.core.correction.journal import Journal

_logger = logging.getLogger(__name__)

_Area = TypeVar("_Area", SeenArea, SettledArea)


def copy_once(source: Path, target: Path) -> None:
    """Copy a journal with its write-ahead log, so that what it knows is known in the user's folder, too.

    A copy is there whole, or not at all: the log comes first.
    """
    if target.exists() or not source.is_file():
        return
    log = Path(f"{target}-wal")
    # Of a copy that failed.
    log.unlink(missing_ok=True)
    for beside, copy in ((Path(f"{source}-wal"), log), (source, target)):
        if beside.is_file():
            with replacing(copy) as temporary:
                temporary.write_bytes(beside.read_bytes())


def take_over(here: "Journal", there: "Journal") -> None:
    """Bring home another journal's unsaved strokes, and review states that were set later than the ones here.

    What was saved or discarded there is so here.

    Tiles that are approved here stay as they are: strokes on them are kept as discarded ones, and a note on the
    tile tells of them.
    """
    ours, theirs = _reviews(here), _reviews(there)
    # States of journals before version 2 have no time; one of them only takes the place of ``todo``.
    reviews = [
        (tile_id, state, time or None)
        for tile_id, (time, state) in theirs.items()
        if tile_id not in ours or time > ours[tile_id][0]
    ]
    overruled = {tile_id for tile_id, _, _ in reviews}
    locked = {tile_id for tile_id, (_, state) in ours.items() if state == APPROVED and tile_id not in overruled}
    _settle_as(here, there)
    known = set(here.file.read("SELECT grp, tool, author, time FROM stroke"))
    # The other journal began as a copy of this one.
    strokes = [s for s in there.unsaved() if (s.group, s.tool, s.author, s.time) not in known]
    tiles_of = [{patch.tile_id for patch in stroke.patches} for stroke in strokes]
    aside = Counter(tile_id for tiles in tiles_of for tile_id in tiles & locked)
    notes = [
        ReviewEvent(
            tile_id,
            APPROVED,
            f"Set aside: {number} stroke(s) made while the folder was read-only; the tile was approved meanwhile.",
            here.author,
            utc_now(),
        )
        for tile_id, number in aside.items()
    ]
    # Before the strokes: these are known when it is begun anew, and nobody would be told of what was set aside.
    said = [event for event in there.reviews.all() if event not in set(here.reviews.all())]
    if said or notes:
        here.reviews.add([*said, *notes], set_state=False)
    for stroke, tiles in zip(strokes, tiles_of, strict=True):
        bases = {tile: base for tile in tiles - locked if (base := there.base_fingerprint(tile)) is not None}
        here.insert(stroke, bases, set_aside=locked)
    with here.file.writing() as connection:
        connection.executemany(SET_STATE, reviews)
    # They come again with each time that the folder was read-only.
    if looked_at := _not_among(there.seen.all(), here.seen.all()):
        here.seen.add(looked_at, here.author)
    if settled := _not_among(there.settled.all(), here.settled.all()):
        here.settled.add(settled, here.author)
    if strokes or reviews:
        _logger.info(
            "%d unsaved strokes and %d review states were taken over from %s; set aside on approved tiles: %d",
            len(strokes),
            len(reviews),
            there.path,
            aside.total(),
        )


def _settle_as(here: "Journal", there: "Journal") -> None:
    """Mark patches that wait here and were saved or discarded there, in what began as a copy of this."""
    query = "SELECT p.id, p.state, p.tile_id, p.row, p.col, s.grp, s.tool, s.author, s.time FROM patch p "
    query += "JOIN stroke s ON s.id = p.stroke_id "
    waiting = {tuple(row[2:]): row[0] for row in here.file.read(f"{query} WHERE p.state = {UNSAVED}")}
    settled = [
        (state, waiting[tuple(patch)], patch[0])
        for _, state, *patch in there.file.read(f"{query} WHERE p.state != {UNSAVED}")
        if tuple(patch) in waiting
    ]
    tiles = sorted({tile_id for _, _, tile_id in settled})
    fields = [(there.base_fingerprint(one), there.origin_fingerprint(one), one) for one in tiles]
    with here.file.writing() as connection:
        connection.executemany("UPDATE patch SET state = ? WHERE id = ?", [one[:2] for one in settled])
        connection.executemany("UPDATE tile SET base = ?, origin = ? WHERE tile_id = ?", fields)


def _reviews(journal: "Journal") -> dict[str, tuple[str, str]]:
    """When the review state of a tile was set (empty where that is not known), and to what."""
    rows = journal.file.read(
        "SELECT tile_id, COALESCE(review_time, ''), review FROM tile "
        f"WHERE review_time IS NOT NULL OR review != '{REVIEW_STATES[0]}'"
    )
    return {tile_id: (time, state) for tile_id, time, state in rows}


def _not_among(theirs: Sequence[_Area], ours: Sequence[_Area]) -> list[_Area]:
    """Areas of a journal that another one does not know."""
    known = {_key_of(area) for area in ours}
    return [area for area in theirs if _key_of(area) not in known]


def _key_of(area: SeenArea | SettledArea) -> tuple[object, ...]:
    values_HW = area.where_HW if isinstance(area, SeenArea) else area.class_HW
    return area.tile_id, area.row, area.col, values_HW.shape, values_HW.tobytes()
