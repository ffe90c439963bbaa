import numpy as np
import pytest

from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.errors import JournalError
from napari_glacier.core.tiling import Window


def test_seen_areas_are_kept_and_read_by_others(tmp_path):
    rng = np.random.default_rng(0)
    areas = [SeenArea("a", 3, 4, rng.random((7, 9)) < 0.5), SeenArea("b", 0, 0, np.ones((2, 3), bool))]
    with Journal.open(tmp_path) as journal:
        assert journal.seen.all() == []
        journal.seen.add(areas[:1], "kim")
        journal.seen.add(areas[1:], "kim")
        with Journal.open(tmp_path) as reader:
            assert reader.read_only
            assert [area.tile_id for area in reader.seen.all()] == ["a", "b"]
            with pytest.raises(JournalError, match="held by"):
                reader.seen.add(areas, "lee")
    with Journal.open(tmp_path) as journal:
        found = journal.seen.all()
    for area, back in zip(areas, found, strict=True):
        assert (back.tile_id, back.row, back.col) == (area.tile_id, area.row, area.col)
        assert np.array_equal(back.where_HW, area.where_HW)


def test_a_window_is_assigned_as_the_whole_would_be(make_dataset):
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.data.mosaic import plan_scenes

    scene = plan_scenes(open_dataset(make_dataset()))[0]
    rng = np.random.default_rng(1)
    window = Window(40, 50, 60, 70)
    values = rng.integers(0, 4, (60, 70), np.uint8)
    where = rng.random((60, 70)) < 0.6
    masks = []
    for windowed in (True, False):
        with _journal(scene, windowed) as journal:
            mask = EditableMask(scene.read_masks(), scene.valid(), scene.placements, journal, num_classes=4)
            mask.locked_classes = {2}
            if windowed:
                stroke = mask.assign_window(window, values, where, "snap", model="m")
                assert mask.assign_window(window, values, where, "snap") is None
                with pytest.raises(ValueError, match="shape of"):
                    mask.assign_window(Window(100, 100, 60, 70), values, where, "snap")
            else:
                full, full_where = np.zeros(scene.shape, np.uint8), np.zeros(scene.shape, bool)
                full[window.slices], full_where[window.slices] = values, where
                stroke = mask.assign(full, full_where, "snap", "m")
            recorded = journal.stroke(stroke)
            assert (recorded.tool, recorded.model) == ("snap", "m")
            masks.append((np.asarray(mask), sum(int(patch.edited.sum()) for patch in recorded.patches)))
            assert len(journal.drawn()) == len(recorded.patches)
            assert journal.drawn(("snap",)) == []
            mask.close()
    assert np.array_equal(masks[0][0], masks[1][0])
    assert masks[0][1] == masks[1][1] > 100


def _journal(scene, windowed):
    folder = scene.dataset.root.parent / f"journal_{windowed}"
    folder.mkdir()
    return Journal.open(folder)
