"""The Report widget's decisions without a window: figures are those of the terminal, files are whole or not there."""

import csv
from pathlib import Path

import numpy as np
import pyogrio
import pytest
from scipy.ndimage import gaussian_filter

from napari_glacier.cli import main
from napari_glacier.controllers.report import OutlineWish, ReportController, area_lines, further_facts
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.errors import ConfigError, DataError, SaveError
from napari_glacier.core.raster import write_mask, write_raster

FOUR = get_scheme("glacier4")


def predict(root, out, seed=0, probabilities=True, fingerprint="f"):
    """A prediction that is wrong in places."""
    dataset = open_dataset(root)
    rng = np.random.default_rng(seed)
    for tile in dataset.tiles:
        truth_HW = dataset.read_mask(tile)
        scores = np.stack(
            [2.5 * (truth_HW == k) + 12 * gaussian_filter(rng.normal(size=truth_HW.shape), 4) for k in range(4)]
        )
        share = np.exp(scores) / np.exp(scores).sum(axis=0)
        tags = {"ensemble": "test", "fingerprint": fingerprint}
        write_mask(out / tile.name, scores.argmax(axis=0).astype(np.uint8), FOUR, tile.georef, tags)
        if probabilities:
            path = out / "probabilities" / tile.name
            write_raster(path, share.astype(np.float32), tile.georef, description=tags)
    return out


def run(job):
    """Every step of a job, and what it gives."""
    steps = []
    while True:
        try:
            steps.append(next(job))
        except StopIteration as end:
            return steps, end.value


@pytest.fixture
def controller(workspace, make_dataset):
    root = make_dataset(grid=(2, 3), size_px=48)
    predict(root, root / "predictions" / "wobbly")
    workspace.open(root)
    return ReportController(workspace)


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_can_be_reported_on_is_offered(controller, tmp_path):
    labels, prediction = controller.maps()
    assert (labels.path, labels.title) == (None, "The saved labels")
    assert prediction.has_probabilities
    assert [truth.names for truth in controller.truths(labels)] == [()]
    session = controller.session
    session.set_review(session.tile_ids[2], "approved")
    titles = {truth.title: truth.names for truth in controller.truths(prediction)}
    assert titles["Approved tiles (1)"] == (session.tile_ids[2],)
    assert titles["All labelled tiles (6)"] == ("all",)
    with pytest.raises(DataError, match="holds no masks"):
        controller.pick(tmp_path)


def test_figures_are_those_of_the_terminal(controller, tmp_path, capsys):
    prediction = controller.maps()[1]
    everything = controller.truths(prediction)[-1]
    request = controller.request(prediction, everything, 0.9)

    steps, made = run(controller.job(request))

    assert steps[-1].what == "Drawing the page"
    command = ["report", str(prediction.path), "--labels", str(request.root), "--calibrate-on", "all", "--level", "0.9"]
    assert main([*command, "--out", str(tmp_path / "r")]) == 0
    for name in ("areas.csv", "tiles.csv"):
        ours, theirs = read_rows(made.page.parent / name), read_rows(tmp_path / "r" / name)
        # The window names the dataset, so that review states are known.
        assert [{**row, "review": ""} for row in ours] == [{**row, "review": ""} for row in theirs]
    assert made.page.is_file()
    lines = area_lines(made.report)
    assert [line.name for line in lines] == ["glacier", "debris", "lake", "glacier + debris"]
    assert lines[0].mapped == f"{float(ours_of(made, 'glacier')['area_km2']):.2f}"
    assert not any("*" in line.interval for line in lines)
    assert dict(further_facts(made.report))["Ice–debris border"].endswith(" km")


def ours_of(made, name):
    return next(row for row in read_rows(made.page.parent / "areas.csv") if row["class"] == name)


def test_labels_are_measured_as_saved_and_the_session_stays_writable(controller):
    labels = controller.maps()[0]
    session = controller.session
    session.mask[40:44, 40:44] = 3
    session.commit()

    _, made = run(controller.job(controller.request(labels, controller.truths(labels)[0])))

    assert any("not saved" in note for note in made.notes)
    assert not any("--" in note for note in made.notes), "the window has no options"
    assert not session.read_only
    session.set_review(session.tile_ids[0], "edited")
    assert session.save().failed == {}
    assert open_dataset(session.root).tiles == session.dataset.tiles, "reports are no part of the dataset"


def test_a_cancelled_report_leaves_nothing(controller):
    prediction = controller.maps()[1]
    request = controller.request(prediction, controller.truths(prediction)[0])
    job = controller.job(request)
    next(job)
    job.close()
    assert not request.out.exists()


