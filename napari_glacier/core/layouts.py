"""Finding the tiles of a folder by its layout.

Layouts that open (tile files are TIFFs; folder names are read without regard to case):

    root/train/B2 … B10   root/train_masks      root/val/B2 …   root/val_masks
    root/Band1 … Band5    root/label | labels | masks | mask
    root/*.tif            every file one tile of five bands
    a single five-band TIFF

A folder called ``Train`` (or ``train``) with such a layout opens by itself, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from napari_glacier.core.bands import CANONICAL_BANDS, band_of_folder
from napari_glacier.core.errors import BandError, DataError, RasterError
from napari_glacier.core.pairing import pair_files
from napari_glacier.core.raster import RASTER_SUFFIXES, read_info
from napari_glacier.core.tiles import BandSource, Tile, band_size_message

_MASK_FOLDERS = ("label", "labels", "mask", "masks")
_SPLITS = ("train", "val", "test")
DESCRIPTION_FILE = "dataset.yaml"


def find_tiles(path: Path) -> tuple[Path, list[Tile], list[Tile]]:
    """Root folder of a data set, all its tiles, and those that `path` asks for.

    A split opened by itself is a part of the data set around it: its tiles keep their ids, and its root (where the
    journal lies) is the same as when the whole is opened.

    Raises
    ------
    DataError
        If there are none, or the tiles' files do not fit together.
    """
    if path.is_file():
        root, everything = path.parent, _tiles_of_rasters(rasters_in(path.parent), [path])
        wanted = everything
    elif _band_folders(path):
        root, everything = _dataset_around(path)
        wanted = [tile for tile in everything if _folder_of(tile) == path]
    else:
        root, everything = _tiles_below(path)
        wanted = everything
    if not wanted:
        raise DataError(
            f"No tiles were found in {path}. A dataset has a folder for each band (B2, B3, B4, B6, B10 or "
            "Band1 to Band5) with TIFFs in it, or five-band TIFFs."
        )
    return root, everything, wanted


def is_dataset(path: Path) -> bool:
    """Whether a folder looks like a data set, from the names of its entries alone."""
    path = Path(path)
    if not path.is_dir():
        return False
    return any(_band_folders(folder) for folder in (path, *_split_folders(path).values())) or bool(
        rasters_in(path) and (path / DESCRIPTION_FILE).exists()
    )


def _dataset_around(folder: Path) -> tuple[Path, list[Tile]]:
    """Root and tiles of the data set that a folder of bands belongs to."""
    name = folder.name.lower()
    beside = _mask_folder(folder).parent == folder.parent
    if name not in _SPLITS:
        return (folder.parent if beside else folder), _tiles_of_bands(folder, "all")
    splits = _splits_with_bands(folder.parent)
    if len(splits) == 1:
        return (folder.parent if beside else folder), _tiles_of_bands(folder, name)
    return folder.parent, _distinct([tile for split, child in splits.items() for tile in _tiles_of_bands(child, split)])


def _tiles_below(folder: Path) -> tuple[Path, list[Tile]]:
    """Root and tiles of a folder that holds no bands itself: splits, or five-band files."""
    splits = _splits_with_bands(folder)
    if splits:
        return _dataset_around(next(iter(splits.values())))
    if band_of_folder(folder.name) and rasters_in(folder):
        raise DataError(f"{folder} holds one band alone. Open the folder above it, {folder.parent}.")
    files = rasters_in(folder)
    return folder, _tiles_of_rasters(files, files)


def _splits_with_bands(folder: Path) -> dict[str, Path]:
    return {name: child for name, child in _split_folders(folder).items() if _band_folders(child)}


def _folder_of(tile: Tile) -> Path:
    return next(iter(tile.bands.values())).path.parent.parent


def _distinct(tiles: list[Tile]) -> list[Tile]:
    """Tiles of several splits that share names get their split in front: ``val/001``."""
    names = [tile.id for tile in tiles]
    return [replace(t, id=f"{t.split}/{t.id}") if names.count(t.id) > 1 else t for t in tiles]


def _tiles_of_bands(folder: Path, split: str) -> list[Tile]:
    band_folders = _band_folders(folder)
    files = {band: rasters_in(child) for band, child in band_folders.items()}
    if not any(files.values()):
        return []
    files = {band: paths for band, paths in files.items() if paths}
    mask_folder = _mask_folder(folder)
    bands_of_tile, mask_of_tile = pair_files(files, rasters_in(mask_folder) if mask_folder.is_dir() else ())
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


def _tiles_of_rasters(files: Sequence[Path], wanted: Sequence[Path]) -> list[Tile]:
    """Five-band files as tiles; masks are paired over all files of the folder."""
    for path in wanted:
        count = read_info(path).count
        if count == 1 and (band := band_of_folder(path.parent.name)):
            raise BandError(
                f"{path} is band {band} of a tile. Open the folder {path.parent.parent} that holds all the bands."
            )
        if count != len(CANONICAL_BANDS):
            raise BandError(
                f"{path} has {count} band(s); a tile in one file needs the {len(CANONICAL_BANDS)} bands "
                f"{', '.join(CANONICAL_BANDS)} in this order. Export these bands, or open the folder that holds them."
            )
    if not wanted:
        return []
    mask_folder = _mask_folder(wanted[0].parent)
    masks = rasters_in(mask_folder) if mask_folder.is_dir() else []
    identities, mask_of = pair_files({"file": files}, masks)
    paired = {found["file"]: mask_of.get(identity) for identity, found in identities.items()}
    return [
        _make_tile(
            path.stem,
            "all",
            {band: BandSource(path, index) for index, band in enumerate(CANONICAL_BANDS)},
            paired[path],
            mask_folder,
        )
        for path in wanted
    ]


def _make_tile(tile_id: str, split: str, bands: Mapping[str, BandSource], mask: Path | None, mask_folder: Path) -> Tile:
    infos = {path: read_info(path) for path in {source.path: None for source in bands.values()}}
    ordered = {
        band: replace(bands[band], nodata=infos[bands[band].path].nodata) for band in CANONICAL_BANDS if band in bands
    }
    sizes = {band: (infos[source.path].height, infos[source.path].width) for band, source in ordered.items()}
    usual = max(set(sizes.values()), key=list(sizes.values()).count)
    for band, size in sizes.items():
        if size != usual:
            raise BandError(band_size_message(tile_id, band, size, usual))
    placed = {band: ref for band, source in ordered.items() if (ref := infos[source.path].georef) is not None}
    georef = next(iter(placed.values()), None)
    for band, ref in placed.items():
        if georef is not None and not ref.same_grid(georef):
            raise BandError(
                f"Band {band} of tile {tile_id} lies elsewhere than its first band ({ref.crs_name} {ref.transform} "
                f"against {georef.crs_name} {georef.transform}). Re-export the band on the tile's grid."
            )
    return Tile(
        id=tile_id,
        split=split,
        bands=ordered,
        height=usual[0],
        width=usual[1],
        georef=georef,
        mask_path=mask,
        new_mask_path=mask_folder / next(iter(ordered.values())).path.name,
    )


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
    around = {child.name.lower(): child for child in _children(folder.parent) if child.is_dir()}
    wanted = f"{folder.name}_masks"
    if wanted.lower() in around:
        return around[wanted.lower()]
    if folder.name.lower() in _SPLITS and not any(name.startswith("band") for name in children):
        return folder.parent / wanted
    return folder / "label"


def rasters_in(folder: Path) -> list[Path]:
    """TIFFs of a folder by name; hidden files (and what macOS leaves beside a file) are passed over."""
    return sorted(p for p in _children(folder) if p.suffix.lower() in RASTER_SUFFIXES and not p.name.startswith("."))


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise RasterError(f"{folder} cannot be read ({error.strerror}). Check the path and its permissions.") from error
