import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_glacier._reader import read_layers
from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.correction.saving import read_present_mask
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.errors import DataError, GlacierError, JournalError, RasterError
from napari_glacier.core.raster import read_raster, write_mask, write_raster
from napari_glacier.core.wording import listed


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


@pytest.fixture
def open_session():
    """Opens a dataset in place of the one that was open before, which is closed without saving."""
    opened = []

    def open_(path: Path) -> Session:
        for session in opened:
            session.close()
        opened.append(Session.open(path))
        return opened[-1]

    yield open_
    for session in opened:
        session.close()


def shift(session: Session, tile_id: str, rows: slice, cols: slice) -> None:
    """Give pixels of a tile the next class, so that every one of them differs."""
    number, place = session.find(tile_id)
    mask = session.mask_of(number)
    # Planes of a stack of one tile each.
    lead = (number,) if session.stacked else ()
    where = (
        *lead,
        slice(place.row + rows.start, place.row + rows.stop),
        slice(place.col + cols.start, place.col + cols.stop),
    )
    mask[where] = (mask[where] + 1) % 4
    session.commit()


def test_a_split_knows_nothing_of_strokes_on_another(make_dataset, open_session):
    root = make_dataset(splits=("train", "val"), grid=(1, 2))
    session = open_session(root)
    ours, theirs = session.tile_ids[0], session.tile_ids[-1]
    shift(session, theirs, slice(20, 30), slice(20, 30))

    session = open_session(root / "train")
    assert theirs not in session.tile_ids
    assert session.unsaved() == {}
    assert session.recovered is None
    report = session.save()
    assert (report.saved, report.failed) == ((), {})
    shift(session, ours, slice(20, 30), slice(20, 30))
    assert session.unsaved() == {ours: 1}
    report = session.save()
    assert (report.saved, report.failed) == ((ours,), {})
    shift(session, ours, slice(20, 30), slice(20, 30))
    assert session.discard() == 1
    assert session.discard([theirs]) == 0

    session = open_session(root)
    assert session.unsaved() == {theirs: 1}
    assert session.recovered.tile_ids == (theirs,)


def test_a_file_of_a_folder_is_told_of_its_own_share_of_a_stroke(tmp_path, make_dataset, open_session):
    root = make_dataset(grid=(1, 2))
    whole = tmp_path / "five bands"
    for name in ("00_00", "00_01"):
        bands = [read_raster(root / f"Band{k}" / f"{band}_{name}.tif")[0] for k, band in enumerate(CANONICAL_BANDS, 1)]
        write_raster(whole / f"tile_{name}.tif", np.stack(bands))
    session = open_session(whole)
    assert session.stacked
    here, there = session.tile_ids
    session.mask[:, 20:30, 40:50] = 3
    session.commit()
    shift(session, there, slice(50, 55), slice(20, 30))

    session = open_session(whole / "tile_00_00.tif")
    assert session.tile_ids == (here,)
    assert (session.mask[20:30, 40:50] == 3).all()
    assert session.unsaved() == {here: 1}
    assert session.recovered.num_strokes == 1
    assert session.recovered.tile_ids == (here,)
    assert session.discard() == 1
    assert session.recovered is None

    session = open_session(whole)
    assert session.unsaved() == {there: 2}
    assert (session.mask[0] == 0).all()
    assert (session.mask[1, 20:30, 40:50] == 3).all()


def test_a_scene_that_was_saved_before_it_was_seen_shows_what_was_saved(make_unequal_scenes, open_session):
    root = make_unequal_scenes(2, masks=False)
    session = open_session(root)
    assert not session.stacked
    session.mask_of(1)[20:30, 20:30] = 3
    session.commit()

    session = open_session(root)
    (place,) = session.scenes[1].placements
    assert session.save().saved == (place.tile.id,)
    assert (session.tile_labels(1, place)[0][20:30, 20:30] == 3).all()
    session.layer_data(1)
    assert (session.mask[20:30, 20:30] == 3).all()
    session.mask[2:5, 20:30] = 1
    assert session.save().saved == (place.tile.id,)
    assert np.array_equal(
        read_raster(session.dataset.tile(place.tile.id).mask_path)[0][2:5, 20:30], np.full((3, 10), 85)
    )


