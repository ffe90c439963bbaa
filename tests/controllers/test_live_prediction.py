"""A prediction while it grows, one that was cancelled, and what members say of a pixel."""

import numpy as np
import pytest
import scipy.stats

from napari_glacier.controllers import parts
from napari_glacier.controllers.inference import InferenceController
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.controllers.votes import Question, VotesController
from napari_glacier.core.errors import CheckpointError
from napari_glacier.core.raster import read_raster


@pytest.fixture
def controller(workspace, monkeypatch):
    # Small windows make a small scene one of many windows.
    monkeypatch.setattr(parts, "WINDOW_PX", 64)
    monkeypatch.setattr(parts, "OVERLAP_PX", 16)
    # Converting a network takes seconds, and these tests are not about engines.
    monkeypatch.setattr("napari_glacier.nn.engines.import_openvino", lambda: None)
    controller = InferenceController(workspace)
    yield controller
    controller.close()


@pytest.fixture
def votes(controller):
    votes = VotesController(controller)
    yield votes
    votes.close()


def _request(controller, path, scope="all", tta="off"):
    return controller.request(ModelChoice("tiny", path), tta, "cpu", scope)


def _finish(job, take=lambda step: None):
    while True:
        try:
            take(next(job))
        except StopIteration as stop:
            return stop.value


def _predict(controller, request):
    outcome = _finish(controller.job(request), controller.take)
    controller.show(outcome)
    return outcome


def _cancel_after(controller, request, enough):
    """Run until a step is enough, as the widget does when a person presses Cancel then; gives that step."""
    job = controller.job(request)
    for step in job:
        controller.take(step)
        if enough(step):
            job.close()
            controller.settle()
            return step
    raise AssertionError("the job ended before")


@pytest.fixture
def ensemble(make_checkpoint, tmp_path):
    """An ensemble file of two members with other weights, views and a threshold."""
    import torch

    from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint

    first, second = make_checkpoint("first"), make_checkpoint("second")
    loaded = load_checkpoint(second)
    torch.manual_seed(11)
    for parameter in loaded.model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    save_checkpoint(second, loaded.model, loaded.card)
    path = tmp_path / "ensemble.yaml"
    path.write_text(f"name: pair\nmembers:\n- {{path: {first.name}, weight: 3}}\n- {{path: {second.name}}}\n")
    return path


def test_layers_fill_from_the_top_while_a_job_runs(workspace, controller, make_dataset, make_checkpoint):
    session = workspace.open(make_dataset(grid=(3, 3)))
    request = _request(controller, make_checkpoint())
    known = []

    def take(step):
        controller.take(step)
        if step.news:
            rows = controller.prediction.known.any(axis=1)
            known.append(int(rows.sum()))
            assert rows[: known[-1]].all()
            assert step.share == pytest.approx(known[-1] / 192)
            if known[-1] < 192:
                assert controller.incomplete == f"{int(100 * known[-1] / 192)} %"

    outcome = _finish(controller.job(request), take)
    assert known == [48, 96, 144, 192][: len(known)]
    assert len(known) >= 3
    grown = controller.prediction.index.copy()
    assert workspace.prediction_layer.data is controller.prediction.index, "the layer shows what grows"
    controller.show(outcome)

    assert np.array_equal(workspace.prediction_layer.data, grown)
    assert np.array_equal(controller.prediction.known, session.valid)
    assert (controller.incomplete, workspace.prediction_layer.name) == ("", "Prediction")
    for path in outcome.written:
        place = next(p for p in session.scenes[0].placements if p.tile.name == path.name)
        assert np.array_equal(read_raster(path)[0], session.scheme.encode(grown[place.slices]))
    assert np.array_equal(controller.prediction.counts_K, np.bincount(grown[session.valid], minlength=4))


