"""What napari keeps of the labels on screen follows every change, and is never read anew as a whole for it.

Copies of the layer, and data put in place of its mask, leave the journal as it was.
"""

import numpy as np
import pytest

from napari_glacier.controllers import painting, toolbox
from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.layers import KEY, tag_of
from napari_glacier.controllers.prediction_layers import draw_prediction, prediction_layers
from napari_glacier.controllers.prediction_map import PredictionMap
from napari_glacier.core.tiling import Window


@pytest.fixture
def desk(workspace):
    controller = CorrectionController(workspace)
    yield controller
    controller.close()


def _open(workspace, root):
    workspace.open(root)
    layer = workspace.labels_layer
    layer.corner_pixels = np.array([np.zeros(layer.ndim, int), layer.data.shape])
    whole = []
    layer.events.set_data.connect(whole.append)
    return layer, whole


def _on_screen(layer):
    return np.asarray(layer._slice.image.raw)


def _said(messages):
    """The one message since it was last asked for."""
    (message,) = messages
    messages.clear()
    return message


@pytest.fixture
def messages(monkeypatch):
    from napari.utils import notifications

    said = []
    for name in ("show_info", "show_warning"):
        monkeypatch.setattr(notifications, name, said.append)
    return said


def _change(workspace, row, col, size, label):
    area = np.ones((size, size), bool)
    return workspace.assign_window(Window(row, col, size, size), np.full(area.shape, label, np.uint8), area, "accept")


def test_large_changes_undo_and_revert_are_drawn_in_parts(workspace, desk, make_dataset):
    layer, whole = _open(workspace, make_dataset(size_px=256))
    parts = []
    layer.events.labels_update.connect(lambda event: parts.append(np.size(event.data)))
    mask = workspace.session.mask
    assert _change(workspace, 10, 20, 460, 2) > 100_000
    np.testing.assert_array_equal(_on_screen(layer), np.asarray(mask))
    np.testing.assert_array_equal(layer._slice.image.view, layer._raw_to_displayed(np.asarray(mask)))
    desk.undo()
    np.testing.assert_array_equal(_on_screen(layer), np.asarray(mask))
    desk.redo()
    desk.redo()
    np.testing.assert_array_equal(_on_screen(layer), np.asarray(mask))
    before = np.asarray(mask)
    assert "got back" in desk.history.revert_stroke(workspace.session.journal.history(9)[-1].id)
    assert not np.array_equal(np.asarray(mask), before)
    np.testing.assert_array_equal(_on_screen(layer), np.asarray(mask))
    assert not whole
    assert max(parts) <= 256 * 256, "a tile at most"


def test_undone_and_drawn_again_any_number_of_times(workspace, desk, make_dataset):
    _open(workspace, make_dataset())
    states = [np.asarray(workspace.session.mask)]
    for k in range(3):
        _change(workspace, 10 + 20 * k, 30, 15, 3 - k)
        states.append(np.asarray(workspace.session.mask))
    for state in reversed(states[:-1]):
        desk.undo()
        np.testing.assert_array_equal(np.asarray(workspace.session.mask), state)
    for state in states[1:]:
        desk.redo()
        np.testing.assert_array_equal(np.asarray(workspace.session.mask), state)


def test_of_a_stack_the_plane_on_screen_is_drawn(workspace, desk, make_dataset):
    layer, whole = _open(workspace, make_dataset(georeferenced=False))
    workspace.viewer.dims.set_point(0, 2)
    whole.clear()
    _change(workspace, 30, 30, 20, 2)
    np.testing.assert_array_equal(_on_screen(layer), np.asarray(workspace.session.mask)[2])
    before = _on_screen(layer).copy()
    workspace.session.mask[1, 5:20, 5:20] = 3
    painting.draw(layer, Window(5, 5, 15, 15), plane=1)
    np.testing.assert_array_equal(_on_screen(layer), before)
    assert not whole


