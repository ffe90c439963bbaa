"""The ladder a predictor steps down when memory runs out: smaller batches, smaller windows, the CPU."""

import logging
from dataclasses import dataclass, field, replace

import torch

from napari_glacier.core.errors import DeviceError
from napari_glacier.nn.device import describe_device, inference_dtype

logger = logging.getLogger(__name__)

MIN_WINDOW_PX = 128
_OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
_CPU_BATCH_PX, _GPU_BATCH_PX = 1 << 20, 1 << 22


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out (the CPU allocator raises a plain RuntimeError)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS)


def usual_batch(device: torch.device, window_px: int) -> int:
    """Batch of windows that fits ordinary devices; a larger one gains nothing."""
    return max((_CPU_BATCH_PX if device.type == "cpu" else _GPU_BATCH_PX) // window_px**2, 1)


@dataclass(slots=True)
class ComputeSettings:
    """Device, precision, window and batch in use, and what was given up so far.

    Attributes
    ----------
    steps : list of str
        One sentence a step down.
    """

    device: torch.device
    dtype: torch.dtype
    window_px: int
    overlap_px: int
    batch_size: int
    steps: list[str] = field(default_factory=list)

    def on(self, device: torch.device) -> "ComputeSettings":
        """The same for another device; what is given up there is noted here, too."""
        return replace(self, device=device, steps=self.steps)

    def smaller_batch(self, num_images: int) -> bool:
        """Halve the batch of `num_images` that did not fit; False where it was one. Results do not change."""
        if num_images == 1:
            return False
        self._step(f"batch {num_images} -> {num_images // 2}")
        self.batch_size = num_images // 2
        return True

    def step_down(self, usual: "ComputeSettings") -> None:
        """Take the next step after the batch: a smaller window, then the CPU with `usual` windows.

        Raises
        ------
        DeviceError
            If there is none left.
        """
        if self.window_px > MIN_WINDOW_PX:
            smaller = max(self.window_px // 2, MIN_WINDOW_PX)
            self._step(f"window {self.window_px} -> {smaller} px")
            self.window_px, self.overlap_px = smaller, min(self.overlap_px, smaller // 4)
        elif self.device.type != "cpu":
            cpu = torch.device("cpu")
            self._step(f"{self.device} -> cpu")
            self.device, self.batch_size = cpu, min(usual.batch_size, usual_batch(cpu, usual.window_px))
            self.dtype = torch.float32 if usual.dtype == torch.float32 else inference_dtype(cpu)
            self.window_px, self.overlap_px = usual.window_px, usual.overlap_px
        else:
            raise DeviceError(
                f"Memory ran out on {describe_device(self.device)} even with single windows of {self.window_px} px. "
                "Close other programs, or use a smaller model or fewer members."
            )

    def _step(self, what: str) -> None:
        text = f"Memory ran out on {describe_device(self.device)}: {what}."
        logger.warning(text)
        self.steps.append(text)
