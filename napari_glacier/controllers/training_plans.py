"""What a run is to be, before it starts: its tiles, its configuration as text, its commands, the devices.

No Qt, no torch.
"""

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.errors import DataError
from napari_glacier.core.plain_yaml import write_line

TilesThatCount = Literal["all", "edited", "approved"]

# How far the review of a tile must have come for it to count.
_STATES: dict[str, tuple[str, ...]] = {"edited": ("edited", "approved"), "approved": ("approved",)}
# 25 tiles of 512 x 512.
_FEW_PIXELS = 25 * 512 * 512
_ASK_S = 5.0
# What the form asks for, or what the recipe's name decides: `settings` has the rest.
FORM_KEYS = frozenset(
    {"version", "recipe", "output", "device", "data.train", "data.tiles", "model.init_from", "train.epochs"}
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a person filled into the Train widget.

    `tiles` None means all that have a mask; `settings` are changes of further keys, as ``key=value``.
    """

    recipe: str
    data: Path
    output: Path
    epochs: int | None = None
    init_from: str | None = None
    device: str = "auto"
    tiles: tuple[str, ...] | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A recipe that suits a dataset, and why; a sentence."""

    recipe: str
    reason: str


def propose(dataset: Dataset) -> Proposal | None:
    """The recipe that the size of a dataset asks for; None where the usual one will do.

    Few labelled pixels are soon known by heart. `tiny_data` holds against that by an encoder that knows photographs,
    and by crops that always look new. It reads satellite bands.
    """
    tiles = [tile for tile in dataset.split("train") or dataset.tiles if tile.mask_path is not None]
    pixels = sum(tile.height * tile.width for tile in tiles)
    if len(tiles) < 2 or pixels > _FEW_PIXELS or any(set(CANONICAL_BANDS) - set(tile.bands) for tile in tiles):
        return None
    reason = (
        f"{len(tiles)} labelled tiles ({pixels / 1e6:.1f} million pixels) are few and soon known by heart: tiny_data "
        "is proposed, whose encoder knows photographs, and which changes every crop strongly."
    )
    if dataset.scheme is not None and dataset.scheme.num_classes == 2:
        # With more classes it was tried on generated tiles alone.
        reason += (
            " A run of surroundings beside it takes minutes and errs elsewhere: on fifteen real tiles the mean of both "
            "scored highest."
        )
    return Proposal("tiny_data", reason)


def tiles_that_count(session: Any, which: TilesThatCount) -> tuple[str, ...] | None:
    """Ids of the labelled training tiles of a review state; None for all.

    Raises
    ------
    DataError
        If there are fewer than two: one learns, one validates.
    """
    if which == "all":
        return None
    if session is None:
        raise DataError("Which tiles are approved is known of an open dataset. Open it, or let all tiles count.")
    dataset = session.dataset
    # As training does: where there are splits, those of the training split learn.
    tiles = dataset.split("train") or dataset.tiles
    states = _STATES[which]
    found = tuple(tile.id for tile in tiles if tile.mask_path is not None and session.review(tile.id) in states)
    least = 1 if dataset.split("train") and dataset.split("val") else 2
    if len(found) < least:
        words = " or ".join(states)
        raise DataError(
            f"{len(found)} labelled training tile(s) are {words}, and {least} are needed. Mark tiles in the Correct or "
            "Data widget, or let all tiles count."
        )
    return found


def overrides(plan: Plan) -> list[str]:
    """What a plan changes in its recipe, as ``key=value``."""
    start = "null" if plan.init_from is None else write_line(plan.init_from)
    changes = [f"data.train={write_line(str(plan.data))}", f"output={write_line(str(plan.output))}"]
    changes += [f"device={plan.device}"]
    if plan.epochs is not None:
        changes.append(f"train.epochs={plan.epochs}")
    changes.append(f"model.init_from={start}")
    if plan.tiles is not None:
        changes.append(f"data.tiles={write_line(plan.tiles)}")
    return [*changes, *plan.settings]


def commands(plan: Plan) -> str:
    """The same run for a terminal, for several GPUs, for two hosts, and for a cluster with SLURM; to be copied."""
    # Elsewhere the device is chosen by what is there.
    settings = [text for text in overrides(plan) if not text.startswith("device=")]
    what = f"-m training.run --config {plan.recipe} \\\n  --set {' '.join(map(shlex.quote, settings))}"
    rendezvous = '--rdzv-backend c10d --rdzv-endpoint "$head:29500"'
    slurm = f"""#!/bin/bash
#SBATCH --job-name=glacier
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=1
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 4 --max-restarts 3 {rendezvous} \\
  --rdzv-id "$SLURM_JOB_ID" {what}"""
    several = (
        "torchrun --nnodes 2 --nproc-per-node 4 --max-restarts 3 --rdzv-backend c10d \\\n  --rdzv-endpoint HOST1:29500"
    )
    return "\n\n".join(
        (
            f"# This machine, all its GPUs\npython {what} --devices auto",
            f"# Two hosts with four GPUs each: the same command on both, folders on a shared disk\n"
            f"{several} --rdzv-id glacier-1 {what}",
            f"# SLURM: save as glacier.sh, then sbatch glacier.sh\n{slurm}",
            f"# Follow its runs from here: copies what is new every 20 seconds, and the runs appear in the list\n"
            f"{follow_command('HOST:/path/to/runs', plan.output)}",
        )
    )


def follow_command(remote: str, local: Path) -> str:
    """Copies what is new of a remote folder of runs again and again; for a POSIX shell with rsync.

    Parameters
    ----------
    remote : str
        As rsync takes it: ``host:/folder``, or a folder.
    local : Path

    Returns
    -------
    str
        Ends by Ctrl-C, which rsync reports as 20, and not when a copy fails: the network is gone for a while, there is
        no run yet, or a file was replaced while it was copied. What only resuming and predicting from the last epoch
        need stays there, and so do locks: here nobody trains.
    """
    left_out = " ".join(f"--exclude {name}" for name in ("resume.pt", "last.safetensors", ".lock", "stop"))
    source, target = shlex.quote(f"{remote.rstrip('/')}/"), shlex.quote(f"{local}/")
    return f"until rsync -a {left_out} \\\n  {source} {target}; [ $? -eq 20 ]; do sleep 20; done"


def devices_found() -> list[tuple[str, str]]:
    """Names for the device field with what they are: ``cuda:0``, ``NVIDIA L4 (23 GB)``; asks the driver, not torch."""
    found = [("auto", "the GPUs, else the CPU"), ("cpu", "")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return found
    asked = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=_ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return found
    gpus = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    return [
        *found,
        *((f"cuda:{k}", f"{name.strip()} ({float(size) / 1024:.0f} GB)") for k, (name, size) in enumerate(gpus)),
    ]
