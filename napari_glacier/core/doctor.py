"""The doctor: what is wrong with a data set, before anything is trained or predicted on it."""

import hashlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.band_order import SATURATED_FROM, Evidence, evidence, mistaken_bands, mistaken_visible, said
from napari_glacier.core.bands import CANONICAL_BANDS, TERRAIN_BANDS, band_of_folder
from napari_glacier.core.classes import SCHEMES
from napari_glacier.core.data.dataset import Dataset, Tile, missing_band_warnings, open_dataset
from napari_glacier.core.data.description import described_scheme
from napari_glacier.core.data.layouts import PROVENANCE_FILE, rasters_in
from napari_glacier.core.data.leakage import buffer_for, find_leaks
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.data.statistics import PooledStatistics
from napari_glacier.core.errors import DataError, GlacierError, SchemeError
from napari_glacier.core.findings import Diagnosis, Examined, Finding, damaged_findings
from napari_glacier.core.raster import read_info, read_raster

# Largest value of whole numbers of few bits; others saturate as 16-bit digital numbers do.
_LARGEST = {"uint8": 255, "int16": 32_767}
_MUCH_SATURATED, _MUCH_NODATA = 0.2, 0.95


def examine(path: Path, scheme: str | None = None) -> Diagnosis:
    """Read a whole data set and report what is wrong with it; never raises for the data's faults.

    Every band and mask is decoded, so a file that is cut short or holds an unknown code is found.
    """
    steps = examine_by_tile(path, scheme)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            diagnosis: Diagnosis = end.value
            return diagnosis


def examine_by_tile(path: Path, scheme: str | None = None) -> Generator[Examined, None, Diagnosis]:
    """The same tile by tile, for a progress bar and to be closed in between; returns the diagnosis."""
    findings: list[Finding] = []
    try:
        dataset = _open(path, scheme, findings)
    except GlacierError as error:
        return Diagnosis(Path(path), (Finding.of(error),), {})
    findings += [Finding("info" if text in dataset.assumed else "warning", None, text) for text in dataset.warnings]
    findings += damaged_findings(dataset.damaged)
    census = _Census()
    yield Examined(0, len(dataset.tiles), tuple(findings))
    for number, tile in enumerate(dataset.tiles, 1):
        own: list[Finding] = []
        try:
            own += _examine_tile(dataset, tile, census)
        except DataError as error:
            own.append(Finding.of(error, tile.id))
        findings += own
        yield Examined(number, len(dataset.tiles), tuple(own))
    findings += _examine_unlabelled(dataset)
    findings += _examine_nodata(census)
    findings += _examine_order(census)
    findings += _examine_copies(dataset, census)
    findings += _examine_terrain(dataset)
    findings += _examine_grid(dataset)
    findings += _examine_splits(dataset)
    absent = [
        name for k, name in enumerate(dataset.scheme.class_names if dataset.scheme else ()) if not census.classes[k]
    ]
    if census.classes and absent:
        findings.append(
            Finding("info", None, f"No valid pixel is {' or '.join(absent)}; absent classes are not counted.")
        )
    return Diagnosis(dataset.root, tuple(findings), _summary(dataset, census), census.statistics)


@dataclass(slots=True)
class _Census:
    """What is counted over all tiles."""

    pixels: int = 0
    valid_pixels: int = 0
    saturated: Counter[str] = field(default_factory=Counter)
    classes: Counter[int] = field(default_factory=Counter)
    statistics: dict[str, PooledStatistics] = field(default_factory=dict)
    seen: dict[str, Evidence] = field(default_factory=dict)
    digests: dict[bytes, list[str]] = field(default_factory=dict)
    # Masks that hold nothing but background and what their files call nodata, and whether another tells that it is.
    only_nodata: dict[str, Path] = field(default_factory=dict)
    nodata_is_none: bool = False


def _open(path: Path, scheme: str | None, findings: list[Finding]) -> Dataset:
    """Open a data set; where its masks fit no scheme, by the one that most of them fit, so that the rest is seen."""
    try:
        return open_dataset(path, scheme, without_damaged=True)
    except SchemeError as error:
        if scheme is not None:
            raise
        unread = error
    best: tuple[int, Dataset] | None = None
    for name in ("glacier2", "glacier4", "glacier4-index"):
        dataset = open_dataset(path, name, without_damaged=True)
        odd = sum(not _fits(dataset, tile) for tile in dataset.tiles)
        if best is None or odd < best[0]:
            best = odd, dataset
    assert best is not None
    if best[0] == 0 or described_scheme(best[1].root) is not None:
        # Each mask fits, but they are of different schemes, or dataset.yaml names an unknown one: nothing else says so.
        findings.append(Finding.of(unread))
    read_as = best[1].scheme.name if best[1].scheme else ", ".join(SCHEMES)
    findings.append(Finding("info", None, f"The masks are read as {read_as}, which most of them fit."))
    return best[1]


