"""Several training runs side by side, each a process of its own on a device of its own.

The runs are ordinary run folders: they are followed through their events, and asked to stop through their stop file,
as a window does it. So a run that outlived whoever started it is found again, and waited for.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config
from napari_glacier.core.processes import own_session
from napari_glacier.core.runfiles import EventReader, RunFolder

_SECONDS_BETWEEN_LOOKS = 0.3
# What a run that goes on takes over from the configuration that it belongs to, and may have been changed there.
_FOLLOWS = {"train": ("epochs", "patience")}


@dataclass
class Run:
    """A fold or a member: its folder, its configuration, and how far it is.

    Attributes
    ----------
    number : int
        From 1 on.
    folder : RunFolder
    config : RunConfig
        What the folder's run.yaml says before its first start.
    state : str
        waiting, running, done, stopped or failed.
    message : str
        Of a failure.
    epoch, epochs : int
    val_mcc : float or None
        Best so far.
    """

    number: int
    folder: RunFolder
    config: RunConfig
    state: str = "waiting"
    message: str = ""
    epoch: int = 0
    epochs: int = 0
    val_mcc: float | None = None
    _reader: EventReader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.epochs = self.config.train.epochs
        self._reader = EventReader(self.folder)
        self.look()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.path.name

    @property
    def is_done(self) -> bool:
        """Whether it has ended as it is asked for now: with these epochs, and this patience."""
        if self.folder.state() != "done" or not self.folder.best_path.is_file():
            return False
        return not self._changes()

    def look(self) -> bool:
        """Read its new events; whether there is news."""
        before = (self.epoch, self.val_mcc)
        replaced, events = self._reader.read()
        if replaced:
            self.epoch, self.val_mcc = 0, None
        for event in events:
            if event["event"] == "epoch":
                self.epoch = event["epoch"]
                self.val_mcc = max(event["val_mcc"], -1.0 if self.val_mcc is None else self.val_mcc)
        return (self.epoch, self.val_mcc) != before

    def command(self, device: str, workers: int) -> list[str]:
        """Command line that begins the run, or goes on with it."""
        begun = bool(self.folder.events())
        target = ["--resume", str(self.folder.path)] if begun else ["--config", str(self.folder.config_path)]
        changes = [f"device={device}", f"data.workers={workers}", *(self._changes() if begun else ())]
        return [sys.executable, "-P", "-m", "training.run", *target, "--set", *changes]

    def _changes(self) -> list[str]:
        kept = load_config(self.folder.config_path)
        return [
            f"{section}.{key}={getattr(getattr(self.config, section), key)}"
            for section, keys in _FOLLOWS.items()
            for key in keys
            if getattr(getattr(kept, section), key) != getattr(getattr(self.config, section), key)
        ]


class _Seat:
    """A device, and the process that is at work on it."""

    def __init__(self, run: Run, device: str, environment: Mapping[str, str], workers: int, held: ExitStack) -> None:
        self.run, self.device = run, device
        self._process: subprocess.Popen[bytes] | None = None
        if not run.folder.is_alive():
            # Where it fails before it has a log, its last words are here.
            errors = held.enter_context((run.folder.path / "stderr.log").open("ab"))
            # A session of its own: Ctrl-C in the terminal reaches the parent alone, which asks for a clean stop.
            self._process = subprocess.Popen(
                run.command(device, workers),
                env=dict(environment),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                **own_session(),
            )

    def has_ended(self) -> bool:
        """Whether the process is gone; its run then has its final state."""
        code = self._process.poll() if self._process is not None else None
        if self._process is None or code:
            # Not started here, or refused because another one holds the folder: that one is waited for.
            if self.run.folder.is_alive():
                return False
        elif code is None:
            return False
        state = self.run.folder.state()
        self.run.look()
        self.run.state = state if state in {"done", "stopped"} else "failed"
        if self.run.state == "failed":
            self.run.message = self._reason(code)
        return True

    def end(self) -> None:
        """Ask the process to finish its step, and wait for it."""
        if self._process is not None and self._process.poll() is None:
            self.run.folder.request_stop()
            self._process.wait()

    def _reason(self, code: int | None) -> str:
        events = self.run.folder.events()
        if events and events[-1]["event"] == "failed":
            return str(events[-1].get("message", "")) or "no reason was given"
        lines = (self.run.folder.path / "stderr.log").read_text(errors="replace").split("\n") if code else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"The process ended with exit code {code}. {last}".strip() if code else "The process was ended."


def run_side_by_side(
    runs: Sequence[Run], devices: Sequence[str], should_stop: Callable[[], bool], tell: Callable[[Run], None]
) -> None:
    """Train the runs that are not done, one on each device at a time, and wait for all.

    Parameters
    ----------
    runs : sequence of Run
        Their states and messages are filled in.
    devices : sequence of str
        As in the configuration; a device that is named twice takes two runs at a time.
    should_stop : callable
        Where it says so, the runs at work are asked to stop and no other is begun.
    tell : callable
        Given a run whenever its state, epoch or score has changed.
    """
    for run in runs:
        if run.is_done:
            run.state = "done"
            tell(run)
    waiting = [run for run in runs if run.state != "done"]
    # Those that still train are not to be trained by anybody else meanwhile.
    waiting.sort(key=lambda run: not run.folder.is_alive())
    environment, workers = _shares(waiting, devices)
    free, stopping = list(devices), False
    with ExitStack() as held, _none_left() as seats:
        while waiting or seats:
            if not stopping and should_stop():
                stopping = True
                waiting.clear()
                for seat in seats:
                    seat.run.folder.request_stop()
            while waiting and free:
                run, device = waiting.pop(0), free.pop(0)
                run.state = "running"
                seats.append(_Seat(run, device, environment, min(workers, run.config.data.workers), held))
                tell(run)
            for seat in list(seats):
                news = seat.run.look()
                if seat.has_ended():
                    seats.remove(seat)
                    free.append(seat.device)
                    news = True
                if news:
                    tell(seat.run)
            if seats:
                time.sleep(_SECONDS_BETWEEN_LOOKS)


@contextmanager
def _none_left() -> Iterator[list[_Seat]]:
    """Processes at work; where something goes wrong here, they are stopped and waited for."""
    seats: list[_Seat] = []
    try:
        yield seats
    finally:
        for seat in seats:
            seat.run.folder.request_stop()
        for seat in seats:
            seat.end()


def _shares(runs: Sequence[Run], devices: Sequence[str]) -> tuple[dict[str, str], int]:
    """Environment of the processes, and the loader workers that each may have."""
    environment: dict[str, Any] = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(cores // max(min(len(runs), len(devices)), 1), 1)
    if not any(device.startswith("cuda") for device in devices):
        environment.setdefault("OMP_NUM_THREADS", str(share))
    return environment, share - 1
