"""A report as files: a page, tables as CSV, and the calibration."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_glacier.core.errors import SaveError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.inventory.calibration import curves_of
from napari_glacier.core.inventory.report_data import Area, Report

PAGE, AREAS, TILES, CALIBRATION = "report.html", "areas.csv", "tiles.csv", "calibration.json"


def check_folder(folder: Path, overwrite: bool = False) -> None:
    """Raise `SaveError` where a report would replace another one that may not be replaced."""
    present = [name for name in (PAGE, AREAS, TILES, CALIBRATION) if (folder / name).exists()]
    if present and not overwrite:
        raise SaveError(f"{folder} holds {present[0]} already. Name another folder, or say --overwrite.")


def write_report(folder: Path, report: Report, version: str, day: str, overwrite: bool = False) -> list[Path]:
    """Write a report into a folder, made where it is missing.

    Parameters
    ----------
    folder : Path
    report : Report
    version : str
        Of napari-glacier.
    day : str
        Date of the report.
    overwrite : bool
        Whether a report that is there may be replaced.

    Returns
    -------
    list of Path
        The page first.

    Raises
    ------
    SaveError
        If a report is there.
    """
    from napari_glacier.core.inventory.report_page import html_page

    check_folder(folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / AREAS, area_rows(report))
    write_csv(folder / TILES, tile_rows(report))
    written = [folder / PAGE, folder / AREAS, folder / TILES]
    if report.calibrations:
        text = json.dumps({"calibration": curves_of(report.calibrations)}, indent=2)
        write_text_atomically(folder / CALIBRATION, text + "\n")
        written.append(folder / CALIBRATION)
    else:
        # One of another report would be taken for this one's.
        (folder / CALIBRATION).unlink(missing_ok=True)
    write_text_atomically(folder / PAGE, html_page(report, version, day))
    return written


def area_rows(report: Report) -> list[dict[str, Any]]:
    """Areas of the whole map as plain rows."""
    return [_area_row(area) for area in report.areas]


def tile_rows(report: Report) -> list[dict[str, Any]]:
    """The table of tiles as plain rows: a column for each figure of each quantity."""
    rows = []
    for tile in report.tiles:
        row: dict[str, Any] = {"tile": tile.id, "review": tile.review}
        for name, area in tile.areas.items():
            key = name.replace(" + ", "_and_")
            row |= {f"{key}_{what}": value for what, value in _area_row(area).items() if what.endswith("km2")}
        row |= {"debris_ice_interface_km": tile.interface_km, "changed_by_correction_km2": tile.changed_km2}
        rows.append(row)
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV (UTF-8, comma, point), atomically; numbers with six digits, nothing where not known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _plain(value) for key, value in row.items()})
    write_text_atomically(path, text.getvalue())


def _area_row(area: Area) -> dict[str, Any]:
    kind = "" if area.low is None else ("calibrated" if area.is_calibrated else "uncalibrated envelope")
    return {
        "class": area.name,
        "pixels": area.pixels,
        "area_km2": area.mapped,
        "expected_km2": area.expected,
        "low_km2": area.low,
        "high_km2": area.high,
        "interval": kind,
    }


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else value
