"""The review states of a data set's tiles, for whoever reads its masks without a window."""

from pathlib import Path

from napari_glacier.core.dataset import Dataset
from napari_glacier.core.journal import Journal
from napari_glacier.core.journal_place import JOURNAL_NAME, user_journal_path

_SPLITS = ("train", "val", "test")


def journal_states(dataset: Dataset) -> tuple[dict[str, str], list[str]]:
    """Review state of each tile, and the tiles with strokes that are not in their mask files; creates nothing.

    Both are empty where the data set has no journal. That of ``root`` serves its folder ``root/train``, too.

    Raises
    ------
    JournalError
        If the journal is damaged, or was written by a newer version.
    """
    root = next((folder for folder in _places(dataset.root) if _has_journal(folder)), None)
    if root is None:
        return {}, []
    with Journal.open(root) as journal:
        states = journal.review_states()
        unsaved = journal.unsaved_tiles()
    known = [tile.id for tile in dataset.tiles]
    return {tile_id: states.get(tile_id, "todo") for tile_id in known}, [t for t in unsaved if t in set(known)]


def _places(root: Path) -> tuple[Path, ...]:
    return (root, root.parent) if root.name in _SPLITS else (root,)


def _has_journal(root: Path) -> bool:
    return (root / JOURNAL_NAME).is_file() or user_journal_path(root).is_file()
