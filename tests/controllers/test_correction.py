import os

import numpy as np
import pytest

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.pointer import CLASS_KEYS
from napari_glacier.core.correction.saving import read_present_mask
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.errors import DataError, JournalError, SaveError
from napari_glacier.core.raster import read_raster, write_mask, write_raster
from napari_glacier.core.tiling import Window


@pytest.fixture
def controller(workspace):
    controller = CorrectionController(workspace)
    yield controller
    controller.close()


@pytest.fixture
def layer(workspace, controller, make_dataset):
    workspace.open(make_dataset())
    layer = workspace.labels_layer
    layer.brush_size = 6
    return layer


def _stroke(layer, coordinates, label):
    """Paint the way a mouse drag does."""
    with layer.block_history():
        for coordinate in coordinates:
            layer.paint(coordinate, label)


def test_nothing_can_be_done_before_a_dataset_is_open(controller):
    assert not controller.ready
    assert controller.classes == ()
    assert controller.status == ""
    with pytest.raises(DataError, match="Open a dataset"):
        controller.undo()


def test_layers_open_in_drawing_order_at_their_place(workspace, layer):
    names = [layer.name for layer in workspace.viewer.layers]
    assert names[-2:] == ["True colour", "Labels"]
    assert [layer.visible for layer in workspace.viewer.layers] == [False] * 6 + [True, True]
    assert {str(unit) for unit in layer.units} == {"meter"}
    assert layer.data_to_world((0, 0)) == pytest.approx((-3_799_985.0, 500_015.0))
    assert workspace.viewer.layers.selection.active is layer


def test_status_bar_speaks_of_easting_northing_and_class(workspace, layer):
    layer.data[70, 70] = 3
    layer.refresh()
    status = layer.get_status(layer.data_to_world((70, 70)), dims_displayed=[0, 1], world=True)

    assert status["coordinates"].startswith("E 502\u202f115 m  N 3\u202f797\u202f885 m  EPSG:32643: 3")
    assert "lake" in status["coordinates"]


def test_painting_is_in_the_journal_when_the_mouse_is_up(workspace, controller, layer):
    layer.data[...] = 0
    workspace.session.save()
    seen = []
    controller.status_changed.connect(lambda: seen.append(controller.status))

    _stroke(layer, [(70, 70), (70, 74), (70, 78)], 2)

    strokes = workspace.session.journal.unsaved()
    assert len(strokes) == 1
    assert controller.status == "Corrections in 1 tile, safe in the journal, not yet written to mask files."
    assert seen[-1] == controller.status
    assert np.asarray(layer.data)[70, 70:79].tolist() == [2] * 9


def test_save_writes_and_says_so(workspace, controller, layer):
    _stroke(layer, [(100, 100)], (int(layer.data[100, 100]) + 1) % 4)
    place = workspace.session.scenes[0].placements[3]

    said = controller.save()

    assert said == f"1 tile written: {place.tile.id}."
    assert controller.status == "Everything is saved."
    on_disk = read_raster(place.tile.mask_path)[0]
    assert np.array_equal(on_disk, workspace.session.scheme.encode(np.asarray(layer.data)[place.slices]))


def test_save_names_the_tile_it_could_not_write(workspace, controller, layer):
    place = workspace.session.scenes[0].placements[3]
    _stroke(layer, [(100, 100)], (int(layer.data[100, 100]) + 1) % 4)
    other = np.full((64, 64), 2, np.uint8)
    write_mask(place.tile.mask_path, other, workspace.session.scheme, place.tile.georef)

    with pytest.raises(SaveError, match=f"changed by another program since the strokes on tile {place.tile.id}"):
        controller.save()
    assert controller.has_unsaved


