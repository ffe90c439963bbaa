import time

import numpy as np
import pytest

from napari_glacier.controllers.adapting import AdaptController
from napari_glacier.controllers.models import ModelChoice, known_models
from napari_glacier.controllers.workspace import tag_of
from napari_glacier.core.errors import DataError


@pytest.fixture
def controller(workspace, make_dataset):
    controller = AdaptController(workspace)
    workspace.open(make_dataset())
    yield controller
    controller.close()


def wait(controller):
    end = time.monotonic() + 90
    while controller.state == "working":
        assert time.monotonic() < end
        controller.poll()
        time.sleep(0.05)
    controller.poll()


def layers(workspace):
    return [layer for layer in workspace.viewer.layers if tag_of(layer).get("role") == "adapted"]


def test_a_model_learns_shows_what_changes_and_is_kept(workspace, controller, make_checkpoint):
    session = workspace.session
    source = make_checkpoint()
    session.mask[20:40, 20:100] = 3
    labels = np.asarray(session.mask)
    heard = []
    workspace.models_changed.connect(lambda: heard.append(1))

    controller.start(ModelChoice("tiny", source))
    with pytest.raises(DataError, match="under way"):
        controller.start(ModelChoice("tiny", source))
    wait(controller)

    assert controller.state == "ready", controller.sentence
    assert "No label was touched" in controller.sentence
    (layer,) = layers(workspace)
    changed = int(controller.sentence.split("now. ")[1].split(" of")[0].replace(",", ""))
    assert np.count_nonzero(layer.data) == changed
    assert not layer.editable
    assert np.array_equal(np.asarray(session.mask), labels)
    assert [choice.source for choice in known_models(session) if choice.source] == []

    said = controller.keep()

    (choice,) = [choice for choice in known_models(session) if choice.source]
    assert choice.title in said
    assert heard
    assert layers(workspace) == []
    assert controller.state == "idle"
    assert not list((session.root / "models" / ".candidates").iterdir())


def test_a_model_is_dropped_cancelled_or_fails_and_nothing_is_left(workspace, controller, make_checkpoint):
    session = workspace.session
    source = make_checkpoint()
    candidates = session.root / "models" / ".candidates"
    controller.start(ModelChoice("tiny", source))
    wait(controller)
    assert controller.state == "failed"
    assert "Nothing was corrected" in controller.sentence
    session.mask[20:40, 20:100] = 3
    controller.start(ModelChoice("tiny", source))
    process = controller._process
    controller.cancel()
    assert process.poll() is not None
    assert controller.state == "idle"
    assert list(candidates.iterdir()) == []
    with pytest.raises(DataError, match="no new model"):
        controller.keep()


def test_what_a_killed_window_left_is_cleared(workspace, controller, make_dataset):
    root = make_dataset("other")
    left = root / "models" / ".candidates" / "20260101-000000-adapted"
    left.mkdir(parents=True)
    (left / "ensemble.yaml").write_text("members: []")
    workspace.open(root)
    assert not left.exists()
