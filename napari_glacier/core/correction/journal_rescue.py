"""Bringing a damaged journal back: what can still be read goes into a new file, and the old one is kept beside it."""

import sqlite3
from contextlib import closing
from datetime import datetime
from itertools import groupby
from pathlib import Path

from napari_glacier.core.correction.journal_remains import Remains, is_time, read_remains
from napari_glacier.core.correction.journal_schema import (
    DISCARDED,
    MIGRATIONS,
    REVIEW_STATES,
    REVIEW_TABLE,
    SAVED,
    SCHEMA,
    SCHEMA_VERSION,
    SEEN_TABLE,
    SETTLED_TABLE,
    UNSAVED,
)
from napari_glacier.core.correction.sqlite_pages import Pages, with_log
from napari_glacier.core.errors import JournalError
from napari_glacier.core.files import replacing

_USUAL_PAGE, _PAGE_SIZES = 4096, (512, 1024, 2048, 4096, 8192, 16384, 32768)
# What SQLite keeps beside a file; next to another one it would be taken for that one's.
_BESIDE = ("-wal", "-shm", "-journal")
_OPTIONAL = {"review": REVIEW_TABLE, "seen": SEEN_TABLE, "settled": SETTLED_TABLE}


def is_damaged(path: Path) -> bool:
    """Whether a file is a journal that does not hold together; one of another program or a newer version is not."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        versions = set(file.read(20)[18:])
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.text_factory = lambda text: text.decode(errors="replace")
            # Of a version that it does not know SQLite writes nothing.
            return not _is_sound(connection) or not versions <= {1, 2}
    except sqlite3.OperationalError as error:
        # The statements are right, so the file is not what it was; a full disk is no damage.
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return True


def rescue(path: Path) -> str:
    """Put a new journal with all that can be read in the place of a damaged one, which is kept under another name.

    Whatever moment it is interrupted at, nothing is lost, and it can be done again.

    Returns
    -------
    str
        What came back and what did not, in words.

    Raises
    ------
    JournalError
        If nothing in the file is of a journal; it stays as it is.
    OSError
        If the files cannot be written.
    """
    content, log = path.read_bytes(), Path(f"{path}-wal")
    size = _page_size(content)
    whole = with_log(content, log.read_bytes(), size) if log.is_file() else content
    remains = read_remains(Pages(whole, size))
    if not any(remains.tables.values()) and b"CREATE TABLE stroke" not in whole:
        raise JournalError(
            f"{path} is damaged or no journal: nothing of one can be read. Rename it, and a new one is made."
        )
    kept = path.with_suffix(f".damaged-{datetime.now():%Y%m%d-%H%M%S-%f}{path.suffix}")
    for ending in (*_BESIDE, ""):
        beside = Path(f"{path}{ending}")
        if beside.is_file():
            _replace(Path(f"{kept}{ending}"), beside.read_bytes())
    # First the log goes into the file, only then it can be done without.
    _replace(path, whole)
    for ending in _BESIDE:
        Path(f"{path}{ending}").unlink(missing_ok=True)
    with replacing(path) as temporary:
        _write(temporary, remains)
    return _sentence(kept, remains)


def _is_sound(connection: sqlite3.Connection) -> bool:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    if version > SCHEMA_VERSION or not tables.keys() & {"stroke", "patch"}:
        return True
    if version < 1 or connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
        return False
    expected = {name: _plain(sql) for name, sql in _statements(version).items()}
    if any(
        _plain(tables.get(name)) != sql for name, sql in expected.items() if name in tables or name not in _OPTIONAL
    ):
        return False
    # Nothing is ever deleted, so the number that SQLite keeps is that of the last stroke.
    last = connection.execute("SELECT MAX(id) FROM stroke").fetchone()
    counted = connection.execute("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'stroke'").fetchone()
    reviews = {review for (review,) in connection.execute("SELECT DISTINCT review FROM tile")}
    states = {state for (state,) in connection.execute("SELECT DISTINCT state FROM patch")}
    times = connection.execute("SELECT time FROM stroke")
    known = reviews <= set(REVIEW_STATES) and states <= {UNSAVED, SAVED, DISCARDED}
    return last == counted and known and all(is_time(time) for (time,) in times)


def _statements(version: int) -> dict[str, str]:
    """The statement that made each table of a journal of a version."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(";".join((SCHEMA, *_OPTIONAL.values())))
        made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql LIKE 'CREATE TABLE%'"))
    for old in range(version, SCHEMA_VERSION):
        made["tile"] = made["tile"].replace(f", {MIGRATIONS[old].split(' COLUMN ')[1]}", "")
    return made


def _plain(sql: str | None) -> str:
    """A statement without its spaces, which differ where a column was added later."""
    return "".join((sql or "").split())


def _page_size(content: bytes) -> int:
    """Bytes of a page: what the header says, or what is usual, whichever gives more rows."""
    said = int.from_bytes(content[16:18])
    sizes = dict.fromkeys((_USUAL_PAGE, said if said in _PAGE_SIZES else _USUAL_PAGE))
    pages = {size: Pages(content, size) for size in sizes}
    return max(sizes, key=lambda size: sum(1 for number in pages[size].numbers for _ in pages[size].rows(number)))


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _write(path: Path, remains: Remains) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for name, rows in remains.tables.items():
            if rows:
                connection.execute(_OPTIONAL.get(name, ""))
                places = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {name} VALUES ({places})", rows)
        connection.commit()


def _sentence(kept: Path, remains: Remains) -> str:
    number, lacking = len(remains.tables["stroke"]), remains.lacking
    said = "The journal was damaged: "
    if not number:
        said += "no stroke could be read."
    elif lacking:
        said += (
            f"of {number} strokes {number - len(lacking)} came back whole; these lack something: {_named(lacking)}. "
        )
        said += "What was saved of them is in the mask files, the rest is to be drawn again."
    else:
        said += f"all {number} strokes came back." if number != 1 else "its stroke came back."
    if remains.nameless:
        said += f" Who drew {len(remains.nameless)} of them, and when, could not be read."
    if remains.unsure_tiles:
        said += f" Look at the review states of {', '.join(remains.unsure_tiles)}."
    return f"{said} The damaged file is kept as {kept}."


def _named(lacking: dict[int, set[str]]) -> str:
    """Numbers of strokes, those in a row together, and the tiles they lost something of where these are known."""
    texts = []
    for _, run in groupby(enumerate(lacking), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        tiles = sorted(set().union(*(lacking[number] for number in numbers)))
        text = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
        texts.append(f"{text} ({', '.join(tiles)})" if tiles else text)
    return ", ".join(texts)