def test_locked_classes_and_nodata_keep_their_pixels_on_screen_too(workspace, controller, layer):
    layer.data[60:80, 60:80] = 1
    layer.data[60:80, 66:70] = 3
    layer.refresh()
    controller.lock(3, True)

    _stroke(layer, [(70, 60), (70, 78)], 2)
    layer.paint((4, 4), 2)  # the nodata corner

    index = np.asarray(layer.data)
    assert index[70, 66:70].tolist() == [3] * 4
    assert index[70, 61] == 2
    assert not index[:10, :12].any()
    shown = layer._slice.image.raw
    assert np.array_equal(shown, index)
    assert controller.classes[3].locked
    controller.lock(3, False)
    assert not controller.classes[3].locked


def test_undo_and_redo_of_painting(controller, layer):
    before = np.asarray(layer.data)
    _stroke(layer, [(70, 70)], (int(layer.data[70, 70]) + 1) % 4)
    painted = np.asarray(layer.data)

    controller.undo()
    assert np.array_equal(np.asarray(layer.data), before)
    controller.redo()
    assert np.array_equal(np.asarray(layer.data), painted)


def test_undo_reaches_into_an_earlier_sitting(workspace, controller, make_dataset):
    root = make_dataset()
    workspace.open(root)
    before = np.asarray(workspace.session.mask)
    _stroke(workspace.labels_layer, [(70, 70)], (int(before[70, 70]) + 1) % 4)
    painted = np.asarray(workspace.session.mask)
    workspace.close_session()
    assert not controller.ready

    workspace.open(root)
    assert "1 stroke from an earlier session was restored" in controller.recovered
    assert np.array_equal(np.asarray(workspace.session.mask), painted)
    controller.undo()
    assert np.array_equal(np.asarray(workspace.session.mask), before)
    controller.redo()
    assert np.array_equal(np.asarray(workspace.session.mask), painted)


def test_discard_shows_the_files_and_forgets_the_undo_history(workspace, controller, layer):
    before = np.asarray(layer.data)
    layer.mode = "paint"
    _stroke(layer, [(70, 70)], (int(layer.data[70, 70]) + 1) % 4)

    assert controller.discard() == "1 stroke dropped; the labels are as their files."

    assert np.array_equal(np.asarray(layer.data), before)
    assert np.array_equal(layer._slice.image.raw, before)
    layer.undo()
    assert np.array_equal(np.asarray(layer.data), before)
    assert str(layer.mode) == "paint"


def test_class_keys_choose_and_do_not_take_naparis(controller, layer):
    bound = {str(key): action for key, action in layer.keymap.items()}
    taken = {str(key) for key in type(layer).class_keymap}
    keys = [key.replace("-", "+") for key in CLASS_KEYS[:4]]

    assert set(keys) <= set(bound)
    assert not set(keys) & taken
    bound["Alt+3"](layer)
    assert layer.selected_label == 3
    assert controller.tool == "paint"
    assert [item.selected for item in controller.classes] == [False, False, False, True]


def test_strokes_are_noted_under_their_tool(workspace, controller, layer):
    controller.set_tool("fill")
    layer.fill((70, 70), (int(layer.data[70, 70]) + 1) % 4)
    workspace.session.commit()

    assert workspace.session.journal.history(1)[0].tool == "fill"


def test_removing_all_layers_gives_the_dataset_back(workspace, controller, layer):
    session = workspace.session
    workspace.viewer.layers.clear()

    assert session.closed
    assert workspace.session is None
    assert not controller.ready


def test_tile_under_the_view_and_its_review(workspace, controller, layer):
    for place in workspace.session.scenes[0].placements:
        workspace.fly_to(place.row, place.col, 64, 64)
        assert controller.review.tile_id == place.tile.id
    controller.review.set_state("approved")
    assert controller.review.state == "approved"
    assert workspace.session.review(controller.review.tile_id) == "approved"


def test_scenes_of_unequal_size_are_shown_one_at_a_time(workspace, controller, two_scenes):
    session = two_scenes
    assert not session.stacked
    assert workspace.labels_layer.data.shape == (64, 64)
    workspace.labels_layer.data[20:30, 20:30] = 3

    workspace.show_scene(1)

    assert workspace.labels_layer.data.shape == (48, 40)
    assert not session.closed
    workspace.show_scene(0)
    assert (np.asarray(workspace.labels_layer.data)[20:30, 20:30] == 3).all()


