import json

import numpy as np
import pytest

from napari_glacier.controllers import parts
from napari_glacier.controllers.correction import CorrectionController
from napari_glacier.controllers.inference import InferenceController
from napari_glacier.controllers.models import ModelChoice
from napari_glacier.controllers.parts import Excerpt
from napari_glacier.core.errors import CheckpointError, DataError, RasterError
from napari_glacier.core.raster import read_info, read_raster
from napari_glacier.core.tiling import Window, blend_weights, windows


@pytest.fixture
def controller(workspace):
    controller = InferenceController(workspace)
    yield controller
    controller.close()


def _finish(job, take=lambda step: None):
    steps = []
    while True:
        try:
            steps.append(next(job))
            take(steps[-1])
        except StopIteration as stop:
            return steps, stop.value


def _predict(controller, path, scope="all"):
    request = controller.request(ModelChoice("tiny", path), "off", "cpu", scope)
    steps, outcome = _finish(controller.job(request), controller.take)
    controller.show(outcome)
    return steps, outcome


@pytest.mark.parametrize("limit", [100, 512, 513, 900, 2000])
def test_excerpts_hold_exactly_the_windows_that_count_in_the_target(monkeypatch, limit):
    monkeypatch.setattr(parts, "WINDOW_PX", 512)
    monkeypatch.setattr(parts, "OVERLAP_PX", 128)

    def counting(row: int, start: int, stop: int) -> bool:
        rows = blend_weights(Window(row, 0, 512, 512), limit, 512, 128)[:, 0]
        return bool(rows[max(start - row, 0) : max(stop - row, 0)].any())

    every = [window.row for window in windows(limit, 1, 512, 128)]
    for start in range(0, limit, 37):
        for length in (1, 200, 600):
            stop = min(start + length, limit)
            counted = [row for row in every if counting(row, start, stop)]
            first, size = parts._aligned(start, stop - start, limit)
            inside = [first + window.row for window in windows(size, 1, 512, 128)]
            assert inside == counted
            assert first + size == min(counted[-1] + 512, limit)


def test_excerpt_reads_what_the_mosaic_reads(workspace, make_dataset):
    (scene,) = workspace.open(make_dataset()).scenes
    excerpt = Excerpt(scene, Window(32, 48, 80, 70))

    image_CHW, valid_HW = excerpt.read(Window(5, 6, 20, 30), ("B2", "B6"))

    expected_CHW, expected_HW = scene.read(Window(37, 54, 20, 30), ("B2", "B6"))
    assert np.array_equal(image_CHW, expected_CHW)
    assert np.array_equal(valid_HW, expected_HW)
    assert excerpt.georef == scene.georef.offset(32, 48)


def test_prediction_becomes_layers_files_and_areas(workspace, controller, make_dataset, make_checkpoint):
    root = make_dataset()
    session = workspace.open(root)
    before = np.asarray(session.mask)

    steps, outcome = _predict(controller, make_checkpoint())

    prediction, uncertainty = workspace.prediction_layer, workspace.uncertainty_layer
    assert steps[0].message == "Loading the model…"
    assert steps[-1].done == steps[-1].total
    names = [layer.name for layer in workspace.viewer.layers]
    assert names[-3:] == ["Uncertainty", "Prediction", "Labels"]
    assert not uncertainty.visible
    assert np.array_equal(np.isfinite(uncertainty.data), session.valid), (
        "napari leaves what is not a number transparent"
    )
    assert 0 <= np.nanmin(uncertainty.data) <= np.nanmax(uncertainty.data) <= 1
    assert prediction.data.shape == (128, 128)
    assert not prediction.data[~session.valid].any()
    assert np.allclose(prediction.data_to_world((5, 7)), workspace.labels_layer.data_to_world((5, 7)))
    assert np.array_equal(np.asarray(session.mask), before), "a prediction never writes over labels by itself"

    assert len(outcome.written) == 4
    for path in outcome.written:
        tile = next(tile for tile in session.dataset.tiles if tile.name == path.name)
        assert path.parent == root / "predictions" / "tiny"
        assert read_info(path).georef.transform == tile.georef.transform
        place = session.find(tile.id)[1]
        assert np.array_equal(read_raster(path)[0], session.scheme.encode(prediction.data[place.slices]))

    rows = controller.legend()
    assert [row[1] for row in rows] == list(session.scheme.class_names)
    total = sum(float(row[2].removesuffix(" km²").replace(",", "")) for row in rows)
    assert total == pytest.approx(session.valid.sum() * 900 / 1e6, abs=0.03)


