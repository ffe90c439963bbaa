"""Starting training as a process of its own and following it through its run folder. No Qt, no torch."""

import logging
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psygnal import Signal

from napari_glacier.controllers.models import known_models
from napari_glacier.controllers.training_plans import Plan, Proposal, duration, overrides, propose
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config, recipe_names, recipe_path, save_config
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.runfiles import EventReader, RunFolder

__all__ = ["Curves", "Plan", "TrainingController", "duration"]

logger = logging.getLogger(__name__)

LOG_TAIL_LINES = 200
CONSOLE_LOG = "console.log"
_LOG_TAIL_BYTES = 32_768


@dataclass
class Curves:
    """Figures of the finished epochs and the step under way."""

    epochs: list[int] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)
    total_epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    step_epoch: int | None = None
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


class TrainingController:
    """Fills in a run, starts it, follows it, stops it.

    Parameters
    ----------
    workspace : Workspace

    Signals
    -------
    followed(RunFolder or None) : another run is being followed
    progressed() : new events or another state
    """

    followed = Signal(object)
    progressed = Signal()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.run: RunFolder | None = None
        self.curves = Curves()
        self._reader: EventReader | None = None
        self._state = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._process_run: Path | None = None

    @staticmethod
    def recipes() -> list[str]:
        """Names of the recipes that can be chosen, the usual one first."""
        return sorted(recipe_names(), key=lambda name: (name != "default", name))

    @staticmethod
    def recipe_note(name: str) -> str:
        """The first sentence that a recipe says of itself in its leading comment."""
        lines = []
        for line in recipe_path(name).read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.lstrip("# ").strip())
        return re.split(r"(?<=[.;:])\s", " ".join(lines).strip())[0].rstrip(";:")

    @staticmethod
    def recipe_epochs(name: str) -> int:
        """How many epochs a recipe trains at most."""
        return load_config(name, ["data.train=."]).train.epochs

    @staticmethod
    def recipe_start(name: str) -> str | None:
        """Which model a recipe starts from: a path, ``bundled``, or None for fresh weights."""
        return load_config(name, ["data.train=."]).model.init_from

    @property
    def proposal(self) -> Proposal | None:
        """The recipe that the open dataset asks for by its size, where it asks for one."""
        return propose(self.workspace.session.dataset) if self.workspace.session is not None else None

    @property
    def default_data(self) -> Path | None:
        """The folder of the open dataset."""
        return self.workspace.session.root if self.workspace.session is not None else None

    @property
    def default_output(self) -> Path | None:
        """Where runs of the open dataset go."""
        return self.default_data / "runs" if self.default_data is not None else None

    def starts(self) -> list[tuple[str, str]]:
        """Models whose weights a run can start from: title and what `model.init_from` takes."""
        return [(choice.title, str(choice.source or "bundled")) for choice in known_models(self.workspace.session)]

    @property
    def unsaved(self) -> int:
        """Tiles of the open dataset whose corrections training would not see."""
        session = self.workspace.session
        return len(session.unsaved()) if session is not None else 0

    def configure(self, plan: Plan) -> RunConfig:
        """The configuration of a plan, validated before any process is started.

        Raises
        ------
        ConfigError
            One sentence for every value that is wrong.
        """
        if not plan.data.is_dir():
            raise ConfigError(f"The data folder {plan.data} does not exist. Choose the folder of a dataset.")
        config = load_config(plan.recipe, overrides(plan))
        return config.model_copy(update={"recipe": config.recipe or plan.recipe})

    def start(self, plan: Plan) -> RunFolder:
        """Write run.yaml into a new run folder and start the trainer, which outlives this window.

        Raises
        ------
        ConfigError, DataError
            If the plan does not hold; nothing is started.
        """
        config = self.configure(plan)
        try:
            run = RunFolder.create(plan.output, plan.recipe)
        except OSError as error:
            raise DataError(
                f"No run folder can be made in {plan.output} ({error.strerror}). "
                "Choose an output folder you may write to."
            ) from error
        save_config(config, run.config_path)
        self._launch(run, "--config", str(run.config_path))
        return run

    @property
    def resumable(self) -> bool:
        """Whether the followed run ended before its time and can go on."""
        return self.run is not None and self.state in {"stopped", "failed", "new"} and self.run.resume_path.is_file()

    def resume(self) -> None:
        """Let a run that was stopped or broke off go on after its last finished epoch."""
        if self.run is None or not self.resumable:
            raise DataError(
                "This run cannot be resumed: it is under way, has finished, or ended before its first epoch."
            )
        self.run.clear_stop()
        self._launch(self.run, "--resume", str(self.run.path))

    def _launch(self, run: RunFolder, *arguments: str) -> None:
        # -P keeps a stray training.py in the current folder from shadowing the trainer.
        command = [sys.executable, "-P", "-m", "training.run", *arguments]
        self._reap()
        # The trainer keeps train.log itself; what Python says before and after goes beside it.
        with (run.path / CONSOLE_LOG).open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **_detached()
            )
        self._process_run = run.path
        logger.info("started %s (process %d)", " ".join(command), self._process.pid)
        self.follow(run)

    def stop(self) -> None:
        """Ask the trainer to finish its step, write a checkpoint and end."""
        if self.run is not None:
            self.run.request_stop()
            self.progressed.emit()

    def runs(self, output: Path | None = None) -> list[RunFolder]:
        """Runs in an output folder, newest first."""
        folder = output or self.default_output
        if folder is None or not folder.is_dir():
            return []
        found = [RunFolder(child) for child in folder.iterdir() if (child / "run.yaml").is_file()]
        return sorted(found, key=lambda run: run.path.name, reverse=True)

    def look_for_runs(self, output: Path | None, known: Sequence[Path]) -> bool:
        """Whether the runs of an output folder are others than those known; follows one begun elsewhere if idle."""
        runs = self.runs(output)
        if [run.path for run in runs] == list(known):
            return False
        new = [run for run in runs if run.path not in known]
        begun = next((run for run in new if run.is_alive()), None)
        if begun is not None and not self.active:
            self.follow(begun)
        return True

    def reattach(self, output: Path | None = None) -> RunFolder | None:
        """Follow the newest run of an output folder: one that is under way before one that has ended."""
        runs = self.runs(output)
        chosen = next((run for run in runs if run.is_alive()), runs[0] if runs else None)
        if chosen is not None:
            self.follow(chosen)
        return chosen

    def follow(self, run: RunFolder | None) -> None:
        """Read a run from its beginning and go on from there at every `poll`."""
        if run is None or run.path != self._process_run:
            self._reap()
        self.run = run
        self.curves = Curves()
        self._reader = EventReader(run) if run is not None else None
        self._state = ""
        self.followed.emit(run)
        self.poll()

    def poll(self) -> bool:
        """Read what is new; gives whether anything was."""
        if self.run is None or self._reader is None:
            return False
        # The state first: a run that is known to have ended has then given all its events.
        state = self.state
        anew, events = self._reader.read()
        if anew:
            # A resumed run has dropped what came after its last finished epoch.
            self.curves = Curves()
        for event in events:
            self.curves.take(event)
        fresh = bool(events) or state != self._state
        self._state = state
        if fresh:
            self.progressed.emit()
        return fresh

    @property
    def state(self) -> str:
        """new, starting, running, stopping, done, stopped or failed."""
        if self.run is None:
            return "new"
        state: str = self.run.state()
        if self._process is not None and not self.run.is_alive():
            # Our own child has not yet taken the folder over: libraries are loading, or it fell over doing so.
            ended = self._process.poll()
            if ended is None:
                return "starting"
            return "failed" if ended and state not in {"done", "stopped"} else state
        if state == "running" and self.run.stop_requested():
            return "stopping"
        return state

    @property
    def active(self) -> bool:
        """Whether the followed run is under way."""
        return self.state in {"starting", "running", "stopping"}

    @property
    def status(self) -> str:
        """One line: epoch, time left, best so far; or how the run ended."""
        curves, state = self.curves, self.state
        if self.run is None:
            return ""
        best = ""
        if curves.best_epoch is not None and curves.best_mcc is not None:
            # Where nothing is chosen the newest epoch is the model, and not the best.
            word = "best validation" if curves.chooses else "validation"
            best = f"{word} MCC {curves.best_mcc:.3f} (epoch {curves.best_epoch})"
        if state == "starting":
            return "Starting: loading libraries and data…"
        if state in {"running", "stopping"}:
            done = curves.epochs[-1] if curves.epochs else 0
            total = f" of {curves.total_epochs}" if curves.total_epochs else ""
            if not done and curves.step is None:
                return "Reading the tiles and preparing the first epoch…"
            parts = [f"Epoch {curves.step_epoch or done}{total}"]
            if curves.step is not None and curves.steps:
                parts.append(f"step {curves.step}/{curves.steps}")
            if curves.eta_s:
                parts.append(f"{duration(curves.eta_s)} left")
            if best:
                parts.append(best)
            if state == "stopping":
                parts.append("stopping after this step")
            return ", ".join(parts)
        if state == "new":
            return "This run has not begun; its trainer is not running."
        words = {"done": "Finished", "stopped": "Stopped; it can be resumed", "failed": "Failed"}[state]
        reason = f": {curves.message}" if state == "failed" and curves.message else ""
        if state == "failed" and not reason:
            reason = ": the log below says why"
        return f"{words}{reason}{'; ' + best if best else ''}."

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint of the followed run, once there is one."""
        if self.run is None or not self.run.best_path.is_file():
            return None
        return self.run.best_path

    def log_tail(self) -> str:
        """The end of what the trainer wrote to its terminal."""
        if self.run is None:
            return ""
        # A trainer that fell over at once has told only the console.
        return _tail(self.run.log_path) or _tail(self.run.path / CONSOLE_LOG)

    def close(self) -> None:
        """Stop following; training goes on."""
        self._reap()
        self.run = None

    def _reap(self) -> None:
        if self._process is not None:
            # Left to itself on purpose; telling Popen so keeps it from warning when it is collected.
            self._process.poll()
            self._process.returncode = self._process.returncode if self._process.returncode is not None else 0
            self._process = None
            self._process_run = None


def _tail(path: Path) -> str:
    """The last lines of a log file; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(0, 2)
        start = max(0, file.tell() - _LOG_TAIL_BYTES)
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    # A progress bar overwrites its line with carriage returns; its last state is what counts.
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(lines[1 if start else 0 :][-LOG_TAIL_LINES:]).strip()


def _detached() -> dict[str, Any]:
    """Arguments of Popen that keep a process alive when this one ends."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}
    return {"start_new_session": True}
