import numpy as np
import pytest

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.disagreement import EVERYBODY
from napari_glacier.core.correction.disagreement import UNSAID
from napari_glacier.core.errors import DataError
from napari_glacier.core.raster import write_mask
from napari_glacier.core.tiling import Window

REGIONS = (Window(60, 40, 12, 20), Window(100, 90, 6, 5))


@pytest.fixture
def desk(workspace, make_dataset):
    controller = CorrectionController(workspace)
    workspace.open(make_dataset())
    yield controller
    controller.close()


@pytest.fixture
def folder(workspace, desk, tmp_path):
    """A second reviewer's masks: other than the labels in two regions of valid pixels."""
    session = workspace.session
    theirs = np.asarray(session.mask).copy()
    for window in REGIONS:
        theirs[window.slices] = (theirs[window.slices] + 1) % 4
    for place in session.scenes[0].placements:
        write_mask(tmp_path / "ben" / f"{place.tile.id}.tif", theirs[place.slices], session.scheme, place.tile.georef)
    return tmp_path / "ben", theirs


def test_nobody_is_compared_with_before_somebody_is_chosen(desk):
    assert desk.walk is desk.attention
    assert not desk.disagreement.available
    with pytest.raises(DataError, match="Choose an author"):
        desk.disagreement.next()


def test_regions_of_a_folder_are_counted_shown_and_walked_through(workspace, desk, folder):
    path, theirs = folder
    session, walk = workspace.session, desk.disagreement
    before = np.asarray(session.mask)
    walk.choose_folder(path)
    assert desk.walk is walk
    first = walk.next()
    walk.draw()
    differs = (theirs != before) & session.valid
    np.testing.assert_array_equal(walk.layer.data, np.where(differs, theirs, UNSAID))
    assert sum(region.num_px for region in walk.regions()) == np.count_nonzero(differs)
    # Pixels of 30 m.
    assert sum(region.stake_km2 for region in walk.regions()) == pytest.approx(np.count_nonzero(differs) * 0.0009)
    assert first.num_px == max(region.num_px for region in walk.regions())
    row, col = workspace.labels_layer.world_to_data(workspace.viewer.scene.camera.center[-2:])
    assert (row, col) == pytest.approx((65.5, 49.5))
    assert walk.here.endswith("for ben")

    walk.accept()
    taken = np.asarray(session.mask)
    np.testing.assert_array_equal(taken[REGIONS[0].slices], theirs[REGIONS[0].slices])
    assert np.count_nonzero(taken != before) == first.num_px
    assert session.journal.history(1)[0].tool == "second opinion"
    assert {region.window for region in walk.regions()} == {REGIONS[1]}

    walk.fixed()
    np.testing.assert_array_equal(np.asarray(session.mask), taken)
    assert walk.regions() == []
    assert walk.current is None
    # What was turned down is not offered again, not even after another look.
    walk.choose_folder(path)
    with pytest.raises(DataError, match="Nothing is left"):
        walk.next()
    walk.draw()
    assert (np.asarray(walk.layer.data) == UNSAID).all()
    walk.stop()
    walk.draw()
    assert walk.layer is None
    assert desk.walk is desk.attention


def test_taking_theirs_back_brings_the_region_back(workspace, desk, folder):
    walk = desk.disagreement
    walk.choose_folder(folder[0])
    walk.next()
    number = len(walk.regions())
    walk.accept()
    desk.undo()
    assert walk.stale
    walk.next()
    assert len(walk.regions()) == number


def test_an_approved_tile_keeps_its_labels_and_the_region_stays(workspace, desk, folder):
    session, walk, said = workspace.session, desk.disagreement, []
    desk.tools.told.connect(said.append)
    walk.choose_folder(folder[0])
    region = walk.next()
    before = np.asarray(session.mask)
    for place in session.scenes[0].tiles_in(region.window):
        session.set_review(place.tile.id, "approved")
    walk.next()
    walk.accept()
    np.testing.assert_array_equal(np.asarray(session.mask), before)
    assert any("approved" in text for text in said)
    assert region.window in {left.window for left in walk.regions()}