def test_what_was_computed_stays_after_cancelling_is_marked_and_is_all_that_is_accepted(
    workspace, controller, make_dataset, make_checkpoint
):
    session = workspace.open(make_dataset(grid=(3, 3)))
    path = make_checkpoint()
    _predict(controller, _request(controller, path))
    whole = controller.prediction.index.copy()
    before = np.asarray(session.mask)
    for written in (session.root / "predictions" / "tiny").rglob("*.tif"):
        written.unlink()

    request = _request(controller, path)
    step = _cancel_after(controller, request, lambda step: step.share > 0.4)

    shown = controller.prediction
    assert step.share == 0.5
    assert controller.say_cancelled(request, step) == (
        "Cancelled: 50 % of the scene is predicted and shown. Nothing was written."
    )
    assert workspace.prediction_layer.name == "Prediction (incomplete)"
    assert workspace.uncertainty_layer.name == "Uncertainty (incomplete)"
    assert np.array_equal(shown.index[:96], whole[:96])
    assert not shown.index[96:].any(), "what an earlier run said of the rest is not passed off as this one's"
    assert np.isnan(shown.entropy[96:]).all()
    assert not shown.known[96:].any()
    assert shown.counts_K.sum() == shown.known.sum()
    assert not list((session.root / "predictions").rglob("*.tif"))
    controller.accept("all")
    expected = before.copy()
    expected[:96] = np.where(session.valid[:96], whole[:96], before[:96])
    assert np.array_equal(np.asarray(session.mask), expected)

    _predict(controller, _request(controller, path))
    assert workspace.prediction_layer.name == "Prediction"
    assert np.array_equal(workspace.prediction_layer.data, whole)


def test_cancelling_before_anything_was_computed_leaves_what_was_shown(
    workspace, controller, make_dataset, make_checkpoint
):
    workspace.open(make_dataset())
    path = make_checkpoint()
    _predict(controller, _request(controller, path))
    before = workspace.prediction_layer.data.copy()
    assert before.any()
    request = _request(controller, path, tta=8)
    step = _cancel_after(controller, request, lambda step: "preparing" in step.message)
    assert step.total == 0, "nobody can tell yet how long it takes"
    assert "before any of it" in controller.say_cancelled(request, step)
    assert np.array_equal(workspace.prediction_layer.data, before)
    assert workspace.prediction_layer.name == "Prediction"


def test_whole_scenes_of_a_cancelled_stack_are_written(workspace, controller, make_dataset, make_checkpoint):
    session = workspace.open(make_dataset(georeferenced=False, size_px=96))
    request = _request(controller, make_checkpoint())
    step = _cancel_after(controller, request, lambda step: step.part == 2 and 0 < step.share < 1)
    said = controller.say_cancelled(request, step)
    assert said.startswith("Cancelled: 2 of 4 scenes are predicted and written; of 01_00, 50 % is predicted")
    written = sorted(path.name for path in (session.root / "predictions" / "tiny").glob("*.tif"))
    assert written == sorted(scene.placements[0].tile.name for scene in session.scenes[:2])
    assert [bool(plane.any()) for plane in controller.prediction.known] == [True, True, True, False]
    assert controller.prediction.known[2, :48].all()
    assert not controller.prediction.known[2, 48:].any()
    assert controller.incomplete == f"{int(100 * 2.5 / 4)} %"


def test_scenes_off_screen_are_written_and_the_one_on_screen_is_shown(
    workspace, controller, make_dataset, make_checkpoint
):
    """Tiles of different sizes are on screen one at a time."""
    root = make_dataset(grid=(1, 2), georeferenced=False)
    from napari_glacier.core.raster import write_raster

    for band in sorted(root.glob("Band*")):
        path = sorted(band.iterdir())[1]
        write_raster(path, read_raster(path)[0][:, :48], nodata=0)
    mask = sorted((root / "label").glob("*.tif"))[1]
    write_raster(mask, read_raster(mask)[0][:, :48])
    session = workspace.open(root)
    assert not session.stacked
    job = controller.job(_request(controller, make_checkpoint()))
    outcome = _finish(job, controller.take)
    controller.show(outcome)
    assert len(outcome.written) == 2
    assert workspace.prediction_layer.data.shape == (64, 64)
    assert controller.prediction.known.sum() == session.valid.sum()
    assert controller.incomplete == ""


