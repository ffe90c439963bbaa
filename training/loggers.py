"""TensorBoard and Weights & Biases, each an extra to install; neither decides whether a training goes on.

Both take a row an epoch, as `history.csv` does. A run that goes on adds to what it logged before, and logs no
epoch twice: TensorBoard's files are asked what they hold, for Weights & Biases the run folder keeps a note.
"""

import json
import logging
import math
import netrc
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import yaml

from napari_glacier.core.config import RunConfig
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.runfiles import RunFolder

logger = logging.getLogger("training")

WANDB_NOTE = "wandb.json"
_PROJECT = "napari-glacier"
_WANDB_HOST = "https://api.wandb.ai"
_SECONDS_FOR_WANDB = 60.0
# Of a row, what is no series of its own.
_NOT_LOGGED = {"epoch", "epochs", "eta_s", "best"}

Row = dict[str, Any]


class RunLogger(Protocol):
    """What a run tells its epochs to."""

    def start(self, config: RunConfig, folder: RunFolder) -> None:
        """Begin, or go on with what the folder's run has logged."""

    def epoch(self, row: Row) -> None:
        """Log an epoch; one that is logged already is left out."""

    def finish(self) -> None:
        """Write out what is left."""


def check_loggers(names: Sequence[str]) -> None:
    """Find out whether the packages of these loggers are installed.

    Raises
    ------
    ConfigError
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f'loggers names {name}, which is not installed. Run: pip install "napari-glacier[{name}]", or leave '
                "it out."
            )


def make_loggers(names: Sequence[str], folder: RunFolder, config: RunConfig) -> list[RunLogger]:
    """Make and start the loggers of a run; in the process that writes the folder alone.

    Whatever goes wrong inside a logger is logged once as a warning, and that logger is then silent.

    Parameters
    ----------
    names : sequence of {"tensorboard", "wandb"}
    folder : RunFolder
        With the events of the epochs that count.
    config : RunConfig

    Raises
    ------
    ConfigError
        As `check_loggers`.
    """
    check_loggers(names)
    loggers: list[RunLogger] = [Guarded(name, _KINDS[name]()) for name in dict.fromkeys(names)]
    for run_logger in loggers:
        run_logger.start(config, folder)
    return loggers


class Guarded:
    """Another logger, whose first failure is a warning and its last word.

    Parameters
    ----------
    name : str
    inner : RunLogger
    """

    def __init__(self, name: str, inner: RunLogger) -> None:
        self._name, self._inner = name, inner
        self._failed = False

    def start(self, config: RunConfig, folder: RunFolder) -> None:
        """As the inner logger's."""
        self._try(lambda: self._inner.start(config, folder))

    def epoch(self, row: Row) -> None:
        """As the inner logger's."""
        self._try(lambda: self._inner.epoch(row))

    def finish(self) -> None:
        """As the inner logger's."""
        self._try(self._inner.finish)

    def _try(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - of a service that the training does not need
            self._failed = True
            reason = " ".join(str(error).split()) or type(error).__name__
            logger.warning("The logger %s has failed and is left out from now on: %s", self._name, reason)


class TensorBoardLogger:
    """Writes event files to ``tensorboard/`` in the run folder."""

    def start(self, config: RunConfig, folder: RunFolder) -> None:
        """Begin a file; epochs that the run no longer counts are hidden from TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter

        path = folder.path / "tensorboard"
        before = _last_step(path)
        # A run whose resume file was removed begins anew, and its old epochs are of another training.
        self._last = min(before, _last_epoch(folder))
        self._writer = SummaryWriter(path, purge_step=self._last + 1 if before else None)
        if not before:
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))

    def epoch(self, row: Row) -> None:
        """Log an epoch as scalars, ``loss/train`` beside ``loss/val``."""
        if row["epoch"] <= self._last:
            return
        for key, value in _numbers(row):
            split, _, rest = key.partition("_")
            tag = f"{rest}/{split}" if split in {"train", "val"} else f"mix/{rest}" if split == "mix" else key
            self._writer.add_scalar(tag, value, row["epoch"])
        self._writer.flush()
        self._last = row["epoch"]

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()


class WandbLogger:
    """Logs to Weights & Biases, offline where there is no login; its files go to ``wandb/`` in the run folder."""

    def start(self, config: RunConfig, folder: RunFolder) -> None:
        """Begin a run, or go on under the same id."""
        import wandb

        self._note_path = folder.path / WANDB_NOTE
        note = _read_note(self._note_path)
        if note.get("epoch", 0) > _last_epoch(folder):
            note = {}  # the training was begun anew
        self._id, self._last = note.get("id") or uuid.uuid4().hex[:8], note.get("epoch", 0)
        mode = wandb_mode()
        settings = wandb.Settings(
            # Standard output belongs to the trainer, whose last line is the run folder.
            console="off",
            disable_git=True,
            init_timeout=_SECONDS_FOR_WANDB,
            finish_timeout=_SECONDS_FOR_WANDB,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=self._id,
            name=os.environ.get("WANDB_NAME", folder.path.name),
            dir=folder.path,
            config=config.model_dump(mode="json"),
            mode=mode,  # type: ignore[arg-type] # a word of the user's own: wandb says which it knows
            resume="allow" if mode == "online" else None,
            settings=settings,
        )
        self._write_note()

    def epoch(self, row: Row) -> None:
        """Log an epoch as its step."""
        if row["epoch"] <= self._last:
            return
        self._run.log(dict(_numbers(row)), step=row["epoch"], commit=True)
        if row["best"]:
            self._run.summary["best_epoch"] = row["epoch"]
            self._run.summary["best_val_mcc"] = row["val_mcc"]
        self._last = row["epoch"]
        self._write_note()

    def finish(self) -> None:
        """Hand over what is left; gives up after a minute without a network."""
        self._run.finish()

    def _write_note(self) -> None:
        write_text_atomically(self._note_path, json.dumps({"id": self._id, "epoch": self._last}) + "\n")


_KINDS: dict[str, Callable[[], RunLogger]] = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger}


def wandb_mode() -> str:
    """``WANDB_MODE`` where it is set, but never online without a login: that would stop and ask for one."""
    wanted = os.environ.get("WANDB_MODE", "online")
    if wanted not in {"online", "run"}:
        return wanted
    return "online" if _has_login() else "offline"


def _has_login() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", _WANDB_HOST)).hostname or ""
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _numbers(row: Row) -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        if key not in _NOT_LOGGED and isinstance(value, int | float) and math.isfinite(value):
            yield key, float(value)


def _last_epoch(folder: RunFolder) -> int:
    return max((event["epoch"] for event in folder.events() if event["event"] == "epoch"), default=0)


def _last_step(path: Path) -> int:
    """The last epoch in TensorBoard's files; 0 where there are none."""
    if not path.is_dir():
        return 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return max((event.step for tag in found.Tags()["scalars"] for event in found.Scalars(tag)), default=0)


def _read_note(path: Path) -> Row:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