def test_a_part_on_screen_equals_the_same_part_of_everything(
    workspace, controller, make_dataset, make_checkpoint, monkeypatch
):
    # Small windows make a small scene one of many windows.
    monkeypatch.setattr(parts, "WINDOW_PX", 64)
    monkeypatch.setattr(parts, "OVERLAP_PX", 16)
    workspace.open(make_dataset(grid=(3, 3)))
    path = make_checkpoint()
    _predict(controller, path)
    whole = workspace.prediction_layer.data.copy()
    certain = workspace.uncertainty_layer.data.copy()
    controller._on_session(None)

    workspace.labels_layer.corner_pixels = np.array([[70, 50], [130, 161]])
    _, outcome = _predict(controller, path, "view")

    shown = workspace.prediction_layer.data
    where = np.zeros(whole.shape, bool)
    where[70:130, 50:161] = True
    assert isinstance(outcome.made.request.parts[0].scene, Excerpt)
    assert np.array_equal(shown[where], whole[where])
    assert not shown[~where].any()
    np.testing.assert_allclose(workspace.uncertainty_layer.data[where], certain[where], atol=1e-5)
    assert outcome.written == (), "no tile lies wholly on screen"


def test_one_tile_is_predicted_and_written(workspace, controller, make_dataset, make_checkpoint):
    session = workspace.open(make_dataset())
    place = session.scenes[0].placements[2]
    workspace.fly_to(place.row, place.col, 64, 64)

    _, outcome = _predict(controller, make_checkpoint(), "tile")

    (path,) = outcome.written
    assert path.name == place.tile.name
    shown = workspace.prediction_layer.data
    assert np.array_equal(read_raster(path)[0], session.scheme.encode(shown[place.slices]))
    outside = np.ones(shown.shape, bool)
    outside[place.slices] = False
    assert not shown[outside].any()


def test_accepting_is_one_stroke_that_undo_takes_back(workspace, controller, make_dataset, make_checkpoint):
    session = workspace.open(make_dataset())
    correction = CorrectionController(workspace)
    before = np.asarray(session.mask)
    workspace.labels_layer.paint((100, 100), (int(before[100, 100]) + 1) % 4)
    session.commit()
    painted = np.asarray(session.mask)
    _predict(controller, make_checkpoint())
    predicted = workspace.prediction_layer.data

    changed = controller.accept("all")

    assert changed == (predicted != painted)[session.valid].sum()
    assert np.array_equal(np.asarray(session.mask), np.where(session.valid, predicted, 0))
    newest = session.journal.history(1)[0]
    assert (newest.tool, newest.model) == ("accept", "tiny")
    correction.undo()
    assert np.array_equal(np.asarray(session.mask), painted)
    correction.undo()
    assert np.array_equal(np.asarray(session.mask), before)
    correction.close()


def test_accepting_spares_what_a_person_labelled_and_what_is_off_screen(
    workspace, controller, make_dataset, make_checkpoint
):
    root = make_dataset()
    next((root / "label").glob("mask_01_01.tif")).unlink()
    session = workspace.open(root)
    _predict(controller, make_checkpoint())
    before = np.asarray(session.mask)
    predicted = workspace.prediction_layer.data
    place = session.scenes[0].placements[3]
    assert place.tile.mask_path is None

    controller.accept("unlabelled")

    expected = before.copy()
    expected[place.slices] = predicted[place.slices]
    assert np.array_equal(np.asarray(session.mask), expected)
    session.save()
    with pytest.raises(DataError, match="has labels already"):
        controller.accept("unlabelled")

    workspace.labels_layer.corner_pixels = np.array([[20, 20], [40, 50]])
    controller.accept("view")
    expected[20:40, 20:50] = np.where(session.valid, predicted, expected)[20:40, 20:50]
    assert np.array_equal(np.asarray(session.mask), expected)


def test_a_model_of_other_classes_is_not_accepted(workspace, controller, make_dataset, make_checkpoint):
    workspace.open(make_dataset())
    _predict(controller, make_checkpoint("two", scheme="glacier2"))
    with pytest.raises(DataError, match="the labels have background, glacier, debris, lake"):
        controller.accept("all")


