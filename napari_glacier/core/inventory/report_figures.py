"""Figures of a report, as PNGs in data addresses. Colours stay apart for colour-blind readers (Okabe and Ito 2008)."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.inventory.calibration import Calibration, Reliability
from napari_glacier.core.inventory.report_data import Area, Report, Scene, quantities_of
from napari_glacier.core.raster.projection import pixel_size_m

_MOST_PX = 1400
_LAND, _OUTSIDE = "#e3e3df", "#ffffff"
_BEFORE, _AFTER = "#d55e00", "#0072b2"
_GAINED, _LOST, _OTHER, _SAME = "#0072b2", "#d55e00", "#cc79a7", "#bdbdbd"


def class_map(scene: Scene) -> str:
    """The classes in the scheme's colours, with tile borders, a legend and a scale bar."""
    scheme = scene.class_map.scheme
    colors = [_OUTSIDE, _LAND, *scheme.colors[1:]]
    picture = np.where(scene.owner_HW >= 0, scene.index_HW + 1, 0)
    present = [k for k in range(1, scheme.num_classes) if (scene.index_HW == k).any()]
    legend = [(scheme.class_names[k], scheme.colors[k]) for k in present] + [("background, nodata", _LAND)]
    return _map(scene, picture, colors, legend, tile_names=True)


def change_map(scene: Scene) -> str:
    """What labels change: gained, lost, and turned into another class."""
    assert scene.labels_HW is not None
    assert scene.compared_HW is not None
    before, after = scene.compared_HW, scene.labels_HW
    compared = (after != IGNORE_INDEX) & (scene.owner_HW >= 0)
    picture = np.where(scene.owner_HW >= 0, 1, 0)
    picture[compared & (before == after) & (after > 0)] = 2
    picture[compared & (before == 0) & (after > 0)] = 3
    picture[compared & (before > 0) & (after == 0)] = 4
    legend = [("as in the mask", _SAME), ("gained", _GAINED), ("lost", _LOST)]
    turned = compared & (before != after) & (before > 0) & (after > 0)
    if turned.any():
        picture[turned] = 5
        legend.append(("another class", _OTHER))
    return _map(scene, picture, [_OUTSIDE, _LAND, _SAME, _GAINED, _LOST, _OTHER], legend)


def probability_map(scene: Scene, report: Report) -> tuple[str, str, bool]:
    """Probability of ice (with debris, where there is such a class); the picture, of what, and whether calibrated."""
    from matplotlib import colormaps

    quantities = quantities_of(report.scheme)
    quantity = next((q for q in quantities if "+" in q.name), quantities[0])
    values_HW = scene.class_map.read_probability(quantity.classes, scene.owner_HW)
    calibration = report.calibrations.get(quantity.name)
    if calibration is not None:
        values_HW = calibration.curve(values_HW)
    step = _step(values_HW.shape)
    figure, axes = _canvas(values_HW.shape)
    colors = colormaps["cividis"].with_extremes(bad=_OUTSIDE)
    image = axes.imshow(values_HW[::step, ::step], cmap=colors, vmin=0, vmax=1, interpolation="nearest")
    _scale_bar(axes, scene, step)
    figure.colorbar(image, ax=axes, fraction=0.035, pad=0.02, label=f"probability of {quantity.name}")
    return _png(figure), quantity.name, calibration is not None


def reliability_chart(calibrations: Mapping[str, Calibration]) -> str:
    """Reliability before and after calibration, one panel a quantity."""
    from matplotlib.figure import Figure

    count = len(calibrations)
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.0 * columns, 3.3 * rows), layout="constrained")
    for number, (name, one) in enumerate(calibrations.items(), 1):
        axes = figure.add_subplot(rows, columns, number, aspect="equal")
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--")
        _dots(axes, one.before, _BEFORE, "s", "as predicted")
        _dots(axes, one.after, _AFTER, "o", "calibrated")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=name, xlabel="predicted probability")
        if (number - 1) % columns == 0:
            axes.set_ylabel("share that is true")
        if number == 1:
            axes.legend(loc="upper left", frameon=False, fontsize=8)
    return _png(figure)


