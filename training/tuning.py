"""Tuning a trained network in seconds: its decoder learns a few corrections, and repeats its old answers elsewhere.

The encoder stays as it is, so its features are computed once for each crop. Normalisation layers keep their
statistics: a handful of crops of one place would spoil them.

Shapes: N crops, C channels, K classes, H rows, W columns.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere
from torch import Tensor, nn

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.nn.zoo.stages import encoder_of
from training.precision import Precision

# Features of more crops than fit are computed again at each step.
_FEATURE_BYTES = 512 * 2**20
# Cached features and those computed anew may differ by the rounding of another batch size.
_SAME = 0.05


# Weight of the old answers while it is tried how far learning carries, and for nothing that is kept: so light a hand
# puts more of the corrections right, and spoils what nobody corrected. Who corrects points at mistakes, and whatever
# changes a map towards them looks good by these alone.
_ON_TRIAL = 3.0
_FEWEST_PROBED_PX = 50


@dataclass(frozen=True, slots=True)
class Settings:
    """How a network is tuned.

    Attributes
    ----------
    steps : int
    lr : float
    replay : float
        Weight of repeating the old answers, against 1 of the corrections.
    batch : int
        Crops with corrections a step, and as many without.
    seed : int
    """

    steps: int = 16
    lr: float = 5e-4
    replay: float = 30.0
    batch: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Crops:
    """Places to learn from.

    Attributes
    ----------
    image_NCHW : float32
        As the network takes it: images, or the features of pixels that it takes in their place.
    target_NHW : uint8
        What a person said, `IGNORE_INDEX` where nobody did.
    replay_NHW : bool
        Where the old answers are repeated.
    probe_NHW : bool
        Corrections that are kept back when it is tried out how far learning carries.
    into : tuple of int
        Of each class of the network, the class that the person has for it, where she tells fewer apart; else empty.
    """

    image_NCHW: Tensor
    target_NHW: Tensor
    replay_NHW: Tensor
    probe_NHW: Tensor
    into: tuple[int, ...] = ()

    @property
    def corrected(self) -> list[int]:
        """Numbers of the crops in which somebody said something."""
        return torch.nonzero((self.target_NHW != IGNORE_INDEX).flatten(1).any(1)).flatten().tolist()

    def in_her_classes(self, log_NKHW: Tensor) -> Tensor:
        """Log-probabilities of the classes that the person tells apart: of each, the sum of what she has it for."""
        if not self.into:
            return log_NKHW
        into = torch.tensor(self.into)
        parts = [log_NKHW[:, into == label].logsumexp(1) for label in range(max(self.into) + 1)]
        return torch.stack(parts, dim=1)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning did, over the crops: shares of pixels.

    Attributes
    ----------
    right_before, right_after : float
        Of the corrected pixels, those that the network gives the person's class.
    changed_elsewhere : float
        Of the others, those that it gives another class than before.
    """

    right_before: float
    right_after: float
    changed_elsewhere: float


