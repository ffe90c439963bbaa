"""How much each model of an ensemble should count, by what they make of tiles that none has learnt from.

Legend: M models, K classes, N pixels.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.metrics import ConfusionMatrix
from napari_glacier.core.models.mixing import log_loss, mixing_weights
from napari_glacier.core.models.promotion import ModelFiles
from napari_glacier.nn.augment_tta import TtaMode
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.held_out import STEPS, find_held_out, predict_held_out
from napari_glacier.nn.prediction import Progress

# Enough for the third digit of a weight.
_MAX_PIXELS = 600_000
# A model that counts for less is left out: it costs as much time as any other.
LEAST_WEIGHT = 0.02


@dataclass(frozen=True, slots=True)
class Weighing:
    """Fitted weights, and what they are worth on the pixels that they were fitted to.

    Attributes
    ----------
    weights : dict of model name to float
        Summing to 1; 0 for a model that is better left out.
    log_loss, log_loss_equal : float
        Of the averaged probabilities, with these and with equal weights.
    mcc, mcc_equal : float
        Over valid pixels.
    tiles : tuple of str
    pixels : int
        Valid labelled pixels that were looked at.
    warnings : tuple of str
    """

    weights: dict[str, float]
    log_loss: float
    log_loss_equal: float
    mcc: float
    mcc_equal: float
    tiles: tuple[str, ...]
    pixels: int
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {"tiles": list(self.tiles), "warnings": list(self.warnings)}


def fit_weights(
    dataset: Dataset,
    models: Mapping[str, Ensemble],
    *,
    tile_ids: Sequence[str] | None = None,
    tta: TtaMode | str = "off",
    device: str = "auto",
) -> Generator[Progress, None, Weighing]:
    """Fit one weight a model on the labelled tiles that none has learnt from; close it between steps to cancel.

    An ensemble of folds is represented, tile by tile, by its members that have not learnt from the tile; its members
    keep their weights among themselves.

    Raises
    ------
    ConfigError
        If there are fewer than two models, or one does not average probabilities.
    DataError
        If there is no such tile.
    """
    if len(models) < 2:
        raise ConfigError("An ensemble is made of two models or more. Choose another one.")
    for name, model in models.items():
        if model.average != "probability":
            raise ConfigError(f"{name} averages {model.average}s; only models that average probabilities can be mixed.")
    yield Progress(0, 1, "Looking for tiles that no model has learnt from", preparing=True)
    held = find_held_out(dataset, models, tile_ids)
    assert dataset.scheme is not None
    per_tile = max(_MAX_PIXELS // len(held.tiles), 1)
    truths: dict[str, npt.NDArray[np.uint8]] = {}
    drawn: dict[str, npt.NDArray[np.intp]] = {}
    sampled: dict[tuple[str, str], npt.NDArray[np.floating[Any]]] = {}
    steps = len(held.tiles) * STEPS
    for number, (name, model) in enumerate(models.items()):
        plan = [(place.tile, place.members[number]) for place in held.tiles]
        for news in predict_held_out(dataset, model, plan, tta=tta, device=device):
            if isinstance(news, Progress):
                done = number * steps + news.done
                yield Progress(done, len(models) * steps, news.message, news.preparing and not done)
                continue
            tile, prediction = news
            if tile.id not in drawn:
                # The same pixels for every model.
                truth_HW = dataset.read_mask(tile)
                assert truth_HW is not None
                there = np.flatnonzero(prediction.valid_HW & (truth_HW != IGNORE_INDEX))
                rng = np.random.default_rng([0, len(there)])
                drawn[tile.id] = rng.choice(there, min(per_tile, len(there)), replace=False)
                truths[tile.id] = truth_HW.ravel()[drawn[tile.id]]
            flat_KN = prediction.probabilities_KHW.reshape(len(prediction.probabilities_KHW), -1)
            sampled[name, tile.id] = flat_KN[:, drawn[tile.id]].astype(np.float32)
    ids = [place.tile.id for place in held.tiles]
    truth_N = np.concatenate([truths[tile_id] for tile_id in ids])
    mixed_MKN = np.stack([np.concatenate([sampled[name, tile_id] for tile_id in ids], axis=1) for name in models])
    return _weighed(list(models), mixed_MKN, truth_N, tuple(ids), held.warnings)


def compose(files: Sequence[ModelFiles], weights: Sequence[float], title: str) -> ModelFiles:
    """One ensemble of several models: each counts by its weight, its members by their own within it.

    Thresholds and views of the models are not taken over: they were chosen for each alone.

    Raises
    ------
    ConfigError
        If no model has a weight.
    """
    members = []
    for model, weight in zip(files, weights, strict=True):
        total = sum(own for _, own in model.members)
        members += [(path, round(weight * own / total, 6)) for path, own in model.members if weight * own > 0]
    if not members:
        raise ConfigError("No model has a weight. Give at least one of them a weight above 0.")
    return ModelFiles(title, members)


def _weighed(
    names: Sequence[str],
    mixed_MKN: npt.NDArray[np.float32],
    truth_N: npt.NDArray[np.uint8],
    tiles: tuple[str, ...],
    warnings: tuple[str, ...],
) -> Weighing:
    true_MN = mixed_MKN[:, truth_N, np.arange(len(truth_N))]
    weights_M = mixing_weights(true_MN)
    if (weights_M < LEAST_WEIGHT).any():
        kept = weights_M >= LEAST_WEIGHT
        weights_M = np.zeros(len(names))
        weights_M[kept] = mixing_weights(true_MN[kept])
    equal_M = np.full(len(names), 1 / len(names))
    return Weighing(
        {name: round(float(weight), 4) for name, weight in zip(names, weights_M, strict=True)},
        log_loss(weights_M, true_MN),
        log_loss(equal_M, true_MN),
        mcc=_mcc(weights_M, mixed_MKN, truth_N),
        mcc_equal=_mcc(equal_M, mixed_MKN, truth_N),
        tiles=tiles,
        pixels=len(truth_N),
        warnings=warnings,
    )


def _mcc(
    weights_M: npt.NDArray[np.float64], mixed_MKN: npt.NDArray[np.float32], truth_N: npt.NDArray[np.uint8]
) -> float:
    mean_KN = np.tensordot(weights_M, mixed_MKN, axes=1)
    matrix = ConfusionMatrix(len(mean_KN))
    matrix.update(mean_KN.argmax(0).astype(np.uint8), truth_N)
    return matrix.mcc()