def test_rows_that_come_again_are_counted_once(workspace, controller, make_dataset, make_checkpoint, monkeypatch):
    """Where memory runs out in the middle, smaller windows begin at the top again."""
    from napari_glacier.nn.inference import EnsembleRunner, OutOfMemory

    session = workspace.open(make_dataset(grid=(3, 3), size_px=128))
    monkeypatch.setattr(parts, "WINDOW_PX", 256)
    monkeypatch.setattr(parts, "OVERLAP_PX", 64)
    original = EnsembleRunner.__call__

    def full(self, pieces, tick):
        if pieces[0].window.row > 0 and pieces[0].window.height > 150:
            raise OutOfMemory
        return original(self, pieces, tick)

    monkeypatch.setattr(EnsembleRunner, "__call__", full)
    starts = []

    def take(step):
        controller.take(step)
        starts.extend(news.area.row for news in step.news)

    outcome = _finish(controller.job(_request(controller, make_checkpoint())), take)
    controller.show(outcome)
    assert starts.count(0) == 2
    shown = controller.prediction
    assert np.array_equal(shown.known, session.valid)
    assert np.array_equal(shown.counts_K, np.bincount(shown.index[shown.known], minlength=4))
    place = session.scenes[0].placements[4]
    written = next(path for path in outcome.written if path.name == place.tile.name)
    assert np.array_equal(read_raster(written)[0], session.scheme.encode(shown.index[place.slices]))


def test_a_run_waits_for_the_one_that_was_cancelled(workspace, controller, make_dataset, make_checkpoint):
    workspace.open(make_dataset())
    path = make_checkpoint()
    first = controller.job(_request(controller, path))
    for _ in range(3):
        next(first)
    second = controller.job(_request(controller, path))
    assert next(second).message.startswith("Loading")
    assert "cancelled" in next(second).message
    first.close()
    assert len(_finish(second, controller.take).written) == 4


# -- votes


def _position(workspace, row, col):
    return workspace.prediction_layer.data_to_world((row, col))


def _answer(votes, question):
    assert isinstance(question, Question), question
    return votes.keep(_finish(votes.job(question)), question)


@pytest.mark.parametrize("scope", ["all", "tile"])
def test_votes_are_the_numbers_behind_the_map(controller, votes, make_dataset, ensemble, scope):
    from napari_glacier.nn.ensemble import Ensemble, resolve_models
    from napari_glacier.nn.predictor import Predictor

    workspace = controller.workspace
    session = workspace.open(make_dataset(grid=(3, 3)))
    workspace.fly_to(64, 64, 64, 64)
    _predict(controller, _request(controller, ensemble, scope, tta=2))
    pair = resolve_models([ensemble])
    usual = {"tta": 2, "device": "cpu", "window_px": 64, "overlap_px": 16}
    mean = _finish(Predictor(pair, **usual).run(session.scenes[0]))
    alone = [_finish(Predictor(Ensemble([member]), **usual).run(session.scenes[0])) for member in pair.members]

    for row, col in ((64, 64), (100, 111), (127, 96), (80, 90)):
        question = votes.question(_position(workspace, row, col))
        answer = votes.known(question) or _answer(votes, question)
        assert f"Row {row}, column {col}" in answer.where
        assert "EPSG:32643" in answer.where
        assert answer.index == answer.shown_index == workspace.prediction_layer.data[row, col]
        np.testing.assert_allclose(answer.mean_K, mean.probabilities_KHW[:, row, col], atol=2e-3)
        assert answer.entropy == pytest.approx(float(workspace.uncertainty_layer.data[row, col]), abs=2e-3)
        assert answer.entropy == pytest.approx(scipy.stats.entropy(answer.mean_K, base=4), abs=1e-5)
        assert answer.mutual_information == pytest.approx(mean.mutual_information_HW[row, col], abs=2e-3)
        assert [vote.member for vote in answer.votes] == ["first", "second"]
        for vote, single in zip(answer.votes, alone, strict=True):
            assert vote.index == single.index_HW[row, col]
            assert vote.probability == pytest.approx(single.probabilities_KHW[vote.index, row, col], abs=2e-3)


