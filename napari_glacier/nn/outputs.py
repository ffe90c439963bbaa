"""Writing a prediction as one raster a tile, under the tile's name, with its georeference."""

import json
import os
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import band_of_folder
from napari_glacier.core.classes import ClassScheme, scheme_tags
from napari_glacier.core.data.dataset import Dataset, Tile
from napari_glacier.core.data.joining import NO_SCENE, SOURCES_FOLDER
from napari_glacier.core.data.layouts import PROVENANCE_FILE
from napari_glacier.core.data.mosaic import Mosaic, Placement
from napari_glacier.core.data.predictions import PROBABILITY_FOLDER, UNCERTAINTY_FOLDER, VOTES_FOLDER, records_of
from napari_glacier.core.data.tiles import raster_name
from napari_glacier.core.errors import RasterError, SaveError
from napari_glacier.core.raster import read_description, write_cog, write_mask
from napari_glacier.core.scenes.products import DATE_TAG
from napari_glacier.nn.prediction import Prediction

_MADE_BY = {"made_by": "napari-glacier"}
# Rows of a mosaic whose sources are looked up together: a scene's bands do not have to fit into memory.
_STRIP_ROWS = 512
# Finer digits mean nothing, and take more than half of the space.
_UNCERTAINTY_STEP = np.float32(1 / 4096)
_LABEL_FOLDERS = ("label", "labels", "mask", "masks")


def write_predictions(
    prediction: Prediction,
    mosaic: Mosaic,
    out_dir: str | Path,
    probabilities: bool = False,
    uncertainty: bool = False,
    *,
    votes: bool = False,
) -> list[Path]:
    """Write the class mask of every tile, in the data set's codes, under the name of its first band.

    Nodata is background in it, and left out by its mask band.

    Tiles of equal names in different splits go to subfolders named after the split.

    Parameters
    ----------
    prediction : Prediction
        Of the whole `mosaic`.
    mosaic : Mosaic
    out_dir : str or Path
        Made where it is missing.
    probabilities : bool
        Write the class probabilities, too, as cloud-optimised GeoTIFFs: float32, a band a class, in ``probabilities/``.
    uncertainty : bool
        Write entropy and mutual information, too, likewise: two bands in steps of 1/4096, in ``uncertainty/``.
    votes : bool
        Write the classes that the members give one by one, too, likewise: uint8 codes as in the masks, a band a
        member, in ``votes/``. The prediction must have them.

    Returns
    -------
    list of Path
        The rasters written. ``provenance.jsonl`` beside them says how each scene was made, a line a scene;
        of several lines of one scene the last one counts. Of a mosaic of scenes, ``sources/`` says which scene, of
        which day, each pixel is of.

    Raises
    ------
    SaveError
        If the folder holds the data set's labels or images or rasters that were not predicted, or cannot be written.
    """
    out_dir = Path(out_dir)
    assert prediction.index_HW.shape == tuple(mosaic.shape)
    sources = _sources_of(mosaic.dataset)
    names = {place.tile.id: sources.relative_path(place.tile) for place in mosaic.placements}
    kinds = _kinds(probabilities, uncertainty, votes)
    targets = [out_dir / kind / name for kind in kinds for name in names.values()]
    targets += [out_dir / SOURCES_FOLDER / names[place.tile.id] for place in mosaic.placements if place.tile.parts]
    for folder in {out_dir, *(target.parent for target in targets)}:
        _refuse_folder(mosaic.dataset, sources, folder)
    for target in targets:
        _refuse_foreign_raster(target)
    scheme = _scheme_on_disk(prediction.scheme, mosaic.dataset)
    ensemble, fingerprint = (str(prediction.provenance.get(key, "")) for key in ("ensemble", "fingerprint"))
    written = []
    for place in mosaic.placements:
        description = {**_MADE_BY, "ensemble": ensemble, "fingerprint": fingerprint, "tile": place.tile.id}
        if place.tile.product is not None and place.tile.product.date:
            description[DATE_TAG] = place.tile.product.date
        relative = names[place.tile.id]
        if place.tile.parts:
            written.append(_write_sources(out_dir / SOURCES_FOLDER / relative, mosaic.dataset, place.tile, description))
        index_HW, valid_HW = (_cut(values_HW, place) for values_HW in (prediction.index_HW, prediction.valid_HW))
        write_mask(out_dir / relative, index_HW, scheme, place.tile.georef, description, valid_HW=valid_HW)
        written.append(out_dir / relative)
        if votes:
            written.append(_write_votes(out_dir / VOTES_FOLDER / relative, prediction, place, scheme, description))
        for kind, values_CHW, bands in _measures(prediction, place, probabilities, uncertainty):
            values_CHW[:, ~_cut(prediction.valid_HW, place)] = np.nan
            path = out_dir / kind / relative
            write_cog(path, values_CHW, place.tile.georef, nodata=float("nan"), description=description | bands)
            written.append(path)
    _record(out_dir, mosaic.name, prediction.provenance)
    return written


