"""Predictions that are on disk already, laid over the scene again."""

import numpy as np
import pytest

from napari_glacier.controllers.attention import AttentionController
from napari_glacier.controllers.inference import InferenceController
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.controllers.tools import ToolController
from napari_glacier.controllers.votes import VotesController
from napari_glacier.core.errors import DataError
from napari_glacier.core.raster import read_raster, write_mask, write_raster
from napari_glacier.nn.batch import Batch, Job

# Of the uncertainty on disk.
_STEP = 1 / 4096


@pytest.fixture
def controller(workspace):
    controller = InferenceController(workspace)
    yield controller
    controller.close()


def _finish(controller, job):
    while True:
        try:
            controller.take(next(job))
        except StopIteration as stop:
            controller.show(stop.value)
            return stop.value


def _predict(controller, checkpoint, scope="all", **options):
    request = controller.request(ModelChoice("tiny", checkpoint), "off", "cpu", scope, **options)
    return _finish(controller, controller.job(request))


def _predict_at_the_terminal(root, out, checkpoint, tta="off", **measures):
    batch = Batch(Job(root, out, (str(checkpoint),), settings=(("tta", tta), ("device", "cpu")), **measures))
    for scene in batch.scenes:
        for _ in batch.map(scene):
            pass


def _shown(workspace):
    doubt = workspace.uncertainty_layer
    return np.array(workspace.prediction_layer.data), np.array(doubt.data)


@pytest.mark.parametrize("stacked", [False, True], ids=["mosaic", "stack"])
def test_what_was_shown_before_closing_is_shown_again(workspace, controller, make_dataset, make_checkpoint, stacked):
    root = make_dataset(georeferenced=not stacked)
    session = workspace.open(root)
    assert session.stacked == stacked
    _predict(controller, make_checkpoint())
    index, entropy = _shown(workspace)
    legend = controller.legend()
    workspace.close_session()
    assert not controller.has_prediction

    session = workspace.open(root)
    ((folder, _),) = controller.earlier()
    outcome = _finish(controller, controller.read_earlier(folder))

    again, entropy_again = _shown(workspace)
    assert np.array_equal(again, index)
    assert np.allclose(entropy_again, entropy, atol=_STEP / 2, equal_nan=True)
    assert controller.legend() == legend
    assert (outcome.made.name, outcome.warnings, controller.incomplete) == ("tiny", (), "")
    changed = controller.accept("all")
    assert changed > 0
    assert np.array_equal(np.asarray(session.mask)[session.valid], index[session.valid])


def test_the_queue_goes_by_an_earlier_prediction(workspace, controller, make_dataset, make_checkpoint):
    root = make_dataset()
    workspace.open(root)
    _predict(controller, make_checkpoint())
    before = _regions(workspace)
    workspace.close_session()

    workspace.open(root)
    _finish(controller, controller.read_earlier(controller.earlier()[0][0]))

    again = _regions(workspace)
    assert before
    assert [window for window, _ in again] == [window for window, _ in before]
    assert np.allclose([stake for _, stake in again], [stake for _, stake in before], rtol=0.01)


def _regions(workspace):
    tools = ToolController(workspace)
    attention = AttentionController(workspace, tools)
    try:
        assert attention.available
        attention.install(attention.plan()())
        return [(region.window, region.stake_km2) for region in attention.regions()]
    finally:
        attention.close()
        tools.close()


def test_maps_made_at_the_terminal_are_shown_though_their_doubt_was_not_kept(
    workspace, controller, make_dataset, make_checkpoint, tmp_path
):
    root, out = make_dataset(), tmp_path / "maps"
    _predict_at_the_terminal(root, out, make_checkpoint())
    session = workspace.open(root)
    gone = session.dataset.tiles[1]
    (out / gone.name).unlink()

    outcome = _finish(controller, controller.read_earlier(out))

    prediction = controller.prediction
    for tile in session.dataset.tiles:
        number, place = session.find(tile.id)
        at = place.slices if not session.stacked else (number, *place.slices)
        known = prediction.known[at]
        if tile is gone:
            assert not known.any()
        else:
            assert np.array_equal(known, session.valid[at])
            codes = read_raster(out / tile.name)[0]
            assert np.array_equal(session.scheme.encode(prediction.index[at])[known], codes[known])
    missing, doubt = outcome.warnings
    assert missing.startswith("1 of 4 tiles")
    assert "Run the model again" in doubt
    tools = ToolController(workspace)
    attention = AttentionController(workspace, tools)
    assert not attention.available, "nothing is known of what is uncertain"
    attention.close()
    tools.close()


def test_probabilities_tell_the_doubt_where_it_was_not_kept(
    workspace, controller, make_dataset, make_checkpoint, tmp_path
):
    root, checkpoint = make_dataset(), make_checkpoint()
    workspace.open(root)
    _predict(controller, checkpoint)
    _, entropy = _shown(workspace)
    _predict_at_the_terminal(root, tmp_path / "maps", checkpoint, probabilities=True)

    outcome = _finish(controller, controller.read_earlier(tmp_path / "maps"))

    assert outcome.warnings == ()
    assert np.allclose(_shown(workspace)[1], entropy, atol=1e-3, equal_nan=True)


