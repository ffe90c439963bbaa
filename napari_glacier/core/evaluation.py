"""Comparing predicted masks with true ones, over all pixels and over valid pixels alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import exact_identity, number_identity, plain_identity
from napari_glacier.core.classes import ClassScheme, get_scheme, infer_scheme, tagged_scheme
from napari_glacier.core.data.array_layout import arrays_in
from napari_glacier.core.data.dataset import Dataset, Tile, open_dataset
from napari_glacier.core.data.layouts import is_dataset, pictures_in, rasters_in
from napari_glacier.core.data.pairing import pair_files
from napari_glacier.core.data.predictions import mask_in
from napari_glacier.core.errors import DataError, PairingError, SchemeError
from napari_glacier.core.metrics import ConfusionMatrix
from napari_glacier.core.raster import read_description, read_mask_codes
from napari_glacier.core.raster.png import is_png


def evaluate_folders(
    predicted: Path,
    truth: Path,
    data: Path | None = None,
    scheme: str | None = None,
    glacier_classes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Metrics of a folder of predicted masks against a folder of true ones.

    Parameters
    ----------
    predicted, truth : Path
        Folders of masks, TIFFs, PNGs or NumPy files, paired by the identity in their names. Of a TIFF and a PNG of
        one name the TIFF counts: beside it the PNG is a quick look, or what was corrected. `truth` may be a data set
        as well, whose labelled tiles are then compared: predictions of the others are left out.
    data : Path, optional
        The data set they belong to; it tells which pixels are valid. Where `truth` is a data set, that one by default.
    scheme : str, optional
        Of both folders; else the data set's where the true masks are its own, or decided over the masks of each.
    glacier_classes : sequence of str, optional
        With a four-class prediction and two-class truth: the classes that count as glacier.

    Returns
    -------
    dict
        ``all_pixels`` and ``valid_pixels`` (None without `data`) with mcc, iou, f1, precision, recall and
        per_class; ``tiles`` with each tile's values.

    Raises
    ------
    DataError
        If masks do not pair, differ in size, or their schemes cannot be compared.
    """
    predicted, truth = Path(predicted), Path(truth)
    dataset = open_dataset(data) if data is not None else None
    if _is_labelled(truth):
        labelled = open_dataset(truth, scheme)
        dataset = dataset or labelled
        pairs = _pairs_with_labels(predicted, labelled)
    else:
        pairs = _pairs(predicted, truth)
    predicted_scheme, truth_scheme = _schemes(pairs, dataset, scheme)
    recode = class_table(predicted_scheme, truth_scheme, glacier_classes)
    names = truth_scheme.class_names
    total_all, total_valid = ConfusionMatrix(len(names)), ConfusionMatrix(len(names))
    tiles = []
    for tile_id, (predicted_path, truth_path) in pairs.items():
        codes_HW = read_mask_codes(predicted_path, codes=predicted_scheme.codes)
        predicted_HW = recode[predicted_scheme.decode(codes_HW, str(predicted_path))]
        truth_HW = truth_scheme.decode(read_mask_codes(truth_path, codes=truth_scheme.codes), str(truth_path))
        if predicted_HW.shape != truth_HW.shape:
            raise DataError(
                f"{predicted_path} is {predicted_HW.shape}, {truth_path} is {truth_HW.shape}. "
                "Predict on the grid of the truth, or resample one of them."
            )
        record: dict[str, Any] = {"tile": tile_id}
        valid_HW = _valid(dataset, tile_id, truth_HW.shape) if dataset else None
        for key, total, where in (("all_pixels", total_all, None), ("valid_pixels", total_valid, valid_HW)):
            if key == "valid_pixels" and valid_HW is None:
                continue
            matrix = ConfusionMatrix(len(names))
            matrix.update(predicted_HW, truth_HW, where)
            total.merge(matrix)
            record[key] = matrix.summary(names)
        tiles.append(record)
    return {
        "all_pixels": total_all.summary(names),
        "valid_pixels": total_valid.summary(names) if dataset else None,
        "scheme": truth_scheme.name,
        "tiles": tiles,
    }


def _is_labelled(truth: Path) -> bool:
    """Whether the truth is a data set with labels, not a folder of masks."""
    return truth.is_dir() and not any((rasters_in(truth), pictures_in(truth), arrays_in(truth))) and is_dataset(truth)


def _pairs_with_labels(predicted: Path, dataset: Dataset) -> Mapping[str, tuple[Path, Path]]:
    """The prediction and the label of each labelled tile; predictions have the names of the tiles' first bands."""
    labelled = [tile for tile in dataset.tiles if tile.mask_path is not None and tile.number is None]
    if not labelled:
        raise DataError(f"No tile of {dataset.root} has a label. Label some, or give a folder of masks.")
    if not predicted.is_dir():
        raise DataError(f"{predicted} is not a folder. Give a folder of masks.")
    pairs: dict[str, tuple[Path, Path]] = {}
    for tile in labelled:
        found = mask_in(predicted, tile)
        if found is not None and tile.mask_path is not None:
            pairs[tile.id] = found, tile.mask_path
    missing = [tile.id for tile in labelled if tile.id not in pairs]
    if missing:
        raise PairingError(
            f"{len(missing)} of {len(labelled)} labelled tiles of {dataset.root} have no prediction in {predicted}: "
            f"{', '.join(missing[:8])}. Predict them, or give the folder of the masks to compare with."
        )
    return pairs


