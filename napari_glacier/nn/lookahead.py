"""Doing work in threads, in order: the next pieces are read while the present ones are computed."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_POLL_S = 0.02


class Cancelled(Exception):  # noqa: N818 (tells a thread to leave its work, is no error)
    """The consumer has gone."""


class Lookahead(Generic[Task, Result]):
    """Draws tasks from an iterator in one thread, and computes them in others, one for each worker.

    Parameters
    ----------
    tasks : iterator
        What takes time to read; drawn from one at a time, no more than one task ahead of each worker.
    workers : sequence of callable (task, tick) -> result
        Each used by one thread at a time. ``tick(n)`` tells that `n` more steps are done, and ends the thread's
        work where the consumer has gone.
    """

    def __init__(
        self, tasks: Iterator[Task], workers: Sequence[Callable[[Task, Callable[[int], None]], Result]]
    ) -> None:
        self._tasks = tasks
        self._workers: queue.SimpleQueue[Callable[[Task, Callable[[int], None]], Result]] = queue.SimpleQueue()
        for worker in workers:
            self._workers.put(worker)
        self._num_workers = len(workers)
        self._ticks: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._gone = threading.Event()

    def run(self) -> Generator[int | tuple[Task, Result], None, None]:
        """Yield numbers of steps as they are done, and each task with its result, in the order of the tasks.

        Closing the generator ends the work after the step in progress, and waits for it. What is raised in a thread
        is raised here.
        """
        with (
            ThreadPoolExecutor(1, "read-ahead") as reader,
            ThreadPoolExecutor(self._num_workers, "compute") as computer,
        ):
            drawn: deque[Future[Task]] = deque()
            running: deque[tuple[Task, Future[Result]]] = deque()
            try:
                drawn.append(reader.submit(next, self._tasks))
                while drawn or running:
                    while drawn and len(running) <= self._num_workers:
                        try:
                            task = drawn.popleft().result()
                        except StopIteration:
                            break
                        drawn.append(reader.submit(next, self._tasks))
                        running.append((task, computer.submit(self._compute, task)))
                    if running:
                        yield from self._until(running[0][1])
                        task, future = running.popleft()
                        yield task, future.result()
            finally:
                self._gone.set()
                for _, future in running:
                    future.cancel()

    def _compute(self, task: Task) -> Result:
        worker = self._workers.get()
        try:
            return worker(task, self._tick)
        finally:
            self._workers.put(worker)

    def _tick(self, steps: int) -> None:
        if self._gone.is_set():
            raise Cancelled
        self._ticks.put(steps)

    def _until(self, future: "Future[Result]") -> Iterator[int]:
        while not future.done():
            try:
                yield self._ticks.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        while not self._ticks.empty():
            yield self._ticks.get()