@pytest.mark.parametrize("decide", [Session.keep_on_top, Session.discard])
def test_a_mask_made_outside_is_there_when_its_scene_is_seen(make_unequal_scenes, open_session, decide):
    root = make_unequal_scenes(2, masks=False)
    session = open_session(root)
    session.mask_of(1)[20:30, 20:30] = 3
    session.commit()

    session = open_session(root)
    tile = session.scenes[1].placements[0].tile
    write_mask(tile.new_mask_path, np.full((48, 40), 2, np.uint8), session.scheme, None)
    assert tile.id in session.save().failed
    decide(session)
    session.layer_data(1)
    assert (session.mask[:20] == 2).all()
    session.mask[2:5, 20:30] = 1
    assert session.save().saved == (tile.id,)


def test_what_goes_on_top_of_an_outside_change_is_seen_on_top_of_it(session):
    tile = session.scenes[0].placements[3].tile
    shift(session, tile.id, slice(36, 46), slice(36, 46))
    drawn = session.mask.tile(tile.id)[36:46, 36:46]
    theirs = (read_present_mask(session.dataset, tile) + 1) % 4
    write_mask(tile.mask_path, theirs, session.scheme, tile.georef)
    assert tile.id in session.save().failed
    others = session.mask[:64, :]
    # Not yet a stroke when a person decides.
    session.mask[90:94, 90:94] = just_drawn = (session.mask[90:94, 90:94] + 1) % 4

    session.keep_on_top()

    expected = theirs.copy()
    expected[36:46, 36:46] = drawn
    expected[26:30, 26:30] = just_drawn
    assert np.array_equal(session.mask.tile(tile.id), expected)
    assert np.array_equal(session.mask[:64, :], others)
    shift(session, tile.id, slice(50, 55), slice(10, 20))
    (patch,) = session.journal.unsaved(tile.id)[-1].patches
    assert np.array_equal(patch.before_HW, theirs[patch.slices])
    assert session.save().saved == (tile.id,)
    assert np.array_equal(session.mask.tile(tile.id), read_present_mask(session.dataset, tile))


def test_nothing_is_agreed_to_where_one_of_the_masks_cannot_be_read(session):
    first, second = (session.scenes[0].placements[k].tile for k in (1, 2))
    for tile in (first, second):
        shift(session, tile.id, slice(30, 40), slice(30, 40))
        write_mask(tile.mask_path, np.full((64, 64), 2, np.uint8), session.scheme, tile.georef)
    assert set(session.save().failed) == {first.id, second.id}
    second.mask_path.write_bytes(b"no image")
    painted = np.asarray(session.mask)
    with pytest.raises(DataError, match=second.mask_path.name):
        session.keep_on_top()
    assert session.conflicts == (first.id, second.id)
    assert np.array_equal(np.asarray(session.mask), painted)
    assert first.id in session.save().failed


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


def test_a_conflict_stays_when_another_tile_is_saved(session):
    first, second = (session.scenes[0].placements[k].tile for k in (1, 2))
    shift(session, first.id, slice(30, 40), slice(30, 40))
    write_mask(first.mask_path, np.full((64, 64), 2, np.uint8), session.scheme, first.georef)
    assert set(session.save().failed) == {first.id}
    shift(session, second.id, slice(30, 40), slice(30, 40))
    assert session.save([second.id]).saved == (second.id,)
    assert session.conflicts == (first.id,)


@pytest.mark.parametrize("folder", ["label", "Band1"])
def test_a_scene_that_cannot_be_read_leaves_the_one_on_screen(workspace, two_scenes, folder):
    shown = list(workspace.viewer.layers)
    sorted((two_scenes.root / folder).glob("*.tif"))[1].unlink()
    with pytest.raises(RasterError, match="does not exist"):
        workspace.show_scene(1)
    assert list(workspace.viewer.layers) == shown
    assert two_scenes.scene_number == 0
    assert workspace.labels_layer is shown[-1]
    assert workspace.open(two_scenes.root) is two_scenes