def _pairs(predicted: Path, truth: Path) -> Mapping[str, tuple[Path, Path]]:
    for folder in (predicted, truth):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder. Give a folder of masks.")
    files = {"prediction": _masks_in(predicted, truth), "truth": _masks_in(truth, predicted)}
    for name, folder in (("prediction", predicted), ("truth", truth)):
        if not files[name]:
            raise DataError(f"{folder} holds no TIFF, PNG or NumPy file. Give the folder of the {name} masks.")
    tiles, _ = pair_files(files)
    alone = [key for key, found in tiles.items() if len(found) < 2]
    if alone:
        raise PairingError(
            f"{len(alone)} mask(s) have no partner: {', '.join(alone[:8])}. "
            f"{predicted} and {truth} must hold the same tiles; move away what is not to be compared."
        )
    return {key: (found["prediction"], found["truth"]) for key, found in tiles.items()}


def _masks_in(folder: Path, other: Path) -> list[Path]:
    """Masks of a folder: TIFFs, PNGs and NumPy files, of one name the first of these.

    Beside TIFFs a PNG may be a quick look, unless the other folder knows it.
    """
    rasters, pictures = rasters_in(folder), pictures_in(folder)
    if rasters:
        wanted = {path.stem for path in (*rasters_in(other), *pictures_in(other))} - {path.stem for path in rasters}
        pictures = [path for path in pictures if path.stem in wanted]
    known = {path.stem for path in (*rasters, *pictures)}
    return rasters + pictures + [path for path in arrays_in(folder) if path.stem not in known]


def _schemes(
    pairs: Mapping[str, tuple[Path, Path]], dataset: Dataset | None, name: str | None
) -> tuple[ClassScheme, ClassScheme]:
    if name is not None:
        return get_scheme(name), get_scheme(name)
    own = _own_scheme(pairs, dataset)
    if own is not None and own.any_nonzero:
        return own, own
    if own is None and any(is_png(truth) for _, truth in pairs.values()):
        # As for a data set: masks that are pictures are salt data.
        return get_scheme("salt2"), get_scheme("salt2")
    told, told_truth = (_told_scheme(paths) for paths in zip(*pairs.values(), strict=True))
    values: tuple[set[float], set[float]] = (set(), set())
    for paths in pairs.values():
        for seen, path in zip(values, paths, strict=True):
            seen.update(float(value) for value in np.unique(read_mask_codes(path)))
    truth_scheme = own or told_truth or infer_scheme(values[1])
    # A prediction that happens to hold background and lake alone reads as two classes; the truth knows better.
    if told is None and values[0] <= {float(code) for code in truth_scheme.codes}:
        return truth_scheme, truth_scheme
    return told or infer_scheme(values[0]), truth_scheme


def _told_scheme(masks: Sequence[Path]) -> ClassScheme | None:
    """What all masks say of their classes, as those do that were written here; None where one does not."""
    if any(path.suffix.lower() not in (".tif", ".tiff") for path in masks):
        return None
    return tagged_scheme(map(read_description, masks))


def _own_scheme(pairs: Mapping[str, tuple[Path, Path]], dataset: Dataset | None) -> ClassScheme | None:
    """The data set's scheme where it reads the truth; masks from elsewhere may have classes of their own."""
    if dataset is None or dataset.scheme is None:
        return None
    masks = {tile.mask_path.resolve() for tile in dataset.tiles if tile.mask_path is not None}
    is_own = all(truth.resolve() in masks for _, truth in pairs.values())
    return dataset.scheme if is_own or dataset.scheme.any_nonzero else None


def class_table(
    predicted: ClassScheme, truth: ClassScheme, glacier_classes: Sequence[str] | None
) -> npt.NDArray[np.uint8]:
    """Table from predicted class index to the truth's class index.

    Raises
    ------
    SchemeError
        If the classes differ and it is not said which of four are the one of the truth.
    """
    if predicted.class_names == truth.class_names and glacier_classes is None:
        return np.arange(predicted.num_classes, dtype=np.uint8)
    if truth.num_classes == 2 and glacier_classes is not None:
        unknown = set(glacier_classes) - set(predicted.class_names)
        if unknown:
            raise SchemeError(
                f"--glacier-classes names {sorted(unknown)}; the prediction has {', '.join(predicted.class_names)}."
            )
        return np.array([name in glacier_classes for name in predicted.class_names], np.uint8)
    raise SchemeError(
        f"The prediction has the classes {', '.join(predicted.class_names)}, the truth {', '.join(truth.class_names)}. "
        "Say which predicted classes count as glacier, for example --glacier-classes glacier debris."
    )


def _valid(dataset: Dataset, tile_id: str, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    tile = _tile_of(dataset, tile_id)
    if (tile.height, tile.width) != shape:
        raise DataError(f"Tile {tile_id} of {dataset.root} is {tile.height} x {tile.width}, its masks are {shape}.")
    return dataset.read_valid(tile)


def _tile_of(dataset: Dataset, mask_identity: str) -> Tile:
    """The tile that masks of this identity belong to, by the loosening ideas of identity that pair files."""
    for identity in (exact_identity, plain_identity, number_identity):
        wanted = identity(mask_identity)
        found = [tile for tile in dataset.tiles if wanted and identity(Path(tile.name).stem) == wanted]
        if len(found) == 1:
            return found[0]
    return dataset.tile(mask_identity)
