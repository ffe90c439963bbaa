"""Work that calls back to tell of its progress, as a generator that can be closed in between."""

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Step:
    """How far work has come: steps done and in all, and what is being done."""

    done: int
    total: int
    what: str


class _StoppedError(Exception):
    """Raised within the work at its next call back, to end it."""


def as_steps(work: Callable[[Callable[[int, int, str], None]], Result]) -> Generator[Step, None, Result]:
    """Run `work` in a thread of its own and yield what it tells.

    Closing the generator ends the work at its next call back, and waits for that.

    Parameters
    ----------
    work : callable
        Gets what it calls with steps done, steps in all, and words.

    Returns
    -------
    object
        What `work` gives; what it raises is raised.
    """
    news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    stopped = threading.Event()

    def tell(done: int, total: int, what: str) -> None:
        if stopped.is_set():
            raise _StoppedError
        news.put(("step", Step(done, total, what)))

    def run() -> None:
        try:
            news.put(("return", work(tell)))
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where the generator is run
            news.put(("error", error))

    thread = threading.Thread(target=run, name="glacier-steps")
    thread.start()
    try:
        while True:
            kind, value = news.get()
            if kind == "error":
                raise value
            if kind == "return":
                result: Result = value
                return result
            yield value
    finally:
        stopped.set()
        thread.join()
