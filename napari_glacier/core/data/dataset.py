"""A data set: a folder of tiles, each with its bands and perhaps a mask, and how their pixels are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import ALL_BANDS, CANONICAL_BANDS, TERRAIN_BANDS
from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.data.description import (
    choose_scheme,
    described_mosaic,
    described_scheme,
    described_units,
    write_scheme,
)
from napari_glacier.core.data.joined import joined_quality, joined_values, read_joined
from napari_glacier.core.data.joining import check_rule, join_tiles
from napari_glacier.core.data.layouts import find_tiles, is_dataset, label_folder, unpaired_terrain
from napari_glacier.core.data.tile_files import leaving_out_damaged
from napari_glacier.core.data.tile_parts import TilePart, is_nodata
from napari_glacier.core.data.tiles import BandSource, Tile, band_size_message
from napari_glacier.core.errors import BandError, DataError, SchemeError
from napari_glacier.core.raster import read_mask_codes
from napari_glacier.core.raster.archives import is_archive
from napari_glacier.core.scenes.products import Calibration

__all__ = [
    "BandSource",
    "Dataset",
    "Tile",
    "choose_scheme",
    "described_scheme",
    "is_dataset",
    "is_nodata",
    "missing_band_warnings",
    "open_dataset",
    "write_scheme",
]

# No land lies lower (metres), no slope is smaller: what does stands for nodata, whatever the file says.
_LEAST = {"elevation": -1000.0, "slope": 0.0}

# What stands in a gap is the mean of at most so many pixels along a side, evenly spread over the tile.
_MEAN_PX = 2048


@dataclass(frozen=True)
class Dataset:
    """The tiles of a folder, and how their pixels are read.

    Attributes
    ----------
    root : Path
    tiles : tuple of Tile
    scheme : ClassScheme or None
        None where no tile has a mask and nothing says which classes are meant.
    bands : tuple of str
        Bands that at least one tile has, in the order of `ALL_BANDS`; one-plane pictures have grey only, though
        they serve the colours, too.
    zero_is_nodata : bool
        Whether a pixel with all bands zero is nodata (on for satellite bands, off for pictures).
    warnings : tuple of str
        What a person should know: missing bands, an assumed scheme.
    assumed : tuple of str
        Those of the warnings that say what was assumed, where nothing need be wrong.
    units : mapping of band to Calibration
        What `dataset.yaml` says of the numbers of tiles that carry no metadata (``units: landsat-c2-l2``).
    damaged : mapping of tile id to str
        Tiles that were left out, and why.
    """

    root: Path
    tiles: tuple[Tile, ...]
    scheme: ClassScheme | None
    bands: tuple[str, ...]
    zero_is_nodata: bool = True
    warnings: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    units: Mapping[str, Calibration] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    _by_id: Mapping[str, Tile] = field(default_factory=dict, repr=False, compare=False)
    _means: dict[tuple[str, str], float] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {tile.id: tile for tile in self.tiles})

    def tile(self, tile_id: str) -> Tile:
        """The tile of that id; `DataError` shows ids that exist."""
        try:
            return self._by_id[tile_id]
        except KeyError:
            known = ", ".join(list(self._by_id)[:12])
            raise DataError(f"{self.root} has no tile {tile_id!r}. Its tiles are: {known}.") from None

    def calibration(self, tile: Tile) -> Mapping[str, Calibration]:
        """How a tile's numbers become reflectance and kelvin, for the bands whose units are known."""
        return self.units if tile.product is None else tile.product.calibration

    def split(self, name: str) -> tuple[Tile, ...]:
        """Tiles of a split: ``train``, ``val``, ``test``, or ``all`` where the folder has none."""
        return tuple(tile for tile in self.tiles if tile.split == name)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order of the tiles."""
        return tuple(dict.fromkeys(tile.split for tile in self.tiles))

    def with_scheme(self, scheme: ClassScheme) -> "Dataset":
        """The same data set read with another scheme."""
        return replace(self, scheme=scheme)

    def read_valid(self, tile: Tile) -> npt.NDArray[np.bool_]:
        """Pixels that carry data, shape (H, W): not nodata in all bands."""
        return self.read(tile, ())[1]

    def read(
        self,
        tile: Tile,
        bands: Sequence[str] = CANONICAL_BANDS,
        rows: tuple[int, int] | None = None,
        cols: tuple[int, int] | None = None,
        shape: tuple[int, int] | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Bands of a tile and the pixels that carry data, (len(bands), H, W) and (H, W).

        With `rows` and `cols` (first, and the one after the last) only these are read; with `shape` as well, fewer
        pixels, evenly spread, as for a view from afar.

        A pixel is nodata where ALL spectral bands of the tile (all planes of a picture) are nodata, NaN or (where
        `zero_is_nodata`) 0. Validity looks at every one of them, so it does not depend on the bands asked for;
        terrain has no say in it. Of a product it is nodata, too, where its quality band says fill, and where one of
        the bands is that `Product.complete` names. Nodata pixels are 0 in every band.

        A gap in one band where others carry data (nodata, NaN; in the terrain also elevation below -1000 or slope
        below 0) is given the band's mean over the tile, as 0 would be pitch-black, or sea level; 0 where it has no
        value at all. It is a mean of the whole tile, of large ones of pixels spread evenly, and so the same in every
        part that is read. A 0 where `zero_is_nodata` is no gap and stays, whether or not the file's header names 0 as
        nodata. Bands that the tile does not have are 0.

        Of a mosaic of scenes each pixel is read from the scene that the rule says; see `joining`.

        Raises
        ------
        BandError
            If a band's size differs from the tile's.
        """
        part = TilePart.of(tile, rows, cols, shape)
        if tile.parts:
            joined_CHW, joined_valid_HW, _ = read_joined(self, tile, bands, part)
            return joined_CHW, joined_valid_HW
        planes, gone, valid_HW = self._look(tile, bands, part)
        image_CHW = np.zeros((len(bands), *part.shape), np.float32)
        for k, band in enumerate(bands):
            if band not in planes:
                continue
            image_CHW[k] = planes[band]
            if gone[band].any() and (gaps_HW := gone[band] & valid_HW).any():
                image_CHW[k][gaps_HW] = self._mean(tile, band)
        if not valid_HW.all():
            nodata_HW = ~valid_HW
            for plane_HW in image_CHW:
                np.copyto(plane_HW, 0, where=nodata_HW)
        return image_CHW, valid_HW

    def _look(
        self, tile: Tile, bands: Sequence[str], part: TilePart
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]:
        """Planes of some bands, where each of them has no value, and which pixels carry data."""
        deciding = [band for band in tile.distinct_bands if band in tile.usual_bands]
        planes = self._read_planes(tile, [band for band in tile.bands if band in bands or band in deciding], part)
        valid_HW = np.zeros(part.shape, bool)
        gone: dict[str, npt.NDArray[np.bool_]] = {}
        for band, plane in planes.items():
            gone[band] = is_nodata(plane, tile.bands[band].nodata)
            if plane.dtype.kind == "f":
                gone[band] |= ~np.isfinite(plane)
            if band in TERRAIN_BANDS:
                gone[band] |= plane < _LEAST[band]
            else:
                valid_HW |= ~gone[band] & (plane != 0) if self.zero_is_nodata else ~gone[band]
                if self.zero_is_nodata:
                    # A header that names 0 says no more than that: where other bands carry data, 0 is a dark pixel.
                    gone[band] &= plane != 0
        if tile.product is not None:
            for band in tile.product.complete:
                valid_HW &= ~gone[band] & (planes[band] != 0)
            quality = tile.product.quality
            if quality is not None and quality.pixel is not None:
                valid_HW &= ~quality.fill(self._read_plane(tile, quality.pixel, part, {}))
        return planes, gone, valid_HW

    def _mean(self, tile: Tile, band: str) -> float:
        """Mean of a band's valid pixels over a tile; of a large one, over pixels that are spread evenly."""
        key = tile.id, band
        if key not in self._means:
            shape = min(tile.height, _MEAN_PX), min(tile.width, _MEAN_PX)
            part = TilePart.of(tile, (0, tile.height), (0, tile.width), shape)
            planes, gone, valid_HW = self._look(tile, [band], part)
            known = planes[band][valid_HW & ~gone[band]]
            self._means[key] = float(known.mean(dtype=np.float64)) if known.size else 0.0
        return self._means[key]

    def read_sources(
        self,
        tile: Tile,
        rows: tuple[int, int] | None = None,
        cols: tuple[int, int] | None = None,
        shape: tuple[int, int] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Which scene of a mosaic each pixel is of: indices into `Tile.parts`, `NO_SCENE` in gaps, shape (H, W).

        `rows`, `cols` and `shape` as for `read`.
        """
        part = TilePart.of(tile, rows, cols, shape)
        return read_joined(self, tile, (), part)[2]

    def read_mask(self, tile: Tile) -> npt.NDArray[np.uint8] | None:
        """Class indices of a tile's mask, shape (H, W), or None where it has none.

        Raises
        ------
        SchemeError
            If a value is outside the scheme; names the file, the value and its count.
        BandError
            If the mask's size differs from the tile's.
        """
        if tile.mask_path is None:
            return None
        if self.scheme is None:
            raise SchemeError(
                f"{self.root} has no class scheme. Write `scheme: NAME` into dataset.yaml, or give --scheme."
            )
        codes_HW = read_mask_codes(tile.mask_path, tile.number, self.scheme.codes)
        if codes_HW.shape != (tile.height, tile.width):
            raise BandError(
                f"The mask of tile {tile.id} is {codes_HW.shape[0]} x {codes_HW.shape[1]}, its bands are "
                f"{tile.height} x {tile.width} ({tile.mask_path}). Re-export the mask on the tile's grid."
            )
        return self.scheme.decode(codes_HW, source=str(tile.mask_path))

    def read_values(
        self, tile: Tile, bands: Sequence[str], rows: tuple[int, int], cols: tuple[int, int]
    ) -> list[npt.NDArray[Any]]:
        """Part of a tile's bands as its files have it, nodata included: arrays (h, w), each of its file's type."""
        part = TilePart.of(tile, rows, cols, None)
        if tile.parts:
            return joined_values(self, tile, bands, part)
        planes = self._read_planes(tile, bands, part)
        return [planes[band] for band in bands]

    def read_quality(
        self,
        tile: Tile,
        rows: tuple[int, int] | None = None,
        cols: tuple[int, int] | None = None,
        shape: tuple[int, int] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """What a product's quality bands say of each pixel: indices into `QUALITY_CLASSES`, shape (H, W).

        All clear where the tile has no quality bands. `rows`, `cols` and `shape` as for `read`.
        """
        part = TilePart.of(tile, rows, cols, shape)
        if tile.parts:
            return joined_quality(self, tile, part)
        quality = tile.product.quality if tile.product is not None else None
        if quality is None or (quality.pixel is None and quality.saturation is None):
            return np.zeros(part.shape, np.uint8)
        pixel_HW, saturation_HW = (
            None if source is None else self._read_plane(tile, source, part, {})
            for source in (quality.pixel, quality.saturation)
        )
        return quality.classes(pixel_HW, saturation_HW)

    def _read_planes(self, tile: Tile, bands: Sequence[str], part: "TilePart") -> dict[str, npt.NDArray[Any]]:
        rasters: dict[Path, npt.NDArray[Any]] = {}
        return {band: self._read_plane(tile, tile.bands[band], part, rasters, band) for band in bands}

    def _read_plane(
        self,
        tile: Tile,
        source: BandSource,
        part: "TilePart",
        rasters: dict[Path, npt.NDArray[Any]],
        band: str = "of quality",
    ) -> npt.NDArray[Any]:
        """One plane on the tile's grid; `rasters` keeps what was read, for other bands of the same file."""
        if source.path not in rasters:
            rasters[source.path] = part.read(source)
        raster = rasters[source.path]
        plane: npt.NDArray[Any] = raster.mean(axis=0) if source.index is None else raster[source.index]
        if plane.shape != part.shape:
            raise BandError(band_size_message(tile.id, band, plane.shape, part.shape))
        return plane


def open_dataset(
    path: Path,
    scheme: str | None = None,
    zero_is_nodata: bool | None = None,
    *,
    without_damaged: bool = False,
    mosaic: str | None = None,
) -> Dataset:
    """Find the tiles of a folder (or a single file) and decide their class scheme.

    Reads every header and, to decide the scheme, every mask; no band is read.

    Parameters
    ----------
    path : Path
        A folder of one of the layouts of `layouts`, a folder within it, a TIFF, or a scene's archive or metadata.
    scheme : str, optional
        Name of the class scheme; else what `dataset.yaml` says, else decided over all masks.
    zero_is_nodata : bool, optional
        Whether a pixel with all bands zero is nodata; by default it is under bands and is not in pictures, where
        black is a value as any other.
    without_damaged : bool
        Leave out tiles whose files cannot be read or do not fit together, and note them in `Dataset.damaged`, as long
        as others remain.
    mosaic : str, optional
        How scenes that overlap are joined, one of `joining.RULES`; else what `dataset.yaml` says, else see
        `join_tiles`.

    Raises
    ------
    DataError
        If nothing opens as a data set, or the tiles' files do not fit together.
    """
    path = Path(path).expanduser().absolute()
    if not path.exists():
        raise DataError(f"{path} does not exist. Give a folder of tiles or a TIFF.")
    damaged: dict[str, str] = {}
    if without_damaged:
        root, everything, tiles, damaged = _find_sound_tiles(path)
    else:
        root, everything, tiles = find_tiles(path)
    rule = described_mosaic(root) if mosaic is None else check_rule(mosaic, "--mosaic")
    joined = join_tiles(tiles, rule, label_folder(root) if root.is_dir() else root / "label")
    if joined.tiles != tuple(tiles):
        # The masks are read where nothing else tells the scheme; those of a mosaic count then.
        tiles = everything = list(joined.tiles)
    bands = tuple(band for band in ALL_BANDS if any(band in tile.distinct_bands for tile in tiles))
    warnings = (*_usual_band_warnings(tiles), *unpaired_terrain(tiles), *_product_notes(tiles))
    if zero_is_nodata is None:
        zero_is_nodata = not any(tile.is_picture for tile in tiles)
    chosen, note = choose_scheme(root, everything, scheme, without_damaged=without_damaged)
    note = (*joined.notes, *note)
    units = described_units(root)
    return Dataset(root, tuple(tiles), chosen, bands, zero_is_nodata, (*warnings, *note), note, units, damaged)


def _find_sound_tiles(path: Path) -> tuple[Path, list[Tile], list[Tile], dict[str, str]]:
    """As `find_tiles`, without the tiles that are damaged, and why these are."""
    with leaving_out_damaged() as reasons:
        root, everything, tiles = find_tiles(path)
    damaged = {tile.id: reasons[tile.files[0]] for tile in tiles if not tile.height}
    if len(damaged) == len(tiles):
        raise DataError(next(iter(damaged.values())))
    damaged |= {path.name: reason for path, reason in reasons.items() if path.is_dir() or is_archive(path)}
    sound, wanted = ([tile for tile in some if tile.height] for some in (everything, tiles))
    return root, sound, wanted, damaged


def missing_band_warnings(tiles: Sequence[Tile], bands: Sequence[str]) -> tuple[str, ...]:
    """Say in which tiles bands are missing, one sentence for each such band.

    Elevation and slope are not missed when a data set is opened: who asks for them asks this, too.
    """
    missing: dict[str, list[str]] = {}
    for band in bands:
        for tile in tiles:
            if band not in tile.bands:
                missing.setdefault(band, []).append(tile.id)
    return tuple(
        f"Band {band} is missing in {len(ids)} of {len(tiles)} tiles "
        f"({', '.join(ids[:5])}{', …' if len(ids) > 5 else ''}); it reads as zeros, "
        "and a model is given its training mean instead."
        for band, ids in missing.items()
    )


def _usual_band_warnings(tiles: Sequence[Tile]) -> tuple[str, ...]:
    # Pictures have every plane that is asked of them.
    return missing_band_warnings([tile for tile in tiles if not tile.is_picture], CANONICAL_BANDS)


def _product_notes(tiles: Sequence[Tile]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for tile in tiles if tile.product is not None for note in tile.product.notes))
