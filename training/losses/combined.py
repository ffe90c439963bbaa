"""Weighted sum of masked losses."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.config import LossConfig, Ramp, Steps
from napari_glacier.core.errors import ConfigError
from training.losses.boundary import Boundary
from training.losses.entropy import BinaryCrossEntropy, CrossEntropy, Distillation
from training.losses.focal import Focal
from training.losses.lovasz import LovaszSoftmax
from training.losses.mcc import SoftMCC
from training.losses.overlap import FocalIoU, SoftDice, SoftIoU, Tversky
from training.losses.terms import LossTerm, Pixels

# A run's table has scores by these names.
_COLUMNS = {"mcc": "mcc_loss", "iou": "iou_loss"}

Weight = float | Ramp | Steps
"""Weight of a term: the same in all epochs, or a schedule."""


class CombinedLoss:
    """``sum of weight x term`` over the same pixels.

    Parameters
    ----------
    terms : mapping of name to (weight, term)
    """

    def __init__(self, terms: Mapping[str, tuple[Weight, LossTerm]]) -> None:
        self.terms = dict(terms)

    @property
    def num_sums(self) -> int:
        """Length of the vector of sums."""
        return sum(term.num_sums for _, term in self.terms.values())

    def sums(self, logits_NKHW: Tensor, target_NHW: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Reduce a batch to the additive sums of all terms, float32 of shape (num_sums,).

        Parameters
        ----------
        logits_NKHW : any float dtype
        target_NHW : any integer dtype
            Class indices; `IGNORE_INDEX` marks pixels that do not count.
        teacher : float, shape (N, K, H, W), optional
            Soft targets for the term kl, already at its temperature.
        """
        pixels = Pixels.from_logits(logits_NKHW, target_NHW, teacher)
        with torch.autocast(logits_NKHW.device.type, enabled=False):
            return torch.cat([term.sums(pixels) for _, term in self.terms.values()])

    def value(self, sums: Tensor, epoch: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and, detached and unweighted, its components by name.

        Parameters
        ----------
        sums : shape (num_sums,)
        epoch : int, optional
            Counted from 1, decides the weights; none: the weights that the schedules end with, so that
            losses of different epochs compare.
        """
        sizes = [term.num_sums for _, term in self.terms.values()]
        total, components = sums.new_zeros(()), {}
        for (name, (weight, term)), part in zip(self.terms.items(), torch.split(sums, sizes), strict=True):
            value = term.value(part)
            total = total + weight_at(weight, epoch) * value
            components[name] = value.detach()
        return total, components


def column_of(component: str) -> str:
    """Name of a component in a run's table, after ``train_`` or ``val_``."""
    return _COLUMNS.get(component, component)


def weight_at(weight: Weight, epoch: int | None) -> float:
    """Weight in an epoch counted from 1; None: the one that it ends with."""
    if isinstance(weight, Ramp | Steps):
        return weight.final if epoch is None else weight.at(epoch)
    return weight


def default_alpha(num_classes: int) -> list[float]:
    """Class weights of the focal loss where the configuration gives none: rarer classes weigh more."""
    return [1.0, 2.0, 3.0, 4.0] if num_classes == 4 else [1.0] * num_classes


# Every loss by its name in loss.terms, and how it is made for a scheme and a distillation temperature.
_MAKERS: Mapping[str, Callable[[LossConfig, ClassScheme, float], LossTerm]] = {
    "focal": lambda c, s, _: Focal(_alpha(c, s.num_classes), c.focal_gamma, c.label_smoothing),
    "ce": lambda c, s, _: CrossEntropy(c.label_smoothing),
    "bce": lambda c, s, _: BinaryCrossEntropy(),
    "dice": lambda c, s, _: SoftDice(s.num_classes, c.dice_smooth),
    "boundary": lambda c, s, _: Boundary(c.boundary_weight, c.interface_weight, s.interface),
    "mcc": lambda c, s, _: SoftMCC(s.num_classes, c.mcc_phi),
    "iou": lambda c, s, _: SoftIoU(s.num_classes),
    "focal_iou": lambda c, s, _: FocalIoU(s.num_classes, c.focal_iou_alpha, c.focal_iou_gamma),
    "tversky": lambda c, s, _: Tversky(s.num_classes, c.tversky),
    "lovasz": lambda c, s, _: LovaszSoftmax(),
    "kl": lambda c, s, temperature: Distillation(temperature),
}

LOSS_NAMES = tuple(_MAKERS)


def build_loss(config: LossConfig, scheme: ClassScheme, temperature: float = 2.0) -> CombinedLoss:
    """Make the loss that a configuration describes.

    Parameters
    ----------
    config : LossConfig
    scheme : ClassScheme
    temperature : float
        Of the teacher's soft targets, for the term kl.

    Raises
    ------
    ConfigError
        For an unknown term, weights that are negative or leave an epoch without a loss, or class weights
        that do not match the classes.
    """
    unknown = sorted(set(config.terms) - set(LOSS_NAMES))
    if unknown:
        raise ConfigError(f"loss.terms names {', '.join(unknown)}; known losses are {', '.join(LOSS_NAMES)}.")
    _alpha(config, scheme.num_classes)
    _check_weights(config.terms)
    if not (_are_weights(config.tversky) and sum(config.tversky) > 0):
        raise ConfigError(
            f"loss.tversky is {list(config.tversky)}; it needs two numbers of 0 or more, and one of them above 0. "
            "Usual are 0.3 and 0.7."
        )
    return CombinedLoss(
        {name: (weight, _MAKERS[name](config, scheme, temperature)) for name, weight in config.terms.items()}
    )


def _alpha(config: LossConfig, num_classes: int) -> list[float]:
    alpha = config.focal_alpha if config.focal_alpha is not None else default_alpha(num_classes)
    if len(alpha) != num_classes or not _are_weights(alpha):
        raise ConfigError(
            f"loss.focal_alpha is {alpha}; the data have {num_classes} classes. "
            f"Give {num_classes} numbers of 0 or more."
        )
    return alpha


def _are_weights(values: Sequence[float]) -> bool:
    return all(0 <= value < math.inf for value in values)


def _check_weights(terms: Mapping[str, Weight]) -> None:
    plain = {name: weight if isinstance(weight, int | float) else weight.model_dump() for name, weight in terms.items()}
    # Between these epochs weights change evenly, so where none is 0 here, none is 0 in between.
    turns = {1}
    for weight in terms.values():
        turns |= (
            {weight.epochs} if isinstance(weight, Ramp) else set(weight.steps) if isinstance(weight, Steps) else set()
        )
    for epoch in sorted(turns):
        weights = [weight_at(weight, epoch) for weight in terms.values()]
        if not (_are_weights(weights) and sum(weights) > 0):
            raise ConfigError(
                f"loss.terms is {plain}; in epoch {epoch} weights must be 0 or more, and one of them above 0. "
                "Correct the weights."
            )
