"""The table of predicted salt masks that the competition takes, `id,rle_mask`: writing and checking it."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.data.layouts import is_dataset, pictures_in, rasters_in
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import DataError, GlacierError, SaveError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.raster import read_description, read_info, read_mask_codes
from napari_glacier.core.rle import encode_rle, parse_runs

COLUMNS = ("id", "rle_mask")
USUAL_SIDE_PX = 101
# A run of every second pixel of a large mask is a long field.
_LONGEST_FIELD = 1 << 24
_OF_GLACIERS = (
    "This table is one of salt masks, on seismic pictures. For maps of glaciers `napari-glacier bundle` writes what a "
    "competition runs, `evaluate` scores them, and `outlines` writes polygons."
)


@dataclass(frozen=True, slots=True)
class Submission:
    """What was written: the file, where the one before it went, and how many of the masks are empty or were reduced."""

    path: Path
    kept: Path | None
    num_masks: int
    num_empty: int
    num_reduced: int
    share: float


def write_submission(folder: Path, out: Path, side_px: int = USUAL_SIDE_PX) -> Submission:
    """Write the masks of a folder as a table, a line a mask, in the order of their names.

    Parameters
    ----------
    folder : Path
        Predicted masks (TIFF or PNG; any non-zero pixel is salt), or a data set of pictures with masks.
    out : Path
        A table that is there already is kept under its name with the time.
    side_px : int
        Side of the masks in the table. Larger masks are reduced: a pixel is salt where half of it is.

    Raises
    ------
    DataError
        If there are no masks, one is smaller, or not square, or they are of satellite images.
    SaveError
        If the table cannot be written.
    """
    masks = _masks(Path(folder).expanduser())
    rows, num_reduced, num_salt = [], 0, 0
    for name, path in masks.items():
        mask_HW = np.asarray(read_mask_codes(path) != 0)
        if mask_HW.shape != (side_px, side_px):
            mask_HW = _reduced(mask_HW, side_px, path)
            num_reduced += 1
        num_salt += int(mask_HW.sum())
        rows.append((name, encode_rle(mask_HW)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    out = Path(out).expanduser().absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        kept = _keep(out)
        write_text_atomically(out, text.getvalue())
    except OSError as error:
        raise SaveError(
            f"{out} could not be written ({error.strerror or error}). Choose a folder you may write to."
        ) from error
    num_empty = sum(not rle for _, rle in rows)
    return Submission(out, kept, len(rows), num_empty, num_reduced, num_salt / (len(rows) * side_px**2))


def check_submission(path: Path, side_px: int = USUAL_SIDE_PX, expected: Sequence[str] | None = None) -> list[str]:
    """What is wrong with a table, a sentence each; empty where it is sound. An empty mask is.

    Parameters
    ----------
    path : Path
    side_px : int
        Side of the masks.
    expected : sequence of str, optional
        The ids that it must have.

    Raises
    ------
    DataError
        If the file is no table.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file. Give a table of masks.")
    found: list[str] = []
    seen: dict[str, int] = {}
    try:
        before = csv.field_size_limit(_LONGEST_FIELD)
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            heading = next(reader, [])
            if tuple(heading) != COLUMNS:
                found.append(f"The columns are {', '.join(heading) or 'missing'}; id,rle_mask are needed.")
                return found
            for row in reader:
                found += _faults(row, reader.line_num, seen, side_px)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is not readable as CSV ({error}). Write it anew with napari-glacier submit."
        ) from error
    finally:
        csv.field_size_limit(before)
    if not seen:
        found.append("There is no mask in it.")
    if expected is not None:
        for what, ids in (("missing", set(expected) - seen.keys()), ("unknown", seen.keys() - set(expected))):
            if ids:
                found.append(f"{len(ids)} ids are {what}: {', '.join(sorted(ids)[:8])}.")
    return found


def mask_names(folder: Path) -> list[str]:
    """Ids of a folder of masks, of pictures, or of a data set of pictures.

    Raises
    ------
    DataError
        If it has none, or its pictures are satellite images.
    """
    folder = Path(folder).expanduser()
    if is_dataset(folder):
        return sorted(Path(tile.name).stem for tile in _salt_tiles(folder))
    if (folder / "images").is_dir():
        folder = folder / "images"
    names = sorted({path.stem for path in (*pictures_in(folder), *rasters_in(folder))})
    if not names:
        raise DataError(f"{folder} holds no PNG and no TIFF. Give the folder of the pictures, or of their masks.")
    return names


