"""Two models predict the same held-out tiles: what `core.models.comparison` compares."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.errors import SaveError
from napari_glacier.core.models.bootstrap import DRAWS, LEVEL
from napari_glacier.core.models.comparison import CHANGES, Comparison, change_map, compare, count_tile
from napari_glacier.core.raster import write_mask
from napari_glacier.nn.augment_tta import TtaMode
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.held_out import STEPS, find_held_out, predict_held_out
from napari_glacier.nn.prediction import Progress
from napari_glacier.nn.provenance import member_records

_NAMES = ("champion", "challenger")

_Maps = dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]


@dataclass(frozen=True, slots=True)
class Match:
    """A comparison with the models that were compared.

    Attributes
    ----------
    comparison : Comparison
    champion, challenger : dict
        Name and members of each, as plain values.
    changes : dict of tile id to uint8 array, shape (H, W)
        See `change_map`.
    data : Path
    tta : str
    warnings : tuple of str
        What makes the figures worth less.
    """

    comparison: Comparison
    champion: dict[str, Any]
    challenger: dict[str, Any]
    changes: dict[str, npt.NDArray[np.uint8]]
    data: Path
    tta: str
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the maps."""
        return {
            "champion": self.champion,
            "challenger": self.challenger,
            "data": str(self.data),
            "tta": self.tta,
            "warnings": list(self.warnings),
            **self.comparison.as_dict(),
        }


def compare_models(
    dataset: Dataset,
    champion: Ensemble,
    challenger: Ensemble,
    *,
    tile_ids: Sequence[str] | None = None,
    tta: TtaMode | str = "off",
    device: str = "auto",
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Generator[Progress, None, Match]:
    """Have two models predict the labelled tiles that neither has learnt from; close it between steps to cancel.

    Parameters
    ----------
    dataset : Dataset
        Its masks are the truth.
    champion, challenger : Ensemble
        With the thresholds and the average of their own.
    tile_ids : sequence of str, optional
        Compare on these alone.
    tta : "off", 2, 6 or 8
        Views, the same for both.
    device : str
    draws, level, seed
        See `compare`.

    Raises
    ------
    GlacierError
        If there is no tile to compare on, or a model does not fit the data.
    """
    models = {_called(role, model): model for role, model in zip(_NAMES, (champion, challenger), strict=True)}
    yield Progress(0, 1, "Looking for tiles that neither model has learnt from", preparing=True)
    held = find_held_out(dataset, models, tile_ids)
    assert dataset.scheme is not None
    maps: list[_Maps] = []
    total = 2 * len(held.tiles) * STEPS
    for number, ensemble in enumerate((champion, challenger)):
        predicted: _Maps = {}
        plan = [(place.tile, place.members[number]) for place in held.tiles]
        for news in predict_held_out(dataset, ensemble, plan, tta=tta, device=device):
            if isinstance(news, Progress):
                yield Progress(number * total // 2 + news.done, total, news.message, news.preparing and not number)
            else:
                predicted[news[0].id] = news[1].index_HW, news[1].valid_HW
        maps.append(predicted)
    counts, changes = [], {}
    for place in held.tiles:
        tile = place.tile
        truth_HW = dataset.read_mask(tile)
        assert truth_HW is not None
        (before_HW, valid_HW), (after_HW, _) = (of_model[tile.id] for of_model in maps)
        changes[tile.id] = change_map(before_HW, after_HW, truth_HW)
        counts.append(
            count_tile(
                tile.id,
                before_HW,
                after_HW,
                truth_HW=truth_HW,
                valid_HW=valid_HW,
                num_classes=dataset.scheme.num_classes,
            )
        )
    comparison = compare(counts, dataset.scheme.class_names, draws=draws, level=level, seed=seed)
    return Match(
        comparison,
        _described(champion),
        _described(challenger),
        changes=changes,
        data=dataset.root,
        tta=str(tta),
        warnings=held.warnings,
    )


def write_changes(match: Match, dataset: Dataset, folder: Path) -> list[Path]:
    """Write the map of changed pixels of every tile as a GeoTIFF with colour table and legend.

    Raises
    ------
    SaveError
        If the folder is not empty, or cannot be written.
    """
    refuse_used_folder(folder)
    written = []
    for tile_id, changes_HW in match.changes.items():
        path = folder / f"{tile_id.replace('/', '_')}.tif"
        write_mask(path, changes_HW, CHANGES, dataset.tile(tile_id).georef)
        written.append(path)
    return written


def refuse_used_folder(folder: Path) -> None:
    """Raise `SaveError` where a folder for new files holds some."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SaveError(f"{folder} is not an empty folder. Name a new one for the maps of changes.")


def _described(ensemble: Ensemble) -> dict[str, Any]:
    return {"name": ensemble.name, "members": member_records(ensemble)}


def _called(role: str, ensemble: Ensemble) -> str:
    return f"{ensemble.name} ({role})"
