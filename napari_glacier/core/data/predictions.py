"""Predictions on disk: the folders that `predict` and the window write, and a tile's map in them.

A folder holds a class mask a tile, under the name of the tile's first band (in subfolders named after the splits where
that is the name of several), and in subfolders of their own the measures beside them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.data.joining import SOURCES_FOLDER
from napari_glacier.core.data.layouts import PROVENANCE_FILE, rasters_in
from napari_glacier.core.data.tiles import Tile, raster_name
from napari_glacier.core.raster import read_description, read_info
from napari_glacier.core.raster.tiff_reading import read_part, without_nodata

PREDICTIONS_FOLDER = "predictions"
UNCERTAINTY_FOLDER, PROBABILITY_FOLDER, VOTES_FOLDER = "uncertainty", "probabilities", "votes"
# Rasters in these are no masks.
MEASURE_FOLDERS = frozenset((PROBABILITY_FOLDER, UNCERTAINTY_FOLDER, VOTES_FOLDER, SOURCES_FOLDER))


def folders_of_masks(folder: Path) -> list[tuple[Path, float]]:
    """Folders in a folder that hold masks, and when they were written to, the newest first.

    One that cannot be read is passed over.
    """
    try:
        paths = list(folder.iterdir())
    except OSError:
        return []
    dated = []
    for path in paths:
        try:
            if path.is_dir() and holds_masks(path):
                dated.append((path, path.stat().st_mtime))
        except OSError:
            continue
    return sorted(dated, key=lambda one: one[1], reverse=True)


def holds_masks(folder: Path) -> bool:
    """Whether a folder holds rasters that are no measures, itself or in a subfolder.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    below = (path for path in folder.iterdir() if path.is_dir() and path.name not in MEASURE_FOLDERS)
    return any(rasters_in(own) for own in (folder, *below))


def mask_in(folder: Path, tile: Tile) -> Path | None:
    """The class mask of a tile in a folder of predictions; None where there is none."""
    name = raster_name(tile.name)
    return next((path for path in (folder / tile.split / name, folder / name) if path.is_file()), None)


@dataclass(frozen=True, slots=True)
class PredictedTile:
    """What a folder of predictions holds of a tile.

    Attributes
    ----------
    mask : Path
    tags : mapping of str to str
        What the mask says of itself: classes, and who predicted it.
    uncertainty, probabilities : Path or None
        Of the same run.
    """

    mask: Path
    tags: Mapping[str, str]
    uncertainty: Path | None
    probabilities: Path | None

    @property
    def has_entropy(self) -> bool:
        """Whether it is known how sure the models were."""
        return self.uncertainty is not None or self.probabilities is not None

    def read_index(self, scheme: ClassScheme, rows: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Class indices of rows, uint8 (h, W).

        Raises
        ------
        RasterError, SchemeError
            If they cannot be read, or hold codes that the scheme does not know.
        """
        codes_hW = read_part(self.mask, rows)[0]
        return scheme.decode(without_nodata(codes_hW, read_info(self.mask).nodata, scheme.codes), str(self.mask))

    def read_entropy(self, rows: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Entropy of rows, float32 (h, W) between 0 and 1; not a number where it is not known.

        Raises
        ------
        RasterError
            If it cannot be read.
        """
        if self.uncertainty is not None:
            return np.asarray(read_part(self.uncertainty, rows)[0], np.float32)
        if self.probabilities is not None:
            return _entropy(read_part(self.probabilities, rows))
        return np.full((rows[1] - rows[0], read_info(self.mask).width), np.nan, np.float32)


def predicted_tile(folder: Path, tile: Tile) -> PredictedTile | None:
    """What a folder of predictions holds of a tile; None where that is nothing, or of another tile of its name.

    Raises
    ------
    RasterError
        If the mask or what lies beside it cannot be read.
    """
    mask = mask_in(folder, tile)
    if mask is None:
        return None
    info, tags = read_info(mask), read_description(mask)
    if (info.height, info.width, info.count) != (tile.height, tile.width, 1) or tags.get("tile", tile.id) != tile.id:
        return None
    relative = mask.relative_to(folder)

    def beside(kind: str) -> Path | None:
        path = folder / kind / relative
        return path if path.is_file() and is_of_one_run(tags, path) else None

    return PredictedTile(mask, tags, beside(UNCERTAINTY_FOLDER), beside(PROBABILITY_FOLDER))


def is_of_one_run(tags: Mapping[str, str], measured: Path) -> bool:
    """Whether what lies beside a mask was made with it: a later run without it leaves that of an earlier one behind."""
    own = tags.get("fingerprint")
    return not own or read_description(measured).get("fingerprint", own) == own


def records_of(folder: Path) -> dict[str, dict[str, Any]]:
    """How each scene in a folder of predictions was made last, by its record; lines that a crash cut off are left out.

    Raises
    ------
    OSError
        If the record is there and cannot be read.
    """
    try:
        lines = (folder / PROVENANCE_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return dict(record for line in lines if (record := _record(line)) is not None)


def _record(line: str) -> tuple[str, dict[str, Any]] | None:
    try:
        record = json.loads(line)
        scene, provenance = record["scene"], record["provenance"]
    except (ValueError, TypeError, KeyError):
        return None
    return (scene, provenance) if isinstance(scene, str) and isinstance(provenance, dict) else None


def _entropy(probabilities_KhW: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """-sum p log p / log K, as `nn.uncertainty.entropy`."""
    from scipy.special import entr

    entropy_hW: npt.NDArray[np.float32] = entr(np.asarray(probabilities_KhW, np.float32)).sum(axis=0)
    return entropy_hW / np.float32(np.log(len(probabilities_KhW)))