def test_a_layer_of_more_axes_leaves_the_stacks_slider_to_the_stack(workspace, desk, make_dataset):
    layer, _ = _open(workspace, make_dataset(georeferenced=False))
    workspace.viewer.add_image(np.zeros((5, 4, 64, 64)))
    workspace.viewer.dims.set_point(0, 3)
    workspace.viewer.dims.set_point(1, 2)
    assert workspace.plane == 2
    assert workspace.session.scenes[2].name in layer.get_status((3, 2, 5, 5), world=True)["coords"]
    before = np.asarray(workspace.session.mask)
    np.testing.assert_array_equal(_on_screen(layer), before[2])
    desk.select_class(3)
    desk.tools.select(toolbox.COMPONENT)
    desk.tools.click(*(int(k) for k in np.argwhere(before[2] == 1)[0]))
    after = np.asarray(workspace.session.mask)
    assert np.unique(np.nonzero(after != before)[0]).tolist() == [2]
    np.testing.assert_array_equal(_on_screen(layer), after[2])
    workspace.fly_to(10, 10, 5, 5, plane=1)
    assert workspace.viewer.dims.point[:2] == (3, 1)
    np.testing.assert_array_equal(_on_screen(layer), after[1])


def test_seen_from_another_side_all_is_read_anew(workspace, desk, make_dataset):
    layer, whole = _open(workspace, make_dataset(georeferenced=False))
    workspace.viewer.dims.order = (1, 0, 2)
    workspace.viewer.dims.set_point(1, 35)
    whole.clear()
    workspace.session.mask[1, 30:40, 5:20] = 3
    painting.draw(layer, Window(30, 5, 10, 15), plane=1)
    assert whole
    np.testing.assert_array_equal(_on_screen(layer), np.asarray(workspace.session.mask)[:, 35])


def test_an_invisible_layer_is_drawn_when_it_is_shown(workspace, desk, make_dataset):
    layer, _ = _open(workspace, make_dataset())
    layer.visible = False
    _change(workspace, 30, 30, 20, 2)
    layer.visible = True
    np.testing.assert_array_equal(_on_screen(layer), np.asarray(workspace.session.mask))


def test_a_proposal_far_away_moves_the_sheet_and_the_extent_stays(workspace, desk, make_dataset):
    layer, _ = _open(workspace, make_dataset(grid=(5, 5), size_px=256))
    tools = desk.tools
    tools.select(toolbox.SMART_FILL)
    extent = workspace.viewer.layers.extent.world.copy()
    sheet = workspace.viewer.layers["Proposed change"]
    assert sheet.data.shape == (1024, 1024)
    for row, col in ((40, 40), (1260, 1250)):
        layer.corner_pixels = np.array([[row - 30, col - 30], [row + 20, col + 30]])
        tools.click(row, col)
        area = tools.proposal.area
        corner = np.round(layer.world_to_data(sheet.data_to_world((0, 0)))).astype(int)
        shown = np.zeros(layer.data.shape, bool)
        shown[corner[0] : corner[0] + 1024, corner[1] : corner[1] + 1024] = _on_screen(sheet) != 255
        expected = np.zeros_like(shown)
        expected[area.window.slices] = area.where_HW
        np.testing.assert_array_equal(shown, expected)
        np.testing.assert_array_equal(workspace.viewer.layers.extent.world, extent)
    tools.drop()
    assert (_on_screen(sheet) == 255).all()


def test_a_wide_view_is_read_around_the_pointer_that_rests(workspace, desk, make_dataset):
    layer, _ = _open(workspace, make_dataset(grid=(5, 5), size_px=256))
    tools = desk.tools
    tools.select(toolbox.SMART_FILL)
    workspace.viewer.cursor.position = tuple(layer.data_to_world((1100, 300)))
    for _ in range(2):
        tools.prepare_view()
    (read,) = [key[-1] for key in tools.source._kept]
    assert read == tools.source.window_around(1120, 310), "a click beside it asks for the same"
    assert read.holds(1100, 300)
    assert (read.height, read.width) == (1024, 1024)


def test_contours_are_drawn_around_a_change_too(workspace, desk, make_dataset):
    layer, whole = _open(workspace, make_dataset())
    layer.contour = 2
    whole.clear()
    for row, col in ((40, 40), (0, 0), (113, 113)):
        _change(workspace, row, col, 15, 2 if row else 3)
        shown = layer._raw_to_displayed(np.asarray(workspace.session.mask))
        np.testing.assert_array_equal(layer._slice.image.view, shown)
    assert not whole


