"""Mapping a folder without napari-glacier being installed: what stands behind a bundle's ``solution.py``.

`write_bundle` copies this file with everything it imports. In the bundle nothing but torch,
segmentation-models-pytorch with what that needs, numpy and tifffile is there.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy.typing as npt
import yaml

from napari_glacier import __version__
from napari_glacier.core.bands import ALL_BANDS, CANONICAL_BANDS
from napari_glacier.core.channels import required_bands
from napari_glacier.core.data import dataset as datasets
from napari_glacier.core.data.dataset import Dataset, choose_scheme
from napari_glacier.core.data.layouts import find_tiles
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.data.tile_files import leaving_out_damaged
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import ConfigError, DataError, GlacierError
from napari_glacier.core.plain_yaml import read_yaml
from napari_glacier.core.raster import read_raster, write_raster
from napari_glacier.nn.stand_ins import equip_tifffile

DESCRIPTION = "bundle.yaml"
ENSEMBLE = "weights/ensemble.yaml"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a run wrote, and which tiles it left out with the reason for each."""

    written: tuple[Path, ...]
    skipped: Mapping[str, str]


def main(bundle: Path, arguments: Sequence[str] | None = None) -> int:
    """Map a folder by command.

    Parameters
    ----------
    bundle : Path
        Folder with `DESCRIPTION` and `ENSEMBLE`.
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        0: every tile has its mask; 1: some tiles were left out, or something else went wrong; 2: bad input.
    """
    parser = argparse.ArgumentParser(prog="solution.py", description="Write the class mask of every tile of a folder.")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with Band1 to Band5 (or B2 to B10)")
    parser.add_argument("--masks", metavar="DIR", help="accepted and not used")
    parser.add_argument("--out", required=True, metavar="DIR", help="where masks go, under Band1's names")
    parser.add_argument("--tta", choices=["off", "2", "6", "8"], help="test-time augmentation views (bundle.yaml)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--precision", choices=["auto", "fp32"], default="auto", help="number format of the networks")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        mapped = map_folder(
            bundle, options.data, options.out, tta=options.tta, device=options.device, precision=options.precision
        )
    except GlacierError as error:
        logger.error("solution.py: %s", error)
        return 2
    except OSError as error:
        logger.error("solution.py: %s (%s).", error.strerror or error, error.filename)
        return 1
    return 1 if mapped.skipped else 0


def map_folder(
    bundle: Path,
    data: str | Path | Mapping[str, str],
    out_dir: str | Path,
    *,
    tta: str | None = None,
    device: str = "auto",
    precision: Any = "auto",
) -> Mapped:
    """Write the class mask of every tile, in the scheme's codes, under the name of its first band.

    A tile that cannot be read is left out, and said.

    Parameters
    ----------
    bundle : Path
        As for `main`.
    data : str or Path, or mapping of band to folder
        A folder that `open_dataset` opens; or the band folders within one, as some contests hand them over.
    out_dir : str or Path
        Made where it is missing.
    tta, device, precision
        As for `Predictor`; the views are the bundle's by default.

    Raises
    ------
    GlacierError
        If the folder holds no tiles, the models do not fit it, or the masks would replace labels.
    """
    from napari_glacier.nn.device import tune_allocator

    # Before torch, which the modules below import.
    tune_allocator()
    from napari_glacier.nn.ensemble import resolve_models
    from napari_glacier.nn.outputs import refuse_source_folder
    from napari_glacier.nn.predictor import Predictor

    equip_tifffile()
    if find_spec("rasterio") is None:
        vars(datasets).update(read_part=_part_of_whole)
    out_dir = Path(out_dir).expanduser()
    dataset, skipped = _open(_folder(data))
    refuse_source_folder(dataset, out_dir)
    described = described_bundle(Path(bundle))
    if described is None:
        raise ConfigError(f"{bundle} holds no {DESCRIPTION} of a bundle. Keep solution.py in the folder it came in.")
    ensemble = resolve_models(Path(bundle) / ENSEMBLE)
    # Not OpenVINO, where it happens to be installed: a bundle computes alike everywhere.
    predictor = Predictor(
        ensemble, tta=tta or str(described["tta"]), device=device, precision=precision, engine="torch"
    )
    tiles = list(_readable(dataset, required_bands(ensemble.channels), skipped))
    own = dataset.scheme
    scheme = own if own is not None and own.class_names == ensemble.scheme.class_names else ensemble.scheme
    names = _mask_names(dataset.tiles)
    written: list[Path] = []
    for scene in plan_scenes(dataset, tiles) if tiles else ():
        run = predictor.run(scene)
        try:
            while True:
                next(run)
        except StopIteration as end:
            prediction = end.value
        except DataError as error:
            skipped |= {place.tile.id: str(error) for place in scene.placements}
            continue
        for warning in prediction.provenance["warnings"]:
            logger.warning("Note: %s", warning)
        for place in scene.placements:
            path = out_dir / names[place.tile.id]
            # Grey values and nothing beside them: readers of contests turn a colour table into colours.
            codes_HW = scheme.encode(prediction.index_HW[place.slices])
            write_raster(path, codes_HW, place.tile.georef, description=_note(ensemble.name, place.tile))
            written.append(path)
    for tile_id, reason in skipped.items():
        logger.error("Tile %s has no mask: %s", tile_id, reason)
    logger.info("%d of %d masks written to %s", len(written), len(written) + len(skipped), out_dir)
    return Mapped(tuple(written), skipped)


