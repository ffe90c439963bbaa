"""A generator in a thread of its own, whose news reach the widget on the GUI thread."""

import gc
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

_POLL_MS = 30
# News are listened to for so long at once; what is left waits until the window has had its turn.
_TURN_S = 0.02

_jobs_lock = threading.Lock()
_num_jobs = 0

_News = tuple[Literal["step", "return", "error"], Any]


class Background:
    """Runs a generator in a thread.

    Cancelled, it tells nothing any more, at once; the generator is closed in its own thread as soon as it comes to
    its next step. So a window never waits for what cannot be interrupted, like the conversion of a network.

    Parameters
    ----------
    parent : QWidget
        Nothing is told once it is gone; whoever closes it cancels.
    job : generator
    on_step, on_return : callable
        Get what the generator yields and returns.
    on_error : callable (BaseException) -> None
    """

    def __init__(
        self,
        parent: QWidget,
        job: Generator[Any, None, Any],
        on_step: Callable[[Any], None],
        on_return: Callable[[Any], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._listeners = {"step": on_step, "return": on_return, "error": on_error}
        self._cancelled = threading.Event()
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._timer = QTimer(parent)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._listen)
        # The thread must hold nothing of Qt: what it let go of last would be destroyed in it.
        # No daemon: a thread that is killed within a network takes the process with it.
        self._thread = threading.Thread(target=_run, args=(job, self._news, self._cancelled), name="glacier-job")
        self._thread.start()
        self._timer.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread is still there; for a moment also after it was cancelled."""
        return self._thread.is_alive()

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Tell nothing any more, and stop at the next step."""
        self._cancelled.set()
        self._timer.stop()

    def _listen(self) -> None:
        end = time.monotonic() + _TURN_S
        while not self.cancelled and time.monotonic() < end:
            try:
                kind, news = self._news.get_nowait()
            except queue.Empty:
                return
            if kind != "step":
                self._timer.stop()
            self._listeners[kind](news)


def _run(job: Generator[Any, None, Any], news: "queue.SimpleQueue[_News]", cancelled: threading.Event) -> None:
    with _old_objects_left_alone():
        try:
            while not cancelled.is_set():
                news.put(("step", next(job)))
        except StopIteration as end:
            news.put(("return", end.value))
        except BaseException as error:  # noqa: BLE001 - raised where the person looks
            news.put(("error", error))
        finally:
            job.close()


@contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Keep the collector of garbage to what is made while jobs run.

    A job that makes many objects sets off full collections, and with napari's own hundreds of thousands of objects
    each of them holds up all threads, the window's included, for 0.2 to 0.6 s.
    """
    global _num_jobs  # noqa: PLW0603 - the collector is one for the process
    with _jobs_lock:
        if _num_jobs == 0:
            gc.freeze()
        _num_jobs += 1
    try:
        yield
    finally:
        with _jobs_lock:
            _num_jobs -= 1
            if _num_jobs == 0:
                gc.unfreeze()
