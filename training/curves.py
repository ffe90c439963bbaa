"""A run's curves as a picture."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from napari_glacier.core.files import replacing

# Apart from each other for the common kinds of colour blindness (Okabe & Ito, 2008).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_SCORES = {"mcc": "MCC", "iou": "mean IoU", "f1": "F1"}
_STYLES = {"train": (0, (3, 1.5)), "val": "-"}


def draw_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw loss, its components, scores and learning rate over the epochs as a PNG.

    Parameters
    ----------
    path : Path
    rows : sequence of dict
        An epoch each, as in ``history.csv``; training curves are dashed.
    """
    # The object interface: pyplot would pick a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    components = loss_components(rows[-1])
    panels: list[tuple[str, dict[str, str]]] = [("Loss", {"loss": "loss"}), ("Scores", _SCORES)]
    if len(components) > 1:
        # Of one component the loss itself tells.
        panels.insert(1, ("Loss components, unweighted", {name: name for name in components}))
    figure = Figure(figsize=(4 * (len(panels) + 1), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    *curve_axes, rate_axes = figure.subplots(1, len(panels) + 1)
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 3 else None

    def curve(axes: Any, key: str, **style: Any) -> None:
        axes.plot(epochs, [row.get(key) for row in rows], marker=marker, markersize=4, linewidth=1.4, **style)

    for axes, (title, names) in zip(curve_axes, panels, strict=True):
        axes.set_title(title)
        for (name, label), color in zip(names.items(), cycle(_COLORS), strict=False):
            for split, style in _STYLES.items():
                curve(axes, f"{split}_{name}", color=color, linestyle=style, label=f"{split} {label}")
    rate_axes.set_title("Learning rate")
    rate_axes.set_yscale("log")
    curve(rate_axes, "lr", color=_COLORS[0])
    best = max((row["epoch"] for row in rows if row["best"]), default=None)
    for axes in (*curve_axes, rate_axes):
        if best is not None:
            axes.axvline(best, color="#888888", linewidth=0.8, linestyle=":", label=f"best: epoch {best}", zorder=0)
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, max(epochs[-1], 2) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in curve_axes:
        axes.legend(fontsize="x-small", handlelength=3.2, ncols=2 if axes is not curve_axes[0] else 1, framealpha=0.8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def loss_components(row: dict[str, Any]) -> list[str]:
    """Names of the loss terms that an epoch tells for training and for validation."""
    names = [key.removeprefix("train_") for key in row if key.startswith("train_")]
    return [name for name in names if name not in {"loss", *_SCORES} and f"val_{name}" in row]
