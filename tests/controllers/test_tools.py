from concurrent.futures import Future

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage.measure import label

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.layers import KEY, class_features, world_placement
from napari_glacier.controllers.predicted import shown_prediction
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.correction.seen import SeenArea
from napari_glacier.core.errors import DataError
from napari_glacier.core.raster import read_raster
from napari_glacier.core.tiling import Window


@pytest.fixture
def desk(workspace):
    controller = CorrectionController(workspace)
    yield controller
    controller.close()


@pytest.fixture
def tools(workspace, desk, make_dataset):
    open_region(workspace, make_dataset())
    return desk.tools


def open_region(workspace, root):
    """Open a data set with all of it on screen."""
    workspace.open(root)
    layer = workspace.labels_layer
    layer.corner_pixels = np.array([[0, 0], layer.data.shape])
    return layer


def lay_prediction(workspace, index, entropy=None, known=None, probabilities=None):
    """Layers as the Predict widget puts them."""
    session = workspace.session
    tag = {"session": session}
    place = world_placement(None if session.stacked else session.georef(), index.ndim)
    doubt = np.zeros(index.shape, np.float32) if entropy is None else entropy.astype(np.float32)
    workspace.viewer.add_image(doubt, name="Uncertainty", metadata={KEY: {**tag, "role": "uncertainty"}}, **place)
    known = np.ones(index.shape, bool) if known is None else known
    layer = workspace.viewer.add_labels(
        index.astype(np.uint8),
        name="Prediction",
        features=class_features(session.scheme),
        metadata={KEY: {**tag, "role": "prediction", "model": "tiny", "known": known, "probabilities": probabilities}},
        **place,
    )
    workspace.viewer.layers.selection.active = workspace.labels_layer
    return layer


def _labels(workspace):
    return np.asarray(workspace.session.mask)


def _patch_at(index, row, col):
    patch = label(index == index[row, col], connectivity=2)
    return patch == patch[row, col]


def _last(workspace):
    return workspace.session.journal.history(1)[0]


def _pixel_of(workspace, wanted, smallest_px=30):
    """A pixel of a class, in a patch that is not tiny."""
    index = _labels(workspace)
    patches = label(index == wanted, connectivity=2)
    sizes = np.bincount(patches.ravel())
    number = int(np.flatnonzero((sizes >= smallest_px) & (np.arange(sizes.size) > 0))[0])
    return tuple(int(k) for k in np.argwhere(patches == number)[0])


def test_no_tool_without_a_dataset(workspace, desk):
    with pytest.raises(DataError, match="Open a dataset first"):
        desk.tools.select(toolbox.SMART_FILL)
    assert desk.tools.tool == ""


def test_smart_fill_previews_and_changes_nothing_before_it_is_taken(workspace, desk, tools):
    before = _labels(workspace)
    row, col = _pixel_of(workspace, 1)
    desk.select_class(3)
    tools.select(toolbox.SMART_FILL)
    tools.click(row, col)

    grown = tools.proposal.area
    assert grown.holds(row, col)
    assert np.array_equal(_labels(workspace), before)
    preview = workspace.viewer.layers["Proposed change"]
    assert set(np.unique(preview.data)) <= {3, 253, 254, 255}
    assert ((preview.data != 255) == grown.where_HW).all()
    assert workspace.viewer.layers.selection.active is workspace.labels_layer

    small = grown.num_px
    tools.turn_wheel(+1)
    assert tools.options.strength == 48
    assert tools.proposal.area.num_px >= small
    tools.set_strength(1)
    assert tools.proposal.area.num_px <= small

    tools.set_strength(45)
    assert tools.take() == (before != 3)[grown.where_HW].sum()
    assert np.array_equal(_labels(workspace), np.where(grown.where_HW, 3, before))
    assert (workspace.viewer.layers["Proposed change"].data == 255).all()
    assert _last(workspace).tool == "smart fill"


def test_a_second_click_inside_takes_and_one_outside_starts_again(workspace, desk, tools):
    row, col = _pixel_of(workspace, 1)
    other = _pixel_of(workspace, 2)
    desk.select_class(3)
    tools.set_strength(12)
    tools.select(toolbox.SMART_FILL)
    tools.click(row, col)
    tools.click(*other)
    assert tools.proposal.area.holds(*other)
    assert not workspace.session.unsaved()
    tools.click(*other)
    assert _labels(workspace)[other] == 3
    assert tools.proposal is None


