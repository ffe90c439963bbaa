import shutil

import numpy as np
import pytest

from napari_glacier.core.correction.disagreement import UNSAID, contrary, opinions_in, without_settled, words
from napari_glacier.core.correction.edits import EditableMask
from napari_glacier.core.correction.journal import Journal
from napari_glacier.core.correction.patch_files import export_corrections
from napari_glacier.core.correction.settled import SettledArea
from napari_glacier.core.correction.strokes import Patch, Stroke
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.errors import DataError, JournalError
from napari_glacier.core.raster import write_mask


def _stroke(number, author, before_HW, after_HW, *, tool="paint", group=None):
    patch = Patch("t", 2, 3, before_HW.copy(), after_HW.copy())
    return Stroke(number, group or f"g{number}", tool, author, "2026-01-01T10:00:00+00:00", None, (patch,))


def test_of_what_was_drawn_by_several_the_last_that_is_not_so_differs():
    """Random strokes of three people, against a walk from stroke to stroke for each pixel."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        now = rng.integers(0, 4, (5, 6)).astype(np.uint8)
        strokes, said = [], {}
        for number in range(1, 10):
            author = ("anna", "ben", "kim")[rng.integers(3)]
            after = np.where(rng.random(now.shape) < 0.4, rng.integers(0, 4, now.shape), now).astype(np.uint8)
            for k in np.flatnonzero(after != now):
                said.setdefault(int(k), {}).pop(author, None)
                said[int(k)][author] = int(after.flat[k])
            strokes.append(_stroke(number, author, now, after))
            now = after
        by_author = words(strokes, "t", (8, 10))
        order = list(dict.fromkeys(s.author for s in reversed(strokes)))[::-1]
        assert list(by_author) == order
        part = np.s_[2:7, 3:9]
        present = np.zeros((8, 10), np.uint8)
        present[part] = now
        expected = np.full(now.shape, UNSAID, np.uint8)
        for k, of_pixel in said.items():
            for author in order:
                if of_pixel.get(author, now.flat[k]) != now.flat[k]:
                    expected.flat[k] = of_pixel[author]
        found = contrary(list(by_author.values()), present)
        np.testing.assert_array_equal(found[part], expected)
        assert (np.delete(found, np.s_[2:7], axis=0) == UNSAID).all()


def test_what_was_taken_back_or_accepted_as_a_whole_is_no_word():
    zero, one, two = (np.full((2, 2), k, np.uint8) for k in range(3))
    drawn = _stroke(1, "anna", zero, one, group="a")
    word = words([drawn, _stroke(2, "anna", one, zero, tool="undo", group="a")], "t", (4, 5))["anna"]
    assert (word == UNSAID).all()
    word = words([drawn, _stroke(2, "anna", one, two, tool="accept")], "t", (4, 5))["anna"]
    assert (word == UNSAID).all()
    # Somebody else took it back: both have spoken.
    both = words([drawn, _stroke(2, "ben", one, zero, tool="undo", group="a")], "t", (4, 5))
    assert (both["anna"][2:, 3:] == 1).all()
    assert (both["ben"][2:, 3:] == 0).all()
    # Drawn again after being taken back.
    again = [
        drawn,
        _stroke(2, "anna", one, zero, tool="undo", group="a"),
        _stroke(3, "anna", zero, one, tool="redo", group="a"),
    ]
    assert (words(again, "t", (4, 5))["anna"][2:, 3:] == 1).all()


def test_a_class_that_was_turned_down_is_not_offered_again_another_one_is():
    other = np.array([[1, 2, UNSAID], [1, 1, 2]], np.uint8)
    area = SettledArea("t", 0, 0, np.array([[1, 1], [UNSAID, 1]], np.uint8))
    left = without_settled(other, [area])
    np.testing.assert_array_equal(left, [[UNSAID, 2, UNSAID], [1, UNSAID, 2]])


def test_settled_areas_are_kept_and_others_cannot_write_them(tmp_path):
    area = SettledArea("t", 3, 4, np.array([[1, UNSAID, 0]], np.uint8))
    with Journal.open(tmp_path, author="anna") as journal:
        assert journal.settled.all() == []
        journal.settled.add([area], "anna")
        with Journal.open(tmp_path) as reader, pytest.raises(JournalError, match="held by"):
            reader.settled.add([area], "ben")
    with Journal.open(tmp_path) as journal:
        (back,) = journal.settled.all()
    assert (back.tile_id, back.row, back.col) == ("t", 3, 4)
    np.testing.assert_array_equal(back.class_HW, area.class_HW)


@pytest.fixture
def dataset(make_dataset):
    return open_dataset(make_dataset(), scheme="glacier4")


def test_a_second_reviewers_masks_and_data_set_are_read_by_the_tiles_names(dataset, tmp_path):
    scheme, theirs = dataset.scheme, {}
    for tile in dataset.tiles[:3]:
        theirs[tile.id] = (dataset.read_mask(tile) + 1) % 4
        write_mask(tmp_path / "ben" / f"reviewed_{tile.id}.tif", theirs[tile.id], scheme, tile.georef)
    found = opinions_in(tmp_path / "ben", dataset)
    assert found.name == "ben"
    assert found.tile_ids == set(theirs)
    for tile in dataset.tiles:
        said = found.of(tile)
        assert said is None if tile.id not in theirs else np.array_equal(said, theirs[tile.id])

    copy = tmp_path / "copy"
    shutil.copytree(dataset.root, copy)
    tile = dataset.tiles[1]
    there = open_dataset(copy, scheme="glacier4").tile(tile.id)
    write_mask(there.mask_path, theirs[tile.id], scheme, tile.georef)
    found = opinions_in(copy, dataset)
    assert np.array_equal(found.of(tile), theirs[tile.id])
    assert np.array_equal(found.of(dataset.tiles[3]), dataset.read_mask(dataset.tiles[3]))


@pytest.mark.parametrize("by", ["stroke", "tile"])
def test_exported_corrections_say_what_was_corrected_and_no_more(dataset, tmp_path, by):
    (scene,) = plan_scenes(dataset)
    with Journal.open(dataset.root, author="ben") as journal:
        before = scene.read_masks()
        mask = EditableMask(before.copy(), scene.valid(), scene.placements, journal, num_classes=4)
        for rows, label in ((slice(40, 90), 1), (slice(60, 100), 2)):
            mask[rows, 30:100] = label
            mask.commit()
        after = mask[...]
        mask.close()
        export_corrections(dataset, journal, tmp_path / "out", by)
    found = opinions_in(tmp_path / "out", dataset)
    whole = np.full(scene.shape, UNSAID, np.uint8)
    for place in scene.placements:
        said = found.of(place.tile)
        if said is not None:
            whole[place.slices] = said
    differs = after != before
    assert np.array_equal(whole[differs], after[differs])
    if by == "tile":
        assert (whole[~differs] == UNSAID).all()
    else:
        # Corrected there and back: said, though nothing came of it.
        assert np.isin(whole[~differs], [UNSAID, 1, 2]).all()


def test_folders_that_say_nothing_are_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="neither masks of these tiles"):
        opinions_in(tmp_path, dataset)
    with pytest.raises(DataError, match="is no folder"):
        opinions_in(tmp_path / "nowhere", dataset)
    with pytest.raises(DataError, match="being corrected"):
        opinions_in(dataset.root, dataset)
    (tmp_path / "corrections.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not a table of corrections"):
        opinions_in(tmp_path, dataset)


def test_corrections_with_classes_that_the_labels_lack_are_refused(make_dataset, tmp_path):
    dataset = open_dataset(make_dataset(), scheme="glacier4")
    (scene,) = plan_scenes(dataset)
    with Journal.open(dataset.root, author="ben") as journal:
        mask = EditableMask(np.zeros(scene.shape, np.uint8), scene.valid(), scene.placements, journal, num_classes=4)
        mask[40:60, 30:60] = 3
        mask.close()
        export_corrections(dataset, journal, tmp_path / "out")
    other = open_dataset(make_dataset("other", scheme="glacier2"))
    found = opinions_in(tmp_path / "out", other)
    tile = other.tile(sorted(found.tile_ids)[0])
    with pytest.raises(DataError, match="has class 3; this dataset has 2: background, glacier"):
        found.of(tile)
