"""Which device computes, in which precision, and how the C library hands out memory.

torch is imported inside the functions: `tune_allocator` must run before torch is loaded.
"""

import ctypes
import logging
import platform
import sys
from typing import TYPE_CHECKING

from napari_glacier.core.errors import DeviceError
from napari_glacier.core.processes import BFLOAT16_FLAGS, kernel_cpu_flags

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc


def pick_device(name: str = "auto") -> "torch.device":
    """Return the device to compute on.

    Parameters
    ----------
    name : str
        ``auto`` (CUDA, else Apple's MPS, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    DeviceError
        If that device is not there.
    """
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda:0" if num_gpus else "mps" if has_mps else "cpu")
    kind, _, number = name.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (number and not (kind == "cuda" and number.isdecimal())):
        raise DeviceError(f"There is no device {name!r}. Use auto, cpu, cuda, cuda:N or mps.")
    if kind == "cuda":
        if not num_gpus:
            raise DeviceError(
                f"Device {name} was asked for, but torch sees no CUDA GPU here. Use --device auto or cpu, or "
                "check the driver (nvidia-smi) and that torch was built with CUDA."
            )
        if int(number or 0) >= num_gpus:
            raise DeviceError(
                f"Device {name} was asked for, but the GPUs here are cuda:0 to cuda:{num_gpus - 1}. "
                "Choose one of them, or auto."
            )
        return torch.device("cuda", int(number or 0))
    if kind == "mps" and not has_mps:
        raise DeviceError("Device mps was asked for, but this is no Apple GPU. Use --device auto or cpu.")
    return torch.device(kind)


def inference_dtype(device: "torch.device") -> "torch.dtype":
    """Return the number format in which a device computes networks fastest without losing accuracy.

    bfloat16 on GPUs from Ampere on and on CPUs with AMX or AVX-512 instructions for it (without them it is
    emulated, and slow), float16 on Volta and Turing, else float32.
    """
    import torch

    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else torch.float32
    if device.type == "cpu" and _cpu_flags() & BFLOAT16_FLAGS:
        return torch.bfloat16
    return torch.float32


def tune_allocator() -> bool:
    """Let glibc keep freed memory instead of returning it to the kernel; call it before torch is imported.

    Networks on the CPU free and ask for large blocks all the time, and each fresh one costs page faults: 1.2 to
    1.9 times the speed without them. Blocks of over 272 MB, which few networks have, are given back: kept, they leave
    gaps that the next ones do not fit, and `surroundings` took 6.7 GB for a window in the place of 4.1.

    Returns
    -------
    bool
        Whether it was done; False on anything but Linux with glibc.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {_M_MMAP_THRESHOLD: 272 << 20, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: 1}
    accepted = [mallopt(name, value) for name, value in settings.items()]
    return all(value == 1 for value in accepted)


def describe_device(device: "torch.device") -> str:
    """Return the device's name for people and provenance, e.g. ``cuda:0 (NVIDIA L4)``."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _cpu_flags() -> set[str]:
    import torch

    if hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and later
        return {name for name, present in torch.cpu.get_capabilities().items() if present is True}
    return kernel_cpu_flags()
