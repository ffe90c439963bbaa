import time

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_glacier.controllers.adapting import AdaptController
from napari_glacier.controllers.layers import tag_of
from napari_glacier.controllers.models import ModelChoice, known_models
from napari_glacier.controllers.workspace import workspace_of
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


def test_what_a_lesson_would_change_is_taken_over_but_where_a_person_worked(workspace, controller, make_checkpoint):
    session = workspace.session
    drawn = np.zeros(session.mask.shape, bool)
    drawn[20:60, 20:100] = np.asarray(session.mask)[20:60, 20:100] != 3
    session.mask[20:60, 20:100] = 3
    controller.start(ModelChoice("tiny", make_checkpoint()))
    wait(controller)
    assert controller.state == "ready", controller.sentence
    (layer,) = layers(workspace)
    # Whatever was learnt: some of it on what was drawn, some beside.
    layer.data = np.where(np.arange(layer.data.shape[-1]) % 3 == 0, 2, 0).astype(np.uint8) * np.ones_like(layer.data)
    before, changes = np.asarray(session.mask).copy(), np.asarray(layer.data)

    said = controller.keep_and_take_over()

    taken = (changes > 0) & ~drawn & session.valid
    assert np.array_equal(np.asarray(session.mask), np.where(taken, 1, before))
    assert f"{np.count_nonzero(taken & (before != 1)):,} pixels of the labels changed" in said
    assert session.journal.history(1)[0].tool == "accept"
    assert layers(workspace) == []
    (kept,) = [choice for choice in known_models(session) if choice.source]
    assert session.journal.history(1)[0].model == kept.source.name


def test_nothing_is_kept_where_what_would_change_is_not_on_screen(workspace, controller, make_checkpoint):
    session = workspace.session
    session.mask[20:60, 20:100] = 3
    controller.start(ModelChoice("tiny", make_checkpoint()))
    wait(controller)
    workspace.viewer.layers.remove(layers(workspace)[0])
    before = np.asarray(session.mask).copy()

    with pytest.raises(DataError, match="no longer on screen"):
        controller.keep_and_take_over()

    assert controller.state == "ready", "it can still be kept"
    assert np.array_equal(np.asarray(session.mask), before)
    assert not [choice for choice in known_models(session) if choice.source]


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


def test_until_the_last_event_was_read_learning_is_under_way(workspace, controller, make_checkpoint):
    workspace.session.mask[20:40, 20:100] = 3
    controller.start(ModelChoice("tiny", make_checkpoint()))
    controller._process.wait(timeout=90)
    assert controller.state == "working"
    assert controller.sentence
    controller.poll()
    assert controller.state == "ready", controller.sentence


def test_progress_never_goes_back_and_a_damaged_line_costs_nothing(workspace, controller, make_checkpoint, monkeypatch):
    workspace.session.mask[20:40, 20:100] = 3
    controller.start(ModelChoice("tiny", make_checkpoint()))
    controller._process.wait(timeout=90)
    events, seen = controller._run.events_path, []
    lines = events.read_bytes().splitlines(keepends=True)
    assert b'"done"' in lines[-1]
    # The process takes seconds to end when all is told; and one may be killed in the middle of a line.
    monkeypatch.setattr(controller._process, "poll", lambda: None)
    for number in range(2, len(lines) + 1):
        events.write_bytes(b"".join(lines[:number]))
        controller.poll()
        events.write_bytes(b"".join([*lines[:number], lines[number - 1][:9] + b"\n"]))
        controller.poll()
        done, total = controller.progress
        assert controller.sentence != "Loading libraries…"
        seen.append(done / total if total else -1.0)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert controller.state == "working"
    monkeypatch.undo()
    controller.poll()
    assert controller.state == "ready"
    assert "No label was touched" in controller.sentence


def test_another_window_leaves_what_was_learnt(workspace, controller, make_checkpoint):
    root = workspace.session.root
    workspace.session.mask[20:40, 20:100] = 3
    controller.start(ModelChoice("tiny", make_checkpoint()))
    wait(controller)
    viewer = ViewerModel()
    other = workspace_of(viewer)
    second = AdaptController(other)
    other.open(root)
    second.close()
    other.close()
    assert controller.state == "ready"
    assert "Kept as" in controller.keep()


def test_what_would_change_is_shown_with_its_scene(workspace, two_scenes, make_checkpoint):
    controller, session = AdaptController(workspace), two_scenes
    try:
        session.mask[20:40, 20:60] = 3
        controller.start(ModelChoice("tiny", make_checkpoint()))
        workspace.show_scene(1)
        session.mask[10:20, 10:20] = 1
        wait(controller)
        assert controller.state == "ready", controller.sentence
        (layer,) = layers(workspace)
        assert not layer.data.any()
        with pytest.raises(DataError, match="Nothing would change in the scene on screen"):
            controller.keep_and_take_over()
        workspace.show_scene(0)
        (layer,) = layers(workspace)
        assert layer.data.shape == session.mask.shape
        assert layer.data.any()
    finally:
        controller.close()
