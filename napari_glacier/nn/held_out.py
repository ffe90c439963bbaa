"""Tiles from which models have not learnt, and predictions of them by members that have not.

A model carries fingerprints of the tiles that it has learnt from (`ModelCard.seen_tiles`). Of an ensemble of folds no
tile is new to all members; it is then represented, tile by tile, by those that have not learnt from it (out of fold).
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from napari_glacier.core.data.dataset import Dataset, Tile
from napari_glacier.core.data.mosaic import Mosaic, PixelCache, Placement
from napari_glacier.core.data.seen_tiles import deciding_band, tile_fingerprint
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.wording import listed
from napari_glacier.nn.augment_tta import TtaMode
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.prediction import Prediction, Progress
from napari_glacier.nn.predictor import Predictor

_LISTED = 8
# Steps of a progress bar a tile.
STEPS = 100


@dataclass(frozen=True, slots=True)
class HeldOutTile:
    """A labelled tile, and which members of each model may predict it: positions among its members."""

    tile: Tile
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The tiles on which models can be judged.

    Attributes
    ----------
    tiles : tuple of HeldOutTile
    warnings : tuple of str
        What makes the judgement worth less.
    """

    tiles: tuple[HeldOutTile, ...]
    warnings: tuple[str, ...]


def find_held_out(dataset: Dataset, models: Mapping[str, Ensemble], tile_ids: Sequence[str] | None = None) -> HeldOut:
    """Find the labelled tiles that no model has learnt from; reads a band of each.

    Parameters
    ----------
    dataset : Dataset
    models : mapping of what they are called to Ensemble
    tile_ids : sequence of str, optional
        Judge on these alone.

    Raises
    ------
    ConfigError
        If the classes of a model are not those of the labels.
    DataError
        If there is no such tile, or a tile that was named is unknown, unlabelled, or known to a model.
    """
    _check_classes(dataset, models)
    named = None if tile_ids is None else [dataset.tile(tile_id) for tile_id in dict.fromkeys(tile_ids)]
    labelled = [tile for tile in named or dataset.tiles if tile.mask_path is not None]
    if named is not None and len(labelled) < len(named):
        without = [tile.id for tile in named if tile.mask_path is None]
        raise DataError(
            f"No mask: {listed(without, _LISTED)}. Name tiles that are labelled, or save masks for these first."
        )
    if not labelled:
        raise DataError(f"No tile of {dataset.root} has a mask to judge by. Label some, and save them.")
    found, known = [], []
    for tile in labelled:
        members = _unknowing(dataset, tile, list(models.values()))
        if all(members):
            found.append(HeldOutTile(tile, members))
        else:
            known += [(tile.id, name) for name, of_model in zip(models, members, strict=True) if not of_model]
    if known and (named is not None or not found):
        of = {name: [tile_id for tile_id, knows in known if knows == name] for name in models}
        who = "; ".join(f"{name}: {listed(ids, _LISTED)}" for name, ids in of.items() if ids)
        mend = (
            "Name other tiles." if named is not None else "Label tiles that none has learnt from, or name other data."
        )
        raise DataError(
            f"Models have learnt from tiles that were to judge them ({who}): scores there say nothing. {mend}"
        )
    return HeldOut(tuple(found), tuple(_warnings(models, found)))


def predict_held_out(
    dataset: Dataset,
    ensemble: Ensemble,
    tiles: Sequence[tuple[Tile, tuple[int, ...]]],
    *,
    tta: TtaMode | str | None = "off",
    device: str = "auto",
) -> Generator[Progress | tuple[Tile, Prediction], None, None]:
    """Predict tiles by some of the members of an ensemble; yields how far it is, and each tile's prediction.

    Each tile is predicted whole and by itself, as in validation. Tiles of the same members come together.
    """
    predictor, ready = None, None
    for number, (tile, members) in enumerate(sorted(tiles, key=lambda pair: pair[1])):
        if members != ready or predictor is None:
            predictor, ready = Predictor(_part(ensemble, members), tta=tta, device=device), members
        scene = Mosaic(dataset, (Placement(tile, 0, 0),), tile.georef, PixelCache(1))
        run = predictor.run(scene)
        try:
            while True:
                try:
                    progress = next(run)
                except StopIteration as end:
                    yield tile, end.value
                    break
                done = 0 if progress.preparing else STEPS * progress.done // max(progress.total, 1)
                message = f"{ensemble.name}: {progress.message}"
                yield Progress(number * STEPS + done, len(tiles) * STEPS, message, progress.preparing)
        finally:
            run.close()


def _part(ensemble: Ensemble, members: Sequence[int]) -> Ensemble:
    if len(members) == len(ensemble.members):
        return ensemble
    return Ensemble(
        [ensemble.members[m] for m in members],
        [ensemble.weights[m] for m in members],
        ensemble.name,
        # Thresholds were found on the labels of all tiles that some member has learnt from.
        ensemble.thresholds if _is_whole(ensemble, members) else {},
        average=ensemble.average,
        tta=ensemble.tta,
        scales=ensemble.scales,
    )


def _is_whole(ensemble: Ensemble, members: Sequence[int]) -> bool:
    """Whether all members that count are among these."""
    return sum(weight > 0 for weight in ensemble.weights) == len(members)


def _unknowing(dataset: Dataset, tile: Tile, ensembles: Sequence[Ensemble]) -> tuple[tuple[int, ...], ...]:
    """Of each ensemble the members that count and have not learnt from a tile, as far as they say."""
    prints: dict[tuple[str, ...], str] = {}
    found = []
    for ensemble in ensembles:
        new = []
        for number, (member, weight) in enumerate(zip(ensemble.members, ensemble.weights, strict=True)):
            band = deciding_band(member.card.channels)
            if member.card.seen_tiles and band not in prints:
                prints[band] = tile_fingerprint(dataset, tile, band)
            if weight > 0 and prints.get(band) not in member.card.seen_tiles:
                new.append(number)
        found.append(tuple(new))
    return tuple(found)


def _check_classes(dataset: Dataset, models: Mapping[str, Ensemble]) -> None:
    if dataset.scheme is None:
        raise DataError(f"No tile of {dataset.root} has a mask to judge by. Label some, and save them.")
    for name, ensemble in models.items():
        if ensemble.scheme.class_names != dataset.scheme.class_names:
            raise ConfigError(
                f"{name} knows the classes {', '.join(ensemble.scheme.class_names)}, the labels have "
                f"{', '.join(dataset.scheme.class_names)}. Choose models of the labels' classes."
            )


def _warnings(models: Mapping[str, Ensemble], found: Sequence[HeldOutTile]) -> list[str]:
    warnings, quiet = [], []
    for number, (name, ensemble) in enumerate(models.items()):
        silent = [member for member in ensemble.members if not member.card.seen_tiles]
        if silent:
            quiet.append(name if len(silent) == len(ensemble.members) else f"{len(silent)} member(s) of {name}")
        partly = sum(not _is_whole(ensemble, held.members[number]) for held in found)
        if partly:
            without = ", and without its thresholds, which know the tile's labels" if ensemble.thresholds else ""
            warnings.append(
                f"On {partly} of {len(found)} tile(s) {name} is represented by those of its members that have not "
                f"learnt from the tile (out of fold){without}."
            )
    if quiet:
        warnings.append(
            f"No word on which tiles these have learnt from: {', '.join(quiet)}. Where it is these tiles, the scores "
            "flatter them."
        )
    return warnings
