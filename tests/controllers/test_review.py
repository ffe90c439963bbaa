import numpy as np
import pytest

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.core.errors import DataError
from napari_glacier.core.raster import read_raster


@pytest.fixture
def controller(workspace, make_dataset):
    controller = CorrectionController(workspace)
    workspace.open(make_dataset())
    yield controller
    controller.close()


@pytest.fixture
def told(controller):
    told = []
    controller.tools.told.connect(told.append)
    return told


def look_at(workspace, tile_id):
    _, place = workspace.session.find(tile_id)
    workspace.fly_to(place.row, place.col, 64, 64)
    return place


def paint(workspace, row, col):
    layer = workspace.labels_layer
    layer.brush_size = 6
    with layer.block_history():
        layer.paint((row, col), (int(layer.data[row, col]) + 1) % 4)


def test_an_approved_tile_is_locked_until_the_approval_is_taken_back(workspace, controller, told):
    place = look_at(workspace, "00_01")
    row, col = place.row + 30, place.col + 30
    assert "locked" in controller.review.approve()
    before = np.asarray(workspace.session.mask)

    paint(workspace, row, col)
    workspace.labels_layer.fill((row, col), 3)
    controller.select_class((int(before[row, col]) + 1) % 4)
    controller.tools.select("component")
    controller.tools.click(row, col)
    workspace.assign((before + 1) % 4, np.ones(before.shape, bool), "accept")

    after = np.asarray(workspace.session.mask)
    assert np.array_equal(after[place.slices], before[place.slices])
    assert not np.array_equal(after, before)
    sentences = [text for text in told if text]  # an empty one takes the last away
    assert sentences
    assert all("Tile 00_01 is approved" in text for text in sentences)
    shown = workspace.labels_layer._slice.image.raw
    assert np.array_equal(shown, after)

    assert "taken back" in controller.review.set_state("in progress")
    paint(workspace, row, col)
    assert not np.array_equal(np.asarray(workspace.session.mask)[place.slices], before[place.slices])


def test_undo_stops_at_a_stroke_on_an_approved_tile_and_says_so(workspace, controller):
    first, second = look_at(workspace, "00_00"), look_at(workspace, "00_01")
    paint(workspace, first.row + 30, first.col + 30)
    paint(workspace, second.row + 30, second.col + 30)
    controller.review.approve()
    drawn = np.asarray(workspace.session.mask)

    with pytest.raises(DataError, match=r"not undone\. Tile 00_01 is approved"):
        controller.undo()
    assert np.array_equal(np.asarray(workspace.session.mask), drawn)

    controller.review.set_state("edited")
    controller.undo()
    controller.undo()
    files = np.block([[read_raster(p.tile.mask_path)[0] for p in workspace.session.scenes[0].placements[:2]]])
    assert np.array_equal(workspace.session.scheme.encode(np.asarray(workspace.session.mask)[:64]), files)


def test_discard_leaves_the_corrections_of_an_approved_tile_and_save_writes_them(workspace, controller):
    first, second = look_at(workspace, "00_00"), look_at(workspace, "00_01")
    paint(workspace, first.row + 30, first.col + 30)
    paint(workspace, second.row + 30, second.col + 30)
    assert "not yet written" in controller.review.approve()
    drawn = np.asarray(workspace.session.mask)

    assert controller.discard() == "1 stroke dropped; 00_01 is approved and keeps its corrections."

    now = np.asarray(workspace.session.mask)
    assert np.array_equal(now[second.slices], drawn[second.slices])
    assert not np.array_equal(now[first.slices], drawn[first.slices])
    controller.save()
    assert workspace.session.review("00_01") == "approved"
    assert np.array_equal(read_raster(second.tile.mask_path)[0], workspace.session.scheme.encode(drawn[second.slices]))


def test_a_locked_tile_is_locked_again_after_opening(workspace, controller):
    look_at(workspace, "00_01")
    controller.review.approve()
    root = workspace.session.root
    workspace.close_session()

    workspace.open(root)

    assert workspace.session.mask.locked_tiles == {"00_01"}


def test_the_walk_visits_the_tiles_of_the_state_chosen_and_wraps(workspace, controller):
    review, session = controller.review, workspace.session
    ids = list(session.tile_ids)
    look_at(workspace, ids[0])
    assert [review.next() for _ in range(4)] == [*ids[1:], ids[0]]
    assert review.previous() == ids[-1]
    assert review.tile_id == ids[-1]
    session.set_review(ids[1], "rejected")
    session.set_review(ids[2], "approved")
    review.set_filter("rejected")
    assert [review.next() for _ in range(2)] == [ids[1], ids[1]]
    review.set_filter("not approved")
    assert [review.next() for _ in range(3)] == [ids[3], ids[0], ids[1]]
    review.set_filter("edited")
    with pytest.raises(DataError, match="edited"):
        review.next()
    assert review.summary == "2 todo, 1 approved, 1 rejected"


def test_the_walk_goes_on_in_another_scene_of_a_stack(workspace, controller, make_dataset):
    workspace.open(make_dataset("stack", georeferenced=False))
    ids = list(workspace.session.tile_ids)
    here = workspace.plane
    assert controller.review.tile_id == ids[here]
    assert controller.review.next() == ids[here + 1]
    assert workspace.plane == here + 1
    assert controller.review.tile_id == ids[here + 1]


def test_notes_are_kept_and_keys_walk_and_approve(workspace, controller):
    ids = list(workspace.session.tile_ids)
    look_at(workspace, ids[0])
    controller.review.add_note("   ")
    controller.review.add_note("shadow or debris?")
    (event,) = controller.review.events()
    assert (event.state, event.note) == ("todo", "shadow or debris?")
    layer = workspace.labels_layer
    bound = {str(key): action for key, action in layer.keymap.items()}
    taken = {str(key) for key in type(layer).class_keymap}
    assert not {".", ",", "Shift+Y"} & taken
    bound["."](layer)
    assert controller.review.tile_id == ids[1]
    bound["Shift+Y"](layer)
    assert workspace.session.review(ids[1]) == "approved"
    bound[","](layer)
    assert controller.review.tile_id == ids[0]
