"""`napari-glacier prepare tiles`: scenes and outlines to a dataset folder, `train/B2 …` and `train_masks`."""

import re
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import CANONICAL_BANDS, PICTURE_BANDS
from napari_glacier.core.classes import ClassScheme, get_scheme
from napari_glacier.core.correction.saving import ORIGINALS_FOLDER
from napari_glacier.core.data.dataset import Dataset, is_nodata, open_dataset, write_scheme
from napari_glacier.core.data.tiles import BandSource, Tile
from napari_glacier.core.errors import BandError, DataError, SaveError
from napari_glacier.core.prepare.burning import Burner, ClassRule, Outlines, crs_of, read_outlines, scene_bounds
from napari_glacier.core.prepare.preparing import Progress, State, file_window, north_up, safe_name, signature
from napari_glacier.core.raster import read_info, write_mask, write_raster
from napari_glacier.core.tiling import Window, windows


@dataclass(frozen=True, slots=True)
class TileSettings:
    """How scenes and outlines become tiles.

    Attributes
    ----------
    tile_px, overlap_px : int
    min_glacier_px : int
        Tiles with fewer pixels of any class but background are left out.
    rule : ClassRule
        Classes of the outlines.
    outline_crs : str or None
        Of outlines that name none.
    bands : tuple of int or None
        Of a TIFF with other bands than the five: which of them (from 1, as GDAL counts) are B2, B3, B4, B6, B10.
    scheme : str or None
        None: two classes where the outlines have ice alone, else four.
    mosaic : str or None
        How overlapping scenes are joined; see `open_dataset`.
    """

    tile_px: int = 512
    overlap_px: int = 0
    min_glacier_px: int = 0
    rule: ClassRule = field(default_factory=ClassRule)
    outline_crs: str | None = None
    bands: tuple[int, ...] | None = None
    scheme: str | None = None
    mosaic: str | None = None

    def __post_init__(self) -> None:
        if self.tile_px < 32 or not 0 <= self.overlap_px < self.tile_px:
            raise DataError(
                f"Tiles of {self.tile_px} px with an overlap of {self.overlap_px} px cannot be cut. Choose at least "
                "32 px, and less overlap than a tile."
            )
        if self.bands is not None and len(self.bands) != len(CANONICAL_BANDS):
            raise BandError(
                f"--bands names {len(self.bands)} bands. Name five, those that are {', '.join(CANONICAL_BANDS)}."
            )


@dataclass(frozen=True, slots=True)
class PreparedTiles:
    """What a preparation made: the folder, its classes, how many tiles of how many scenes, and what to know of these.

    A band that a scene lacks, which the tiles lack too, is such a thing to know.
    """

    folder: Path
    scheme: ClassScheme
    num_tiles: int
    num_scenes: int
    notes: tuple[str, ...] = ()


