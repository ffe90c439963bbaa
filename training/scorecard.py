"""What a cross-validation is worth, at a glance: scores with intervals over tiles, a line a tile, and the calibration.

Shapes: T tiles, V sets of pixels (all, valid), K classes, N pixels.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.files import replacing, write_text_atomically
from napari_glacier.core.inventory.calibration import Reliability, reliability
from napari_glacier.core.models.bootstrap import FEW_TILES, LEVEL, score_tiles
from training.thresholds import PixelSample

SCORES_TABLE, CALIBRATION_TABLE, PICTURE = "scores.csv", "calibration.csv", "scorecard.png"

_TITLES = {"all_pixels": "all pixels", "valid_pixels": "valid pixels"}
_COLORS = {"all_pixels": "#0072b2", "valid_pixels": "#d55e00"}
# More tiles than this make lines too thin to read; the table has them all.
_MOST_DRAWN = 60


def intervals(
    counts_TVKK: npt.NDArray[np.int64], class_names: Sequence[str], draws: int, seed: int = 0
) -> dict[str, Any]:
    """Pooled scores with bootstrap intervals over tiles, as plain values for a report."""
    found = score_tiles(counts_TVKK, class_names, draws=draws, seed=seed)
    rows = {key: [score.as_dict() for score in scores] for key, scores in found.items()}
    return {"level": LEVEL, "draws": draws, "seed": seed, "tiles": len(counts_TVKK), **rows}


def calibration_of(sample: PixelSample, scheme: ClassScheme) -> dict[str, Any]:
    """Reliability of each class on the valid pixels of a sample: bins, Brier score, expected calibration error.

    Returns
    -------
    dict of class name to dict
        `predicted` and `observed` are None in empty bins, both scores None where there is no pixel.
    """
    probabilities_KN, truth_N = sample.arrays()
    return {name: _as_dict(reliability(probabilities_KN[k], truth_N == k)) for k, name in enumerate(scheme.class_names)}


def scorecard(metrics: Mapping[str, Any]) -> str:
    """The scores as text: a line a tile, the pooled ones with their intervals, and how far probabilities are off."""
    level, names = metrics["intervals"]["level"], [*metrics["all_pixels"]["per_class"]]
    shown = names[1:]  # of the background nobody asks
    heads = "".join(f"{f'IoU {name}':>14}" for name in shown)
    width = max([len(record["tile"]) for record in metrics["tiles"]] + [12])
    lines = [f"{'tile':<{width}}  fold{'MCC':>9}{'valid':>9}{heads}"]
    for record in metrics["tiles"]:
        ious = "".join(f"{_cell(record['all_pixels']['per_class'][name]['iou']):>14}" for name in shown)
        scores = "".join(f"{record[key]['mcc']:>9.4f}" for key in _TITLES)
        lines.append(f"{record['tile']:<{width}}{record['fold']:>6}{scores}{ious}")
    lines.append(f"pooled, with {level:.0%} intervals over {len(metrics['tiles'])} tiles:")
    for key, title in _TITLES.items():
        for row in metrics["intervals"][key]:
            if row["score"] == "f1" or row["class_name"] == names[0]:
                continue
            name = "MCC" if row["class_name"] is None else f"IoU {row['class_name']}"
            between = "" if row["low"] is None else f"   {row['low']:.4f} to {row['high']:.4f}"
            lines.append(f"  {title:<13}{name:<14}{_cell(row['value']):>8}{between}")
    off = ", ".join(f"{name} {_cell(metrics['calibration'][name]['ece'])}" for name in shown)
    lines.append(f"expected calibration error, valid pixels: {off}")
    if len(metrics["tiles"]) < FEW_TILES:
        lines.append(f"{len(metrics['tiles'])} tiles are few: the intervals are rough themselves.")
    return "\n".join(lines)


def write_scorecard(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write the pooled scores and the calibration as CSV files, and both with the tiles as a picture."""
    rows = [{"counted": key, **row} for key in _TITLES for row in metrics["intervals"][key]]
    _write_csv(folder / SCORES_TABLE, ["counted", "score", "class_name", "value", "low", "high"], rows)
    bins = []
    for name, curve in metrics["calibration"].items():
        columns = zip(curve["predicted"], curve["observed"], curve["pixels"], strict=True)
        bins += [{"class_name": name, "predicted": p, "observed": o, "pixels": n} for p, o, n in columns if n]
    _write_csv(folder / CALIBRATION_TABLE, ["class_name", "predicted", "observed", "pixels"], bins)
    _draw(folder / PICTURE, metrics)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # None is written as an empty cell
    write_text_atomically(path, text.getvalue())


def _as_dict(found: Reliability) -> dict[str, Any]:
    any_px = bool(found.pixels.sum())
    return {
        "predicted": [_plain(value) for value in found.predicted],
        "observed": [_plain(value) for value in found.observed],
        "pixels": found.pixels.tolist(),
        "brier": _plain(found.brier),
        "ece": found.error if any_px else None,
    }


def _draw(path: Path, metrics: Mapping[str, Any]) -> None:
    # The object interface: pyplot would pick a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tiles = sorted(metrics["tiles"], key=lambda record: record["all_pixels"]["mcc"])
    drawn = tiles[:_MOST_DRAWN]
    figure = Figure(figsize=(9.6, max(4.2, 1.2 + 0.2 * len(drawn))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    for key, title in _TITLES.items():
        pooled = next(row for row in metrics["intervals"][key] if row["score"] == "mcc")
        between = "" if pooled["low"] is None else f" ({pooled['low']:.3f} to {pooled['high']:.3f})"
        if pooled["low"] is not None:
            left.axvspan(pooled["low"], pooled["high"], color=_COLORS[key], alpha=0.12, linewidth=0)
        left.axvline(pooled["value"], color=_COLORS[key], linewidth=1.2)
        left.plot(
            [record[key]["mcc"] for record in drawn],
            range(len(drawn)),
            "o",
            color=_COLORS[key],
            markersize=5,
            label=f"{title}: {pooled['value']:.3f}{between}",
        )
    left.set_yticks(range(len(drawn)), [f"{record['tile']} · {record['fold']}" for record in drawn], fontsize=7)
    left.set_xlabel("MCC out of fold")
    level = f"{metrics['intervals']['level']:.0%}"
    left.set_title(f"Tiles (· fold); lines: pooled, bands: {level} intervals", fontsize=9)
    left.grid(axis="x", alpha=0.25)
    _draw_calibration(right, metrics)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", facecolor="white")


def _draw_calibration(axes: Any, metrics: Mapping[str, Any]) -> None:
    colors = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--")
    # Of two classes one curve says it all; the other is its mirror image.
    for number, (name, curve) in enumerate(list(metrics["calibration"].items())[1:]):
        pixels = np.asarray(curve["pixels"], float)
        filled = pixels > 0
        predicted, observed = (np.asarray(curve[key], float)[filled] for key in ("predicted", "observed"))
        color = colors[number % len(colors)]
        axes.plot(predicted, observed, color=color, linewidth=1)
        share = pixels[filled] / max(pixels.sum(), 1)
        axes.scatter(
            predicted,
            observed,
            s=12 + 240 * share,
            color=color,
            label=f"{name}: off by {_cell(curve['ece'])}",
        )
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share that is true")
    axes.set_title("Calibration on valid pixels (size: share of them)", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="upper left", frameon=False)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _cell(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"
