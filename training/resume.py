"""The file from which a run goes on, and what a killed process leaves beside it."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from napari_glacier.core.errors import CheckpointError, ConfigError
from napari_glacier.core.files import replacing
from napari_glacier.core.runfiles import RunFolder

# What a run may change of itself without becoming another one.
_MAY_CHANGE = {"train.epochs", "train.patience", "data.workers", "device", "save_path", "loggers"}
# How it is scored in the end changes nothing of what was learnt.
_MAY_CHANGE |= {"scoring.tta", "scoring.draws"}


def check_overrides(overrides: list[str], folder: Path) -> None:
    """Refuse to change what a run has learnt with so far.

    Parameters
    ----------
    overrides : list of str
        ``key=value``
    folder : Path

    Raises
    ------
    ConfigError
    """
    fixed = sorted({key for override in overrides if (key := override.partition("=")[0].strip()) not in _MAY_CHANGE})
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} cannot change when a run goes on; only {', '.join(sorted(_MAY_CHANGE))} can. Leave it "
            f"out, or start a new run with model.init_from={folder}."
        )


def remove_leftovers(folder: RunFolder) -> None:
    """Remove the half-written files of a process that was killed; only for the process that holds the folder."""
    paths = (
        folder.best_path,
        folder.last_path,
        folder.resume_path,
        folder.config_path,
        folder.events_path,
        folder.history_path,
        folder.curves_path,
        folder.metrics_path,
        folder.per_class_path,
    )
    for path in paths:
        # As `replacing` names them.
        for leftover in folder.path.glob(f".{path.stem}-*{path.suffix}"):
            leftover.unlink(missing_ok=True)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resume file; the old one stays until the new one is whole.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    try:
        with replacing(path) as temporary:
            torch.save({"version": 1, **state}, temporary)
    except RuntimeError as error:
        # torch's writer does not say why.
        free_mb = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"{path} could not be written: is the disk full ({free_mb:.0f} MB free), or a quota reached? Free space; "
            f"--resume {path.parent} then goes on after the last finished epoch."
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """Read a resume file, onto the CPU.

    Raises
    ------
    CheckpointError
        If it is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointError(
            f"{path} is cut short or damaged ({reason}). Start a new run with model.init_from={path.parent}, or "
            "remove the file: --resume then begins this run anew."
        ) from error
    if not isinstance(state, dict) or state.get("version") != 1:
        raise CheckpointError(
            f"{path} was written by another version of the trainer. Start a new run with model.init_from={path.parent}."
        )
    return state
