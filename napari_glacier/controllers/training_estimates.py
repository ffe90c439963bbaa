"""How long a run may take and how much memory it may want, told before it starts. No Qt, no torch."""

import math
from collections.abc import Sequence
from pathlib import Path

import psutil

from napari_glacier.controllers.models import bundled_path
from napari_glacier.controllers.training_plans import Plan
from napari_glacier.core.config import RunConfig
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import CheckpointError
from napari_glacier.core.models.network_sizes import NETWORK_SIZES
from napari_glacier.core.models.shelf import first_member, read_card_facts
from napari_glacier.core.models.training_memory import estimate_memory
from napari_glacier.core.models.training_pace import Past, duration, find_past
from napari_glacier.core.processes import BFLOAT16_FLAGS, kernel_cpu_flags
from napari_glacier.core.runfiles import RunFolder


def estimate(
    plan: Plan,
    runs: Sequence[RunFolder],
    config: RunConfig | None = None,
    tiles: Sequence[Tile] = (),
    gpus: int = 0,
) -> str:
    """How long a plan may take and what its model needs; a sentence or three.

    Time and memory are those of the newest run of the recipe with the same network, crops and batches. Before there is
    one, memory follows from the size of the network, and of time nothing is said.

    Parameters
    ----------
    plan : Plan
    runs : sequence of RunFolder
        Newest first.
    config : RunConfig, optional
        What the plan becomes.
    tiles : sequence of Tile
        Those that will learn.
    gpus : int
        How many there are.
    """
    past = find_past(plan.recipe, runs, config)
    used = gpus_used(plan.device, gpus, config)
    parts = []
    if past is not None and plan.epochs is not None:
        disk = f", {past.disk_mb:.0f} MB on disk" if past.disk_mb else ""
        models = (config.folds or config.members) if config is not None else 1
        seconds = past.epoch_s * plan.epochs * math.ceil(models / max(used, 1))
        several = f"{models} models of " if models > 1 else ""
        parts.append(f"Estimate: about {duration(seconds)} for {several}{plan.epochs} epochs at most{disk}")
    parts.append(_memory(config, tiles, used, past))
    said = ", ".join(part for part in parts if part)
    if past is not None and plan.epochs is not None:
        return f"{said}, by the pace of {past.name}. Another device, start or number of tiles changes it."
    told = "How long it takes is told after the first epoch: no run of this recipe is here to estimate from."
    return f"{said[0].upper()}{said[1:]}. {told}" if said else told


def gpus_used(device: str, found: int, config: RunConfig | None) -> int:
    """How many GPUs a run takes: with auto all that can share the batch equally; 0 is the CPU."""
    if device.startswith("cuda:"):
        return 1
    if device not in {"auto", "cuda"} or not found:
        return 0
    batch_size = config.train.batch_size if config is not None else 1
    return max(number for number in range(1, found + 1) if batch_size % number == 0)


def _memory(config: RunConfig | None, tiles: Sequence[Tile], gpus: int, past: Past | None) -> str:
    """Memory in words; measured where a run of the recipe told, else by the network's size."""
    if past is not None and past.host_gb is not None:
        on_gpu = f" and {past.device_gb:.1f} GB on a GPU" if past.device_gb else ""
        return f"{past.host_gb:.1f} GB of memory{on_gpu}"
    network = _network(config) if config is not None else None
    found = None
    if config is not None and network is not None:
        fast = bool(gpus) or bool(kernel_cpu_flags() & BFLOAT16_FLAGS)
        half = fast if config.train.amp == "auto" else config.train.amp != "off"
        found = estimate_memory(config, network, tiles, gpus=gpus, half=half)
    if found is None:
        return ""
    there = psutil.virtual_memory().total / 1e9
    if found.host > there:
        return (
            f"⚠ about {found.host:.0f} GB of memory, and this machine has {there:.0f}: choose a recipe with a smaller "
            "batch, or another machine"
        )
    return f"about {found.host:.1f} GB of memory{f' and {found.device:.0f} GB on each GPU' if found.device else ''}"


def _network(config: RunConfig) -> tuple[str, str] | None:
    """Architecture and encoder of a run; of a model to start from, its own."""
    if config.model.init_from is None:
        if config.model.encoder is not None:
            return config.model.name, config.model.encoder
        # The usual encoder is the one that was measured first.
        known = [key for key in NETWORK_SIZES if key[0] == config.model.name]
        return min(known, key=lambda key: key[1] != "resnet34", default=None)
    source = bundled_path() if config.model.init_from == "bundled" else Path(config.model.init_from).expanduser()
    if source is None:
        return None
    try:
        card = read_card_facts(first_member(source))
    except (CheckpointError, OSError):
        return None
    return card.architecture, card.encoder
