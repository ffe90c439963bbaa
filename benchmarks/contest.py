"""Contestants of a benchmark: processes of their own that take turns.

Memory settings must be made before torch is loaded, so each contestant is a process. They take turns, so that whatever
else the machine does meets all of them.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

Answers = dict[str, list[Any]]


def hold(command: Sequence[str], names: Sequence[str], rounds: int) -> dict[str, list[list[float]]]:
    """Start ``command --as NAME`` for each contestant, and let them take turns.

    Returns
    -------
    dict of str to list of list of float
        For each contestant the numbers that it gave in each round.
    """
    processes = {}
    for name in names:
        processes[name] = subprocess.Popen(
            [*command, "--as", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        _answer(processes[name], name)  # it is ready and warm before the next one starts
    answers: dict[str, list[list[float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            answers[name].append([float(number) for number in _answer(process, name).split()])
    for process in processes.values():
        process.stdin.close()
    for process in processes.values():
        process.wait(timeout=120)
    return answers


def compete(turn: Callable[[], Sequence[float]]) -> None:
    """Be a contestant that is warm: take a turn for each line that comes in, and tell its numbers."""
    print("@ready", flush=True)
    for _ in sys.stdin:
        print("@" + " ".join(map(str, turn())), flush=True)


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median over the rounds of the ratio within each."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def _answer(process: "subprocess.Popen[str]", name: str) -> str:
    for line in process.stdout:
        if line.startswith("@"):
            return line[1:].strip()
    raise SystemExit(f"The contestant '{name}' ended early; its message is above.")
