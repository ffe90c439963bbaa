"""The editable mask: what a napari Labels layer holds as its data, so that every edit lands in the journal.

napari's brush, fill, polygon, undo and redo all end in ``data[key] = values``. The mask refuses what may
not be edited, remembers what was there before, and turns the changes into strokes of per-tile patches.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.copying_array import CopyingArray
from napari_glacier.core.correction.edit_cells import EditCells
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.recorder import IDLE_S, StrokeRecorder, WaitingStroke
from napari_glacier.core.correction.strokes import ABSENT, MaskArray, Patch, Stroke, fingerprint, net_changes
from napari_glacier.core.correction.tile_locks import TileLocks
from napari_glacier.core.data.mosaic import Placement
from napari_glacier.core.data.validity import LazyValidity
from napari_glacier.core.errors import JournalError
from napari_glacier.core.indexing import Box, as_box, as_points, box_ranges, extent
from napari_glacier.core.tiling import Window


class EditableMask(CopyingArray):
    """Class indices of a scene that can be edited where tiles carry data, each edit kept in a journal.

    Parameters
    ----------
    index_HW : uint8 array, shape (H, W) of a mosaic or (tiles, H, W) of a stack
        Taken over, not copied.
    editable_HW : bool array (or `LazyValidity`) of the same shape
        False on nodata and in gaps.
    placements : sequence of Placement
        The tiles of the mosaic; in a stack, tile k lies on plane k.
    journal : Journal, optional
        Without one nothing is recorded; one that is held elsewhere makes the mask read-only.
    num_classes : int, optional
        Other values are refused.
    idle_s : float
        Seconds without an edit after which pending edits are recorded.

    Attributes
    ----------
    locked_classes : set of int
        Pixels of these classes do not change.
    tool, model : str, str or None
        Written with the strokes; setting them closes what was drawn before under the old ones.
    refused : list of callables (row_slice, col_slice)
        Called in the editing thread, inside the assignment, when pixels kept their value.
    recorded : list of callables (stroke id)
        Called after a stroke is on disk, perhaps in the idle thread.
    locked_out : list of callables (tuple of tile ids)
        Called after an edit some pixels of which kept their value because their tile is locked.
    errors : list of callables (JournalError)
        Called in the idle thread when a stroke could not be recorded; it is kept and tried again.
    """

    def __init__(
        self,
        index_HW: MaskArray,
        editable_HW: npt.NDArray[np.bool_] | LazyValidity,
        placements: Sequence[Placement],
        journal: Journal | None = None,
        *,
        num_classes: int | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        if index_HW.dtype != np.uint8 or index_HW.ndim not in (2, 3) or index_HW.shape != editable_HW.shape:
            raise ValueError(
                f"A uint8 mask in two or three dimensions and an editable area of its shape are needed, "
                f"not {index_HW.dtype} {index_HW.shape} and {editable_HW.shape}."
            )
        super().__init__(index_HW, RLock())
        self._editable = editable_HW
        self._index_PHW = index_HW if index_HW.ndim == 3 else index_HW[np.newaxis]
        on_planes = [[place] for place in placements] if index_HW.ndim == 3 else [list(placements)]
        self._place_of = {place.tile.id: (k, place) for k, on_plane in enumerate(on_planes) for place in on_plane}
        self._cells = EditCells(self._index_PHW, on_planes)
        self._tile_locks = TileLocks(on_planes)
        self._journal = journal
        self._num_classes = num_classes
        self._tool = "paint"
        self._model: str | None = None
        self.locked_classes: set[int] = set()
        self.refused: list[Callable[[slice, slice], None]] = []
        self.locked_out: list[Callable[[tuple[str, ...]], object]] = []
        self.recorded: list[Callable[[int], None]] = []
        self.errors: list[Callable[[JournalError], None]] = []
        self._recorder: StrokeRecorder | None = None
        # Tiles whose base the journal knows: strokes on them wait since an earlier session, or were made in this one.
        self._based: set[str] = set()
        self._without_file = {tile_id for tile_id, (_, place) in self._place_of.items() if place.tile.mask_path is None}
        if journal is not None:
            self._based.update(journal.unsaved_tiles())
            self._recorder = StrokeRecorder(journal, self._collect, lambda: bool(self._cells), self._lock, idle_s)
            self._recorder.recorded, self._recorder.errors = self.recorded, self.errors

    def __repr__(self) -> str:
        return f"EditableMask(shape={self.shape}, tiles={len(self._place_of)})"

    def __setitem__(self, key: Any, values: Any) -> None:
        """Write values where they may be written; see `refused` for the rest."""
        values = np.asarray(values)
        if values.dtype.kind not in "biu":
            raise TypeError(f"Labels are whole numbers, not {values.dtype}.")
        basic = as_box(key, self.shape)
        if basic is None:
            self._write_points(as_points(key, self.shape), values)
            return
        box, dropped = basic
        shape = [len(r) for k, r in enumerate(box_ranges(box, self.shape)) if k not in dropped]
        while values.ndim > len(shape) and values.shape[0] == 1:
            values = values[0]
        values = np.broadcast_to(values, shape)
        self._write_box(box, np.expand_dims(values, dropped))

    @property
    def read_only(self) -> bool:
        """Whether every edit is refused, because another process holds the journal."""
        return self._journal is not None and self._journal.read_only

    @property
    def dirty_tiles(self) -> dict[str, int]:
        """Tiles of this mask with recorded strokes that are not saved, and how many."""
        if self._journal is None:
            return {}
        return {tile: n for tile, n in self._journal.unsaved_tiles().items() if tile in self._place_of}

    @property
    def has_pending(self) -> bool:
        """Whether edits wait to be recorded."""
        with self._lock:
            return bool(self._cells) or bool(self._recorder)

    @property
    def tool(self) -> str:
        """What edits are made with."""
        return self._tool

    @tool.setter
    def tool(self, tool: str) -> None:
        with self._lock:
            if tool != self._tool:
                self._collect()
                self._tool = tool

    @property
    def model(self) -> str | None:
        """The model whose prediction is accepted, or None."""
        return self._model

    @model.setter
    def model(self, model: str | None) -> None:
        with self._lock:
            if model != self._model:
                self._collect()
                self._model = model

    @property
    def locked_tiles(self) -> frozenset[str]:
        """Tiles whose pixels do not change, because they are approved."""
        return self._tile_locks.tile_ids

    def lock_tiles(self, tile_ids: Iterable[str]) -> None:
        """Keep the pixels of these tiles as they are from now on, and of no others; tiles of other scenes are skipped.

        What is pending was drawn before and becomes a stroke.
        """
        with self._lock:
            self._collect()
            self._tile_locks.lock(tile_ids)

    def locked_under(self, window: Window, where_HW: npt.NDArray[np.bool_], plane: int = 0) -> dict[str, int]:
        """Locked tiles that an area reaches into, and how many of its pixels lie there.

        Parameters
        ----------
        window : Window
        where_HW : bool array of the window's shape
        plane : int
            Scene of a stack; 0 where there is none.
        """
        rows, cols = (range(part.start, part.stop) for part in window.slices)
        return self._tile_locks.count((range(plane, plane + 1), rows, cols), where_HW[np.newaxis])

    def commit(self, tool: str | None = None, *, model: str | None = None, group: str | None = None) -> int | None:
        """Record the pending edits as one stroke; it outlives the process when this returns.

        Returns
        -------
        int or None
            The id of the last stroke recorded; None where nothing had changed.

        Raises
        ------
        JournalError
            If the journal cannot be written; the edits stay pending and are tried again.
        """
        with self._lock:
            stroke = self._collect(tool, model, group)
        return self._send(stroke)

    def assign(
        self,
        index_HW: MaskArray,
        where_HW: npt.NDArray[np.bool_],
        tool: str,
        model: str | None = None,
        group: str | None = None,
    ) -> int | None:
        """Take many values at once, as one stroke, by the same rules as painting.

        Parameters
        ----------
        index_HW : integer array of the mask's shape
        where_HW : bool array of the mask's shape
        tool, model, group : see `commit`

        Returns
        -------
        int or None
            The stroke's id; None where nothing changed.
        """
        if index_HW.shape != self.shape or where_HW.shape != self.shape:
            raise ValueError(f"Arrays of shape {self.shape} are needed, not {index_HW.shape} and {where_HW.shape}.")
        with self._lock:
            self._collect()
            if where_HW.any():
                ranges = extent(where_HW, box_ranges((slice(None),) * self.ndim, self.shape))
                box = tuple(slice(r.start, r.stop) for r in ranges)
                self._write_box(box, index_HW[box], where_HW[box])
            stroke = self._collect(tool, model, group)
        return self._send(stroke) if stroke else None

    def assign_window(
        self,
        window: Window,
        index_HW: MaskArray,
        where_HW: npt.NDArray[np.bool_],
        tool: str,
        *,
        model: str | None = None,
        plane: int = 0,
    ) -> int | None:
        """`assign` for a window of the scene, so that a small change of a large scene costs little.

        Parameters
        ----------
        window : Window
            Inside the scene.
        index_HW, where_HW : integer and bool array of the window's shape
        tool, model : see `commit`
        plane : int
            Scene of a stack; 0 where there is none.

        Returns
        -------
        int or None
            The stroke's id; None where nothing changed.
        """
        size = (window.height, window.width)
        if index_HW.shape != size or where_HW.shape != size or window.clipped(*self.shape[-2:]) != window:
            raise ValueError(
                f"Arrays of the shape of {window} in a scene of {self.shape} are needed, "
                f"not {index_HW.shape} and {where_HW.shape}."
            )
        with self._lock:
            self._collect()
            if where_HW.any():
                self._write_on(plane, window.slices, index_HW, where_HW)
            stroke = self._collect(tool, model)
        return self._send(stroke) if stroke else None

    def assign_tiles(
        self,
        changes: Mapping[str, tuple[MaskArray, npt.NDArray[np.bool_]]],
        tool: str,
        group: str | None = None,
    ) -> int | None:
        """`assign` for whole tiles; those of other scenes are skipped.

        Parameters
        ----------
        changes : mapping of tile id to (values, where)
            uint8 and bool array of the tile's shape.
        tool, group : see `commit`

        Returns
        -------
        int or None
            The stroke's id; None where nothing changed.
        """
        with self._lock:
            self._collect()
            for tile_id, (values_HW, where_HW) in changes.items():
                if tile_id not in self._place_of or not where_HW.any():
                    continue
                plane, place = self._place_of[tile_id]
                self._write_on(plane, place.slices, values_HW, where_HW)
            stroke = self._collect(tool, None, group)
        return self._send(stroke) if stroke else None

    def shows(self, patch: Patch) -> bool:
        """Whether a pixel still holds what a patch made of it."""
        if not any(self._at_home([patch])):
            return False
        plane, place = self._place_of[patch.tile_id]
        with self._lock:
            now_HW = self._index_PHW[plane][place.slices][patch.slices]
            return bool((patch.edited & (now_HW == patch.after_HW)).any())

    def tile(self, tile_id: str) -> MaskArray:
        """A tile as it is now, a copy; KeyError where it is of another scene."""
        plane, place = self._place_of[tile_id]
        with self._lock:
            tile_HW: MaskArray = self._index_PHW[plane][place.slices].copy()
        return tile_HW

    def replay(self, strokes: Iterable[Stroke]) -> None:
        """Apply what strokes, oldest first, changed in the end, without recording.

        Tiles of other scenes are skipped, and patches that do not fit their tile.
        """
        by_tile: dict[str, list[Patch]] = {}
        for stroke in strokes:
            for patch in stroke.patches:
                if patch.tile_id in self._place_of:
                    by_tile.setdefault(patch.tile_id, []).append(patch)
        with self._lock:
            # What is pending was drawn on the old values: it becomes a stroke of its own first.
            self._collect()
            for tile_id, patches in by_tile.items():
                plane, place = self._place_of[tile_id]
                tile_HW = self._index_PHW[plane][place.slices]
                values_HW, where_HW = net_changes(patches, tile_HW.shape)
                np.copyto(tile_HW, values_HW, where=where_HW)

    def reload(self, tile_id: str, index_HW: MaskArray | None) -> None:
        """Show a tile as its mask file is now, without recording: after its strokes were discarded.

        The next stroke on the tile is taken as drawn on these pixels. A tile of another scene is skipped.

        Parameters
        ----------
        tile_id : str
        index_HW : uint8 array of the tile's shape, or None
            Class indices; None where the tile has no mask file.
        """
        if tile_id not in self._place_of:
            return
        plane, place = self._place_of[tile_id]
        with self._lock:
            # What is pending was drawn on the old values: it becomes a stroke of its own first.
            self._collect()
            self._index_PHW[plane][place.slices] = 0 if index_HW is None else index_HW
            self._based.discard(tile_id)
            (self._without_file.add if index_HW is None else self._without_file.discard)(tile_id)

    def undo_stroke(self, stroke: Stroke, tool: str = "undo") -> int | None:
        """Take back a stroke, of this session or an earlier one, by a new stroke of the same group.

        Only pixels that still hold the stroke's values change. Undoing the new stroke redoes the old one.
        """
        with self._lock:
            self._collect()
            for patch in self._at_home(reversed(stroke.patches)):
                plane, place = self._place_of[patch.tile_id]
                rows = slice(place.row + patch.row, place.row + patch.row + patch.before_HW.shape[0])
                cols = slice(place.col + patch.col, place.col + patch.col + patch.before_HW.shape[1])
                now_HW = self._index_PHW[plane, rows, cols]
                still_HW = patch.edited & (now_HW == patch.after_HW)
                self._write_on(plane, (rows, cols), patch.before_HW, still_HW)
            undoing = self._collect(tool, None, stroke.group)
        return self._send(undoing) if undoing else None

    def close(self) -> None:
        """Record what is pending and stop the idle thread.

        Raises
        ------
        JournalError
            If the journal cannot be written; the pending edits are then lost with the mask.
        """
        try:
            self.commit()
        finally:
            if self._recorder is not None:
                self._recorder.close()

    def _at_home(self, patches: Iterable[Patch]) -> Iterator[Patch]:
        """Those that lie on a tile of this mask."""
        for patch in patches:
            if patch.tile_id in self._place_of:
                tile = self._place_of[patch.tile_id][1].tile
                if patch.fits((tile.height, tile.width)):
                    yield patch

    def _write_on(self, plane: int, box: Box, values_HW: MaskArray, where_HW: npt.NDArray[np.bool_]) -> None:
        """Write on a plane of a stack; a mosaic has but one."""
        if self.ndim == 3:
            self._write_box((slice(plane, plane + 1), *box), values_HW[np.newaxis], where_HW[np.newaxis])
        else:
            self._write_box(box, values_HW, where_HW)

    def _write_box(self, box: Box, values: npt.NDArray[Any], where: npt.NDArray[np.bool_] | None = None) -> None:
        with self._lock:
            region = self._index[box]
            wanted = region != values
            if where is not None:
                wanted &= where
            if not wanted.any():
                return
            ranges = box_ranges(box, self.shape)
            held = self._hold(wanted, ranges)
            allowed = wanted & self._allowed(region, values, self._editable[box])
            if held:
                self._tile_locks.clear(allowed if self.ndim == 3 else allowed[np.newaxis], self._in_planes(ranges))
            if allowed.any():
                *plane, rows, cols = extent(allowed, ranges)
                self._cells.keep_box(plane[0] if plane else (0,), rows, cols)
                np.copyto(region, values, where=allowed, casting="unsafe")
                self._edited()
            wanted &= ~allowed
            refused = extent(wanted, ranges) if wanted.any() else None
        self._tell_refused(refused, held)

    def _write_points(self, points: tuple[npt.NDArray[np.intp], ...], values: npt.NDArray[Any]) -> None:
        if not points[0].size:
            return
        with self._lock:
            now = self._index[points]
            values = np.broadcast_to(values, now.shape)
            allowed = self._allowed(now, values, self._editable[points])
            *plane_of, rows, cols = points
            locked, held = self._tile_locks.at(
                plane_of[0] if plane_of else np.zeros_like(rows), rows, cols, now != values
            )
            allowed &= ~locked
            refused_points = (now != values) & ~allowed
            changed = allowed & (now != values)
            if changed.any():
                # Unchanged points are written, too: of a point given twice the last value counts, as in numpy.
                chosen = tuple(axis[allowed] for axis in points)
                *plane, rows, cols = chosen
                self._cells.keep_points(plane[0] if plane else np.zeros_like(rows), rows, cols)
                self._index[chosen] = values[allowed].astype(np.uint8)
                self._edited()
            refused = None
            if refused_points.any():
                refused = tuple(
                    range(int(axis[refused_points].min()), int(axis[refused_points].max()) + 1) for axis in points
                )
        self._tell_refused(refused, held)

    def _in_planes(self, ranges: Sequence[range]) -> tuple[range, range, range]:
        planes, rows, cols = (range(1), *ranges)[-3:]
        return planes, rows, cols

    def _hold(self, wanted: npt.NDArray[np.bool_], ranges: Sequence[range]) -> tuple[str, ...]:
        """Locked tiles that an edit would change."""
        if not self._tile_locks:
            return ()
        planes = wanted if self.ndim == 3 else wanted[np.newaxis]
        return tuple(self._tile_locks.count(self._in_planes(ranges), planes))

    def _allowed(
        self, now: MaskArray, values: npt.NDArray[Any], editable: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        if self.read_only:
            return np.zeros(now.shape, bool)
        allowed = editable & (values >= 0) & (values < (self._num_classes or 256))
        if self.locked_classes:
            locked = np.zeros(256, bool)
            locked[list(self.locked_classes)] = True
            allowed &= ~locked[now]
        return allowed

    def _tell_refused(self, ranges: tuple[range, ...] | None, held: tuple[str, ...] = ()) -> None:
        if ranges is None:
            return
        if held and not self.read_only:
            for tell in list(self.locked_out):
                tell(held)
        rows, cols = ranges[-2:]
        for callback in list(self.refused):
            callback(slice(rows.start, rows.stop), slice(cols.start, cols.stop))

    def _edited(self) -> None:
        if self._recorder is None:
            self._cells.clear()
        else:
            self._recorder.touch()

    def _collect(
        self, tool: str | None = None, model: str | None = None, group: str | None = None
    ) -> WaitingStroke | None:
        """Turn the pending cells into a stroke before the journal; the lock is held."""
        if not self._cells or self._recorder is None:
            return None
        stroke = None
        patches = self._cells.patches()
        if patches:
            stroke = WaitingStroke(patches, tool or self._tool, model or self._model, group)
            for tile_id in {patch.tile_id for patch in patches} - self._based:
                plane, place = self._place_of[tile_id]
                has_file = tile_id not in self._without_file
                stroke.bases[tile_id] = fingerprint(self._cells.base_of(plane, place)) if has_file else ABSENT
            self._based |= stroke.bases.keys()
            self._recorder.append(stroke)
        self._cells.clear()
        return stroke

    def _send(self, stroke: WaitingStroke | None) -> int | None:
        if self._recorder is None:
            return None
        last = self._recorder.send()
        # The idle thread may have recorded the stroke a moment before.
        return last if stroke is None else stroke.id
