import subprocess
import sys

import numpy as np
import pytest

from napari_glacier.controllers.session import Session, listed
from napari_glacier.core.errors import DataError, GlacierError
from napari_glacier.core.raster import read_raster, write_mask


@pytest.fixture
def session(make_dataset):
    session = Session.open(make_dataset())
    yield session
    session.close()


def test_reader_and_widgets_share_one_session(make_dataset):
    root = make_dataset()
    first = Session.open(root)
    try:
        assert Session.open(root) is first
        assert Session.open(str(root / "." / ".." / root.name)) is first
        with pytest.raises(DataError, match="Close its layers"):
            Session.open(root, scheme="glacier2")
    finally:
        first.close()
    assert Session._open == {}


def test_tiles_on_one_grid_open_as_one_mosaic_with_their_masks(session):
    assert session.mask.shape == (128, 128)
    assert np.array_equal(np.asarray(session.mask), session.scenes[0].read_masks())
    assert not session.stacked


def test_tiles_without_a_place_open_as_a_stack(make_dataset):
    session = Session.open(make_dataset(georeferenced=False))
    try:
        assert session.stacked
        assert session.mask.shape == (4, 64, 64)
        session.mask[2, 30:40, 30:40] = 3
        session.commit()
        assert list(session.unsaved()) == [session.scenes[2].placements[0].tile.id]
    finally:
        session.close()


def test_strokes_come_back_after_closing_without_saving(make_dataset):
    root = make_dataset()
    session = Session.open(root)
    # The corner where four tiles meet; classes are changed cyclically so that every pixel differs.
    session.mask[60:70, 60:70] = (session.mask[60:70, 60:70] + 1) % 4
    session.commit()
    painted = np.asarray(session.mask)
    session.close()

    again = Session.open(root)
    try:
        assert np.array_equal(np.asarray(again.mask), painted)
        assert again.recovered is not None
        assert again.recovered.num_strokes == 1
        assert "1 stroke from an earlier session was restored" in again.recovered.sentence
        assert len(again.recovered.tile_ids) == 4

        before = np.asarray(again.scenes[0].read_masks())
        assert again.discard() == 1
        assert np.array_equal(np.asarray(again.mask), before)
        assert again.recovered is None
        assert again.unsaved() == {}
    finally:
        again.close()


def test_save_changes_only_painted_pixels_of_the_files(session):
    tile = session.scenes[0].placements[3]
    before = {t.id: read_raster(t.mask_path)[0] for t in session.dataset.tiles}
    rows, cols = slice(tile.row + 5, tile.row + 9), slice(tile.col + 5, tile.col + 9)
    new = 3 if session.mask[tile.row + 5, tile.col + 5] != 3 else 1
    session.mask[rows, cols] = new

    report = session.save()

    assert report.saved == (tile.tile.id,)
    after = read_raster(tile.tile.mask_path)[0]
    assert (after[5:9, 5:9] == session.scheme.codes[new]).all()
    untouched = np.ones(after.shape, bool)
    untouched[5:9, 5:9] = False
    assert np.array_equal(after[untouched], before[tile.tile.id][untouched])
    assert session.unsaved() == {}


def test_first_save_makes_the_missing_mask_file(make_dataset):
    root = make_dataset(masks=False)
    session = Session.open(root)
    try:
        assert session.assumed_scheme
        session.mask[70:80, 70:80] = 2
        report = session.save()
        (path,) = report.created
        assert (read_raster(path)[0][6:16, 6:16] == 170).all()
        assert session.dataset.tile(report.saved[0]).mask_path == path
    finally:
        session.close()


def test_a_mask_changed_outside_is_refused_until_a_person_decides(make_dataset):
    root = make_dataset()
    session = Session.open(root)
    tile = session.scenes[0].placements[3].tile
    session.mask[100:104, 100:104] = (session.mask[100:104, 100:104] + 1) % 4
    session.commit()
    drawn = session.scheme.encode(session.mask[100:104, 100:104])
    session.close()
    other = np.full((64, 64), 2, np.uint8)
    write_mask(tile.mask_path, other, session.scheme, tile.georef)

    session = Session.open(root)
    try:
        assert session.conflicts == (tile.id,)
        report = session.save()
        assert tile.id in report.failed
        assert (read_raster(tile.mask_path)[0] == 170).all()
        session.keep_on_top()
        assert session.save().saved == (tile.id,)
        saved = read_raster(tile.mask_path)[0]
        assert np.array_equal(saved[36:40, 36:40], drawn)
        assert (saved[:30] == 170).all()
    finally:
        session.close()


def test_discard_shows_the_file_as_another_program_left_it_and_the_next_strokes_can_be_saved(make_dataset):
    root = make_dataset()
    session = Session.open(root)
    tile = session.scenes[0].placements[3].tile
    session.mask[100:104, 100:104] = (session.mask[100:104, 100:104] + 1) % 4
    session.close()
    write_mask(tile.mask_path, np.full((64, 64), 3, np.uint8), session.scheme, tile.georef)

    session = Session.open(root)
    try:
        assert session.conflicts == (tile.id,)
        assert session.discard() == 1
        assert session.conflicts == ()
        assert (session.mask[64:, 64:] == 3).all()
        session.mask[70:75, 70:75] = 1
        assert session.save().saved == (tile.id,)
        expected = np.full((64, 64), 255)
        expected[6:11, 6:11] = 85
        assert np.array_equal(read_raster(tile.mask_path)[0], expected)
    finally:
        session.close()


def test_a_mask_file_that_cannot_be_read_keeps_a_discard_from_dropping_anything(session):
    tile = session.scenes[0].placements[3].tile
    session.mask[100:104, 100:104] = (session.mask[100:104, 100:104] + 1) % 4
    session.commit()
    painted = np.asarray(session.mask)
    tile.mask_path.write_bytes(b"no image")
    with pytest.raises(DataError, match=tile.mask_path.name):
        session.discard()
    assert session.unsaved() == {tile.id: 1}
    assert np.array_equal(np.asarray(session.mask), painted)


def test_review_states_are_kept(make_dataset):
    root = make_dataset()
    session = Session.open(root)
    tile_id = session.tile_ids[0]
    seen = []
    session.reviewed.connect(seen.append)
    session.set_review(tile_id, "approved")
    session.close()
    again = Session.open(root)
    try:
        assert again.review(tile_id) == "approved"
        assert seen == [tile_id]
    finally:
        again.close()


def test_a_second_process_can_look_but_not_correct(session):
    code = (
        "import sys; from napari_glacier.controllers.session import Session\n"
        "s = Session.open(sys.argv[1]); s.mask[70:72, 70:72] = 3; s.commit()\n"
        "print(bool(s.read_only), s.unsaved()); s.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(session.root)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "True {}"


def test_a_folder_that_is_no_dataset_is_refused_in_words(tmp_path):
    with pytest.raises(GlacierError, match="No tiles were found"):
        Session.open(tmp_path)


def test_long_lists_are_cut():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdef")) == "a, b, c and 3 more"