def _paint(session, rows, cols, label):
    session.mask[rows, cols] = label
    session.commit()


def test_redo_knows_nothing_of_another_dataset(workspace, controller, make_dataset):
    first, second = make_dataset("first"), make_dataset("second", seed=4)
    session = workspace.open(second)
    _paint(session, slice(20, 30), slice(20, 30), 3)
    painted = np.array(session.mask)
    _paint(workspace.open(first), slice(20, 30), slice(20, 30), 3)
    controller.undo()
    session = workspace.open(second)
    controller.redo()
    assert np.array_equal(session.mask, painted)


def test_what_was_undone_in_one_scene_waits_for_it(workspace, controller, two_scenes):
    session = two_scenes
    before = np.array(session.mask)
    _paint(session, slice(20, 30), slice(20, 30), 3)
    painted = np.array(session.mask)
    assert not np.array_equal(before, painted)
    controller.undo()
    workspace.show_scene(1)
    controller.redo()
    workspace.show_scene(0)
    assert np.array_equal(session.mask, before)
    controller.redo()
    assert np.array_equal(session.mask, painted)


def test_nothing_discarded_is_drawn_again(workspace, controller, make_dataset):
    session = workspace.open(make_dataset())
    before = np.array(session.mask)
    _paint(session, slice(70, 80), slice(20, 30), 3)
    controller.undo()
    controller.discard()
    controller.redo()
    assert np.array_equal(session.mask, before)
    assert not session.unsaved()


def test_a_stroke_of_a_locked_class_is_not_undone_and_neither_is_an_older_one(workspace, controller, make_dataset):
    session = workspace.open(make_dataset())
    session.mask[...] = 0
    session.commit()
    _paint(session, slice(20, 30), slice(20, 30), 2)
    _paint(session, slice(60, 70), slice(60, 70), 3)
    painted = np.array(session.mask)
    controller.lock(3, True)
    with pytest.raises(DataError, match="Unlock lake first"):
        controller.undo()
    assert np.array_equal(session.mask, painted)
    stroke_id = session.journal.history(1)[0].id
    assert "100 pixels stay: their class is locked" in controller.history.revert_stroke(stroke_id)
    controller.lock(3, False)
    controller.undo()
    assert not (np.array(session.mask) == 3).any()
    controller.lock(0, True)
    with pytest.raises(DataError, match="Unlock background first"):
        controller.redo()


def test_undo_goes_back_as_far_as_one_drew(workspace, controller, make_dataset):
    session = workspace.open(make_dataset())
    before = np.array(session.mask)
    for k in range(120):
        row, col = 70 + k // 20, 20 + k % 20
        _paint(session, row, col, (before[row, col] + 1) % 4)
    for _ in range(120):
        controller.undo()
    assert np.array_equal(session.mask, before)


def test_what_another_program_wrote_is_drawn_when_the_corrections_go_on_top(workspace, controller, make_dataset):
    session = workspace.open(make_dataset())
    layer = workspace.labels_layer
    tile = session.scenes[0].placements[3].tile
    layer.data[100:110, 100:110] = (layer.data[100:110, 100:110] + 1) % 4
    theirs = (session.dataset.read_mask(tile) + 1) % 4
    write_mask(tile.mask_path, theirs, session.scheme, tile.georef)
    with pytest.raises(SaveError, match="changed by another program"):
        controller.save()
    controller.keep_on_top()
    assert np.array_equal(layer._slice.image.raw[64:, 64:], session.mask.tile(tile.id))
    assert np.array_equal(layer._slice.image.raw[64:80, 64:80], theirs[:16, :16])


def test_nothing_is_undone_in_a_dataset_that_is_held_elsewhere(workspace, controller, make_dataset, monkeypatch):
    session = workspace.open(make_dataset())
    _paint(session, slice(20, 30), slice(20, 30), 3)
    painted = np.array(session.mask)
    monkeypatch.setattr(type(session), "read_only", "Held by another window.")
    for step in (controller.undo, controller.redo):
        with pytest.raises(JournalError, match="Held by another window"):
            step()
    assert np.array_equal(session.mask, painted)


