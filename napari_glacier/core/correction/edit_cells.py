"""What was edited since the last stroke was recorded: square cells of a mask, copied before their first change.

Copying on first write costs a brush dab some tens of kilobytes whatever the size of the mask, keeps the very
first values through any number of overlapping dabs, and lets a change that was taken back leave no trace.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from napari_glacier.core.correction.strokes import MaskArray, Patch
from napari_glacier.core.data.mosaic import Placement

CELL_PX = 256

_Cell = tuple[int, int, int]


class EditCells:
    """Cells of a stack of masks as they were before the pending edits.

    Parameters
    ----------
    index_PHW : uint8 array, shape (planes, H, W)
        The mask that is edited; looked at, never written.
    placements : sequence of sequence of Placement
        For each plane, the tiles on it.
    """

    def __init__(self, index_PHW: MaskArray, placements: Sequence[Sequence[Placement]]) -> None:
        self._index_PHW = index_PHW
        self._before: dict[_Cell, MaskArray] = {}
        self._placements = placements
        # Corners as arrays: a mosaic of hundreds of tiles is searched for every cell.
        self._corners = [
            np.array([(p.row, p.col, p.row + p.tile.height, p.col + p.tile.width) for p in on_plane], np.int64).reshape(
                -1, 4
            )
            for on_plane in placements
        ]

    def __bool__(self) -> bool:
        return bool(self._before)

    def keep_box(self, planes: Iterable[int], rows: range, cols: range) -> None:
        """Copy the cells that a box touches, those not copied yet."""
        for plane in planes:
            for i in range(rows[0] // CELL_PX, rows[-1] // CELL_PX + 1):
                for j in range(cols[0] // CELL_PX, cols[-1] // CELL_PX + 1):
                    self._keep((plane, i, j))

    def keep_points(self, planes: npt.NDArray[np.intp], rows: npt.NDArray[np.intp], cols: npt.NDArray[np.intp]) -> None:
        """Copy the cells that points lie in, those not copied yet."""
        cells = np.stack([planes, rows // CELL_PX, cols // CELL_PX], axis=1)
        for plane, i, j in np.unique(cells, axis=0).tolist():
            self._keep((plane, i, j))

    def base_of(self, plane: int, placement: Placement) -> MaskArray:
        """A tile's mask as it was before the pending edits."""
        base_HW: MaskArray = self._index_PHW[plane][placement.slices].copy()
        height, width = base_HW.shape
        for (p, i, j), before_HW in self._before.items():
            top, left = i * CELL_PX - placement.row, j * CELL_PX - placement.col
            bottom, right = top + before_HW.shape[0], left + before_HW.shape[1]
            if p != plane or top >= height or left >= width or bottom <= 0 or right <= 0:
                continue
            part = before_HW[max(0, -top) : height - top, max(0, -left) : width - left]
            base_HW[max(0, top) : bottom, max(0, left) : right] = part
        return base_HW

    def patches(self) -> list[Patch]:
        """The changes since the copies, as patches of tiles."""
        patches = []
        for (plane, i, j), before_HW in sorted(self._before.items(), key=lambda item: item[0]):
            top, left = i * CELL_PX, j * CELL_PX
            height, width = before_HW.shape
            after_HW = self._index_PHW[plane, top : top + height, left : left + width]
            box = _bounding_box(before_HW != after_HW)
            if box is None:
                continue
            inner = (top + box[0], left + box[1], top + box[2], left + box[3])
            for k in self._tiles_under(plane, inner):
                place = self._placements[plane][k]
                row, col, bottom, right = self._corners[plane][k].tolist()
                rows = slice(max(inner[0], row) - top, min(inner[2], bottom) - top)
                cols = slice(max(inner[1], col) - left, min(inner[3], right) - left)
                exact = _bounding_box(before_HW[rows, cols] != after_HW[rows, cols])
                if exact is None:
                    continue
                rows = slice(rows.start + exact[0], rows.start + exact[2])
                cols = slice(cols.start + exact[1], cols.start + exact[3])
                patches.append(
                    Patch(
                        place.tile.id,
                        top + rows.start - place.row,
                        left + cols.start - place.col,
                        before_HW[rows, cols].copy(),
                        after_HW[rows, cols].copy(),
                    )
                )
        return patches

    def clear(self) -> None:
        """Forget the copies: what is there now is recorded."""
        self._before.clear()

    def _keep(self, cell: _Cell) -> None:
        if cell not in self._before:
            plane, i, j = cell
            rows = slice(i * CELL_PX, (i + 1) * CELL_PX)
            cols = slice(j * CELL_PX, (j + 1) * CELL_PX)
            self._before[cell] = self._index_PHW[plane, rows, cols].copy()

    def _tiles_under(self, plane: int, box: tuple[int, int, int, int]) -> list[int]:
        top, left, bottom, right = box
        row, col, row_end, col_end = self._corners[plane].T
        hit = (row < bottom) & (top < row_end) & (col < right) & (left < col_end)
        return [int(k) for k in np.flatnonzero(hit)]


def _bounding_box(where_HW: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """First row and column and the ones past the last where something is True."""
    rows = np.flatnonzero(where_HW.any(axis=1))
    if not rows.size:
        return None
    cols = np.flatnonzero(where_HW.any(axis=0))
    return int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1
