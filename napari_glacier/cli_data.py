"""The commands around data: `prepare hkh`, `prepare tiles`, `splits`, `submit`."""

import argparse
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from napari_glacier.core.prepare.preparing import Progress

Result = TypeVar("Result")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no seed: give 0, 1, 2, …")
    return int(text)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommands."""
    prepare = commands.add_parser("prepare", help="make tiles for training from scenes and outlines")
    kinds = prepare.add_subparsers(dest="kind", required=True, metavar="hkh|tiles")

    hkh = kinds.add_parser("hkh", help="from the raw images and outlines of the Hindu Kush Himalaya data")
    hkh.add_argument("raw", type=Path, metavar="DIR", help="holds HKH_images, HKH_labels and metadata.csv")
    hkh.add_argument("--out", type=Path, metavar="DIR", help="where the folder `processed` goes (default: DIR itself)")
    hkh.add_argument("--tile-px", type=int, default=512, metavar="N", help="side of a tile (default: 512)")
    hkh.add_argument("--overlap", type=float, default=0.1, metavar="SHARE", help="overlap of tiles (default: 0.1)")
    hkh.add_argument(
        "--min-glacier-px", type=int, default=100, metavar="N", help="keep tiles with so many (default: 100)"
    )
    hkh.add_argument("--min-debris-px", type=int, metavar="N", help="filtered set: at least so many, as in 500")
    hkh.add_argument("--min-lake-px", type=int, metavar="N", help="filtered set: or at least so many, as in 50")
    hkh.add_argument(
        "--max-background", type=float, default=0.8, metavar="SHARE", help="filtered set: at most (default: 0.8)"
    )
    hkh.add_argument("--high-gain-thermal", action="store_true", help="thermal is B6_2 (position 6), not B6_1")
    hkh.add_argument("--terrain", action="store_true", help="keep elevation and slope, too")
    hkh.add_argument("--region-column", metavar="NAME", help="of metadata.csv, where it is not called region")
    hkh.add_argument("--val-fraction", type=float, default=0.15, metavar="SHARE", help="held out (default: 0.15)")
    hkh.add_argument("--seed", type=_seed, default=0)
    _add_rule(hkh)
    hkh.set_defaults(run=_prepare_hkh)

    tiles = kinds.add_parser("tiles", help="from any scene and outlines: train/B2 … and train_masks")
    tiles.add_argument("scene", type=Path, metavar="SCENE", help="a multi-band GeoTIFF, or a folder of tiles")
    tiles.add_argument(
        "--outlines",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="shapefiles, GeoPackages or GeoJSON",
    )
    tiles.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, or one that was begun")
    tiles.add_argument(
        "--bands", type=int, nargs=5, metavar="N", help="which bands of the GeoTIFF (from 1) are B2, B3, B4, B6, B10"
    )
    tiles.add_argument("--tile-px", type=int, default=512, metavar="N", help="side of a tile (default: 512)")
    tiles.add_argument("--overlap-px", type=int, default=0, metavar="N", help="overlap of tiles (default: 0)")
    tiles.add_argument(
        "--min-glacier-px", type=int, default=0, metavar="N", help="keep tiles with so many labelled pixels"
    )
    tiles.add_argument("--scheme", choices=["glacier2", "glacier4", "glacier4-index"], help="classes of the masks")
    add_mosaic_rule(tiles)
    _add_rule(tiles)
    tiles.set_defaults(run=_prepare_tiles)

    splits = commands.add_parser("splits", help="share labelled tiles out to folds, in a file that you can change")
    splits.add_argument("directory", type=Path, metavar="DIR", help="a folder of tiles with masks")
    splits.add_argument("--folds", type=int, metavar="N", help="so many folds (default: one hold-out)")
    splits.add_argument(
        "--val-fraction", type=float, default=0.15, metavar="SHARE", help="held out without --folds (default: 0.15)"
    )
    splits.add_argument("--seed", type=_seed, default=0)
    splits.add_argument("--scheme", help="class scheme of the masks")
    splits.add_argument("--out", type=Path, metavar="FILE", help="the file (default: splits.yaml in DIR)")
    splits.set_defaults(run=_splits)

    submit = commands.add_parser("submit", help="write predicted salt masks as the table that the competition takes")
    submit.add_argument("--data", type=Path, metavar="DIR", help="predicted masks; with --validate: what has the ids")
    submit.add_argument("--out", type=Path, default=Path("submission.csv"), metavar="FILE", help="the table")
    submit.add_argument("--validate", type=Path, metavar="FILE", help="check a table instead of writing one")
    submit.add_argument("--side-px", type=int, default=101, metavar="N", help="side of the masks (default: 101)")
    submit.set_defaults(run=_submit)


def add_mosaic_rule(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how overlapping scenes are joined."""
    parser.add_argument(
        "--mosaic",
        metavar="RULE",
        help="how overlapping scenes are joined: newest-clear, newest, name, or apart (default: neighbours by "
        "newest-clear, several dates of one place apart)",
    )