def test_an_undo_that_was_discarded_took_nothing_back(workspace, controller, make_dataset):
    session = workspace.open(make_dataset())
    came = np.array(session.mask)
    _paint(session, slice(10, 20), slice(10, 20), (int(came[15, 15]) + 1) % 4)
    first = np.array(session.mask)
    _paint(session, slice(30, 40), slice(10, 20), (int(came[35, 15]) + 1) % 4)
    both = np.array(session.mask)
    controller.save()
    controller.undo()
    assert np.array_equal(session.mask, first)
    controller.discard()
    assert np.array_equal(session.mask, both)
    controller.undo()
    assert np.array_equal(session.mask, first)
    controller.undo()
    assert np.array_equal(session.mask, came)


def test_undo_in_a_stack_takes_back_what_is_on_screen(workspace, controller, make_dataset):
    session = workspace.open(make_dataset(georeferenced=False, grid=(1, 3)))
    assert session.stacked
    came = np.array(session.mask)
    for plane in (0, 2):
        session.mask[plane, 20:30, 20:30] = (int(came[plane, 25, 25]) + 1) % 4
        session.commit()
    painted = np.array(session.mask)
    workspace.viewer.dims.set_point(0, 0)
    controller.undo()
    assert np.array_equal(session.mask[0], came[0])
    assert np.array_equal(session.mask[2], painted[2])
    workspace.viewer.dims.set_point(0, 2)
    controller.redo()
    assert np.array_equal(session.mask[0], came[0])
    controller.undo()
    assert np.array_equal(session.mask, came)
    controller.redo()
    assert np.array_equal(session.mask[2], painted[2])


def test_what_a_full_disk_kept_out_of_the_journal_shows_all_the_same(workspace, controller, layer, monkeypatch):
    session, window = workspace.session, Window(20, 20, 10, 10)
    new = (int(session.mask[25, 25]) + 1) % 4

    def full(*arguments, **keywords):
        raise JournalError("the disk is full")

    def seen():
        return int(layer._slice.image.raw[25, 25])

    with monkeypatch.context() as patch:
        patch.setattr(session.journal, "record", full)
        with pytest.raises(JournalError, match="full"):
            workspace.assign_window(window, np.full((10, 10), new, np.uint8), np.ones((10, 10), bool), "flip")
        assert session.mask[25, 25] == seen() == new
    session.commit()
    old = int(session.journal.history(1)[0].id)
    with monkeypatch.context() as patch:
        patch.setattr(session.journal, "record", full)
        with pytest.raises(JournalError, match="full"):
            controller.undo()
        assert session.mask[25, 25] == seen() != new
    session.commit()
    assert session.journal.history(1)[0].id > old


def test_classes_are_locked_in_all_scenes(workspace, controller, two_scenes):
    _paint(two_scenes, slice(20, 30), slice(20, 30), 3)
    tile_id = two_scenes.scenes[0].placements[0].tile.id
    painted = np.array(two_scenes.mask)
    workspace.show_scene(1)
    controller.lock(3, True)
    assert "their class is locked" in controller.history.revert_tile(tile_id)
    workspace.show_scene(0)
    assert np.array_equal(two_scenes.mask, painted)
    assert controller.classes[3].locked


def test_the_reverts_of_two_scenes_are_undone_each_in_its_own(workspace, controller, two_scenes):
    came, drawn = [], []
    for number in (0, 1):
        workspace.show_scene(number)
        came.append(np.array(two_scenes.mask))
        _paint(two_scenes, slice(20, 30), slice(20, 30), (int(came[-1][25, 25]) + 1) % 4)
        drawn.append(np.array(two_scenes.mask))
    controller.history.revert_sitting(two_scenes.journal.history(1)[0].id)
    assert all(np.array_equal(two_scenes.mask_of(number), came[number]) for number in (0, 1))
    for number in (0, 1):
        workspace.show_scene(number)
        controller.undo()
        assert np.array_equal(two_scenes.mask, drawn[number])


