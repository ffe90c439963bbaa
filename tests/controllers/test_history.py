import numpy as np
import pytest

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.history import revert


@pytest.fixture
def controller(workspace, make_dataset):
    controller = CorrectionController(workspace)
    workspace.open(make_dataset())
    yield controller
    controller.close()


def paint(workspace, rows, cols, label):
    """One stroke; gives its id."""
    session = workspace.session
    session.mask[rows, cols] = label
    return session.mask.commit("paint")


def fresh(workspace, rows, cols):
    """A class that none of these pixels has."""
    there = set(np.unique(workspace.session.mask[rows, cols]).tolist())
    return min(set(range(5)) - there) if len(there) < 4 else 0


def test_a_stroke_is_taken_out_and_what_lies_over_it_stays(workspace, controller):
    mask = workspace.session.mask
    start = np.asarray(mask)
    first = paint(workspace, slice(20, 30), slice(50, 80), 3)
    second = paint(workspace, slice(25, 35), slice(70, 90), 1)
    both = np.asarray(mask)

    said = controller.history.revert_stroke(first)

    now = np.asarray(mask)
    expected = both.copy()
    expected[20:25, 50:80], expected[25:30, 50:70] = start[20:25, 50:80], start[25:30, 50:70]
    changed_later = np.zeros(mask.shape, bool)
    changed_later[25:30, 70:80] = True
    assert np.array_equal(now, expected)
    assert "stay: something was drawn over them later" in said
    infos = controller.history.strokes()
    assert [info.tool for info in infos] == ["revert", "paint", "paint"]
    counts = controller.history.num_pixels(infos)
    assert counts[first] == (start[20:30, 50:80] != 3).sum()

    controller.undo()
    assert np.array_equal(np.asarray(mask), both)
    controller.history.revert_stroke(second)
    controller.history.revert_stroke(first)
    assert np.array_equal(np.asarray(mask), start)
    assert controller.history.revert_stroke(first).startswith("Nothing changed")


def test_a_tile_and_a_session_are_taken_out_also_after_saving(workspace, controller):
    mask = workspace.session.mask
    start = np.asarray(mask)
    first = paint(workspace, slice(20, 30), slice(50, 80), 3)
    controller.save()
    paint(workspace, slice(80, 90), slice(50, 80), 2)
    drawn = np.asarray(mask)

    controller.history.revert_tile("00_00")
    now = np.asarray(mask)
    assert np.array_equal(now[:64, :64], start[:64, :64])
    assert np.array_equal(now[:, 64:], drawn[:, 64:])
    assert np.array_equal(now[64:], drawn[64:])

    controller.history.revert_sitting(first)
    assert np.array_equal(np.asarray(mask), start)
    controller.save()
    files = workspace.session.scenes[0].read_masks()
    assert np.array_equal(files, start)


def test_an_approved_tile_is_not_reverted_and_that_is_said(workspace, controller):
    mask = workspace.session.mask
    start = np.asarray(mask)
    first = paint(workspace, slice(20, 30), slice(50, 80), 3)
    drawn = np.asarray(mask)
    workspace.session.set_review("00_01", "approved")

    said = controller.history.revert_stroke(first)

    now = np.asarray(mask)
    assert np.array_equal(now[:, :64], start[:, :64])
    assert np.array_equal(now[:, 64:], drawn[:, 64:])
    assert "Tile 00_01 is approved" in said


def test_the_same_in_a_stack_and_in_scenes_that_are_not_on_screen(workspace, controller, make_dataset):
    workspace.open(make_dataset("stack", georeferenced=False))
    mask = workspace.session.mask
    start = np.asarray(mask)
    mask[1, 20:30, 20:30] = 3
    mask[2, 20:30, 20:30] = 2
    number = mask.commit()
    controller.history.fly_to(number)
    assert workspace.plane in (1, 2)
    controller.history.revert_stroke(number)
    assert np.array_equal(np.asarray(mask), start)


def test_the_view_flies_to_a_stroke(workspace, controller):
    number = paint(workspace, slice(70, 80), slice(90, 120), fresh(workspace, slice(70, 80), slice(90, 120)) % 4)
    controller.history.fly_to(number)
    row, col = workspace.labels_layer.world_to_data(workspace.viewer.scene.camera.center[-2:])
    assert 70 <= row <= 80
    assert 90 <= col <= 120


def test_a_stroke_that_was_taken_out_with_others_stays_out_though_the_class_was_there_before(workspace, controller):
    """Pixels that were one class, another, and the first again: their values do not tell how far they went back."""
    mask, area = workspace.session.mask, (slice(70, 80), slice(50, 60))
    mask[area] = 0
    mask.commit("paint")
    start = np.asarray(mask)
    numbers = [paint(workspace, *area, label) for label in (1, 0, 1)]
    revert(workspace.session, numbers)
    assert np.array_equal(np.asarray(mask), start)
    for number in numbers:
        said = controller.history.revert_stroke(number)
        assert np.array_equal(np.asarray(mask), start)
        assert said.startswith("Nothing changed")
    # The revert itself can still be undone.
    controller.undo()
    assert (mask[area] == 1).all()


def test_the_strokes_of_a_tile_are_found_behind_many_of_another(workspace, controller):
    here, there = workspace.session.tile_ids[0], workspace.session.tile_ids[3]
    for k in range(3):
        paint(workspace, slice(20 + k, 21 + k), slice(20, 30), 3 - int(workspace.session.mask[20 + k, 20]))
    for k in range(12):
        paint(workspace, 100, 100 + k, (int(workspace.session.mask[100, 100 + k]) + 1) % 4)
    every = controller.history.strokes(1000)
    assert {info.tile_ids for info in every} == {(here,), (there,)}
    assert controller.history.strokes(10, here) == [info for info in every if info.tile_ids == (here,)]
    assert len(controller.history.strokes(10, there)) == 10