def test_a_stack_is_predicted_plane_by_plane(workspace, controller, make_dataset, make_checkpoint):
    session = workspace.open(make_dataset(georeferenced=False))
    _, outcome = _predict(controller, make_checkpoint())
    assert workspace.prediction_layer.data.shape == (4, 64, 64)
    assert len(outcome.written) == 4
    controller.accept("all")
    assert np.array_equal(np.asarray(session.mask), workspace.prediction_layer.data)


def test_cancelling_leaves_nothing_running(workspace, controller, make_dataset, make_checkpoint):
    workspace.open(make_dataset())
    job = controller.job(controller.request(ModelChoice("t", make_checkpoint()), 8, "cpu", "all"))
    for _ in range(3):
        next(job)
    job.close()
    assert workspace.prediction_layer is None


def test_models_are_found_and_wrong_files_refused(workspace, controller, make_dataset, make_checkpoint, tmp_path):
    root = make_dataset()
    run = root / "runs" / "20260101-000000-smoke"
    run.mkdir(parents=True)
    make_checkpoint("best", folder=run)
    workspace.open(root)

    titles = [choice.title for choice in controller.models()]
    assert "20260101-000000-smoke" in titles
    picked = controller.add_model(make_checkpoint("mine"))
    assert picked in controller.models()
    assert controller.add_model(picked.source) == picked
    assert [choice.title for choice in controller.models()].count("mine") == 1
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="is no model"):
        controller.add_model(tmp_path / "notes.txt")
    with pytest.raises(CheckpointError, match="is no model"):
        controller.add_model(root)


def test_nothing_is_predicted_before_a_dataset_is_open(controller):
    with pytest.raises(DataError, match="No dataset is open"):
        controller.request(ModelChoice("t", None), "off", "cpu", "all")


def test_a_prediction_never_lies_over_another_dataset(workspace, controller, make_dataset, make_checkpoint):
    first, second = make_dataset("first", grid=(1, 1)), make_dataset("second", grid=(1, 1))
    workspace.open(first)
    job = controller.job(controller.request(ModelChoice("tiny", make_checkpoint()), "off", "cpu", "all"))
    steps, outcome = _finish(job)
    workspace.open(second)
    for step in steps:
        controller.take(step)
    assert any(step.news for step in steps)
    with pytest.raises(DataError, match="another dataset is open"):
        controller.show(outcome)
    assert workspace.prediction_layer is None
    assert (first / "predictions").is_dir()
    assert not (second / "predictions").exists()


def test_layers_that_were_deleted_come_back_with_the_new_result_alone(
    workspace, controller, make_dataset, make_checkpoint
):
    workspace.open(make_dataset(grid=(1, 2)))
    path = make_checkpoint()
    _predict(controller, path)
    workspace.viewer.layers.remove(workspace.uncertainty_layer)
    _predict(controller, path)
    assert workspace.uncertainty_layer is not None
    workspace.viewer.layers.remove(workspace.prediction_layer)
    workspace.labels_layer.corner_pixels = np.array([[0, 0], [64, 64]])
    _predict(controller, path, "view")
    assert np.isnan(workspace.uncertainty_layer.data[:, 64:]).all()


@pytest.fixture
def namesakes(make_checkpoint, tmp_path):
    """Maker of two checkpoints of one name and other weights, of the schemes asked for."""

    def make(first="glacier4", second="glacier4"):
        import torch

        from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint

        paths = []
        for folder, scheme in (("member-1", first), ("member-2", second)):
            (tmp_path / folder).mkdir()
            paths.append(make_checkpoint("tiny", scheme, tmp_path / folder))
        loaded = load_checkpoint(paths[1])
        torch.manual_seed(11)
        for parameter in loaded.model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        save_checkpoint(paths[1], loaded.model, loaded.card)
        return paths

    return make


def test_a_model_of_the_same_name_and_other_classes_begins_a_map_of_its_own(
    workspace, controller, make_dataset, namesakes
):
    workspace.open(make_dataset(grid=(1, 2)))
    four, two = namesakes("glacier4", "glacier2")
    _predict(controller, four)

    _predict(controller, two, "tile")

    assert controller.prediction.scheme.class_names == ("background", "glacier")
    assert len(controller.legend()) == 2
    assert controller.prediction.known.sum() <= 64 * 64