def test_a_tile_exchanged_for_a_smaller_one_opens_and_is_told_of(workspace, controller, make_unequal_scenes):
    root = make_unequal_scenes(2)
    session = workspace.open(root)
    tile_id = session.scenes[0].placements[0].tile.id
    _paint(session, slice(50, 60), slice(50, 60), (int(session.mask[55, 55]) + 1) % 4)
    before = np.array(session.mask)
    _paint(session, slice(20, 30), slice(20, 30), (int(session.mask[25, 25]) + 1) % 4)
    num_left = np.count_nonzero(before != np.asarray(session.mask))
    session.journal.seen.add([SeenArea(tile_id, 40, 40, np.ones((20, 20), bool))], "ada")
    workspace.close_session()
    for path in root.glob("*/*_00_00.tif"):
        write_raster(path, read_raster(path)[0][:40, :40])

    session = workspace.open(root)
    assert session.mask_of(0).shape == (40, 40)
    assert session.conflicts == (tile_id,)
    assert session.touched(Window(0, 0, 40, 40)).sum() == num_left > 0
    controller.keep_on_top()
    with pytest.raises(SaveError, match=r"40 x 40 pixels: it was larger .* \(Discard\)"):
        controller.save()
    controller.history.revert_tile(tile_id)
    controller.discard()
    assert not session.unsaved()


def test_a_stroke_that_approval_keeps_in_part_is_undone_as_a_whole_or_not_at_all(workspace, controller, make_dataset):
    session = workspace.open(make_dataset())
    _paint(session, slice(None), slice(None), 0)
    controller.save()
    _paint(session, slice(10, 15), slice(20, 25), 3)
    older = np.array(session.mask)
    _paint(session, slice(28, 33), slice(50, 80), 1)
    both = np.array(session.mask)
    session.set_review("00_00", "approved")
    with pytest.raises(DataError, match="00_00 is approved"):
        controller.undo()
    assert np.array_equal(session.mask, both)
    session.set_review("00_00", "edited")
    controller.undo()
    assert np.array_equal(session.mask, older)


def test_a_mask_that_a_save_wrote_and_could_not_note_was_changed_by_nobody(
    workspace, controller, make_dataset, monkeypatch
):
    session = workspace.open(make_dataset())
    came = np.array(session.mask)
    _paint(session, slice(20, 30), slice(20, 30), (int(came[25, 25]) + 1) % 4)
    painted = np.array(session.mask)

    def full(journal, tile_id):
        raise JournalError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(type(session.journal), "finish_save", full)
        with pytest.raises(SaveError, match="full"):
            controller.save()
    assert session.conflicts == ()
    assert "0 strokes dropped" in controller.discard()
    assert np.array_equal(session.mask, painted)
    controller.undo()
    assert np.array_equal(session.mask, came)


@pytest.mark.parametrize("afterwards", ["undone", "painted as it was", "reverted", "its tile reverted"])
def test_what_comes_after_keep_counts_from_the_other_programs_file(workspace, controller, make_dataset, afterwards):
    session = workspace.open(make_dataset())
    tile, at = session.dataset.tiles[0], (slice(30, 32), slice(30, 32))
    came = np.array(session.mask)
    was = int(came[30, 30])
    _paint(session, *at, (was + 1) % 4)
    theirs = read_present_mask(session.dataset, tile)
    theirs[at] = (was + 2) % 4
    write_mask(tile.mask_path, theirs, session.scheme, tile.georef)
    with pytest.raises(SaveError, match="another program"):
        controller.save()
    controller.keep_on_top()
    assert np.all(np.asarray(session.mask)[at] == (was + 1) % 4)

    if afterwards == "undone":
        controller.undo()
    elif afterwards == "reverted":
        controller.history.revert_stroke(session.journal.history(1)[0].id)
    elif afterwards == "its tile reverted":
        controller.history.revert_tile(tile.id)
    else:
        _paint(session, *at, was)
    expected = was if afterwards == "painted as it was" else (was + 2) % 4
    assert np.all(np.asarray(session.mask)[at] == expected)
    controller.save()
    assert np.all(read_present_mask(session.dataset, tile)[at] == expected)
    held, root = np.array(session.mask), session.root
    workspace.close_session()
    assert np.array_equal(workspace.open(root).mask, held)


