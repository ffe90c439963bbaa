"""Mixed precision: which number format a step computes in, and the scaling that float16 needs."""

from typing import Any, Literal

import torch
from torch import nn

from napari_glacier.core.errors import DeviceError
from napari_glacier.nn.device import inference_dtype
from napari_glacier.nn.rounding import keep_depthwise_exact
from training.optim import clip_gradients

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class Precision:
    """Autocast, gradient scaling and the optimiser's step in one number format.

    Parameters
    ----------
    amp : {"auto", "off", "bf16", "fp16"}
        auto takes what the device computes fastest: bfloat16 where it has it, else float16 on a GPU.
    device : torch.device

    Raises
    ------
    DeviceError
        For float16 on a CPU.
    """

    def __init__(self, amp: Literal["auto", "off", "bf16", "fp16"], device: torch.device) -> None:
        asked = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        self.dtype = asked[amp] if amp in asked else inference_dtype(device)
        if self.dtype == torch.float16 and device.type == "cpu":
            raise DeviceError("train.amp is fp16, which trains on a GPU only. Use bf16, off or auto on the CPU.")
        self.name = _NAMES[self.dtype]
        self._device_type = device.type
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def prepare(self, network: nn.Module) -> None:
        """Let what this device computes slowly in this format stay in float32, in place."""
        if self._device_type == "cpu" and self.dtype == torch.bfloat16:
            keep_depthwise_exact(network)

    def autocast(self) -> torch.autocast:
        """Context of a forward pass."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self._device_type, self.dtype if enabled else None, enabled=enabled)

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass of a loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, model: nn.Module, clip_norm: float) -> None:
        """Clip the gradients and update the weights; with float16 a step with infinite gradients is skipped."""
        self._scaler.unscale_(optimizer)
        clip_gradients(model.parameters(), clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """Plain numbers for a resume file."""
        return self._scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        if state:
            self._scaler.load_state_dict(state)
