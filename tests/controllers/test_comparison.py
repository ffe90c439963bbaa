"""What the champion and challenger part of the Train widget decides, without a window."""

import dataclasses

import numpy as np
import pytest
import torch

from napari_glacier.controllers.comparison import ComparisonController
from napari_glacier.controllers.inference import InferenceController
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.core.errors import DataError
from napari_glacier.core.models.promotion import read_history
from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint
from napari_glacier.nn.ensemble import resolve_models


@pytest.fixture
def controller(workspace):
    controller = ComparisonController(workspace)
    yield controller
    controller.close()


@pytest.fixture
def two_models(make_checkpoint, tmp_path):
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
    assert any("No word on which tiles" in text for text in texts)
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


def test_the_challenger_is_promoted_and_rolled_back(controller, workspace, make_dataset, two_models):
    root = make_dataset()
    workspace.open(root)
    predict = InferenceController(workspace)
    told = []
    workspace.models_changed.connect(lambda: told.append(predict.usual))
    assert not controller.can_promote
    assert not controller.can_roll_back
    contest = controller.prepare(*two_models, "cpu")
    controller.take(contest, _run(controller.job(contest)))
    assert "4 tiles are few" in controller.promotion_text()
    assert "compared with first, while the champion is Bundled ensemble" in controller.promotion_text()

    said = controller.promoted(_run(controller.promote_job()))

    assert "second is the champion now" in said
    kept = root / "models" / "second"
    assert predict.usual == kept
    assert predict.models()[0].source == kept
    assert predict.models()[0].title == "★ second"
    assert read_history(root)[0].comparison["challenger"]["name"] == "second"
    assert "works with second, promoted on 2" in controller.champion_text
    # What was promoted is loaded with the same weights.
    (again,) = resolve_models(kept).members
    before = load_checkpoint(two_models[1].source).model.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in again.model.state_dict().items())

    controller.take(dataclasses.replace(contest, challenger=ModelChoice("Bundled ensemble", None)), controller.match)
    assert controller.can_promote
    assert "Bundled ensemble is the champion now" in controller.promoted(_run(controller.promote_job()))
    assert predict.usual is None
    assert "works with Bundled ensemble, promoted on 2" in controller.champion_text
    assert controller.roll_back().endswith("works with second again.")

    assert "Bundled ensemble again" in controller.roll_back()
    assert predict.usual is None
    assert told == [kept, None, kept, None]
    assert kept in [choice.source for choice in predict.models()], "nothing is deleted"
    (root / "models.yaml").write_text("nonsense")
    assert controller.champion_text.startswith("⚠")
    assert not controller.can_roll_back
    predict.close()
