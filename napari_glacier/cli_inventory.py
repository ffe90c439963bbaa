"""`napari-glacier outlines`, `report` and `corrections`: what an inventory takes from class maps and their journal."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args

from napari_glacier import __version__
from napari_glacier.core.correction.reviews import ReviewDemand
from napari_glacier.core.errors import ConfigError, DataError


def add_commands(commands: Any) -> None:
    """Add the subcommands to the parser's."""
    outlines = commands.add_parser("outlines", help="write class masks as polygons for a GIS, and polygons as masks")
    outlines.add_argument(
        "source", type=Path, metavar="SOURCE", help="a mask, a folder of masks, a dataset (its labels), or polygons"
    )
    outlines.add_argument(
        "--out", type=Path, required=True, metavar="FILE|DIR", help=".gpkg, .geojson or .shp; a folder with --like"
    )
    _add_data(outlines)
    _add_review(outlines)
    outlines.add_argument("--scheme", help="class scheme of the masks, where they do not tell")
    outlines.add_argument("--classes", nargs="+", default=(), metavar="CLASS", help="outline only these")
    outlines.add_argument(
        "--merge", nargs="+", default=(), metavar="CLASS", help="outline these as one: glacier debris"
    )
    outlines.add_argument(
        "--smooth",
        type=float,
        default=0.0,
        metavar="PX",
        help="simplify borders to this tolerance; 1 removes the stairs",
    )
    outlines.add_argument("--min-area", type=float, default=0.0, metavar="KM2", help="leave out smaller polygons")
    outlines.add_argument("--date", default="", metavar="YYYY-MM-DD", help="date of the images (src_date)")
    outlines.add_argument("--crs", metavar="EPSG:N", help="coordinate system of the file (default: the masks')")
    outlines.add_argument("--level", type=float, default=0.95, help="probability between area low and high")
    outlines.add_argument("--calibration", type=Path, metavar="FILE", help="calibration.json of a report")
    outlines.add_argument(
        "--like",
        type=Path,
        metavar="PATH",
        help="the way back: SOURCE holds polygons, write masks on the grid of these",
    )
    outlines.add_argument("--class", dest="class_name", metavar="CLASS", help="with --like: class of all polygons")
    outlines.add_argument("--overwrite", action="store_true", help="replace files that are there")
    outlines.set_defaults(run=_outlines)

    report = commands.add_parser("report", help="areas with intervals, change by correction, a page with maps")
    report.add_argument(
        "source", type=Path, metavar="SOURCE", help="a mask, a folder of masks, or a dataset (its labels)"
    )
    report.add_argument("--out", type=Path, required=True, metavar="DIR", help="report.html, areas.csv and tiles.csv")
    _add_data(report)
    report.add_argument("--labels", type=Path, metavar="PATH", help="corrected labels: a dataset or a folder of masks")
    report.add_argument(
        "--calibrate-on",
        nargs="+",
        default=(),
        metavar="TILE|SPLIT|all",
        help="labelled tiles that the model has not learnt from",
    )
    report.add_argument(
        "--glacier-classes",
        nargs="+",
        default=(),
        metavar="CLASS",
        help="four-class masks, two-class labels: what the labels call glacier, such as glacier debris",
    )
    _add_review(report)
    report.add_argument("--scheme", help="class scheme of the masks, where they do not tell")
    report.add_argument("--level", type=float, default=0.95, help="probability of the intervals")
    report.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    report.set_defaults(run=_report)
    _add_corrections(commands)


def _add_corrections(commands: Any) -> None:
    corrections = commands.add_parser("corrections", help="write what was corrected in a dataset as patches")
    corrections.add_argument("directory", type=Path, metavar="DATASET", help="a dataset with a journal")
    corrections.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="gets corrections.csv and a small GeoTIFF a patch"
    )
    corrections.add_argument(
        "--by", choices=("stroke", "tile"), default="stroke", help="a patch a stroke, or one a tile (default: stroke)"
    )
    corrections.add_argument("--scheme", help="class scheme of the masks, where they do not tell")
    corrections.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    corrections.set_defaults(run=_corrections)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="the masks' dataset: adds review states, and the georeference where the masks have none",
    )


def _add_review(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--review",
        choices=get_args(ReviewDemand),
        help="take only tiles that were reviewed so far (approved tiles count as edited, too)",
    )