def test_authors_of_the_journal_are_compared_with_what_the_labels_are(workspace, desk):
    session, walk = workspace.session, desk.disagreement
    assert walk.authors == ()
    valid = np.asarray(session.valid)
    index = np.asarray(session.mask)

    def draw(author, window, label):
        session.journal.author = author
        values = np.full((window.height, window.width), label, np.uint8)
        workspace.assign_window(window, values, np.ones(values.shape, bool), "paint")

    draw("anna", Window(60, 40, 20, 20), 1)
    draw("ben", Window(70, 40, 20, 20), 2)
    assert walk.authors == (EVERYBODY, "anna", "ben")
    # Anna drew ten rows of class 1 that Ben made class 2; what was 1 before she drew she did not touch.
    contested = np.zeros(valid.shape, bool)
    contested[70:80, 40:60] = True
    contested &= valid & (index != 1)
    for source, expected in ((EVERYBODY, contested), ("anna", contested), ("ben", np.zeros_like(contested))):
        walk.choose_author(source)
        walk.install(walk.plan()())
        found = np.asarray(walk._found.other) != UNSAID
        np.testing.assert_array_equal(found, expected)
    walk.choose_author("anna")
    while walk.regions() or walk.stale:
        walk.next()
        walk.accept()
    np.testing.assert_array_equal(np.asarray(session.mask)[contested], 1)


def test_what_was_found_in_another_scene_is_passed_over(workspace, two_scenes):
    desk = CorrectionController(workspace)
    session, walk = two_scenes, desk.disagreement
    workspace.show_scene(1)
    for author, label in (("anna", 3), ("zoe", 1)):
        session.journal.author = author
        session.mask[5:20, 5:20] = label
        session.commit()
    walk.choose_author("anna")
    found = walk.plan()()
    workspace.show_scene(0)
    walk.install(found)
    walk.draw()
    assert walk.layer is None
    assert walk.regions() == []
    assert walk.stale, "planned anew"
    # Farther out than the other scene reaches.
    session.mask[50:60, 50:60] = 2
    session.commit()
    walk.install(walk.plan()())
    walk.draw()
    assert walk.layer.data.shape == session.mask.shape
    desk.close()


def test_what_was_found_for_another_source_is_passed_over(desk, folder):
    walk = desk.disagreement
    walk.choose_folder(folder[0])
    found = walk.plan()()
    walk.choose_author(EVERYBODY)
    walk.install(found)
    assert walk.regions() == []
    assert walk.stale


def test_labels_kept_while_the_two_are_compared_anew_stay_kept(workspace, desk, folder):
    walk = desk.disagreement
    walk.choose_folder(folder[0])
    walk.next()
    workspace.session.set_review(workspace.session.tile_ids[-1], "in progress")
    late = walk.plan()()
    walk.fixed()
    assert walk.current.window == REGIONS[1]
    walk.install(late)
    assert walk.current.window == REGIONS[1]
    assert {region.window for region in walk.regions()} == {REGIONS[1]}


def test_strokes_made_while_the_two_are_compared_count(workspace, desk, folder):
    walk, mask = desk.disagreement, workspace.session.mask
    walk.choose_folder(folder[0])
    found = walk.plan()()
    where = REGIONS[0].slices
    mask[where] = (mask[where] + 2) % 4
    mask.commit("paint")
    walk.install(found)
    walk.draw()
    assert {region.window for region in walk.regions()} == {REGIONS[1]}
    assert (np.asarray(walk.layer.data[where]) == UNSAID).all()
    assert not walk.stale


def test_what_is_taken_back_while_the_two_are_compared_is_looked_at_again(workspace, desk, folder):
    walk, session = desk.disagreement, workspace.session
    where = REGIONS[0].slices
    session.mask[where] = folder[1][where]
    stroke = session.mask.commit("paint")
    walk.choose_folder(folder[0])
    found = walk.plan()()
    session.mask.undo_stroke(session.journal.stroke(stroke))
    walk.install(found)
    assert walk.stale
    walk.next()
    assert {region.window for region in walk.regions()} == set(REGIONS)


def test_another_data_set_is_compared_with_nobody(workspace, desk, folder, make_dataset, tmp_path):
    walk = desk.disagreement
    walk.choose_folder(folder[0])
    walk.next()
    workspace.open(make_dataset(tmp_path / "other"))
    assert walk.source is None
    assert desk.walk is desk.attention