def tune(
    network: nn.Module,
    crops: Crops,
    settings: Settings,
    on_step: Callable[[int], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Teach a network corrections, in place; it comes back in evaluation mode with all parameters trainable.

    Corrections count by class, however few pixels a class has; a class of theirs that the network divides is right in
    any of its parts (the probability of their sum is learnt). Elsewhere the Kullback-Leibler divergence from the
    network's own answers before holds it to them (Li & Hoiem 2017, "Learning without forgetting", TPAMI 40).

    Parameters
    ----------
    network : nn.Module
        Images (N, C, H, W) to logits (N, K, H, W). Without an ``encoder`` all of it is tuned, at a fifth of the rate.
    crops : Crops
        At least one has a correction.
    settings : Settings
    on_step : callable (step) -> None
    should_stop : callable () -> bool
        Asked before each step.
    """
    torch.manual_seed(settings.seed)
    network.eval()
    encoder = encoder_of(network)
    in_encoder = set(encoder.parameters()) if encoder is not None else set()
    trained = [parameter for parameter in network.parameters() if parameter not in in_encoder]
    was_trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    lr = settings.lr if encoder is not None else settings.lr / 5
    precision = Precision("auto", torch.device("cpu"))
    forward = _Forward(network, crops.image_NCHW, precision)
    old_NKHW = forward.everything()
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    draw = np.random.default_rng(settings.seed)
    corrected = crops.corrected
    others = [number for number in range(len(crops.image_NCHW)) if number not in set(corrected)]
    for step in range(settings.steps):
        if should_stop():
            break
        # Up within a tenth of the steps, then down along a cosine.
        done = (step + 1) / settings.steps
        for group in optimizer.param_groups:
            factor = min(1.0, 10 * done) * (0.5 + 0.5 * math.cos(math.pi * done))
            group["lr"] = factor * lr
        chosen = [*_draw(draw, corrected, settings.batch), *_draw(draw, others, settings.batch)]
        logits_NKHW = forward(chosen)
        loss = _loss(logits_NKHW, old_NKHW[chosen], crops, chosen, settings.replay)
        optimizer.zero_grad()
        precision.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        on_step(step + 1)
    new_NKHW = forward.everything()
    forward.close()
    for parameter in was_trainable:
        parameter.requires_grad_(True)
    return _compare(old_NKHW, new_NKHW, crops)


def how_far_it_carries(
    network: nn.Module, crops: Crops, settings: Settings, should_stop: Callable[[], bool] = lambda: False
) -> float | None:
    """How far corrections carry: tried on some that are kept back.

    A copy of the network learns the other corrections, held to its old answers lightly.

    Returns
    -------
    float or None
        Share of those kept back that came right by it; None where there are too few corrections to tell.
    """
    kept_NHW = crops.probe_NHW & (crops.target_NHW != IGNORE_INDEX)
    target_NHW = crops.target_NHW.clone()
    target_NHW[kept_NHW] = IGNORE_INDEX
    learnt = replace(crops, target_NHW=target_NHW)
    if int(kept_NHW.sum()) < _FEWEST_PROBED_PX or not learnt.corrected:
        return None
    pupil = copy.deepcopy(network)
    before = _right(network, crops, kept_NHW)
    tune(pupil, learnt, replace(settings, replay=_ON_TRIAL, steps=(settings.steps + 1) // 2), should_stop=should_stop)
    return _right(pupil, crops, kept_NHW) - before


@torch.no_grad()
def _right(network: nn.Module, crops: Crops, where_NHW: Tensor) -> float:
    """Share of corrected pixels that a network gives the person's class."""
    network.eval()
    hits = total = 0
    for number in torch.nonzero(where_NHW.flatten(1).any(1)).flatten().tolist():
        where_HW = where_NHW[number]
        log_NKHW = F.log_softmax(network(crops.image_NCHW[number : number + 1]).float(), dim=1)
        found = crops.in_her_classes(log_NKHW)[0].argmax(0)[where_HW]
        hits += int((found == crops.target_NHW[number][where_HW]).sum())
        total += int(where_HW.sum())
    return hits / max(total, 1)


def _draw(draw: np.random.Generator, numbers: Sequence[int], most: int) -> list[int]:
    return draw.permutation(np.asarray(numbers, int))[:most].tolist() if len(numbers) else []


def _loss(logits_NKHW: Tensor, old_NKHW: Tensor, crops: Crops, chosen: Sequence[int], replay: float) -> Tensor:
    log_NKHW = F.log_softmax(logits_NKHW.float(), dim=1)
    target_NHW = crops.target_NHW[chosen].long()
    loss = log_NKHW.new_zeros(())
    said = target_NHW[target_NHW != IGNORE_INDEX]
    if said.numel():
        error_NHW = F.nll_loss(crops.in_her_classes(log_NKHW), target_NHW, ignore_index=IGNORE_INDEX, reduction="none")
        # Each class counts the same, however few pixels of it there are.
        errors = [error_NHW[target_NHW == label].mean() for label in torch.unique(said)]
        loss = torch.stack(errors).mean()
    kept_NHW = crops.replay_NHW[chosen]
    if kept_NHW.any():
        old_NKHW = F.log_softmax(old_NKHW.float(), dim=1)
        divergence_NHW = (old_NKHW.exp() * (old_NKHW - log_NKHW)).sum(1)
        loss = loss + replay * divergence_NHW[kept_NHW].mean()
    return loss


def _compare(old_NKHW: Tensor, new_NKHW: Tensor, crops: Crops) -> Tuned:
    old_NHW, new_NHW = (
        crops.in_her_classes(F.log_softmax(logits.float(), dim=1)).argmax(1) for logits in (old_NKHW, new_NKHW)
    )
    said_NHW = crops.target_NHW != IGNORE_INDEX
    target = crops.target_NHW[said_NHW].long()

    def share(values: Tensor) -> float:
        return float(values.float().mean()) if values.numel() else 0.0

    return Tuned(
        right_before=share(old_NHW[said_NHW] == target),
        right_after=share(new_NHW[said_NHW] == target),
        changed_elsewhere=share((old_NHW != new_NHW)[crops.replay_NHW]),
    )


class _Forward:
    """A network on numbered crops, its encoder's features kept where that gives the same answer."""

    def __init__(self, network: nn.Module, image_NCHW: Tensor, precision: Precision) -> None:
        self._network: Any = network
        self._image_NCHW, self._precision = image_NCHW, precision
        self._encoder = encoder_of(network)
        self._features: list[Any] | None = None
        if self._encoder is not None:
            self._remember(self._encoder)

    def __call__(self, numbers: Sequence[int]) -> Tensor:
        image_NCHW = self._image_NCHW[list(numbers)]
        if self._features is not None:
            assert isinstance(self._network.encoder, _Remembered)
            self._network.encoder.features = _joined([self._features[number] for number in numbers])
        with self._precision.autocast():
            logits: Tensor = self._network(image_NCHW)
        return logits.float()

    @torch.no_grad()
    def everything(self) -> Tensor:
        """Logits of all crops."""
        return torch.cat([self([number]) for number in range(len(self._image_NCHW))])

    def close(self) -> None:
        """Give the network its encoder back."""
        if self._features is not None:
            self._network.encoder = self._encoder
            self._features = None

    @torch.no_grad()
    def _remember(self, encoder: nn.Module) -> None:
        seen: list[Any] = []
        hook = encoder.register_forward_hook(lambda module, inputs, output: seen.append(output))
        features = []
        size = 0
        try:
            for number in range(len(self._image_NCHW)):
                direct = self([number])
                if len(seen) != number + 1:
                    return  # the network does not call its encoder as a whole
                features.append(seen[number])
                size += _num_bytes(seen[number])
                if size > _FEATURE_BYTES:
                    return
        finally:
            hook.remove()
        self._network.encoder = _Remembered()
        self._features = features
        if not torch.allclose(self([len(features) - 1]), direct, atol=_SAME, rtol=_SAME):
            self.close()


class _Remembered(nn.Module):
    """Stands in for an encoder and gives the features it was told to."""

    features: Any = None

    def forward(self, image_NCHW: Tensor) -> Any:
        """Give the features, whatever the image."""
        return self.features


def _joined(parts: Sequence[Any]) -> Any:
    """Features of single crops as those of a batch, in any nest of lists, tuples and mappings."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, (list, tuple)):
        joined = [_joined(entries) for entries in zip(*parts, strict=True)]
        return tuple(joined) if isinstance(first, tuple) else joined
    return first


def _num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_num_bytes, value.values()))
    return sum(map(_num_bytes, value)) if isinstance(value, (list, tuple)) else 0
