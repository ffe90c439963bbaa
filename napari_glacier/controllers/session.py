"""An open dataset: its scenes, the mask being edited, and the journal that keeps every stroke.

There is one session a dataset folder in a process. The reader, the sample data and all widgets share it,
so that one window paints, saves and predicts on the same pixels.
"""

import atexit
import logging
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_glacier.controllers.layers import LayerData, scene_layers
from napari_glacier.controllers.recovered import Recovered
from napari_glacier.core.classes import ClassScheme, get_scheme
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.reviews import APPROVED
from napari_glacier.core.correction.saving import (
    SaveReport,
    changed_outside,
    keep_outside_changes,
    read_present_mask,
    save_tiles,
    settle_saves,
)
from napari_glacier.core.data.dataset import Dataset, open_dataset
from napari_glacier.core.data.mosaic import Mosaic, Placement, plan_scenes
from napari_glacier.core.data.validity import LazyValidity
from napari_glacier.core.errors import DataError, JournalError
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.tiling import Window
from napari_glacier.core.wording import listed

logger = logging.getLogger(__name__)

DEFAULT_SCHEME = "glacier4"


class Session:
    """One dataset that is open for looking at, predicting on and correcting.

    Use `Session.open`; the constructor is for it alone.

    Signals
    -------
    edited() : strokes were made, undone, saved or discarded; may come from another thread
    refused(tile ids) : something was drawn on approved tiles, which stayed as they are
    failed(JournalError) : a stroke could not be recorded and is tried again; from another thread
    reviewed(tile_id), saved(SaveReport), closing()
    scene_shown() : another scene is the current one, in all windows that show the dataset
    drawn(stroke ids, layer) : strokes are to be drawn in all windows, but for the layer that shows them already (or
        None); in the GUI thread, as the next
    reloaded() : the labels came anew from the mask files
    locks_changed() : a person locked a class or gave it free

    Attributes
    ----------
    locked_classes : set of int
        Pixels of these classes do not change, in any scene.
    """

    edited = Signal()
    refused = Signal(tuple)
    failed = Signal(object)
    reviewed = Signal(str)
    saved = Signal(object)
    closing = Signal()
    scene_shown = Signal()
    drawn = Signal(tuple, object)
    reloaded = Signal()
    locks_changed = Signal()

    _open: ClassVar[dict[Path, "Session"]] = {}

    def __init__(self, dataset: Dataset) -> None:
        self.assumed_scheme = dataset.scheme is None
        self.dataset = dataset if dataset.scheme is not None else dataset.with_scheme(get_scheme(DEFAULT_SCHEME))
        self.scenes: tuple[Mosaic, ...] = plan_scenes(self.dataset)
        self.journal = Journal.open(self.dataset.root)
        self.scene_number = 0
        self.closed = False
        # The folder may lie behind a link that is gone when the session closes.
        self._key = self.dataset.root.resolve()
        self.recovered: Recovered | None = None
        self.conflicts: tuple[str, ...] = ()
        # Strokes that were drawn without letting go of the button, in order, by the last of them.
        self.drawn_at_once: dict[int, tuple[int, ...]] = {}
        self.locked_classes: set[int] = set()
        self._holders: weakref.WeakSet[Any] = weakref.WeakSet()
        self._masks: dict[int, EditableMask] = {}
        self._valid: dict[int, npt.NDArray[np.bool_] | LazyValidity] = {}
        try:
            self._recover()
            self.mask_of(0)
        except BaseException:
            self.journal.close()
            raise

    @classmethod
    def open(cls, path: str | Path, scheme: str | None = None) -> "Session":
        """The session of a dataset folder (or of a file in it), opened if it is not yet.

        Tiles whose files are damaged are left out; `Dataset.damaged` tells them.

        Raises
        ------
        GlacierError
            If the folder is no dataset, no tile of it can be read, or the journal cannot be opened.
        """
        dataset = open_dataset(Path(path), scheme=scheme, without_damaged=True)
        known = cls._open.get(dataset.root.resolve())
        if known is not None and not known.closed:
            if not {tile.id for tile in dataset.tiles} <= set(known.tile_ids):
                raise DataError(
                    f"{dataset.root} is open with {listed(known.tile_ids)}. Close its layers before opening "
                    f"{listed([tile.id for tile in dataset.tiles])} of the same folder."
                )
            if scheme is not None and scheme != known.scheme.name:
                raise DataError(
                    f"{dataset.root} is open with the classes of {known.scheme.name}. "
                    f"Close its layers before opening it with {scheme}."
                )
            if not known.journal.read_only:
                return known
            # Whoever held it may have closed it since.
            session = cls(dataset)
            if session.journal.read_only:
                session.journal.close()
                return known
        else:
            session = cls(dataset)
        cls._open[session._key] = session
        return session

    @classmethod
    def is_open_elsewhere(cls, root: Path, holder: Any) -> bool:
        """Whether a dataset folder is open in this process, and would be so without `holder`, too."""
        known = cls._open.get(root.resolve())
        return known is not None and not known.closed and set(known._holders) != {holder}

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        return self.dataset.root

    @property
    def scheme(self) -> ClassScheme:
        """The classes of the labels."""
        scheme = self.dataset.scheme
        assert scheme is not None
        return scheme

    @property
    def stacked(self) -> bool:
        """Whether the scenes are many and of one size, shown one above another with a slider; large ones are not."""
        return len({scene.shape for scene in self.scenes}) == 1 < len(self.scenes) and not self.scenes[0].is_large

    @property
    def current_scenes(self) -> tuple[Mosaic, ...]:
        """The scenes that are on screen together: the whole stack, or one."""
        return self.scenes if self.stacked else (self.scenes[self.scene_number],)

    @property
    def mask(self) -> EditableMask:
        """What the Labels layer on screen edits."""
        return self.mask_of(self.scene_number)

    @property
    def tile_ids(self) -> tuple[str, ...]:
        """Ids of all tiles, in the dataset's order."""
        return tuple(tile.id for tile in self.dataset.tiles)

    @property
    def read_only(self) -> str:
        """Why nothing can be corrected here, or an empty text."""
        if not self.journal.read_only:
            return ""
        holder = f" by {self.journal.holder}" if self.journal.holder else ""
        return (
            f"This dataset is open elsewhere{holder}: it can be looked at here, but not corrected. Close it there, "
            "then open it here again."
        )

    def georef(self, plane: int = 0) -> GeoRef | None:
        """Where a scene on screen lies."""
        return self.current_scenes[plane].georef

    def find(self, tile_id: str) -> tuple[int, Any]:
        """Number of the scene that a tile belongs to, and its placement there."""
        for number, scene in enumerate(self.scenes):
            for place in scene.placements:
                if place.tile.id == tile_id:
                    return number, place
        raise DataError(f"{self.root} has no tile {tile_id!r}.")

    def mask_of(self, number: int) -> EditableMask:
        """The mask of a scene (of all scenes, where they are a stack), read on first asking."""
        number = 0 if self.stacked else number
        if number not in self._masks:
            scenes = self.scenes if self.stacked else (self.scenes[number],)
            index = [scene.read_masks() for scene in scenes]
            valid: npt.NDArray[np.bool_] | LazyValidity
            if self.stacked:
                valid = np.stack([scene.valid() for scene in scenes])
            else:
                (scene,) = scenes
                valid = LazyValidity(scene) if scene.is_large else scene.valid()
            mask = EditableMask(
                np.stack(index) if self.stacked else index[0],
                valid,
                tuple(place for scene in scenes for place in scene.placements),
                self.journal,
                num_classes=self.scheme.num_classes,
            )
            mask.locked_classes = self.locked_classes
            mask.replay(self.journal.unsaved())
            mask.lock_tiles(self.approved)
            mask.locked_out.append(self.refused.emit)
            mask.recorded.append(self._on_recorded)
            mask.errors.append(self.failed.emit)
            self._masks[number] = mask
            self._valid[number] = valid
        return self._masks[number]

    def tile_labels(
        self, number: int, place: Placement, step: int = 1
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Labels of a tile as they are now, strokes included, and which of its pixels carry data.

        Masks that were not looked at yet are read from their files and not kept. May be called in any thread.

        Parameters
        ----------
        number : int
            Of the tile's scene.
        place : Placement
        step : int
            Every how many rows and columns.
        """
        key = 0 if self.stacked else number
        mask, valid = self._masks.get(key), self._valid.get(key)
        thin = (slice(None, None, step), slice(None, None, step))
        if mask is None or valid is None:
            # Whoever asks may have taken the place down before a save gave its tile a mask file.
            index_HW = self.dataset.read_mask(self.dataset.tile(place.tile.id))
            if index_HW is None:
                index_HW = np.zeros((place.tile.height, place.tile.width), np.uint8)
            return index_HW[thin], self.dataset.read_valid(place.tile)[thin]
        lead = (number,) if self.stacked else ()
        rows, cols = place.slices
        where = (*lead, slice(rows.start, rows.stop, step), slice(cols.start, cols.stop, step))
        if isinstance(valid, LazyValidity):
            height, width = place.tile.height, place.tile.width
            shape = -(-height // step), -(-width // step)
            return mask[where], self.dataset.read(place.tile, (), (0, height), (0, width), shape)[1]
        return mask[where], valid[where]

    @property
    def valid(self) -> npt.NDArray[np.bool_] | LazyValidity:
        """Pixels of the mask on screen that carry data; of a large scene, read where it is looked at."""
        self.mask_of(self.scene_number)
        return self._valid[0 if self.stacked else self.scene_number]

    def touched(self, window: Window, plane: int = 0) -> npt.NDArray[np.bool_]:
        """Pixels of a window of a scene on screen that somebody drew or found right."""
        self.mask.commit()
        where_HW = np.zeros((window.height, window.width), bool)
        for place in self.current_scenes[plane].tiles_in(window):
            top, left = max(window.row, place.row), max(window.col, place.col)
            bottom = min(window.row + window.height, place.row + place.tile.height)
            right = min(window.col + window.width, place.col + place.tile.width)
            of_tile_HW = self.journal.touched(place.tile.id, (place.tile.height, place.tile.width))
            where_HW[top - window.row : bottom - window.row, left - window.col : right - window.col] = of_tile_HW[
                top - place.row : bottom - place.row, left - place.col : right - place.col
            ]
        return where_HW

    def layer_data(self, number: int | None = None) -> list[LayerData]:
        """Layers of a scene for napari, bottom first; makes it the current one.

        Raises
        ------
        GlacierError
            If a file of the scene cannot be read; the current scene stays what it was.
        """
        number = self.scene_number if number is None else 0 if self.stacked else number
        scenes = self.scenes if self.stacked else (self.scenes[number],)
        tag = {"session": self, "role": ""}
        layers = scene_layers(scenes, self.mask_of(number), self.scheme, self.dataset.bands, tag)
        self.scene_number = number
        return layers

    def commit(self) -> None:
        """Write what was drawn a moment ago into the journal."""
        for mask in self._masks.values():
            mask.commit()

    def unsaved(self) -> dict[str, int]:
        """Number of strokes not yet written to the mask file, for each tile where that makes a difference.

        The journal of a folder also keeps those of tiles that are not open, where a split or a file of it is; they
        wait there until their tiles are opened.
        """
        here, changed = set(self.tile_ids), self.journal.changed_tiles()
        return {tile_id: number for tile_id, number in changed.items() if tile_id in here}

    def save(self, tile_ids: Sequence[str] | None = None) -> SaveReport:
        """Write the corrections into the mask files of their tiles.

        Tiles that cannot be written are named in the report; their strokes stay in the journal.
        """
        self.commit()
        report = save_tiles(self.dataset, self.mask, self.journal, tile_ids)
        self.conflicts = changed_outside(self.dataset, self.journal) if report.failed or self.conflicts else ()
        self._reload_tiles()
        self.recovered = None if not self.unsaved() else self.recovered
        self.saved.emit(report)
        self.edited.emit()
        return report

    def keep_on_top(self) -> None:
        """Agree to what other programs wrote into the mask files: the strokes go on top of it.

        The masks hold that then, too.

        Raises
        ------
        DataError
            If a mask file cannot be read; nothing is agreed to then.
        """
        self.commit()
        settle_saves(self.dataset, self.journal)
        files = keep_outside_changes(self.dataset, self.journal, self.conflicts)
        strokes = [stroke for tile_id in self.conflicts for stroke in self.journal.unsaved(tile_id)]
        for mask in self._masks.values():
            mask.replay(files)
            mask.replay(strokes)
        self._reload_tiles()
        self.conflicts = ()
        self.reloaded.emit()
        self.edited.emit()

    def discard(self, tile_ids: Sequence[str] | None = None) -> int:
        """Drop strokes that were not saved and show the masks as their files are now; gives their number.

        Those on approved tiles stay, and those on tiles that are not open.

        Raises
        ------
        DataError
            If a mask file cannot be read; nothing is dropped then.
        """
        self.commit()
        # What a save has written can no longer be dropped.
        settle_saves(self.dataset, self.journal)
        asked = self.unsaved() if tile_ids is None else tile_ids
        free = set(self.tile_ids) - self.approved
        chosen = [tile_id for tile_id in asked if tile_id in free]
        strokes = [s for s in self.journal.unsaved() if any(patch.tile_id in chosen for patch in s.patches)]
        # The values before a stroke may be long gone from the file, which other programs write, too.
        tiles = [tile for tile in self.dataset.tiles if tile.id in chosen]
        present = {tile.id: read_present_mask(self.dataset, tile) for tile in tiles}
        self.journal.discard_unsaved(chosen)
        for mask in self._masks.values():
            for tile_id, index_HW in present.items():
                mask.reload(tile_id, index_HW)
        self._reload_tiles()
        self.recovered = None
        self.conflicts = tuple(tile_id for tile_id in self.conflicts if tile_id not in chosen)
        self.reloaded.emit()
        self.edited.emit()
        return len(strokes)

    def review(self, tile_id: str) -> str:
        """How far the review of a tile has come."""
        return self.journal.review(tile_id)

    @property
    def approved(self) -> frozenset[str]:
        """Tiles that are approved, and therefore locked."""
        states = self.journal.review_states()
        return frozenset(tile_id for tile_id, state in states.items() if state == APPROVED)

    def set_review(self, tile_id: str, state: str, note: str = "") -> None:
        """Note how far the review of a tile has come; an approved tile is locked until it is given another state.

        Parameters
        ----------
        tile_id, state : str
        note : str
            Kept with the state, the author and the time.

        Raises
        ------
        JournalError
            If the dataset is held elsewhere.
        """
        if self.journal.read_only:
            raise JournalError(self.read_only)
        # What is being drawn belongs to the tile that is approved.
        self.commit()
        if state != self.journal.review(tile_id) or note.strip():
            self.journal.set_review(tile_id, state, note)
            for mask in self._masks.values():
                mask.lock_tiles(self.approved)
            self.reviewed.emit(tile_id)

    def hold(self, holder: Any) -> None:
        """Keep the session open for `holder` until it releases it."""
        self._holders.add(holder)

    def release(self, holder: Any) -> None:
        """Let go; the last one to do so closes the session."""
        self._holders.discard(holder)
        if not self._holders:
            self.close()

    def close(self) -> None:
        """Commit what is pending, close the journal and give the dataset's lock back."""
        if self.closed:
            return
        self.closing.emit()
        for mask in self._masks.values():
            mask.commit()
            mask.close()
        self.closed = True
        if self._open.get(self._key) is self:
            del self._open[self._key]
        self.journal.close()

    def _recover(self) -> None:
        """Note what an earlier sitting left, and whether it still fits the files it was drawn on."""
        settle_saves(self.dataset, self.journal)
        waiting = self.unsaved()
        if not waiting and not self.journal.mended:
            return
        strokes = [s for s in self.journal.unsaved() if any(patch.tile_id in waiting for patch in s.patches)]
        lost = self.journal.damaged & {stroke.id for stroke in self.journal.unsaved()}
        self.recovered = Recovered(len(strokes), tuple(sorted(waiting)), len(lost), self.journal.mended)
        self.conflicts = changed_outside(self.dataset, self.journal)

    def _reload_tiles(self) -> None:
        """Take note of mask files that tiles did not have: a first save makes them, or another program."""
        made = {
            tile.id: replace(tile, mask_path=tile.new_mask_path)
            for tile in self.dataset.tiles
            if tile.mask_path is None and tile.new_mask_path.is_file()
        }
        if not made:
            return
        self.dataset = replace(self.dataset, tiles=tuple(made.get(tile.id, tile) for tile in self.dataset.tiles))
        # Layers hold the scenes, and masks of those that were not looked at yet are read by their placements.
        for scene in self.scenes:
            scene.dataset = self.dataset
            scene.placements = tuple(
                replace(place, tile=made.get(place.tile.id, place.tile)) for place in scene.placements
            )

    def _on_recorded(self, stroke_id: int) -> None:
        self.edited.emit()


def _close_all() -> None:
    """Write what was drawn in the last moment before the program ends, and give the locks back."""
    for session in list(Session._open.values()):
        try:
            session.close()
        except JournalError as error:
            logger.warning("%s: %s", session.root, error)


atexit.register(_close_all)