def _fits(dataset: Dataset, tile: Tile) -> bool:
    try:
        dataset.read_mask(tile)
    except DataError:
        return False
    return True


def _examine_tile(dataset: Dataset, tile: Tile, census: _Census) -> Iterator[Finding]:
    bands = tile.distinct_bands
    image_CHW, valid_HW = dataset.read(tile, bands)
    num_valid = int(valid_HW.sum())
    census.pixels += valid_HW.size
    census.valid_pixels += num_valid
    if num_valid == 0:
        yield Finding("warning", tile.id, "Every pixel is nodata.", "Remove the tile, or export it again.")
    elif num_valid < (1 - _MUCH_NODATA) * valid_HW.size:
        share = 1 - num_valid / valid_HW.size
        yield Finding("info", tile.id, f"{share:.1%} of the pixels are nodata; little is to be learnt from the rest.")
    flat = set()
    for band, plane_HW in zip(bands, image_CHW, strict=True):
        values = plane_HW[valid_HW]
        statistics = census.statistics.setdefault(band, PooledStatistics(1))
        statistics.update(plane_HW[None], valid_HW & np.isfinite(plane_HW))
        if values.size and values.min() == values.max():
            flat.add(band)
            yield Finding(
                "warning", tile.id, f"Band {band} has the one value {values[0]:g} on every pixel.", "Export it again."
            )
        elif values.size and band in CANONICAL_BANDS:
            yield from _examine_saturation(tile, band, values, census)
    if num_valid and not tile.is_picture:  # grey pictures are stored with three equal colours
        planes = {band: plane_HW for band, plane_HW in zip(bands, image_CHW, strict=True) if band not in flat}
        yield from _examine_doubles(tile, planes, valid_HW)
    if num_valid:
        census.digests.setdefault(hashlib.blake2b(image_CHW.tobytes()).digest(), []).append(tile.id)
    if set(CANONICAL_BANDS) <= set(bands):
        places = [bands.index(band) for band in CANONICAL_BANDS]
        seen = evidence(image_CHW[places], valid_HW)
        if seen is not None:
            census.seen[tile.id] = seen
    yield from _examine_mask(dataset, tile, valid_HW, census)


def _examine_saturation(tile: Tile, band: str, values: npt.NDArray[np.float32], census: _Census) -> Iterator[Finding]:
    limit = _LARGEST.get(str(read_info(tile.bands[band].path).dtype), SATURATED_FROM)
    num_saturated = int((values >= limit).sum())
    census.saturated[band] += num_saturated
    if num_saturated > _MUCH_SATURATED * values.size:
        share = num_saturated / values.size
        yield Finding(
            "warning",
            tile.id,
            f"{share:.0%} of the pixels of band {band} are saturated (bright snow).",
            "Take a scene with a lower gain or a lower sun, or expect little of these pixels.",
        )


def _examine_doubles(
    tile: Tile, planes: Mapping[str, npt.NDArray[np.float32]], valid_HW: npt.NDArray[np.bool_]
) -> Iterator[Finding]:
    """Bands of a tile that are the same, pixel by pixel."""
    first_of: dict[bytes, str] = {}
    for band, plane_HW in planes.items():
        other = first_of.setdefault(hashlib.blake2b(plane_HW[valid_HW].tobytes()).digest(), band)
        if other != band:
            yield Finding(
                "warning", tile.id, f"Bands {other} and {band} are the same, pixel by pixel.", f"Export {band} again."
            )


