"""Windows over a scene and the blending that hides their seams."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Wide enough that most of what a network looks at lies inside, for every pixel.
WINDOW_PX, OVERLAP_PX = 1024, 256


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels of a scene; it may reach past the scene's border."""

    row: int
    col: int
    height: int
    width: int

    def clipped(self, height: int, width: int) -> "Window":
        """The part inside a scene of this size."""
        top, left = max(self.row, 0), max(self.col, 0)
        bottom, right = min(self.row + self.height, height), min(self.col + self.width, width)
        return Window(top, left, max(bottom - top, 0), max(right - left, 0))

    def union(self, other: "Window") -> "Window":
        """The smallest window that holds both; the other one where one of them is empty."""
        if not (self.height and self.width and other.height and other.width):
            return self if self.height and self.width else other
        top, left = min(self.row, other.row), min(self.col, other.col)
        bottom = max(self.row + self.height, other.row + other.height)
        right = max(self.col + self.width, other.col + other.width)
        return Window(top, left, bottom - top, right - left)

    def holds(self, row: int, col: int) -> bool:
        """Whether a pixel of the scene lies in the window."""
        return self.row <= row < self.row + self.height and self.col <= col < self.col + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices of the window."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)


def _starts(length: int, window_px: int, step: int) -> range:
    count = 1 if length <= window_px else 1 + -(-(length - window_px) // step)
    return range(0, count * step, step)


def windows(height: int, width: int, window_px: int, overlap_px: int) -> list[Window]:
    """Windows that cover a scene, anchored to its grid.

    Rows and columns start at multiples of ``window_px - overlap_px`` counted from the scene's first
    pixel, so a pixel sees the same windows however the work is cut. The last ones may reach past the border.
    """
    if not 0 <= overlap_px < window_px:
        raise ValueError(f"overlap_px is {overlap_px}; it must be at least 0 and less than window_px ({window_px}).")
    step = window_px - overlap_px
    return [
        Window(row, col, window_px, window_px)
        for row in _starts(height, window_px, step)
        for col in _starts(width, window_px, step)
    ]


def rim_px(overlap_px: int) -> int:
    """How far a window's outermost pixels, which see the least around them, are left to the neighbouring window."""
    return overlap_px * 3 // 8


def blend_weights(window: Window, height: int, width: int, overlap_px: int) -> npt.NDArray[np.float32]:
    """Weights of a window's pixels in a scene of this size.

    0 on the rim, 1 inside, rising linearly in between, towards each neighbouring window; 1 up to the scene's border.
    Networks err most next to the border of what they see: without a rim, which pixels these are depends on the grid.

    Returns
    -------
    float32 array, of the shape of the window's part inside the scene
    """
    rows = _ramp(window.row, window.height, height, overlap_px)
    cols = _ramp(window.col, window.width, width, overlap_px)
    return rows[:, None] * cols[None, :]


def _ramp(start: int, window_px: int, limit: int, overlap_px: int) -> npt.NDArray[np.float32]:
    ramp = np.ones(min(start + window_px, limit) - start, np.float32)
    rim = rim_px(overlap_px)
    slope = np.arange(1, overlap_px - 2 * rim + 1, dtype=np.float32) / (overlap_px - 2 * rim + 1)
    rise = np.concatenate([np.zeros(rim, np.float32), slope, np.ones(rim, np.float32)])
    if overlap_px and start > 0:
        ramp[:overlap_px] = rise
    if overlap_px and start + window_px < limit:
        ramp[-overlap_px:] = np.minimum(ramp[-overlap_px:], rise[::-1])
    return ramp
