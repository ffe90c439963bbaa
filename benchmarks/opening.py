"""How fast a full Landsat scene opens, how much memory that takes, and what zooming and panning cost.

    python benchmarks/opening.py [--size 7800] [--plain] [--folder DIR]

Makes a Landsat-8 Level-1 scene (five bands and QA_PIXEL, 16 bit) in cloud-optimised files as USGS delivers them, or
with ``--plain`` in rows without overviews, as other programs write them. Each figure is taken in a fresh process.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from napari_glacier.core.models.training_memory import peak_memory_gb

SCENE = "LC08_L1TP_149035_20200731_20200908_02_T1"
# The part of a screen that shows the scene.
_CANVAS_PX = (900, 1000)


def write_scene(folder: Path, size_px: int, plain: bool) -> None:
    """Smooth terrain with noise, a border of fill as on real scenes."""
    import rasterio
    import rasterio.shutil
    from scipy.ndimage import zoom

    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    relief_HW = zoom(rng.random((40, 40)), size_px / 40, order=1)[:size_px, :size_px].astype(np.float32)
    rows, cols = np.indices((size_px, size_px), np.int32)
    inside_HW = (rows + cols * 0.2 > size_px * 0.15) & (rows + cols * 0.2 < size_px * 1.05)
    del rows, cols
    layout = {"width": size_px, "height": size_px, "count": 1, "dtype": "uint16", "crs": "EPSG:32643"}
    transform = rasterio.Affine(30, 0, 300_000, 0, -30, 4_200_000)
    for k, band in enumerate(("B2", "B3", "B4", "B6", "B10", "QA_PIXEL")):
        if band == "QA_PIXEL":
            plane_HW = np.where(inside_HW, 21824, 1).astype(np.uint16)
        else:
            noise = rng.integers(0, 400, (size_px, size_px), np.uint16)
            plane_HW = (8_000 + 20_000 * relief_HW * (1 - 0.1 * k)).astype(np.uint16) + noise
            plane_HW[~inside_HW] = 0
        path = folder / f"{SCENE}_{band}.TIF"
        first = folder / "plain.tmp" if not plain else path
        with rasterio.open(first, "w", driver="GTiff", transform=transform, compress="deflate", **layout) as file:
            file.write(plane_HW, 1)
        if not plain:
            rasterio.shutil.copy(first, path, driver="COG", compress="deflate", predictor="yes", blocksize=256)
            first.unlink()


def measure(folder: Path) -> None:
    """Print what opening and looking cost in this process."""
    import rasterio  # noqa: F401 - imports are not the scene's cost

    from napari_glacier.controllers.session import Session

    before_mb = _peak_mb()
    start = time.perf_counter()
    session = Session.open(folder)
    print(f"  session          {1000 * (time.perf_counter() - start):8.0f} ms")
    layers = session.layer_data()
    took_ms = 1000 * (time.perf_counter() - start)
    print(f"  with its layers  {took_ms:8.0f} ms   +{_peak_mb() - before_mb:.0f} MB at most")
    composite = next(data for data, arguments, _ in layers if arguments.get("rgb") and arguments["visible"])
    levels = composite if isinstance(composite, list) else [composite]
    print(f"  levels           {[level.shape[:2] for level in levels]}")
    for title, number in (("coarsest level", -1), ("level for a canvas", max(len(levels) - 2, 0)), ("full size", 0)):
        level = levels[number]
        top, left = (max((length - px) // 2, 0) for length, px in zip(level.shape[:2], _CANVAS_PX, strict=True))
        part = (slice(top, top + _CANVAS_PX[0]), slice(left, left + _CANVAS_PX[1]), slice(None))
        for again in ("first", "again"):
            start = time.perf_counter()
            level[part]
            print(f"  {title:<18} {again} {1000 * (time.perf_counter() - start):7.0f} ms")
    start = time.perf_counter()
    session.mask[4000:4020, 4000:4020] = 1
    print(f"  a stroke of 20 px  {1000 * (time.perf_counter() - start):9.0f} ms")
    print(f"  peak memory      {_peak_mb() - before_mb:8.0f} MB over {before_mb:.0f} MB of the program")
    session.close()


def _peak_mb() -> float:
    return 1000 * peak_memory_gb()


def main() -> None:
    """Make the scene, then measure in another process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=7800, help="pixels along a side")
    parser.add_argument("--plain", action="store_true", help="files in rows, without overviews")
    parser.add_argument("--folder", type=Path, help="where the scene is made and kept (default: a temporary folder)")
    parser.add_argument("--as", dest="step", choices=("write", "measure"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "write":
        write_scene(options.folder, options.size, options.plain)
        return
    if options.step == "measure":
        measure(options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)) / SCENE
        # Each step in a process of its own, so that one's peak of memory is not the other's.
        again = [sys.executable, __file__, "--folder", str(folder), "--size", str(options.size)]
        if not folder.is_dir():
            subprocess.run([*again, "--as", "write", *(["--plain"] if options.plain else [])], check=True)
        kind = "rows, no overviews" if options.plain else "cloud-optimised"
        print(f"{options.size} x {options.size} x 5, {kind}")
        subprocess.run([*again, "--as", "measure"], check=True)


if __name__ == "__main__":
    main()