def test_models_of_one_name_are_neither_mixed_on_screen_nor_on_disk(workspace, controller, make_dataset, namesakes):
    session = workspace.open(make_dataset(grid=(1, 2)))
    first, second = namesakes()
    _, outcome = _predict(controller, first)
    before = {path: path.read_bytes() for path in outcome.written}
    place = session.scenes[0].placements[0]
    workspace.fly_to(place.row, place.col, 64, 64)

    _, of_second = _predict(controller, second, "tile")

    assert {area.made for area in controller.prediction.areas} == {of_second.made}
    outside = np.ones(session.mask.shape, bool)
    outside[place.slices] = False
    assert not controller.prediction.known[outside].any()
    assert {path: path.read_bytes() for path in before} == before
    (written,) = of_second.written
    assert written.parent.name == f"tiny-{of_second.made.digest[:8]}"

    _, again = _predict(controller, second, "tile")
    assert again.written == of_second.written
    _, of_first = _predict(controller, first)
    assert of_first.written == outcome.written, "a model goes on in its own folder"


def test_a_folder_written_without_a_digest_is_known_by_its_members(workspace, controller, make_dataset, namesakes):
    root = make_dataset(grid=(1, 1))
    workspace.open(root)
    first, second = namesakes()
    _predict(controller, first)
    # As the terminal writes it; and a line that a crash cut off.
    record = root / "predictions" / "tiny" / "provenance.jsonl"
    line = json.loads(record.read_text())
    del line["provenance"]["model_digest"]
    record.write_text(json.dumps(line) + '\n{"scene": "x", "prov')

    _, of_second = _predict(controller, second)
    assert of_second.written[0].parent.name.startswith("tiny-")
    _, of_first = _predict(controller, first)
    assert of_first.written[0].parent.name == "tiny"


def test_the_map_of_another_scene_is_not_taken_over(workspace, controller, make_unequal_scenes, make_checkpoint):
    # The first two are of one size, and could be mistaken for each other.
    session = workspace.open(make_unequal_scenes(3))
    _predict(controller, make_checkpoint())
    assert controller.legend()

    for number in (1, 2):
        workspace.show_scene(number)
        assert not controller.has_prediction
        assert controller.legend() == []
        assert controller.incomplete == ""
        with pytest.raises(DataError, match="no prediction of the scene on screen"):
            controller.accept("all")
        assert not session.unsaved()

    workspace.show_scene(0)
    assert controller.has_prediction
    assert controller.accept("all") > 0


def test_a_band_that_has_vanished_is_named(workspace, controller, make_dataset, make_checkpoint):
    root = make_dataset(grid=(1, 2))
    workspace.open(root)
    gone = next((root / "Band1").glob("*.tif"))
    gone.unlink()
    with pytest.raises(RasterError, match=f"{gone.name} cannot be read.*Put the file back"):
        _predict(controller, make_checkpoint())


def test_a_prediction_whose_layer_a_person_took_away_is_not_taken_over(
    workspace, controller, two_scenes, make_checkpoint
):
    _predict(controller, make_checkpoint())
    assert controller.legend()
    workspace.viewer.layers.remove(workspace.prediction_layer)
    assert not controller.has_prediction
    assert controller.legend() == []
    with pytest.raises(DataError, match="no prediction of the scene on screen"):
        controller.accept("all")
    assert not two_scenes.unsaved()


@pytest.mark.parametrize("asked", [("tta: 2\n", "2"), ("", "off")], ids=["2 views", "none"])
def test_a_model_is_asked_for_the_views_that_its_file_names(
    workspace, controller, make_dataset, make_checkpoint, asked
):
    named, views = asked
    workspace.open(make_dataset())
    checkpoint = make_checkpoint()
    path = checkpoint.with_name("ensemble.yaml")
    path.write_text(f"members:\n  - {{path: {checkpoint.name}}}\n{named}")
    request = controller.request(ModelChoice("ensemble", path), "own", "cpu", "all")
    _, outcome = _finish(controller.job(request), controller.take)
    (line,) = (outcome.written[0].parent / "provenance.jsonl").read_text().splitlines()
    assert json.loads(line)["provenance"]["tta"] == views
