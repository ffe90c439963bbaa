"""Make the bundled sample region: SYNTHETIC Landsat-like tiles with four-class masks, cut from one generated landscape.

    python -m napari_glacier._sample.generate --seed 9 --out sample_data/region

Nothing in it was measured: see README.md beside this file. The same seed gives the same pixels, bit for
bit, with the same versions of numpy and scipy.
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from napari_glacier._sample import landscape, radiometry, terrain
from napari_glacier._sample.illumination import Sun
from numpy.typing import NDArray

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.raster import GeoRef, write_mask, write_raster

logger = logging.getLogger(__name__)

DEFAULT_SEED = 9
EPSG = 32643
ORIGIN = (520_005.0, 3_780_015.0)  # easting and northing of the first pixel's corner; a made-up place
PIXEL_M = 30.0
SCHEME = "glacier4"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which tiles of the landscape's grid belong to which block, as (row, column) from the north-west.

    The default leaves one column of tiles between the blocks, so no training pixel touches a validation pixel.
    `gone` is the share of nodata holes by tile; `wedge_px` how far the slanted scene edge reaches into the north-west
    corner of the training block and the north-east corner of the validation block.
    """

    tile_px: int = 256
    train: tuple[tuple[int, int], ...] = tuple((row, col) for row in range(3) for col in range(3))
    val: tuple[tuple[int, int], ...] = tuple((row, col) for row in range(2) for col in (4, 5))
    gone: tuple[tuple[int, int, float], ...] = ((0, 2, 0.12), (2, 0, 0.22), (0, 4, 0.10))
    wedge_px: int = 210
    margin_px: int = 96

    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles that hold both blocks."""
        tiles = self.train + self.val
        return max(row for row, _ in tiles) + 1, max(col for _, col in tiles) + 1


@dataclass(frozen=True, slots=True)
class Scene:
    """Digital numbers (5, H, W) and class indices (H, W) over the whole grid of tiles, nodata already cut out."""

    image_CHW: NDArray[np.uint16]
    index_HW: NDArray[np.uint8]


def nodata(rng: np.random.Generator, layout: Layout) -> NDArray[np.bool_]:
    """Pixels without data: slanted wedges of the scene's edges and irregular holes, as masked clouds leave."""
    tile = layout.tile_px
    rows, cols = layout.grid()
    row_HW, col_HW = np.mgrid[: rows * tile, : cols * tile].astype(float)
    missing_HW = row_HW + 1.35 * col_HW < layout.wedge_px
    missing_HW |= row_HW + 1.35 * (cols * tile - 1 - col_HW) < 0.8 * layout.wedge_px
    local = (np.mgrid[:tile, :tile] + 0.5) / tile * 2.0 - 1.0
    for row, col, share in layout.gone:
        noise_HW = terrain.spectral_noise(rng, (tile, tile), 3.6, tile / 2) - 2.5 * (local**4).sum(axis=0)
        hole_HW = noise_HW > np.quantile(noise_HW, 1.0 - share)
        missing_HW[row * tile : (row + 1) * tile, col * tile : (col + 1) * tile] |= hole_HW
    return np.asarray(missing_HW, dtype=bool)


def make_scene(seed: int, layout: Layout) -> Scene:
    """Generate the landscape, light it and cut out nodata (labelled background).

    Raises
    ------
    ConfigError
        If the layout's tiles and margin do not add up to sides that are multiples of 8 pixels.
    """
    land_seed, light_seed, gap_seed = np.random.SeedSequence(seed).spawn(3)
    tile, margin = layout.tile_px, layout.margin_px
    rows, cols = layout.grid()
    land = landscape.build(
        np.random.default_rng(land_seed), (rows * tile + 2 * margin, cols * tile + 2 * margin), PIXEL_M
    )
    image_CHW = radiometry.render(land, Sun(), np.random.default_rng(light_seed))
    inner = slice(margin, margin + rows * tile), slice(margin, margin + cols * tile)
    image_CHW, index_HW = image_CHW[:, *inner].copy(), land.index_HW[inner].copy()
    missing_HW = nodata(np.random.default_rng(gap_seed), layout)
    image_CHW[:, missing_HW] = 0
    index_HW[missing_HW] = landscape.BACKGROUND
    return Scene(image_CHW, index_HW)


def write_region(out: Path, seed: int = DEFAULT_SEED, layout: Layout | None = None) -> Scene:
    """Write the region under `out`: train/ and val/ with a folder a band, train_masks/ and val_masks/, dataset.yaml.

    Raises
    ------
    SaveError
        If the folder cannot be written.
    """
    layout = layout or Layout()
    scene = make_scene(seed, layout)
    scheme = get_scheme(SCHEME)
    tile = layout.tile_px
    whole = GeoRef.from_epsg(EPSG, (PIXEL_M, 0.0, ORIGIN[0], 0.0, -PIXEL_M, ORIGIN[1]))
    note = {"SYNTHETIC": "yes", "SOURCE": f"napari-glacier sample region, generated from seed {seed}"}
    for split, tiles in (("train", layout.train), ("val", layout.val)):
        for folder in (*(out / split / band for band in CANONICAL_BANDS), out / f"{split}_masks"):
            folder.mkdir(parents=True, exist_ok=True)
        for row, col in tiles:
            area = slice(row * tile, (row + 1) * tile), slice(col * tile, (col + 1) * tile)
            georef = whole.offset(row * tile, col * tile)
            tile_id = f"{row:02d}_{col:02d}"
            for band, values_HW in zip(CANONICAL_BANDS, scene.image_CHW, strict=True):
                path = out / split / band / f"{band}_{tile_id}.tif"
                write_raster(path, values_HW[area], georef=georef, nodata=0, description=note)
            mask_path = out / f"{split}_masks" / f"mask_{tile_id}.tif"
            write_mask(mask_path, scene.index_HW[area], scheme, georef=georef, description=note)
            shares = np.bincount(scene.index_HW[area].ravel(), minlength=4) / tile**2
            nodata_share = float((scene.image_CHW[:, *area] == 0).all(axis=0).mean())
            mix = ", ".join(f"{name} {share:.1%}" for name, share in zip(scheme.class_names, shares, strict=True))
            logger.info("%s %s: %s, nodata %.1f%%", split, tile_id, mix, 100 * nodata_share)
    description = {
        "scheme": SCHEME,
        "synthetic": True,
        "seed": seed,
        "description": "SYNTHETIC glacier region made by napari_glacier._sample.generate; no pixel was ever measured.",
    }
    write_text_atomically(out / "dataset.yaml", yaml.safe_dump(description, sort_keys=False, width=110))
    return scene


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Generate the synthetic sample region.")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "region")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_region(given.out, given.seed)


if __name__ == "__main__":
    main()
