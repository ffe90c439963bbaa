"""Bringing strokes to the journal: in the order they were drawn, after a moment of rest, and again after a failure."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Lock, RLock, Thread, current_thread
from time import monotonic

from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.strokes import Patch
from napari_glacier.core.errors import JournalError

IDLE_S = 0.3
# A full disk is not asked again at every idle moment.
RETRY_S = 3.0

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class WaitingStroke:
    """A stroke on its way to the journal; `id` is set once it is there."""

    patches: list[Patch]
    tool: str
    model: str | None
    group: str | None
    bases: dict[str, str] = field(default_factory=dict)
    id: int | None = None


class StrokeRecorder:
    """A queue of strokes before the journal, with a thread that empties it when a person rests.

    The thread lives while something is pending and ends by itself.

    Parameters
    ----------
    journal : Journal
    collect : callable
        Queues what is pending with its owner; called with `lock` held.
    is_pending : callable
        Whether the owner has something to collect; called with `lock` held.
    lock : RLock
        The owner's lock; never held while the journal is written, so that editing goes on.
    idle_s : float
        How long a person rests before the strokes are recorded.
    """

    def __init__(
        self,
        journal: Journal,
        collect: Callable[[], object],
        is_pending: Callable[[], bool],
        lock: RLock,
        idle_s: float,
    ) -> None:
        self.recorded: list[Callable[[int], None]] = []
        self.errors: list[Callable[[JournalError], None]] = []
        self._journal = journal
        self._collect = collect
        self._is_pending = is_pending
        self._wake = Condition(lock)
        self._idle_s = idle_s
        self._queue: deque[WaitingStroke] = deque()
        self._sending = Lock()
        self._thread: Thread | None = None
        self._due = 0.0
        self._closed = False

    def __len__(self) -> int:
        return len(self._queue)

    def append(self, stroke: WaitingStroke) -> None:
        """Queue a stroke; the owner's lock is held."""
        self._queue.append(stroke)

    def touch(self) -> None:
        """Something was edited: record it after a rest; the owner's lock is held."""
        self._due = monotonic() + self._idle_s
        if self._thread is None and not self._closed:
            self._thread = Thread(target=self._run, name="record edits", daemon=True)
            self._thread.start()

    def send(self) -> int | None:
        """Record the queued strokes, oldest first; the owner's lock is not held.

        Returns
        -------
        int or None
            Id of the last one.

        Raises
        ------
        JournalError
            If the journal cannot be written; what is not recorded stays queued.
        """
        ids: list[int] = []
        try:
            with self._sending:
                while self._queue:
                    stroke = self._queue[0]
                    stroke.id = self._journal.record(
                        stroke.patches, tool=stroke.tool, model=stroke.model, group=stroke.group, bases=stroke.bases
                    )
                    ids.append(stroke.id)
                    self._queue.popleft()
        finally:
            for stroke_id in ids:
                for callback in list(self.recorded):
                    callback(stroke_id)
        with self._wake:
            if not self._is_pending():
                self._due = 0.0
                self._wake.notify_all()
        return ids[-1] if ids else None

    def close(self) -> None:
        """Stop the thread; what is queued stays unrecorded."""
        with self._wake:
            self._closed = True
            thread = self._thread
            self._wake.notify_all()
        if thread is not None and thread is not current_thread():
            thread.join()

    def _run(self) -> None:
        try:
            while self._rested():
                try:
                    self.send()
                except JournalError as error:
                    _logger.warning("A stroke could not be recorded and is kept: %s", error)
                    with self._wake:
                        self._due = monotonic() + max(RETRY_S, self._idle_s)
                    for callback in list(self.errors):
                        callback(error)
        except BaseException:
            # A callback of the owner failed; the next edit starts a new thread.
            with self._wake:
                self._thread = None
            raise

    def _rested(self) -> bool:
        """Wait for a rest and collect; False where nothing is left to do, and the thread is signed off."""
        with self._wake:
            while not self._closed and (self._queue or self._is_pending()):
                wait_s = self._due - monotonic()
                if wait_s <= 0:
                    self._collect()
                    return True
                self._wake.wait(wait_s)
            self._thread = None
            return False
