import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.layers import KEY, class_features, world_placement
from napari_glacier.core.errors import DataError


@pytest.fixture
def desk(workspace, make_dataset):
    controller = CorrectionController(workspace)
    workspace.open(make_dataset())
    yield controller
    controller.close()


def _predict(workspace, seed=0):
    """A prediction with some uncertain blobs, laid over the scene as the Predict widget does."""
    session = workspace.session
    shape = session.mask.shape
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0,) * (len(shape) - 2) + (4, 4))
    entropy = np.clip(field / field.std() * 0.25 + 0.1, 0, 1).astype(np.float32)
    index = np.roll(np.asarray(session.mask), 5, axis=-1)
    tag = {"session": session}
    place = world_placement(None if session.stacked else session.georef(), len(shape))
    workspace.viewer.add_image(entropy, name="Uncertainty", metadata={KEY: {**tag, "role": "uncertainty"}}, **place)
    workspace.viewer.add_labels(
        index,
        name="Prediction",
        features=class_features(session.scheme),
        metadata={KEY: {**tag, "role": "prediction", "model": "tiny", "known": np.ones(shape, bool)}},
        **place,
    )
    workspace.viewer.layers.selection.active = workspace.labels_layer
    return entropy, index


def test_without_a_prediction_there_is_nothing_to_go_by(desk):
    assert not desk.attention.available
    with pytest.raises(DataError, match="Run a model, or show an earlier prediction"):
        desk.attention.next()
    with pytest.raises(DataError, match="No region is chosen"):
        desk.attention.fixed()


def test_next_flies_to_the_region_with_most_at_stake(workspace, desk):
    entropy, _ = _predict(workspace)
    region = desk.attention.next()

    regions = desk.attention.regions()
    assert region == regions[0]
    assert region.score == max(other.score for other in regions)
    # Every pixel is 30 m wide.
    uncertain = (entropy >= 0.35) & workspace.session.valid
    assert sum(r.stake_km2 for r in regions) <= entropy[uncertain].sum() * 0.0009 * (1 + 1e-6)
    assert desk.attention.in_km2
    row, col = workspace.labels_layer.world_to_data(workspace.viewer.scene.camera.center[-2:])
    window = region.window
    assert row == pytest.approx(window.row + (window.height - 1) / 2)
    assert col == pytest.approx(window.col + (window.width - 1) / 2)


def test_accept_right_and_later_lead_on(workspace, desk):
    _, index = _predict(workspace)
    attention = desk.attention
    first = attention.next()
    before = np.asarray(workspace.session.mask)
    where = attention._queue.where(first.number)

    attention.accept()
    labels = np.asarray(workspace.session.mask)
    inside = np.zeros(labels.shape, bool)
    inside[first.window.slices] = where
    assert np.array_equal(labels, np.where(inside, index, before))
    second = attention.current
    assert second.number != first.number
    assert first.number not in {region.number for region in attention.regions()}

    attention.skip()
    third = attention.current
    assert third.number not in (first.number, second.number)
    assert attention.regions()[-1].number == second.number
    attention.fixed()
    assert np.array_equal(np.asarray(workspace.session.mask), labels)
    assert third.number not in {region.number for region in attention.regions()}


def test_what_was_seen_stays_seen_after_a_restart(workspace, desk):
    _predict(workspace)
    attention = desk.attention
    attention.next()
    for _ in range(3):
        attention.fixed()
    left = {(r.window, r.num_px) for r in attention.regions()}
    root = workspace.session.root
    workspace.close_session()
    assert attention.regions() == []

    workspace.open(root)
    _predict(workspace)
    attention.next()
    assert {(r.window, r.num_px) for r in attention.regions()} == left


def test_painting_takes_pixels_off_the_queue_and_approval_whole_tiles(workspace, desk):
    _predict(workspace)
    attention = desk.attention
    region = attention.next()
    told = []
    attention.changed.connect(lambda: told.append(len(attention.regions())))
    label = (np.asarray(workspace.session.mask) + 1) % 4
    window = region.window
    mask = workspace.session.mask
    mask[window.slices] = label[window.slices]
    mask.commit("paint")
    assert told
    assert region.number not in {other.number for other in attention.regions()}

    place = next(p for p in workspace.session.scenes[0].placements if p.tile.id == desk.review.tile_id)
    workspace.session.set_review(place.tile.id, "approved")
    assert attention.stale
    attention.next()
    for other in attention.regions():
        inside = np.zeros(mask.shape, bool)
        inside[other.window.slices] = attention._queue.where(other.number)
        assert not inside[place.slices].any()


