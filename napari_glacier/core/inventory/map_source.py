"""Where class maps come from: a mask file, a folder of masks, or the labels of a data set.

Masks on one grid that touch make one `ClassMap`, so that a glacier on two tiles is one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import plain_identity
from napari_glacier.core.classes import ClassScheme, get_scheme, scheme_of_masks, tagged_scheme
from napari_glacier.core.correction.review_states import journal_states
from napari_glacier.core.correction.reviews import TODO, ReviewDemand, meets
from napari_glacier.core.correction.saving import mask_file
from napari_glacier.core.data.array_layout import arrays_in
from napari_glacier.core.data.dataset import Dataset, is_dataset, open_dataset
from napari_glacier.core.data.joining import SOURCES_FOLDER
from napari_glacier.core.data.layouts import rasters_in
from napari_glacier.core.data.predictions import PROBABILITY_FOLDER, is_of_one_run
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import DataError, SchemeError
from napari_glacier.core.inventory.class_maps import ClassMap, MaskFile, Part
from napari_glacier.core.raster import read_description, read_info, read_mask_codes, read_mask_info, read_raster
from napari_glacier.core.raster.arrays import is_array
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.scenes.products import DATE_TAG

_SPLITS = ("train", "val", "test", "all")
# A map is polygonised in memory.
_MAX_MAP_PX = 40_000 * 40_000


@dataclass(frozen=True, slots=True)
class MapSource:
    """What `open_maps` finds: maps, the scheme of their masks, what a person should know, whether they are labels."""

    maps: tuple[ClassMap, ...]
    scheme: ClassScheme
    notes: tuple[str, ...]
    of_labels: bool = False

    @property
    def masks(self) -> list[MaskFile]:
        """All masks, in the order of the maps."""
        return [part.mask for class_map in self.maps for part in class_map.parts]


def open_maps(
    source: Path, scheme: str | None = None, data: Path | None = None, review: ReviewDemand | None = None
) -> MapSource:
    """Find the masks of a file, a folder of masks or a data set, and lay them on their grids.

    Parameters
    ----------
    source : Path
        A mask, a folder of masks (as `predict` writes it), or a data set, whose labels are taken.
    scheme : str, optional
        Name of the class scheme; else what the masks' tags say, else the data set's, else decided over all masks.
    data : Path, optional
        The data set that the masks belong to: for review states, and for the georeference of masks without one.
    review : "edited" or "approved", optional
        Take only masks of tiles in this review state (approved tiles count as edited, too).

    Raises
    ------
    DataError
        If there is no mask, none in the state asked for, or one has no georeference.
    """
    source = Path(source).expanduser().absolute()
    if not source.exists():
        raise DataError(f"{source} does not exist. Give a mask, a folder of masks, or a dataset.")
    labels = source.is_dir() and is_dataset(source)
    if labels and data is not None and Path(data).expanduser().absolute() != source:
        raise DataError(f"{source} is a dataset itself. Give its masks, or leave out the other dataset ({data}).")
    root = source if labels else data
    dataset = open_dataset(root, scheme) if root is not None else None
    reviews, notes = _reviews(dataset) if dataset is not None else ({}, [])
    if labels:
        assert dataset is not None
        masks = _labels(dataset, reviews)
        notes += [note for note in dataset.warnings if "glacier2" in note]
    else:
        masks = _masks(source, dataset, reviews)
        root_folder = source if source.is_dir() else source.parent
        left_out = sum((root_folder / PROBABILITY_FOLDER / m.relative).is_file() and not m.probabilities for m in masks)
        if left_out:
            notes.append(f"The probabilities beside {left_out} mask(s) are of another prediction: they are left out.")
    if review is not None:
        masks = _in_state(masks, review, source, dataset, notes)
    chosen, note = _scheme(masks, dataset.scheme.name if labels and dataset and dataset.scheme else scheme, dataset)
    maps = tuple(_lay(masks, chosen, source.name if source.is_dir() else source.stem))
    return MapSource(maps, chosen, (*notes, *note, *_shared_places(masks)), labels)


def _shared_places(masks: Sequence[MaskFile]) -> list[str]:
    """What a person should know of masks that lie on one another, as those of two dates do."""
    first_at: dict[Any, MaskFile] = {}
    hidden = [
        (mask, first)
        for mask in masks
        if (first := first_at.setdefault(_place_key(mask.georef, mask.height, mask.width), mask)) is not mask
    ]
    if not hidden:
        return []
    mask, first = hidden[0]
    return [
        f"{len(hidden)} mask(s) lie on the place of others, which count ({mask.relative} on that of {first.relative}). "
        "Give the masks of one date at a time."
    ]


def _in_state(
    masks: list[MaskFile], review: ReviewDemand, source: Path, dataset: Dataset | None, notes: list[str]
) -> list[MaskFile]:
    """Masks of tiles that were reviewed as asked; notes how many were left out."""
    if dataset is None:
        raise DataError(
            f"Which tiles of {source} are {review} is not known: review states are kept with a dataset. Name the one "
            "that the masks belong to with --data, or leave out --review."
        )
    found = [mask for mask in masks if meets(mask.review or TODO, review)]
    if not found:
        raise DataError(
            f"None of the {len(masks)} masks of {source} is of a tile that is {review}. Review tiles in the Correct "
            "widget first, or leave out --review."
        )
    if len(found) < len(masks):
        notes.append(f"{len(masks) - len(found)} of {len(masks)} masks are left out: their tiles are not {review}.")
    return found


def _labels(dataset: Dataset, reviews: Mapping[str, str]) -> list[MaskFile]:
    found = [(tile, path) for tile in dataset.tiles if (path := mask_file(tile)) is not None]
    if not found:
        raise DataError(f"No tile of {dataset.root} has a label. Label some, or give a folder of predicted masks.")
    masks = []
    for tile, path in found:
        info = read_mask_info(path, tile.number)
        if (info.height, info.width) != (tile.height, tile.width):
            raise DataError(
                f"The mask of tile {tile.id} is {info.height} x {info.width}, its bands are {tile.height} x "
                f"{tile.width} ({path}). Re-export the mask on the tile's grid."
            )
        georef = _need_georef(tile.georef or info.georef, path)
        relative = path.relative_to(dataset.root) if path.is_relative_to(dataset.root) else Path(path.name)
        tags = _dated(read_description(path), tile)
        review = reviews.get(tile.id, "")
        days = partial(_days_of_tile, dataset, tile) if tile.parts else None
        masks.append(
            MaskFile(
                tile.id,
                path,
                relative,
                tile.height,
                tile.width,
                georef,
                tags,
                review=review,
                split=tile.split,
                days=days,
                number=tile.number,
            )
        )
    return masks


def masks_in(folder: Path) -> list[Path]:
    """Masks in a folder as `predict` writes it: those of tiles of one name lie in folders of their splits.

    Raises
    ------
    DataError
        If there is none.
    """
    folders = [folder, *(folder / split for split in _SPLITS if (folder / split).is_dir())]
    paths = [path for one in folders for path in rasters_in(one)]
    if not paths and arrays_in(folder):
        refuse_array(arrays_in(folder)[0])
    if not paths:
        raise DataError(f"{folder} holds no mask (no TIFF). Give a mask, a folder of masks, or a dataset.")
    return paths


def refuse_array(path: Path) -> None:
    """Raise `DataError` for a NumPy file by itself."""
    if is_array(path):
        raise DataError(
            f"{path} is a NumPy file, which does not say where on Earth it lies. Give GeoTIFFs, or the dataset whose "
            "labels these are (the folder that holds images and masks)."
        )


def _masks(source: Path, dataset: Dataset | None, reviews: Mapping[str, str]) -> list[MaskFile]:
    refuse_array(source)
    if source.is_file():
        root, paths = source.parent, [source]
    else:
        root, paths = source, masks_in(source)
    tiles_at: dict[Any, list[Tile]] = {}
    for placed in dataset.tiles if dataset else ():
        if placed.georef:
            tiles_at.setdefault(_place_key(placed.georef, placed.height, placed.width), []).append(placed)
    tiles_named: dict[str, list[Tile]] = {}
    for named in dataset.tiles if dataset else ():
        tiles_named.setdefault(plain_identity(Path(named.name).stem), []).append(named)
    masks = []
    for path in paths:
        info, tags = read_info(path), read_description(path)
        if info.count != 1:
            raise SchemeError(f"{path} has {info.count} bands; a mask has one band of class codes.")
        tile = _tile_of(path, tags, tiles_named.get(plain_identity(path.stem), ()))
        if info.georef is not None:
            tile = _tile_of(path, tags, tiles_at.get(_place_key(info.georef, info.height, info.width), ()))
        elif tile is not None and (tile.height, tile.width) != (info.height, info.width):
            tile = None
        georef = _need_georef(info.georef or (tile.georef if tile else None), path)
        relative = path.relative_to(root)
        measured, sources = root / PROBABILITY_FOLDER / relative, root / SOURCES_FOLDER / relative
        masks.append(
            MaskFile(
                id=tile.id if tile else tags.get("tile") or plain_identity(path.stem) or path.stem,
                path=path,
                relative=relative,
                height=info.height,
                width=info.width,
                georef=georef,
                tags=_dated(tags, tile),
                probabilities=measured if measured.is_file() and is_of_one_run(tags, measured) else None,
                review=reviews.get(tile.id, "") if tile else "",
                split=tile.split if tile else "",
                days=partial(_days_of_file, sources) if sources.is_file() and is_of_one_run(tags, sources) else None,
            )
        )
    return masks


def _tile_of(path: Path, tags: Mapping[str, str], tiles: Sequence[Tile]) -> Tile | None:
    """The one of several tiles that a mask is of, as its tags, its name or its folder (a split) tell; else None.

    Scenes of two dates lie on one place, and tiles of two splits may have one name.
    """
    found = list(tiles)
    for fits in (
        lambda tile: tags.get("tile") == tile.id,
        lambda tile: plain_identity(Path(tile.name).stem) == plain_identity(path.stem),
        lambda tile: tile.split == path.parent.name,
    ):
        if len(found) > 1:
            found = [tile for tile in found if fits(tile)] or found
    return found[0] if len(found) == 1 else None


def _days_of_tile(dataset: Dataset, tile: Tile) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    days = tuple(part.tile.product.date if part.tile.product is not None else "" for part in tile.parts)
    return dataset.read_sources(tile), days


def _days_of_file(path: Path) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """What `predict` writes beside the mask of a mosaic of scenes."""
    tags = read_description(path)
    days = tuple(tags.get(f"date_{number}", "") for number in range(sum(name.startswith("scene_") for name in tags)))
    return np.asarray(read_raster(path)[0], np.uint8), days


def _dated(tags: Mapping[str, str], tile: Tile | None) -> Mapping[str, str]:
    """A mask's tags with the day of its scene, unless they tell it themselves."""
    date = tile.product.date if tile is not None and tile.product is not None else ""
    return {DATE_TAG: date, **tags} if date else tags


