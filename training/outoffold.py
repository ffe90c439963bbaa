"""What several models are worth together: predictions out of fold, pooled scores, thresholds, and the ensemble file.

A tile is predicted by the one model that has not learnt from it, whole, and as in validation without test-time
augmentation unless views are asked for. The scores to publish are those of one confusion matrix over all tiles; a mean
over folds stands beside.

Shapes: N pixels, H rows, W columns, K classes.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.data.mosaic import Mosaic, PixelCache, Placement
from napari_glacier.core.data.tiles import Tile, raster_name
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.metrics import ConfusionMatrix
from napari_glacier.core.models.bootstrap import DRAWS
from napari_glacier.core.raster import write_mask
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.augment_tta import TtaMode
from napari_glacier.nn.checkpoint import load_checkpoint
from napari_glacier.nn.ensemble import ENSEMBLE_FILE, Ensemble
from napari_glacier.nn.prediction import Prediction
from napari_glacier.nn.predictor import Predictor
from training.data import TileSet
from training.scorecard import calibration_of, intervals
from training.source import LabelledTiles
from training.thresholds import PixelSample, find_thresholds

OOF_FOLDER, OOF_TABLE = "oof", "oof.csv"

_KEYS = ("all_pixels", "valid_pixels")
_SCORES = ("mcc", "iou", "f1", "precision", "recall")


@dataclass(frozen=True, slots=True)
class Scoring:
    """How tiles are predicted: where, in which number format, and until when.

    Attributes
    ----------
    device : str
    precision : {"auto", "fp32"}
        See `Predictor`.
    should_stop : callable
        Asked before every tile.
    tta : "off", 2, 6 or 8
        Views of test-time augmentation.
    draws : int
        Of the bootstrap over tiles.
    """

    device: str
    precision: Literal["auto", "fp32"]
    should_stop: Callable[[], bool]
    tta: TtaMode = "off"
    draws: int = DRAWS


class _Counts:
    """Confusion of all pixels, where nodata counts as background, and of the valid ones."""

    def __init__(self, num_classes: int) -> None:
        self.matrices = {key: ConfusionMatrix(num_classes) for key in _KEYS}

    def add(self, prediction: Prediction, truth_HW: npt.NDArray[np.uint8]) -> None:
        self.matrices["all_pixels"].update(prediction.index_HW, truth_HW)
        self.matrices["valid_pixels"].update(prediction.index_HW, truth_HW, prediction.valid_HW)

    def merge(self, other: "_Counts") -> None:
        for key, matrix in self.matrices.items():
            matrix.merge(other.matrices[key])

    def summary(self, scheme: ClassScheme) -> dict[str, Any]:
        return {key: matrix.summary(scheme.class_names) for key, matrix in self.matrices.items()}

    def stacked(self) -> npt.NDArray[np.int64]:
        """All and valid pixels, shape (2, K, K)."""
        return np.stack([self.matrices[key].counts for key in _KEYS])


def score_folds(
    path: Path,
    labelled: LabelledTiles,
    folds: Sequence[Sequence[str]],
    checkpoints: Sequence[Path],
    how: Scoring,
) -> dict[str, Any] | None:
    """Predict every tile out of fold, write the masks and a table, and give the scores.

    Parameters
    ----------
    path : Path
        The run folder; masks go to ``oof/`` under the names that predictions have, the table to ``oof.csv``.
    labelled : LabelledTiles
    folds : sequence of sequence of str
        Ids of the tiles that each model has not learnt from.
    checkpoints : sequence of Path
    how : Scoring

    Returns
    -------
    dict or None
        ``all_pixels`` and ``valid_pixels`` (pooled), ``mean`` and ``sd`` over folds (the sample's deviation),
        ``intervals`` (pooled scores, bootstrap over tiles), ``calibration``, ``folds``, ``tiles``, ``thresholds``,
        ``tta``; None where a stop was asked for.
    """
    scheme, dataset = labelled.scheme, labelled.tiles.dataset
    number_of = {tile.id: number for number, tile in enumerate(labelled.tiles.tiles)}
    sample = PixelSample(scheme.num_classes, sum(tile.height * tile.width for tile in labelled.tiles.tiles))
    pooled = _Counts(scheme.num_classes)
    fold_records, tile_records, counts_T = [], [], []
    for fold, (tile_ids, checkpoint) in enumerate(zip(folds, checkpoints, strict=True), start=1):
        ensemble = Ensemble([load_checkpoint(checkpoint)])
        numbers = [number_of[tile_id] for tile_id in tile_ids]
        tiles = [labelled.tiles.tiles[number] for number in numbers]
        of_fold = _Counts(scheme.num_classes)
        for tile, prediction in _predictions(ensemble, dataset, tiles, how):
            if how.should_stop():
                return None
            truth_HW = labelled.tiles.read_mask(number_of[tile.id])
            write_mask(path / OOF_FOLDER / raster_name(tile.name), prediction.index_HW, scheme, tile.georef)
            sample.add(prediction.probabilities_KHW, truth_HW, prediction.valid_HW)
            of_tile = _Counts(scheme.num_classes)
            of_tile.add(prediction, truth_HW)
            of_fold.merge(of_tile)
            tile_records.append({"tile": tile.id, "fold": fold, **of_tile.summary(scheme)})
            counts_T.append(of_tile.stacked())
        pooled.merge(of_fold)
        fold_records.append({"fold": fold, "tiles": list(tile_ids), **of_fold.summary(scheme)})
    write_text_atomically(path / OOF_TABLE, _table(tile_records, scheme))
    return {
        "scheme": scheme.name,
        "tta": how.tta,
        **pooled.summary(scheme),
        **_mean_and_sd(fold_records),
        "intervals": intervals(np.stack(counts_T), scheme.class_names, how.draws),
        "calibration": calibration_of(sample, scheme),
        "thresholds": find_thresholds(sample, scheme).as_dict(),
        "folds": fold_records,
        "tiles": tile_records,
    }


def score_members(
    val: TileSet,
    scheme: ClassScheme,
    folders: Sequence[RunFolder],
    how: Scoring,
) -> dict[str, Any] | None:
    """Score the ensemble of all members, with equal weights, on the tiles that validated each of them.

    Returns
    -------
    dict or None
        ``all_pixels`` and ``valid_pixels`` of the ensemble, ``members`` with their own scores of their best epochs,
        ``mean`` and ``sd`` over members, ``tiles``; None where a stop was asked for.
    """
    ensemble = Ensemble([load_checkpoint(folder.best_path) for folder in folders])
    number_of = {tile.id: number for number, tile in enumerate(val.tiles)}
    total, tile_records = _Counts(scheme.num_classes), []
    for tile, prediction in _predictions(ensemble, val.dataset, val.tiles, how):
        if how.should_stop():
            return None
        of_tile = _Counts(scheme.num_classes)
        of_tile.add(prediction, val.read_mask(number_of[tile.id]))
        total.merge(of_tile)
        tile_records.append({"tile": tile.id, **of_tile.summary(scheme)})
    members = []
    for folder in folders:
        own = json.loads(folder.metrics_path.read_text(encoding="utf-8"))
        members.append({"member": folder.path.name, "epoch": own["epoch"], **{key: own[key] for key in _KEYS}})
    return {
        "scheme": scheme.name,
        "tta": how.tta,
        **total.summary(scheme),
        **_mean_and_sd(members),
        "members": members,
        "tiles": tile_records,
    }


def write_ensemble(
    path: Path, checkpoints: Sequence[Path], thresholds: Mapping[str, float], tta: TtaMode = "off"
) -> None:
    """Write the ensemble file that makes a run folder a model: equal weights, paths relative to the folder.

    Views that it was scored with are its own from then on; scored without, it leaves them to whoever predicts.
    """
    content: dict[str, Any] = {
        "name": path.resolve().name,
        "members": [{"path": checkpoint.relative_to(path).as_posix(), "weight": 1.0} for checkpoint in checkpoints],
    }
    if thresholds:
        content["thresholds"] = dict(thresholds)
    if tta != "off":
        content["tta"] = tta
    write_text_atomically(path / ENSEMBLE_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _predictions(
    ensemble: Ensemble, dataset: Dataset, tiles: Sequence[Tile], how: Scoring
) -> Iterator[tuple[Tile, Prediction]]:
    predictor = Predictor(ensemble, tta=how.tta, device=how.device, thresholds={}, precision=how.precision)
    for tile in tiles:
        scene = Mosaic(dataset, (Placement(tile, 0, 0),), tile.georef, PixelCache(1))
        steps = predictor.run(scene)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                yield tile, end.value
                break


def _mean_and_sd(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation of the scores over folds or members."""
    values = {key: {name: [record[key][name] for record in records] for name in _SCORES} for key in _KEYS}
    return {
        "mean": {key: {name: float(np.mean(v)) for name, v in scores.items()} for key, scores in values.items()},
        "sd": {key: {name: float(np.std(v, ddof=1)) for name, v in scores.items()} for key, scores in values.items()},
    }


def _table(records: Sequence[Mapping[str, Any]], scheme: ClassScheme) -> str:
    """A line a tile: its fold, its scores over all and over valid pixels, and the IoU of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    suffixes = {"all_pixels": "", "valid_pixels": "_valid"}
    scores = [(key, name) for key in _KEYS for name in ("mcc", "iou", "f1")]
    writer.writerow(
        [
            "tile",
            "fold",
            *(name + suffixes[key] for key, name in scores),
            *(f"iou_{name}" for name in scheme.class_names),
        ]
    )
    for record in records:
        classes = record["all_pixels"]["per_class"]
        ious = [classes[name]["iou"] for name in scheme.class_names]
        numbers = [record[key][name] for key, name in scores] + ["" if iou is None else iou for iou in ious]
        writer.writerow([record["tile"], record["fold"], *numbers])
    return text.getvalue()
