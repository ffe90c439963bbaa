"""The first steps tick themselves off by what happened, and can be left and taken up again."""

from pathlib import Path

import pytest
from napari.components import ViewerModel

from napari_glacier.controllers.exchange import UNMAPPED_TILES
from napari_glacier.controllers.first_steps import STEPS, FirstSteps, first_steps_folder
from napari_glacier.controllers.inference import InferenceController
from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.errors import DataError
from napari_glacier.core.runfiles import RunFolder

KEYS = [step.key for step in STEPS]


@pytest.fixture
def steps(workspace):
    steps = FirstSteps(workspace)
    yield steps
    steps.close()


def _predict(workspace, model: Path, *, accept: bool) -> None:
    controller = InferenceController(workspace)
    job = controller.job(controller.request(controller.add_model(model), "off", "cpu", "tile"))
    while True:
        try:
            controller.take(next(job))
        except StopIteration as end:
            controller.show(end.value)
            break
    if accept:
        assert controller.accept("unlabelled") > 0
    controller.close()


def _paint(session, tile_id: str) -> None:
    _, place = session.find(tile_id)
    where = (slice(place.row + 20, place.row + 24), slice(place.col + 20, place.col + 24))
    session.mask[where] = (session.mask[where] + 1) % 4
    session.commit()


def test_the_walk_is_ticked_off_step_by_step_and_taken_up_again(steps, workspace, make_checkpoint):
    told = []
    steps.changed.connect(lambda: told.append(steps.done))
    assert not steps.begun
    assert not steps.done
    assert steps.current is STEPS[0]

    steps.open()
    session = workspace.session
    assert session.root == steps.folder
    assert steps.folder.is_relative_to(first_steps_folder())
    assert {tile.id for tile in session.dataset.tiles if tile.mask_path is None} == set(UNMAPPED_TILES)
    assert steps.current.key == "predict"

    steps.show_unmapped()
    _predict(workspace, make_checkpoint(), accept=False)
    assert told[-1] == {"open", "predict"}
    workspace.viewer.layers.remove(workspace.prediction_layer)
    assert steps.current.key == "predict", "without a prediction there is nothing to take over"
    _predict(workspace, make_checkpoint(), accept=True)
    assert told[-1] == {"open", "predict", "accept"}

    _paint(session, UNMAPPED_TILES[0])
    assert steps.current.key == "fix"
    assert steps.news == "Painted. Save writes it into the mask files."
    session.save()
    assert told[-1] == set(KEYS[:4])
    assert session.dataset.tile(UNMAPPED_TILES[0]).new_mask_path.is_file()

    run = RunFolder.create(steps.folder / "runs", "quick")
    run.config_path.touch()
    run.append_event("epoch", epoch=1)
    steps.look()
    assert steps.current.key == "train"
    run.append_event("done")
    steps.look()
    assert steps.current is None
    assert told[-1] == set(KEYS)

    # Another day: everything that matters is in the folder.
    workspace.viewer.layers.clear()
    assert not steps.done
    again = FirstSteps(workspace)
    again.open()
    assert again.done == set(KEYS)
    again.close()


def test_another_dataset_ticks_nothing(steps, workspace, make_dataset):
    workspace.open(make_dataset())
    _paint(workspace.session, workspace.session.tile_ids[-1])
    workspace.session.save()
    assert not steps.done
    assert steps.current is STEPS[0]


def test_begin_again_keeps_what_was_done_aside(steps, workspace):
    steps.open()
    _paint(workspace.session, UNMAPPED_TILES[1])
    workspace.session.save()
    assert "fix" in steps.done
    written = workspace.session.dataset.tile(UNMAPPED_TILES[1]).new_mask_path
    drawn = written.read_bytes()

    steps.begin_again()

    assert steps.done == {"open"}
    aside = steps.folder.with_name(f"{steps.folder.name}-1")
    assert (aside / written.relative_to(steps.folder)).read_bytes() == drawn
    assert not written.exists()


def test_begin_again_waits_for_another_window_that_shows_the_copy(steps, workspace):
    steps.open()
    session = workspace.session
    window = ViewerModel()
    other = workspace_of(window)
    again = FirstSteps(other)
    try:
        other.open(session.root)
        for one in (again, steps):
            with pytest.raises(DataError, match="open in another window"):
                one.begin_again()
            assert one.workspace.shows(session)
        workspace.close_session()
        again.begin_again()
        assert other.session is not session
        assert session.closed
    finally:
        again.close()
        other.close()


def test_begin_again_leaves_a_copy_alone_in_which_a_network_is_trained(steps, workspace):
    steps.open()
    run = RunFolder.create(steps.folder / "runs", "quick")
    run.config_path.touch()
    run.write_process()
    with pytest.raises(DataError, match="Stop it in Train"):
        steps.begin_again()
    assert workspace.session.root == steps.folder
    assert steps.done == {"open"}


def test_a_closed_walk_hears_nothing_more(workspace):
    steps = FirstSteps(workspace_of(workspace.viewer))
    steps.open()
    steps.close()
    told = []
    steps.changed.connect(lambda: told.append(1))
    _paint(workspace.session, UNMAPPED_TILES[0])
    assert not told
