"""How much memory a training run will want, from what its network keeps for the backward pass.

    device = (weights + gradients + two moments + running mean) + kept bytes x pixels of a step x 1.3
    process = 0.95 GB of libraries + decoded tiles, and on a CPU the device's part

Where single pixels are learnt, crops are only looked at, one at a time, and the features of an epoch's pixels are kept.

1.3 is for what lives beside the kept tensors: gradients of activations, logits and loss in float32, buffers of
convolutions. `tests/training/test_memory.py` holds the estimate against the peak of real runs.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from napari_glacier.core.config import RunConfig
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.models.network_sizes import NETWORK_SIZES

_LIBRARIES = 0.95e9
_BESIDE = 1.3
# Of a GPU: context and libraries.
_CONTEXT = 0.6e9
# What the trainer keeps decoded, in each process.
_CACHE = 512 * 2**20
_WORKER = 0.25e9
# Of a pixel's features, what looking at it takes.
_LOOKED_AT = 2.5
_GB = 1e9


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """What a run may want at its peak, in GB (1e9 bytes).

    Attributes
    ----------
    host : float
        Of the machine, over all processes of the run there.
    device : float
        Of each GPU; 0 where it trains on the CPU.
    """

    host: float
    device: float


def estimate_memory(
    config: RunConfig, network: tuple[str, str], tiles: Sequence[Tile], *, gpus: int = 0, half: bool = False
) -> TrainingMemory | None:
    """Estimate the peak memory of a run; None where the network has not been measured.

    Parameters
    ----------
    config : RunConfig
    network : tuple of str
        Architecture and encoder.
    tiles : sequence of Tile
        Those that learn.
    gpus : int
        Number in use; 0: the CPU.
    half : bool
        Whether it computes in bfloat16 or float16.
    """
    size = NETWORK_SIZES.get(network)
    if size is None:
        return None
    processes = max(gpus, 1)
    states = size.parameters * 4 * (4 + bool(config.train.ema))
    pixels = config.train.batch_size / processes * config.sampling.crop_px**2
    per_crop, features = config.sampling.pixels_per_crop, 0.0
    if per_crop is not None:
        area = config.sampling.crop_px**2
        crops = config.sampling.crops_per_epoch or sum(max(tile.height * tile.width / area, 1) for tile in tiles)
        pixels = config.train.pixels / processes
        features = size.features * (area * _LOOKED_AT + crops / processes * per_crop)
    step = states + ((size.kept_half if half else size.kept) * pixels + features) * _BESIDE
    decoded = sum((4 * len(config.data.channels) + 2) * tile.height * tile.width for tile in tiles)
    # Each loader process decodes the tiles that its own crops are cut from.
    data = min(decoded, _CACHE) * (1 + config.data.workers) + config.data.workers * _WORKER
    host = processes * (_LIBRARIES + data) + (0 if gpus else step)
    return TrainingMemory(host / _GB, (step + _CONTEXT) / _GB if gpus else 0.0)


def peak_memory_gb() -> float:
    """The most memory that this process has held so far, in GB."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / _GB
    if sys.platform == "linux":
        # Not getrusage, which counts what the parent held when it started this process: a napari of 3 GB, say.
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024 / _GB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in units of 1024 elsewhere.
    return float(peak) * (1 if sys.platform == "darwin" else 1024) / _GB