def test_a_proposal_follows_the_class_and_escape_drops_it(workspace, desk, tools):
    row, col = _pixel_of(workspace, 1)
    tools.select(toolbox.SMART_FILL)
    desk.select_class(2)
    tools.click(row, col)
    desk.select_class(3)
    assert desk.tool == "pan_zoom", "choosing a class keeps the tool"
    assert (tools.proposal.index_HW == 3).all()
    assert tools.drop()
    assert not tools.drop()
    assert tools.take() == 0
    assert not workspace.session.unsaved()


def test_smart_fill_heeds_the_prediction(workspace, desk, tools):
    index = _labels(workspace)
    half = np.zeros(index.shape, np.uint8)
    half[:, 64:] = 1
    lay_prediction(workspace, half)
    tools.select(toolbox.SMART_FILL)
    tools.set_strength(60)
    tools.click(70, 20)
    assert tools.proposal.area.num_px > 50
    assert not tools.proposal.area.where_HW[:, 66:].any(), "the other side is another class without any doubt"
    workspace.prediction_layer.data[:] = 0
    workspace.prediction_layer.refresh()
    tools.drop()
    tools.set_strength(100)
    tools.click(70, 20)
    assert tools.proposal.area.where_HW[:, 66:].any()


def test_smart_fill_says_why_it_cannot(workspace, tools):
    tools.select(toolbox.SMART_FILL)
    with pytest.raises(DataError, match="no data"):
        tools.click(4, 4)
    with pytest.raises(DataError, match="outside the scene"):
        tools.click(-7, 4)
    workspace.labels_layer.corner_pixels = np.array([[64, 64], [128, 128]])
    with pytest.raises(DataError, match="not on screen"):
        tools.click(40, 40)


def test_scribbles_of_two_classes_solve_what_lies_between(workspace, desk, tools):
    before = _labels(workspace)
    told = []
    tools.told.connect(told.append)
    tools.select(toolbox.SCRIBBLE)
    desk.select_class(0)
    tools.begin_line(70, 20)
    tools.draw_line([(70, 20), (72, 60), (74, 100)])
    assert tools.proposal is None
    assert "another class" in told[-1]
    desk.select_class(3)
    tools.draw_line([(110, 20), (112, 100)])
    proposal = tools.proposal
    index, where = proposal.index_HW.copy(), proposal.area.where_HW.copy()
    assert (index[71:73, 30:60] == 0).any()
    assert (index[111, 25:95] == 3).all()
    assert not where[:60].any()
    assert not where[122:].any()
    tools.take()
    assert np.array_equal(_labels(workspace)[where], index[where])
    assert np.array_equal(_labels(workspace)[~where], before[~where])
    assert _last(workspace).tool == "scribble"


def test_flip_remove_and_erase_take_the_whole_patch(workspace, desk, tools):
    for tool, expected in ((toolbox.COMPONENT, 3), (toolbox.ERASE, 0)):
        before = _labels(workspace)
        row, col = _pixel_of(workspace, 1)
        patch = _patch_at(before, row, col)
        desk.select_class(3)
        tools.select(tool)
        tools.click(row, col)
        assert np.array_equal(_labels(workspace), np.where(patch & workspace.session.valid, expected, before))
        assert _last(workspace).tool == tool

    workspace.session.mask[80:90, 80:90] = 2
    workspace.session.mask[83:86, 83:86] = 1
    tools.select(toolbox.REMOVE)
    tools.click(84, 84)
    assert (_labels(workspace)[80:90, 80:90] == 2).all()


def test_holes_are_filled_and_their_absence_is_said(workspace, tools):
    workspace.session.mask[70:90, 70:90] = 0
    workspace.session.mask[72:88, 72:88] = 2
    workspace.session.mask[76:79, 76:80] = 3
    tools.select(toolbox.HOLES)
    tools.click(74, 74)
    assert (_labels(workspace)[72:88, 72:88] == 2).all()
    with pytest.raises(DataError, match="no holes"):
        tools.click(74, 74)