def _faults(row: list[str], line: int, seen: dict[str, int], side_px: int) -> list[str]:
    if not row:
        return []
    if len(row) != len(COLUMNS):
        return [f"Line {line} has {len(row)} fields; 2 are needed."]
    name, text = row
    faults = []
    if not name.strip():
        faults.append(f"Line {line} has no id.")
    elif name in seen:
        faults.append(f"Line {line} has the id {name} of line {seen[name]} again.")
    seen.setdefault(name, line)
    try:
        parse_runs(text, side_px**2)
    except GlacierError as error:
        faults.append(f"Line {line} ({name}): {error}")
    return faults


def _masks(folder: Path) -> dict[str, Path]:
    """Mask files by id; of a TIFF and a PNG of one name the TIFF counts."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Give a folder of predicted masks.")
    if is_dataset(folder):
        tiles = _salt_tiles(folder)
        masks = {path.stem: path for tile in tiles if (path := tile.mask_path) is not None and tile.number is None}
        without = [tile.id for tile in tiles if tile.mask_path is None]
        if without:
            raise DataError(
                f"{len(without)} tiles of {folder} have no mask ({', '.join(without[:5])}). Predict them first, and "
                "give the folder of the predictions."
            )
    else:
        masks = {path.stem: path for path in (*pictures_in(folder), *rasters_in(folder))}
    if not masks:
        raise DataError(f"{folder} holds no mask (TIFF or PNG). Run napari-glacier predict first, and give its folder.")
    for path in masks.values():
        _check_salt(path)
    return dict(sorted(masks.items()))


def _salt_tiles(folder: Path) -> tuple[Tile, ...]:
    """Tiles of a data set of pictures; refuses one of satellite bands."""
    from napari_glacier.core.data.dataset import open_dataset

    tiles = open_dataset(folder, "salt2").tiles
    bands = [band for band in CANONICAL_BANDS if any(band in tile.bands for tile in tiles)]
    if bands:
        raise DataError(
            f"{folder} is a data set of satellite images, with the bands {', '.join(bands)}. {_OF_GLACIERS}"
        )
    return tiles


def _check_salt(path: Path) -> None:
    """Refuse a mask that names other classes, or that lies on a map: any non-zero pixel would count as salt."""
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return
    classes = [name for key, name in read_description(path).items() if key.startswith("class_")]
    if classes and "salt" not in classes:
        raise DataError(f"{path} is a mask of the classes {', '.join(classes)}. {_OF_GLACIERS}")
    if not classes and read_info(path).georef is not None:
        raise DataError(
            f"{path} has a georeference, which pictures of a seismic survey do not have. {_OF_GLACIERS} If these are "
            "salt masks all the same, save them as PNG."
        )


def _reduced(mask_HW: npt.NDArray[np.bool_], side_px: int, path: Path) -> npt.NDArray[np.bool_]:
    height, width = mask_HW.shape
    if height != width or height < side_px:
        raise DataError(
            f"{path} is {height} x {width}; a square mask of at least {side_px} x {side_px} is needed. Predict on the "
            "original pictures."
        )
    share_HW = cv2.resize(mask_HW.astype(np.float32), (side_px, side_px), interpolation=cv2.INTER_AREA)
    return np.asarray(share_HW >= 0.5)


def _keep(path: Path) -> Path | None:
    """Put the file that is there aside, under its name and the time of its last change."""
    if not path.exists():
        return None
    time = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    stem = f"{path.stem}-{time:%Y%m%d-%H%M%S}"
    for number in range(1000):
        kept = path.with_name(f"{stem}{f'-{number}' if number else ''}{path.suffix}")
        try:
            # Fails where the name is taken, so nothing is lost to another one.
            kept.touch(exist_ok=False)
        except FileExistsError:
            continue
        path.replace(kept)
        return kept
    raise SaveError(f"There are too many tables beside {path}. Move them away.")