def _need_georef(georef: GeoRef | None, path: Path) -> GeoRef:
    if georef is None and is_array(path):
        raise DataError(
            f"{path} is a NumPy file, and no slices.csv says where its tile lies, so how large its classes are is not "
            "known. Prepare the tiles again (napari-glacier prepare hkh), which writes it, or give GeoTIFFs."
        )
    if georef is None:
        raise DataError(
            f"{path} has no georeference, so where its outlines lie and how large they are is not known. Give masks "
            "with one, or name the dataset whose tiles have it with --data."
        )
    return georef


def _reviews(dataset: Dataset) -> tuple[dict[str, str], list[str]]:
    """Review states of the tiles, from the journal where there is one, and what a person should know of it."""
    reviews, unsaved = journal_states(dataset)
    notes = []
    if unsaved:
        notes.append(
            f"{len(unsaved)} tile(s) have strokes that are not saved ({', '.join(unsaved[:5])}): masks are taken as "
            "they are on disk. Save in the Correct widget first to have them."
        )
    return reviews, notes


def _scheme(
    masks: Sequence[MaskFile], name: str | None, dataset: Dataset | None
) -> tuple[ClassScheme, tuple[str, ...]]:
    if name is not None:
        return get_scheme(name), ()
    tagged = tagged_scheme(mask.tags for mask in masks)
    if tagged is not None:
        return tagged, ()
    if dataset is not None and dataset.scheme is not None:
        return dataset.scheme, ()
    values: dict[float, Path] = {}
    for mask in masks:
        for value in np.unique(read_mask_codes(mask.path, mask.number)).tolist():
            values.setdefault(float(value), mask.path)
    return scheme_of_masks(values, "map")


