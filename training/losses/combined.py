"""Weighted sum of masked losses."""

from collections.abc import Mapping

import torch
from torch import Tensor

from napari_glacier.core.config import LossConfig
from napari_glacier.core.errors import ConfigError
from training.losses.dice import SoftDice
from training.losses.focal import Focal
from training.losses.terms import LossTerm, Pixels

LOSS_NAMES = ("focal", "dice")


class CombinedLoss:
    """``sum of weight x term`` over the same pixels.

    Parameters
    ----------
    terms : mapping of name to (weight, term)
    """

    def __init__(self, terms: Mapping[str, tuple[float, LossTerm]]) -> None:
        self.terms = dict(terms)

    @property
    def num_sums(self) -> int:
        """Length of the vector of sums."""
        return sum(term.num_sums for _, term in self.terms.values())

    def sums(self, logits_NKHW: Tensor, target_NHW: Tensor) -> Tensor:
        """Reduce a batch to the additive sums of all terms, float32 of shape (num_sums,)."""
        pixels = Pixels.from_logits(logits_NKHW, target_NHW)
        with torch.autocast(logits_NKHW.device.type, enabled=False):
            return torch.cat([term.sums(pixels) for _, term in self.terms.values()])

    def value(self, sums: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and, detached and unweighted, its components by name."""
        sizes = [term.num_sums for _, term in self.terms.values()]
        total, components = sums.new_zeros(()), {}
        for (name, (weight, term)), part in zip(self.terms.items(), torch.split(sums, sizes), strict=True):
            value = term.value(part)
            total = total + weight * value
            components[name] = value.detach()
        return total, components


def default_alpha(num_classes: int) -> list[float]:
    """Class weights of the focal loss where the configuration gives none: rarer classes weigh more."""
    return [1.0, 2.0, 3.0, 4.0] if num_classes == 4 else [1.0] * num_classes


def build_loss(config: LossConfig, num_classes: int) -> CombinedLoss:
    """Make the loss that a configuration describes.

    Raises
    ------
    ConfigError
        For an unknown term, a negative weight, or class weights that do not match the classes.
    """
    alpha = config.focal_alpha if config.focal_alpha is not None else default_alpha(num_classes)
    if len(alpha) != num_classes or min(alpha) < 0:
        raise ConfigError(
            f"loss.focal_alpha is {alpha}; the data have {num_classes} classes. "
            f"Give {num_classes} numbers of 0 or more."
        )
    unknown = sorted(set(config.terms) - set(LOSS_NAMES))
    if unknown:
        raise ConfigError(f"loss.terms names {', '.join(unknown)}; known losses are {', '.join(LOSS_NAMES)}.")
    if any(weight < 0 for weight in config.terms.values()) or sum(config.terms.values()) <= 0:
        raise ConfigError(
            f"loss.terms is {config.terms}; weights must be 0 or more, and one of them above 0. Correct the weights."
        )
    known: dict[str, LossTerm] = {"focal": Focal(alpha, config.focal_gamma), "dice": SoftDice(num_classes)}
    return CombinedLoss({name: (weight, known[name]) for name, weight in config.terms.items()})
