"""Tiles of NumPy files: a folder ``images`` of them, with ``masks`` beside it.

    root/images/*.npy   root/masks/*.npy   root/train_ids.txt   root/val_ids.txt   root/slices.csv
    root/train/images   root/train/masks   root/val/images …

The planes of a tile are the five bands; with seven planes elevation and slope follow; with fifteen they are those of a
raw HKH image. ``bands: [B2, …]`` in `dataset.yaml` says otherwise. The files with ids list tiles by name, a line a
tile. `slices.csv`, which `prepare hkh` writes, says where each tile lies.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from napari_glacier.core.bands import ALL_BANDS, CANONICAL_BANDS, TERRAIN_BANDS
from napari_glacier.core.data.pairing import pair_files
from napari_glacier.core.data.tiles import BandSource, Tile
from napari_glacier.core.errors import BandError, DataError, PairingError
from napari_glacier.core.plain_yaml import read_yaml
from napari_glacier.core.raster.arrays import ARRAY_SUFFIXES, read_array_header
from napari_glacier.core.raster.georef import GeoRef

HKH_NUM_PLANES = 15
# Positions of the bands in a raw HKH image (Landsat 7): B1, B2, B3, B5, B6_1; then elevation and slope.
HKH_BANDS = dict(zip(CANONICAL_BANDS, (0, 1, 2, 4, 5), strict=True)) | {"elevation": 13, "slope": 14}
HKH_HIGH_GAIN_THERMAL = 6
PLACES_FILE = "slices.csv"
PLACE_FIELDS = ("tile", "scene", "region", "row", "col", "epsg", "geographic", *"abcdef")

# Split of the tiles that neither file with ids names.
UNNAMED_SPLIT = "other"


@dataclass(frozen=True, slots=True)
class _Described:
    """What a folder says of its tiles beside their pixels."""

    bands: tuple[str, ...] | None
    split_of: Mapping[str, str] | None
    places: Mapping[str, GeoRef]


def arrays_in(folder: Path) -> list[Path]:
    """NumPy files of a folder by name, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ARRAY_SUFFIXES and not p.name.startswith("."))


def tiles_of_arrays(
    folder: Path, images: Path, mask_folder: Path, *, split: str, drawn: Sequence[Path], description: Path
) -> list[Tile]:
    """Tiles of a folder of NumPy files.

    Parameters
    ----------
    folder : Path
        What holds `images`, and the files with ids where there are some.
    images, mask_folder : Path
    split : str
        Of all tiles, where there are no ids.
    drawn : sequence of Path
        TIFF masks in the mask folder, which count before a NumPy file of their name.
    description : Path
        The data set's `dataset.yaml`.

    Raises
    ------
    DataError
        If the files do not fit together.
    """
    described = _described(folder, description)
    drawn_stems = {path.stem for path in drawn}
    masks = [path for path in arrays_in(mask_folder) if path.stem not in drawn_stems] if mask_folder.is_dir() else []
    paths, mask_of = pair_files({"images": arrays_in(images)}, [*masks, *drawn])
    tiles: list[Tile] = []
    for tile_id, found in paths.items():
        path = found["images"]
        header = read_array_header(path)
        sources = _sources(path, header.count, described.bands)
        for number in range(header.num_tiles) if header.num_tiles is not None else (None,):
            name = tile_id if number is None else f"{tile_id}_{number:05d}"
            tiles.append(
                Tile(
                    id=name,
                    split=split if described.split_of is None else _split_of(described.split_of, name, path.stem),
                    bands=sources,
                    height=header.height,
                    width=header.width,
                    georef=described.places.get(name),
                    mask_path=mask_of.get(tile_id),
                    new_mask_path=mask_folder
                    / (f"{path.stem}.tif" if number is None else f"{path.stem}_{number:05d}.tif"),
                    number=number,
                )
            )
    if described.split_of is not None:
        known = {tile.id for tile in tiles} | {path["images"].stem for path in paths.values()}
        unknown = [name for name in described.split_of if name not in known]
        if unknown:
            raise PairingError(
                f"The files with ids in {folder} name {len(unknown)} tile(s) that {images} does not hold: "
                f"{', '.join(unknown[:5])}. Correct train_ids.txt and val_ids.txt, or remove them."
            )
    return tiles


