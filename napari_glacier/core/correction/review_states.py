"""The review states of a data set's tiles, for whoever reads its masks without a window."""

from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.journal_place import journal_root
from napari_glacier.core.data.dataset import Dataset


def journal_states(dataset: Dataset) -> tuple[dict[str, str], list[str]]:
    """Review state of each tile, and the tiles with strokes that are not in their mask files; creates nothing.

    Both are empty where the data set has no journal. That of ``root`` serves its folder ``root/train``, too.

    Raises
    ------
    JournalError
        If the journal is damaged, or was written by a newer version.
    """
    root = journal_root(dataset.root)
    if root is None:
        return {}, []
    with Journal.open(root) as journal:
        states = journal.review_states()
        unsaved = journal.changed_tiles()
    known = [tile.id for tile in dataset.tiles]
    return {tile_id: states.get(tile_id, "todo") for tile_id in known}, [t for t in unsaved if t in set(known)]
