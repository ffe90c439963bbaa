"""What a run is to be: its tiles, its commands, its estimate, the devices."""

import os
import shlex
import shutil
import subprocess
from dataclasses import replace

import pytest

from napari_glacier.controllers import training_estimates
from napari_glacier.controllers.training import TrainingController
from napari_glacier.controllers.training_estimates import estimate, gpus_used
from napari_glacier.controllers.training_plans import (
    Plan,
    commands,
    devices_found,
    follow_command,
    propose,
    tiles_that_count,
)
from napari_glacier.core.config_files import load_config
from napari_glacier.core.errors import DataError
from napari_glacier.core.runfiles import RunFolder


def test_review_states_tell_which_tiles_count(workspace, make_dataset):
    session = workspace.open(make_dataset())
    first, second, third, _ = session.tile_ids
    assert tiles_that_count(session, "all") is None
    session.set_review(first, "approved")
    with pytest.raises(DataError, match=r"1 labelled training tile\(s\) are approved, and 2 are needed"):
        tiles_that_count(session, "approved")
    session.set_review(second, "edited")
    session.set_review(third, "rejected")
    assert tiles_that_count(session, "edited") == (first, second)
    with pytest.raises(DataError, match="is known of an open dataset"):
        tiles_that_count(None, "approved")


def test_tiles_of_the_val_split_do_not_train(workspace, make_dataset):
    session = workspace.open(make_dataset(splits=("train", "val"), grid=(1, 2)))
    for tile_id in session.tile_ids:
        session.set_review(tile_id, "approved")
    assert tiles_that_count(session, "approved") == tuple(tile.id for tile in session.dataset.split("train"))


def test_few_labelled_pixels_ask_for_the_recipe_made_for_them(workspace, make_dataset, monkeypatch):
    assert TrainingController(workspace).proposal is None
    session = workspace.open(make_dataset(splits=("train", "val"), grid=(1, 2)))
    proposal = TrainingController(workspace).proposal
    assert proposal is not None
    assert proposal.recipe == "tiny_data"
    assert proposal.reason.startswith("2 labelled tiles (0.0 million pixels) are few")  # those of the train split
    monkeypatch.setattr("napari_glacier.controllers.training_plans._FEW_PIXELS", 2 * 64 * 64 - 1)
    assert propose(session.dataset) is None
    assert propose(workspace.open(make_dataset("bare", masks=False)).dataset) is None


def test_of_two_classes_a_second_run_is_told_of(workspace, make_dataset):
    two, four = (
        propose(workspace.open(make_dataset(scheme, scheme=scheme)).dataset) for scheme in ("glacier2", "glacier4")
    )
    assert two.recipe == four.recipe == "tiny_data"
    assert "A run of surroundings beside it" in two.reason
    assert "surroundings" not in four.reason


@pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")
def test_the_commands_say_what_the_plan_says(workspace, tmp_path):
    plan = Plan("smoke", tmp_path, tmp_path / "it's a run", epochs=7, init_from="a: b'c", tiles=("02_07", "x y"))
    plan = replace(plan, settings=("optim.lr=0.02", "loss.terms={ce: 1, dice: {steps: {1: 2.0, 20: 1.5}}}"))
    expected = TrainingController(workspace).configure(plan)
    lines = commands(plan).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if "training.run" in line]
    assert [words[0] for words in found] == ["python", "torchrun", "srun"]
    for words in found:
        settings = words[words.index("--set") + 1 :]
        settings = settings[: settings.index("--devices")] if "--devices" in settings else settings
        config = load_config(words[words.index("--config") + 1], settings)
        assert config.data.tiles == ["02_07", "x y"]
        assert (config.optim.lr, config.loss.terms["dice"].at(20)) == (0.02, 1.5)
        assert config.model_copy(update={"recipe": expected.recipe}) == expected


