"""Finding the tiles of a folder by its layout.

Layouts that open (folder names are read without regard to case; tile files are TIFFs, pictures PNGs):

    root/train/B2 … B10   root/train_masks      root/val/B2 …   root/val_masks
    root/Band1 … Band5    root/label | labels | masks | mask
    root/*.tif            every file one tile of five bands
    a single five-band TIFF
    root/train/images   root/train/masks   root/test/images      root/images   root/masks   (pictures)
    the same of NumPy files, with root/train_ids.txt and root/val_ids.txt (see `array_layout`)
    a Landsat or Sentinel-2 scene: its folder, tar file or metadata file; a folder of such (see `scenes`)

Beside the folders of bands, ``elevation`` (or ``dem``) and ``slope`` may lie, for all tiles or for some.
A folder called ``Train`` (or ``train``) with such a layout opens by itself, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from napari_glacier.core.bands import CANONICAL_BANDS, PICTURE_BANDS, TERRAIN_BANDS, band_of_folder
from napari_glacier.core.data.array_layout import arrays_in, tiles_of_arrays
from napari_glacier.core.data.pairing import pair_extras, pair_files
from napari_glacier.core.data.tile_files import damaged_so_far, info_of, make_tile
from napari_glacier.core.data.tiles import BandSource, Tile
from napari_glacier.core.errors import BandError, DataError, PairingError, RasterError
from napari_glacier.core.raster import RASTER_SUFFIXES, read_description
from napari_glacier.core.raster.archives import is_archive
from napari_glacier.core.raster.arrays import is_array
from napari_glacier.core.raster.png import PNG_SUFFIXES, is_png
from napari_glacier.core.scenes.finding import FoundScene, find_scenes, metadata_folder, names_a_scene

_MASK_FOLDERS = ("label", "labels", "mask", "masks")
_SPLITS = ("train", "val", "test")
_PICTURE_FOLDER = "images"
DESCRIPTION_FILE = "dataset.yaml"
# Beside maps that were predicted here: how they were made.
PROVENANCE_FILE = "provenance.jsonl"


def find_tiles(path: Path) -> tuple[Path, list[Tile], list[Tile]]:
    """Root folder of a data set, all its tiles, and those that `path` asks for.

    A split opened by itself is a part of the data set around it: its tiles keep their ids, and its root (where the
    journal lies) is the same as when the whole is opened.

    Raises
    ------
    DataError
        If there are none, or the tiles' files do not fit together.
    """
    path = metadata_folder(path) or path
    if (path.is_file() or not _holds_tiles(path)) and (scenes := find_scenes(path, damaged_so_far())):
        tiles = [_tile_of_scene(scene) for scene in scenes]
        return (scenes[0].folder if len(scenes) == 1 else path), tiles, tiles
    if path.is_file() and is_png(path):
        raise DataError(f"{path} is one picture. Open the folder above its folder, {path.parent.parent}.")
    if path.is_file() and is_array(path):
        raise DataError(f"{path} is one NumPy file. Open the folder above its folder, {path.parent.parent}.")
    if path.is_file():
        root, everything = path.parent, _tiles_of_rasters(rasters_in(path.parent), [path])
        wanted = everything
    elif _holds_tiles(path):
        root, everything = _dataset_around(path)
        wanted = [tile for tile in everything if _folder_of(tile) == path]
    else:
        root, everything = _tiles_below(path)
        wanted = everything
    if not wanted:
        raise DataError(
            f"No tiles were found in {path}. A dataset has a folder for each band (B2, B3, B4, B6, B10 or "
            "Band1 to Band5) with TIFFs in it, or five-band TIFFs, or a folder images with PNGs or NumPy files in it; "
            "a scene has the names of its maker (LC08_…_B2.TIF, …_B02.jp2)."
        )
    return root, everything, wanted


def is_dataset(path: Path) -> bool:
    """Whether a folder looks like a data set, from the names of its entries alone."""
    path = Path(path)
    if not path.is_dir():
        return (
            path.is_file()
            and (is_archive(path) or metadata_folder(path) is not None)
            and names_a_scene(metadata_folder(path) or path)
        )
    for folder in (path, *_split_folders(path).values()):
        # Folders of PNGs alone are anyone's pictures; with masks beside them they are ours.
        if _band_folders(folder) or (_images_folder(folder) and label_folder(folder).is_dir()):
            return True
    return bool(rasters_in(path) and (path / DESCRIPTION_FILE).exists()) or names_a_scene(path)


def _dataset_around(folder: Path) -> tuple[Path, list[Tile]]:
    """Root and tiles of the data set that a folder of bands (or of pictures and masks) belongs to."""
    name = folder.name.lower()
    beside = label_folder(folder).parent == folder.parent
    if name not in _SPLITS:
        return (folder.parent if beside else folder), _tiles_in(folder, "all")
    splits = _splits_with_tiles(folder.parent)
    if len(splits) == 1:
        return (folder.parent if beside else folder), _tiles_in(folder, name)
    return folder.parent, _distinct([tile for split, child in splits.items() for tile in _tiles_in(child, split)])


def _tiles_below(folder: Path) -> tuple[Path, list[Tile]]:
    """Root and tiles of a folder that holds no bands itself: splits, or five-band files."""
    splits = _splits_with_tiles(folder)
    if splits:
        return _dataset_around(next(iter(splits.values())))
    if band_of_folder(folder.name) and rasters_in(folder):
        raise DataError(f"{folder} holds one band alone. Open the folder above it, {folder.parent}.")
    if folder.name.lower() == _PICTURE_FOLDER and pictures_in(folder):
        raise DataError(f"{folder} holds pictures alone. Open the folder above it, {folder.parent}.")
    files = rasters_in(folder)
    return folder, _tiles_of_rasters(files, files)


def unpaired_terrain(tiles: Sequence[Tile]) -> tuple[str, ...]:
    """Say which folders of elevation or slope hold no file of any tile, and the mend."""
    said = []
    beside = [tile for tile in tiles if not tile.is_picture and tile.product is None]
    for folder in dict.fromkeys(map(_folder_of, beside)):
        paired = {band for tile in beside if _folder_of(tile) == folder for band in tile.bands}
        for band, child in _band_folders(folder).items():
            files = rasters_in(child) if band in TERRAIN_BANDS and band not in paired else []
            if files:
                said.append(
                    f"{child} holds {len(files)} TIFF(s), none of them of a tile ({files[0].name}); {band} is not "
                    f"read. Cut it along the tiles, and name the files after them, as in {band}_02_07.tif."
                )
    return tuple(said)


def _splits_with_tiles(folder: Path) -> dict[str, Path]:
    return {name: child for name, child in _split_folders(folder).items() if _holds_tiles(child)}


def _holds_tiles(folder: Path) -> bool:
    return bool(_band_folders(folder)) or _images_folder(folder) is not None


def _tiles_in(folder: Path, split: str) -> list[Tile]:
    images = _images_folder(folder)
    if images is None:
        return _tiles_of_bands(folder, split)
    if pictures_in(images):
        return _tiles_of_pictures(folder, images, split)
    masks = label_folder(folder)
    beside = folder.parent if split in _SPLITS else folder
    drawn = rasters_in(masks) if masks.is_dir() else []
    return tiles_of_arrays(folder, images, masks, split=split, drawn=drawn, description=beside / DESCRIPTION_FILE)


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
    terrain = {band: files.pop(band) for band in TERRAIN_BANDS if band in files}
    if not files:
        return []
    mask_folder = label_folder(folder)
    bands_of_tile, mask_of_tile = pair_files(files, rasters_in(mask_folder) if mask_folder.is_dir() else ())
    first_file = {tile_id: next(iter(found.values())) for tile_id, found in bands_of_tile.items()}
    for band, paths in terrain.items():
        for tile_id, path in pair_extras(first_file, paths).items():
            bands_of_tile[tile_id][band] = path
    return [
        make_tile(
            tile_id,
            split,
            {band: BandSource(p) for band, p in found.items()},
            mask_of_tile.get(tile_id),
            mask_folder,
        )
        for tile_id, found in bands_of_tile.items()
    ]


def _tiles_of_pictures(folder: Path, pictures: Path, split: str) -> list[Tile]:
    mask_folder = label_folder(folder)
    # Masks that are drawn here become TIFFs.
    masks = pictures_in(mask_folder) + rasters_in(mask_folder) if mask_folder.is_dir() else []
    files, mask_of_tile = pair_files({_PICTURE_FOLDER: pictures_in(pictures)}, masks)
    return [
        make_tile(tile_id, split, _picture_bands(found[_PICTURE_FOLDER]), mask_of_tile.get(tile_id), mask_folder)
        for tile_id, found in files.items()
    ]


def _picture_bands(path: Path) -> dict[str, BandSource]:
    """A picture of one plane serves every colour; one of three gives grey by its mean."""
    if info_of(path).count == 1:
        return {band: BandSource(path) for band in PICTURE_BANDS}
    return {"grey": BandSource(path, None)} | {
        band: BandSource(path, index) for index, band in enumerate(("red", "green", "blue"))
    }


def _tiles_of_rasters(files: Sequence[Path], wanted: Sequence[Path]) -> list[Tile]:
    """Five-band files as tiles; masks are paired over all files of the folder."""
    for path in wanted:
        count = info_of(path).count
        if count == 1 and (band := band_of_folder(path.parent.name)):
            raise BandError(
                f"{path} is band {band} of a tile. Open the folder {path.parent.parent} that holds all the bands."
            )
        if count == 1 and names_a_scene(path.parent):
            raise BandError(f"{path} is one file of a scene. Open the scene's folder, {path.parent}.")
        if count == 1 and "made_by" in read_description(path):
            raise BandError(
                f"{path} is a mask that this program wrote, and has no bands. Open the data set that it was made of."
            )
        if count != len(CANONICAL_BANDS):
            raise BandError(
                f"{path} has {count} band(s); a tile in one file needs the {len(CANONICAL_BANDS)} bands "
                f"{', '.join(CANONICAL_BANDS)} in this order. Export these bands, or open the folder that holds them."
            )
    if not wanted:
        return []
    mask_folder = label_folder(wanted[0].parent)
    masks = rasters_in(mask_folder) if mask_folder.is_dir() else []
    identities, mask_of = pair_files({"file": files}, masks)
    paired = {found["file"]: mask_of.get(identity) for identity, found in identities.items()}
    return [
        make_tile(
            path.stem,
            "all",
            {band: BandSource(path, index) for index, band in enumerate(CANONICAL_BANDS)},
            paired.get(path),
            mask_folder,
        )
        for path in wanted
    ]


def _tile_of_scene(scene: FoundScene) -> Tile:
    product = scene.product
    # Beside an archive the folder is made when the first labels are saved.
    mask_folder = label_folder(scene.folder) if scene.folder.is_dir() else scene.folder / "label"
    bands = {band: replace(source, zoom=scene.zooms[band]) for band, source in scene.files.bands.items()}
    tile = make_tile(product.name, "all", bands, None, mask_folder)
    masks = rasters_in(mask_folder) if mask_folder.is_dir() else []
    mask = next((path for path in masks if path.name == tile.new_mask_path.name), None)
    if mask is None and len(masks) == 1:
        mask = masks[0]
    elif mask is None and masks:
        raise PairingError(
            f"{mask_folder} holds {len(masks)} TIFFs and none is called {tile.new_mask_path.name}. "
            "Give the mask of the scene this name."
        )
    ordered = {band: _with_nodata(source, bands[band].nodata) for band, source in tile.bands.items()}
    return replace(tile, bands=ordered, georef=scene.georef, mask_path=mask, product=product)


def _with_nodata(source: BandSource, usual: float | None) -> BandSource:
    """The nodata value that the file states counts; where it has none, that of the product does."""
    return source if source.nodata is not None else replace(source, nodata=usual)


def _band_folders(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for child in _children(folder):
        band = band_of_folder(child.name)
        if band is None or not child.is_dir():
            continue
        if band in found:
            raise BandError(f"{found[band]} and {child} both hold band {band}. Keep one of them in the dataset.")
        found[band] = child
    # Terrain alone makes no tile.
    return {} if set(found) <= set(TERRAIN_BANDS) else found


def _images_folder(folder: Path) -> Path | None:
    """Where a folder's pictures or NumPy files are; None where it has other tiles, beside which quick looks may lie."""
    folders = (folder, *_split_folders(folder).values())
    if any(_band_folders(child) for child in folders) or rasters_in(folder):
        return None
    named = [child for child in _children(folder) if child.name.lower() == _PICTURE_FOLDER and child.is_dir()]
    return next((child for child in named if pictures_in(child) or arrays_in(child)), None)


