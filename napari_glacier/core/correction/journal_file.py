"""The SQLite file of a journal: its lock, its schema, and transactions that a crash cannot halve."""

import contextlib
import logging
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from napari_glacier.core.correction.journal_place import is_network_path, user_name
from napari_glacier.core.correction.journal_rescue import is_damaged, rescue
from napari_glacier.core.correction.journal_schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION
from napari_glacier.core.errors import JournalError

_BUSY_TIMEOUT_S = 5.0
# SQLite brings its log home when it has so many pages, 64 MB, and the stroke waits; else when the journal is closed.
_LOG_PAGES = 16_384
_logger = logging.getLogger(__name__)


class JournalFile:
    """An open journal file. The process that got its lock file writes; another one reads.

    Safe to use from several threads. What was written outlives the process at once, and a power cut when the disk has
    it: a disk takes a few milliseconds, now and then half a second, so that a thread may wait for it in one's place.

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
        # SQLite's write-ahead log, which is what the disk has to take, and who sees to that; None where there is none.
        self._log: int | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal to disk")
        self._taken: Future[None] | None = None
        self._failed: OSError | None = None
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
            self._disk.shutdown()
            log, self._log = self._log, None
            if log is not None:
                os.close(log)
            connection, self._connection = self._connection, None
            if connection is not None:
                if not self.read_only:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("PRAGMA synchronous = FULL")
                        connection.execute("DELETE FROM holder")
                connection.close()
            if self._file_lock is not None:
                self._file_lock.release()
                self._file_lock = None

    def read(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        with self._lock, self._explained("read"):
            return self._open_connection().execute(query, values).fetchall()

    def wait_for_disk(self) -> None:
        """Return once the disk has all that was written; `JournalError` where it did not take it."""
        taken = self._taken
        if taken is not None:
            taken.result()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise JournalError(
                f"{self.path} could not be brought to the disk ({failed}): what was drawn last is lost if the computer "
                "goes down now. Check the disk, then save."
            ) from failed

    @contextlib.contextmanager
    def writing(self, waits: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is written afterwards, or nothing.

        Parameters
        ----------
        waits : bool
            Until the disk has it, too. Else a thread does; where it fails, the next transaction says so.
        """
        if self.read_only:
            raise JournalError(
                f"{self.path} is held by {self.holder}; here it can only be read. "
                "Close the data set there, then open it again."
            )
        if self._failed is not None:
            self.wait_for_disk()
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
            if self._log is not None and (self._taken is None or self._taken.running() or self._taken.done()):
                # One that has not begun takes this, too.
                try:
                    self._taken = self._disk.submit(self._bring_to_disk, self._log)
                except RuntimeError:
                    # Python is ending, and starts no thread any more.
                    self._bring_to_disk(self._log)
        if waits:
            self.wait_for_disk()

    def _bring_to_disk(self, log: int) -> None:
        try:
            os.fsync(log)
        except OSError as error:
            _logger.warning("%s could not be brought to the disk: %s", self.path, error)
            self._failed = error

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
            mode = "DELETE" if is_network_path(self.path) else "WAL"
            (mode,) = connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
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
        if mode == "wal":
            # Held open, as the folder may be renamed; from now on the log is brought to the disk here.
            self._log = os.open(f"{self.path}-wal", os.O_RDWR | getattr(os, "O_BINARY", 0))
            connection.execute("PRAGMA synchronous = NORMAL")

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
