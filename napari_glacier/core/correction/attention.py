"""What to look at next: uncertain regions of a prediction, by the area that is at stake in each.

A region is a set of connected pixels whose entropy is high. Its stake is the sum of the entropies (between 0 and 1)
of those of its pixels that nobody has looked at yet, times a pixel's area. Regions are offered by stake times the
length of their outline over that of a square of the same area: of two equal stakes the frayed one hides more errors
of position than the compact one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.evidence import BoolArray

THRESHOLD = 0.35
MIN_AREA_PX = 12
# A larger one is cut along a grid: it would fill the screen, and with it hide where to look.
MAX_EXTENT_PX = 160


@dataclass(frozen=True, slots=True)
class UncertainRegion:
    """A region of the queue as it stands now.

    Attributes
    ----------
    number : int
        Stays the same while the queue lives.
    plane : int
        Scene of a stack; 0 where there is none.
    window : Window
    num_px : int
        Pixels nobody has looked at.
    uncertainty : float
        Their mean entropy.
    stake_km2 : float
        Expected area at stake; in pixels instead where the pixels' area is not known.
    score : float
        What regions are ranked by.
    """

    number: int
    plane: int
    window: Window
    num_px: int
    uncertainty: float
    stake_km2: float
    score: float


class _Region:
    """Pixels of a region, their entropies, and which were not looked at yet."""

    __slots__ = ("entropy_HW", "open_HW", "plane", "window")

    def __init__(self, plane: int, window: Window, where_HW: BoolArray, entropy_HW: npt.NDArray[np.float32]) -> None:
        self.plane = plane
        self.window = window
        self.open_HW = where_HW
        self.entropy_HW = entropy_HW

    def mark(self, window: Window, seen_HW: BoolArray) -> None:
        """Take away pixels that were looked at."""
        top, left = max(window.row, self.window.row), max(window.col, self.window.col)
        bottom = min(window.row + window.height, self.window.row + self.window.height)
        right = min(window.col + window.width, self.window.col + self.window.width)
        if top >= bottom or left >= right:
            return
        mine = np.s_[top - self.window.row : bottom - self.window.row, left - self.window.col : right - self.window.col]
        theirs = np.s_[top - window.row : bottom - window.row, left - window.col : right - window.col]
        self.open_HW[mine] &= ~seen_HW[theirs]

    def described(self, number: int, pixel_km2: float) -> UncertainRegion:
        num_px = int(np.count_nonzero(self.open_HW))
        total = float(self.entropy_HW[self.open_HW].sum(dtype=float))
        stake = total * pixel_km2
        frayed = max(outline_sides(self.open_HW) / np.sqrt(16 * num_px), 1.0) if num_px else 0.0
        return UncertainRegion(
            number, self.plane, self.window, num_px, total / num_px if num_px else 0.0, stake, stake * frayed
        )


class AttentionQueue:
    """Uncertain regions of a scene, most at stake first; it shrinks as a person works.

    Parameters
    ----------
    entropy_HW : float array in [0, 1], shape (H, W), or (N, H, W) for a stack
    known_HW : bool array of the same shape
        Where something was predicted.
    pixel_km2 : float
        Area of a pixel; 1 counts pixels.
    threshold : float
        Least entropy of an uncertain pixel.
    min_area_px : int
        Smaller regions are left out, also when they became small by being looked at.
    """

    def __init__(
        self,
        entropy_HW: npt.NDArray[np.floating],
        known_HW: BoolArray,
        pixel_km2: float = 1.0,
        threshold: float = THRESHOLD,
        min_area_px: int = MIN_AREA_PX,
    ) -> None:
        self._pixel_km2 = pixel_km2
        self._min_area_px = min_area_px
        self._regions: dict[int, _Region] = {}
        self._skipped: dict[int, int] = {}
        self._described: dict[int, UncertainRegion] = {}
        planes = entropy_HW if entropy_HW.ndim == 3 else entropy_HW[np.newaxis]
        known = known_HW if known_HW.ndim == 3 else known_HW[np.newaxis]
        for plane, (plane_HW, known_plane_HW) in enumerate(zip(planes, known, strict=True)):
            for window, where_HW in _regions_of((plane_HW >= threshold) & known_plane_HW, min_area_px):
                part_HW = np.asarray(plane_HW[window.slices], np.float32).copy()
                self._regions[len(self._regions)] = _Region(plane, window, where_HW, part_HW)

    def regions(self) -> list[UncertainRegion]:
        """Regions worth looking at, best first; those that were skipped come last, in the order of skipping."""
        for number in self._regions.keys() - self._described.keys():
            self._described[number] = self._regions[number].described(number, self._pixel_km2)
        worth = [region for region in self._described.values() if region.num_px >= self._min_area_px]
        return sorted(worth, key=lambda region: (self._skipped.get(region.number, -1), -region.score, region.number))

    @property
    def stake_km2(self) -> float:
        """Area at stake in all regions together."""
        return sum(region.stake_km2 for region in self.regions())

    def where(self, number: int) -> BoolArray:
        """Pixels of a region that nobody has looked at, in its window."""
        return self._regions[number].open_HW.copy()

    def mark(self, plane: int, window: Window, seen_HW: BoolArray) -> None:
        """Note that pixels were looked at: a person changed them, or found them right."""
        for number, region in self._regions.items():
            apart = (
                region.plane != plane
                or region.window.row >= window.row + window.height
                or window.row >= region.window.row + region.window.height
                or region.window.col >= window.col + window.width
                or window.col >= region.window.col + region.window.width
            )
            if not apart:
                region.mark(window, seen_HW)
                self._described.pop(number, None)

    def settle(self, number: int) -> None:
        """Note that a whole region was looked at."""
        region = self._regions[number]
        self.mark(region.plane, region.window, region.open_HW.copy())

    def skip(self, number: int) -> None:
        """Put a region behind all others."""
        self._skipped[number] = max(self._skipped.values(), default=-1) + 1


def outline_sides(where_HW: BoolArray) -> int:
    """Length of a region's outline in pixel sides, holes' outlines included."""
    padded_HW = np.pad(where_HW, 1)
    return int((padded_HW[1:] != padded_HW[:-1]).sum() + (padded_HW[:, 1:] != padded_HW[:, :-1]).sum())


def _regions_of(where_HW: BoolArray, min_area_px: int) -> Iterator[tuple[Window, BoolArray]]:
    from scipy import ndimage

    label_HW, _ = ndimage.label(where_HW, np.ones((3, 3), bool))
    for number, (rows, cols) in enumerate(ndimage.find_objects(label_HW), start=1):
        part_HW = label_HW[rows, cols] == number
        for top in _cuts(part_HW.shape[0]):
            for left in _cuts(part_HW.shape[1]):
                piece_HW = part_HW[top, left]
                if np.count_nonzero(piece_HW) >= min_area_px:
                    window = Window(rows.start + top.start, cols.start + left.start, *piece_HW.shape)
                    yield window, piece_HW.copy()


def _cuts(length: int) -> list[slice]:
    """Equal parts of a length, none longer than `MAX_EXTENT_PX`."""
    number = -(-length // MAX_EXTENT_PX)
    edges = [round(length * k / number) for k in range(number + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]
