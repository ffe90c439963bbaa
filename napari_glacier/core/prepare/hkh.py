"""`napari-glacier prepare hkh`: raw Landsat 7 images and outlines of the Hindu Kush Himalaya to tiles for training.

    HKH_images/*.tif   HKH_labels/*.shp   metadata.csv
    ->  processed/images   processed/masks   processed/slices.csv   processed/train_ids.txt   processed/val_ids.txt
        processed/mean.npy   processed/std.npy   processed/filtered (the same, of the tiles that pass the filters)

The data: Baraka et al. 2020, "Machine Learning for Glacier Monitoring in the Hindu Kush Himalaya".
Shapes: C bands, H rows, W columns, K classes.
"""

import csv
import io
import os
import shutil
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from napari_glacier.core.bands import CANONICAL_BANDS, TERRAIN_BANDS
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.array_layout import HKH_BANDS, HKH_HIGH_GAIN_THERMAL, PLACE_FIELDS, PLACES_FILE
from napari_glacier.core.data.dataset import Dataset, is_nodata, open_dataset
from napari_glacier.core.data.layouts import DESCRIPTION_FILE
from napari_glacier.core.data.statistics import PooledStatistics
from napari_glacier.core.errors import BandError, DataError
from napari_glacier.core.files import replacing, write_text_atomically
from napari_glacier.core.prepare.burning import Burner, ClassRule, Outlines, crs_of, read_outlines, scene_bounds
from napari_glacier.core.prepare.hkh_raw import RawHkh, find_raw, rule_for
from napari_glacier.core.prepare.hkh_split import Split, split_slices
from napari_glacier.core.prepare.preparing import Progress, State, file_window, north_up, signature
from napari_glacier.core.raster import RasterInfo, read_info, read_part
from napari_glacier.core.raster.arrays import write_array
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.tiling import Window, windows