def _outlines(options: argparse.Namespace) -> int:
    from napari_glacier.core.inventory.map_source import open_maps
    from napari_glacier.core.inventory.outline_files import DRIVERS, check_target, write_outlines
    from napari_glacier.core.inventory.outlines import OutlineOptions, outline_maps

    if options.like is not None:
        return _rasterise(options)
    check_target(options.out, options.overwrite)
    source = open_maps(options.source, options.scheme, options.data, options.review)
    wanted = OutlineOptions(
        smooth_px=options.smooth,
        min_area_km2=options.min_area,
        merge=tuple(options.merge),
        classes=tuple(options.classes),
        src_date=options.date,
        level=options.level,
    )
    calibrate = _calibration(options.calibration) if options.calibration is not None else None
    outlines = outline_maps(source, wanted, options.crs, calibrate)
    description = {"made_by": f"napari-glacier {__version__}", "source": str(options.source), "options": str(wanted)}
    write_outlines(options.out, outlines, options.overwrite, description)
    for note in outlines.notes:
        print(f"Note: {note}", file=sys.stderr)
    columns = outlines.columns
    for name in dict.fromkeys(columns["class"]):
        own = columns["class"] == name
        print(f"{name:>12}  {int(own.sum()):6d} polygons  {columns['area_km2'][own].sum():12,.3f} km²")
    system = "longitude and latitude" if DRIVERS[options.out.suffix.lower()] == "GeoJSON" else outlines.crs.name
    print(f"Written to {options.out} ({system})")
    return 0


def _corrections(options: argparse.Namespace) -> int:
    from napari_glacier.core.correction.journal import Journal
    from napari_glacier.core.correction.journal_place import journal_root
    from napari_glacier.core.correction.patch_files import export_corrections
    from napari_glacier.core.data.dataset import open_dataset

    dataset = open_dataset(options.directory, options.scheme)
    root = journal_root(dataset.root)
    if root is None:
        raise DataError(
            f"{dataset.root} has no journal: nothing was corrected in it yet. Correct its labels in napari first."
        )
    with Journal.open(root) as journal:
        rows = export_corrections(dataset, journal, options.out, options.by, overwrite=options.overwrite)
    pixels = sum(row["pixels"] for row in rows)
    print(f"{len(rows)} patches with {pixels:,} changed pixels and corrections.csv written to {options.out}")
    return 0


def _rasterise(options: argparse.Namespace) -> int:
    from napari_glacier.core.classes import get_scheme
    from napari_glacier.core.inventory.outline_files import rasterise_file

    scheme = get_scheme(options.scheme or "glacier4")
    written = rasterise_file(
        options.source, options.like, options.out, scheme, class_name=options.class_name, overwrite=options.overwrite
    )
    print(f"{len(written)} mask(s) written to {options.out} (scheme {scheme.name})")
    return 0


def _report(options: argparse.Namespace) -> int:
    from napari_glacier.core.data.dataset import is_dataset
    from napari_glacier.core.inventory.map_source import open_maps
    from napari_glacier.core.inventory.report import make_report
    from napari_glacier.core.inventory.report_files import check_folder, write_report

    check_folder(options.out, options.overwrite)
    # Review states are kept with the dataset, which is mostly that of the labels; a folder of masks has none.
    labelled = options.labels if options.labels is not None and is_dataset(options.labels) else None
    source_is_data = options.source.is_dir() and is_dataset(options.source)
    data = labelled if options.review is not None and not source_is_data else None
    source = open_maps(options.source, options.scheme, options.data or data, options.review)
    labels = None
    if options.labels is not None:
        # The labels have a scheme of their own where it is said how the two go together.
        labels_scheme = None if options.glacier_classes else options.scheme
        labels = open_maps(options.labels, labels_scheme, None, options.review if labelled is not None else None)
    report = make_report(
        source, labels, options.calibrate_on, options.level, glacier_classes=tuple(options.glacier_classes)
    )
    written = write_report(options.out, report, __version__, date.today().isoformat(), options.overwrite)
    for note in report.notes:
        print(f"Note: {note}", file=sys.stderr)
    print(_area_table(report))
    print(f"Written to {options.out}: {', '.join(path.name for path in written)}")
    return 0


def _area_table(report: Any) -> str:
    lines = [f"{'km²':<18}{'mask':>12}{'expected':>12}{'low':>12}{'high':>12}"]
    for area in report.areas:
        cells: Sequence[float | None] = (area.mapped, area.expected, area.low, area.high)
        lines.append(f"{area.name:<18}" + "".join(f"{'':>12}" if c is None else f"{c:12,.3f}" for c in cells))
    return "\n".join(lines)


def _calibration(path: Path) -> Any:
    """The curves that a report wrote, as a function of the class's name and its probabilities."""
    import numpy as np

    from napari_glacier.core.inventory.calibration import Curve

    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["calibration"]
        curves = {
            name: Curve(np.array(c["predicted"], float), np.array(c["observed"], float)) for name, c in kept.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no calibration. Give the calibration.json of a report.") from error

    def calibrate(name: str, probability_HW: Any) -> Any:
        if name not in curves:
            raise ConfigError(f"{path} calibrates {', '.join(curves)}, not {name}. Make a report of these masks first.")
        return curves[name](probability_HW)

    return calibrate