def test_keep_leaves_what_was_drawn_and_taken_back_to_the_other_program(workspace, controller, make_dataset):
    session = workspace.open(make_dataset())
    tile = session.dataset.tiles[0]
    came = np.array(session.mask)
    _paint(session, slice(20, 30), slice(20, 30), (int(came[25, 25]) + 1) % 4)
    controller.undo()
    _paint(session, slice(40, 44), slice(20, 24), (int(came[42, 22]) + 1) % 4)
    theirs = np.array(came)
    theirs[20:30, 20:30] = (int(came[25, 25]) + 2) % 4
    place = session.find(tile.id)[1]
    write_mask(tile.mask_path, theirs[place.slices], session.scheme, tile.georef)
    with pytest.raises(SaveError, match="another program"):
        controller.save()
    controller.keep_on_top()
    expected = theirs.copy()
    expected[40:44, 20:24] = np.where(session.valid[40:44, 20:24], (int(came[42, 22]) + 1) % 4, theirs[40:44, 20:24])
    assert np.array_equal(np.asarray(session.mask)[20:30, 20:30], expected[20:30, 20:30])
    assert np.array_equal(np.asarray(session.mask)[40:44, 20:24], expected[40:44, 20:24])
    # Also when it is opened again before it is saved.
    root = session.root
    workspace.close_session()
    session = workspace.open(root)
    assert np.array_equal(np.asarray(session.mask)[20:30, 20:30], expected[20:30, 20:30])
    controller.save()
    saved = read_present_mask(session.dataset, session.dataset.tile(tile.id))
    assert np.array_equal(saved[20:30, 20:30], expected[20:30, 20:30])
    assert np.array_equal(saved[40:44, 20:24], expected[40:44, 20:24])


@pytest.mark.skipif(os.name == "nt", reason="Windows renames no folder that is in use")
def test_a_dataset_renamed_while_it_is_open_loses_nothing(workspace, controller, make_dataset):
    session = workspace.open(make_dataset(masks=False))
    root = session.root
    _paint(session, slice(20, 30), slice(20, 30), 1)
    painted = np.array(session.mask)
    root.rename(root.with_name("renamed"))
    with pytest.raises(SaveError, match="renamed or moved"):
        controller.save()
    assert not root.exists()
    assert session.unsaved()
    workspace.close_session()
    session = workspace.open(root.with_name("renamed"))
    assert np.array_equal(session.mask, painted)
    controller.save()
    assert not session.unsaved()


def test_what_was_drawn_and_undone_is_no_correction(workspace, controller, make_dataset):
    root = make_dataset(masks=False)
    session = workspace.open(root)

    def files():
        return {path: path.read_bytes() for path in root.rglob("*.tif")}

    def draw(rows, cols):
        session.mask[rows, cols] = (session.mask[rows, cols] + 1) % 4
        session.commit()

    before = files()
    draw(slice(20, 30), slice(20, 30))
    draw(slice(24, 40), slice(20, 30))
    controller.undo()
    assert controller.has_unsaved
    assert controller.status.startswith("Corrections in 1 tile")
    controller.undo()
    assert not controller.has_unsaved
    assert controller.status == "Everything is saved."
    controller.redo()
    assert controller.status.startswith("Corrections in 1 tile")
    controller.undo()
    # Of another tile something is left, and only that is written.
    draw(slice(100, 110), slice(100, 110))
    (tile_id,) = session.unsaved()
    assert controller.save() == f"1 tile written: {tile_id}."
    made = [path for path in files() if path not in before]
    assert made == [session.dataset.tile(tile_id).mask_path]
    assert not session.journal.unsaved_tiles()
    # A stroke that is undone after it was saved differs from the file.
    controller.undo()
    assert list(session.unsaved()) == [tile_id]
    controller.redo()
    assert not session.unsaved()
    # One that was taken out by the history does not.
    draw(slice(20, 30), slice(100, 110))
    controller.history.revert_stroke(session.journal.history(1)[0].id)
    assert controller.status == "Everything is saved."
    controller.undo()
    assert controller.has_unsaved
    controller.redo()
    workspace.close_session()

    workspace.open(root)
    assert controller.recovered == ""
    assert not controller.has_unsaved