def _sources(path: Path, count: int, bands: tuple[str, ...] | None) -> dict[str, BandSource]:
    if bands is not None:
        if len(bands) != count:
            raise BandError(
                f"{path} has {count} planes, and dataset.yaml names {len(bands)} bands ({', '.join(bands)}). "
                "Name the bands of the planes in their order."
            )
        position = {band: index for index, band in enumerate(bands)}
    elif count == HKH_NUM_PLANES:
        position = dict(HKH_BANDS)
    elif count in (len(CANONICAL_BANDS), len(CANONICAL_BANDS) + len(TERRAIN_BANDS)):
        position = {band: index for index, band in enumerate((*CANONICAL_BANDS, *TERRAIN_BANDS)[:count])}
    else:
        raise BandError(
            f"{path} has {count} planes; tiles have 5 (the bands), 7 (with elevation and slope) or 15 (raw HKH). "
            "Name the planes in dataset.yaml, as in bands: [B2, B3, B4, B6, B10]."
        )
    return {band: BandSource(path, position[band]) for band in ALL_BANDS if band in position}


def _split_of(split_of: Mapping[str, str], name: str, stem: str) -> str:
    return split_of.get(name) or split_of.get(stem, UNNAMED_SPLIT)


def _described(folder: Path, description: Path) -> _Described:
    return _Described(_bands(description), read_ids(folder), read_places(folder / PLACES_FILE))


def _bands(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not readable as YAML. Correct or remove it.") from error
    bands = content.get("bands") if isinstance(content, dict) else None
    if bands is None:
        return None
    known = isinstance(bands, list) and all(isinstance(band, str) and band in ALL_BANDS for band in bands)
    if not known or len(set(bands)) < len(bands) or set(bands).isdisjoint(CANONICAL_BANDS):
        raise DataError(f"{path} names the bands {bands}. List bands of {', '.join(ALL_BANDS)}, each once, in order.")
    return tuple(bands)


def read_ids(folder: Path) -> dict[str, str] | None:
    """Which tiles `train_ids.txt` and `val_ids.txt` name, with their split; None where there is neither file.

    Raises
    ------
    DataError
        If a tile stands in both, or a file is no text.
    """
    split_of: dict[str, str] = {}
    files = [(split, folder / f"{split}_ids.txt") for split in ("train", "val", "test")]
    if not any(path.is_file() for _, path in files):
        return None
    for split, path in files:
        if not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no text. List the tiles by name, a line a tile.") from error
        for line in lines:
            name = line.strip().removesuffix(".npy")
            if not name:
                continue
            if split_of.setdefault(name, split) != split:
                raise DataError(f"The tile {name} is in two files with ids of {folder}. Name each tile in one of them.")
    return split_of


def read_places(path: Path) -> dict[str, GeoRef]:
    """Where tiles lie, by their id; empty where there is no such file.

    Raises
    ------
    DataError
        If the file is not one that `write_places` made.
    """
    if not path.is_file():
        return {}
    places = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["epsg"]:
                    a, b, c, d, e, f = (float(row[name]) for name in "abcdef")
                    if not all(map(math.isfinite, (a, b, c, d, e, f))) or a * e == b * d:
                        raise ValueError("a transform that is none")
                    places[row["tile"]] = GeoRef.from_epsg(
                        _epsg(row["epsg"]), (a, b, c, d, e, f), row["geographic"] == "yes"
                    )
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} does not say where tiles lie ({type(error).__name__}: {error}). Restore or remove it."
        ) from error
    return places


def _epsg(text: str) -> int:
    code = int(text)
    if not 1 <= code < 32767:  # the range of a GeoKey
        raise ValueError(f"EPSG:{code}")
    return code
