"""What `--check` prints: versions, devices and memory, the data found, the folds, the class mix, what it may cost."""

import math
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import torch

from napari_glacier.core.bands import ALL_BANDS
from napari_glacier.core.channels import required_bands
from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import RunConfig
from napari_glacier.core.errors import ConfigError, GlacierError
from napari_glacier.core.models.training_memory import estimate_memory
from napari_glacier.core.models.training_pace import duration, find_past, runs_in
from napari_glacier.nn.device import describe_device, pick_device
from training.data import TileSet, scan
from training.folds import Folds, check_folds_alone, choose_folds
from training.precision import Precision
from training.sampler import CropSampler
from training.source import LabelledTiles, TrainingData, open_labelled_tiles, open_training_data
from training.start import Start, prepare

Pixels_K = npt.NDArray[np.int64]

_MOST_LEAKS = 20
_GB = 1e9
# Recipes whose settings were chosen by scores on two classes.
_ON_TWO_CLASSES = frozenset({"surroundings"})
_PACKAGES = ("napari-glacier", "torch", "segmentation-models-pytorch", "timm", "albumentations", "numpy", "tifffile")


def describe(config: RunConfig, kept_folds: Path | None = None, at_once: int = 1) -> str:
    """Check a run's input as training would, and describe it in a few lines.

    Of folds each is checked and told in brief, and the first one in full.

    Parameters
    ----------
    config : RunConfig
    kept_folds : Path, optional
        Folds of a run folder that is there already.
    at_once : int
        Models that are trained side by side, where there are several; else processes that train the one.

    Raises
    ------
    GlacierError
        As `prepare`; for a fold that cannot be trained, too.
    """
    of_folds: list[str] = []
    told: list[str] = []
    models = config.folds or config.members
    if config.folds is not None:
        check_folds_alone(config)
        labelled = open_labelled_tiles(config.data)
        folds = choose_folds(kept_folds, labelled, config.folds, config.seed, config.data.splits)
        of_folds, told = _folds(config, labelled, folds)
        config = _of_fold(config, folds[0])
    start = prepare(config)
    device = pick_device(config.device)
    precision = Precision(config.train.amp, device)
    lines = [*_versions(), *_devices(), ""]
    lines.append(f"device     {describe_device(device)}, {precision.name}")
    lines.append(
        f"model      {start.config.model.name}, {sum(p.numel() for p in start.build_model().parameters()):,} parameters"
    )
    lines.append(f"classes    {start.data.scheme.name}: {', '.join(start.data.scheme.class_names)}")
    if start.data.scheme.num_classes > 2 and start.config.recipe in _ON_TWO_CLASSES:
        lines.append(
            f"{'':<10} {start.config.recipe} was chosen on real tiles of two classes; of four it has mapped generated "
            "ones alone (docs/training.md)"
        )
    lines += _costs(start, models, at_once, on_gpu=device.type == "cuda", half=precision.dtype != torch.float32)
    if of_folds:
        lines += [*of_folds, "", f"Fold 1 of {models} in full; the others have other tiles and the same settings."]
    elif models > 1:
        lines.append(
            f"members    {models}, with the seeds {config.seed + 1} to {config.seed + models}, of these tiles:"
        )
    lines += _tiles("train", start.data.train)
    lines += _tiles("val", start.data.val)
    seen = scan(start.data.train, start.data.scheme, config.data.normalize)
    normalisation = start.normalisation or seen.normalisation
    for name, mean, std in zip(config.data.channels, normalisation.mean, normalisation.std, strict=True):
        lines.append(f"channel    {name:<6} mean {mean:12.4f}  std {std:12.4f}")
    lines.append(f"contact    {start.data.leakage.summary()}")
    lines += [f"           {leak.sentence()}" for leak in start.data.leakage.leaks[:_MOST_LEAKS]]
    if len(start.data.leakage.leaks) > _MOST_LEAKS:
        lines.append(f"           and {len(start.data.leakage.leaks) - _MOST_LEAKS} more pairs")
    multiple_of = 1 if config.sampling.pixels_per_crop else config.train.batch_size * config.train.accumulate
    sampler = CropSampler(seen.index, config.sampling, config.seed, multiple_of)
    achieved = sampler.mix_of(sampler.plan(1))
    lines.append(f"crops      {sampler.num_crops} an epoch of {config.sampling.crop_px} px, {config.sampling.kind}")
    for k, name in enumerate(start.data.scheme.class_names):
        target = f"target {sampler.target_mix[k]:6.2%}  " if sampler.aims_at_mix else ""
        lines.append(
            f"mix        {name:<11} in the tiles {sampler.natural_mix[k]:6.2%}  {target}in the crops {achieved[k]:6.2%}"
        )
    lines.append(f"           crops come from {sampler.num_places:.0f} places, as evenly drawn ones would")
    lines += [f"note       {message}" for message in start.notes.messages]
    lines += [f"warning    {message}" for message in dict.fromkeys((*start.notes.warnings, *seen.warnings, *told))]
    return "\n".join(lines) + "\n"


def _of_fold(config: RunConfig, fold: Sequence[str]) -> RunConfig:
    data = config.data.model_copy(update={"val_tiles": list(fold)})
    return config.model_copy(update={"folds": None, "data": data})