def _run(folder, name, recipe, *seconds):
    run = RunFolder(folder / name)
    run.path.mkdir()
    run.config_path.write_text("{}")
    run.append_event("start", config={"recipe": recipe})
    for epoch, value in enumerate(seconds, start=1):
        run.append_event("epoch", epoch=epoch, seconds=value)
    return run


def test_the_estimate_takes_the_pace_of_the_newest_run_of_the_recipe(tmp_path):
    plan = Plan("quick", tmp_path, tmp_path, epochs=12)
    runs = [
        _run(tmp_path, "4", "quick"),
        _run(tmp_path, "3", "finetune", 1.0),
        _run(tmp_path, "2", "quick", 40.0, 20.0, 20.0),
        _run(tmp_path, "1", "quick", 1.0),
    ]
    runs[2].best_path.write_bytes(b"0" * 3_000_000)
    assert estimate(plan, runs).startswith(
        "Estimate: about 4 min for 12 epochs at most, 3 MB on disk, by the pace of 2"
    )
    assert "told after the first epoch" in estimate(plan, runs[:2])


@pytest.mark.skipif(os.name == "nt", reason="a script stands for the program")
def test_devices_are_those_that_the_driver_names(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [name for name, _ in devices_found()] == ["auto", "cpu"]
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034'\necho 'NVIDIA L4, 23034'\n")
    program.chmod(0o755)
    assert devices_found()[2:] == [("cuda:0", "NVIDIA L4 (22 GB)"), ("cuda:1", "NVIDIA L4 (22 GB)")]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert [name for name, _ in devices_found()] == ["auto", "cpu"]


def test_a_run_begun_elsewhere_is_noticed_and_followed(workspace, tmp_path):
    controller = TrainingController(workspace)
    old = _run(tmp_path, "1", "quick")
    assert controller.look_for_runs(tmp_path, [])
    assert not controller.look_for_runs(tmp_path, [old.path])
    assert controller.run is None
    new = _run(tmp_path, "2", "quick")
    new.write_process()
    assert controller.look_for_runs(tmp_path, [old.path])
    assert controller.run.path == new.path
    another = _run(tmp_path, "3", "quick")
    another.write_process()
    assert controller.look_for_runs(tmp_path, [new.path, old.path])
    assert controller.run.path == new.path, "a run that is followed stays so"
    controller.close()


def test_before_there_is_a_run_memory_is_told_by_the_size_of_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(training_estimates, "kernel_cpu_flags", set)
    plan = Plan("smoke", tmp_path, tmp_path, epochs=2)
    said = estimate(plan, [], load_config("smoke", ["data.train=."]))
    assert said.startswith("About 1.0 GB of memory. How long it takes is told after the first epoch")
    large = load_config("smoke", ["data.train=.", "train.batch_size=100000", "sampling.crop_px=1024"])
    assert estimate(plan, [], large).startswith("⚠ about ")
    assert "on each GPU" in estimate(plan, [], load_config("finetune", ["data.train=."]), gpus=2)
    assert "memory" not in estimate(plan, [], load_config("sam2", ["data.train=."]))


def test_a_run_that_told_its_memory_speaks_for_the_next(tmp_path):
    run = _run(tmp_path, "1", "quick", 30.0)
    run.append_event("memory", epoch=1, host_gb=2.34, device_gb=0.0)
    said = estimate(Plan("quick", tmp_path, tmp_path, epochs=4), [run], load_config("finetune", ["data.train=."]))
    assert said.startswith("Estimate: about 2 min for 4 epochs at most, 2.3 GB of memory, by the pace of 1.")


def test_a_run_of_other_batches_says_nothing_of_this_one(tmp_path):
    def planned(*settings):
        plan = Plan("default", tmp_path, tmp_path, epochs=4, settings=settings)
        return estimate(plan, [run], load_config("default", ["data.train=.", *settings]))

    run = RunFolder(tmp_path / "1")
    run.path.mkdir()
    run.config_path.write_text("{}")
    run.append_event("start", config=load_config("default", ["data.train=.", "optim.lr=1"]).model_dump(mode="json"))
    run.append_event("epoch", epoch=1, seconds=30.0)
    assert planned().startswith("Estimate: about 2 min for 4 epochs at most")
    assert planned("loss.focal_gamma=3").startswith("Estimate: about 2 min for 4 epochs at most")
    assert planned("folds=3").startswith("Estimate: about 6 min for 3 models of 4 epochs at most")
    for other in ("train.batch_size=3", "sampling.crop_px=96", "model.name=fpn", "sampling.crops_per_epoch=7"):
        assert "no run of this recipe" in planned(other), other


def test_all_gpus_that_share_the_batch_are_counted():
    config = load_config("default", ["data.train=.", "train.batch_size=6"])
    assert [gpus_used("auto", found, config) for found in (0, 1, 2, 3, 4)] == [0, 1, 2, 3, 3]
    assert (gpus_used("cuda:1", 2, config), gpus_used("cpu", 2, config), gpus_used("mps", 0, config)) == (1, 0, 0)


@pytest.mark.skipif(shutil.which("rsync") is None or os.name == "nt", reason="needs rsync")
def test_the_rsync_command_brings_what_following_needs(tmp_path):
    run = RunFolder(_run(tmp_path, "20260101-1", "quick", 3.0).path.rename(tmp_path / "it's there"))
    run.best_path.write_bytes(b"best")
    run.resume_path.write_bytes(b"large")
    (run.path / ".lock").touch()
    command = follow_command(str(tmp_path / "it's there"), tmp_path / "my copy").replace("sleep 20", "exit 0")
    subprocess.run(["sh", "-c", command], check=True, timeout=30)
    copied = {path.name for path in (tmp_path / "my copy").iterdir()}
    assert copied == {"run.yaml", "events.jsonl", "best.safetensors"}


@pytest.mark.skipif(os.name == "nt", reason="for a POSIX shell")
def test_following_outlives_copies_that_fail_and_ends_by_ctrl_c(tmp_path):
    """A stand-in for rsync: a file vanished, no network, done, then Ctrl-C."""
    told = tmp_path / "told"
    told.write_text("24\n255\n0\n20\n99\n")
    program = tmp_path / "rsync"
    program.write_text(f"#!/bin/sh\ncode=$(head -n 1 '{told}')\nsed -i.old 1d '{told}'\nexit $code\n")
    program.chmod(0o755)
    command = follow_command("HOST:/runs", tmp_path / "runs").replace("sleep 20", "sleep 0")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-c", command], timeout=30, check=False, env={**os.environ, "PATH": path})
    assert told.read_text() == "99\n"


def test_the_command_to_follow_is_one_of_the_commands(tmp_path):
    text = commands(Plan("smoke", tmp_path, tmp_path / "it's runs"))
    follow = text[text.index("until rsync") :]
    words = shlex.split(follow.replace("\\\n", " "))
    assert words[words.index("HOST:/path/to/runs/") + 1].rstrip(";") == f"{tmp_path}/it's runs/"


@pytest.mark.parametrize(("flags", "same"), [({"avx2", "amx_bf16"}, "bf16"), ({"avx2"}, "off")])
def test_memory_is_estimated_in_the_numbers_that_the_processor_takes(tmp_path, monkeypatch, flags, same):
    monkeypatch.setattr(training_estimates, "kernel_cpu_flags", lambda: flags)
    plan = Plan("smoke", tmp_path, tmp_path, epochs=3)
    said = [
        estimate(plan, [], load_config("hkh_pretrain", ["data.train=.", f"train.amp={amp}", "train.batch_size=4"]))
        for amp in ("auto", same, "off", "bf16")
    ]
    assert said[0] == said[1]
    assert said[2] != said[3]
    assert "GB of memory" in said[0]