def test_accepting_everything_is_not_looking(workspace, desk):
    _predict(workspace)
    desk.attention.next()
    before = desk.attention.regions()
    desk.tools.accept_everywhere(in_view=False)
    assert desk.attention.regions() == before


def test_strokes_made_while_a_queue_is_built_count(workspace, desk):
    _predict(workspace)
    build = desk.attention.plan()
    built = build()
    region = built.queue.regions()[0]
    mask = workspace.session.mask
    mask[region.window.slices] = (mask[region.window.slices] + 1) % 4
    mask.commit("paint")
    desk.attention.install(built)
    assert region.number not in {other.number for other in desk.attention.regions()}


def test_a_queue_that_was_planned_before_what_is_on_screen_is_passed_over(workspace, desk):
    _predict(workspace)
    attention = desk.attention
    late = attention.plan()()
    attention.next()
    attention.fixed()
    region, left = attention.current, attention.regions()
    attention.install(late)
    assert attention.current == region
    assert attention.regions() == left
    assert not attention.stale


@pytest.mark.parametrize("act", ["next", "skip", "fixed", "accept"])
def test_what_is_done_on_an_old_queue_while_a_new_one_is_built_stays_done(workspace, desk, act):
    _predict(workspace)
    attention = desk.attention
    shown = attention.next()
    workspace.session.set_review(workspace.session.tile_ids[-1], "approved")
    late = attention.plan()()
    getattr(attention, act)()
    region, left = attention.current, attention.regions()
    assert region is not None
    attention.install(late)
    assert attention.current == region
    assert attention.regions() == left
    if act == "skip":
        assert left[-1].window == shown.window
    elif act != "next":
        assert shown.window not in {other.window for other in left}


def test_a_queue_of_another_prediction_is_passed_over(workspace, desk):
    _predict(workspace)
    late = desk.attention.plan()()
    workspace.viewer.layers.remove(workspace.prediction_layer)
    _predict(workspace, seed=1)
    desk.attention.install(late)
    assert desk.attention.regions() == []
    assert desk.attention.stale


def test_strokes_and_seen_areas_of_tiles_that_are_not_open_are_passed_over(workspace, desk, make_dataset):
    root = make_dataset("splits", splits=("train", "val"), grid=(1, 2))
    workspace.open(root)
    _predict(workspace)
    session, attention = workspace.session, desk.attention
    attention.next()
    while attention.current is not None:
        attention.fixed()
    number, place = session.find("00_04")
    mask = session.mask_of(number)
    rows, cols = place.slices
    mask[rows, cols] = (mask[rows, cols] + 1) % 4
    session.commit()
    assert {"00_03", "00_04"} & {area.tile_id for area in session.journal.seen.all()}
    workspace.close_session()

    workspace.open(root / "train")
    assert "00_04" not in workspace.session.tile_ids
    _predict(workspace, seed=1)
    assert attention.next() in attention.regions()


def test_what_a_lock_keeps_from_being_accepted_is_not_found_right(workspace, desk):
    _, index = _predict(workspace)
    session, attention = workspace.session, desk.attention
    predicted, held, free = 1, 2, 3
    index[...] = predicted
    region = attention.next()
    where_HW = attention._queue.where(region.number)
    part = region.window.slices
    workspace.assign(np.full(index.shape, held, np.uint8), np.ones(index.shape, bool), "accept")
    desk.lock(held, True)
    before = np.asarray(session.mask)
    left = [one.window for one in attention.regions()]
    with pytest.raises(DataError, match=f"Unlock {session.scheme.class_names[held]} first"):
        attention.accept()
    assert np.array_equal(session.mask, before)
    assert not session.journal.seen.all()
    assert attention.current == region
    assert [one.window for one in attention.regions()] == left

    # A part of it is of a class that is free.
    desk.lock(held, False)
    half = np.zeros(index.shape, bool)
    half[part][where_HW] = np.arange(where_HW.sum()) % 2 == 0
    workspace.assign(np.full(index.shape, free, np.uint8), half, "accept")
    desk.lock(held, True)
    attention.accept()
    after = np.asarray(session.mask)
    assert np.array_equal(after, np.where(half, index, before))
    seen = np.any([_in_scene(session, area) for area in session.journal.seen.all()], axis=0)
    assert np.array_equal(seen, half)
    assert attention.current != region