@pytest.mark.parametrize("operation", ["grow", "shrink", "open", "close"])
def test_shape_changes_one_patch_and_gives_to_its_neighbours(workspace, tools, operation):
    from skimage.morphology import closing, dilation, disk, erosion, opening

    mask = workspace.session.mask
    mask[64:128, 64:128] = 0
    mask[70:90, 70:110] = 2
    mask[78:80, 84:86] = 0
    mask[90:93, 80] = 2
    mask[64:128, 120:] = 3
    before = _labels(workspace)
    patch = _patch_at(before, 75, 75)
    tools.select(toolbox.SHAPE)
    tools.options.operation, tools.options.radius_px = operation, 3
    tools.click(75, 75)

    by = {"grow": dilation, "shrink": erosion, "open": opening, "close": closing}[operation]
    after = by(patch, disk(3))
    expected = np.where(after, 2, np.where(patch, 0, before))
    assert np.array_equal(_labels(workspace), expected)


def test_an_outline_is_drawn_anew_between_the_classes_that_meet_there(workspace, desk, tools):
    mask = workspace.session.mask
    mask[64:128, 64:128] = 0
    mask[64:128, 100:128] = 2
    mask[90:128, 64:100] = 1
    mask[84:90, 70:80] = 1  # too much
    mask[90:97, 84:94] = 3  # too little, beside the third class
    mask[84:90, 96:100] = 1  # too much, and nearer to class 2
    before, valid = _labels(workspace), workspace.session.valid
    expected = before.copy()
    expected[84:90, 70:80] = 0
    expected[90:97, 84:94] = 1
    expected[84:90, 96:100] = np.array([0, 0, 2, 2])[None, :]
    desk.select_class(1)
    tools.select(toolbox.OUTLINE)
    tools.draw_line([(90.2, 66.0), (89.8, 80.0), (90.0, 99.0)])
    after = _labels(workspace)
    # The first and last row of the small island have other pixels nearest at its corner.
    rows = np.r_[0:84, 86:128]
    assert np.array_equal(after[rows], np.where(valid, expected, before)[rows])
    assert set(np.unique(after[84:86, 96:100])) <= {0, 2}
    assert _last(workspace).tool == "outline"
    desk.undo()
    assert np.array_equal(_labels(workspace), before)


def test_an_outline_stops_at_locks_and_says_when_it_encloses_nothing(workspace, desk, tools):
    mask = workspace.session.mask
    mask[64:128, 64:128] = 0
    mask[90:128, 64:128] = 1
    mask[80:90, 70:80] = 1
    before = _labels(workspace)
    tools.select(toolbox.OUTLINE)
    desk.select_class(1)
    for line in ([(90.0, 70.0)], [(70.0, 70.0), (70.0, 90.0)], [(110.0, 80.0), (110.0, 90.0)]):
        with pytest.raises(DataError, match=r"encloses nothing.*outline of glacier"):
            tools.draw_line(line)
    desk.select_class(2)
    with pytest.raises(DataError, match="choose the class whose outline is wrong"):
        tools.draw_line([(90.0, 66.0), (90.0, 90.0)])
    with pytest.raises(DataError, match="encloses nothing"):
        tools.click(90, 70)
    assert np.array_equal(_labels(workspace), before)
    desk.select_class(1)
    desk.lock(1, True)
    told = []
    tools.told.connect(told.append)
    tools.draw_line([(90.0, 66.0), (90.0, 90.0)])
    assert "locked" in told[-1]
    assert np.array_equal(_labels(workspace), before)


