"""What napari keeps of the labels on screen follows every change, and is never read anew as a whole for it."""

import numpy as np
import pytest

from napari_glacier.controllers import painting, toolbox
from napari_glacier.controllers.correction import CorrectionController
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
