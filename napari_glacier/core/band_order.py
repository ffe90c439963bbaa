"""Bands under each other's names, found from the pixels.

Digital numbers do not tell: on snow blue, green, red and thermal have about the same mean. What holds on any scene of
snow, ice and rock, at any scale factor and offset:

- the three visible bands go together (correlations above 0.95), SWIR and thermal do not go with them as closely;
- thermal is measured at 60 to 100 m and resampled, hence smooth: its second differences are small against its first
  ones, those of a band measured at 30 m are larger than its first;
- blue and red resemble each other less than either resembles green, and red is the one more like SWIR.

Shapes: B bands (the five, in their order), H rows, W columns.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import CANONICAL_BANDS

# Saturated 16-bit digital numbers, as snow in the visible bands has them.
SATURATED_FROM = 65_454

_VISIBLE = (0, 1, 2)
_BLUE, _GREEN, _RED, _SWIR, _THERMAL = range(5)
_MIN_PIXELS, _MAX_SIDE_PX = 2_000, 2_048
# Correct data stay below these by far (15 real tiles and 13 synthetic ones: see the tests).
_TRIPLE_MARGIN, _TRIPLE_LEAST = 0.1, 0.9
_SMOOTH, _ROUGHER = 0.97, 1.1
# Of blue and red's unlikeness (1 - correlation): on snow it is a few thousandths, its share is what tells.
_UNLIKE_MARGIN, _SWIR_MARGIN = 0.1, 0.002
# The order of the visible bands: of the tiles that tell one, and of all tiles, so many must agree.
_AGREEING, _TELLING, _MIN_TILES = 0.9, 0.5, 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the pixels of a tile say about its bands.

    Attributes
    ----------
    correlation_BB : float array, shape (5, 5)
    roughness_B : float array, shape (5,)
        Mean second difference along rows over the mean first one.
    """

    correlation_BB: npt.NDArray[np.float64]
    roughness_B: npt.NDArray[np.float64]


def evidence(image_CHW: npt.NDArray[np.float32], valid_HW: npt.NDArray[np.bool_]) -> Evidence | None:
    """Statistics of the five bands over pixels that carry data in each of them; None where too few do, or one is flat.

    Parameters
    ----------
    image_CHW : float32 array, shape (5, H, W)
    valid_HW : bool array, shape (H, W)
    """
    # The middle of a large scene tells enough.
    height, width = valid_HW.shape
    top, left = max(height - _MAX_SIDE_PX, 0) // 2, max(width - _MAX_SIDE_PX, 0) // 2
    middle = np.s_[top : top + _MAX_SIDE_PX, left : left + _MAX_SIDE_PX]
    image_CHW, valid_HW = image_CHW[:, *middle], valid_HW[middle]
    used_HW = valid_HW & (image_CHW != 0).all(0) & (image_CHW < SATURATED_FROM).all(0)
    if int(used_HW.sum()) < _MIN_PIXELS:
        return None
    values_BN = image_CHW[:, used_HW].astype(np.float64)
    if not np.isfinite(values_BN).all() or (values_BN.std(1) <= 1e-6 * np.abs(values_BN).max(1)).any():
        return None
    pair_HW = used_HW[:, 1:] & used_HW[:, :-1]
    three_HW = pair_HW[:, 1:] & pair_HW[:, :-1]
    roughness = []
    for plane_HW in image_CHW.astype(np.float64):
        first_HW = np.diff(plane_HW, axis=1)
        second_HW = np.diff(first_HW, axis=1)
        if not three_HW.any() or not first_HW[pair_HW].any():
            return None
        roughness.append(np.abs(second_HW[three_HW]).mean() / np.abs(first_HW[pair_HW]).mean())
    return Evidence(np.asarray(np.corrcoef(values_BN)), np.array(roughness))


def mistaken_bands(seen: Evidence) -> dict[str, str]:
    """Bands of a tile that look like another one: by name, what each looks like; empty where all look right.

    Which of the three visible bands is which is told by many tiles only (see `mistaken_visible`).
    """
    lowest = {triple: min(seen.correlation_BB[i, j] for i, j in combinations(triple, 2)) for triple in _triples()}
    best = max(lowest, key=lambda triple: float(lowest[triple]))
    if lowest[best] < _TRIPLE_LEAST or lowest[best] - lowest[_VISIBLE] < _TRIPLE_MARGIN:
        best = _VISIBLE
    rest = [band for band in range(5) if band not in best]
    smooth, rough = sorted(rest, key=lambda band: float(seen.roughness_B[band]))
    is_clear = seen.roughness_B[smooth] < _SMOOTH and seen.roughness_B[rough] > _ROUGHER * seen.roughness_B[smooth]
    looks: dict[int, int] = {}
    if is_clear:
        looks = {smooth: _THERMAL, rough: _SWIR}
    elif best != _VISIBLE:
        # What stays outside keeps its name, where it has one of these.
        names = [band for band in (_SWIR, _THERMAL) if band not in rest]
        looks = {band: band if band in (_SWIR, _THERMAL) else names.pop(0) for band in rest}
    vacant = [band for band in _VISIBLE if band not in best]
    looks |= {band: vacant.pop(0) for band in best if band not in _VISIBLE}
    return {CANONICAL_BANDS[a]: CANONICAL_BANDS[b] for a, b in sorted(looks.items()) if a != b}


def mistaken_visible(tiles: Sequence[Evidence]) -> dict[str, str]:
    """Visible bands that look like another visible one in nearly all of some tiles whose other bands look right."""
    orders = Counter(order for seen in tiles if (order := _visible_order(seen.correlation_BB)) is not None)
    order, count = next(iter(orders.most_common(1)), (_VISIBLE, 0))
    if count < max(_AGREEING * orders.total(), _TELLING * len(tiles), _MIN_TILES):
        return {}
    return {
        CANONICAL_BANDS[band]: CANONICAL_BANDS[place]
        for place, band in sorted(enumerate(order), key=lambda pair: pair[1])
        if band != place
    }


def said(looks: Mapping[str, str]) -> str:
    """In words what bands look like."""
    return ", ".join(f"{band} looks like {other}" for band, other in looks.items())


def _triples() -> list[tuple[int, ...]]:
    return list(combinations(range(5), 3))


def _visible_order(correlation_BB: npt.NDArray[np.float64]) -> tuple[int, ...] | None:
    """Bands in the order blue, green, red, by what they are like; None where it cannot be told."""
    pairs = sorted(combinations(_VISIBLE, 2), key=lambda pair: float(correlation_BB[pair]))
    ends = pairs[0]
    (middle,) = set(_VISIBLE) - set(ends)
    blue, red = sorted(ends, key=lambda band: float(correlation_BB[band, _SWIR]))
    apart = correlation_BB[pairs[1]] - correlation_BB[ends]
    if apart < _UNLIKE_MARGIN * (1 - correlation_BB[ends]):
        return None
    if correlation_BB[red, _SWIR] - correlation_BB[blue, _SWIR] < _SWIR_MARGIN:
        return None
    return blue, middle, red
