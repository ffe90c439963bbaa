"""Batch normalisation that can train where a batch holds one value per channel."""

import torch
from torch import nn
from torch.nn import functional


class PatientBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d that falls back on its running statistics where a batch has none of its own.

    Pyramids pool the whole image to one pixel; with a batch of one image that leaves a single value per channel,
    whose variance is zero, and the library's layer refuses to train on it. This one then normalises by its running
    mean and variance and leaves them as they are. In every other case, and in its state dict, it is a BatchNorm2d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise a batch of shape (N, C, H, W)."""
        if self.training and self.running_mean is not None and input.numel() == input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        normalised: torch.Tensor = super().forward(input)
        return normalised


def with_patient_norms(network: nn.Module) -> nn.Module:
    """Turn every plain BatchNorm2d of a network into a `PatientBatchNorm`, in place; returns the network.

    Subclasses that compute something of their own (those of timm join the activation) are left alone: they stand in
    encoders, whose maps the frame keeps larger than one pixel.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            # The classes differ by their forward alone; a new layer would lose hooks and break shared references.
            module.__class__ = PatientBatchNorm
    return network
