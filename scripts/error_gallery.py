"""Draw what a cross-validation gets wrong, tile by tile, and tell what mending each part of the errors would give.

    python scripts/error_gallery.py RUN --data DATASET --out FOLDER

RUN is the folder of a finished cross-validation (`--set folds=5`). Of each tile there is a picture: composite, truth,
map out of fold, and errors by kind; `causes.png` and `causes.csv` share the errors out. The pictures show the data:
whoever may not pass the data on, may not pass them on either.

`ladders.csv` shares the same errors out in four ways: by cause, by distance to a border of the labels, by the size of
the piece that they lie in together, and by tile. Of every part it says what MCC would be were its errors mended and no
others: an upper bound, never a forecast.

Causes are looked for in this order, on valid pixels, and a pixel counts for the first that fits: within 2 px of a
border of the labels; within 3 px of nodata; saturated (a visible band at its highest value); dark (green below Otsu's
threshold of its logarithm over the data set: shade); the rest.

Axes: H, W pixels; P parts of a ladder; K classes, truth before map.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import center_of_mass, distance_transform_edt, label
from skimage.filters import threshold_otsu

from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme
from napari_glacier.core.data.dataset import Dataset, open_dataset
from napari_glacier.core.data.tiles import raster_name
from napari_glacier.core.metrics import ConfusionMatrix, mcc_of
from napari_glacier.core.raster import read_mask_codes

CAUSES = ("border of the labels", "edge of nodata", "saturated", "dark", "rest")
BORDER_PX, EDGE_PX = 2, 3
# Distances to a border (1: touches it) and sizes of pieces: each part begins at its number.
DISTANCES_PX = (1, 2, 3, 4, 6, 11)
SIZES_PX = (1, 10, 100, 500, 2000)
# What is wrong in one piece of this size is a slope or a tongue, not a fringe.
PATCH_PX = 500
SHIFT_PX = 2
COLORS = {"false": "#d55e00", "missed": "#0072b2", "confused": "#cc79a7"}


@dataclass
class Ladder:
    """One way of sharing out the pixels that count: how many are what in each part."""

    parts: Sequence[str]
    num_classes: int
    counts_PKK: Any = field(init=False)
    in_patches_P: Any = field(init=False)

    def __post_init__(self) -> None:
        self.counts_PKK = np.zeros((len(self.parts), self.num_classes, self.num_classes), np.int64)
        self.in_patches_P = np.zeros(len(self.parts), np.int64)

    def add(self, part_HW: Any, tile: "Compared") -> None:
        """Count the pixels of a tile whose part is not negative."""
        where_HW = tile.counted_HW & (part_HW >= 0)
        K = self.num_classes
        pairs = (part_HW[where_HW] * K + tile.truth_HW[where_HW]) * K + tile.predicted_HW[where_HW]
        self.counts_PKK += np.bincount(pairs, minlength=self.counts_PKK.size).reshape(self.counts_PKK.shape)
        large = part_HW[where_HW & tile.wrong_HW & (tile.size_HW >= PATCH_PX)]
        self.in_patches_P += np.bincount(large, minlength=len(self.parts))

    def rows(self, totals: dict[str, Any]) -> list[dict[str, Any]]:
        """Pixels and errors by kind of each part; MCC, were its errors right, of the maps that `totals` counts."""
        right_PKK = np.zeros_like(self.counts_PKK)
        classes = np.arange(self.num_classes)
        right_PKK[:, classes, classes] = self.counts_PKK.sum(-1)
        mended = {key: mcc_of(total_KK - self.counts_PKK + right_PKK) for key, total_KK in totals.items()}
        rows = []
        for k, (part, counts_KK) in enumerate(zip(self.parts, self.counts_PKK, strict=True)):
            false, missed = int(counts_KK[0, 1:].sum()), int(counts_KK[1:, 0].sum())
            confused = int(counts_KK.sum() - np.trace(counts_KK)) - false - missed
            row = {"part": part, "pixels": int(counts_KK.sum()), "false": false, "missed": missed, "confused": confused}
            row["in_large_patches"] = int(self.in_patches_P[k])
            rows.append(row | {f"mcc_{key}_mended": float(of_P[k]) for key, of_P in mended.items()})
        return rows


@dataclass(frozen=True)
class Compared:
    """Truth and map of a tile; `size_HW` is how many wrong pixels lie together where one is wrong, else 0."""

    truth_HW: Any
    predicted_HW: Any
    counted_HW: Any
    wrong_HW: Any
    piece_HW: Any
    size_HW: Any

    @classmethod
    def of(cls, truth_HW: Any, predicted_HW: Any, valid_HW: Any) -> "Compared":
        counted_HW = valid_HW & (truth_HW != IGNORE_INDEX)
        wrong_HW = counted_HW & (predicted_HW != truth_HW)
        piece_HW, _ = label(wrong_HW)
        sizes = np.bincount(piece_HW.ravel())
        sizes[0] = 0
        return cls(truth_HW, predicted_HW, counted_HW, wrong_HW, piece_HW, sizes[piece_HW])

    @property
    def kinds(self) -> dict[str, Any]:
        """Where it is wrong, by kind."""
        return {
            "false": self.wrong_HW & (self.truth_HW == 0),
            "missed": self.wrong_HW & (self.predicted_HW == 0),
            "confused": self.wrong_HW & (self.truth_HW > 0) & (self.predicted_HW > 0),
        }

    @property
    def large_pieces(self) -> list[tuple[int, float, float]]:
        """Pixels, row and column of the middle of each piece of at least `PATCH_PX`, the largest in front."""
        numbers = np.unique(self.piece_HW[self.size_HW >= PATCH_PX])
        sizes = np.bincount(self.piece_HW.ravel())[numbers]
        middles = center_of_mass(self.wrong_HW, self.piece_HW, numbers)
        return sorted(((int(n), *middle) for n, middle in zip(sizes, middles, strict=True)), reverse=True)


def main() -> None:
    """Read the maps, draw the pictures, write and print the tables."""
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
    parts_of = {
        "cause": CAUSES,
        "px to a border of the labels": _ranges(DISTANCES_PX),
        "wrong px in a piece": _ranges(SIZES_PX),
        "tile": [tile.id for tile in tiles],
    }
    ladders = {name: Ladder(parts, scheme.num_classes) for name, parts in parts_of.items()}
    totals: dict[str, Any] = {"all": 0, "valid": 0}
    shifted_tSSKK, rows, pieces = [], [], []
    for number, tile in enumerate(tiles):
        bands_CHW, valid_HW = dataset.read(tile, ("B2", "B3", "B4", "B6"))
        truth_HW = dataset.read_mask(tile)
        if truth_HW is None:
            parser.error(f"tile {tile.id} of {options.data} has no mask: give the data that the run learnt from")
        path = options.run / "oof" / raster_name(tile.name)
        predicted_HW = scheme.decode(read_mask_codes(path), str(path))
        found = Compared.of(truth_HW, predicted_HW, valid_HW)
        distance_HW = _distance(_borders(truth_HW)) + 1
        cause_HW = _causes(bands_CHW, valid_HW, distance_HW, limits)
        own = Ladder(CAUSES, scheme.num_classes)
        own.add(cause_HW, found)
        rows += [{"tile": tile.id, "cause": row.pop("part"), **row} for row in own.rows({})]
        places = (
            cause_HW,
            np.digitize(np.ceil(distance_HW), DISTANCES_PX) - 1,
            np.digitize(found.size_HW, SIZES_PX) - 1,
            np.full(truth_HW.shape, number),
        )
        for ladder, part_HW in zip(ladders.values(), places, strict=True):
            ladder.add(part_HW, found)
        scores = []
        for key, where_HW in (("all", np.ones_like(valid_HW)), ("valid", valid_HW)):
            counts_KK = _counts(truth_HW, predicted_HW, where_HW, scheme.num_classes)
            totals[key] = totals[key] + counts_KK
            scores.append(mcc_of(counts_KK))
        shifted_tSSKK.append(_shifted(truth_HW, predicted_HW, valid_HW, scheme.num_classes))
        area_m2 = tile.georef and tile.georef.pixel_area_m2
        pieces += [(tile.id, area_m2, *piece) for piece in found.large_pieces]
        title = f"{tile.id}: MCC {scores[0]:.3f} over all, {scores[1]:.3f} over valid pixels"
        picture_HWC = _composite(bands_CHW, valid_HW, limits["stretch"])
        path = options.out / f"{tile.id.replace('/', '_')}.png"
        _draw_tile(path, title, found, picture_HWC, scheme=scheme, area_m2=area_m2)
    _write(options.out / "causes.csv", rows)
    rungs = [{"ladder": name, **row} for name, ladder in ladders.items() for row in ladder.rows(totals)]
    _write(options.out / "ladders.csv", rungs)
    for name, ladder in ladders.items():
        _print_ladder(name, ladder, totals)
    _print_rest(totals, pieces, np.array(shifted_tSSKK))
    _draw_causes(options.out / "causes.png", ladders["cause"])


def _ranges(starts: Sequence[int]) -> list[str]:
    ends = [start - 1 for start in starts[1:]]
    names = [
        f"{start:,}" if start == end else f"{start:,} to {end:,}" for start, end in zip(starts, ends, strict=False)
    ]
    return [*names, f"{starts[-1]:,} or more"]


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


def _borders(truth_HW: Any) -> Any:
    """Pixels that touch another class, to both sides of every border."""
    padded = np.pad(truth_HW, 1, mode="edge")
    shifted = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.any([truth_HW != other for other in shifted], axis=0)


def _distance(where_HW: Any) -> Any:
    return distance_transform_edt(~where_HW) if where_HW.any() else np.full(where_HW.shape, np.inf)


def _causes(bands_CHW: Any, valid_HW: Any, distance_HW: Any, limits: dict[str, Any]) -> Any:
    """The first cause that fits each pixel: positions in `CAUSES`."""
    fits = (
        distance_HW <= BORDER_PX,
        _distance(~valid_HW) <= EDGE_PX,
        (bands_CHW[:3] >= limits["saturated"]).any(0),
        bands_CHW[1] < limits["dark"],
        np.ones_like(valid_HW),
    )
    return np.argmax(fits, axis=0)


def _shifted(truth_HW: Any, predicted_HW: Any, valid_HW: Any, num_classes: int) -> Any:
    """Counts (rows, columns, K, K) with the labels moved by up to `SHIFT_PX`, on valid pixels that all moves leave."""
    inner = (slice(SHIFT_PX, -SHIFT_PX),) * 2
    counts = np.zeros((2 * SHIFT_PX + 1,) * 2 + (num_classes,) * 2, np.int64)
    for down, right in np.ndindex(counts.shape[:2]):
        moved_HW = np.roll(truth_HW, (down - SHIFT_PX, right - SHIFT_PX), axis=(0, 1))
        counts[down, right] = _counts(moved_HW[inner], predicted_HW[inner], valid_HW[inner], num_classes)
    return counts


def _counts(truth_HW: Any, predicted_HW: Any, where_HW: Any, num_classes: int) -> Any:
    matrix = ConfusionMatrix(num_classes)
    matrix.update(predicted_HW, truth_HW, where_HW)
    return matrix.counts


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _wrong(row: dict[str, Any]) -> int:
    return sum(row[kind] for kind in COLORS)


def _print_ladder(name: str, ladder: Ladder, totals: dict[str, Any]) -> None:
    rows = ladder.rows(totals)
    pixels, wrong = totals["valid"].sum(), max(sum(map(_wrong, rows)), 1)
    width = max(28, *(len(part) for part in ladder.parts))
    heads = ("of valid", "of errors", "wrong there", "false", "missed", "in patches", "MCC all*", "valid*")
    print(f"\n{name:<{width}}" + "".join(f"{head:>12}" for head in heads))
    for row in rows:
        own = _wrong(row)
        shares = (row["pixels"] / max(pixels, 1), own / wrong, own / max(row["pixels"], 1))
        kinds = (row[key] / max(own, 1) for key in ("false", "missed", "in_large_patches"))
        scores = (row[f"mcc_{key}_mended"] for key in totals)
        cells = [f"{share:.1%}" for share in shares] + [f"{share:.0%}" for share in kinds]
        cells += [f"{score:.4f}" for score in scores]
        print(f"{row['part']:<{width}}" + "".join(f"{cell:>12}" for cell in cells))


def _print_rest(totals: dict[str, Any], pieces: list[Any], shifted_tSSKK: Any) -> None:
    all_KK, valid_KK = totals.values()
    pixels, wrong = valid_KK.sum(), valid_KK.sum() - np.trace(valid_KK)
    print(f"\n{wrong:,} of {pixels:,} valid pixels are wrong ({wrong / max(pixels, 1):.1%}).")
    print(f"In patches: share of the errors that lie together, {PATCH_PX} px or more in a piece.")
    print(f"* were the errors of the line mended, and no others; now {mcc_of(all_KK):.4f} and {mcc_of(valid_KK):.4f}.")
    scores_SS, scores_tSS = mcc_of(shifted_tSSKK.sum(0)), mcc_of(shifted_tSSKK)
    down, right = np.unravel_index(scores_SS.argmax(), scores_SS.shape)
    of_tiles_KK = sum(
        of_SSKK[np.unravel_index(of_SS.argmax(), of_SS.shape)]
        for of_SSKK, of_SS in zip(shifted_tSSKK, scores_tSS, strict=True)
    )
    print(
        f"Labels moved by up to {SHIFT_PX} px, valid pixels: not moved {scores_SS[SHIFT_PX, SHIFT_PX]:.4f}; "
        f"all by {down - SHIFT_PX} down and {right - SHIFT_PX} right, the best, {scores_SS.max():.4f}; "
        f"each tile by its own best {mcc_of(of_tiles_KK):.4f}."
    )
    for tile, area_m2, size, row, column in sorted(pieces, key=lambda piece: -piece[2])[:10]:
        print(f"{tile}: {_area(size, area_m2)} wrong in one piece around row {row:.0f}, column {column:.0f}")


def _area(pixels: int, area_m2: float | None) -> str:
    return f"{pixels:,} px" if area_m2 is None else f"{pixels * area_m2 / 1e6:.1f} km²"


def _composite(bands_CHW: Any, valid_HW: Any, stretch: Any) -> Any:
    """SWIR, green and blue: snow and ice cyan, rock and plants red, cloud white; nodata in stripes."""
    low, high = stretch
    scaled = (bands_CHW - low[:, None, None]) / np.maximum(high - low, 1e-6)[:, None, None]
    composite_HWC = np.clip(np.moveaxis(scaled[[3, 1, 0]], 0, -1), 0, 1) ** 0.7
    return _striped(composite_HWC, valid_HW)


def _striped(picture_HWC: Any, valid_HW: Any) -> Any:
    """White and snow look alike; stripes are neither."""
    stripes_HW = np.where(np.add(*np.indices(valid_HW.shape)) % 10 < 3, 0.72, 0.95)
    return np.where(valid_HW[..., None], picture_HWC, stripes_HW[..., None])


def _painted(composite_HWC: Any, valid_HW: Any, where_of_color: dict[str, Any], opacity: float) -> Any:
    """The composite in pale grey with colours on it."""
    from matplotlib.colors import to_rgb

    picture = np.repeat(composite_HWC.mean(-1, keepdims=True) * 0.6 + 0.4, 3, axis=-1)
    for color, where_HW in where_of_color.items():
        picture[where_HW] = (1 - opacity) * picture[where_HW] + opacity * np.array(to_rgb(color))
    return _striped(picture, valid_HW)


def _draw_tile(
    path: Path, title: str, found: Compared, picture_HWC: Any, *, scheme: ClassScheme, area_m2: float | None
) -> None:
    """Four panels; pieces of at least `PATCH_PX` that are wrong bear their area."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3, foreground="white")]
    colors = dict(zip(scheme.class_names[1:], scheme.colors[1:], strict=True))
    valid_HW, kinds = found.counted_HW, found.kinds
    panels = {"SWIR, green, blue": picture_HWC}
    for name, index_HW in (("truth", found.truth_HW), ("map out of fold", found.predicted_HW)):
        where = {color: index_HW == k for k, color in enumerate(colors.values(), start=1)}
        panels[name] = _painted(picture_HWC, valid_HW, where, 0.65)
    panels["errors"] = _painted(picture_HWC, valid_HW, {COLORS[kind]: kinds[kind] for kind in kinds}, 1.0)
    # All pictures are 1,600 px wide; their height follows the tile's.
    height, width = valid_HW.shape
    figure = Figure(figsize=(16, 16 * height / width + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, panel_HWC) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        axes.imshow(panel_HWC, interpolation="nearest")
        axes.set_title(name, fontsize=13)
        axes.set_axis_off()
        if name == "errors":
            for size, row, column in found.large_pieces:
                place = np.clip(column, 0.06 * width, 0.94 * width)
                axes.text(place, row, _area(size, area_m2), fontsize=9, ha="center", va="center", path_effects=halo)
        elif area_m2 and name == next(iter(panels)):
            side_km = width * area_m2**0.5 / 1e3
            length_km = next((step for step in (50, 20, 10, 5, 2, 1, 0.5, 0.2) if 4 * step < side_km), 0.1)
            start, end = 0.03 * width, (0.03 + length_km / side_km) * width
            axes.plot([start, end], [0.97 * height] * 2, color="black", linewidth=4, path_effects=halo)
            axes.text(start, 0.955 * height, f"{length_km:g} km", fontsize=12, path_effects=halo)
    handles = [Patch(color=color, alpha=0.65, label=name) for name, color in colors.items()]
    pixels = max(found.counted_HW.sum(), 1)
    handles += [
        Patch(color=COLORS[kind], label=f"error: {kind}, {where_HW.sum() / pixels:.1%} of valid")
        for kind, where_HW in kinds.items()
        if where_HW.any()
    ]
    handles.append(Patch(facecolor="0.95", edgecolor="0.6", hatch="////", label="nodata"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=12, frameon=False)
    figure.suptitle(title, fontsize=15)
    figure.savefig(path, dpi=100)


def _draw_causes(path: Path, ladder: Ladder) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = ladder.rows({})
    wrong = max(sum(map(_wrong, rows)), 1)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    left = np.zeros(len(rows))
    for kind, color in COLORS.items():
        shares = np.array([row[kind] / wrong for row in rows])
        if shares.any():
            axes.barh(CAUSES, shares * 100, left=left, color=color, label=kind)
        left += shares * 100
    for place, row in enumerate(rows):
        rate = _wrong(row) / max(row["pixels"], 1)
        axes.text(left[place] + 0.6, place, f"{rate:.0%} of the pixels there are wrong", va="center", fontsize=8)
    axes.set_xlim(0, max(left.max() * 1.45, 1))
    axes.invert_yaxis()
    axes.set_xlabel("share of all errors, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