@pytest.mark.parametrize("wide", [0, 5])
def test_a_line_longer_than_the_sheet_shows_where_the_hand_is(workspace, desk, tools, monkeypatch, wide):
    monkeypatch.setattr("napari_glacier.controllers.preview._SHEET_PX", 48)
    tools.select(toolbox.SCRIBBLE if wide else toolbox.OUTLINE)
    desk.select_class(2)
    line = [(20.0 + k // 2, 4.0 + k) for k in range(0, 118, 3)] + [(78.0 - k, 121.0 - k) for k in range(0, 70, 3)]
    layer, shown = workspace.viewer.layers["Proposed change"], np.zeros((128, 128), bool)
    for step in range(2, len(line) + 1):
        tools.trace(line[:step])
        assert layer.data.shape == (48, 48), "a larger sheet holds up the window"
        row, col = (round(float(k)) for k in workspace.labels_layer.world_to_data(layer.data_to_world((0, 0))))
        at = round(line[step - 1][0]) - row, round(line[step - 1][1]) - col
        assert layer.data[at] == (2 if wide else 253)
        drawn = np.add(np.argwhere(layer.data == (2 if wide else 253)), (row, col))
        shown[tuple(drawn.T)] = True
        distance = [np.hypot(*(np.array(line[:step]) - place).T).min() for place in drawn]
        assert max(distance) < 2 + wide, "nothing but the line"
    assert shown.sum() > 150
    tools.drop()
    tools.end_trace()
    tools.select("")
    assert (layer.data == 255).all()


def test_an_outline_leaves_nodata_as_it_is(workspace, desk, tools):
    valid = workspace.session.valid
    assert not valid[:6, :6].any()
    mask = workspace.session.mask
    mask[:60, :60] = 0
    mask[30:50, 2:30] = 3
    desk.select_class(3)
    tools.select(toolbox.OUTLINE)
    tools.draw_line([(31.0, 2.0), (2.0, 3.0), (2.0, 25.0), (31.0, 29.0)])
    assert (_labels(workspace)[3:30, 4:25] == np.where(valid, 3, 0)[3:30, 4:25]).all()
    assert not _labels(workspace)[~valid].any()


def test_snap_finds_the_edge_of_the_spectrum(workspace, desk, tools):
    from napari_glacier.core.tools.shape import reshape

    truth = _labels(workspace)
    row, col = _pixel_of(workspace, 3, smallest_px=150)
    patch = _patch_at(truth, row, col)
    fat = reshape(patch, "grow", 2) & workspace.session.valid
    workspace.session.mask.assign(np.full(truth.shape, 3, np.uint8), fat, "paint")
    wrong = (_labels(workspace) != truth).sum()
    tools.select(toolbox.SNAP)
    tools.click(row, col)
    assert (_labels(workspace) != truth).sum() < 0.6 * wrong
    assert _last(workspace).tool == "snap"


def test_snapping_the_last_stroke_gives_back_what_it_painted_over(workspace, desk, tools):
    from napari_glacier.core.tools.shape import reshape

    truth = _labels(workspace)
    with pytest.raises(DataError, match="Nothing was drawn"):
        tools.snap_last_stroke()
    row, col = _pixel_of(workspace, 3, smallest_px=150)
    patch = _patch_at(truth, row, col)
    # The patch is missing; somebody draws it, too wide.
    blank = np.where(patch, 2, truth).astype(np.uint8)
    mask = workspace.session.mask
    mask.assign(blank, np.ones(truth.shape, bool), "accept")
    mask.assign(np.full(truth.shape, 3, np.uint8), reshape(patch, "grow", 2), "polygon")
    wrong = (_labels(workspace) != truth).sum()
    tools.snap_last_stroke()
    assert (_labels(workspace) != truth).sum() < 0.6 * wrong


def test_accepting_by_patch_by_loop_by_class_and_by_confidence(workspace, desk, tools):
    truth = _labels(workspace)
    valid = workspace.session.valid
    prediction = np.roll(truth, 7, axis=1)
    entropy = np.tile(np.linspace(0, 1, 128, dtype=np.float32), (128, 1))
    lay_prediction(workspace, prediction, entropy)
    tools.select(toolbox.ACCEPT)

    tools.click(100, 100)
    patch = _patch_at(prediction, 100, 100)
    expected = np.where(patch & valid, prediction, truth)
    assert np.array_equal(_labels(workspace), expected)
    assert _last(workspace).model == "tiny"

    tools.loop([(60.0, 10.0), (60.0, 50.0), (120.0, 30.0)])
    from skimage.draw import polygon2mask

    inside = polygon2mask(truth.shape, [(60.0, 10.0), (60.0, 50.0), (120.0, 30.0)])
    expected = np.where(inside & valid, prediction, expected)
    assert np.array_equal(_labels(workspace), expected)

    tools.options.accept_class = 2
    tools.options.confidence = 0.6
    tools.accept_everywhere(in_view=False)
    expected = np.where((prediction == 2) & (1 - entropy >= 0.6) & valid, 2, expected)
    assert np.array_equal(_labels(workspace), expected)
    assert _last(workspace).tool == "accept"

    workspace.labels_layer.corner_pixels = np.array([[64, 0], [128, 64]])
    tools.options.accept_class, tools.options.confidence = None, 0.0
    tools.accept_everywhere(in_view=True)
    expected[64:, :64] = prediction[64:, :64]
    assert np.array_equal(_labels(workspace), expected)


def test_probabilities_that_were_kept_are_what_confidence_means(workspace, tools):
    truth = _labels(workspace)
    prediction = np.full(truth.shape, 1, np.uint8)
    p = np.zeros((4, *truth.shape), np.float32)
    p[1], p[0] = 0.7, 0.3
    p[1, :, 100:], p[0, :, 100:] = 0.95, 0.05
    lay_prediction(workspace, prediction, probabilities=p)
    tools.options.confidence = 0.9
    tools.accept_everywhere(in_view=False)
    assert np.array_equal(_labels(workspace), np.where(np.arange(128) >= 100, 1, truth))


def test_balancing_moves_the_threshold_of_a_class_and_spares_what_a_person_did(workspace, desk, tools):
    session, mask = workspace.session, workspace.session.mask
    before = _labels(workspace)
    p = np.random.default_rng(0).dirichlet([1, 1, 1, 1], before.shape).transpose(2, 0, 1).astype(np.float32)
    lay_prediction(workspace, p.argmax(axis=0).astype(np.uint8), probabilities=p)
    with pytest.raises(DataError, match="Choose both"):
        tools.balance_view()
    tools.options.accept_class, tools.options.confidence = 1, 0.2
    mask[64:70, 64:90] = (before[64:70, 64:90] + 1) % 4
    place = session.current_scenes[0].placements[0]
    looked = np.zeros((place.tile.height, place.tile.width), bool)
    looked[5:9, 5:20] = True
    session.journal.seen.add([SeenArea(place.tile.id, 0, 0, looked)], "ada")

    stays = np.zeros(before.shape, bool)
    stays[64:70, 64:90] = True
    stays[place.slices] |= looked
    drawn = _labels(workspace)
    tools.balance_view()

    window = workspace.visible_window()
    seen = np.zeros(before.shape, bool)
    seen[window.slices] = True
    others = np.where(np.arange(4)[:, None, None] == 1, -1, p).argmax(axis=0)
    expected = np.where(p[1] >= 0.2, 1, others)
    assert np.array_equal(_labels(workspace), np.where(seen & session.valid & ~stays, expected, drawn))
    assert _last(workspace).tool == "accept"
    # What was balanced was not drawn: it may be balanced again.
    tools.options.confidence = 0.7
    tools.balance_view()
    again = np.where(p[1] >= 0.7, 1, others)
    assert np.array_equal(_labels(workspace), np.where(seen & session.valid & ~stays, again, drawn))
    desk.undo()
    assert np.array_equal(_labels(workspace), np.where(seen & session.valid & ~stays, expected, drawn))


def test_what_was_not_predicted_is_never_accepted(workspace, tools):
    truth = _labels(workspace)
    known = np.zeros(truth.shape, bool)
    known[64:, 64:] = True
    lay_prediction(workspace, np.zeros(truth.shape), known=known)
    tools.select(toolbox.ACCEPT)
    with pytest.raises(DataError, match="Nothing was predicted"):
        tools.click(30, 30)
    tools.click(100, 100)
    assert np.array_equal(_labels(workspace), np.where(known, 0, truth))


def test_a_model_of_other_classes_is_not_accepted(workspace, tools):
    layer = lay_prediction(workspace, _labels(workspace))
    layer.features = {"index": [0, 1], "class": ["background", "salt"]}
    tools.select(toolbox.ACCEPT)
    with pytest.raises(DataError, match="background, salt"):
        tools.click(100, 100)
    workspace.viewer.layers.remove(layer)
    with pytest.raises(DataError, match="Run a model first"):
        tools.click(100, 100)


def test_loops_flip_and_erase(workspace, desk, tools):
    from skimage.draw import polygon2mask

    loop = [(70.0, 70.0), (70.0, 90.0), (95.0, 80.0)]
    inside = polygon2mask((128, 128), loop)
    desk.select_class(3)
    tools.select(toolbox.COMPONENT)
    tools.loop(loop)
    assert (_labels(workspace)[inside] == 3).all()
    tools.select(toolbox.SHAPE)
    tools.options.operation, tools.options.radius_px = "shrink", 2
    before = _labels(workspace)
    tools.loop(loop)
    assert (_labels(workspace) != before).any()
    assert not (_labels(workspace) != before)[~inside].any()
    tools.select(toolbox.ERASE)
    tools.loop(loop)
    assert not _labels(workspace)[inside].any()
    tools.select(toolbox.SMART_FILL)
    with pytest.raises(DataError, match="not loops"):
        tools.loop(loop)
    tools.select(toolbox.ERASE)
    with pytest.raises(DataError, match="no pixel"):
        tools.loop([(300.0, 300.0), (310.0, 300.0), (305.0, 310.0)])


def test_a_tools_stroke_is_undone_redone_and_survives_a_restart(workspace, desk, make_dataset):
    root = make_dataset()
    open_region(workspace, root)
    before = _labels(workspace)
    row, col = _pixel_of(workspace, 1)
    desk.select_class(3)
    desk.tools.select(toolbox.COMPONENT)
    desk.tools.click(row, col)
    flipped = _labels(workspace)
    assert (flipped != before).any()
    desk.undo()
    assert np.array_equal(_labels(workspace), before)
    desk.redo()
    assert np.array_equal(_labels(workspace), flipped)
    workspace.close_session()
    assert desk.tools.tool == ""

    open_region(workspace, root)
    assert np.array_equal(_labels(workspace), flipped)
    desk.undo()
    assert np.array_equal(_labels(workspace), before)
    desk.redo()
    desk.save()
    place = workspace.session.scenes[0].placements[3]
    on_disk = read_raster(place.tile.mask_path)[0]
    assert np.array_equal(on_disk, workspace.session.scheme.encode(flipped[place.slices]))


def test_a_stack_is_corrected_on_the_plane_on_screen(workspace, desk, make_dataset):
    workspace.open(make_dataset(georeferenced=False))
    layer = workspace.labels_layer
    assert layer.data.shape == (4, 64, 64)
    workspace.viewer.dims.set_point(0, 2)
    layer.corner_pixels = np.array([[0, 0, 0], layer.data.shape])
    before = _labels(workspace)
    desk.select_class(3)
    tools = desk.tools
    index = _labels(workspace)[2]
    row, col = (int(k) for k in np.argwhere(index == 1)[0])
    tools.select(toolbox.SMART_FILL)
    tools.click(row, col)
    workspace.viewer.dims.set_point(0, 1)
    assert tools.proposal is None, "it belonged to the scene before"
    workspace.viewer.dims.set_point(0, 2)
    tools.click(row, col)
    tools.take()
    after = _labels(workspace)
    assert (after[2] != before[2]).any()
    assert np.array_equal(np.delete(after, 2, 0), np.delete(before, 2, 0))


def test_what_is_worked_on_goes_with_its_scene(workspace, desk, make_dataset, monkeypatch):
    workspace.open(make_dataset(georeferenced=False))
    workspace.viewer.dims.set_point(0, 1)
    tools, reading = desk.tools, Future()
    tools.waits = False
    monkeypatch.setattr(tools.source, "prepare", lambda window: reading)
    tools.select(toolbox.SMART_FILL)
    tools.click(30, 30)
    assert tools.busy
    workspace.viewer.dims.set_point(0, 2)
    assert not tools.busy, "the answer would be proposed in another scene"


def test_another_window_looks_but_does_not_correct(workspace, desk, tools, monkeypatch):
    monkeypatch.setattr(workspace.session.journal, "read_only", True)
    with pytest.raises(DataError, match="open elsewhere"):
        tools.select(toolbox.COMPONENT)
    seen = []
    tools.probed.connect(seen.append)
    tools.select(toolbox.PIXEL)
    tools.click(100, 100)
    assert len(seen) == 1


def test_the_pixel_tool_explains(workspace, tools):
    truth = _labels(workspace)
    lay_prediction(workspace, np.full(truth.shape, 2), np.full(truth.shape, 0.25))
    reports = []
    tools.probed.connect(reports.append)
    tools.select(toolbox.PIXEL)
    tools.click(100, 90)

    report = reports[0]
    place = workspace.session.scenes[0].placements[3]
    bands = [read_raster(path)[0][36, 26] for _, path in sorted(_band_files(place.tile).items())]
    assert sorted(report.spectrum) == sorted(float(value) for value in bands)
    assert report.label == truth[100, 90]
    assert set(report.class_spectra) == set(np.unique(truth).tolist())
    assert report.predicted == 2
    assert report.confidence == pytest.approx(0.75)
    assert sum(report.probabilities) == pytest.approx(1)
    assert report.place.startswith("E 502\u202f715 m  N 3\u202f796\u202f985 m")
    with pytest.raises(DataError, match="no data"):
        tools.click(3, 3)


def test_a_band_that_some_tiles_lack_is_no_measurement(workspace, desk, make_dataset):
    """Neither dark ground inside such a tile, nor an edge around it."""
    proposed, said = [], []
    for name, lacking in (("everywhere", "*"), ("in one tile", "*01_01")):
        root = make_dataset(name)
        for path in (root / "Band4").glob(f"{lacking}.tif"):
            path.unlink()
        open_region(workspace, root)
        # The last column of the tile beside the one that has no B6.
        desk.tools.select(toolbox.SMART_FILL)
        desk.tools.click(100, 63)
        proposed.append(desk.tools.proposal.area.where_HW)
        said.append(desk.tools.help.split("⚠ ")[1])
    np.testing.assert_array_equal(*proposed)
    assert proposed[0][:, 64:].any()
    told = "the tool looks at B2, B3, B4 and B10 alone. Add it, if there are files."
    assert said == [f"B6 is missing here: {told}", f"B6 is missing in 01_01: {told}"]

    reports = []
    desk.tools.probed.connect(reports.append)
    desk.tools.select(toolbox.PIXEL)
    for place in ((100, 90), (100, 30)):
        desk.tools.click(*place)
    without, beside = reports
    assert (without.bands, without.lacking) == (("B2", "B3", "B4", "B10"), ("B6",))
    assert without.spectrum[3] == read_raster(next((root / "Band5").glob("*01_01.tif")))[0][36, 26]
    assert beside.lacking == ()
    swir, codes = (
        np.stack([read_raster(next((root / folder).glob(f"*{tile}.tif")))[0] for tile in ("00_00", "00_01", "01_00")])
        for folder in ("Band4", "label")
    )
    assert beside.class_spectra[3][beside.bands.index("B6")] == pytest.approx(swir[codes == 255].mean())


def _band_files(tile):
    root = tile.mask_path.parents[1]
    return {k: next((root / f"Band{k}").glob(f"*{tile.id}.tif")) for k in range(1, 6)}


_KEEP = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@_KEEP
@given(data=st.data())
def test_locked_classes_and_nodata_survive_every_tool(workspace, desk, make_dataset, data, tmp_path_factory):
    if workspace.session is None:
        open_region(workspace, make_dataset())
        truth = _labels(workspace)
        lay_prediction(workspace, np.roll(truth, 9, axis=0), np.full(truth.shape, 0.3))
    tools, session = desk.tools, workspace.session
    locked = data.draw(st.sets(st.integers(0, 3), min_size=1, max_size=3), label="locked")
    for index in range(4):
        desk.lock(index, index in locked)
    before = _labels(workspace)
    # Nodata of this mask is background; a class on it would be a fault already.
    assert not before[~session.valid].any()
    pixel = st.tuples(st.integers(0, 127), st.integers(0, 127))
    for _ in range(data.draw(st.integers(1, 4), label="actions")):
        tool = data.draw(st.sampled_from([tool.name for tool in toolbox.TOOLS]), label="tool")
        desk.select_class(data.draw(st.integers(0, 3), label="class"))
        tools.options.operation = data.draw(st.sampled_from(["grow", "shrink", "open", "close"]))
        tools.options.radius_px = data.draw(st.integers(1, 6))
        tools.select(tool)
        try:
            act = data.draw(st.sampled_from(["click", "loop", "lines", "everywhere", "last stroke"]), label="act")
            if act == "click":
                tools.click(*data.draw(pixel))
            elif act == "loop":
                tools.loop([tuple(map(float, data.draw(pixel))) for _ in range(4)])
            elif act == "lines":
                # All drawn first: whether a line is refused hangs on what other examples left.
                drawn_with = data.draw(st.sampled_from([toolbox.SCRIBBLE, toolbox.OUTLINE]))
                lines = [[data.draw(pixel), data.draw(pixel)] for _ in range(3)]
                tools.select(drawn_with)
                for label_index, line in zip((0, 3, 1), lines, strict=True):
                    desk.select_class(label_index)
                    tools.draw_line(line)
            elif act == "everywhere":
                tools.accept_everywhere(in_view=data.draw(st.booleans()))
            else:
                tools.snap_last_stroke()
        except DataError:
            pass
        tools.take()
    after = _labels(workspace)
    kept = np.isin(before, sorted(locked)) | ~session.valid
    assert np.array_equal(after[kept], before[kept])


def test_a_prediction_of_more_classes_is_accepted_in_those_of_the_labels(workspace, desk, make_dataset):
    root = make_dataset()
    (root / "dataset.yaml").write_text("scheme: glacier2\n")
    for path in (root / "label").glob("*.tif"):
        with rasterio.open(path, "r+") as file:
            file.write(np.where(file.read() > 0, 255, 0).astype(np.uint8))
    open_region(workspace, root)
    rng = np.random.default_rng(5)
    four = rng.integers(0, 4, workspace.session.mask.shape).astype(np.uint8)
    share = rng.random((4, *four.shape)).astype(np.float32)
    layer = lay_prediction(workspace, four, probabilities=share / share.sum(0))
    layer.features = class_features(get_scheme("glacier4"))
    before, valid = _labels(workspace), workspace.session.valid[:]
    desk.tools.accept_everywhere(in_view=False)
    assert np.array_equal(_labels(workspace), np.where(valid, np.isin(four, (1, 2)), before))
    predicted = shown_prediction(workspace)
    both = predicted.probability(Window(0, 0, 50, 60), 2)
    np.testing.assert_allclose(both[1], (share / share.sum(0))[1:3, :50, :60].sum(0), rtol=1e-5)
    np.testing.assert_allclose(both.sum(0), 1, rtol=1e-5)


def _see_all(workspace):
    layer = workspace.labels_layer
    layer.corner_pixels = np.array([[0] * layer.ndim, layer.data.shape])


def test_a_proposal_goes_with_its_scene(workspace, desk, two_scenes):
    _see_all(workspace)
    desk.select_class(3)
    for tool in (toolbox.SMART_FILL, toolbox.SCRIBBLE):
        workspace.show_scene(0)
        _see_all(workspace)
        desk.tools.select(tool)
        if tool == toolbox.SMART_FILL:
            desk.tools.set_strength(60)
            desk.tools.click(20, 20)
            assert desk.tools.proposal is not None
        else:
            desk.tools.draw_line([(5, 5), (60, 60)])
        workspace.show_scene(1)
        _see_all(workspace)
        before = _labels(workspace)
        assert desk.tools.proposal is None
        assert desk.tools.take() == 0
        if tool == toolbox.SCRIBBLE:
            desk.tools.draw_line([(5, 5), (40, 30)])
        assert np.array_equal(_labels(workspace), before)


@pytest.mark.parametrize("georeferenced", [True, False])
def test_tools_look_at_the_open_dataset_though_another_has_scenes_of_the_same_names(
    workspace, desk, make_dataset, georeferenced
):
    looked = []
    for folder, seed in (("a/dataset", 3), ("b/dataset", 4)):
        workspace.open(make_dataset(folder, seed=seed, georeferenced=georeferenced))
        _see_all(workspace)
        window = desk.tools.source.window_around(40, 40)
        looked.append(desk.tools.source.evidence(window).features)
    assert not np.array_equal(looked[0][0], looked[1][0])


def test_a_class_to_accept_is_forgotten_with_its_scheme(workspace, desk, make_dataset):
    open_region(workspace, make_dataset("four"))
    desk.tools.options.accept_class, desk.tools.options.confidence = 3, 0.5
    open_region(workspace, make_dataset("four again"))
    assert desk.tools.options.accept_class == 3
    open_region(workspace, make_dataset("two", scheme="glacier2"))
    assert desk.tools.options.accept_class is None


def test_snapping_takes_all_that_was_drawn_in_one_go(workspace, desk, tools):
    mask, session = workspace.session.mask, workspace.session
    mask[...] = 0
    mask.commit("paint")
    mask[70:80, 20:40] = 3
    first = mask.commit("paint")
    mask[70:80, 40:60] = 3
    last = mask.commit("paint")
    session.drawn_at_once[last] = (first, last)
    before = _labels(workspace)
    tools.snap_last_stroke()
    changed = np.nonzero(_labels(workspace) != before)[1]
    assert changed.min() < 40 <= changed.max()
