"""Finding the tiles of a folder by its layout.

Layouts that open (tile files are TIFFs; folder names are read without regard to case):

    root/train/B2 … B10   root/train_masks      root/val/B2 …   root/val_masks
    root/Band1 … Band5    root/label | labels | masks | mask
    root/*.tif            every file one tile of five bands
    a single five-band TIFF

A folder called ``Train`` (or ``train``) with such a layout opens by itself, too.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from napari_glacier.core.bands import CANONICAL_BANDS, band_of_folder
from napari_glacier.core.errors import BandError, DataError, RasterError
from napari_glacier.core.pairing import pair_files
from napari_glacier.core.raster import RASTER_SUFFIXES, RasterInfo, read_info
from napari_glacier.core.tiles import BandSource, Tile, band_size_message

_MASK_FOLDERS = ("label", "labels", "mask", "masks")
_SPLITS = ("train", "val", "test")
DESCRIPTION_FILE = "dataset.yaml"


def find_tiles(path: Path) -> tuple[Path, list[Tile]]:
    """Root folder and tiles of a data set, from the headers of its files.

    Raises
    ------
    DataError
        If there are none, or the tiles' files do not fit together.
    """
    tiles = _tiles_of_file(path) if path.is_file() else _tiles_of_folder(path)
    if not tiles:
        raise DataError(
            f"No tiles were found in {path}. A dataset has a folder for each band (B2, B3, B4, B6, B10 or "
            "Band1 to Band5) with TIFFs in it, or five-band TIFFs."
        )
    return _root_of(path if path.is_dir() else path.parent), tiles


def is_dataset(path: Path) -> bool:
    """Whether a folder looks like a data set, from the names of its entries alone."""
    path = Path(path)
    if not path.is_dir():
        return False
    return any(_band_folders(folder) for folder in (path, *_split_folders(path).values())) or bool(
        _rasters(path) and (path / DESCRIPTION_FILE).exists()
    )


def _tiles_of_folder(folder: Path) -> list[Tile]:
    splits = {name: child for name, child in _split_folders(folder).items() if _band_folders(child)}
    if _band_folders(folder):
        return _tiles_of_bands(folder, "all" if folder.name.lower() not in _SPLITS else folder.name.lower())
    if splits:
        return _distinct([tile for name, child in splits.items() for tile in _tiles_of_bands(child, name)])
    if band_of_folder(folder.name) and _rasters(folder):
        raise DataError(f"{folder} holds one band alone. Open the folder above it, {folder.parent}.")
    return [tile for path in _rasters(folder) for tile in _tiles_of_file(path)]


def _distinct(tiles: list[Tile]) -> list[Tile]:
    """Tiles of several splits that share names get their split in front: ``val/001``."""
    names = [tile.id for tile in tiles]
    return [replace(t, id=f"{t.split}/{t.id}") if names.count(t.id) > 1 else t for t in tiles]


def _tiles_of_bands(folder: Path, split: str) -> list[Tile]:
    band_folders = _band_folders(folder)
    files = {band: _rasters(child) for band, child in band_folders.items()}
    if not any(files.values()):
        return []
    files = {band: paths for band, paths in files.items() if paths}
    mask_folder = _mask_folder(folder)
    bands_of_tile, mask_of_tile = pair_files(files, _rasters(mask_folder) if mask_folder.is_dir() else ())
    return [
        _make_tile(
            tile_id,
            split,
            {band: BandSource(p) for band, p in found.items()},
            mask_of_tile.get(tile_id),
            mask_folder,
        )
        for tile_id, found in bands_of_tile.items()
    ]


def _tiles_of_file(path: Path) -> list[Tile]:
    info = read_info(path)
    if info.count == 1 and (band := band_of_folder(path.parent.name)):
        raise BandError(
            f"{path} is band {band} of a tile. Open the folder {path.parent.parent} that holds all the bands."
        )
    if info.count != len(CANONICAL_BANDS):
        raise BandError(
            f"{path} has {info.count} band(s); a tile in one file needs the {len(CANONICAL_BANDS)} bands "
            f"{', '.join(CANONICAL_BANDS)} in this order. Export these bands, or open the folder that holds them."
        )
    sources = {band: BandSource(path, index) for index, band in enumerate(CANONICAL_BANDS)}
    mask_folder = _mask_folder(path.parent)
    masks = _rasters(mask_folder) if mask_folder.is_dir() else []
    mask = next((mask for mask in masks if mask.stem == path.stem), None)
    return [_make_tile(path.stem, "all", sources, mask, mask_folder)]


def _make_tile(tile_id: str, split: str, bands: Mapping[str, BandSource], mask: Path | None, mask_folder: Path) -> Tile:
    ordered = {band: bands[band] for band in CANONICAL_BANDS if band in bands}
    infos: dict[str, RasterInfo] = {}
    by_path: dict[Path, RasterInfo] = {}
    for band, source in ordered.items():
        infos[band] = (
            by_path.setdefault(source.path, read_info(source.path))
            if source.path not in by_path
            else by_path[source.path]
        )
    sizes = {band: (info.height, info.width) for band, info in infos.items()}
    usual = max(set(sizes.values()), key=list(sizes.values()).count)
    for band, size in sizes.items():
        if size != usual:
            raise BandError(band_size_message(tile_id, band, size, usual))
    first = next(iter(infos.values()))
    for band, info in infos.items():
        if first.georef and info.georef and info.georef.transform != first.georef.transform:
            raise BandError(
                f"Band {band} of tile {tile_id} lies elsewhere than its first band ({info.georef.transform} against "
                f"{first.georef.transform}). Re-export the band on the tile's grid."
            )
    first_path = next(iter(ordered.values())).path
    return Tile(
        id=tile_id,
        split=split,
        bands=ordered,
        height=usual[0],
        width=usual[1],
        georef=first.georef,
        mask_path=mask,
        new_mask_path=mask_folder / first_path.name,
        nodata=first.nodata,
    )


def _root_of(folder: Path) -> Path:
    """The folder above a split whose masks lie beside it (``train`` with ``train_masks``), else the folder itself."""
    beside = folder.parent / f"{folder.name}_masks"
    return folder.parent if beside.is_dir() and _band_folders(folder) else folder


def _band_folders(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for child in _children(folder):
        band = band_of_folder(child.name)
        if band is None or not child.is_dir():
            continue
        if band in found:
            raise BandError(f"{found[band]} and {child} both hold band {band}. Keep one of them in the dataset.")
        found[band] = child
    return found


def _split_folders(folder: Path) -> dict[str, Path]:
    children = {child.name.lower(): child for child in _children(folder) if child.is_dir()}
    return {name: children[name] for name in _SPLITS if name in children}


def _mask_folder(folder: Path) -> Path:
    """Where the masks of a folder of bands are, or would go."""
    children = {child.name.lower(): child for child in _children(folder) if child.is_dir()}
    for name in _MASK_FOLDERS:
        if name in children:
            return children[name]
    beside = folder.parent / f"{folder.name}_masks"
    is_split = folder.name.lower() in _SPLITS
    if beside.is_dir() or (is_split and not any(name.startswith("band") for name in children)):
        return beside
    return folder / "label"


def _rasters(folder: Path) -> list[Path]:
    return sorted(p for p in _children(folder) if p.suffix.lower() in RASTER_SUFFIXES and not p.name.startswith("."))


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise RasterError(f"{folder} cannot be read ({error.strerror}). Check the path and its permissions.") from error
