"""Writing strokes into the mask files: tile by tile, atomically, never over a change made elsewhere.

For each tile the journal first notes what the file will look like; then the file is replaced; then the
strokes are marked saved. A crash in between is settled by looking at the file: see `settle_saves`.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.strokes import (
    ABSENT,
    MaskArray,
    Patch,
    Stroke,
    come_to_nothing,
    fingerprint,
    net_changes,
)
from napari_glacier.core.data.dataset import Dataset, described_scheme, write_scheme
from napari_glacier.core.data.layouts import DESCRIPTION_FILE
from napari_glacier.core.data.mosaic import Mosaic
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import DataError, GlacierError, SaveError
from napari_glacier.core.files import replacing
from napari_glacier.core.raster import check_writable, rewrite_mask, write_mask
from napari_glacier.core.raster.archives import file_of

__all__ = ["ORIGINALS_FOLDER", "SaveReport", "changed_outside", "fingerprint", "keep_outside_changes"]
__all__ += ["mask_file", "read_present_mask", "save_tiles", "settle_saves"]

ORIGINALS_FOLDER = "labels_original"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SaveReport:
    """What became of each tile with unsaved strokes; of those whose strokes cancelled out, nothing is said.

    Attributes
    ----------
    saved : tuple of str
        Tiles whose file was written, and now holds every stroke.
    created : tuple of Path
        Mask files that did not exist before.
    failed : dict of str to str
        Tiles that were not written, each with the reason; their strokes are kept.
    note : str
        What else a person should know; empty where there is nothing.
    """

    saved: tuple[str, ...] = ()
    created: tuple[Path, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def message(self) -> str:
        """The outcome in words."""
        if not self.saved and not self.failed:
            return "Nothing to save: no tile has unsaved strokes."
        text = f"Saved {len(self.saved)} tile(s)." if self.saved else "No tile was saved."
        for tile_id, reason in self.failed.items():
            text += f" {tile_id}: {reason}"
        return f"{text} {self.note}".rstrip()


def save_tiles(
    dataset: Dataset,
    mosaics_or_mask: EditableMask | Sequence[Mosaic] | None,
    journal: Journal,
    tile_ids: Iterable[str] | None = None,
) -> SaveReport:
    """Write the unsaved strokes of tiles into their mask files.

    Parameters
    ----------
    dataset : Dataset
    mosaics_or_mask : EditableMask, sequence of Mosaic, or None
        A mask's pending edits are recorded first. The pixels come from the files and the journal alone.
        The first file that is written brings the scheme into `dataset.yaml`, where none is stated.
    journal : Journal
    tile_ids : iterable of str, optional
        Only these tiles; else all of the data set with unsaved strokes. Where a part of a folder is open, its
        journal may know of others; these are left alone.

    Returns
    -------
    SaveReport
        One tile's failure does not keep the others from being saved.

    Raises
    ------
    JournalError
        If the mask's pending edits cannot be recorded, or another process holds the journal.
    """
    if isinstance(mosaics_or_mask, EditableMask):
        mosaics_or_mask.commit()
    settle_saves(dataset, journal)
    waiting = journal.unsaved_tiles()
    if tile_ids is None:
        known = {tile.id for tile in dataset.tiles}
        wanted = [tile_id for tile_id in waiting if tile_id in known]
    else:
        wanted = [tile_id for tile_id in tile_ids if tile_id in waiting]
    saved: list[str] = []
    created: list[Path] = []
    failed: dict[str, str] = {}
    note: str | None = None
    for tile_id in wanted:
        try:
            tile = dataset.tile(tile_id)
            is_new = mask_file(tile) is None
            path = _save_tile(dataset, tile, journal)
        except (GlacierError, OSError) as error:
            _logger.warning("Tile %s was not saved: %s", tile_id, error)
            failed[tile_id] = str(error) if isinstance(error, GlacierError) else _unexpected(tile, error)
            continue
        if path is None:
            continue
        saved.append(tile_id)
        if note is None:
            note = _state_scheme(dataset)
        if is_new:
            created.append(path)
    return SaveReport(tuple(saved), tuple(created), failed, note or "")


def settle_saves(dataset: Dataset, journal: Journal) -> tuple[str, ...]:
    """Settle saves that a crash or a failure interrupted; to be called when a data set is opened.

    A file that holds what was about to be written was written: its strokes are marked saved. Else they stay
    unsaved.

    Returns
    -------
    tuple of str
        Tiles whose save turned out to be complete.
    """
    completed = []
    known = {tile.id for tile in dataset.tiles}
    for tile_id, fingerprint_after in journal.begun_saves().items():
        if journal.read_only or tile_id not in known:
            continue
        if _present_fingerprint(dataset, dataset.tile(tile_id)) == fingerprint_after:
            journal.finish_save(tile_id)
            completed.append(tile_id)
        else:
            journal.forget_save(tile_id)
    return tuple(completed)


def changed_outside(dataset: Dataset, journal: Journal) -> tuple[str, ...]:
    """Tiles with unsaved strokes whose mask file is not the one the strokes were drawn on.

    A file that a save has written, and could not note, was changed by nobody else.
    """
    known, begun = {tile.id for tile in dataset.tiles}, journal.begun_saves()
    changed = []
    for tile_id in journal.changed_tiles():
        base = journal.base_fingerprint(tile_id)
        if tile_id in known and base is not None:
            present = _present_fingerprint(dataset, dataset.tile(tile_id))
            if present not in (base, begun.get(tile_id)):
                changed.append(tile_id)
    return tuple(changed)


def keep_outside_changes(dataset: Dataset, journal: Journal, tile_ids: Iterable[str]) -> list[Stroke]:
    """Agree to outside changes: what the unsaved strokes of these tiles come to goes on top of the files as they are.

    It becomes one stroke of each tile. What the strokes were drawn on is in no file any more: one that was then taken
    back, or painted over with what had been there, would count as no change, and the file keep its own.

    Returns
    -------
    list of Stroke
        What a mask that shows the tiles is to replay before their unsaved strokes: of each tile its file, whole. No
        journal knows these.

    Raises
    ------
    DataError
        If a file cannot be read; nothing is agreed to then.
    """
    tiles = [dataset.tile(tile_id) for tile_id in tile_ids]
    present = [read_present_mask(dataset, tile) for tile in tiles]
    strokes = []
    for tile, present_HW in zip(tiles, present, strict=True):
        base = ABSENT if present_HW is None else fingerprint(present_HW)
        index_HW = np.zeros((tile.height, tile.width), np.uint8) if present_HW is None else present_HW
        patches = [patch for stroke in journal.unsaved(tile.id) for patch in stroke.patches]
        if all(patch.fits(index_HW.shape) for patch in patches):
            values_HW, drawn_HW = net_changes(patches, index_HW.shape)
            journal.rebase(Patch(tile.id, 0, 0, index_HW, np.where(drawn_HW, values_HW, index_HW)), base)
        else:
            # They reach beyond the tile, and wait for the larger one.
            journal.set_base_fingerprint(tile.id, base)
        # A patch changes pixels whose values before and after differ: here all of them.
        whole = Patch(tile.id, 0, 0, ~index_HW, index_HW)
        strokes.append(Stroke(0, "", "file", "", "", None, (whole,)))
    return strokes


def mask_file(tile: Tile) -> Path | None:
    """The mask file of a tile as it is on disk now, also one made since the data set was opened."""
    for path in (tile.mask_path, tile.new_mask_path):
        if path is not None and path.is_file():
            return path
    return None


def read_present_mask(dataset: Dataset, tile: Tile) -> MaskArray | None:
    """Class indices of a tile's mask as its file is now, shape (H, W); None where it has no file.

    Raises
    ------
    DataError
        If the file cannot be read or does not fit the tile.
    """
    return dataset.read_mask(replace(tile, mask_path=mask_file(tile)))


def _save_tile(dataset: Dataset, tile: Tile, journal: Journal) -> Path | None:
    """Save one tile; gives the file that was written, None where the strokes cancelled out."""
    strokes = journal.unsaved(tile.id)
    patches = [patch for stroke in strokes for patch in stroke.patches]
    path = mask_file(tile)
    present_HW = read_present_mask(dataset, tile)
    base = journal.base_fingerprint(tile.id)
    present = ABSENT if present_HW is None else fingerprint(present_HW)
    if come_to_nothing(patches):
        # A tile without a mask gets none, that would call all of it background. Where another program changed the
        # file, the strokes wait: of the next one on the tile this is told.
        if base in (None, present):
            journal.begin_save(tile.id, strokes[-1].id, present)
            journal.finish_save(tile.id)
        return None
    if base is not None and base != present:
        raise SaveError(_outside_change(tile, base, present))
    if path is not None:
        check_writable(path)
    elif not any(file_of(file).exists() for file in tile.files):
        # A new mask would make the folder anew, where nobody looks for it.
        raise SaveError(
            f"The images of {dataset.root} are no longer there: it was renamed or moved. The strokes are kept in its "
            "journal. Give it its name back, or close it and open it where it is."
        )
    if dataset.scheme is None:
        raise SaveError(f"{dataset.root} has no class scheme to write masks with. Choose one, then save again.")
    before_HW = np.zeros((tile.height, tile.width), np.uint8) if present_HW is None else present_HW
    if not all(patch.fits(before_HW.shape) for patch in patches):
        raise SaveError(
            f"Strokes on tile {tile.id} reach beyond its {tile.height} x {tile.width} pixels: it was larger when they "
            "were drawn. Bring the old images back, or drop the strokes (Discard)."
        )
    values_HW, drawn_HW = net_changes(patches, before_HW.shape)
    after_HW = np.where(drawn_HW, values_HW, before_HW)
    journal.begin_save(tile.id, strokes[-1].id, fingerprint(after_HW))
    changed_HW = after_HW != before_HW
    if path is None:
        write_mask(tile.new_mask_path, after_HW, dataset.scheme, tile.georef)
    elif changed_HW.any():
        if journal.origin_fingerprint(tile.id) != ABSENT:
            _keep_original(dataset.root, path)
        rewrite_mask(path, after_HW, changed_HW, dataset.scheme)
    journal.finish_save(tile.id)
    return path or tile.new_mask_path


def _state_scheme(dataset: Dataset) -> str:
    """Write the scheme of the masks down where nothing states it; says so where that fails.

    The masks of a four-class data set may hold two classes only, so that a later opening would guess wrong.
    """
    if dataset.scheme is None:
        return ""
    try:
        if described_scheme(dataset.root) is None:
            write_scheme(dataset.root, dataset.scheme)
    except (GlacierError, OSError) as error:
        _logger.warning("The scheme of %s was not written down: %s", dataset.root, error)
        return (
            f"The masks are saved, but their class scheme could not be written down: {error} "
            f"Write `scheme: {dataset.scheme.name}` into {dataset.root / DESCRIPTION_FILE}, else it is guessed again."
        )
    return ""


def _unexpected(tile: Tile, error: OSError) -> str:
    return (
        f"The mask {tile.mask_path or tile.new_mask_path} could not be read or written ({error.strerror or error}); "
        "the strokes are kept. Check that its folder can be written and has space, then save again."
    )


def _present_fingerprint(dataset: Dataset, tile: Tile) -> str:
    try:
        index_HW = read_present_mask(dataset, tile)
    except (DataError, OSError) as error:
        return f"unreadable: {error}"
    return ABSENT if index_HW is None else fingerprint(index_HW)


def _outside_change(tile: Tile, base: str, present: str) -> str:
    if present == ABSENT:
        what = f"The mask {tile.mask_path or tile.new_mask_path} was moved or deleted"
    elif base == ABSENT:
        what = f"The mask {mask_file(tile)} was made by another program"
    else:
        what = f"The mask {mask_file(tile)} was changed by another program"
    return (
        f"{what} since the strokes on tile {tile.id} were drawn; it was not overwritten, and the strokes are kept. "
        "Bring the old file back, or choose: Keep puts the strokes on top of the file as it is, Discard drops them."
    )


def _keep_original(root: Path, path: Path) -> None:
    """Copy a mask as it came, once; its path within the data set is kept."""
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    kept = root / ORIGINALS_FOLDER / inside
    if kept.exists():
        return
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            shutil.copyfile(path, temporary)
            stat = path.stat()
            os.utime(temporary, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    except OSError as error:
        raise SaveError(
            f"The original of {path} could not be kept at {kept} ({error.strerror or error}); nothing was written. "
            "Free disk space or make the folder writable, then save again."
        ) from error