def test_a_dataset_whose_scene_cannot_be_read_leaves_the_window_as_it_is(workspace, two_scenes, make_dataset):
    before = workspace.open(make_dataset("other"))
    shown = list(workspace.viewer.layers)
    session = Session.open(two_scenes.root)
    session.scene_number = 1
    sorted((session.root / "label").glob("*.tif"))[1].unlink()
    with pytest.raises(RasterError, match="does not exist"):
        workspace.show(session)
    assert workspace.session is before
    assert list(workspace.viewer.layers) == shown
    assert session.closed


def test_a_dataset_closes_when_the_link_it_was_opened_by_is_gone(make_dataset, tmp_path):
    root, link = make_dataset(), tmp_path / "link"
    link.symlink_to(root)
    closed = Session.open(link)
    link.unlink()
    closed.close()
    assert not Session._open
    session = Session.open(root)
    try:
        assert session is not closed
        shift(session, session.tile_ids[0], slice(30, 40), slice(30, 40))
        assert session.save().saved
    finally:
        session.close()


def test_a_dataset_that_cannot_be_read_is_not_left_open(make_dataset, monkeypatch):
    def refuse(session):
        raise DataError("a file is cut off")

    root = make_dataset()
    monkeypatch.setattr(Session, "layer_data", refuse)
    with pytest.raises(DataError, match="cut off"):
        read_layers(str(root))
    assert root.resolve() not in Session._open


def test_all_windows_of_a_dataset_show_the_same_scene(workspace, two_scenes):
    viewer = ViewerModel()
    other = workspace_of(viewer)
    other.open(two_scenes.root)
    own = viewer.add_image(np.zeros((4, 4)))
    try:
        workspace.show_scene(1)
        assert other.labels_layer is not None
        assert other.labels_layer.data is two_scenes.mask
        assert workspace.labels_layer.data.shape == other.labels_layer.data.shape == (48, 40)
        assert own in viewer.layers
        other.show_scene(0)
        assert workspace.labels_layer.data.shape == (64, 64)
    finally:
        other.close()


def test_what_one_window_draws_shows_in_the_others(workspace, make_dataset):
    session = workspace.open(make_dataset())
    viewer = ViewerModel()
    other = workspace_of(viewer)
    other.open(session.root)
    controller, others = CorrectionController(workspace), CorrectionController(other)

    def seen():
        return [np.asarray(window.labels_layer._slice.image.raw).copy() for window in (workspace, other)]

    def both_show_the_mask():
        return all(np.array_equal(shown, session.mask) for shown in seen())

    try:
        came = np.array(session.mask)
        new = (int(came[70, 70]) + 1) % 4
        workspace.labels_layer.brush_size = 6
        with workspace.labels_layer.block_history():
            workspace.labels_layer.paint((70, 70), new)
        assert other.labels_layer._slice.image.raw[70, 70] == new
        assert both_show_the_mask()
        others.undo()
        assert np.array_equal(session.mask, came)
        assert both_show_the_mask()
        others.redo()
        controller.undo()
        assert both_show_the_mask()
        others.discard()
        assert both_show_the_mask()
        # What was dropped does not come back by a window that took it back before.
        controller.redo()
        assert np.array_equal(session.mask, came)
        assert not session.unsaved()
    finally:
        controller.close()
        others.close()
        other.close()


def test_a_window_keeps_a_dataset_whose_strokes_cannot_be_recorded(workspace, make_dataset, monkeypatch):
    session, second = workspace.open(make_dataset("first")), make_dataset("second")
    layers = list(workspace.viewer.layers)

    def full(*arguments, **keywords):
        raise JournalError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(session.journal, "record", full)
        session.mask[20:30, 20:30] = 3
        with pytest.raises(JournalError, match="full"):
            workspace.open(second)
        assert workspace.session is session
        assert list(workspace.viewer.layers) == layers
        assert second.resolve() not in Session._open
    workspace.open(second)
    assert session.closed
    assert (workspace.open(session.root).mask[20:30, 20:30] == 3).any()