def _folds(config: RunConfig, labelled: LabelledTiles, folds: Folds) -> tuple[list[str], list[str]]:
    """Each fold's tiles and class mix, and what may be wrong with one."""
    found, told = [], []
    for number, fold in enumerate(folds, start=1):
        try:
            found.append(open_training_data(_of_fold(config, fold)))
        except GlacierError as error:
            raise ConfigError(f"Fold {number} of {len(folds)} cannot be trained: {error}") from error
        if number > 1:  # the first one is told in full
            new = [text for text in found[-1].notes.warnings if text not in labelled.notes.warnings]
            told += [f"Fold {number}: {text}" for text in new]
    lines = []
    for number, (data, (train_K, val_K, lost)) in enumerate(zip(found, _mixes(found, labelled), strict=True), start=1):
        buffer = f", {lost:.1%} of their pixels in the buffer" if lost else ""
        validate = ", ".join(tile.id for tile in data.val.tiles)
        lines.append(f"fold {number:<5} {len(data.val)} tiles validate ({validate}), {len(data.train)} train{buffer}")
        for name, pixels_K in (("train", train_K), ("val", val_K)):
            shares_K = zip(data.scheme.class_names, pixels_K / max(pixels_K.sum(), 1), strict=True)
            lines.append(f"{'':<10} {name:<5} " + "  ".join(f"{kind} {share:6.2%}" for kind, share in shares_K))
    return lines, told


def _mixes(found: Sequence[TrainingData], labelled: LabelledTiles) -> list[tuple[Pixels_K, Pixels_K, float]]:
    """Of each fold the valid pixels of each class that train and that validate, and what share the buffer takes."""
    num_classes = labelled.scheme.num_classes
    counts_FSK = np.zeros((len(found), 3, num_classes), np.int64)
    windows_of = [dict(zip((t.id for t in data.train.tiles), data.train.excluded, strict=True)) for data in found]
    for number, tile in enumerate(labelled.tiles.tiles):
        target_HW = labelled.tiles.read(number).target()
        whole_K = np.bincount(target_HW.ravel(), minlength=256)[:num_classes]
        for data, windows, counts_SK in zip(found, windows_of, counts_FSK, strict=True):
            if tile.id in data.held_out:
                counts_SK[1] += whole_K
                continue
            left_HW = np.full_like(target_HW, IGNORE_INDEX) if tile.id not in windows else target_HW.copy()
            for window in windows.get(tile.id, ()):
                left_HW[window.slices] = IGNORE_INDEX
            left_K = np.bincount(left_HW.ravel(), minlength=256)[:num_classes]
            counts_SK[0] += left_K
            counts_SK[2] += whole_K - left_K
    return [
        (train_K, val_K, float(lost_K.sum() / max((train_K + lost_K).sum(), 1)))
        for train_K, val_K, lost_K in counts_FSK
    ]


def _costs(start: Start, models: int, at_once: int, *, on_gpu: bool, half: bool) -> Iterator[str]:
    """Memory and time of all models of a run: as the newest run of the recipe had them, else what is known."""
    config, side_by_side = start.config, min(at_once, models)
    past = find_past(config.recipe, runs_in(config.output.expanduser()), config)
    network, gpus = (config.model.name, config.model.encoder or ""), 0
    if on_gpu:
        gpus = at_once if models == 1 else 1
    size = estimate_memory(config, network, start.data.train.tiles, gpus=gpus, half=half)
    if past is not None and past.host_gb is not None:
        host, device, source = past.host_gb, past.device_gb or 0.0, f"as in {past.name}"
    elif size is not None:
        host, device, source = size.host, size.device, "about, by the size of the network"
    else:
        host, device, source = 0.0, 0.0, ""
    if source:
        on_device = f" and {device:.1f} GB on each GPU" if device else ""
        several = f"; {side_by_side} side by side take {side_by_side * host:.1f} GB" if side_by_side > 1 else ""
        there = psutil.virtual_memory().total / _GB
        short = f". ⚠ This machine has {there:.1f} GB" if side_by_side * host > there else ""
        yield f"memory     {host:.1f} GB{on_device}{' a model' if models > 1 else ''} ({source}){several}{short}"
    else:
        yield "memory     not known: this network has not been measured"
    what = f"{config.train.epochs} epochs at most"
    if models > 1:
        order = f"{side_by_side} at a time" if side_by_side > 1 else "one after another"
        what = f"{models} models of {what}, {order}"
    if past is None:
        yield f"time       {what}; how long is told after the first one: no run of this recipe is in {config.output}"
    else:
        seconds = past.epoch_s * config.train.epochs * math.ceil(models / side_by_side)
        yield f"time       about {duration(seconds)} for {what}, by the pace of {past.name}"


def _versions() -> Iterator[str]:
    yield f"python     {platform.python_version()} on {platform.platform()}"
    for name in _PACKAGES:
        try:
            yield f"package    {name} {version(name)}"
        except PackageNotFoundError:
            yield f"package    {name} is not installed"


def _devices() -> Iterator[str]:
    memory = psutil.virtual_memory()
    free_gib, total_gib = memory.available / 2**30, memory.total / 2**30
    yield f"cpu        {psutil.cpu_count()} cores, {free_gib:.1f} of {total_gib:.1f} GiB free"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}     {properties.name}, {properties.total_memory / 2**30:.1f} GiB"
    if torch.backends.mps.is_available():
        yield "mps        Apple GPU"


def _tiles(split: str, tiles: TileSet) -> Iterator[str]:
    found = Counter(band for tile in tiles.tiles for band in tile.bands)
    expected = {*found, *required_bands(tiles.channels)}
    sizes = Counter((tile.height, tile.width) for tile in tiles.tiles)
    listed = ", ".join(f"{n} of {height} x {width}" for (height, width), n in sizes.most_common(3))
    valid = np.mean([tiles.read(number).valid_HW.mean() for number in range(len(tiles))])
    yield f"{split:<10} {len(tiles)} tiles with a mask ({listed}), {valid:.1%} valid, in {tiles.dataset.root}"
    yield f"{'':<10} " + ", ".join(f"{name} {found[name]}/{len(tiles)}" for name in ALL_BANDS if name in expected)
