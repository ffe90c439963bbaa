import json
import os
import shutil
import sys
import time

import pytest

from napari_glacier.controllers.run_curves import OtherRuns
from napari_glacier.controllers.training import Curves, Plan, TrainingController, duration
from napari_glacier.core.config_files import load_config
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.runfiles import RunFolder


@pytest.fixture
def controller(workspace):
    controller = TrainingController(workspace)
    yield controller
    controller.close()


def _wait(controller, states, seconds=120):
    end = time.monotonic() + seconds
    while controller.state not in states:
        assert time.monotonic() < end, (controller.state, controller.log_tail())
        time.sleep(0.1)
        controller.poll()
    controller.poll()


def test_recipes_say_what_they_are_for(controller):
    assert "smoke" in controller.recipes()
    assert controller.recipe_note("smoke") == "A run of seconds that goes through every part of the trainer;".rstrip(
        ";"
    )
    assert controller.recipe_epochs("smoke") == 2


def test_the_open_dataset_is_the_default(controller, workspace, make_dataset):
    assert controller.default_data is None
    root = make_dataset()
    workspace.open(root)
    assert controller.default_data == root
    assert controller.default_output == root / "runs"


def test_plan_becomes_a_valid_configuration(controller, tmp_path):
    data = tmp_path / "it's here"
    data.mkdir()

    config = controller.configure(Plan("smoke", data, tmp_path / "runs", epochs=7, init_from="a: b'c", device="cpu"))

    assert config.data.train == data
    assert config.output == tmp_path / "runs"
    assert config.train.epochs == 7
    assert config.model.init_from == "a: b'c"
    assert config.recipe == "smoke"