def test_a_dataset_that_another_process_gave_back_can_be_corrected_when_opened_again(workspace, make_dataset):
    root = make_dataset()
    code = (
        "import sys\nfrom pathlib import Path\nfrom napari_glacier.core.correction.journal import Journal\n"
        "journal = Journal.open(Path(sys.argv[1]))\nprint('open', flush=True)\nsys.stdin.readline()\n"
        "journal.close()\nprint('closed', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        session = workspace.open(root)
        assert session.read_only
        assert workspace.open(root) is session
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "closed\n"
    again = workspace.open(root)
    assert again is not session
    assert session.closed
    assert not again.read_only
    assert Session._open[root.resolve()] is again
    assert workspace.labels_layer.editable
    again.mask[20:30, 20:30] = (int(again.mask[25, 25]) + 1) % 4
    again.commit()
    assert again.unsaved()


def test_a_lock_is_told_in_all_windows(workspace, make_dataset):
    session = workspace.open(make_dataset())
    other = workspace_of(viewer := ViewerModel())
    other.open(session.root)
    controller, others = CorrectionController(workspace), CorrectionController(other)
    told = []
    others.changed.connect(lambda: told.append(others.classes[2].locked))
    controller.lock(2, True)
    assert told == [True]
    for one in (controller, others, other):
        one.close()
    del viewer


@pytest.mark.parametrize("spoilt", [b"", b"\x00" * 40, "cut"])
def test_a_damaged_stroke_takes_no_other_with_it(make_dataset, open_session, spoilt):
    root = make_dataset()
    session = open_session(root)
    tile = session.dataset.tiles[0]
    before = session.mask.tile(tile.id)
    parts = [np.s_[20:30, 10 * k : 10 * k + 10] for k in (1, 2, 3)]
    for rows, cols in parts:
        shift(session, tile.id, rows, cols)
    drawn = session.mask.tile(tile.id)
    session.journal.seen.add([SeenArea(tile.id, 0, 0, np.ones((4, 4), bool))] * 2, "ida")
    path = session.journal.path
    session.close()
    with closing(sqlite3.connect(path)) as file, file:
        for table, column in (("patch", "after"), ("seen", "pixels")):
            value = spoilt
            if value == "cut":
                (value,) = file.execute(f"SELECT {column} FROM {table} WHERE id = 2").fetchone()
                value = value[:-3]
            file.execute(f"UPDATE {table} SET {column} = ? WHERE id = 2", (value,))

    session = open_session(root)
    expected = drawn.copy()
    expected[parts[1]] = before[parts[1]]
    assert np.array_equal(session.mask.tile(tile.id), expected)
    assert "2 strokes from an earlier session were restored" in session.recovered.sentence
    assert f"of 1 stroke not all could be read, and what could not is lost. Look at {tile.id}" in (
        session.recovered.sentence
    )
    assert len(session.journal.seen.all()) == 1
    assert [info.id for info in session.journal.history()] == [3, 2, 1]
    assert session.journal.stroke(2).patches == ()
    shift(session, tile.id, slice(50, 55), slice(20, 30))
    expected = session.mask.tile(tile.id)
    assert session.save().saved == (tile.id,)
    assert np.array_equal(read_present_mask(session.dataset, tile), expected)
    assert not session.unsaved()


def test_a_damaged_journal_opens_with_its_strokes_and_says_so(make_dataset, open_session):
    root = make_dataset()
    session = open_session(root)
    tile = session.dataset.tiles[0]
    for k in (1, 2, 3):
        shift(session, tile.id, *np.s_[20:30, 10 * k : 10 * k + 10])
    drawn = session.mask.tile(tile.id)
    path = session.journal.path
    session.close()
    content = path.read_bytes()
    # The page that leads to all others.
    path.write_bytes(bytes(4096) + content[4096:])

    session = open_session(root)
    assert np.array_equal(session.mask.tile(tile.id), drawn)
    told = CorrectionController(session_workspace := workspace_of(viewer := ViewerModel()))
    session_workspace.open(root)
    assert "was damaged: all 3 strokes came back" in told.recovered
    assert "3 strokes from an earlier session were restored" in told.recovered
    assert session.save().saved == (tile.id,)
    assert np.array_equal(read_present_mask(session.dataset, tile), drawn)
    told.close()
    session_workspace.close()
    del viewer