def _examine_unlabelled(dataset: Dataset) -> Iterator[Finding]:
    """Where no tile has a mask: folders in which there may be some all the same, by a name not looked for."""
    if not dataset.tiles or any(tile.mask_path is not None for tile in dataset.tiles):
        return
    yield Finding("info", None, "No tile has a mask: all can be predicted and corrected.")
    looked_for = dataset.tiles[0].new_mask_path.parent
    of_images = {source.path.parent for tile in dataset.tiles for source in tile.bands.values()}
    for folder in sorted(looked_for.parent.iterdir()) if looked_for.parent.is_dir() else ():
        # Maps that were predicted here are no truth; terrain that fits no tile is told of by itself.
        is_known = folder in of_images or band_of_folder(folder.name) or (folder / PROVENANCE_FILE).exists()
        files = rasters_in(folder) if folder.is_dir() and not is_known else []
        if files:
            yield Finding(
                "warning",
                None,
                f"The folder {folder.name} holds {len(files)} TIFFs that are neither a band nor masks by its name.",
                f"If they are masks, call it {looked_for.name}.",
            )


def _examine_mask(dataset: Dataset, tile: Tile, valid_HW: npt.NDArray[np.bool_], census: _Census) -> Iterator[Finding]:
    mask_HW = dataset.read_mask(tile)
    if mask_HW is None:
        if any(other.mask_path is not None for other in dataset.tiles):
            yield Finding("info", tile.id, "The tile has no mask: it can be predicted and corrected.")
        return
    assert tile.mask_path is not None
    # A NumPy file has no place of its own, and a stack of masks no header of a tile.
    mask_ref = read_info(tile.mask_path).georef if tile.mask_path.suffix != ".npy" else None
    if mask_ref is not None and tile.georef is not None and not mask_ref.same_grid(tile.georef):
        yield Finding(
            "warning",
            tile.id,
            f"The mask says that it lies elsewhere than the bands ({mask_ref.crs_name} {mask_ref.transform}); "
            "it is read pixel by pixel.",
            "Re-export it on the tile's grid.",
        )
    labelled_nodata = int((mask_HW[~valid_HW] != 0).sum())
    if labelled_nodata:
        yield Finding(
            "warning",
            tile.id,
            f"{labelled_nodata} nodata pixels carry a class; they count for nothing.",
            "Check that mask and bands are of the same tile, and not shifted.",
        )
    _note_nodata(dataset, tile, mask_HW, valid_HW, census)
    indices, numbers = np.unique(mask_HW[valid_HW], return_counts=True)
    census.classes.update(dict(zip(indices.tolist(), numbers.tolist(), strict=True)))


def _note_nodata(
    dataset: Dataset, tile: Tile, mask_HW: npt.NDArray[np.uint8], valid_HW: npt.NDArray[np.bool_], census: _Census
) -> None:
    """Note a mask whose file calls the code of a class nodata, which is read as background then."""
    assert dataset.scheme is not None
    path = tile.mask_path
    if path is None or path.suffix.lower() not in (".tif", ".tiff"):
        return
    nodata = read_info(path).nodata
    if nodata not in dataset.scheme.codes[1:]:
        return
    gone_HW = (read_raster(path)[0] == nodata) & (mask_HW == 0)
    if gone_HW.any() and mask_HW.any():
        census.nodata_is_none = True
    elif (gone_HW & valid_HW).any():
        census.only_nodata[tile.id] = path


def _examine_nodata(census: _Census) -> Iterator[Finding]:
    """Masks that say nothing but nodata, where no other one has classes beside it."""
    if census.nodata_is_none or not census.only_nodata:
        return
    tiles = list(census.only_nodata)
    example = census.only_nodata[tiles[0]]
    value = read_info(example).nodata
    yield Finding(
        "warning",
        tiles[0] if len(tiles) == 1 else None,
        f"The masks of {len(tiles)} tile(s) ({', '.join(tiles[:5])}{', …' if len(tiles) > 5 else ''}) hold 0 and "
        f"{value:g} alone, and their files call {value:g} nodata: all of it is read as background.",
        f"If {value:g} is a class, take the nodata value off the files: gdal_edit.py -unsetnodata {example}",
    )


def _examine_order(census: _Census) -> Iterator[Finding]:
    """Bands under each other's names."""
    looks = {tile_id: mistaken_bands(seen) for tile_id, seen in census.seen.items()}
    wrong = {tile_id: found for tile_id, found in looks.items() if found}
    mend = "Check the names of the files or folders against the scene that they come from."
    everywhere = len(wrong) == len(looks) and len({said(found) for found in wrong.values()}) == 1
    if wrong and everywhere:
        found = next(iter(wrong.values()))
        where = f" in all {len(wrong)} tiles" if len(wrong) > 1 else ""
        yield Finding("warning", None, f"Bands seem to be exchanged{where}: {said(found)}.", mend)
    else:
        for tile_id, found in wrong.items():
            yield Finding("warning", tile_id, f"Bands seem to be exchanged: {said(found)}.", mend)
    right = [seen for tile_id, seen in census.seen.items() if tile_id not in wrong]
    visible = mistaken_visible(right)
    if visible:
        yield Finding("warning", None, f"Visible bands seem to be exchanged: {said(visible)}.", mend)