def test_a_plan_that_cannot_work_starts_nothing(controller, tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        controller.start(Plan("smoke", tmp_path / "nowhere", tmp_path / "runs"))
    with pytest.raises(ConfigError, match="no recipe"):
        controller.start(Plan("nonsense", tmp_path, tmp_path / "runs"))
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(DataError, match="No run folder can be made"):
        controller.start(Plan("smoke", tmp_path, blocked / "runs"))
    assert controller.run is None


def test_events_become_curves_and_a_status_line(controller, tmp_path):
    run = RunFolder.create(tmp_path, "test")
    run.config_path.write_text("{}")
    run.append_event("start", config={"train": {"epochs": 4}})
    controller.follow(run)
    run.write_process()
    for epoch, mcc in ((1, 0.2), (2, 0.5)):
        run.append_event("epoch", epoch=epoch, epochs=4, train_loss=1 / epoch, val_mcc=mcc, eta_s=600, best=True)
    run.append_event("step", epoch=3, step=5, steps=20, loss=0.1)

    assert controller.poll()
    assert not controller.poll()

    assert controller.curves.epochs == [1, 2]
    assert controller.curves.series["val_mcc"] == [0.2, 0.5]
    assert controller.state == "running"
    assert controller.status == "Epoch 3 of 4, step 5/20, 10 min left, best validation MCC 0.500 (epoch 2)"
    controller.stop()
    assert run.stop_requested()
    assert controller.state == "stopping"
    run.append_event("stopped", checkpoint=str(run.best_path))
    controller.poll()
    assert controller.status == "Stopped; it can be resumed; best validation MCC 0.500 (epoch 2)."


def test_the_last_epoch_is_not_called_the_best_where_nothing_is_chosen(controller, tmp_path):
    run = RunFolder.create(tmp_path, "test")
    run.config_path.write_text("{}")
    run.append_event("start", config={"train": {"epochs": 2, "monitor": "none"}})
    for epoch, mcc in ((1, 0.5), (2, 0.25)):
        run.append_event("epoch", epoch=epoch, epochs=2, train_loss=1.0, val_mcc=mcc, best=True)
    run.append_event("done", checkpoint=str(run.best_path))
    controller.follow(run)
    assert controller.status == "Finished; validation MCC 0.250 (epoch 2)."


def test_epochs_done_again_after_a_resume_replace_the_old_ones():
    curves = Curves()
    for epoch, loss in ((1, 3.0), (2, 2.0), (3, 9.0), (2, 1.5)):
        curves.take({"event": "epoch", "epoch": epoch, "train_loss": loss, "epochs": 5})
    assert curves.epochs == [1, 2]
    assert curves.series["train_loss"] == [3.0, 1.5]


def test_reattaching_takes_a_living_run_before_a_newer_dead_one(controller, tmp_path):
    living, dead = tmp_path / "20260101-000000-a", tmp_path / "20260102-000000-b"
    for folder in (living, dead):
        folder.mkdir()
        (folder / "run.yaml").write_text("{}")
    RunFolder(living).write_process()

    assert [run.path for run in controller.runs(tmp_path)] == [dead, living]
    assert controller.reattach(tmp_path).path == living
    assert controller.reattach(tmp_path / "empty") is None


def test_a_trainer_that_falls_over_is_noticed_and_explains_itself(controller, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    run = controller.start(Plan("smoke", data, tmp_path / "runs"))
    assert controller.active

    _wait(controller, {"failed"})

    assert load_config(run.config_path).data.train == data
    assert "No tiles were found" in controller.status + controller.log_tail()
    assert controller.status.startswith("Failed")


def test_the_real_trainer_runs_in_a_process_of_its_own(controller, tmp_path, make_dataset):
    seen = []
    controller.progressed.connect(lambda: seen.append(controller.state))
    run = controller.start(Plan("smoke", make_dataset(), tmp_path / "runs", epochs=1, device="cpu"))
    assert controller.state == "starting"
    # Followed by a window opened later, too.
    other = TrainingController(controller.workspace)

    _wait(controller, {"done", "failed"})

    assert controller.state == "done", controller.log_tail()
    assert controller.checkpoint == run.best_path
    assert controller.curves.epochs == [1]
    assert "running" in seen
    assert other.reattach(tmp_path / "runs").path == run.path
    assert other.status.startswith("Finished")
    assert not other.resumable


def test_durations_are_for_people():
    assert [duration(s) for s in (4, 89, 600, 12_000)] == ["4 s", "89 s", "10 min", "3 h 20 min"]


def test_widgets_open_without_torch_and_what_else_is_slow_to_import():
    import subprocess

    code = (
        "import sys, napari_glacier._widgets as widgets\n"
        "views = [getattr(widgets, name) for name in widgets.__all__]\n"
        "slow = {'scipy.ndimage', 'scipy.sparse', 'scipy.optimize', 'rasterio', 'cv2'}\n"
        "bad = slow | {'torch', 'matplotlib', 'torchvision', 'segmentation_models_pytorch', 'timm'}\n"
        "bad &= set(sys.modules)\n"
        "print(sorted(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def _elsewhere(run: RunFolder) -> None:
    """A run as another host has written it."""
    run.write_process()
    record = json.loads((run.path / "process.json").read_text())
    (run.path / "process.json").write_text(json.dumps(record | {"host": "node17", "pid": 4_000_000}))


def test_a_run_of_another_host_lives_as_long_as_it_is_heard(controller, tmp_path):
    run = RunFolder.create(tmp_path, "far")
    run.config_path.write_text("{}")
    run.append_event("start", config={"train": {"epochs": 4}})
    run.append_event("epoch", epoch=1, epochs=4, val_mcc=0.3, eta_s=60, best=True)
    _elsewhere(run)
    assert controller.reattach(tmp_path).path == run.path
    assert controller.state == "running"
    assert controller.active
    assert "on node17" in controller.status
    assert run.state() == "failed", "whoever would train in it asks for a process of this host"
    assert "a file called stop into its folder" in controller.stop()
    for name in ("events.jsonl", "process.json"):
        os.utime(run.path / name, (time.time() - 3600,) * 2)
    run.clear_stop()
    assert controller.state == "silent"
    assert not controller.active
    assert "Nothing heard from node17 for 60 min; epoch 1 was its last." in controller.status
    run.append_event("done", message="Done.")
    controller.poll()
    assert controller.state == "done"


def test_any_run_folder_can_be_followed(controller, tmp_path):
    run = RunFolder.create(tmp_path / "mounted", "x")
    run.append_event("start", config={})
    assert controller.open_run(run.path).path == run.path
    with pytest.raises(DataError, match="is not a run folder"):
        controller.open_run(tmp_path)
    assert controller.run.path == run.path


def test_other_runs_are_read_as_they_grow(tmp_path):
    others, runs = OtherRuns(), [RunFolder.create(tmp_path, name) for name in ("a", "b")]
    for run in runs:
        run.append_event("epoch", epoch=1, epochs=2, val_loss=1.0)
    others.choose(runs)
    assert others.read()
    assert not others.read()
    runs[1].append_event("epoch", epoch=2, epochs=2, val_loss=0.5)
    assert others.read()
    assert [curves.series["val_loss"] for _, curves in others.curves()] == [[1.0], [1.0, 0.5]]
    others.choose(runs[1:])
    assert [name for name, _ in others.curves()] == [runs[1].path.name]
    assert not others.read(), "what was read is kept"


def test_a_run_folder_that_is_gone_or_read_only_cannot_be_asked_to_stop(controller, tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path, "far")
    run.append_event("start", config={})
    controller.follow(run)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "request_stop", refuse)
        with pytest.raises(DataError, match=r"cannot be asked .* \(Permission denied\)"):
            controller.stop()
    shutil.rmtree(run.path)
    with pytest.raises(DataError, match=r"no file can be put into .*far \(No such file or directory\)"):
        controller.stop()


def test_another_dataset_lets_go_of_a_run_that_ended_but_not_of_one_opened_or_under_way(controller, tmp_path):
    run = RunFolder.create(tmp_path / "a", "x")
    run.config_path.write_text("{}")
    run.append_event("stopped")
    controller.follow(run)
    controller.reattach(tmp_path / "b")
    assert controller.run is run, "only another dataset lets go"
    controller.reattach(tmp_path / "b", lets_go=True)
    assert controller.run is None
    assert (controller.state, controller.resumable, controller.checkpoint) == ("new", False, None)

    opened = controller.open_run(run.path)
    controller.reattach(tmp_path / "b", lets_go=True)
    assert controller.run is opened

    living = RunFolder.create(tmp_path / "c", "x")
    living.write_process()
    controller.follow(living)
    controller.reattach(tmp_path / "b", lets_go=True)
    assert controller.run is living