def recorded_fingerprints(out_dir: str | Path) -> dict[str, str]:
    """Scenes that were written to a folder, each with the fingerprint it was made with last; see `is_written`."""
    return {scene: made.get("fingerprint", "") for scene, made in records_of(Path(out_dir)).items()}


def is_written(
    mosaic: Mosaic,
    out_dir: str | Path,
    fingerprint: str,
    scheme: ClassScheme,
    *,
    probabilities: bool = False,
    uncertainty: bool = False,
    votes: bool = False,
) -> bool:
    """Whether a folder holds all rasters of a scene, each made with what has this fingerprint, in the codes asked for.

    Another run into the same folder may have been killed between two of them, or have written measures that the run
    after it left as they were.
    """
    sources = _sources_of(mosaic.dataset)
    kinds = _kinds(probabilities, uncertainty, votes)
    masks = scheme_tags(_scheme_on_disk(scheme, mosaic.dataset))
    return all(
        _is_noted(Path(out_dir, kind, sources.relative_path(place.tile)), {"fingerprint": fingerprint} | wanted)
        for kind, wanted in ((kind, {} if kind else masks) for kind in kinds)
        for place in mosaic.placements
    )


def _is_noted(path: Path, wanted: Mapping[str, str]) -> bool:
    """Whether a raster is there, whole, and carries all these tags."""
    try:
        return wanted.items() <= read_description(path).items()
    except (OSError, RasterError):
        return False


def _kinds(probabilities: bool, uncertainty: bool, votes: bool) -> list[str]:
    """Subfolders of what is written: the masks' own, and one for each measure that was asked for."""
    return ["", *[PROBABILITY_FOLDER] * probabilities, *[UNCERTAINTY_FOLDER] * uncertainty, *[VOTES_FOLDER] * votes]


def refuse_source_folder(dataset: Dataset, out_dir: Path) -> None:
    """Raise `SaveError` where masks of the data set's tiles in `out_dir` would replace what a person made.

    Predictions carry the first band's names: among labels or images they would replace these. So folders of
    labels and bands are refused, and folders with rasters of these names that were not predicted.
    """
    sources = _sources_of(dataset)
    _refuse_folder(dataset, sources, Path(out_dir))
    for tile in dataset.tiles:
        _refuse_foreign_raster(Path(out_dir) / sources.relative_path(tile))


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where a data set's labels and images lie, and how often each name of a mask occurs in it."""

    label_folders: frozenset[Path]
    image_folders: frozenset[Path]
    name_counts: Counter[str]

    def relative_path(self, tile: Tile) -> Path:
        """Where a tile's mask goes; names that occur twice in the data set go by split."""
        name = raster_name(tile.name)
        return Path(tile.split, name) if self.name_counts[name] > 1 else Path(name)


# By the identity of the data set: a stack of a thousand scenes asks a thousand times.
_known_sources: dict[int, _Sources] = {}


def _sources_of(dataset: Dataset) -> _Sources:
    found = _known_sources.get(id(dataset))
    if found is None:
        masks = [path for tile in dataset.tiles for path in (tile.mask_path, tile.new_mask_path) if path is not None]
        images = [path for tile in dataset.tiles for path in tile.files]
        found = _Sources(
            label_folders=frozenset(folder.resolve() for folder in {path.parent for path in masks}),
            image_folders=frozenset(folder.resolve() for folder in {path.parent for path in images}),
            name_counts=Counter(raster_name(tile.name) for tile in dataset.tiles),
        )
        _known_sources[id(dataset)] = found
        weakref.finalize(dataset, _known_sources.pop, id(dataset), None)
    return found


