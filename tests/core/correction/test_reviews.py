import numpy as np
import pytest

from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.journal_schema import REVIEW_STATES
from napari_glacier.core.correction.review_states import journal_states
from napari_glacier.core.correction.reviews import meets
from napari_glacier.core.correction.saving import save_tiles
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.errors import DataError
from napari_glacier.core.inventory.map_source import open_maps
from napari_glacier.core.tiling import Window


def open_mask(root, journal):
    (scene,) = plan_scenes(open_dataset(root, scheme="glacier4"))
    return EditableMask(scene.read_masks(), scene.valid(), scene.placements, journal, num_classes=4)


def test_what_was_said_of_a_tile_is_kept_in_order_with_its_author(tmp_path):
    with Journal.open(tmp_path, author="anna") as journal:
        assert journal.reviews.all() == []
        journal.set_review("a", "rejected", "  debris in the north is missing ")
        journal.set_review("b", "approved")
    with Journal.open(tmp_path, author="ben") as journal:
        journal.set_review("a", "approved", "mended")
        said = [(event.state, event.note, event.author) for event in journal.reviews.of("a")]
        assert said == [("rejected", "debris in the north is missing", "anna"), ("approved", "mended", "ben")]
        assert journal.review_states() == {"a": "approved", "b": "approved"}


def test_approved_counts_as_edited_and_nothing_else_as_approved():
    assert [state for state in REVIEW_STATES if meets(state, "edited")] == ["edited", "approved"]
    assert [state for state in REVIEW_STATES if meets(state, "approved")] == ["approved"]


def test_a_tile_that_is_drawn_on_is_in_progress_and_edited_once_saved(make_dataset):
    root = make_dataset()
    dataset = open_dataset(root, scheme="glacier4")
    with Journal.open(root) as journal:
        mask = open_mask(root, journal)
        mask[20:30, 20:30] = (mask[20, 20] + 1) % 4
        mask.commit("paint")
        assert journal.review_states() == {"00_00": "in progress"}
        mask.assign((mask[...] + 1) % 4, np.ones(mask.shape, bool), tool="accept")
        assert journal.review_states() | {"00_01": "todo"} == journal.review_states()
        assert journal.review("00_00") == "in progress"
        save_tiles(dataset, mask, journal)
        # Accepting everything at once is not looking at it.
        assert journal.review("00_00") == "edited"
        assert journal.review("00_01") == "todo"
        journal.set_review("00_00", "rejected")
        mask[20:30, 20:30] = (mask[20, 20] + 1) % 4
        save_tiles(dataset, mask, journal)
        assert journal.review("00_00") == "rejected"
        mask.close()


@pytest.mark.parametrize("stacked", [False, True])
def test_locked_tiles_stay_as_they_are_whatever_index_writes(make_dataset, stacked):
    """Random writes of every index form, against a plain array that is put back where the locked tiles lie."""
    root = make_dataset(georeferenced=not stacked, grid=(2, 3))
    scenes = plan_scenes(open_dataset(root, scheme="glacier4"))
    index = np.stack([s.read_masks() for s in scenes]) if stacked else scenes[0].read_masks()
    places = [place for scene in scenes for place in scene.placements]
    mask = EditableMask(index.copy(), np.ones(index.shape, bool), places, num_classes=4)
    locked = {"00_01", "01_02"}
    mask.lock_tiles([*locked, "of another scene"])
    assert mask.locked_tiles == locked
    frozen = np.zeros(index.shape, bool)
    for plane, place in enumerate(places):
        if place.tile.id in locked:
            frozen[(plane, *place.slices) if stacked else place.slices] = True
    told: list[str] = []
    mask.locked_out.append(told.extend)
    rng = np.random.default_rng(3)
    expected = index.copy()
    for turn in range(120):
        value = int(rng.integers(4))
        top, left = rng.integers(0, index.shape[-2] - 40), rng.integers(0, index.shape[-1] - 40)
        key = (slice(top, top + 40), slice(left, left + 40, 1 + turn % 3))
        if turn % 4 == 1:
            key = (rng.integers(0, index.shape[-2], 50), rng.integers(0, index.shape[-1], 50))
        elif turn % 4 == 2:
            key = (int(top), int(left))
        if stacked:
            key = (rng.integers(0, 6, 50) if turn % 4 == 1 else int(rng.integers(6)), *key)
        before = expected.copy()
        expected[key] = value
        would_change = (expected != before) & frozen
        expected[frozen] = index[frozen]
        told.clear()
        mask[key] = value
        np.testing.assert_array_equal(mask[...], expected)
        assert bool(told) == would_change.any()
        assert set(told) <= locked
    mask.lock_tiles([])
    mask[...] = 2
    assert (mask[...] == 2).all()


def test_pixels_of_an_area_on_locked_tiles_are_counted(make_dataset):
    (scene,) = plan_scenes(open_dataset(make_dataset(), scheme="glacier4"))
    mask = EditableMask(scene.read_masks(), scene.valid(), scene.placements, num_classes=4)
    mask.lock_tiles(["00_01", "01_01"])
    where_HW = np.ones((20, 30), bool)
    assert mask.locked_under(Window(54, 50, 20, 30), where_HW) == {"00_01": 10 * 16, "01_01": 10 * 16}
    assert mask.locked_under(Window(0, 0, 20, 30), where_HW) == {}


def test_accepting_undo_and_fill_leave_a_locked_tile(make_dataset):
    root = make_dataset()
    with Journal.open(root) as journal:
        mask = open_mask(root, journal)
        mask[20:30, 50:80] = (mask[20:30, 50:80] + 1) % 4
        stroke = journal.stroke(mask.commit())
        drawn = mask[...]
        mask.lock_tiles(["00_01"])
        mask.undo_stroke(stroke)
        now = mask[...]
        np.testing.assert_array_equal(now[:, 64:], drawn[:, 64:])
        assert (now[20:30, 50:64] != drawn[20:30, 50:64]).all()
        mask.assign((mask[...] + 1) % 4, np.ones(mask.shape, bool), tool="accept")
        np.testing.assert_array_equal(mask[:64, 64:], drawn[:64, 64:])
        mask.close()


def test_states_are_read_without_a_window_and_make_no_journal(make_dataset):
    root = make_dataset(splits=("train", "val"))
    whole, train = open_dataset(root, scheme="glacier4"), open_dataset(root / "train", scheme="glacier4")
    assert journal_states(whole) == ({}, [])
    assert not list(root.rglob("glacier.sqlite"))
    with Journal.open(root) as journal:
        journal.set_review(train.tiles[0].id, "approved")
    for dataset in (whole, train):
        states, unsaved = journal_states(dataset)
        assert [tile_id for tile_id, state in states.items() if state == "approved"] == [train.tiles[0].id]
        assert unsaved == []


def test_outlines_and_reports_take_only_tiles_that_were_reviewed(make_dataset, tmp_path):
    root = make_dataset()
    with pytest.raises(DataError, match="None of the 4 masks"):
        open_maps(root, review="approved")
    with Journal.open(root) as journal:
        journal.set_review("00_01", "approved")
        journal.set_review("01_00", "edited")
    source = open_maps(root, review="approved")
    assert [mask.id for mask in source.masks] == ["00_01"]
    assert "3 of 4 masks are left out" in " ".join(source.notes)
    assert {mask.id for mask in open_maps(root, review="edited").masks} == {"00_01", "01_00"}
    with pytest.raises(DataError, match="--data"):
        open_maps(root / "label", review="approved")
    assert [mask.id for mask in open_maps(root / "label", data=root, review="approved").masks] == ["00_01"]