_FOUR = get_scheme("glacier4-index")
_COUNT_FIELDS = ("valid", *_FOUR.class_names)
FIELDS = (*PLACE_FIELDS, *_COUNT_FIELDS, "split")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HkhSettings:
    """How raw images become tiles.

    Attributes
    ----------
    tile_px : int
    overlap : float
        Share of a tile that it has in common with its neighbour.
    min_glacier_px : int
        Tiles with fewer pixels of clean ice and debris are left out.
    min_debris_px, min_lake_px : int or None
        For the filtered set: tiles with at least so many of either; None: not asked.
    max_background : float
        For the filtered set: largest share of background among the valid pixels.
    high_gain_thermal : bool
        Thermal is position 6 (B6_VCID_2), not 5 (B6_VCID_1).
    terrain : bool
        Also keep elevation and slope.
    val_fraction : float
    seed : int
    region_column : str or None
        Of metadata.csv; None: found by its name.
    rule : ClassRule or None
        Classes of the outlines; None: found from their attributes.
    outline_crs : str or None
        Of outlines that name none.
    """

    tile_px: int = 512
    overlap: float = 0.1
    min_glacier_px: int = 100
    min_debris_px: int | None = None
    min_lake_px: int | None = None
    max_background: float = 0.8
    high_gain_thermal: bool = False
    terrain: bool = False
    val_fraction: float = 0.15
    seed: int = 0
    region_column: str | None = None
    rule: ClassRule | None = None
    outline_crs: str | None = None

    def __post_init__(self) -> None:
        if self.tile_px < 32 or not 0 <= self.overlap < 0.9:
            raise DataError(
                f"Tiles of {self.tile_px} px with an overlap of {self.overlap:g} cannot be cut. Choose at least 32 px "
                "and an overlap from 0 to below 0.9."
            )
        if not (0 < self.val_fraction < 1 and 0 <= self.max_background <= 1):
            raise DataError("The validation share lies between 0 and 1, and so does the largest share of background.")

    @property
    def bands(self) -> dict[str, int]:
        """Position of each band in a raw image."""
        names = (*CANONICAL_BANDS, *(TERRAIN_BANDS if self.terrain else ()))
        positions = HKH_BANDS | ({"B10": HKH_HIGH_GAIN_THERMAL} if self.high_gain_thermal else {})
        return {name: positions[name] for name in names}

    @property
    def scheme(self) -> str:
        """Classes of the masks, which hold indices: two where a rule by hand makes nothing but glacier."""
        two = self.rule is not None and set(self.rule.index_of.values()) <= {0, 1}
        return "glacier2" if two else _FOUR.name

    @property
    def overlap_px(self) -> int:
        """The overlap in pixels."""
        return round(self.tile_px * self.overlap)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a preparation made.

    Attributes
    ----------
    folder : Path
    num_slices, num_filtered : int
    split : Split
    notes : tuple of str
        What a person should know.
    """

    folder: Path
    num_slices: int
    num_filtered: int
    split: Split
    notes: tuple[str, ...]


def prepare_hkh(raw: Path, out: Path, settings: HkhSettings) -> Generator[Progress, None, Prepared]:
    """Cut raw images into tiles with masks; returns `Prepared` at its end.

    An output folder that a stopped run left is gone on with, image by image; the files come out the same, byte by
    byte. Memory is bounded by one tile, and by the outlines near one image.

    Raises
    ------
    DataError
        If the raw data do not fit together.
    SaveError
        If `out` holds something else.
    """
    source = find_raw(raw, settings.region_column)
    infos = {name: _checked(path, settings) for name, path in source.images.items()}
    rules = {path: rule_for(path, settings.rule) for path in source.labels}
    state = State(out, _noted(settings, source, rules))
    for folder in ("images", "masks"):
        (out / folder).mkdir(exist_ok=True)
    cuts = {
        name: windows(info.height, info.width, settings.tile_px, settings.overlap_px) for name, info in infos.items()
    }
    total, done, rows, found = sum(map(len, cuts.values())), 0, [], 0
    label_signatures = [signature(path) for path in source.labels]
    for name, info in infos.items():
        key = [signature(info.path), label_signatures]
        if (noted := state.find(name, key)) is None:
            outlines = _outlines(info, rules, settings)
            noted = {"rows": [], "outlines": len(outlines)}
            burner = Burner(outlines)
            for k, window in enumerate(cuts[name]):
                row = _cut(out, name, info, window, burner=burner, settings=settings)
                if row is not None:
                    noted["rows"].append(row)
                yield Progress(done + k + 1, total, name)
            state.note(name, key, noted)
        done += len(cuts[name])
        found += noted["outlines"]
        rows += [row | {"region": source.region_of[name]} for row in noted["rows"]]
        yield Progress(done, total, name)
    if not rows:
        raise DataError(
            f"No tile of the {len(infos)} image(s) in {raw} has {settings.min_glacier_px} glacier pixels or more; "
            f"{found} outlines lie near them. Check that the outlines are of this region, or lower --min-glacier-px."
        )
    split = split_slices(rows, settings.tile_px, settings.val_fraction, settings.seed)
    _describe(out, rows, split, settings)
    kept = [row for row in rows if _passes(row, settings)]
    if kept:
        _write_filtered(out, kept, split, settings)
    notes = (*source.notes, *split.notes)
    if not kept:
        notes += ("No tile passes the filters, so there is no filtered set. Loosen them with another --out.",)
    return Prepared(out, len(rows), len(kept), split, notes)


def _checked(path: Path, settings: HkhSettings) -> RasterInfo:
    info = read_info(path)
    needed = max(settings.bands.values()) + 1
    if info.count < needed or info.georef is None:
        lacks = f"{info.count} bands" if info.count < needed else "no georeference"
        raise BandError(
            f"{path} has {lacks}; a raw HKH image is a GeoTIFF of 15 bands (B1 to B5, B6_1, B6_2, B7, B8, BQA, three "
            "indices, elevation, slope). Move what is no such image out of the folder."
        )
    return info


def _noted(settings: HkhSettings, source: RawHkh, rules: dict[Path, ClassRule]) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(settings).items() if key != "rule"}
    described = {path.name: [rule.attribute, dict(rule.index_of), rule.whole] for path, rule in rules.items()}
    return {**plain, "rules": described, "raw": str(source.root)}


def _outlines(info: RasterInfo, rules: dict[Path, ClassRule], settings: HkhSettings) -> Outlines:
    """Outlines of all files near an image, in its reference system."""
    assert info.georef is not None
    crs = crs_of(info.georef, info.path)
    within = (scene_bounds(info.georef, info.height, info.width), crs)
    parts = [read_outlines(path, rule, settings.outline_crs, within).to_crs(crs) for path, rule in rules.items()]
    polygons = np.concatenate([part.polygons for part in parts])
    return Outlines(polygons, np.concatenate([part.index_N for part in parts]), crs)


def _cut(
    out: Path, scene: str, info: RasterInfo, window: Window, *, burner: Burner, settings: HkhSettings
) -> Row | None:
    """Write one tile and its mask; None where it has too few glacier pixels."""
    assert info.georef is not None
    whole, turned = north_up(info.georef, info.height)
    georef = whole.offset(window.row, window.col)
    mask_HW = burner.mask(georef, window.height, window.width)
    if _glacier_px(mask_HW) < settings.min_glacier_px:
        return None
    inner = window.clipped(info.height, info.width)
    rows, cols = file_window(inner, info.height, turned).slices
    planes_CHW = read_part(info.path, (rows.start, rows.stop), (cols.start, cols.stop))[list(settings.bands.values())]
    planes_CHW = planes_CHW[:, ::-1] if turned else planes_CHW
    num_spectral = len(CANONICAL_BANDS)
    gone_CHW = ~np.isfinite(planes_CHW) | is_nodata(planes_CHW, info.nodata)
    valid_HW = ~(gone_CHW | (planes_CHW == 0))[:num_spectral].all(0)
    tile_CHW = np.zeros((len(planes_CHW), window.height, window.width), planes_CHW.dtype)
    # A NumPy file has no nodata value: where no band carries data all are 0, a gap in one is not a number.
    planes_CHW = np.where(gone_CHW, planes_CHW.dtype.type(np.nan if planes_CHW.dtype.kind == "f" else 0), planes_CHW)
    tile_CHW[:, : inner.height, : inner.width] = np.where(valid_HW, planes_CHW, 0)
    inside_HW = np.zeros(mask_HW.shape, bool)
    inside_HW[: inner.height, : inner.width] = valid_HW
    mask_HW[~inside_HW] = 0
    if _glacier_px(mask_HW) < settings.min_glacier_px:
        return None
    name = f"{scene}_r{window.row:05d}_c{window.col:05d}"
    write_array(out / "images" / f"{name}.npy", np.moveaxis(tile_CHW, 0, 2))
    write_array(out / "masks" / f"{name}.npy", mask_HW)
    counts = np.bincount(mask_HW[inside_HW], minlength=_FOUR.num_classes).tolist()
    counts = dict(zip(_COUNT_FIELDS, [int(inside_HW.sum()), *counts], strict=True))
    return {"tile": name, "scene": scene, "row": window.row, "col": window.col, **_place(georef), **counts}


def _glacier_px(mask_HW: npt.NDArray[np.uint8]) -> int:
    return int(np.isin(mask_HW, (1, 2)).sum())


def _place(georef: GeoRef) -> Row:
    geographic = "yes" if georef.is_geographic else "no"
    return {"epsg": georef.epsg, "geographic": geographic, **dict(zip("abcdef", georef.transform, strict=True))}


def _passes(row: Row, settings: HkhSettings) -> bool:
    asked = [
        row[name] >= least
        for name, least in (("debris", settings.min_debris_px), ("lake", settings.min_lake_px))
        if least is not None
    ]
    return (not asked or any(asked)) and row["background"] <= settings.max_background * row["valid"]


def _describe(folder: Path, rows: Sequence[Row], split: Split, settings: HkhSettings) -> None:
    """Write everything that a folder of tiles has beside them."""
    named = [(row["tile"], split.split_of.get(row["tile"], "")) for row in rows]
    for name in ("train", "val"):
        ids = [tile for tile, its_split in named if its_split == name]
        write_text_atomically(folder / f"{name}_ids.txt", "".join(f"{tile}\n" for tile in ids))
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row, (_, its_split) in zip(rows, named, strict=True):
        shown = {key: repr(value) if isinstance(value, float) else value for key, value in row.items()}
        writer.writerow({**shown, "split": its_split})
    write_text_atomically(folder / PLACES_FILE, text.getvalue())
    described = {"scheme": settings.scheme, "bands": list(settings.bands)}
    write_text_atomically(folder / DESCRIPTION_FILE, yaml.safe_dump(described, sort_keys=False))
    statistics = _statistics(open_dataset(folder))
    write_array(folder / "mean.npy", statistics.mean)
    write_array(folder / "std.npy", statistics.std)


def _statistics(dataset: Dataset) -> PooledStatistics:
    """Mean and standard deviation of each band over the valid pixels of the training tiles."""
    statistics = PooledStatistics(len(dataset.bands))
    for tile in dataset.split("train"):
        statistics.update(*dataset.read(tile, dataset.bands))
    return statistics


def _write_filtered(out: Path, rows: Sequence[Row], split: Split, settings: HkhSettings) -> None:
    """The filtered set: the same files once more, as links where the disk has them."""
    folder = out / "filtered"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        wanted = {f"{row['tile']}.npy" for row in rows}
        for stale in [path for path in (folder / kind).glob("*.npy") if path.name not in wanted]:
            stale.unlink()
        for name in sorted(wanted):
            if not (folder / kind / name).exists():
                _link(out / kind / name, folder / kind / name)
    _describe(folder, rows, split, settings)


def _link(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