def _examine_copies(dataset: Dataset, census: _Census) -> Iterator[Finding]:
    """Tiles that are the same, pixel by pixel."""
    for ids in census.digests.values():
        if len(ids) > 1:
            splits = {dataset.tile(tile_id).split for tile_id in ids}
            across = (
                f", in the splits {' and '.join(sorted(splits))}: the scores will flatter a model"
                if splits != {next(iter(splits))}
                else ""
            )
            listed = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
            yield Finding(
                "warning",
                None,
                f"{len(ids)} tiles are the same, pixel by pixel{across}: {listed}.",
                "Keep one of them.",
            )


def _examine_splits(dataset: Dataset) -> Iterator[Finding]:
    """Training tiles that are near tiles of another split."""
    train = dataset.split("train")
    held_out = [tile for name in ("val", "test") for tile in dataset.split(name)]
    if not train or not held_out:
        return
    buffer_px = buffer_for(None, [*train, *held_out])
    leakage = find_leaks(train, held_out, buffer_px, masked=False)
    if leakage.leaks:
        listed = "; ".join(
            f"{leak.train_tile} and {leak.val_tile} {leak.relation}"
            + (f", {leak.distance_m:,.0f} m apart" if leak.relation == "near" and leak.distance_m is not None else "")
            for leak in leakage.leaks[:5]
        )
        yield Finding(
            "warning",
            None,
            f"{len(leakage.leaks)} pair(s) of a training tile and a held-out one are nearer than {buffer_px} px: "
            f"{listed}"
            f"{'; …' if len(leakage.leaks) > 5 else ''}. The scores will flatter a model.",
            "Hold out tiles that lie apart (napari-glacier splits), or train with data.buffer_px.",
        )


def _examine_terrain(dataset: Dataset) -> Iterator[Finding]:
    """What is there of some tiles only; a data set without terrain lacks nothing."""
    there = [band for band in TERRAIN_BANDS if band in dataset.bands]
    yield from (Finding("info", None, text) for text in missing_band_warnings(dataset.tiles, there))


def _examine_grid(dataset: Dataset) -> Iterator[Finding]:
    unplaced = [tile.id for tile in dataset.tiles if tile.georef is None]
    if unplaced:
        listed = (
            f" ({', '.join(unplaced[:5])}{', …' if len(unplaced) > 5 else ''})"
            if len(unplaced) < len(dataset.tiles)
            else ""
        )
        yield Finding(
            "warning" if listed else "info",
            None,
            f"{len(unplaced)} of {len(dataset.tiles)} tiles have no georeference{listed}; tiles open as a stack.",
            "Export them as GeoTIFF, as the others are." if listed else "",
        )
    elif len(dataset.tiles) > 1 and len(plan_scenes(dataset)) > 1:
        systems = sorted({tile.georef.crs_name for tile in dataset.tiles if tile.georef is not None})
        differ = f" They are in {len(systems)} reference systems: {', '.join(systems[:6])}." if len(systems) > 1 else ""
        yield Finding(
            "info", None, f"The tiles do not share one grid, or overlap; they open as a stack, not as a mosaic.{differ}"
        )


def _summary(dataset: Dataset, census: _Census) -> dict[str, Any]:
    labelled = census.classes.total()
    names = dataset.scheme.class_names if dataset.scheme else ()
    of_bands = {band: statistics.count for band, statistics in census.statistics.items() if band in CANONICAL_BANDS}
    return {
        "tiles": len(dataset.tiles),
        "damaged": len(dataset.damaged),
        "splits": {split: len(dataset.split(split)) for split in dataset.splits},
        "with_mask": sum(tile.mask_path is not None for tile in dataset.tiles),
        "bands": list(dataset.bands),
        "scheme": dataset.scheme.name if dataset.scheme else None,
        "crs": next((tile.georef.crs_name for tile in dataset.tiles if tile.georef), None),
        "nodata_share": 1 - census.valid_pixels / census.pixels if census.pixels else None,
        "saturated_share": {band: census.saturated[band] / n for band, n in of_bands.items() if n},
        "class_mix": {name: census.classes[k] / labelled for k, name in enumerate(names)} if labelled else {},
    }
