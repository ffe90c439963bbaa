import numpy as np
import pytest

from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.extra_layers import extra_layers
from napari_glacier.controllers.layers import KEY, class_features
from napari_glacier.controllers.seeing import FLICKER, SIDE_BY_SIDE, SWIPE
from napari_glacier.controllers.toolbox import OUTLINE


@pytest.fixture
def controller(workspace):
    controller = CorrectionController(workspace)
    yield controller
    controller.close()


@pytest.fixture
def seeing(workspace, controller, make_dataset):
    session = workspace.open(make_dataset("first"))
    layer = workspace.labels_layer
    layer.corner_pixels = np.array([[0, 0], layer.data.shape])
    workspace.viewer.add_labels(
        np.ones(session.mask.shape, np.uint8),
        name="Prediction",
        features=class_features(session.scheme),
        metadata={KEY: {"session": session, "role": "prediction", "model": "tiny"}},
    )
    return controller.seeing


def names(workspace):
    return [layer.name for layer in workspace.viewer.layers]


def test_a_dataset_is_left_in_the_middle_of_a_comparison(workspace, seeing, make_dataset):
    seeing.toggle(SIDE_BY_SIDE)
    assert seeing.mode == SIDE_BY_SIDE
    second = workspace.open(make_dataset("second", seed=3))
    assert workspace.session is second
    assert seeing.mode == ""
    assert not any("copy" in name or name == "Prediction" for name in names(workspace))
    seeing.toggle(SWIPE)
    workspace.close_session()
    assert names(workspace) == []


def test_where_a_composite_was_removed_it_is_said_how_a_second_picture_comes(workspace, seeing):
    for name in ("Prediction", "SWIR-green-blue"):
        workspace.viewer.layers.remove(name)
    assert seeing.pair is None
    assert "there is one. Predict" in seeing.why_not
    workspace.add_extra("SWIR-green-blue")
    assert {layer.name for layer in seeing.pair} == {"True colour", "SWIR-green-blue"}
    assert seeing.why_not == ""


def test_what_comes_during_a_comparison_stays_below_the_labels(workspace, seeing):
    seeing.toggle(SWIPE)
    added = next(one.key for one in extra_layers(workspace.session) if not one.reason)
    before = set(names(workspace))
    workspace.add_extra(added)
    (new,) = set(names(workspace)) - before
    seeing.end()
    assert names(workspace).index(new) < names(workspace).index("Labels")


def test_nothing_of_a_comparison_is_left_where_its_divider_was_deleted(workspace, seeing):
    before = names(workspace)
    seeing.toggle(SWIPE)
    workspace.viewer.layers.remove(workspace.viewer.layers["Divider"])
    seeing.move_divider(0.3)
    seeing.refresh()
    seeing.end()
    assert names(workspace) == before


@pytest.mark.parametrize("mode", [SIDE_BY_SIDE, SWIPE, FLICKER])
@pytest.mark.parametrize("seed", range(5))
def test_all_layers_are_deleted_together_in_any_order(workspace, controller, seeing, mode, seed):
    viewer = workspace.viewer
    grid = viewer.canvas.grid
    before = grid.enabled, grid.stride, grid.shape
    # Something between the two, so that their order changes.
    workspace.add_extra(next(one.key for one in extra_layers(workspace.session) if not one.reason))
    viewer.layers.move(0, len(viewer.layers))
    seeing.toggle(mode)
    # What a tool has at hand goes as well.
    controller.tools.select(OUTLINE)
    viewer.layers.select_all()
    # As napari does, which goes through them in an order of its own.
    order = list(viewer.layers.selection)
    np.random.default_rng(seed).shuffle(order)
    for layer in order:
        viewer.layers.remove(viewer.layers[viewer.layers.index(layer)])
    assert names(workspace) == []
    assert seeing.mode == ""
    assert (grid.enabled, grid.stride, grid.shape) == before
    assert workspace.session is None
