"""Draw what a cross-validation gets wrong, tile by tile, and count the errors by simple causes.

    python scripts/error_gallery.py RUN --data DATASET --out FOLDER

RUN is the folder of a finished cross-validation (`--set folds=5`). Of each tile there is a picture: composite, truth,
map out of fold, and errors by kind; `causes.png` and `causes.csv` share the errors out. The pictures show the data:
whoever may not pass the data on, may not pass them on either.

Causes are looked for in this order, on valid pixels, and a pixel counts for the first that fits: within 2 px of a
border of the labels; within 3 px of nodata; saturated (a visible band at its highest value); dark (green below Otsu's
threshold of its logarithm over the data set: shade); the rest.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, label
from skimage.filters import threshold_otsu

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.data.dataset import Dataset, open_dataset
from napari_glacier.core.data.tiles import raster_name
from napari_glacier.core.raster import read_mask_codes

CAUSES = ("border of the labels", "edge of nodata", "saturated", "dark", "rest")
BORDER_PX, EDGE_PX = 2, 3
# What is wrong in one piece of this size is a slope or a tongue, not a fringe.
PATCH_PX = 500
COLORS = {"false": "#d55e00", "missed": "#0072b2", "confused": "#cc79a7"}


def main() -> None:
    """Read the maps, draw the pictures, write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of a finished cross-validation")
    parser.add_argument("--data", type=Path, required=True, help="the data set that it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--scheme", help="class scheme of the masks, where they do not tell")
    options = parser.parse_args()
    dataset = open_dataset(options.data, options.scheme)
    scheme = dataset.scheme
    tiles = [tile for tile in dataset.tiles if (options.run / "oof" / raster_name(tile.name)).is_file()]
    if scheme is None or not tiles:
        parser.error(f"{options.run}/oof holds no map of a tile of {options.data}: name a finished cross-validation")
    options.out.mkdir(parents=True, exist_ok=True)
    limits = _limits(dataset, tiles)
    rows = []
    for tile in tiles:
        bands_CHW, valid_HW = dataset.read(tile, ("B2", "B3", "B4", "B6"))
        truth_HW = dataset.read_mask(tile)
        if truth_HW is None:
            parser.error(f"tile {tile.id} of {options.data} has no mask: give the data that the run learnt from")
        path = options.run / "oof" / raster_name(tile.name)
        predicted_HW = scheme.decode(read_mask_codes(path), str(path))
        counted_HW = valid_HW & (truth_HW != IGNORE_INDEX)
        cause_HW = _causes(bands_CHW, valid_HW, truth_HW, limits)
        wrong_HW = counted_HW & (predicted_HW != truth_HW)
        kinds = {
            "false": wrong_HW & (truth_HW == 0),
            "missed": wrong_HW & (predicted_HW == 0),
            "confused": wrong_HW & (truth_HW > 0) & (predicted_HW > 0),
        }
        patches_HW, _ = label(wrong_HW)
        large_HW = wrong_HW & (np.bincount(patches_HW.ravel())[patches_HW] >= PATCH_PX)
        for k, name in enumerate(CAUSES):
            of_cause_HW = counted_HW & (cause_HW == k)
            row: dict[str, Any] = {"tile": tile.id, "cause": name, "pixels": int(of_cause_HW.sum())}
            row |= {kind: int((where_HW & of_cause_HW).sum()) for kind, where_HW in kinds.items()}
            rows.append(row | {"in_large_patches": int((large_HW & of_cause_HW).sum())})
        picture = options.out / f"{tile.id.replace('/', '_')}.png"
        panels = [("SWIR, green, blue", _composite(bands_CHW, valid_HW, limits["stretch"]))]
        panels += [
            (
                title,
                _painted(panels[0][1], {scheme.colors[k]: index_HW == k for k in range(1, scheme.num_classes)}, 0.65),
            )
            for title, index_HW in (("truth", truth_HW), ("map out of fold", predicted_HW))
        ]
        panels.append(("errors", _painted(panels[0][1], {COLORS[kind]: kinds[kind] for kind in kinds}, 1.0)))
        shares = {kind: where_HW.sum() / max(counted_HW.sum(), 1) for kind, where_HW in kinds.items()}
        _draw_tile(picture, tile.id, panels, shares)
    with (options.out / "causes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    _print_table(rows)
    _draw_causes(options.out / "causes.png", rows)


def _limits(dataset: Dataset, tiles: list[Any]) -> dict[str, Any]:
    """Of the whole data set: the highest visible value, the threshold of dark, and what is drawn black and white."""
    samples = []
    for tile in tiles:
        bands_CHW, valid_HW = dataset.read(tile, ("B2", "B3", "B4", "B6"))
        samples.append(bands_CHW[:, valid_HW][:, ::17])
    values_CN = np.concatenate(samples, axis=1)
    green_N = np.log(np.maximum(values_CN[1], 1.0))
    return {
        # A little below: clouds of rounding lie around the highest number that a product can hold.
        "saturated": float(values_CN[:3].max()) * 0.998,
        "dark": float(np.exp(threshold_otsu(green_N))),
        "stretch": np.percentile(values_CN, [2, 98], axis=1),
    }


def _causes(bands_CHW: Any, valid_HW: Any, truth_HW: Any, limits: dict[str, Any]) -> Any:
    """The first cause that fits each pixel: positions in `CAUSES`."""
    padded = np.pad(truth_HW, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    shifted = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    at_border_HW = np.any([centre != other for other in shifted], axis=0)
    fits = (
        _within(at_border_HW, BORDER_PX - 1),
        _within(~valid_HW, EDGE_PX),
        (bands_CHW[:3] >= limits["saturated"]).any(0),
        bands_CHW[1] < limits["dark"],
        np.ones_like(valid_HW),
    )
    return np.argmax(fits, axis=0)


def _within(where_HW: Any, distance_px: int) -> Any:
    return distance_transform_edt(~where_HW) <= distance_px if where_HW.any() else np.zeros_like(where_HW)


def _sums(rows: list[dict[str, Any]], name: str) -> dict[str, int]:
    own = [row for row in rows if row["cause"] == name]
    return {key: sum(row[key] for row in own) for key in ("pixels", "in_large_patches", *COLORS)}


def _print_table(rows: list[dict[str, Any]]) -> None:
    sums = {name: _sums(rows, name) for name in CAUSES}
    pixels = sum(of["pixels"] for of in sums.values())
    wrong = sum(of[kind] for of in sums.values() for kind in COLORS)
    print(
        f"{'cause':<22}{'of valid':>10}{'of errors':>11}{'wrong there':>13}{'false':>9}{'missed':>9}{'in patches':>12}"
    )
    for name, of in sums.items():
        own = sum(of[kind] for kind in COLORS)
        print(
            f"{name:<22}{of['pixels'] / pixels:>10.1%}{own / max(wrong, 1):>11.1%}{own / max(of['pixels'], 1):>13.1%}"
            f"{of['false'] / max(own, 1):>9.0%}{of['missed'] / max(own, 1):>9.0%}"
            f"{of['in_large_patches'] / max(own, 1):>12.0%}"
        )
    print(f"{wrong:,} of {pixels:,} valid pixels are wrong ({wrong / pixels:.1%}).")
    print(f"In patches: share of the errors that lie together, {PATCH_PX} px or more in a piece.")


def _composite(bands_CHW: Any, valid_HW: Any, stretch: Any) -> Any:
    """SWIR, green and blue: snow and ice cyan, rock and plants red, cloud white."""
    low, high = stretch
    scaled = (bands_CHW - low[:, None, None]) / np.maximum(high - low, 1e-6)[:, None, None]
    composite_HWC = np.clip(np.moveaxis(scaled[[3, 1, 0]], 0, -1), 0, 1) ** 0.7
    composite_HWC[~valid_HW] = 0.93
    return composite_HWC


def _painted(composite_HWC: Any, where_of_color: dict[str, Any], opacity: float) -> Any:
    """The composite in pale grey with colours on it."""
    from matplotlib.colors import to_rgb

    picture = np.repeat(composite_HWC.mean(-1, keepdims=True) * 0.6 + 0.4, 3, axis=-1)
    for color, where_HW in where_of_color.items():
        picture[where_HW] = (1 - opacity) * picture[where_HW] + opacity * np.array(to_rgb(color))
    return picture


def _draw_tile(path: Path, title: str, panels: list[tuple[str, Any]], shares: dict[str, float]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(16, 4.7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, picture) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    handles = [Patch(color=COLORS[kind], label=f"{kind} {share:.1%}") for kind, share in shares.items() if share]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, fontsize=9, title="of the valid pixels")
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def _draw_causes(path: Path, rows: list[dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sums = [_sums(rows, name) for name in CAUSES]
    wrong = max(sum(of[kind] for of in sums for kind in COLORS), 1)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left = np.zeros(len(CAUSES))
    for kind, color in COLORS.items():
        shares = np.array([of[kind] / wrong for of in sums])
        if shares.any():
            axes.barh(CAUSES, shares * 100, left=left, color=color, label=kind)
        left += shares * 100
    rates = [sum(of[kind] for kind in COLORS) / max(of["pixels"], 1) for of in sums]
    for place, rate in enumerate(rates):
        axes.text(left[place] + 0.6, place, f"{rate:.0%} of the pixels there are wrong", va="center", fontsize=8)
    axes.set_xlim(0, max(left.max() * 1.45, 1))
    axes.invert_yaxis()
    axes.set_xlabel("share of all errors, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