def test_doubt_of_another_run_is_not_taken_for_that_of_the_map(
    workspace, controller, make_dataset, make_checkpoint, tmp_path
):
    root, checkpoint, out = make_dataset(), make_checkpoint(), tmp_path / "maps"
    _predict_at_the_terminal(root, out, checkpoint, uncertainty=True)
    _predict_at_the_terminal(root, out, checkpoint, tta=2)
    workspace.open(root)

    _finish(controller, controller.read_earlier(out))

    assert np.isnan(_shown(workspace)[1]).all()


def test_only_the_scene_on_screen_is_read_where_scenes_differ_in_size(
    workspace, controller, make_unequal_scenes, make_checkpoint
):
    session = workspace.open(make_unequal_scenes(2))
    _predict(controller, make_checkpoint())
    folder = controller.earlier()[0][0]
    workspace.show_scene(1)
    assert not controller.has_prediction

    _finish(controller, controller.read_earlier(folder))

    assert controller.has_prediction
    codes = read_raster(folder / session.scenes[1].placements[0].tile.name)[0]
    assert np.array_equal(session.scheme.encode(controller.prediction.index), codes)


def test_masks_of_other_programs_keep_their_classes_and_leave_nodata_alone(
    workspace, controller, make_dataset, tmp_path
):
    session = workspace.open(make_dataset())
    out = tmp_path / "theirs"
    for tile in session.dataset.tiles:
        write_raster(out / tile.name, np.full((1, tile.height, tile.width), session.scheme.codes[1], np.uint8))

    outcome = _finish(controller, controller.read_earlier(out))

    assert np.array_equal(controller.prediction.index == 1, session.valid)
    assert outcome.made.name == "theirs"


def test_networks_of_an_earlier_prediction_cannot_be_asked(workspace, controller, make_dataset, make_checkpoint):
    root = make_dataset()
    workspace.open(root)
    _predict(controller, make_checkpoint())
    workspace.close_session()
    session = workspace.open(root)
    _finish(controller, controller.read_earlier(controller.earlier()[0][0]))
    row, col = np.argwhere(session.valid)[0]
    position = workspace.prediction_layer.data_to_world((row, col))

    votes = VotesController(controller)
    asked = votes.question(position)
    votes.close()

    assert "no networks to ask" in asked


@pytest.mark.parametrize("window", [True, False], ids=["of the window", "of the terminal"])
def test_a_tile_predicted_anew_by_the_same_model_leaves_the_rest_shown(
    workspace, controller, make_dataset, make_checkpoint, tmp_path, *, window
):
    root, checkpoint = make_dataset(), make_checkpoint()
    if window:
        session = workspace.open(root)
        _predict(controller, checkpoint)
        workspace.close_session()
        folder = root / "predictions" / "tiny"
    else:
        folder = tmp_path / "maps"
        _predict_at_the_terminal(root, folder, checkpoint, uncertainty=True)
    session = workspace.open(root)
    _finish(controller, controller.read_earlier(folder))
    index, _ = _shown(workspace)

    _predict(controller, checkpoint, "tile")

    assert np.array_equal(_shown(workspace)[0], index)
    assert controller.incomplete == ""
    asked = {controller.prediction.area_at(0, *pixel).made.folder for pixel in np.argwhere(session.valid)[::97]}
    assert asked == {None, folder}, "of the new tile members can be asked"


def test_a_folder_without_maps_of_these_tiles_is_refused(workspace, controller, make_dataset, tmp_path):
    session = workspace.open(make_dataset())
    tile = session.dataset.tiles[0]
    write_mask(tmp_path / "small" / tile.name, np.zeros((8, 8), np.uint8), session.scheme)
    other = {"tile": "another"}
    shape = (tile.height, tile.width)
    write_mask(tmp_path / "other" / tile.name, np.zeros(shape, np.uint8), session.scheme, tile.georef, other)

    for folder in ("small", "other", "nowhere"):
        with pytest.raises(DataError, match="holds no map of what is on screen"):
            list(controller.read_earlier(tmp_path / folder))


def test_a_large_map_is_read_in_strips(workspace, controller, make_dataset, make_checkpoint, monkeypatch):
    from napari_glacier.controllers import earlier_prediction

    session = workspace.open(make_dataset())
    _predict(controller, make_checkpoint())
    whole = _shown(workspace)
    tile = session.dataset.tiles[0]
    monkeypatch.setattr(earlier_prediction, "_STRIP_PX", 10 * tile.width)

    _finish(controller, controller.read_earlier(controller.earlier()[0][0]))

    for shown, expected in zip(_shown(workspace), whole, strict=True):
        assert np.allclose(shown, expected, atol=_STEP / 2, equal_nan=True)