def _add_rule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--attribute", metavar="NAME", help="attribute of the outlines that tells the class")
    parser.add_argument(
        "--class",
        dest="classes",
        nargs="+",
        action="extend",
        default=[],
        metavar="VALUE=CLASS",
        help="what a value means: background, glacier, debris or lake; '*=background' for all others",
    )
    parser.add_argument("--outline-crs", metavar="CRS", help="of outlines that name none, as in EPSG:4326")


def _prepare_hkh(options: argparse.Namespace) -> int:
    from napari_glacier.core.prepare.burning import ClassRule
    from napari_glacier.core.prepare.hkh import HkhSettings, prepare_hkh

    rule = ClassRule.parse(options.attribute, options.classes)
    settings = HkhSettings(
        tile_px=options.tile_px,
        overlap=options.overlap,
        min_glacier_px=options.min_glacier_px,
        min_debris_px=options.min_debris_px,
        min_lake_px=options.min_lake_px,
        max_background=options.max_background,
        high_gain_thermal=options.high_gain_thermal,
        terrain=options.terrain,
        val_fraction=options.val_fraction,
        seed=options.seed,
        region_column=options.region_column,
        rule=rule if options.attribute is not None else None,
        outline_crs=options.outline_crs,
    )
    out = (options.raw if options.out is None else options.out).expanduser().absolute() / "processed"
    prepared = _with_bar(prepare_hkh(options.raw, out, settings))
    _say([*prepared.notes, f"{prepared.num_slices} tiles, {prepared.num_filtered} of them in the filtered set."])
    _say([str(prepared.folder)])
    return 0


def _prepare_tiles(options: argparse.Namespace) -> int:
    from napari_glacier.core.prepare.burning import ClassRule
    from napari_glacier.core.prepare.tiles import TileSettings, prepare_tiles

    settings = TileSettings(
        tile_px=options.tile_px,
        overlap_px=options.overlap_px,
        min_glacier_px=options.min_glacier_px,
        rule=ClassRule.parse(options.attribute, options.classes),
        outline_crs=options.outline_crs,
        bands=None if options.bands is None else tuple(options.bands),
        scheme=options.scheme,
        mosaic=options.mosaic,
    )
    out = options.out.expanduser().absolute()
    prepared = _with_bar(prepare_tiles(options.scene, options.outlines, out, settings))
    _say(
        [
            *prepared.notes,
            f"{prepared.num_tiles} tiles of {prepared.num_scenes} scene(s), classes {prepared.scheme.name}.",
        ]
    )
    _say([str(prepared.folder)])
    return 0


def _splits(options: argparse.Namespace) -> int:
    from napari_glacier.core.data.split_file import SPLITS_FILE, make_splits, write_splits

    dataset, split_of, parts = make_splits(
        options.directory, options.folds, options.val_fraction, options.seed, options.scheme
    )
    folder = options.directory.expanduser()
    out = (options.out or (folder if folder.is_dir() else dataset.root) / SPLITS_FILE).expanduser().absolute()
    write_splits(out, split_of, dataset)
    names = dataset.scheme.class_names if dataset.scheme else ()
    for part in parts:
        total = max(sum(part.pixels_K), 1)
        mix = ", ".join(f"{name} {n / total:.1%}" for name, n in zip(names, part.pixels_K, strict=True))
        _say([f"{part.name}: {len(part.tiles)} tiles ({mix}). {part.leakage.summary()}"])
    _say([str(out)])
    return 0


def _submit(options: argparse.Namespace) -> int:
    from napari_glacier.core.errors import ConfigError
    from napari_glacier.core.submission import check_submission, mask_names, write_submission

    if options.side_px < 1:
        raise ConfigError(f"--side-px is {options.side_px}. A mask has at least one pixel.")
    if options.validate is not None:
        expected = None if options.data is None else mask_names(options.data)
        faults = check_submission(options.validate, options.side_px, expected)
        _say(faults or [f"{options.validate} is sound."])
        return 2 if faults else 0
    if options.data is None:
        raise ConfigError("Say which masks with --data DIR, or which table to check with --validate FILE.")
    made = write_submission(options.data, options.out, options.side_px)
    if made.kept is not None:
        _say([f"The table that was there is kept as {made.kept}."])
    reduced = f", {made.num_reduced} reduced to {options.side_px} px" if made.num_reduced else ""
    _say([f"{made.num_masks} masks, {made.num_empty} of them empty{reduced}; {made.share:.1%} of all pixels are salt."])
    _say([str(made.path)])
    return 0


def _with_bar(run: "Generator[Progress, None, Result]") -> Result:
    """Run a preparation with a progress bar; gives what it returns."""
    from tqdm import tqdm

    with tqdm(total=None, unit="tile", disable=None) as bar:
        while True:
            try:
                progress = next(run)
            except StopIteration as end:
                result: Result = end.value
                return result
            bar.total = progress.total
            bar.set_description(progress.what, refresh=False)
            bar.update(progress.done - bar.n)


def _say(lines: Sequence[str]) -> None:
    from tqdm import tqdm

    for line in lines:
        tqdm.write(line)
