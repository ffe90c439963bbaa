"""A running mean of the weights (EMA), which is validated and saved in the place of the weights themselves."""

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of a network's weights (Polyak & Juditsky 1992, with exponential forgetting).

    The decay grows with the number of updates, ``min(decay, (1 + t) / (10 + t))``, so that the first weights are
    soon forgotten. Buffers (running statistics of normalisation) are those of the newest weights.

    Parameters
    ----------
    network : nn.Module
        The network that is trained.
    decay : float
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._decay = decay
        self._updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after an update into the mean."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(list(self.network.parameters()), list(self._network.parameters()), 1.0 - decay)

    @torch.no_grad()
    def take_buffers(self) -> None:
        """Take over the buffers; before the mean is used."""
        for mine, theirs in zip(self.network.buffers(), self._network.buffers(), strict=True):
            mine.copy_(theirs)

    def state(self) -> dict[str, Any]:
        """Tensors and plain numbers for a resume file."""
        return {"updates": self._updates, "network": self.network.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self._updates = state["updates"]
        self.network.load_state_dict(state["network"])
