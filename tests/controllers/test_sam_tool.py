"""SAM 2 in the correction desk; its weights are random, so what it proposes means nothing, but it is asked for real."""

import sys

import numpy as np
import pytest

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.pictures import composite_rgba
from napari_glacier.core.errors import ConfigError, DataError


@pytest.fixture
def tools(workspace, make_dataset):
    controller = CorrectionController(workspace)
    workspace.open(make_dataset())
    layer = workspace.labels_layer
    layer.corner_pixels = np.array([[0, 0], layer.data.shape])
    controller.tools.select(toolbox.SAM)
    yield controller.tools
    controller.close()


def _answer(workspace, folder, **prompt):
    """The same question put to the model by hand, on the true-colour picture."""
    from napari_glacier.nn.prompting import PromptedSam

    scene = workspace.session.scenes[0]
    image_CHW, valid_HW = scene.read(scene.whole, ("B4", "B3", "B2"))
    sam = PromptedSam.load(folder, "cpu")
    return sam.ask(sam.look(composite_rgba(image_CHW, valid_HW)[..., :3]), **prompt), valid_HW


def _labels(workspace):
    return np.asarray(workspace.session.mask)


def test_a_click_proposes_and_enter_writes_one_stroke_that_spares_locks_and_nodata(workspace, tools, tiny_sam):
    session = workspace.session
    tools.sam.folder = tiny_sam
    workspace.labels_layer.selected_label = 3
    before = _labels(workspace)
    tools.click(40, 60)
    found_HW, valid_HW = _answer(workspace, tiny_sam, inside=[(40.5, 60.5)])
    np.testing.assert_array_equal(tools.proposal.area.where_HW, found_HW & valid_HW)
    assert (found_HW & valid_HW).any()
    assert np.array_equal(_labels(workspace), before), "nothing changes before it is taken"

    (locked,) = {int(before[found_HW & valid_HW][0])}
    session.mask.locked_classes.add(locked)
    tools.take()
    after = _labels(workspace)
    np.testing.assert_array_equal(after, np.where(found_HW & valid_HW & (before != locked), 3, before))
    assert np.array_equal(after[~valid_HW], before[~valid_HW])
    if not np.array_equal(after, before):
        stroke = session.journal.history(1)[0]
        assert (stroke.tool, stroke.model) == (toolbox.SAM, "SAM 2 (tiny)")


def test_clicks_add_and_take_away_until_escape(workspace, tools, tiny_sam):
    tools.sam.folder = tiny_sam
    tools.click(40, 60)
    rows, cols = np.nonzero(~tools.proposal.area.where_HW)
    outside = int(rows[len(rows) // 2]), int(cols[len(rows) // 2])
    tools.click(*outside)
    both = [(40.5, 60.5), (outside[0] + 0.5, outside[1] + 0.5)]
    found_HW, valid_HW = _answer(workspace, tiny_sam, inside=both)
    np.testing.assert_array_equal(tools.proposal.area.where_HW, found_HW & valid_HW)
    inside = tuple(int(k) for k in np.argwhere(tools.proposal.area.where_HW)[0])
    tools.click(*inside)
    found_HW, _ = _answer(workspace, tiny_sam, inside=both, outside=[(inside[0] + 0.5, inside[1] + 0.5)])
    np.testing.assert_array_equal(tools.proposal.area.where_HW, found_HW & valid_HW)
    assert tools.drop()
    tools.click(40, 60)
    found_HW, _ = _answer(workspace, tiny_sam, inside=[(40.5, 60.5)])
    np.testing.assert_array_equal(tools.proposal.area.where_HW, found_HW & valid_HW)


def test_a_loop_is_a_box(workspace, tools, tiny_sam):
    tools.sam.folder = tiny_sam
    tools.loop([(20, 30), (20, 70), (60, 75), (55, 30)])
    found_HW, valid_HW = _answer(workspace, tiny_sam, box=(20.5, 30.5, 60.5, 75.5))
    np.testing.assert_array_equal(tools.proposal.area.where_HW, found_HW & valid_HW)


def test_of_all_objects_a_click_takes_one(workspace, tools, tiny_sam, monkeypatch):
    from napari_glacier.nn.prompting import PromptedSam

    of_all = PromptedSam.masks_of_all
    # A model that was never trained is sure of nothing.
    monkeypatch.setattr(PromptedSam, "masks_of_all", lambda sam, seen: of_all(sam, seen, 4, -10, 0))
    tools.sam.folder = tiny_sam
    workspace.labels_layer.selected_label = 2
    before = _labels(workspace)
    tools.find_objects()
    window, label_HW = tools.sam.objects
    assert (window.height, window.width) == before.shape
    valid_HW = workspace.session.valid[:]
    assert not label_HW[~valid_HW].any()
    row, col = (int(k) for k in np.argwhere(label_HW == label_HW.max())[0])
    tools.click(row, col)
    np.testing.assert_array_equal(_labels(workspace), np.where(label_HW == label_HW.max(), 2, before))
    assert tools.sam.objects is not None, "more can be taken"
    assert tools.drop()
    assert tools.sam.objects is None


def test_a_model_that_is_sure_of_nothing_says_so(tools, tiny_sam, monkeypatch):
    from napari_glacier.nn.prompting import PromptedSam

    of_all = PromptedSam.masks_of_all
    monkeypatch.setattr(PromptedSam, "masks_of_all", lambda sam, seen: of_all(sam, seen, 2, 10))
    tools.sam.folder = tiny_sam
    with pytest.raises(DataError, match="sure of no object"):
        tools.find_objects()


def test_what_is_missing_is_told_in_a_sentence(tools, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"needs weights on this computer.*Weights…"):
        tools.click(40, 60)
    tools.sam.folder = tmp_path
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'needs transformers.*pip install "napari-glacier\[sam2\]"'):
        tools.click(40, 60)
    monkeypatch.undo()
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match="no weights of SAM 2 in"):
        tools.click(40, 60)


def test_weights_that_do_not_load_are_tried_again_at_a_click_only(tools, tmp_path, tiny_sam, monkeypatch):
    from napari_glacier.nn.prompting import PromptedSam

    tries, load = [], PromptedSam.load
    monkeypatch.setattr(PromptedSam, "load", lambda folder: (tries.append(folder), load(folder))[1])
    tools.sam.folder = tmp_path / "sam"
    for _ in range(4):
        tools.prepare_view()
    with pytest.raises(ConfigError, match="no weights"):
        tools.click(40, 60)
    for _ in range(4):
        tools.prepare_view()
    assert len(tries) <= 2
    tiny_sam.rename(tmp_path / "sam")
    tools.click(40, 60)
    assert tools.proposal is not None