def prepare_tiles(
    scene: Path, outlines: Sequence[Path], out: Path, settings: TileSettings
) -> Generator[Progress, None, PreparedTiles]:
    """Cut scenes into tiles and rasterise outlines on them; returns `PreparedTiles` at its end.

    An output folder that a stopped run left is gone on with. Tiles without any data are left out, what reaches past a
    scene's right and lower border is nodata. Memory is bounded by a strip of a scene, one tile high.

    Parameters
    ----------
    scene : Path
        A multi-band GeoTIFF, or any folder that `open_dataset` opens.
    outlines : sequence of Path
    out : Path
    settings : TileSettings

    Raises
    ------
    DataError
        If the data do not fit together.
    SaveError
        If `out` holds something else.
    """
    dataset = _open(scene, settings.bands, settings.mosaic)
    tiles = dataset.tiles
    classes = _classes(outlines, settings)
    scheme = get_scheme(settings.scheme or ("glacier2" if classes <= {0, 1} else "glacier4"))
    if max(classes, default=0) >= scheme.num_classes:
        raise DataError(f"The outlines have debris or lakes, which the scheme {scheme.name} does not. Use glacier4.")
    names = _names(tiles)
    if not any(len(_outlines(tile, outlines, settings)) for tile in tiles):
        raise DataError(
            f"None of the outlines lies on {scene}: all masks would be background. Check the reference systems of both."
        )
    state = State(out, _noted(scene, outlines, settings))
    write_scheme(out, scheme)
    cuts = {
        name: windows(tile.height, tile.width, settings.tile_px, settings.overlap_px) for name, tile in names.items()
    }
    total, done, num_tiles = sum(map(len, cuts.values())), 0, 0
    outline_signatures = [signature(path) for path in outlines]
    for name, tile in names.items():
        key = [[signature(path) for path in tile.files], tile.rule, outline_signatures]
        count = state.find(name, key)
        if count is None:
            _refuse_corrected(out, name)
            cutter = _Cutter(dataset, tile, _outlines(tile, outlines, settings), settings)
            count = 0
            for k, window in enumerate(cuts[name]):
                place = (window.row // _step(settings), window.col // _step(settings))
                count += cutter.write(window, out, f"{name}_{place[0]:02d}_{place[1]:02d}.tif", scheme)
                yield Progress(done + k + 1, total, name)
            state.note(name, key, count)
        num_tiles += count
        done += len(cuts[name])
        yield Progress(done, total, name)
    if not num_tiles:
        raise DataError(
            f"No tile of {scene} has data and at least {settings.min_glacier_px} pixels of a class. Check that the "
            "outlines lie on the scene."
        )
    return PreparedTiles(out, scheme, num_tiles, len(names), tuple(dataset.warnings))


def _refuse_corrected(out: Path, name: str) -> None:
    """Raise `SaveError` where a person has corrected masks of a scene that is to be cut anew."""
    originals = out / ORIGINALS_FOLDER / "train_masks"
    # The tiles of another scene may begin with the name of this one, too.
    own = re.compile(rf"{re.escape(name)}_\d+_\d+\.tif")
    if any(own.fullmatch(path.name) for path in originals.glob("*.tif")):
        raise SaveError(
            f"Masks of {name} in {out} were corrected since ({originals} has them as they came), and its images or "
            "outlines have changed: cutting it anew would replace them. Give another --out."
        )


class _Cutter:
    """Reads windows of one scene, and the outlines on them."""

    def __init__(self, dataset: Dataset, tile: Tile, outlines: Outlines, settings: TileSettings) -> None:
        assert tile.georef is not None
        self._dataset, self._tile, self._settings = dataset, tile, settings
        self._bands = tuple(tile.bands)
        self._burner = Burner(outlines)
        self._georef, self._turned = north_up(tile.georef, tile.height)

    def write(self, window: Window, out: Path, name: str, scheme: ClassScheme) -> bool:
        """Write a tile; False where it has too little on it."""
        georef = self._georef.offset(window.row, window.col)
        mask_HW = self._burner.mask(georef, window.height, window.width)
        inner = window.clipped(self._tile.height, self._tile.width)
        planes_CHW, valid_HW = self._read(file_window(inner, self._tile.height, self._turned))
        if self._turned:
            planes_CHW, valid_HW = planes_CHW[:, ::-1], valid_HW[::-1]
        inside_HW = np.zeros(mask_HW.shape, bool)
        inside_HW[: inner.height, : inner.width] = valid_HW
        mask_HW[~inside_HW] = 0
        paths = [out / "train_masks" / name, *(out / "train" / band / name for band in self._bands)]
        if not inside_HW.any() or int((mask_HW > 0).sum()) < self._settings.min_glacier_px:
            # Of a run with other outlines; without its mask the rest is no tile.
            for path in paths:
                path.unlink(missing_ok=True)
            return False
        for band, plane_HW in zip(self._bands, planes_CHW, strict=True):
            dtype = read_info(self._tile.bands[band].path).dtype
            padded_HW = np.zeros(mask_HW.shape, np.float32)
            padded_HW[: inner.height, : inner.width] = plane_HW
            write_raster(out / "train" / band / name, _as_type(padded_HW, dtype), georef, self._tile.bands[band].nodata)
        # The mask comes last: a tile that has one is whole.
        write_mask(out / "train_masks" / name, mask_HW, scheme, georef)
        return True

    def _read(self, window: Window) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        sources = [self._tile.bands[band] for band in self._bands]
        image_CHW = np.zeros((len(sources), window.height, window.width), np.float32)
        rows, cols = ((part.start, part.stop) for part in window.slices)
        # What the scene calls nodata (a gap in one of its bands, the fill of its quality band) is so in its tiles.
        valid_HW = self._dataset.read(self._tile, (), rows, cols)[1]
        planes = self._dataset.read_values(self._tile, self._bands, rows, cols)
        for k, (source, plane_HW) in enumerate(zip(sources, planes, strict=True)):
            gone_HW = ~np.isfinite(plane_HW) | is_nodata(plane_HW, source.nodata)
            # A gap in one band is one in its tiles: 0 there would be measured.
            image_CHW[k] = np.where(gone_HW, np.nan if source.nodata is None else source.nodata, plane_HW)
        return np.where(valid_HW, image_CHW, 0), valid_HW


def _open(scene: Path, bands: tuple[int, ...] | None, mosaic: str | None) -> Dataset:
    """The tiles of a scene or folder; with `bands`, one TIFF of which these are the five."""
    scene = Path(scene).expanduser().absolute()
    if bands is None:
        # Naming a scheme spares reading masks, which do not count here.
        dataset = open_dataset(scene, "glacier4", mosaic=mosaic)
    else:
        info = read_info(scene)
        if not all(1 <= band <= info.count for band in bands):
            raise BandError(f"{scene} has the bands 1 to {info.count}, and --bands is {' '.join(map(str, bands))}.")
        sources = {
            name: BandSource(scene, band - 1, info.nodata) for name, band in zip(CANONICAL_BANDS, bands, strict=True)
        }
        tile = Tile(scene.stem, "all", sources, info.height, info.width, info.georef, None, scene.with_suffix(".mask"))
        dataset = Dataset(scene.parent, (tile,), None, CANONICAL_BANDS)
    tiles = dataset.tiles
    unplaced = [tile.id for tile in tiles if tile.georef is None]
    if unplaced or any(set(tile.bands) & set(PICTURE_BANDS) for tile in tiles):
        raise DataError(
            f"{scene} has tiles without a georeference ({', '.join(unplaced[:5]) or 'pictures'}), so outlines cannot "
            "be laid over them. Export them as GeoTIFF."
        )
    return dataset


def _classes(outlines: Sequence[Path], settings: TileSettings) -> set[int]:
    """Classes of all outlines, wherever they lie; finds a value without a class before anything is written."""
    if not outlines:
        raise DataError("No outlines were named. Give a shapefile, GeoPackage or GeoJSON with --outlines.")
    if settings.rule.attribute is None:
        return {settings.rule.whole}
    return {
        int(k) for path in outlines for k in np.unique(read_outlines(path, settings.rule, settings.outline_crs).index_N)
    }


def _outlines(tile: Tile, paths: Sequence[Path], settings: TileSettings) -> Outlines:
    assert tile.georef is not None
    crs = crs_of(tile.georef, next(iter(tile.bands.values())).path)
    within = (scene_bounds(tile.georef, tile.height, tile.width), crs)
    parts = [read_outlines(path, settings.rule, settings.outline_crs, within).to_crs(crs) for path in paths]
    polygons = np.concatenate([part.polygons for part in parts])
    return Outlines(polygons, np.concatenate([part.index_N for part in parts]), crs)


def _names(tiles: Sequence[Tile]) -> dict[str, Tile]:
    names: dict[str, Tile] = {}
    for tile in tiles:
        name = safe_name(tile.id)
        if name in names:
            raise DataError(f"The tiles {names[name].id} and {tile.id} would both be named {name}. Rename one of them.")
        names[name] = tile
    return names


def _noted(scene: Path, outlines: Sequence[Path], settings: TileSettings) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(settings).items() if key not in ("rule", "bands")}
    rule = [settings.rule.attribute, dict(settings.rule.index_of), settings.rule.whole]
    given = [str(Path(path).expanduser().absolute()) for path in (scene, *outlines)]
    return {**plain, "rule": rule, "bands": settings.bands and list(settings.bands), "given": given}


def _step(settings: TileSettings) -> int:
    return settings.tile_px - settings.overlap_px


def _as_type(plane_HW: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Values in the type of their file; only what filled a gap can have digits that are lost."""
    return np.rint(plane_HW).astype(dtype) if dtype.kind in "iu" else plane_HW.astype(dtype)
