"""Class maps to take outlines and areas from: masks that abut, seen as one raster.

A mask may be a file, one of a folder of masks, or the label of a tile of a data set. Masks on one grid that touch
make one `ClassMap`, so that a glacier on two tiles is one; where masks overlap, a pixel takes the class that the
mask gives it in which it lies further from the edge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import plain_identity
from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme, get_scheme, scheme_of_masks, tagged_scheme
from napari_glacier.core.correction.review_states import journal_states
from napari_glacier.core.correction.reviews import TODO, ReviewDemand, meets
from napari_glacier.core.correction.saving import mask_file
from napari_glacier.core.data.dataset import Dataset, is_dataset, open_dataset
from napari_glacier.core.data.layouts import rasters_in
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import DataError, SchemeError
from napari_glacier.core.raster import read_description, read_info, read_mask_codes, read_raster
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.scenes.products import DATE_TAG

PROBABILITY_FOLDER = "probabilities"
_SPLITS = ("train", "val", "test", "all")
# A map is polygonised in memory.
_MAX_MAP_PX = 40_000 * 40_000


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask and what is known of it.

    Attributes
    ----------
    id : str
        The tile's, where the file or the data set states it; else what is left of the file's name.
    relative : Path
        Its path below the folder it was found in.
    tags : mapping of str to str
        The file's GDAL metadata items.
    probabilities : Path or None
        Raster of class probabilities that was predicted with it.
    review : str
        Review state of its tile; empty where no data set is given.
    split : str
    """

    id: str
    path: Path
    relative: Path
    height: int
    width: int
    georef: GeoRef
    tags: Mapping[str, str]
    probabilities: Path | None = None
    review: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A mask and the position of its first pixel in the map."""

    mask: MaskFile
    row: int
    col: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the map that the mask covers."""
        return slice(self.row, self.row + self.mask.height), slice(self.col, self.col + self.mask.width)


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Masks on one grid that touch, as one raster."""

    name: str
    scheme: ClassScheme
    georef: GeoRef
    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (
            max(part.row + part.mask.height for part in self.parts),
            max(part.col + part.mask.width for part in self.parts),
        )

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Class indices, and the number of the part that gave each pixel (-1 in gaps), both of shape (H, W).

        Raises
        ------
        SchemeError
            If a mask holds a value outside the scheme.
        """
        owner_HW = self._owners()
        index_HW = np.zeros(self.shape, np.uint8)
        for number, part in enumerate(self.parts):
            codes_HW = read_mask_codes(part.mask.path)
            decoded_HW = self.scheme.decode(codes_HW, source=str(part.mask.path))
            own_HW = owner_HW[part.slices] == number
            index_HW[part.slices][own_HW] = decoded_HW[own_HW]
        return index_HW, owner_HW

    @property
    def has_probabilities(self) -> bool:
        """Whether every mask has its raster of probabilities."""
        return all(part.mask.probabilities is not None for part in self.parts)

    def read_probability(
        self, classes: Sequence[int], owner_HW: npt.NDArray[np.int32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Probability that a pixel is of one of the classes, shape (H, W); nan on nodata and in gaps.

        Raises
        ------
        DataError
            If a raster of probabilities is missing, or has another size or number of bands.
        """
        owner_HW = self._owners() if owner_HW is None else owner_HW
        total_HW = np.full(self.shape, np.nan, np.float32)
        for number, part in enumerate(self.parts):
            own_HW = owner_HW[part.slices] == number
            total_HW[part.slices][own_HW] = self._probability_of(part.mask, classes)[own_HW]
        return total_HW

    def read_other(self, masks: Iterable[MaskFile], scheme: ClassScheme) -> npt.NDArray[np.uint8]:
        """Class indices of other masks (labels) on this map's grid, shape (H, W); `IGNORE_INDEX` where there is none.

        Masks on another grid are left out.
        """
        height, width = self.shape
        index_HW = np.full(self.shape, IGNORE_INDEX, np.uint8)
        for mask in masks:
            position = _position(self.georef, mask.georef)
            if position is None:
                continue
            row, col = position
            top, left = max(row, 0), max(col, 0)
            bottom, right = min(row + mask.height, height), min(col + mask.width, width)
            if top >= bottom or left >= right:
                continue
            decoded_HW = scheme.decode(read_mask_codes(mask.path), source=str(mask.path))
            index_HW[top:bottom, left:right] = decoded_HW[top - row : bottom - row, left - col : right - col]
        return index_HW

    def _probability_of(self, mask: MaskFile, classes: Sequence[int]) -> npt.NDArray[np.float32]:
        if mask.probabilities is None:
            raise DataError(f"{mask.path} has no probabilities beside it. Predict with --probabilities.")
        raster = read_raster(mask.probabilities)
        if raster.shape != (self.scheme.num_classes, mask.height, mask.width):
            raise DataError(
                f"{mask.probabilities} has the shape {raster.shape}; {self.scheme.num_classes} bands (a class each) of "
                f"{mask.height} x {mask.width} are needed. Predict again with --probabilities."
            )
        return np.asarray(raster[list(classes)].sum(axis=0), np.float32)

    def _owners(self) -> npt.NDArray[np.int32]:
        owner_HW = np.full(self.shape, -1, np.int32)
        depth_HW = np.zeros(self.shape, np.uint16)
        for number, part in enumerate(self.parts):
            depth = _depth(part.mask.height, part.mask.width)
            deeper = depth > depth_HW[part.slices]
            owner_HW[part.slices][deeper] = number
            depth_HW[part.slices][deeper] = depth[deeper]
        return owner_HW


@dataclass(frozen=True, slots=True)
class MapSource:
    """What `open_maps` finds: the maps, the scheme of their masks, and what a person should know."""

    maps: tuple[ClassMap, ...]
    scheme: ClassScheme
    notes: tuple[str, ...]

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
    return MapSource(maps, chosen, (*notes, *note))


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
        info = read_info(path)
        if (info.height, info.width) != (tile.height, tile.width):
            raise DataError(
                f"The mask of tile {tile.id} is {info.height} x {info.width}, its bands are {tile.height} x "
                f"{tile.width} ({path}). Re-export the mask on the tile's grid."
            )
        georef = _need_georef(tile.georef or info.georef, path)
        relative = path.relative_to(dataset.root) if path.is_relative_to(dataset.root) else Path(path.name)
        tags = _dated(read_description(path) if path.suffix.lower() != ".png" else {}, tile)
        review = reviews.get(tile.id, "")
        masks.append(MaskFile(tile.id, path, relative, tile.height, tile.width, georef, tags, None, review, tile.split))
    return masks


def _masks(source: Path, dataset: Dataset | None, reviews: Mapping[str, str]) -> list[MaskFile]:
    if source.is_file():
        root, paths = source.parent, [source]
    else:
        root = source
        folders = [source, *(source / split for split in _SPLITS if (source / split).is_dir())]
        paths = [path for folder in folders for path in rasters_in(folder)]
    if not paths:
        raise DataError(f"{source} holds no mask (no TIFF). Give a mask, a folder of masks, or a dataset.")
    tile_at = {_place_key(t.georef, t.height, t.width): t for t in dataset.tiles if t.georef} if dataset else {}
    tile_named = {plain_identity(Path(t.name).stem): t for t in dataset.tiles} if dataset else {}
    masks = []
    for path in paths:
        info, tags = read_info(path), read_description(path)
        if info.count != 1:
            raise SchemeError(f"{path} has {info.count} bands; a mask has one band of class codes.")
        tile = tile_named.get(plain_identity(path.stem))
        if info.georef is not None:
            tile = tile_at.get(_place_key(info.georef, info.height, info.width))
        elif tile is not None and (tile.height, tile.width) != (info.height, info.width):
            tile = None
        georef = _need_georef(info.georef or (tile.georef if tile else None), path)
        relative = path.relative_to(root)
        measured = root / PROBABILITY_FOLDER / relative
        masks.append(
            MaskFile(
                id=tile.id if tile else tags.get("tile") or plain_identity(path.stem) or path.stem,
                path=path,
                relative=relative,
                height=info.height,
                width=info.width,
                georef=georef,
                tags=_dated(tags, tile),
                probabilities=measured if measured.is_file() and _of_one_run(tags, measured) else None,
                review=reviews.get(tile.id, "") if tile else "",
                split=tile.split if tile else "",
            )
        )
    return masks


def _dated(tags: Mapping[str, str], tile: Tile | None) -> Mapping[str, str]:
    """A mask's tags with the day of its scene, unless they tell it themselves."""
    date = tile.product.date if tile is not None and tile.product is not None else ""
    return {DATE_TAG: date, **tags} if date else tags


def _of_one_run(tags: Mapping[str, str], measured: Path) -> bool:
    """Whether probabilities are those of a mask: a later run without any leaves those of an earlier one behind."""
    own = tags.get("fingerprint")
    return not own or read_description(measured).get("fingerprint", own) == own


def _need_georef(georef: GeoRef | None, path: Path) -> GeoRef:
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
        for value in np.unique(read_mask_codes(mask.path)).tolist():
            values.setdefault(float(value), mask.path)
    return scheme_of_masks(values, "map")


def _lay(masks: Sequence[MaskFile], scheme: ClassScheme, name: str) -> Iterable[ClassMap]:
    """Masks that lie on one grid and touch, as maps."""
    grids: list[list[tuple[MaskFile, int, int]]] = []
    for mask in masks:
        for grid in grids:
            position = _position(grid[0][0].georef, mask.georef)
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


def _position(reference: GeoRef, other: GeoRef) -> tuple[int, int] | None:
    """Row and column of another raster's first pixel on the reference's grid, or None where it is on another grid."""
    if other.crs_key != reference.crs_key or not other.same_pixels(reference):
        return None
    row, col = reference.pixel_of(other.transform[2], other.transform[5])
    # A hundredth of a pixel is rounding; more is another grid.
    if abs(row - round(row)) > 0.01 or abs(col - round(col)) > 0.01:
        return None
    return round(row), round(col)


def _place_key(georef: GeoRef | None, height: int, width: int) -> Any:
    assert georef is not None
    a, _, c, _, e, f = georef.transform
    return georef.crs_key, height, width, round(c / a), round(f / e)


def _depth(height: int, width: int) -> npt.NDArray[np.uint16]:
    """How many pixels a pixel lies from the nearest edge, from 1 on."""
    rows = np.minimum(np.arange(1, height + 1), np.arange(height, 0, -1))
    cols = np.minimum(np.arange(1, width + 1), np.arange(width, 0, -1))
    return np.minimum(rows[:, None], cols[None, :]).clip(max=65535).astype(np.uint16)