@lru_cache(maxsize=len(CANONICAL_BANDS))
def _whole(path: Path, number: int | None) -> npt.NDArray[Any]:
    return read_raster(path, number)


def _part_of_whole(
    path: Path,
    rows: tuple[int, int],
    cols: tuple[int, int] | None = None,
    shape: tuple[int, int] | None = None,
    number: int | None = None,
) -> npt.NDArray[Any]:
    """As `read_part`, which needs rasterio: parts of large tiles are cut from whole rasters, kept for the next.

    Nothing is ever looked at from afar here, so `shape` is not asked for.
    """
    assert shape is None
    return _whole(path, number)[:, slice(*rows), slice(*cols) if cols else slice(None)]


def _folder(data: str | Path | Mapping[str, str]) -> Path:
    if not isinstance(data, Mapping):
        path = Path(data).expanduser().absolute()
        if not path.exists():
            raise DataError(f"{path} does not exist. Give a folder of tiles.")
        return path
    parents = {Path(folder).absolute().parent for folder in data.values()}
    if len(parents) != 1:
        raise DataError(
            f"The band folders {', '.join(map(str, data.values())) or '(none)'} do not lie in one folder. "
            "Give the folder that holds Band1 to Band5."
        )
    return parents.pop()


def _open(path: Path) -> tuple[Dataset, dict[str, str]]:
    """As `open_dataset`, but tiles with damaged files, or files of different sizes, are left out, with the reason."""
    with leaving_out_damaged() as reasons:
        root, everything, found = find_tiles(path)
    everything, tiles = ([tile for tile in some if tile.height] for some in (everything, found))
    bands = tuple(band for band in ALL_BANDS if any(band in tile.distinct_bands for tile in tiles))
    try:
        scheme = choose_scheme(root, everything, None)[0]
    except DataError as error:
        # Masks say which codes to write, and are no more than that here.
        logger.warning("Note: %s The codes of the model are written.", error)
        scheme = None
    zero_is_nodata = not any(tile.is_picture for tile in tiles)
    skipped = {tile.id: reasons[tile.files[0]] for tile in found if not tile.height}
    return Dataset(root, tuple(tiles), scheme, bands, zero_is_nodata, ()), skipped


def _readable(dataset: Dataset, bands: Sequence[str], skipped: dict[str, str]) -> Iterator[Tile]:
    """Tiles whose pixels can be decoded; a damaged one would end the run of the whole mosaic."""
    for tile in dataset.tiles:
        try:
            dataset.read(tile, bands)
        except DataError as error:
            mend = " It may need imagecodecs: pip install imagecodecs." if "imagecodecs" in str(error) else ""
            skipped[tile.id] = f"{error}{mend}"
        else:
            yield tile


def _mask_names(tiles: Sequence[Tile]) -> dict[str, Path]:
    """Where each tile's mask goes; names that occur twice go by split, as `write_predictions` does."""
    from napari_glacier.core.data.tiles import raster_name

    counts = Counter(raster_name(tile.name) for tile in tiles)
    names = {tile.id: raster_name(tile.name) for tile in tiles}
    return {tile.id: Path(tile.split if counts[names[tile.id]] > 1 else "", names[tile.id]) for tile in tiles}


def _note(ensemble: str, tile: Tile) -> dict[str, str]:
    # The first entry lets a second run replace its own masks.
    return {"made_by": "napari-glacier", "version": __version__, "ensemble": ensemble, "tile": tile.id}


def described_bundle(folder: Path) -> dict[str, Any] | None:
    """What a bundle says of itself; None for any other folder.

    Raises
    ------
    ConfigError
        If its description cannot be read.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        return None
    try:
        described = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not YAML ({' '.join(str(error).split())}). Remove the folder, or choose another."
        ) from error
    ours = isinstance(described, dict) and str(described.get("made_by", "")).startswith("napari-glacier")
    return described if ours else None