def _split_folders(folder: Path) -> dict[str, Path]:
    children = {child.name.lower(): child for child in _children(folder) if child.is_dir()}
    return {name: children[name] for name in _SPLITS if name in children}


def label_folder(folder: Path) -> Path:
    """Where the masks of a folder of bands, or of pictures, are or would go."""
    children = {child.name.lower(): child for child in _children(folder) if child.is_dir()}
    for name in _MASK_FOLDERS:
        if name in children:
            return children[name]
    around = {child.name.lower(): child for child in _children(folder.parent) if child.is_dir()}
    wanted = f"{folder.name}_masks"
    if wanted.lower() in around:
        return around[wanted.lower()]
    if _images_folder(folder) is not None:
        return folder / "masks"
    if folder.name.lower() in _SPLITS and not any(name.startswith("band") for name in children):
        return folder.parent / wanted
    return folder / "label"


def rasters_in(folder: Path) -> list[Path]:
    """TIFFs of a folder by name; hidden files (and what macOS leaves beside a file) are passed over."""
    return sorted(p for p in _children(folder) if p.suffix.lower() in RASTER_SUFFIXES and not p.name.startswith("."))


def pictures_in(folder: Path) -> list[Path]:
    """PNGs of a folder by name, without hidden files."""
    return sorted(p for p in _children(folder) if p.suffix.lower() in PNG_SUFFIXES and not p.name.startswith("."))


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise RasterError(f"{folder} cannot be read ({error.strerror}). Check the path and its permissions.") from error