def test_a_click_nearby_needs_no_networks(workspace, controller, votes, make_dataset, make_checkpoint):
    workspace.open(make_dataset(grid=(3, 3)))
    _predict(controller, _request(controller, make_checkpoint()))
    question = votes.question(_position(workspace, 70, 75))
    assert votes.known(question) is None
    first = _answer(votes, question)
    near = votes.question(_position(workspace, 71, 76))
    second = votes.known(near)
    assert second.where != first.where
    assert second.index == workspace.prediction_layer.data[71, 76]
    assert votes.known(votes.question(_position(workspace, 5, 150))) is None, "other windows reach that pixel"
    # Another run made another map: it is asked anew.
    _predict(controller, _request(controller, make_checkpoint()))
    assert votes.known(votes.question(_position(workspace, 70, 75))) is None
    assert votes.keep(object(), question) is None, "the run that was asked about is no longer shown"


def test_pixels_of_which_nothing_can_be_said(workspace, controller, votes, make_dataset, make_checkpoint):
    assert "Nothing is predicted yet" in votes.question((0, 0))
    session = workspace.open(make_dataset(grid=(3, 3)))
    assert "Nothing is predicted yet" in votes.question((0, 0))
    request = _request(controller, make_checkpoint())
    _cancel_after(controller, request, lambda step: step.share > 0.4)
    assert not session.valid[3, 4]
    assert "No data" in votes.question(_position(workspace, 3, 4))
    assert "Not predicted" in votes.question(_position(workspace, 150, 20))
    assert "outside the scene" in votes.question(_position(workspace, -3, 20))
    assert "outside the scene" in votes.question(_position(workspace, 3, 192))
    assert isinstance(votes.question(_position(workspace, 80, 20)), Question)


def test_a_pixel_is_answered_by_the_run_that_made_it(workspace, controller, votes, make_dataset, ensemble):
    """Two tiles predicted one after the other, with other views: both stay, each with its own numbers."""
    session = workspace.open(make_dataset(grid=(3, 3)))
    workspace.fly_to(0, 0, 64, 64)
    _predict(controller, _request(controller, ensemble, "tile", tta="off"))
    workspace.fly_to(128, 128, 64, 64)
    _predict(controller, _request(controller, ensemble, "tile", tta=8))
    assert session.valid[30, 40]
    for (row, col), tta in (((30, 40), "off"), ((150, 160), 8)):
        question = votes.question(_position(workspace, row, col))
        assert question.made.request.tta == tta
        answer = _answer(votes, question)
        assert answer.entropy == pytest.approx(float(workspace.uncertainty_layer.data[row, col]), abs=2e-3)
    kept = [area.made for area in controller.prediction.areas if area.made.predictor is not None]
    assert len(kept) == 1, "the networks of one run are kept, not of all"


def test_votes_in_a_stack_are_of_the_scene_on_screen(workspace, controller, votes, make_dataset, make_checkpoint):
    session = workspace.open(make_dataset(georeferenced=False))
    _predict(controller, _request(controller, make_checkpoint()))
    question = votes.question((2, 30, 40))
    assert question.scene is session.scenes[2]
    answer = _answer(votes, question)
    assert answer.where.startswith(f"{session.scenes[2].name}, Row 30, column 40")
    assert answer.index == workspace.prediction_layer.data[2, 30, 40]
    assert "no scene there" in votes.question((9, 30, 40))


def test_a_model_that_is_gone_is_said(workspace, controller, votes, make_dataset, make_checkpoint):
    workspace.open(make_dataset(grid=(1, 1)))
    path = make_checkpoint()
    _predict(controller, _request(controller, path))
    question = votes.question(_position(workspace, 40, 40))
    controller.keep_networks(None)
    path.unlink()
    with pytest.raises(CheckpointError, match="no model"):
        _finish(votes.job(question))
