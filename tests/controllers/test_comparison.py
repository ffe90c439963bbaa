"""What the champion and challenger part of the Train widget decides, without a window."""

import dataclasses

import numpy as np
import pytest

from napari_glacier.controllers.comparison import ComparisonController
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.core.errors import DataError
from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def controller(workspace):
    controller = ComparisonController(workspace)
    yield controller
    controller.close()


@pytest.fixture
def two_models(make_checkpoint, tmp_path):
    import torch

    first, second = make_checkpoint("first"), tmp_path / "second.safetensors"
    loaded = load_checkpoint(first)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_checkpoint(second, loaded.model, dataclasses.replace(loaded.card, name="second"))
    return ModelChoice("first", first), ModelChoice("second", second)


def _run(job):
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


def test_a_comparison_becomes_a_table_a_layer_and_cautions(controller, workspace, make_dataset, two_models):
    session = workspace.open(make_dataset())
    contest = controller.prepare(*two_models, "cpu")
    match = _run(controller.job(contest))
    seen = []
    controller.changed.connect(lambda: seen.append(True))
    session.mask[30:34, 30:34] = 3
    session.commit()

    controller.take(contest, match)

    assert seen
    lines = controller.lines("all_pixels", "iou")
    assert [line.title for line in lines] == ["MCC", "background", "glacier", "debris", "lake"]
    row = match.comparison.rows["all_pixels"][0]
    assert lines[0].challenger == f"{row.challenger:.3f}"
    layer = workspace.viewer.layers["Changed pixels"]
    assert layer.data.shape == session.mask.shape
    assert np.count_nonzero(layer.data) == sum(tile.changed for tile in match.comparison.tiles) > 0
    assert not layer.editable
    assert workspace.viewer.layers.selection.active is workspace.labels_layer
    texts = controller.cautions()
    assert "corrections of 00_00 are not in them yet" in texts[0]
    assert any("does not say which tiles" in text for text in texts)
    assert next(number for _, _, number in controller.legend()).endswith("px")
    controller.show_changes()
    assert [layer.name for layer in workspace.viewer.layers].count("Changed pixels") == 1

    workspace.close_session()
    assert controller.match is None
    assert controller.lines("all_pixels", "iou") == []


def test_a_comparison_needs_a_dataset_and_two_models(controller, workspace, make_dataset, two_models):
    with pytest.raises(DataError, match="No dataset is open"):
        controller.prepare(*two_models, "cpu")
    workspace.open(make_dataset())
    with pytest.raises(DataError, match="the same model"):
        controller.prepare(two_models[0], two_models[0], "cpu")
