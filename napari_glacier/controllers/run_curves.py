"""Figures of runs as their events tell them: of one that is followed, and of others laid over it. No Qt, no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_glacier.core.models.training_pace import duration
from napari_glacier.core.runfiles import EventReader, RunFolder


@dataclass
class Curves:
    """Figures of the finished epochs and the step under way."""

    epochs: list[int] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)
    total_epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    step_epoch: int | None = None
    samples_per_s: float | None = None
    eta_s: float | None = None
    best_epoch: int | None = None
    best_mcc: float | None = None
    chooses: bool = True
    checkpoint: str | None = None
    ended: str | None = None
    message: str = ""
    warnings: list[str] = field(default_factory=list)

    _SHOWN = ("train_loss", "val_loss", "train_mcc", "val_mcc", "val_iou", "lr")

    def take(self, event: Mapping[str, Any]) -> None:
        """Add one event of a run folder."""
        kind = event.get("event")
        if kind == "step":
            self.step, self.steps, self.step_epoch = event.get("step"), event.get("steps"), event.get("epoch")
            self.samples_per_s = event.get("samples_per_s")
        elif kind == "epoch":
            self._take_epoch(event)
        elif kind == "warning":
            self.warnings.append(str(event.get("message", "")))
        elif kind in {"done", "stopped", "failed"}:
            self.ended = str(kind)
            self.message = str(event.get("message", ""))
            self.checkpoint = event.get("checkpoint") or self.checkpoint
            self.step = None
        elif kind == "start":
            # A resumed run starts again after it ended.
            self.ended = None
            train = event.get("config", {}).get("train", {})
            self.total_epochs = train.get("epochs", self.total_epochs)
            self.chooses = train.get("monitor") != "none"

    def _take_epoch(self, event: Mapping[str, Any]) -> None:
        number = int(event["epoch"])
        while self.epochs and self.epochs[-1] >= number:
            # A resumed run does its unfinished epochs again.
            self.epochs.pop()
            for values in self.series.values():
                values.pop()
        self.epochs.append(number)
        for name in self._SHOWN:
            value = event.get(name)
            values = self.series.setdefault(name, [float("nan")] * (len(self.epochs) - 1))
            values.append(float(value) if value is not None else float("nan"))
        self.total_epochs = event.get("epochs", self.total_epochs)
        self.eta_s = event.get("eta_s")
        self.step = None
        if event.get("best"):
            self.best_epoch, self.best_mcc = number, event.get("val_mcc")


class OtherRuns:
    """Runs whose curves are laid over those of the followed one."""

    def __init__(self) -> None:
        self._chosen: dict[Path, tuple[EventReader, Curves]] = {}

    @property
    def paths(self) -> tuple[Path, ...]:
        """Folders of the runs chosen, in the order in which they were."""
        return tuple(self._chosen)

    def choose(self, runs: Sequence[RunFolder]) -> None:
        """Take these runs; what was read of some of them before is kept."""
        self._chosen = {run.path: self._chosen.get(run.path, (EventReader(run), Curves())) for run in runs}

    def read(self) -> bool:
        """Read what is new of them; gives whether anything was."""
        fresh = False
        for path, (reader, curves) in list(self._chosen.items()):
            anew, events = reader.read()
            taken = Curves() if anew else curves
            for event in events:
                taken.take(event)
            self._chosen[path] = (reader, taken)
            fresh = fresh or anew or bool(events)
        return fresh

    def curves(self) -> list[tuple[str, Curves]]:
        """Names of the runs, and what is known of each."""
        return [(path.name, curves) for path, (_, curves) in self._chosen.items()]


def status_line(run: RunFolder, curves: Curves, state: str) -> str:
    """One line on a run: epoch, time left, best so far; or how it ended.

    Parameters
    ----------
    run : RunFolder
    curves : Curves
    state : str
        new, starting, running, stopping, silent, done, stopped or failed.
    """
    best = ""
    if curves.best_epoch is not None and curves.best_mcc is not None:
        # Where nothing is chosen the newest epoch is the model, and not the best.
        word = "best validation" if curves.chooses else "validation"
        best = f"{word} MCC {curves.best_mcc:.3f} (epoch {curves.best_epoch})"
    if state == "starting":
        return "Starting: loading libraries and data…"
    if state in {"running", "stopping"}:
        return _under_way(run, curves, best, state == "stopping")
    if state == "new":
        return "This run has not begun; its trainer is not running."
    if state == "silent":
        done = f"epoch {curves.epochs[-1]} was its last" if curves.epochs else "no epoch is finished"
        return (
            f"Nothing heard from {run.other_host} for {duration(run.silence_s())}; {done}. The trainer may have died, "
            f"or the folder may no longer be copied{'; ' + best if best else ''}."
        )
    words = {"done": "Finished", "stopped": "Stopped; it can be resumed", "failed": "Failed"}[state]
    reason = f": {curves.message}" if state == "failed" and curves.message else ""
    if state == "failed" and not reason:
        reason = ": the log below says why"
    return f"{words}{reason}{'; ' + best if best else ''}."


def _under_way(run: RunFolder, curves: Curves, best: str, stopping: bool) -> str:
    done = curves.epochs[-1] if curves.epochs else 0
    total = f" of {curves.total_epochs}" if curves.total_epochs else ""
    if not done and curves.step is None:
        return "Reading the tiles and preparing the first epoch…"
    parts = [f"Epoch {curves.step_epoch or done}{total}"]
    if curves.step is not None and curves.steps:
        parts.append(f"step {curves.step}/{curves.steps}")
    if curves.samples_per_s:
        parts.append(f"{curves.samples_per_s:.3g} samples/s")
    if curves.eta_s:
        parts.append(f"{duration(curves.eta_s)} left")
    if best:
        parts.append(best)
    if run.other_host is not None:
        parts.append(f"on {run.other_host}")
    if stopping:
        parts.append("stopping after this step")
    return ", ".join(parts)
