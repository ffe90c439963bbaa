"""The raw HKH data as they are downloaded: images, outlines, and which region each image is of."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_glacier.core.data.layouts import rasters_in
from napari_glacier.core.errors import DataError, OutlineError
from napari_glacier.core.prepare.burning import VECTOR_SUFFIXES, ClassRule, fields_of, usual_class
from napari_glacier.core.prepare.preparing import distinct_names

IMAGE_FOLDER, LABEL_FOLDER, METADATA_FILE = "HKH_images", "HKH_labels", "metadata.csv"
_REGION_COLUMNS = ("region", "subregion", "sub_region", "basin", "sub_basin", "country", "area")


@dataclass(frozen=True, slots=True)
class RawHkh:
    """What a folder of raw data holds.

    Attributes
    ----------
    root : Path
    images : mapping of scene name to file
    labels : tuple of Path
    region_of : mapping of scene name to region
    notes : tuple of str
    """

    root: Path
    images: Mapping[str, Path]
    labels: tuple[Path, ...]
    region_of: Mapping[str, str]
    notes: tuple[str, ...]


def find_raw(root: Path, region_column: str | None = None) -> RawHkh:
    """Find the images, the outlines and the regions of raw data.

    Raises
    ------
    DataError
        If something is missing or cannot be read.
    """
    root = Path(root).expanduser().absolute()
    for folder in (IMAGE_FOLDER, LABEL_FOLDER):
        if not (root / folder).is_dir():
            raise DataError(
                f"{root} has no folder {folder}. Raw HKH data have {IMAGE_FOLDER}/*.tif, {LABEL_FOLDER}/*.shp and "
                f"{METADATA_FILE}; docs/preparing.md says where they come from."
            )
    images = distinct_names(rasters_in(root / IMAGE_FOLDER))
    labels = tuple(
        sorted(
            path
            for path in (root / LABEL_FOLDER).iterdir()
            if path.suffix.lower() in VECTOR_SUFFIXES and not path.name.startswith(".")
        )
    )
    if not images or not labels:
        raise DataError(
            f"{root / (LABEL_FOLDER if images else IMAGE_FOLDER)} holds no "
            f"{'outlines (*.shp)' if images else 'images (*.tif)'}. Download the data again."
        )
    region_of, notes = _regions(root / METADATA_FILE, images, region_column)
    return RawHkh(root, images, labels, region_of, notes)


def rule_for(path: Path, asked: ClassRule | None) -> ClassRule:
    """Which class the polygons of a file have: as asked, by an attribute with usual names, or by the file's name.

    Raises
    ------
    OutlineError
        If none of these tells.
    """
    if asked is not None:
        return asked
    fields = fields_of(path)
    told = {
        name: values for name, values in fields.items() if values and all(usual_class(v) is not None for v in values)
    }
    # Numbers mean anything; words are meant.
    worded = [name for name, values in told.items() if not all(value.isdigit() for value in values)]
    named = [name for name in told if name.lower() in {"class", "class_id", "label", "type", "glaciers"}]
    if worded or named:
        return ClassRule((worded or named)[0])
    for part, index in (("debris", 2), ("lake", 3), ("clean", 1)):
        if part in path.stem.lower():
            return ClassRule(whole=index)
    listed = "; ".join(f"{name}: {', '.join(values[:4])}" for name, values in list(fields.items())[:8])
    raise OutlineError(
        f"{path} does not tell clean ice from debris: its attributes are {listed or 'none'}. Say which one does, and "
        "what its values mean: --attribute NAME --class 'VALUE=glacier' --class 'VALUE=debris'."
    )


def _regions(path: Path, images: Mapping[str, Path], column: str | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """Region of each scene; a scene of which nothing is known is a region of its own."""
    if not path.is_file():
        return {name: name for name in images}, (
            f"{path} does not exist, so each image counts as a region of its own when tiles are held out.",
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), [str(name) for name in reader.fieldnames or ()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not readable as CSV ({error}). Save it as comma-separated UTF-8 text.") from error
    by_name = {name.strip().lower(): name for name in names}
    wanted = [column.lower()] if column is not None else _REGION_COLUMNS
    found = next((by_name[name] for name in wanted if name in by_name), None)
    if found is None:
        raise DataError(
            f"{path} has no column {column or 'region'!r}; it has {', '.join(names)}. Name the one that tells the "
            "region with --region-column."
        )
    # The column of file names is the one that knows the images.
    told: dict[str, dict[str, str]] = {
        name: {Path(row[name] or "").stem.lower(): (row[found] or "").strip() for row in rows} for name in names
    }
    stems = {scene: image.stem.lower() for scene, image in images.items()}
    best = max(names, key=lambda name: sum(stem in told[name] for stem in stems.values()))
    region_of = {scene: told[best].get(stem) or scene for scene, stem in stems.items()}
    unknown = [scene for scene, stem in stems.items() if not told[best].get(stem)]
    notes: tuple[str, ...] = ()
    if unknown:
        notes = (
            f"{path} tells no region of {len(unknown)} of {len(images)} images ({', '.join(unknown[:5])}); each counts "
            "as a region of its own.",
        )
    return region_of, notes