def test_what_another_program_writes_beside_strokes_that_were_undone_is_no_conflict(
    workspace, controller, make_dataset
):
    session = workspace.open(make_dataset())
    tile = session.scenes[0].placements[3].tile
    session.mask[100:110, 100:110] = (session.mask[100:110, 100:110] + 1) % 4
    session.commit()
    controller.undo()
    theirs = (read_present_mask(session.dataset, tile) + 1) % 4
    write_mask(tile.mask_path, theirs, session.scheme, tile.georef)
    assert controller.save() == "There was nothing to write."
    assert np.array_equal(read_present_mask(session.dataset, tile), theirs)
    session.mask[100:110, 100:110] = (session.mask[100:110, 100:110] + 1) % 4
    with pytest.raises(SaveError, match="changed by another program"):
        controller.save()


def test_undo_and_redo_with_nothing_left_say_so(workspace, controller, two_scenes):
    said = []
    controller.tools.told.connect(said.append)
    controller.undo()
    controller.redo()
    assert said == ["There is nothing left to undo here.", "There is nothing left to redo here."]
    _paint(two_scenes, slice(20, 30), slice(20, 30), 3)
    controller.undo()
    assert said[-1] == "", "what was said before is true no longer"
    controller.undo()
    assert "nothing left to undo" in said[-1]
    workspace.show_scene(1)
    controller.redo()
    assert "nothing left to redo here" in said[-1], "it waits for its scene"
    workspace.show_scene(0)
    controller.redo()
    assert said[-1] == ""
    number = len(said)
    controller.undo()
    assert len(said) == number, "of what was done nothing is said"


def test_an_undo_that_a_full_disk_kept_out_of_the_journal_is_redone_once_it_is_in(
    workspace, controller, layer, monkeypatch
):
    session = workspace.session
    before = np.asarray(session.mask)
    for cols in (slice(20, 30), slice(30, 40), slice(80, 90)):
        session.mask[70:80, cols] = (session.mask[70:80, cols] + 1) % 4
        session.commit()
    painted = np.asarray(session.mask)
    third, second = (info.id for info in session.journal.history(2))
    # The last two were drawn without letting go of the button.
    session.drawn_at_once[third] = (second, third)
    once_only = before.copy()
    once_only[70:80, 20:30] = painted[70:80, 20:30]

    def full(*arguments, **keywords):
        raise JournalError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(session.journal, "record", full)
        with pytest.raises(JournalError, match="full"):
            controller.undo()
        assert np.array_equal(session.mask, once_only), "all of what was drawn in one go"
        with pytest.raises(JournalError, match="full"):
            controller.redo()
    controller.undo()
    assert np.array_equal(session.mask, before)
    controller.redo()
    assert np.array_equal(session.mask, once_only)
    controller.redo()
    assert np.array_equal(session.mask, painted)
    controller.undo()
    assert np.array_equal(session.mask, once_only)


def test_a_class_picked_on_the_canvas_is_the_selected_one_for_every_toolkit(workspace, make_dataset):
    workspace.open(make_dataset())
    controller = CorrectionController(workspace)
    # As napari's Pick does it: the value of a pixel.
    workspace.labels_layer.selected_label = np.uint8(2)

    assert [item.selected for item in controller.classes] == [False, False, True, False]
    # A NumPy bool is no bool to Qt.
    assert {type(item.selected) for item in controller.classes} == {bool}
    controller.close()
