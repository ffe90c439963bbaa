"""Speed and exactness of what happens to data before a network sees them: textures, preparation, the doctor.

    python benchmarks/data.py [--json FILE] [--quick]

On one core. Figures: `texture_ms` (contrast and energy of a 512 x 512 tile), `texture_error` (largest relative
difference from scikit-image's on a sample of pixels), `prepare_tiles_per_s` and `prepare_over_rss_gb` (memory that
cutting a 15-band scene takes, above that of its libraries), `doctor_s_per_tile`.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from importlib.resources import files
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.doctor import examine
from napari_glacier.core.prepare.burning import ClassRule
from napari_glacier.core.prepare.hkh import HkhSettings, prepare_hkh
from napari_glacier.core.texture import HALO_PX, NUM_LEVELS, glcm_texture, grey_levels

TILE_PX = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    # Preparation first: the peak of memory is that of the whole process.
    figures = _prepare(1024 if options.quick else 4096) | _texture(3 if options.quick else 9) | _doctor()
    for name, value in figures.items():
        print(f"{name:>22}  {value:.4g}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _texture(rounds: int) -> dict[str, float]:
    """SWIR of the sample region, repeated to a whole tile."""
    from skimage.feature import graycomatrix, graycoprops

    dataset = open_dataset(Path(str(files("napari_glacier._sample"))) / "region")
    tile = next(tile for tile in dataset.tiles if dataset.read_valid(tile).mean() > 0.99)
    band_HW = np.tile(dataset.read(tile, ("B6",))[0][0], (2, 2))[:TILE_PX, :TILE_PX]
    valid_HW = band_HW > 0
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        contrast_HW, energy_HW = glcm_texture(band_HW, valid_HW)
        seconds.append(time.perf_counter() - started)
    rng, angles, errors = np.random.default_rng(0), [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], []
    while len(errors) < 100:
        row, col = rng.integers(HALO_PX, TILE_PX - HALO_PX, 2)
        window_HW = band_HW[row - HALO_PX : row + HALO_PX + 1, col - HALO_PX : col + HALO_PX + 1]
        if (window_HW <= 0).any():
            continue
        levels_HW = grey_levels(window_HW).astype(np.uint16)
        matrices = graycomatrix(levels_HW, [1], angles, NUM_LEVELS, symmetric=True, normed=True)
        for ours_HW, name in ((contrast_HW, "contrast"), (energy_HW, "energy")):
            theirs = graycoprops(matrices, name).mean()
            errors.append(abs(ours_HW[row, col] - theirs) / max(theirs, 1e-9))
    return {"texture_ms": 1000 * float(np.median(seconds)), "texture_error": float(max(errors))}


def _prepare(side: int) -> dict[str, float]:
    """A made-up Landsat 7 scene of 15 bands under one polygon with a hole."""
    import pyogrio
    import rasterio
    import shapely

    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        for name in ("HKH_images", "HKH_labels"):
            (raw / name).mkdir()
        profile = {"driver": "GTiff", "height": side, "width": side, "count": 15, "dtype": "uint8", "crs": "EPSG:32644"}
        rng = np.random.default_rng(0)
        place = rasterio.Affine(30, 0, 5e5, 0, -30, 3.5e6)
        with rasterio.open(raw / "HKH_images" / "s.tif", "w", transform=place, tiled=True, **profile) as file:
            for band in range(15):
                file.write(rng.integers(1, 255, (side, side), np.uint8), band + 1)
        edge = 30 * side
        ring, hole = shapely.box(5e5, 3.5e6 - edge, 5e5 + edge, 3.5e6), shapely.Point(5e5 + edge / 2, 3.5e6 - edge / 2)
        pyogrio.raw.write(
            raw / "HKH_labels" / "g.shp",
            np.array([shapely.to_wkb(ring - hole.buffer(edge / 4, 500))], object),
            [np.array(["Clean Ice"], object)],
            ["Glaciers"],
            geometry_type="Polygon",
            crs="EPSG:32644",
        )
        settings = HkhSettings(tile_px=TILE_PX if side > 2000 else 256, rule=ClassRule("Glaciers"))
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        steps = sum(1 for _ in prepare_hkh(raw, raw / "processed", settings))
        seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return {"prepare_tiles_per_s": steps / seconds, "prepare_over_rss_gb": grown}


def _doctor() -> dict[str, float]:
    region = Path(str(files("napari_glacier._sample"))) / "region"
    started = time.perf_counter()
    diagnosis = examine(region)
    return {"doctor_s_per_tile": (time.perf_counter() - started) / diagnosis.summary["tiles"]}


if __name__ == "__main__":
    main()
