"""Outlines of a mosaic: seconds and polygons, and whether the mask comes back from them.

    python benchmarks/outlines.py [--data DIR] [--smooth PX]

Without ``--data`` a made-up mask of 3072 x 3072 pixels is outlined, four classes as ragged as predictions are, with a
probability a class; with it the labels of a dataset, or a folder of masks. Times are those of one core.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.inventory.map_source import open_maps
from napari_glacier.core.inventory.outline_files import rasterise_file, write_outlines
from napari_glacier.core.inventory.outlines import OutlineOptions, outline_maps
from napari_glacier.core.raster import read_mask_codes, write_mask, write_raster
from napari_glacier.core.raster.georef import GeoRef

SIDE_PX = 3072


def main() -> None:
    """Parse, make the mask where none is given, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="a dataset (its labels), a mask or a folder of masks")
    parser.add_argument("--smooth", type=float, default=1.0, metavar="PX", help="tolerance of the smoothed outlines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options.data or _made_up(Path(folder) / "masks"), Path(folder), options.smooth)


def measure(source: Path, folder: Path, smooth_px: float) -> None:
    """Print what outlining costs."""
    maps = open_maps(source)
    for one in maps.maps:
        print(f"{one.name}: {one.shape[0]} x {one.shape[1]} pixels, {len(one.parts)} mask(s), {maps.scheme.name}")
    exact = _timed("outlines, exact", lambda: outline_maps(maps))
    print(f"  {'':<28} {len(exact.polygons):8d} polygons, {_vertices(exact):,} vertices")
    smoothed = _timed(f"outlines, smoothed ({smooth_px:g} px)", lambda: outline_maps(maps, OutlineOptions(smooth_px)))
    print(f"  {'':<28} {len(smoothed.polygons):8d} polygons, {_vertices(smoothed):,} vertices")
    for suffix in (".gpkg", ".geojson", ".shp"):
        path = folder / f"outlines{suffix}"
        _timed(f"written as {suffix}", lambda path=path: write_outlines(path, exact))  # type: ignore[misc]
    back = folder / "back"
    _timed("and back to masks", lambda: rasterise_file(folder / "outlines.gpkg", source, back, maps.scheme))
    changed = sum(
        int((maps.scheme.decode(read_mask_codes(mask.path)) != maps.scheme.decode(read_mask_codes(path))).sum())
        for mask in maps.masks
        for path in back.rglob(mask.path.name)
    )
    print(f"  {'pixels changed on the way':<28} {changed:8d}")


def _timed(title: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    result = work()
    print(f"  {title:<28} {time.perf_counter() - start:8.2f} s")
    return result


def _vertices(outlines: Any) -> int:
    import shapely

    return int(shapely.get_num_coordinates(outlines.polygons).sum())


def _made_up(folder: Path) -> Path:
    """Classes by the ranks of a rough field, with single pixels strewn in as a network leaves them."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    field_HW = sum(gaussian_filter(rng.normal(size=(SIDE_PX, SIDE_PX)), s) * s for s in (3, 12, 48))
    limits = np.quantile(field_HW, [0.66, 0.92, 0.98])
    index_HW = np.digitize(field_HW, limits).astype(np.uint8)
    speckled = rng.random(index_HW.shape) < 0.001
    index_HW[speckled] = rng.integers(0, 4, int(speckled.sum()))
    share_KHW = np.full((4, SIDE_PX, SIDE_PX), 0.02, np.float32)
    np.put_along_axis(share_KHW, index_HW[None], np.float32(0.94), axis=0)
    georef = GeoRef.from_epsg(32643, (30.0, 0.0, 5e5, 0.0, -30.0, 3.9e6))
    write_mask(folder / "scene.tif", index_HW, get_scheme("glacier4"), georef)
    write_raster(folder / "probabilities" / "scene.tif", share_KHW, georef)
    return folder


if __name__ == "__main__":
    main()