def test_a_duplicate_of_the_labels_is_an_ordinary_layer(workspace, desk, make_dataset):
    from napari.layers._layer_actions import _convert, _duplicate_layer
    from napari.utils.key_bindings import coerce_keybinding

    labels, _ = _open(workspace, make_dataset())
    before, layers = np.asarray(workspace.session.mask), workspace.viewer.layers
    _duplicate_layer(layers)
    copy = layers["Labels copy"]
    assert KEY not in copy.metadata
    assert KEY in labels.metadata
    assert workspace.labels_layer is labels
    copy.paint((70, 70), (int(before[70, 70]) + 1) % 4)
    workspace.session.commit()
    np.testing.assert_array_equal(np.asarray(workspace.session.mask), before)
    desk.select_class(2)
    assert layers.selection.active is labels
    workspace.layers_changed.emit()
    layers.remove(copy)
    assert coerce_keybinding("Control-Z") in labels.keymap
    labels.paint((70, 70), (int(before[70, 70]) + 1) % 4)
    workspace.session.commit()
    assert workspace.session.unsaved()

    layers.selection = {labels}
    _convert(layers, "image")
    assert workspace.labels_layer is None
    assert KEY not in layers["Labels"].metadata


def test_a_duplicate_of_a_prediction_outlives_the_next_one(workspace, make_dataset):
    from napari.layers._layer_actions import _duplicate_layer

    session, layers = workspace.open(make_dataset()), workspace.viewer.layers
    first, second = (PredictionMap(session.mask.shape, session.scheme) for _ in range(2))
    draw_prediction(workspace, first, "one", whole=True, thumbnails=True)
    layers.selection = set(prediction_layers(workspace))
    _duplicate_layer(layers)
    others = [layer for layer in layers if not tag_of(layer)]
    assert sorted(layer.name for layer in others) == ["Prediction copy", "Uncertainty copy"]

    draw_prediction(workspace, second, "two", whole=False, thumbnails=True)
    assert all(layer in layers for layer in others)
    assert [layer.data for layer in layers if tag_of(layer).get("role") == "prediction"] == [second.index]
    assert workspace.prediction_layer.name == "Prediction (incomplete)"

    workspace.close_session()
    assert list(layers) == others


def test_a_prediction_that_was_made_a_picture_is_an_ordinary_layer(workspace, make_dataset):
    from napari.layers._layer_actions import _convert

    session, layers = workspace.open(make_dataset()), workspace.viewer.layers
    draw_prediction(workspace, PredictionMap(session.mask.shape, session.scheme), "one", whole=True, thumbnails=True)
    layers.selection = {workspace.prediction_layer}
    _convert(layers, "image")
    assert layers["Prediction"].as_layer_data_tuple()[2] == "image"
    assert not tag_of(layers["Prediction"])
    assert workspace.prediction_layer is None


def test_a_duplicate_that_was_there_before_the_dataset_was_attached_is_one_too(workspace, make_dataset):
    from napari.layers._layer_actions import _duplicate_layer

    session = workspace.open(make_dataset())
    workspace.session = None
    _duplicate_layer(workspace.viewer.layers)
    workspace.attach(session)
    assert workspace.labels_layer is workspace.viewer.layers["Labels"]


def test_layers_can_be_converted_by_the_menu_of_the_layer_list(workspace, make_dataset, messages):
    from napari.layers._layer_actions import _convert_dtype, _convert_to_labels

    labels, _ = _open(workspace, make_dataset())
    before, layers = np.asarray(workspace.session.mask), workspace.viewer.layers
    layers.selection = {labels}
    _convert_dtype(layers, mode="int64")
    assert labels.data is workspace.session.mask
    np.testing.assert_array_equal(np.asarray(labels.data), before)
    assert not workspace.session.unsaved()

    band = layers["B4 red"]
    layers.selection = {band}
    with pytest.warns(UserWarning, match="projection mode"):
        _convert_to_labels(layers)
    np.testing.assert_array_equal(layers["B4 red [1]"].data, np.asarray(band.data).astype(int))


