"""What a damaged journal still says: rows that are whole, and which strokes lack something.

A journal says most things twice. Patches are numbered and carry checksums, indexes name rows that are gone, and nothing
is ever deleted, so that a number without a row is a loss.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from napari_glacier.core.correction.journal_schema import DISCARDED, REVIEW_STATES, SAVED, UNSAVED
from napari_glacier.core.correction.sqlite_pages import Pages, Values
from napari_glacier.core.correction.strokes import unpack, unpack_patch

# A stroke of which nothing came back: its number is not missed again.
LOST = "lost"
_UNKNOWN = "unknown"
_LONG_AGO = "1970-01-01T00:00:00.000+00:00"
# A stroke takes several times as much, but the end of the file may be gone.
_FEWEST_BYTES = 20

# The kinds of the columns of each table and index: null, integer, string, bytes.
_COLUMNS = {
    "sqlite_master": "sssi[ns]",
    "sqlite_sequence": "si",
    "stroke": "nssss[ns]",
    "review": "nsssss",
    "patch": "nisiiiibbi",
    "seen": "nsiiiibss",
    "settled": "nsiiiibss",
    "tile": "ss[ns][ns][in][ns][ns]?",
    "patch_of_stroke": "ii",
    "patch_unsaved": "sii",
    "sqlite_autoindex_tile_1": "si",
}
_KINDS = {type(None): "n", int: "i", str: "s", bytes: "b"}

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Remains:
    """What goes into a new journal, and what does not.

    Attributes
    ----------
    tables : dict of str to list of rows
        Of each table of the schema.
    lacking : dict of int to set of str
        Strokes of which not all could be read, and the tiles they are known to have lost something of.
    nameless : tuple of int
        Strokes whose pixels came back without author and time.
    unsure_tiles : tuple of str
        Tiles whose review state could not be read.
    """

    tables: dict[str, list[Row]]
    lacking: dict[int, set[str]]
    nameless: tuple[int, ...]
    unsure_tiles: tuple[str, ...]


def read_remains(pages: Pages) -> Remains:
    """Gather what the pages of a damaged journal say."""
    owners = _owners(pages)
    rows, entries = _rows(pages, owners), _entries(pages, owners)
    patches, spoilt = _sort_out(rows["patch"])
    _set_states(patches, {(tile, stroke, number) for tile, stroke, number in entries["patch_unsaved"]})
    last = _last_stroke(rows, patches, pages.num_bytes)
    lacking = _lacking(patches, spoilt, entries, last)
    whole = {values[1] for values in patches.values()}
    strokes: list[Row] = []
    nameless = []
    for number in range(1, last + 1):
        row = rows["stroke"].get(number)
        if row is None and number in whole:
            nameless.append(number)
        if number not in whole and (row is None or row[2] != LOST):
            lacking.setdefault(number, set())
        strokes.append(_stroke(number, row, strokes, is_lost=number not in whole))
    tiles, unsure = _tiles(rows, entries, patches)
    tables = {name: [(k, *row[1:]) for k, row in sorted(rows[name].items())] for name in ("review", "seen", "settled")}
    in_order = sorted(patches.items(), key=lambda item: (item[1][1], item[0]))
    tables |= {
        "stroke": strokes,
        "patch": [(k, *row[1:]) for k, (_, row) in enumerate(in_order, 1)],
        "tile": tiles,
    }
    return Remains(tables, dict(sorted(lacking.items())), tuple(nameless), unsure)


def is_time(text: object) -> bool:
    """Whether a text is a time as the journal writes it."""
    try:
        return datetime.fromisoformat(str(text)).tzinfo is not None
    except ValueError:
        return False


def _owners(pages: Pages) -> dict[int, str]:
    """The table or index that a page belongs to, of those that can be reached."""
    owners: dict[int, str] = {}
    for number in pages.numbers:
        for _, values in pages.rows(number):
            if _is_of("sqlite_master", values) and values[1] in _COLUMNS:
                owners |= dict.fromkeys(pages.tree(int(values[3] or 0)), str(values[1]))
    return owners


def _rows(pages: Pages, owners: dict[int, str]) -> dict[str, dict[int, Row]]:
    """Rows of each table by their ids; what a table reaches takes the place of what lies about."""
    rows: dict[str, dict[int, Row]] = {name: {} for name in _COLUMNS}
    for number in sorted(pages.numbers, key=lambda number: number in owners):
        for row_id, values in pages.rows(number):
            name = owners.get(number) or _table_of(values)
            if name and _is_of(name, values):
                known = rows[name].get(row_id, values)
                # Two patches may have come to one number; another state of the same is no other patch.
                rows[name][row_id if known[:-1] == values[:-1] or name != "patch" else -len(rows[name])] = values
    return rows


def _entries(pages: Pages, owners: dict[int, str]) -> dict[str, set[Row]]:
    entries: dict[str, set[Row]] = {name: set() for name in _COLUMNS}
    for number in pages.numbers:
        name = owners.get(number, "")
        for values in pages.entries(number):
            if name and _is_of(name, values):
                entries[name].add(values)
    return entries


def _is_of(name: str, values: Values) -> bool:
    return bool(re.fullmatch(_COLUMNS[name], "".join(_KINDS[type(value)] for value in values)))


def _table_of(values: Values) -> str | None:
    """The table of a row that none reaches."""
    if _is_of("stroke", values) and is_time(values[4]):
        return "stroke"
    if _is_of("review", values) and is_time(values[5]):
        return "review"
    if _is_of("seen", values):
        _, _, _, _, height, width, pixels, _, _ = values
        area_HW = unpack(pixels, height, width)  # type: ignore[arg-type]  # as the columns of the table are
        return None if area_HW is None else "seen" if area_HW.max(initial=0) <= 1 else "settled"
    return next((name for name in ("patch", "tile", "sqlite_sequence") if _is_of(name, values)), None)


def _sort_out(rows: dict[int, Row]) -> tuple[dict[int, Row], dict[int, Row]]:
    """Patches that are whole, and those that the disk spoilt."""
    whole = {number: row for number, row in rows.items() if unpack_patch(*row[1:9]) is not None}
    return whole, {number: row for number, row in rows.items() if number not in whole}


def _set_states(patches: dict[int, Row], waiting: set[Row]) -> None:
    """Believe the index which patches wait to be saved; on a tile none waits that is older than a saved one."""
    saved: dict[str, int] = {}
    for number, (_, stroke, tile, *_, state) in patches.items():
        if state == SAVED and (tile, stroke, number) not in waiting:
            saved[tile] = max(stroke, saved.get(tile, 0))
    for number, row in patches.items():
        _, stroke, tile, *_, state = row
        if (tile, stroke, number) in waiting:
            state = UNSAVED
        elif state not in (SAVED, DISCARDED):
            state = SAVED if stroke < saved.get(tile, 0) else UNSAVED
        patches[number] = (*row[:-1], state)


def _last_stroke(rows: dict[str, dict[int, Row]], patches: dict[int, Row], num_bytes: int) -> int:
    """Number of the last stroke: what SQLite counted, unless the file is too small for so many."""
    drawn = max((int(row[1]) for row in patches.values()), default=0)
    counted = [int(row[1]) for row in rows["sqlite_sequence"].values() if row[0] == "stroke"]
    said = max(counted or rows["stroke"], default=0)
    return max(drawn, said if said <= num_bytes // _FEWEST_BYTES else 0)


def _lacking(
    patches: dict[int, Row], spoilt: dict[int, Row], entries: dict[str, set[Row]], last: int
) -> dict[int, set[str]]:
    """Strokes of which patches are gone or spoilt, and of which tiles where that is known."""
    tiles = {row[2] for row in patches.values()}
    of_stroke: dict[int, set[int]] = defaultdict(set)
    for number, row in patches.items():
        of_stroke[row[1]].add(number)
    expected: dict[int, set[int]] = defaultdict(set)
    for stroke, number in entries["patch_of_stroke"]:
        if number not in patches or patches[number][1] == stroke:
            expected[stroke].add(number)
    lacking: dict[int, set[str]] = defaultdict(set)
    for stroke, numbers in expected.items():
        if 0 < stroke <= last and len(numbers) > len(of_stroke[stroke]):
            lacking[stroke] |= {
                tile for tile, _, number in entries["patch_unsaved"] if number in numbers - of_stroke[stroke]
            }
    for _, stroke, tile, *_ in spoilt.values():
        if 0 < stroke <= last:
            lacking[stroke] |= {tile} & tiles
    # Where the index is gone, too, the patches beside a gap tell whose it may be.
    known = {number for numbers in expected.values() for number in numbers} | spoilt.keys()
    in_order = sorted(number for number in patches if number > 0)
    for before, after in pairwise(in_order):
        strokes = {patches[before][1], patches[after][1]}
        if set(range(before + 1, after)) - known and max(strokes) - min(strokes) <= 1:
            for stroke in strokes:
                lacking.setdefault(stroke, set())
    return dict(lacking)


def _stroke(number: int, row: Row | None, earlier: list[Row], *, is_lost: bool) -> Row:
    """A stroke as it is kept; of one that has no row any more each rescue says the same, so that copies stay copies."""
    time = earlier[-1][4] if earlier else _LONG_AGO
    _, group, tool, author, said, model = row or (None, f"{_UNKNOWN} {number}", _UNKNOWN, _UNKNOWN, time, None)
    return number, group, LOST if is_lost else tool, author, said if is_time(said) else time, model


def _tiles(
    rows: dict[str, dict[int, Row]], entries: dict[str, set[Row]], patches: dict[int, Row]
) -> tuple[list[Row], tuple[str, ...]]:
    """Rows of the tiles, and of which the review state could not be read."""
    said = {row[1]: row[2] for _, row in sorted(rows["review"].items())}
    drawn = {row[2] for row in patches.values()}
    waiting = {row[2] for row in patches.values() if row[-1] == UNSAVED}
    found = {row[0]: (*row, None)[:7] for row in rows["tile"].values() if row[1] in REVIEW_STATES}
    known = said.keys() | ({name for name, _ in entries["sqlite_autoindex_tile_1"]} & drawn)
    lost = sorted(known - found.keys())
    for tile in lost:
        state = said.get(tile) or ("in progress" if tile in waiting else "edited")
        found[tile] = (tile, state, None, None, None, None, None)
    return list(found.values()), tuple(lost)
