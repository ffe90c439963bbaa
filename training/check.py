"""What `--check` prints: versions, devices and memory, the data found, the class mix."""

import platform
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import psutil
import torch

from napari_glacier.core.bands import ALL_BANDS
from napari_glacier.core.channels import required_bands
from napari_glacier.core.config import RunConfig
from napari_glacier.nn.device import describe_device, pick_device
from training.data import TileSet, scan
from training.precision import Precision
from training.sampler import CropSampler
from training.start import prepare

_MOST_LEAKS = 20
_PACKAGES = ("napari-glacier", "torch", "segmentation-models-pytorch", "timm", "albumentations", "numpy", "tifffile")


def describe(config: RunConfig) -> str:
    """Check a run's input as training would, and describe it in a few lines.

    Raises
    ------
    GlacierError
        As `prepare`.
    """
    start = prepare(config)
    device = pick_device(config.device)
    precision = Precision(config.train.amp, device)
    lines = [*_versions(), *_devices(), ""]
    lines.append(f"device     {describe_device(device)}, {precision.name}")
    lines.append(
        f"model      {start.config.model.name}, {sum(p.numel() for p in start.build_model().parameters()):,} parameters"
    )
    lines.append(f"classes    {start.data.scheme.name}: {', '.join(start.data.scheme.class_names)}")
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
    lines += [f"warning    {message}" for message in (*start.notes.warnings, *seen.warnings)]
    return "\n".join(lines) + "\n"


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
