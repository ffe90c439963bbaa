"""Writing a prediction as one raster a tile, under the tile's name, with its georeference."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.dataset import Dataset
from napari_glacier.core.errors import SaveError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.mosaic import Mosaic, Placement
from napari_glacier.core.raster import RASTER_SUFFIXES, write_mask, write_raster
from napari_glacier.nn.prediction import Prediction

PROVENANCE_FILE = "provenance.json"


def write_predictions(
    prediction: Prediction,
    mosaic: Mosaic,
    out_dir: str | Path,
    probabilities: bool = False,
    uncertainty: bool = False,
) -> list[Path]:
    """Write the class mask of every tile, in the data set's codes, under the name of its first band.

    Tiles of equal names in different splits go to subfolders named after the split.

    Parameters
    ----------
    prediction : Prediction
        Of the whole `mosaic`.
    mosaic : Mosaic
    out_dir : str or Path
        Made where it is missing.
    probabilities : bool
        Write the class probabilities, too: float32, a band a class, in ``probabilities/``.
    uncertainty : bool
        Write entropy and mutual information, too: float32, two bands, in ``uncertainty/``.

    Returns
    -------
    list of Path
        The rasters written. ``provenance.json`` beside them says how each scene was made.

    Raises
    ------
    SaveError
        If the folder holds the data set's labels or images, or cannot be written.
    """
    out_dir = Path(out_dir)
    assert prediction.index_HW.shape == tuple(mosaic.shape)
    names = _relative_paths(mosaic)
    for folder in {(out_dir / name).parent for name in names.values()}:
        refuse_source_folder(mosaic.dataset, folder)
    scheme = _scheme_on_disk(prediction.scheme, mosaic.dataset)
    ensemble = str(prediction.provenance.get("ensemble", ""))
    written = []
    for place in mosaic.placements:
        description = {"made_by": "napari-glacier", "ensemble": ensemble, "tile": place.tile.id}
        relative = names[place.tile.id]
        write_mask(out_dir / relative, _cut(prediction.index_HW, place), scheme, place.tile.georef, description)
        written.append(out_dir / relative)
        for kind, values_CHW, bands in _measures(prediction, place, probabilities, uncertainty):
            values_CHW[:, ~_cut(prediction.valid_HW, place)] = np.nan
            path = out_dir / kind / relative
            write_raster(path, values_CHW, place.tile.georef, nodata=float("nan"), description=bands)
            written.append(path)
    _record(out_dir, mosaic.name, prediction.provenance)
    return written


def refuse_source_folder(dataset: Dataset, out_dir: Path) -> None:
    """Raise `SaveError` where `out_dir` holds the labels or images of the data set.

    Predictions carry the first band's names: written there they would replace a person's labels, or the
    band itself.
    """
    target = Path(out_dir).resolve()
    for tile in dataset.tiles:
        for path in (tile.mask_path, tile.new_mask_path):
            if path is not None and path.parent.resolve() == target:
                raise SaveError(
                    f"{out_dir} is the label folder of {dataset.root}: predictions there would replace labels. "
                    "Choose another folder, for instance predictions/; predictions become labels by being accepted."
                )
        if any(source.path.parent.resolve() == target for source in tile.bands.values()):
            raise SaveError(
                f"{out_dir} holds the images of {dataset.root}: predictions there would replace them. "
                "Choose another folder, for instance predictions/."
            )


def _scheme_on_disk(scheme: ClassScheme, dataset: Dataset) -> ClassScheme:
    """Codes are a matter of the data set, where it has the same classes."""
    own = dataset.scheme
    return own if own is not None and own.class_names == scheme.class_names else scheme


def _relative_paths(mosaic: Mosaic) -> dict[str, Path]:
    """Where each tile's mask goes, by the tile's id; names that occur twice in the data set go by split."""
    count = Counter(_raster_name(tile.name) for tile in mosaic.dataset.tiles)
    paths = {}
    for place in mosaic.placements:
        name = _raster_name(place.tile.name)
        paths[place.tile.id] = Path(place.tile.split, name) if count[name] > 1 else Path(name)
    return paths


def _raster_name(tile_name: str) -> str:
    path = Path(tile_name)
    return tile_name if path.suffix.lower() in RASTER_SUFFIXES else f"{path.stem}.tif"


def _cut(values: npt.NDArray[Any], place: Placement) -> npt.NDArray[Any]:
    return values[..., *place.slices]


def _measures(
    prediction: Prediction, place: Placement, probabilities: bool, uncertainty: bool
) -> Iterator[tuple[str, npt.NDArray[np.float32], dict[str, str]]]:
    """Folder, fresh pixels and band names of what is written beside a tile's mask."""
    if probabilities:
        bands = {f"band_{k + 1}": name for k, name in enumerate(prediction.scheme.class_names)}
        yield "probabilities", _cut(prediction.probabilities_KHW, place).astype(np.float32), bands
    if uncertainty:
        maps = (prediction.entropy_HW, prediction.mutual_information_HW)
        stacked = np.stack([_cut(values_HW, place).astype(np.float32) for values_HW in maps])
        yield "uncertainty", stacked, {"band_1": "entropy", "band_2": "mutual information"}


def _record(out_dir: Path, scene_name: str, provenance: dict[str, Any]) -> None:
    """Add a scene to the folder's provenance; other scenes written there before stay."""
    path = out_dir / PROVENANCE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scenes = dict(content["scenes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        scenes = {}
    scenes[scene_name] = provenance
    try:
        write_text_atomically(path, json.dumps({"scenes": scenes}, indent=2) + "\n")
    except OSError as error:
        raise SaveError(
            f"{path} could not be written ({error.strerror or error}). "
            "Free disk space or choose a folder you may write to."
        ) from error
