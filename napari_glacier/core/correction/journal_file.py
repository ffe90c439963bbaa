"""The SQLite file of a journal: its lock, its schema, and transactions that a crash cannot halve."""

import contextlib
import logging
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from napari_glacier.core.correction.journal_place import is_network_path, user_name
from napari_glacier.core.correction.journal_rescue import is_damaged, rescue
from napari_glacier.core.correction.journal_schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION
from napari_glacier.core.errors import JournalError

_BUSY_TIMEOUT_S = 5.0
_logger = logging.getLogger(__name__)


class JournalFile:
    """An open journal file. The process that got its lock file writes; another one reads.

    Safe to use from several threads.

    Parameters
    ----------
    path : Path
        The file; made where there is none.

    Attributes
    ----------
    read_only : bool
        Another process holds the lock.
    holder : str or None
        Who holds it, where that is another process.
    mended : str
        What came back of a damaged file, and what did not; empty where it was sound.

    Raises
    ------
    JournalError
        If the file is no journal, was written by a newer version, or cannot be created.
    OSError, NotImplementedError
        If the lock file cannot be written or locked: no permission, no space, a file system without locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holder: str | None = None
        self.mended = ""
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file_lock: FileLock | None = FileLock(f"{path}.lock", thread_local=False)
        try:
            self._file_lock.acquire(timeout=0)
        except Timeout:
            self._file_lock = None
        self.read_only = self._file_lock is None
        try:
            if not self.read_only and is_damaged(path):
                self.mended = rescue(path)
                _logger.warning("%s", self.mended)
            self._connect()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and give up the lock; again is harmless."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                if not self.read_only:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("DELETE FROM holder")
                connection.close()
            if self._file_lock is not None:
                self._file_lock.release()
                self._file_lock = None

    def read(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        with self._lock, self._explained("read"):
            return self._open_connection().execute(query, values).fetchall()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on disk afterwards, or nothing."""
        if self.read_only:
            raise JournalError(
                f"{self.path} is held by {self.holder}; here it can only be read. "
                "Close the data set there, then open it again."
            )
        with self._lock, self._explained("written"):
            connection = self._open_connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise

    def _connect(self) -> None:
        if self.read_only and not self.path.exists():
            raise self._not_ready()
        with self._explained("opened"):
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._connection = connection
            # A spoilt letter of a name keeps nobody from the strokes.
            connection.text_factory = lambda text: text.decode(errors="replace")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise JournalError(
                    f"{self.path} was written by a newer napari-glacier (journal version {version}, this one reads "
                    f"up to {SCHEMA_VERSION}). Update napari-glacier to open it."
                )
            if self.read_only:
                if version == 0:
                    raise self._not_ready()
                connection.execute("PRAGMA query_only = ON")
                self.holder = self._read_holder()
                return
            # A write-ahead log needs shared memory; over a network the plain journal is the safe one.
            connection.execute(f"PRAGMA journal_mode = {'DELETE' if is_network_path(self.path) else 'WAL'}")
            connection.execute("PRAGMA synchronous = FULL")
            if version == 0:
                self._create(connection)
            for old in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
                with self.writing():
                    connection.execute(MIGRATIONS[old])
                    connection.execute(f"PRAGMA user_version = {old + 1}")
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
        with self.writing() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO holder VALUES (1, ?, ?, ?, ?)",
                (os.getpid(), socket.gethostname(), user_name(), now),
            )

    def _create(self, connection: sqlite3.Connection) -> None:
        if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise JournalError(
                f"{self.path} is an SQLite file of another program. Move it out of the data set's folder."
            )
        with self.writing():
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _read_holder(self) -> str:
        rows = self.read("SELECT user, host, pid, since FROM holder")
        if not rows:
            return "another process"
        user, host, pid, since = rows[0]
        return f"{user} on {host} (process {pid}, since {since})"

    def _not_ready(self) -> JournalError:
        return JournalError(f"{self.path} is just being made by another process. Open the data set again.")

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise JournalError(f"{self.path} is closed. Open the data set again.")
        return self._connection

    @contextlib.contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.OperationalError):
                mend = "Free disk space, check that the folder can be written, then try again."
            else:
                mend = "The file is damaged: close the data set and open it again, and what can be read comes back."
            raise JournalError(f"{self.path} could not be {done} ({error}). {mend}") from error
