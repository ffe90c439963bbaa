"""Optimiser, learning-rate schedule and early stopping; their states are plain numbers."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from napari_glacier.core.config import OptimConfig
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo.stages import encoder_of

Direction = Literal["max", "min", "none"]

# Relative change that counts as progress for the learning rate, as in torch's ReduceLROnPlateau.
_PLATEAU_THRESHOLD = 1e-4
# Of a parameter group: its learning rate as a share of the run's.
_SCALE = "lr_scale"


def build_optimizer(model: nn.Module, config: OptimConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused where the device has it; no decay on norms and biases.

    The encoder's parameters are groups of their own, with `OptimConfig.encoder_lr`.

    Raises
    ------
    ConfigError
        If the encoder is to have a rate of its own and the network has no encoder.
    """
    encoder = encoder_of(model)
    if encoder is None and config.encoder_lr is not None:
        raise ConfigError(
            "optim.encoder_lr is given, but this network has no encoder apart. Leave it out, or choose another model."
        )
    in_encoder = {id(p) for p in encoder.parameters()} if encoder is not None else set()
    groups = []
    for scale, inside in ((1.0, False), ((config.encoder_lr or config.lr) / config.lr, True)):
        part = [p for p in model.parameters() if p.requires_grad and (id(p) in in_encoder) == inside]
        for decay, is_weight in ((config.weight_decay, True), (0.0, False)):
            chosen = [p for p in part if (p.ndim > 1) == is_weight]
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, _SCALE: scale})
    if not groups:
        raise ConfigError("Every part of the network is frozen. Lower model.frozen_stages.")
    fused = device.type in {"cpu", "cuda", "mps"}
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
    _allocate_moments(optimizer)
    return optimizer


def _allocate_moments(optimizer: torch.optim.Optimizer) -> None:
    """Make the moments before the first step: there, memory is at its peak, and running out could not be mended."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    # Nothing moves at this rate, and the moments of no gradient are 0.
    set_learning_rate(optimizer, 0.0)
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        state["step"].zero_()
    optimizer.zero_grad(set_to_none=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate; parameter groups keep their ratio to it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[_SCALE]


class LearningRate:
    """Linear warm-up by step, then reduction on plateaus by epoch, or a cosine by step.

    The plateau rule is that of torch's ``ReduceLROnPlateau`` with a relative threshold of 1e-4; the cosine is
    that of Loshchilov & Hutter (2017) without restarts.

    Parameters
    ----------
    config : OptimConfig
    direction : {"max", "min"}
        Of the metric that `end_epoch` takes.
    num_steps : int
        Updates of the whole run, over which the cosine falls.
    """

    def __init__(self, config: OptimConfig, direction: Direction, num_steps: int) -> None:
        self._config = config
        self._sign = 1.0 if direction == "max" else -1.0
        self._num_steps = num_steps
        self.plateau_lr = config.lr
        self._best = -math.inf
        self._bad_epochs = 0

    def at_step(self, step: int) -> float:
        """Learning rate of the update with this number, counted from 0 over the whole run."""
        warmup = self._config.warmup_steps
        if step + 1 < warmup:
            return self.plateau_lr * (step + 1) / warmup
        if self._config.schedule == "plateau":
            return self.plateau_lr
        done = min((step + 1 - warmup) / max(self._num_steps - warmup, 1), 1.0)
        floor = min(self._config.min_lr, self._config.lr)
        return floor + (self._config.lr - floor) * 0.5 * (1.0 + math.cos(math.pi * done))

    def end_epoch(self, metric: float) -> None:
        """Take the epoch's metric, and lower the learning rate where it has not improved for too long."""
        if self._config.schedule != "plateau":
            return
        value = self._sign * metric
        if value > self._best + _PLATEAU_THRESHOLD * abs(self._best if math.isfinite(self._best) else 0.0):
            self._best, self._bad_epochs = value, 0
            return
        self._bad_epochs += 1
        if self._bad_epochs <= self._config.plateau_patience:
            return
        self._bad_epochs = 0
        # A floor above the present rate must not raise it.
        lowered = max(self.plateau_lr * self._config.plateau_factor, self._config.min_lr)
        self.plateau_lr = min(self.plateau_lr, lowered)

    def state(self) -> dict[str, Any]:
        """Plain numbers for a resume file."""
        return {"plateau_lr": self.plateau_lr, "best": self._best, "bad_epochs": self._bad_epochs}

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.plateau_lr, self._best, self._bad_epochs = state["plateau_lr"], state["best"], state["bad_epochs"]


class Progress:
    """Which epoch is best, and when waiting for a better one has lasted too long.

    Parameters
    ----------
    direction : {"max", "min", "none"}
        none: nothing is chosen, so the newest epoch is always the best, and patience has no end.
    patience : int
        Epochs without progress before `exhausted`.
    min_delta : float
        Smallest change of the metric that counts as progress; any change at all makes a new best.
    """

    def __init__(self, direction: Direction, patience: int, min_delta: float) -> None:
        self._chooses = direction != "none"
        self._sign = 1.0 if direction == "max" else -1.0
        self._patience = patience
        self._min_delta = min_delta
        self.best_epoch = 0
        self._best = -math.inf
        self._reference = -math.inf
        self._waited = 0

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self._chooses and self._waited >= self._patience

    def end_epoch(self, epoch: int, metric: float) -> bool:
        """Take the epoch's metric; return whether the epoch is the best so far."""
        if not self._chooses:
            self.best_epoch = epoch
            return True
        value = self._sign * metric
        if value > self._reference + self._min_delta:
            self._reference, self._waited = value, 0
        else:
            self._waited += 1
        if value > self._best:
            self._best, self.best_epoch = value, epoch
            return True
        return False

    def state(self) -> dict[str, Any]:
        """Plain numbers for a resume file."""
        return {
            "best_epoch": self.best_epoch,
            "best": self._best,
            "reference": self._reference,
            "waited": self._waited,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.best_epoch, self._best = state["best_epoch"], state["best"]
        self._reference, self._waited = state["reference"], state["waited"]


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale gradients down to this norm; 0 leaves them."""
    if max_norm > 0:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