def _lay(masks: Sequence[MaskFile], scheme: ClassScheme, name: str) -> Iterable[ClassMap]:
    """Masks that lie on one grid and touch, as maps."""
    grids: list[list[tuple[MaskFile, int, int]]] = []
    for mask in masks:
        for grid in grids:
            position = grid[0][0].georef.position_of(mask.georef)
            if position is not None:
                grid.append((mask, *position))
                break
        else:
            grids.append([(mask, 0, 0)])
    clusters = [cluster for grid in grids for cluster in _touching(grid)]
    for number, cluster in enumerate(clusters, 1):
        top, left = min(row for _, row, _ in cluster), min(col for _, _, col in cluster)
        first, row, col = cluster[0]
        parts = tuple(Part(mask, r - top, c - left) for mask, r, c in cluster)
        own_name = first.id if len(cluster) == 1 else name if len(clusters) == 1 else f"{name}-{number}"
        laid = ClassMap(own_name, scheme, first.georef.offset(top - row, left - col), parts)
        if laid.shape[0] * laid.shape[1] > _MAX_MAP_PX:
            raise DataError(
                f"The masks of {name} that touch make a raster of {laid.shape[0]} x {laid.shape[1]} pixels, which is "
                "too large to be outlined in one piece. Give them in parts."
            )
        yield laid


def _touching(grid: Sequence[tuple[MaskFile, int, int]]) -> list[list[tuple[MaskFile, int, int]]]:
    import shapely
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    boxes = shapely.box(*np.array([(c, r, c + m.width, r + m.height) for m, r, c in grid], float).T)
    first, second = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(grid), len(grid)))
    count, cluster_of = connected_components(links, directed=False)
    clusters: list[list[tuple[MaskFile, int, int]]] = [[] for _ in range(count)]
    for item, cluster in zip(grid, cluster_of, strict=True):
        clusters[cluster].append(item)
    return clusters


def _place_key(georef: GeoRef | None, height: int, width: int) -> Any:
    assert georef is not None
    row, col = georef.pixel_of(0.0, 0.0)
    return georef.crs_key, height, width, round(row), round(col)