def test_two_reports_do_not_replace_each_other(controller):
    labels = controller.maps()[0]
    first = controller.request(labels, controller.truths(labels)[0])
    run(controller.job(first))
    with pytest.raises(SaveError, match=r"holds report\.html already"):
        run(controller.job(first))


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_outlines_are_those_of_the_terminal(controller, tmp_path, suffix):
    prediction = controller.maps()[1]
    _, made = run(controller.job(controller.request(prediction, controller.truths(prediction)[-1])))
    wish = OutlineWish(smooth=True, merge_debris=True, min_area_km2=0.01, src_date="2020-10-23")

    steps, (path, said) = run(controller.outline_job(made, tmp_path / f"window{suffix}", wish))

    out = tmp_path / f"terminal{suffix}"
    command = ["outlines", str(prediction.path), "--data", str(controller.session.root), "--out", str(out)]
    command += ["--merge", "glacier", "debris", "--smooth", "1", "--min-area", "0.01", "--date", "2020-10-23"]
    assert main([*command, "--calibration", str(made.page.parent / "calibration.json")]) == 0
    ours, theirs = pyogrio.raw.read(path), pyogrio.raw.read(out)
    assert len(ours[2]) > 3
    assert f"{len(ours[2])} polygons written" in said
    assert ours[2].tolist() == theirs[2].tolist()
    for mine, other in zip(ours[3], theirs[3], strict=True):
        assert mine.tolist() == pytest.approx(other.tolist(), nan_ok=True) if mine.dtype.kind == "f" else True
        assert mine.dtype.kind == "f" or mine.tolist() == other.tolist()
    assert steps


def test_wrong_wishes_are_named_in_the_windows_words(controller, tmp_path):
    labels = controller.maps()[0]
    _, made = run(controller.job(controller.request(labels, controller.truths(labels)[0])))
    with pytest.raises(ConfigError, match="is no date"):
        run(controller.outline_job(made, tmp_path / "a.gpkg", OutlineWish(src_date="autumn")))
    with pytest.raises(DataError, match="smallest area") as caught:
        run(controller.outline_job(made, tmp_path / "a.gpkg", OutlineWish(min_area_km2=1e6)))
    assert "--" not in str(caught.value)
    assert not (tmp_path / "a.gpkg").exists()


def test_two_class_labels_are_compared_with_glacier_and_debris(workspace, make_dataset):
    root = make_dataset(scheme="glacier2")
    four = make_dataset("four", scheme="glacier4")
    predict(four, root / "predictions" / "four classes")
    workspace.open(root)
    controller = ReportController(workspace)
    prediction = controller.maps()[1]

    _, made = run(controller.job(controller.request(prediction, controller.truths(prediction)[-1])))

    assert [change.name for change in made.report.changes] == ["glacier + debris"]
    assert any("one class of glacier" in note for note in made.notes)
    assert [line.name for line in area_lines(made.report) if "*" not in line.interval] == ["glacier + debris"]


def test_probabilities_of_an_earlier_run_are_left_out(controller):
    path = controller.maps()[1].path
    predict(controller.session.root, path, seed=3, probabilities=False, fingerprint="later")
    prediction = controller.maps()[1]

    _, made = run(controller.job(controller.request(prediction, controller.truths(prediction)[0])))

    assert any("of another prediction" in note for note in made.notes)
    assert not any(line.interval for line in area_lines(made.report))


def test_nothing_to_report_on_is_said(workspace, make_dataset):
    controller = ReportController(workspace)
    assert controller.maps() == []
    with pytest.raises(ConfigError, match="No dataset"):
        controller.request(None, controller.truths(None)[0])
    workspace.open(make_dataset(masks=False))
    with pytest.raises(ConfigError, match="no labels and no predictions"):
        controller.request(None, controller.truths(None)[0])


def test_folders_that_cannot_be_read_are_passed_over(controller, tmp_path, monkeypatch):
    root = controller.session.root
    away = predict(root, tmp_path / "away", probabilities=False)
    assert controller.pick(away).path == away
    locked = {root / "predictions" / "locked", away / "probabilities"}
    for folder in locked:
        folder.mkdir(parents=True)
    iterdir, rglob = Path.iterdir, Path.rglob

    def refusing(original):
        def look(self, *arguments):
            if self in locked:
                raise PermissionError(13, "Permission denied", str(self))
            return original(self, *arguments)

        return look

    monkeypatch.setattr(Path, "iterdir", refusing(iterdir))
    monkeypatch.setattr(Path, "rglob", refusing(rglob))
    assert [choice.title for choice in controller.maps()] == ["The saved labels", "Prediction of wobbly"]
    locked.add(root / "predictions")
    assert [choice.title for choice in controller.maps()] == ["The saved labels"]