def _in_scene(session, area):
    where = np.zeros(session.mask.shape, bool)
    _, place = session.find(area.tile_id)
    rows, cols = place.row + area.row, place.col + area.col
    where[rows : rows + area.where_HW.shape[0], cols : cols + area.where_HW.shape[1]] = area.where_HW
    return where


def test_a_region_with_nothing_left_to_accept_is_gone_on_from(workspace, desk):
    _predict(workspace)
    attention, mask = desk.attention, workspace.session.mask
    region = attention.next()
    drawn = (mask[region.window.slices] + 1) % 4
    mask[region.window.slices] = drawn
    mask.commit("paint")
    before = np.asarray(mask)
    attention.accept()
    assert np.array_equal(np.asarray(mask), before)
    assert attention.current is not None
    assert attention.current.number != region.number


def test_hiding_a_layer_does_not_start_the_queue_again(workspace, desk):
    _predict(workspace)
    desk.attention.next()
    layer = workspace.prediction_layer
    layer.visible = False
    layer.visible = True
    layer.refresh()
    assert not desk.attention.stale
    layer.data[40:90, 40:90] = 1
    layer.refresh()
    assert desk.attention.stale


def test_a_finished_queue_says_so(workspace, desk):
    _predict(workspace)
    told = []
    desk.tools.told.connect(told.append)
    desk.attention.next()
    for _ in range(len(desk.attention.regions())):
        desk.attention.fixed()
    assert desk.attention.current is None
    assert told[-1] == "Nothing uncertain is left in this scene."


def test_a_stack_is_led_through_by_its_slider(workspace, make_dataset):
    controller = CorrectionController(workspace)
    workspace.open(make_dataset(georeferenced=False))
    _predict(workspace)
    region = controller.attention.next()
    assert workspace.plane == region.plane
    assert not controller.attention.in_km2
    before = np.asarray(workspace.session.mask)
    controller.attention.accept()
    changed = np.asarray(workspace.session.mask) != before
    assert not np.delete(changed, region.plane, axis=0).any()
    controller.close()


def test_nothing_is_decided_on_a_region_of_another_scene_than_the_one_on_screen(workspace, make_dataset):
    session = workspace.open(make_dataset(georeferenced=False, grid=(1, 3)))
    controller = CorrectionController(workspace)
    _predict(workspace)
    region = controller.attention.next()
    elsewhere = (region.plane + 1) % 3
    before = np.array(session.mask)
    for act in (controller.attention.accept, controller.attention.fixed):
        workspace.viewer.dims.set_point(0, elsewhere)
        with pytest.raises(DataError, match="on screen again"):
            act()
        assert workspace.plane == region.plane
        assert np.array_equal(session.mask, before)
        assert not session.journal.seen.all()
    controller.attention.accept()
    changed = (np.asarray(session.mask) != before).any(axis=(1, 2))
    assert changed[region.plane]
    assert not changed[elsewhere]
    controller.close()


def test_what_was_drawn_and_dropped_is_to_be_looked_at_again(workspace, desk):
    _predict(workspace)
    region = desk.attention.next()
    number = len(desk.attention.regions())
    workspace.session.mask[(*region.window.slices,)] = (
        np.asarray(workspace.session.mask)[region.window.slices] + 1
    ) % 4
    workspace.session.commit()
    assert len(desk.attention.regions()) < number
    desk.discard()
    assert desk.attention.stale
    assert desk.attention.next().window == region.window


def test_accepting_everything_and_taking_it_back_is_not_looking(workspace, desk):
    _, index = _predict(workspace)
    before = [region.window for region in _walk_of(desk)]
    workspace.assign(index, np.ones(index.shape, bool), "accept")
    desk.undo()
    desk.redo()
    desk.undo()
    assert [region.window for region in _walk_of(desk)] == before


def test_what_was_said_of_a_region_is_not_said_of_the_next(workspace, desk):
    _predict(workspace)
    told = []
    desk.tools.told.connect(told.append)
    desk.attention.next()
    for act in (desk.attention.accept, desk.attention.fixed, desk.attention.accept, desk.attention.skip):
        act()
        assert bool(told[-1]) == (act == desk.attention.accept)


def _walk_of(desk):
    desk.attention.stale = True
    desk.attention.next()
    return desk.attention.regions()
