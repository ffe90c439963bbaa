"""Beginning again after a process has died: torchrun starts all of them anew, and they go on with the same run.

torchrun tells its processes how often that happened (TORCHELASTIC_RESTART_COUNT) and which job they belong to
(TORCHELASTIC_RUN_ID). A run started by hand through torchrun notes its folder under the job's name, so that the
next attempt finds it; SLURM's requeued jobs (SLURM_RESTART_COUNT) count as such attempts, too. The note stays until
the run is done: a job that was told to make room (SIGTERM) goes on as well.
"""

import os
import platform
from pathlib import Path

from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.runfiles import RunFolder

# Attempts after the first; each goes on from the last finished epoch.
MAX_RESTARTS = 3
# What torchrun calls a job that was given no --rdzv-id.
_NO_NAME = "none"


def is_restart() -> bool:
    """Whether an earlier attempt at this job has died."""
    return any(int(os.environ.get(name) or 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def remember(folder: RunFolder) -> None:
    """Note the folder of a job that torchrun started; nothing outside torchrun."""
    path = _note_path(folder.path.parent)
    if path is not None:
        write_text_atomically(path, f"{folder.path.name}\n")


def forget(folder: RunFolder) -> None:
    """Remove the note of a job that is done, or that failed for a reason that will not go away."""
    path = _note_path(folder.path.parent)
    if path is not None:
        path.unlink(missing_ok=True)


def remembered(output: Path) -> RunFolder | None:
    """Folder in which an earlier attempt at this job has trained, or None."""
    path = _note_path(output)
    if path is None or not path.is_file():
        return None
    if os.environ["TORCHELASTIC_RUN_ID"] == _NO_NAME and not is_restart():
        return None  # a process of that number may have been another one
    folder = RunFolder(output / path.read_text(encoding="utf-8").strip())
    return folder if folder.config_path.is_file() else None


def _note_path(output: Path) -> Path | None:
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    if job is None:
        return None
    if job == _NO_NAME:
        # Without an id of its own a job is known by the agent that starts its processes.
        job = f"{platform.node()}-{os.getppid()}"
    return output / f".job-{''.join(c if c.isalnum() or c in '-_' else '_' for c in job)}"
