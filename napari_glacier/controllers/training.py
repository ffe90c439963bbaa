"""Starting training as a process of its own and following it through its run folder. No Qt, no torch."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from psygnal import Signal

from napari_glacier.controllers.models import known_models
from napari_glacier.controllers.run_curves import Curves, OtherRuns, status_line
from napari_glacier.controllers.session import Session
from napari_glacier.controllers.split_map import ClassCounts, PlannedSplit, plan_split, seen_by
from napari_glacier.controllers.training_estimates import estimate
from napari_glacier.controllers.training_plans import Plan, Proposal, overrides, propose
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config, recipe_names, recipe_path, save_config
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.models.training_pace import duration, runs_in
from napari_glacier.core.processes import outliving
from napari_glacier.core.runfiles import EventReader, RunFolder

__all__ = ["Curves", "Plan", "TrainingController", "duration"]

logger = logging.getLogger(__name__)

LOG_TAIL_LINES = 200
CONSOLE_LOG = "console.log"
_LOG_TAIL_BYTES = 32_768


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
        self.others = OtherRuns()
        self._counts = ClassCounts()
        self._reader: EventReader | None = None
        self._state = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._process_run: Path | None = None
        self._opened: Path | None = None

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

    def session_of(self, data: Path) -> Session | None:
        """The open dataset, where it is the one to train on: its journal knows the review states."""
        session = self.workspace.session
        return session if session is not None and data.expanduser().is_relative_to(session.root) else None

    def split_of(self, plan: Plan) -> Iterator[PlannedSplit | None] | None:
        """Steps that find out which tiles of a plan will learn and which will judge; may run in a thread.

        None for a cross-validation: there every tile judges once.

        Raises
        ------
        ConfigError
            If the plan does not hold.
        """
        config = self.configure(plan)
        if config.folds is not None:
            return None
        session = self.session_of(plan.data)
        dataset = session.dataset if session is not None and plan.data == session.root else None

        def steps() -> Iterator[PlannedSplit | None]:
            yield from plan_split(config, dataset, seen_by(config.model.init_from), self._counts)

        return steps()

    def estimate(self, plan: Plan, output: Path | None, tiles: Sequence[Tile], gpus: int) -> str:
        """How long a plan may take, and the memory it may want, in words."""
        try:
            config = load_config(plan.recipe, overrides(plan))
        except ConfigError:
            config = None  # starting says what is wrong
        return estimate(plan, self.runs(output), config, tiles, gpus)

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
        ended = {"stopped", "failed", "new", "silent"}
        return self.run is not None and self.state in ended and self.run.resume_path.is_file()

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
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **outliving()
            )
        self._process_run = run.path
        logger.info("started %s (process %d)", " ".join(command), self._process.pid)
        self.follow(run)

    def stop(self) -> str:
        """Ask the trainer to finish its step, write a checkpoint and end; gives what a person should know of it.

        Raises
        ------
        DataError
            If the run's folder is gone, or nothing can be written there.
        """
        if self.run is None:
            return ""
        try:
            self.run.request_stop()
        except OSError as error:
            raise DataError(
                f"The run cannot be asked to stop: no file can be put into {self.run.path} ({error.strerror}). "
                "Where the folder has been moved, open it there with …; else end its process where it runs."
            ) from error
        self.progressed.emit()
        if self.run.other_host is None:
            return ""
        return (
            f"The run is on {self.run.other_host}. Where this folder is a copy, stop it there: put a file called stop "
            "into its folder."
        )

    def runs(self, output: Path | None = None) -> list[RunFolder]:
        """Runs in an output folder, newest first."""
        folder = output or self.default_output
        return [] if folder is None else runs_in(folder)

    def look_for_runs(self, output: Path | None, known: Sequence[Path]) -> bool:
        """Whether the runs of an output folder are others than those known; follows one begun elsewhere if idle."""
        runs = self.runs(output)
        if [run.path for run in runs] == list(known):
            return False
        new = [run for run in runs if run.path not in known]
        begun = next((run for run in new if run.state_from_afar() == "running"), None)
        if begun is not None and not self.active:
            self.follow(begun)
        return True

    def reattach(self, output: Path | None = None, *, lets_go: bool = False) -> RunFolder | None:
        """Follow the newest run of an output folder: one that is under way before one that has ended.

        Parameters
        ----------
        output : Path, optional
        lets_go : bool
            Where the folder holds none, follow nothing, unless a person has opened the run in a folder of their own
            choice, or it is under way.
        """
        runs = self.runs(output)
        chosen = next((run for run in runs if run.state_from_afar() == "running"), runs[0] if runs else None)
        if chosen is not None:
            self.follow(chosen)
        elif lets_go and self.run is not None and self.run.path != self._opened and not self.active:
            self.follow(None)
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

    def open_run(self, path: Path) -> RunFolder:
        """Follow any run folder, one on a mounted disk of another machine for instance.

        Raises
        ------
        DataError
            If it is not a run folder.
        """
        run = RunFolder(Path(path).expanduser())
        if not run.config_path.is_file() and not run.events_path.is_file():
            raise DataError(f"{run.path} is not a run folder: it has no run.yaml. Choose the folder of one run.")
        self._opened = run.path
        self.follow(run)
        return run

    @property
    def state(self) -> str:
        """new, starting, running, stopping, silent, done, stopped or failed."""
        if self.run is None:
            return "new"
        state: str = self.run.state_from_afar()
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
        return status_line(self.run, self.curves, self.state) if self.run is not None else ""

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