def _refuse_folder(dataset: Dataset, sources: _Sources, folder: Path) -> None:
    # A folder may be under the root by its name and elsewhere by its link, or the other way round.
    target, named = folder.resolve(), folder.absolute()
    spellings = {target} if ".." in named.parts else {target, named}
    roots = {dataset.root.resolve(), dataset.root.absolute()}
    own = {path for path in spellings if any(path.is_relative_to(root) for root in roots)}
    if target in sources.label_folders or any(_is_label_name(path.name) for path in own):
        raise SaveError(
            f"{folder} is a label folder of {dataset.root}: predictions there would replace labels. "
            "Choose another folder, for instance predictions/; predictions become labels by being accepted."
        )
    if target in sources.image_folders or any(band_of_folder(path.name) for path in own):
        raise SaveError(
            f"{folder} is a folder that holds the images of {dataset.root}: predictions there would replace them. "
            "Choose another folder, for instance predictions/."
        )


def _is_label_name(name: str) -> bool:
    return name.lower() in _LABEL_FOLDERS or name.lower().endswith("_masks")


def _refuse_foreign_raster(path: Path) -> None:
    if not path.exists():
        return
    try:
        ours = _MADE_BY.items() <= read_description(path).items()
    except RasterError:
        ours = False
    if not ours:
        raise SaveError(
            f"{path} exists and was not predicted by napari-glacier: a prediction would replace it. "
            "Choose another folder (--out), or move the file away."
        )


def _scheme_on_disk(scheme: ClassScheme, dataset: Dataset) -> ClassScheme:
    """Codes are a matter of the data set, where it has the same classes."""
    own = dataset.scheme
    return own if own is not None and own.class_names == scheme.class_names else scheme


def _cut(values: npt.NDArray[Any], place: Placement) -> npt.NDArray[Any]:
    return values[..., *place.slices]


def _measures(
    prediction: Prediction, place: Placement, probabilities: bool, uncertainty: bool
) -> Iterator[tuple[str, npt.NDArray[np.float32], dict[str, str]]]:
    """Folder, fresh pixels and band names of what is written beside a tile's mask."""
    if probabilities:
        bands = {f"band_{k + 1}": name for k, name in enumerate(prediction.scheme.class_names)}
        yield PROBABILITY_FOLDER, _cut(prediction.probabilities_KHW, place).astype(np.float32), bands
    if uncertainty:
        maps = (prediction.entropy_HW, prediction.mutual_information_HW)
        stacked = np.stack([_cut(values_HW, place).astype(np.float32) for values_HW in maps])
        stacked = np.round(stacked / _UNCERTAINTY_STEP) * _UNCERTAINTY_STEP
        yield UNCERTAINTY_FOLDER, stacked, {"band_1": "entropy", "band_2": "mutual information"}


def _write_votes(
    path: Path, prediction: Prediction, place: Placement, scheme: ClassScheme, description: dict[str, str]
) -> Path:
    """Write each member's classes as codes; nodata is background, as in the mask."""
    assert prediction.votes_MHW is not None, "the prediction was made without votes"
    codes_MHW = scheme.encode(_cut(prediction.votes_MHW, place))
    meaning = {f"code_{code}": name for code, name in zip(scheme.codes, scheme.class_names, strict=True)}
    bands = {f"band_{number}": name for number, name in enumerate(prediction.provenance["votes"], 1)}
    write_cog(path, codes_MHW, place.tile.georef, description=description | meaning | bands)
    return path


def _write_sources(path: Path, dataset: Dataset, tile: Tile, description: dict[str, str]) -> Path:
    """Write which scene of a mosaic each pixel is of, and the scenes' days."""
    sources_HW = np.empty((tile.height, tile.width), np.uint8)
    for row in range(0, tile.height, _STRIP_ROWS):
        rows = row, min(row + _STRIP_ROWS, tile.height)
        sources_HW[slice(*rows)] = dataset.read_sources(tile, rows)
    scenes = {f"scene_{number}": part.tile.id for number, part in enumerate(tile.parts)}
    products = {number: part.tile.product for number, part in enumerate(tile.parts)}
    days = {f"date_{number}": product.date for number, product in products.items() if product is not None}
    write_cog(path, sources_HW[None], tile.georef, nodata=NO_SCENE, description=description | scenes | days)
    return path


def _record(out_dir: Path, scene_name: str, provenance: dict[str, Any]) -> None:
    """Add a scene to the folder's provenance; the lines of other scenes are not touched."""
    path = out_dir / PROVENANCE_FILE
    line = json.dumps({"scene": scene_name, "provenance": provenance}) + "\n"
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                # What a crash left of a line must not spoil the next one.
                line = line if file.read(1) == b"\n" else f"\n{line}"
            file.write(line.encode())
    except OSError as error:
        raise SaveError(
            f"{path} could not be written ({error.strerror or error}). "
            "Free disk space or choose a folder you may write to."
        ) from error
