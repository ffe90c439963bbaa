"""Work in threads: its order, its errors, and its end."""

import threading
import time

import pytest

from napari_glacier.nn.lookahead import Lookahead


def _results(news):
    return [item for item in news if not isinstance(item, int)]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_order_with_every_step_told(num_workers):
    def work(task, tick):
        time.sleep(0.01 * ((task * 7) % 3))
        tick(2)
        tick(1)
        return task * task

    news = list(Lookahead(iter(range(20)), [work] * num_workers).run())
    assert _results(news) == [(n, n * n) for n in range(20)]
    assert sum(item for item in news if isinstance(item, int)) == 60


def test_no_tasks_give_nothing():
    assert list(Lookahead(iter(()), [lambda task, tick: task]).run()) == []


def test_tasks_are_drawn_ahead_but_not_far(tmp_path):
    drawn, release = [], threading.Event()

    def tasks():
        for n in range(50):
            drawn.append(n)
            yield n

    def work(task, tick):
        release.wait(10)
        return task

    run = Lookahead(tasks(), [work]).run()
    first = threading.Timer(0.3, release.set)
    first.start()
    assert next(run) == (0, 0)
    assert 2 <= len(drawn) <= 5
    run.close()
    assert len(drawn) <= 5


def test_workers_are_used_by_one_thread_at_a_time():
    busy, clashes = {}, []

    def worker(name):
        def work(task, tick):
            clashes.extend([name] * busy.get(name, 0))
            busy[name] = 1
            time.sleep(0.002)
            busy[name] = 0
            return name

        return work

    used = {name for _, name in _results(Lookahead(iter(range(40)), [worker("a"), worker("b")]).run())}
    assert used == {"a", "b"}
    assert not clashes


@pytest.mark.parametrize("where", ["reading", "computing"])
def test_what_is_raised_in_a_thread_is_raised_here(where):
    def tasks():
        yield 1
        if where == "reading":
            raise KeyError("strip 7")
        yield 2

    def work(task, tick):
        if task == 2:
            raise KeyError("strip 7")
        return task

    with pytest.raises(KeyError, match="strip 7"):
        list(Lookahead(tasks(), [work]).run())
    assert not [t for t in threading.enumerate() if t.name.startswith(("read-ahead", "compute"))]


def test_closing_ends_the_work_after_the_step_in_progress():
    steps = []

    def work(task, tick):
        for _ in range(100):
            steps.append(task)
            time.sleep(0.005)
            tick(1)
        return task

    run = Lookahead(iter(range(10)), [work]).run()
    next(run)
    run.close()
    made = len(steps)
    assert made < 20
    time.sleep(0.05)
    assert len(steps) == made
    assert not [t for t in threading.enumerate() if t.name.startswith(("read-ahead", "compute"))]