def test_data_put_in_place_of_the_mask_become_a_stroke(workspace, desk, make_dataset, messages):
    layer, _ = _open(workspace, make_dataset())
    mask = workspace.session.mask
    before = np.asarray(mask)
    painted = []
    workspace.painted.connect(lambda: painted.append(1))
    layer.data = before.astype(np.int64)
    assert layer.data is mask
    assert _said(messages) == "The labels were replaced as a whole: 0 pixels changed."
    assert not workspace.session.unsaved()

    wanted = before.copy()
    wanted[30:40, 30:40] = (wanted[30:40, 30:40] + 1) % 4
    layer.data = wanted
    assert layer.data is mask
    assert _said(messages) == "The labels were replaced as a whole: 100 pixels changed. Undo takes that back."
    assert len(painted) == 1
    np.testing.assert_array_equal(np.asarray(mask), wanted)
    np.testing.assert_array_equal(_on_screen(layer), wanted)
    (stroke, *_) = workspace.session.journal.history(5)
    assert stroke.tool == "paint"
    layer.mode = "paint"
    layer.paint((80, 80), (int(before[80, 80]) + 1) % 4)
    workspace.session.commit()
    assert len(workspace.session.journal.history(5)) == 2
    assert "safe in the journal" in desk.status
    desk.set_tool("fill")
    desk.undo()
    desk.undo()
    np.testing.assert_array_equal(np.asarray(mask), before)
    np.testing.assert_array_equal(_on_screen(layer), before)


def test_of_data_put_in_place_of_the_mask_only_what_may_be_drawn_is_taken(workspace, desk, make_dataset, messages):
    layer, _ = _open(workspace, make_dataset())
    mask = workspace.session.mask
    before = np.asarray(mask)
    locked = int(before[60, 60])
    desk.lock(locked, True)
    wanted = np.where(before == locked, (locked + 1) % 4, before).astype(np.int32)
    rows, cols = np.nonzero((before != locked) & workspace.session.valid)
    wanted[rows[:3], cols[:3]] = -1
    wanted[rows[5], cols[5]] = next(k for k in range(4) if k not in (locked, before[rows[5], cols[5]]))
    left = np.count_nonzero(before == locked) + 3
    layer.data = wanted
    said = _said(messages)
    assert "1 pixel changed" in said
    assert f"Not taken: {left:,} pixels" in said
    assert np.count_nonzero(np.asarray(mask) != before) == 1
    np.testing.assert_array_equal(_on_screen(layer), np.asarray(mask))


@pytest.mark.parametrize(
    "given", [np.zeros((64, 64), int), np.zeros((2, 128, 128), int), np.zeros((128, 128), complex)]
)
def test_data_that_cannot_be_the_labels_are_refused(workspace, desk, make_dataset, messages, given):
    layer, _ = _open(workspace, make_dataset())
    before, place = np.asarray(workspace.session.mask), (tuple(layer.scale), tuple(layer.translate))
    # On screen, napari itself fails on what is no number of a class.
    layer.visible = given.dtype.kind == "i"
    layer.data = given
    layer.visible = True
    assert layer.data is workspace.session.mask
    assert (tuple(layer.scale), tuple(layer.translate)) == place
    said = _said(messages)
    assert f"{' x '.join(map(str, given.shape))} values of {given.dtype}" in said
    assert "Give 128 x 128 whole numbers" in said
    np.testing.assert_array_equal(_on_screen(layer), before)
    assert not workspace.session.unsaved()


def test_of_a_dataset_held_elsewhere_no_data_are_taken(workspace, make_dataset, messages, monkeypatch):
    session = workspace.open(make_dataset())
    layer, before = workspace.labels_layer, np.asarray(session.mask)
    monkeypatch.setattr(session.journal, "read_only", True)
    layer.editable = False
    layer.data = np.ones_like(before)
    assert layer.data is session.mask
    assert not layer.editable
    assert "open elsewhere" in _said(messages)
    np.testing.assert_array_equal(_on_screen(layer), before)