def interval_chart(areas: Sequence[Area], color_of: Mapping[str, str]) -> str:
    """Areas of the mask as bars, intervals as lines with dots at the expected areas."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.55 * len(areas) + 1.0), layout="constrained")
    axes = figure.add_subplot()
    for place, area in enumerate(areas):
        axes.barh(
            place,
            area.mapped,
            height=0.55,
            color=color_of.get(area.name, "#9aa5b1"),
            edgecolor="#1c2530",
            linewidth=0.6,
        )
        if area.low is not None and area.high is not None and area.expected is not None:
            axes.plot([area.low, area.high], [place, place], color="#000000", linewidth=2, marker="|", markersize=11)
            axes.plot([area.expected], [place], "o", color="#ffffff", markeredgecolor="#000000", markersize=6)
    axes.set_yticks(range(len(areas)), [area.name for area in areas])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("km²")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _dots(axes: Any, reliability: Reliability, color: str, marker: str, label: str) -> None:
    filled = reliability.pixels > 0
    share = reliability.pixels[filled] / max(reliability.pixels.sum(), 1)
    axes.plot(reliability.predicted[filled], reliability.observed[filled], color=color, linewidth=1)
    axes.scatter(
        reliability.predicted[filled],
        reliability.observed[filled],
        s=12 + 90 * np.sqrt(share),
        color=color,
        marker=marker,
        alpha=0.85,
        label=label,
    )


def _map(
    scene: Scene,
    picture_HW: npt.NDArray[Any],
    colors: Sequence[str],
    legend: Sequence[tuple[str, str]],
    tile_names: bool = False,
) -> str:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch, Rectangle

    step = _step(picture_HW.shape)
    figure, axes = _canvas(picture_HW.shape)
    axes.imshow(
        picture_HW[::step, ::step],
        cmap=ListedColormap(list(colors)),
        vmin=-0.5,
        vmax=len(colors) - 0.5,
        interpolation="nearest",
    )
    parts = scene.class_map.parts
    for part in parts if 1 < len(parts) <= 64 else ():
        corner = (part.col / step - 0.5, part.row / step - 0.5)
        size = (part.mask.width / step, part.mask.height / step)
        axes.add_patch(
            Rectangle(corner, *size, fill=False, edgecolor="#1c2530", linewidth=0.5, alpha=0.6, clip_on=False)
        )
        if tile_names and len(part.mask.id) <= 12:
            axes.text(corner[0] + size[0] * 0.03, corner[1] + size[1] * 0.03, part.mask.id, fontsize=6, va="top")
    _scale_bar(axes, scene, step)
    handles = [Patch(facecolor=color, edgecolor="#1c2530", linewidth=0.5, label=name) for name, color in legend]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return _png(figure)


def _canvas(shape: tuple[int, int]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    height = min(max(9.0 * shape[0] / shape[1], 2.5), 9.5)
    figure = Figure(figsize=(9.0, height + 0.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    return figure, axes


def _scale_bar(axes: Any, scene: Scene, step: int) -> None:
    """A bar of a round number of kilometres, about a fifth of the width; tops of maps are up, not always north."""
    width_km = pixel_size_m(scene.class_map.georef, scene.class_map.shape)[0] / 1000 * scene.class_map.shape[1]
    wanted = width_km / 5
    power = 10.0 ** np.floor(np.log10(wanted))
    length = max(k * power for k in (1, 2, 5) if k * power <= wanted)
    across, down = scene.class_map.shape[1] / step, scene.class_map.shape[0] / step
    bar = length / width_km * across
    axes.plot([0, bar], [down * 1.02 + 2] * 2, color="#1c2530", linewidth=3, solid_capstyle="butt", clip_on=False)
    axes.text(bar + across * 0.01, down * 1.02 + 2, f"{length:g} km", va="center", fontsize=9)


def _step(shape: tuple[int, ...]) -> int:
    return max(-(-max(shape) // _MOST_PX), 1)


def _png(figure: Any) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, facecolor="white", bbox_inches="tight", pad_inches=0.1)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
