"""What earlier runs of a recipe tell of the next one: its time, its memory, its size on disk. No torch."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_glacier.core.config import RunConfig
from napari_glacier.core.runfiles import RunFolder

# A run that differs in one of these had another pace, and wanted other memory.
_DECIDES_COST = (
    "model.name",
    "model.encoder",
    "sampling.crop_px",
    "sampling.crops_per_epoch",
    "sampling.pixels_per_crop",
    "train.pixels",
    "train.batch_size",
    "train.accumulate",
    "train.amp",
)


@dataclass(frozen=True, slots=True)
class Past:
    """What the newest run of a recipe tells of the next one."""

    name: str
    epoch_s: float
    disk_mb: float
    host_gb: float | None
    device_gb: float | None


def runs_in(folder: Path) -> list[RunFolder]:
    """Runs in an output folder, newest first; none where there is no such folder."""
    if not folder.is_dir():
        return []
    found = [RunFolder(child) for child in folder.iterdir() if (child / "run.yaml").is_file()]
    return sorted(found, key=lambda run: run.path.name, reverse=True)


def find_past(recipe: str | None, runs: Sequence[RunFolder], config: RunConfig | None) -> Past | None:
    """The newest run of a recipe with the same network, crops and batches; of folds and members the newest of these.

    Parameters
    ----------
    recipe : str or None
    runs : sequence of RunFolder
        Newest first.
    config : RunConfig or None
        What the next run is to be; None: any run of the recipe will do.
    """
    for run in runs:
        events = run.events()
        told_configs = [event.get("config", {}) for event in events if event["event"] == "start"]
        if not any(told.get("recipe") == recipe and _costs_the_same(told, config) for told in told_configs):
            continue
        seconds = [float(event["seconds"]) for event in events if event["event"] == "epoch" and event.get("seconds")]
        if not seconds:
            # Several models: each is a run of its own in a folder below.
            found = find_past(recipe, runs_in(run.path), config)
            if found is not None:
                return replace(found, name=f"{run.path.name}/{found.name}")
            continue
        sizes = [path.stat().st_size / 1e6 for path in (run.best_path, run.resume_path) if path.is_file()]
        told: dict[str, Any] = next((event for event in reversed(events) if event["event"] == "memory"), {})
        host, device = told.get("host_gb"), told.get("device_gb")
        return Past(run.path.name, statistics.median(seconds), sum(sizes), host, device)
    return None


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``."""
    seconds = max(0, round(seconds))
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _costs_the_same(told: Mapping[str, Any], config: RunConfig | None) -> bool:
    """Whether a run's own configuration agrees with another in what time and memory hang on."""
    if config is None:
        return True
    planned = config.model_dump(mode="json")
    for key in _DECIDES_COST:
        section, name = key.split(".")
        there = told.get(section, {})
        # A run fills in the encoder that is left open, and the network of the model that it starts from.
        is_open = section == "model" and (planned["model"]["init_from"] is not None or planned["model"][name] is None)
        if not is_open and name in there and there[name] != planned[section][name]:
            return False
    return True
