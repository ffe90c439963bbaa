"""The report as one HTML page: figures are embedded, nothing is loaded from elsewhere, and it prints."""

from collections.abc import Sequence
from html import escape
from typing import Any

from napari_glacier.core.inventory.calibration import Calibration
from napari_glacier.core.inventory.report_data import Area, Report
from napari_glacier.core.inventory.report_figures import (
    change_map,
    class_map,
    interval_chart,
    probability_map,
    reliability_chart,
)

# Maps beyond this many are in the tables only: a page of fifty maps is not read.
_MOST_MAPS = 6

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem; background: #fff; color: #1c2530;
       font: 16px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 2px solid #0072b2; }
p, li { max-width: 46rem; }
.facts { color: #4a5563; margin: 0 0 1rem; }
.notes { background: #fff6e5; border-left: 4px solid #e69f00; padding: .6rem 1rem; margin: 1rem 0; }
.notes p { margin: .3rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #dfe4ea; }
td { white-space: nowrap; }
th { font-weight: 600; color: #4a5563; vertical-align: bottom; }
th:first-child, td:first-child, .text { text-align: left; }
tbody tr:nth-child(even) { background: #f6f8fa; }
.swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem; border: 1px solid #1c2530; }
.wide { overflow-x: auto; font-size: .85rem; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #4a5563; font-size: .9rem; max-width: 46rem; }
footer { margin-top: 2.5rem; color: #4a5563; font-size: .85rem; }
@media print {
  @page { size: A4; margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; }
  figure, table:not(.long), .notes { break-inside: avoid; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
  .wide { overflow: visible; font-size: 7pt; }
  .wide th, .wide td { padding: .15rem .3rem; white-space: normal; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def html_page(report: Report, version: str, day: str) -> str:
    """The page as text.

    Parameters
    ----------
    report : Report
    version : str
        Of napari-glacier.
    day : str
        Date of the report.
    """
    body = [
        f"<h1>Glacier areas: {escape(report.title)}</h1>",
        f'<p class="facts">{_facts(report, day)}</p>',
        _notes(report.notes),
        _areas(report),
        _maps(report),
        _changes(report),
        _borders(report),
        _calibration(report),
        _tiles(report),
        f"<footer>Made by napari-glacier {escape(version)} on {escape(day)}. Areas are on the WGS84 ellipsoid, not in "
        "the map projection. Lengths of borders are estimated from crossings in four directions.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Glacier areas: {escape(report.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _facts(report: Report, day: str) -> str:
    facts = {**report.facts, "Date": day}
    return " · ".join(f"{escape(key)}: {escape(value)}" for key, value in facts.items())


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return '<div class="notes">' + "".join(f"<p>{escape(note)}</p>" for note in notes) + "</div>"


def _areas(report: Report) -> str:
    color_of = dict(zip(report.scheme.class_names, report.scheme.colors, strict=True))
    has_interval = any(area.low is not None for area in report.areas)
    calibrated = any(area.is_calibrated for area in report.areas)
    between = (
        f"{_percent(report.level)} interval, km²"
        if calibrated
        else f"{_percent(report.level)} envelope, km² (uncalibrated)"
    )
    head = [
        "Class",
        "Area, km²",
        *([f"{'Expected' if calibrated else 'Sum of probabilities'}, km²", between] * has_interval),
    ]
    rows = []
    for area in report.areas:
        swatch = color_of.get(area.name)
        name = (f'<span class="swatch" style="background:{swatch}"></span>' if swatch else "") + escape(area.name)
        rows.append([name, _km2(area.mapped), *([_km2(area.expected), _between(area)] * has_interval)])
    text = "<h2>Areas</h2>" + _table(head, rows)
    if not has_interval:
        return text
    if calibrated:
        text += (
            "<p>Area is that of the mask. Expected is the sum of calibrated probabilities: where the two differ, the "
            "mask leans to one side. The interval is for the true area as the labelled tiles define truth: it holds "
            "the errors of single pixels, how they go together over distance, and that of the calibration. It does not "
            "hold what the labels themselves have wrong, nor what makes this map unlike the labelled tiles.</p>"
        )
    else:
        text += (
            "<p>Area is that of the mask. The envelope goes from the pixels the model is sure of to those it does not "
            "rule out. How far such a model can be believed is not known, so it is no confidence interval.</p>"
        )
    return text + _figure(interval_chart(report.areas, color_of), "Area of the mask (bar) and interval (line).")


def _maps(report: Report) -> str:
    shown = sorted(report.scenes, key=lambda scene: -scene.index_HW.size)[:_MOST_MAPS]
    text = "<h2>Maps</h2>"
    if len(shown) < len(report.scenes):
        text += f"<p>The {len(shown)} largest of {len(report.scenes)} maps are shown.</p>"
    for scene in shown:
        text += _figure(class_map(scene), f"Classes of {scene.class_map.name}.")
        if scene.class_map.has_probabilities:
            picture, name, calibrated = probability_map(scene, report)
            kind = "Calibrated probability" if calibrated else "Probability (uncalibrated)"
            text += _figure(picture, f"{kind} of {name}: where it is neither 0 nor 1 the outline is in doubt.")
    return text


def _changes(report: Report) -> str:
    if not report.changes:
        return ""
    rows = [
        [
            escape(change.name),
            _km2(change.predicted),
            _km2(change.corrected),
            f"{change.corrected - change.predicted:+,.3f}",
            f"+{change.gained:,.3f}",
            f"−{change.lost:,.3f}",
        ]
        for change in report.changes
    ]
    head = ["Class", "Mask, km²", "Labels, km²", "Difference", "Gained", "Lost"]
    text = "<h2>Change by correction</h2><p>The mask against the labels, where there are labels.</p>" + _table(
        head, rows
    )
    scenes = [scene for scene in report.scenes if scene.labels_HW is not None]
    for scene in sorted(scenes, key=lambda scene: -scene.index_HW.size)[:_MOST_MAPS]:
        text += _figure(change_map(scene), f"What the labels change in {scene.class_map.name}.")
    return text


def _borders(report: Report) -> str:
    if report.interface_km is None and report.lakes is None:
        return ""
    rows = []
    if report.interface_km is not None:
        rows.append(["Border between clean ice and debris", f"{report.interface_km:,.2f} km"])
    if report.lakes is not None:
        lakes = report.lakes
        rows += [
            ["Lakes", f"{lakes.count} ({lakes.area_km2:,.3f} km²)"],
            ["Lakes that touch a glacier", f"{lakes.touching} ({lakes.touching_area_km2:,.3f} km²)"],
            ["Length of shore on ice or debris", f"{lakes.contact_km:,.2f} km"],
        ]
    return "<h2>Debris and lakes</h2>" + _table(["Measure", ""], rows)


def _calibration(report: Report) -> str:
    if not report.calibrations:
        return ""
    rows = [
        [
            escape(name),
            f"{one.before.error:.3f}",
            f"{one.after.error:.3f}",
            f"{one.before.brier:.4f}",
            f"{one.after.brier:.4f}",
            _together(one),
        ]
        for name, one in report.calibrations.items()
    ]
    head = ["Class", "Error before", "after", "Brier score before", "after", "Pixels that err together"]
    return (
        "<h2>Calibration</h2><p>Predicted probability against the share that is true, on the labelled tiles; each tile "
        "is judged by a curve that has not seen it. Error is the mean distance from the diagonal.</p>"
        + _table(head, rows)
        + _figure(
            reliability_chart(report.calibrations),
            "Reliability: on the diagonal a probability means what it says. Dots are larger where more pixels lie.",
        )
    )


def _together(calibration: Calibration) -> str:
    return f"{max(calibration.kernel.effective_px, 1):,.0f}"


def _tiles(report: Report) -> str:
    names = [area.name for area in report.areas]
    has_interval = any(area.low is not None for area in report.areas)
    head = ["Tile"]
    head += ["Review"] * any(tile.review for tile in report.tiles)
    for name in names:
        head += [f"{name}, km²", *(["low to high"] * has_interval)]
    head += ["ice–debris border, km"] * (report.interface_km is not None)
    head += ["changed, km²"] * bool(report.changes)
    rows = []
    for tile in report.tiles:
        row = [escape(tile.id)]
        row += [escape(tile.review)] * ("Review" in head)
        for name in names:
            area = tile.areas[name]
            row += [_km2(area.mapped), *([_between(area)] * has_interval)]
        row += [_km2(tile.interface_km)] * (report.interface_km is not None)
        row += [_km2(tile.changed_km2)] * bool(report.changes)
        rows.append(row)
    return "<h2>Tiles</h2>" + f'<div class="wide">{_table(head, rows, "long")}</div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table>'


def _figure(picture: str, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img src="{picture}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _between(area: Area) -> str:
    return "" if area.low is None else f"{_km2(area.low)} to {_km2(area.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _km2(value: Any) -> str:
    return "" if value is None else f"{value:,.3f}"
