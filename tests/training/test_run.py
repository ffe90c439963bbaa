"""The command line on tiny tiles: what it writes, how it stops, goes on and refuses."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from safetensors.torch import load_file, save_file

from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config, recipe_names, save_config
from napari_glacier.core.errors import DeviceError
from napari_glacier.core.raster import read_raster, write_raster
from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.checkpoint import load_checkpoint, read_card
from training.distributed import Team, _place_of
from training.losses import build_loss
from training.precision import Precision
from training.reporting import Reporter, write_history
from training.run import main
from training.source import open_training_data
from training.start import prepare
from training.trainer import Trainer
from training.update import Updater
from training.validation import NonFiniteLossError, Validator

# Columns that tell how long things took; all others must repeat exactly.
CLOCK = {"seconds", "eta_s", "samples_per_s"}
TINY = {
    "model": {"encoder": "tu-mobilenetv3_small_050", "arguments": {"decoder_channels": [16] * 5}},
    "sampling": {"crop_px": 64, "crops_per_epoch": 16},
    "optim": {"lr": 2e-3, "warmup_steps": 2},
    "train": {"epochs": 3, "batch_size": 4, "amp": "off"},
}


# The second of two processes has room for one crop.
SMALL_SECOND_DEVICE = """
import os
if os.environ.get("RANK") == "1":
    import torch
    from training.update import Updater
    original = Updater._piece
    def small_device(self, image, target, share, epoch):
        if len(image) > 1:
            raise torch.OutOfMemoryError("too large")
        return original(self, image, target, share, epoch)
    Updater._piece = small_device
"""


@pytest.fixture
def config_path(make_dataset, tmp_path):
    data = {"train": str(make_dataset(splits=("train", "val"))), "workers": 0}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "data": data, "output": str(tmp_path / "runs")}))
    return path


def _run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def _train(capsys, *arguments) -> RunFolder:
    code, out, err = _run(capsys, *arguments)
    assert code == 0, err
    return RunFolder(out.splitlines()[-1])


def _history(folder: RunFolder) -> list[dict[str, str]]:
    with folder.history_path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCK} for row in csv.DictReader(file)]


def _start(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-P", "-m", "training.run", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for_epoch(folder: RunFolder, epoch: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not any(e["event"] == "step" and e["epoch"] >= epoch for e in folder.events()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _prepared_folder(config_path, tmp_path, *overrides) -> RunFolder:
    """As the window makes it: a folder with nothing but its configuration."""
    folder = RunFolder(tmp_path / "prepared")
    folder.path.mkdir()
    save_config(load_config(config_path, overrides), folder.config_path)
    return folder


def test_a_run_learns_and_leaves_a_whole_folder(config_path, capsys):
    folder = _train(capsys, "--config", config_path, "--set", "train.epochs=6")
    rows = _history(folder)
    losses = [float(row["train_loss"]) for row in rows]
    assert len(rows) == 6
    assert losses[-1] < 0.7 * losses[0]
    assert float(rows[-1]["train_mcc"]) > 0.5
    shares = [float(rows[-1][f"mix_{name}"]) for name in ("background", "glacier", "debris", "lake")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    assert 0.6 * float(rows[0]["train_focal"]) + 0.4 * float(rows[0]["train_dice"]) == pytest.approx(
        losses[0], rel=1e-5
    )

    events = folder.events()
    assert [e["event"] for e in events if e["event"] in {"start", "epoch", "done"}] == ["start", *["epoch"] * 6, "done"]
    assert events[0]["class_mix_target"]["debris"] == 0.4
    assert set(events[0]["class_mix_achieved"]) == {"background", "glacier", "debris", "lake"}
    assert folder.state() == "done"
    assert folder.curves_path.read_bytes().startswith(b"\x89PNG")

    best = load_checkpoint(folder.best_path)
    metrics = json.loads(folder.metrics_path.read_text())
    assert best.card.epoch == metrics["epoch"] == events[-1]["best_epoch"]
    assert best.card.channels == ("B2", "B3", "B4", "B6", "B10")
    assert metrics["all_pixels"]["mcc"] == best.card.metrics["val_mcc"]
    assert set(metrics["valid_pixels"]["per_class"]) == {"background", "glacier", "debris", "lake"}
    assert read_card(folder.last_path).epoch == 6
    assert torch.load(folder.resume_path, weights_only=True)["epoch"] == 6
    assert isinstance(load_config(folder.config_path), RunConfig)


def test_resuming_repeats_an_uninterrupted_run(config_path, tmp_path, capsys):
    settings = ["sampling.crops_per_epoch=32", "data.workers=1"]
    straight = _train(capsys, "--config", config_path, "--set", *settings)
    folder = _prepared_folder(config_path, tmp_path, *settings)
    process = _start("--config", folder.config_path)
    _wait_for_epoch(folder, 2, process)
    process.kill()  # in the middle of the second epoch
    process.communicate()
    assert len(_history(folder)) < 3
    assert folder.state() == "failed"
    with folder.events_path.open("a") as file:
        file.write('{"event": "step", "ep')  # a line that the kill cut short
    assert _train(capsys, "--resume", folder.path).path == folder.path
    assert _history(folder) == _history(straight)
    epochs = [e["epoch"] for e in folder.events() if e["event"] == "epoch"]
    assert epochs == [1, 2, 3]
    assert folder.state() == "done"
    ours, theirs = load_checkpoint(folder.last_path), load_checkpoint(straight.last_path)
    for (name, a), b in zip(ours.model.state_dict().items(), theirs.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_run_killed_before_its_last_event_owes_nothing(config_path, capsys):
    folder = _train(capsys, "--config", config_path)
    whole = _history(folder)
    folder.truncate_events(2)  # as if killed between resume.pt and the third epoch's event
    folder.history_path.unlink()
    _train(capsys, "--resume", folder.path)
    assert _history(folder) == whole
    assert [e["epoch"] for e in folder.events() if e["event"] == "epoch"] == [1, 2, 3]


def test_a_finished_run_goes_on_with_more_epochs(config_path, capsys):
    straight = _train(capsys, "--config", config_path)
    folder = _train(capsys, "--config", config_path, "--epochs", "2")
    _train(capsys, "--resume", folder.path, "--set", "train.epochs=3")
    keep = [{k: v for k, v in row.items() if k != "epochs"} for row in _history(straight)]
    assert [{k: v for k, v in row.items() if k != "epochs"} for row in _history(folder)] == keep
    starts = [e for e in folder.events() if e["event"] == "start"]
    assert [e.get("resumed_from") for e in starts] == [None, 2]
    assert starts[-1]["config"]["train"]["epochs"] == 3


@pytest.mark.parametrize("change", [["--set", "loss.focal_gamma=3"], ["--batch_size", "2"], ["--set", "seed=1"]])
def test_a_run_that_goes_on_keeps_what_it_learns_with(config_path, capsys, change):
    folder = _train(capsys, "--config", config_path, "--epochs", "1")
    events, configuration = folder.events(), folder.config_path.read_text()
    code, _, err = _run(capsys, "--resume", folder.path, *change)
    assert code == 2
    assert "cannot change" in err
    assert (folder.events(), folder.config_path.read_text()) == (events, configuration)


def test_folds_with_a_validation_set_besides_leave_no_folder(config_path, tmp_path, capsys):
    tiles = load_config(config_path).data.train
    code, _, err = _run(capsys, "--config", config_path, "--set", "folds=2", f"data.val={tiles}")
    assert code == 2
    assert "Leave data.val out" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("flips", "upright"), [(0.0, True), (0.5, False)])
def test_a_checkpoint_says_whether_it_has_learnt_from_upright_crops_alone(config_path, capsys, flips, upright):
    settings = ["augmentation.rot90=0", f"augmentation.flips={flips}"]
    folder = _train(capsys, "--config", config_path, "--epochs", "1", "--set", *settings)
    assert load_checkpoint(folder.last_path).card.upright is upright


def test_correcting_masks_between_does_not_redraw_the_validation_tiles(config_path, make_dataset, tmp_path, capsys):
    root = make_dataset("region", grid=(2, 4))
    folder = _train(capsys, "--config", config_path, "--train_data", root, "--epochs", "1")
    held_out = read_card(folder.best_path).val_tiles
    assert load_config(folder.config_path).data.val_tiles == list(held_out)
    for tile_id in held_out:
        path = root / "label" / f"mask_{tile_id}.tif"
        codes = read_raster(path)
        codes[0, 5:40] = 170
        write_raster(path, codes)
    _train(capsys, "--resume", folder.path, "--epochs", "2")
    assert read_card(folder.last_path).val_tiles == held_out
    # A new run that starts from the model validates on what the model has not learnt from.
    settings = [f"model.init_from={folder.path}", "seed=7"]
    other = _train(capsys, "--config", config_path, "--train_data", root, "--epochs", "1", "--set", *settings)
    assert read_card(other.best_path).val_tiles == held_out
    assert any("has not seen" in e.get("message", "") for e in other.events() if e["event"] == "log")


def test_a_folder_has_one_trainer(config_path, tmp_path, capsys):
    folder = _train(capsys, "--config", config_path, "--epochs", "1")
    prepared = _prepared_folder(config_path, tmp_path)
    with folder.claim(), prepared.claim():
        events = folder.events()
        for arguments in (["--resume", folder.path], ["--config", prepared.config_path]):
            code, _, err = _run(capsys, *arguments)
            assert code == 2
            assert "being trained by process" in err
        assert folder.events() == events
        assert prepared.events() == []


def test_a_stop_asked_for_while_a_resume_loads_is_heard_and_an_old_one_is_not(config_path, capsys):
    folder = _train(capsys, "--config", config_path, "--epochs", "1")
    folder.request_stop()  # since this process was started
    _train(capsys, "--resume", folder.path, "--epochs", "2")
    assert folder.state() == "stopped"
    assert f"--resume {folder.path}" in folder.log_path.read_text()
    assert not folder.stop_requested()
    folder.request_stop()
    os.utime(folder.path / "stop", (0, 0))  # of an earlier process that was killed
    _train(capsys, "--resume", folder.path)
    assert folder.state() == "done"
    assert len(_history(folder)) == 2


def test_a_run_stopped_in_its_first_epoch_begins_it_again(config_path, tmp_path, capsys):
    straight = _train(capsys, "--config", config_path)
    folder = _prepared_folder(config_path, tmp_path)
    folder.request_stop()
    _train(capsys, "--config", folder.config_path)
    assert folder.state() == "stopped"
    assert torch.load(folder.resume_path, weights_only=True)["epoch"] == 0
    _train(capsys, "--resume", folder.path)
    assert _history(folder) == _history(straight)
    kinds = [e["event"] for e in folder.events()]
    assert (kinds.count("start"), kinds.count("stopped"), kinds[-1]) == (1, 0, "done")


def test_a_damaged_resume_file_is_named_and_half_written_models_are_removed(config_path, capsys):
    folder = _train(capsys, "--config", config_path, "--epochs", "1")
    leftover = folder.path / ".best-x1y2z3.safetensors"
    leftover.write_bytes(b"half")
    folder.resume_path.write_bytes(folder.resume_path.read_bytes()[:5000])
    code, _, err = _run(capsys, "--resume", folder.path, "--epochs", "2")
    assert code == 2
    assert str(folder.resume_path) in err
    assert "init_from" in err
    assert folder.state() == "done"
    assert not leftover.exists()


def test_history_has_every_column_of_every_epoch(tmp_path):
    write_history(tmp_path / "history.csv", [{"epoch": 1, "old": 2}, {"epoch": 2, "new": 3}])
    assert (tmp_path / "history.csv").read_text().splitlines() == ["epoch,old,new", "1,2,", "2,,3"]


@pytest.mark.parametrize("how", ["file", "signal"])
def test_a_stop_is_clean(config_path, tmp_path, capsys, how):
    folder = _prepared_folder(config_path, tmp_path, "train.epochs=500", "train.patience=500")
    process = _start("--config", folder.config_path)
    _wait_for_epoch(folder, 2, process)
    if how == "file":
        folder.request_stop()
    else:
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == str(folder.path)
    assert folder.state() == "stopped"
    done = len(_history(folder))
    assert done >= 1
    assert torch.load(folder.resume_path, weights_only=True)["epoch"] == done
    _train(capsys, "--resume", folder.path, "--set", f"train.epochs={done + 1}")
    assert len(_history(folder)) == done + 1
    assert folder.state() == "done"


def test_a_stop_in_the_last_step_of_an_epoch_keeps_the_epoch(config_path, tmp_path, monkeypatch, capsys):
    folder = _prepared_folder(config_path, tmp_path, "train.epochs=3")
    original = Updater.__call__
    steps = []

    def stopping(self, batches, epoch):
        steps.append(epoch)
        if len(steps) == 4:  # 16 crops are four steps
            folder.request_stop()
        return original(self, batches, epoch)

    monkeypatch.setattr(Updater, "__call__", stopping)
    _train(capsys, "--config", folder.config_path)
    assert folder.state() == "stopped"
    assert len(_history(folder)) == 1


def test_a_job_told_to_make_room_goes_on_when_it_is_requeued(config_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "4242")
    original = Updater.__call__

    def told(self, batches, epoch):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batches, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "__call__", told)
        first = _train(capsys, "--config", config_path)
    assert first.state() == "stopped"
    assert len(_history(first)) == 1
    again = _train(capsys, "--config", config_path)
    assert again.path == first.path
    assert again.state() == "done"
    # Done is done: the same name then begins a new run.
    assert _train(capsys, "--config", config_path, "--epochs", "1").path != first.path
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert len({_train(capsys, "--config", config_path, "--epochs", "1").path for _ in range(2)}) == 2


def test_folds_are_not_started_through_torchrun(config_path, tmp_path, monkeypatch, capsys):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    code, _, err = _run(capsys, "--config", config_path, "--set", "folds=2")
    assert (code, "without torchrun" in err) == (2, True)
    assert not (tmp_path / "runs").exists()


def test_a_resume_needs_no_pretrained_weights_and_keeps_its_device(config_path, tmp_path, capsys, monkeypatch):
    model = smp.encoders.get_encoder("tu-mobilenetv3_small_050", in_channels=3, depth=5, weights=None)
    save_file(model.state_dict(), tmp_path / "encoder.safetensors")
    weights = f"model.encoder_weights={tmp_path / 'encoder.safetensors'}"
    folder = _train(capsys, "--config", config_path, "--epochs", "1", "--set", weights)
    (tmp_path / "encoder.safetensors").unlink()
    _train(capsys, "--resume", folder.path, "--set", "train.epochs=2", "--devices", "cpu")
    assert len(_history(folder)) == 2
    assert load_config(folder.config_path).device == "auto"
    code, _, err = _run(capsys, "--config", config_path, "--set", weights, f"output={tmp_path / 'other'}")
    assert (code, "encoder.safetensors" in err) == (2, True)
    assert not (tmp_path / "other").exists()


def test_a_finished_run_that_cannot_go_on_stays_finished(config_path, tmp_path, capsys):
    folder = _train(capsys, "--config", config_path, "--epochs", "1", "--set", "recipe=mine/A?B")
    assert folder.path.name.endswith("-mine_A_B")
    data = Path(yaml.safe_load(config_path.read_text())["data"]["train"])
    before = folder.events()
    data.rename(tmp_path / "away")
    code, _, err = _run(capsys, "--resume", folder.path, "--epochs", "2")
    assert (code, "does not exist" in err) == (2, True)
    assert folder.state() == "done"
    events = folder.events()
    assert [*events[:-2], events[-1]] == before
    assert events[-2]["event"] == "warning"
    assert "does not exist" in events[-2]["message"]
    (tmp_path / "away").rename(data)
    _train(capsys, "--resume", folder.path, "--epochs", "2")
    assert len(_history(folder)) == 2


def test_a_run_of_relative_paths_goes_on_from_anywhere(config_path, tmp_path, capsys, monkeypatch):
    data = Path(yaml.safe_load(config_path.read_text())["data"]["train"])
    monkeypatch.chdir(data.parent)
    relative = [f"data.train={data.name}", "output=here", "save_path=best.safetensors"]
    folder = _train(capsys, "--config", config_path, "--epochs", "1", "--set", *relative)
    assert folder.path.parent == data.parent / "here"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = (data.parent / "best.safetensors").stat().st_mtime_ns
    _train(capsys, "--resume", folder.path, "--epochs", "2")
    assert len(_history(folder)) == 2
    assert (data.parent / "best.safetensors").stat().st_mtime_ns > before
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("device", "num_gpus", "processes", "place"),
    [
        ("auto", 0, 2, "cpu"),
        ("cpu", 4, 2, "cpu"),
        ("auto", 2, 2, "cuda:1"),
        ("auto", 4, 2, "cuda:1"),
        ("auto", 1, 2, None),
        ("cuda", 0, 2, None),
        ("cuda:0", 4, 2, None),
        ("mps", 0, 2, None),
    ],
)
def test_processes_of_a_host_agree_on_their_devices(monkeypatch, device, num_gpus, processes, place):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    if place is not None:
        assert str(_place_of(device, processes - 1, processes)) == place
        return
    # Each of them says so, and none waits for the others.
    for rank in range(processes):
        with pytest.raises(DeviceError, match="processes"):
            _place_of(device, rank, processes)


def test_micro_batches_are_those_of_as_many_processes(config_path, capsys):
    folder = _train(capsys, "--config", config_path, "--epochs", "1")
    state = torch.load(folder.resume_path, weights_only=True)
    # As two processes of two crops each leave it; and then as one process that ran out of memory.
    for processes, expected in ((2, 4), (1, 2)):
        torch.save({**state, "processes": processes, "micro_batch": 2}, folder.resume_path)
        trainer = Trainer(_resumed(folder), folder, Team(torch.device("cpu")), lambda: False)
        assert trainer.update.micro_batch == expected
        trainer.report.close()


def _resumed(folder):
    return prepare(load_config(folder.config_path), resuming=True)


def test_two_processes_train_one_model_and_begin_again_where_one_of_them_runs_out_of_memory(config_path, tmp_path):
    folder = _prepared_folder(config_path, tmp_path, "train.epochs=2", "sampling.crops_per_epoch=8")
    program = tmp_path / "sitecustomize.py"
    program.write_text(SMALL_SECOND_DEVICE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "training.run", "--config", str(folder.config_path), "--devices", "2"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, env=environment)
    out, err = process.stdout, process.stderr
    assert process.returncode == 0, err
    assert torch.load(folder.resume_path, weights_only=True)["micro_batch"] == 1
    assert out.splitlines()[-1] == str(folder.path)
    assert folder.events()[0]["processes"] == 2
    assert folder.state() == "done"
    assert len(_history(folder)) == 2
    # Every pixel of the validation tiles was scored once, whichever process did it.
    tables = json.loads(folder.metrics_path.read_text())
    assert sum(row["pixels"] for row in tables["all_pixels"]["per_class"].values()) == 4 * 64 * 64
    # And by the network that was saved, whose running statistics are the first process's.
    best = load_checkpoint(folder.best_path)
    _, alone = _validator(load_config(folder.config_path), tmp_path, best.card.normalisation)(best.model)
    assert alone["all_pixels"]["mcc"] == pytest.approx(tables["all_pixels"]["mcc"], abs=1e-9)


def _validator(config, tmp_path, normalisation, max_pixels=64 * 64) -> Validator:
    data, device = open_training_data(config), torch.device("cpu")
    return Validator(
        data.val,
        scheme=data.scheme,
        normalisation=normalisation,
        loss=build_loss(config.loss, data.scheme),
        precision=Precision("off", device),
        team=Team(device),
        report=Reporter(RunFolder(tmp_path), active=True),
        max_pixels=max_pixels,
    )


def test_validation_takes_fewer_tiles_where_memory_runs_out(config_path, tmp_path, capsys):
    best = load_checkpoint(_train(capsys, "--config", config_path, "--epochs", "1").best_path)
    config = load_config(config_path)
    expected = _validator(config, tmp_path, best.card.normalisation)(best.model)
    sizes = []

    class SmallDevice(torch.nn.Module):
        def forward(self, image):
            if len(image) > 1:
                raise torch.OutOfMemoryError("too large")
            sizes.append(len(image))
            return best.model(image)

    validate = _validator(config, tmp_path, best.card.normalisation, max_pixels=4 * 64 * 64)
    row, tables = validate(SmallDevice())
    assert sizes == [1] * 4
    assert tables == expected[1]
    assert row["val_loss"] == pytest.approx(expected[0]["val_loss"], rel=1e-6)
    validate(SmallDevice())
    # Said for the batch and its halves, and not again in the next epoch.
    said = [e["message"] for e in RunFolder(tmp_path).events() if e["event"] == "warning"]
    assert said[-1].startswith("The device ran out of memory: 1 validation tiles")
    assert len(said) == 3


def test_transfer_keeps_statistics_and_architecture(config_path, tmp_path, make_dataset, capsys):
    first = _train(capsys, "--config", config_path, "--epochs", "1")
    other = make_dataset("other", splits=("train", "val"), seed=5)
    arguments = ["--train_data", other, "--set", f"model.init_from={first.best_path}", f"output={tmp_path / 'runs'}"]
    arguments += ["sampling.crop_px=64", "sampling.crops_per_epoch=8", "data.workers=0"]
    second = _train(capsys, *arguments, "--epochs", "1", "--batch_size", "4")
    before, after = read_card(first.best_path), read_card(second.best_path)
    assert after.normalisation == before.normalisation
    assert (after.architecture, dict(after.arguments)) == (before.architecture, dict(before.arguments))
    assert after.training_data_fingerprint != before.training_data_fingerprint
    # Resuming does not need the checkpoint it once started from.
    first.best_path.unlink()
    _train(capsys, "--resume", second.path, "--set", "train.epochs=2")


def test_transfer_checks_classes_and_channels(config_path, make_dataset, capsys):
    first = _train(capsys, "--config", config_path, "--epochs", "1")
    start = f"model.init_from={first.best_path}"
    code, _, err = _run(capsys, "--config", config_path, "--set", start, "data.channels=[B3, B2, B4, B6, B10]")
    assert code == 2
    assert "channels" in err
    binary = make_dataset("binary", splits=("train", "val"), scheme="glacier2")
    code, _, err = _run(capsys, "--config", config_path, "--train_data", binary, "--set", start)
    assert code == 2
    assert "classes" in err


def test_save_path_gets_a_plain_state_dict(config_path, tmp_path, capsys):
    folder = _train(capsys, "--config", config_path, "--epochs", "1", "--save_path", tmp_path / "out" / "mine.pth")
    plain = torch.load(tmp_path / "out" / "mine.pth", weights_only=True)
    kept = load_checkpoint(folder.best_path).model.state_dict()
    assert plain.keys() == kept.keys()
    assert all(torch.equal(plain[key], kept[key]) for key in kept)
    assert read_card(tmp_path / "out" / "mine.safetensors").epoch == 1
    # And a plain state dict is a starting point again.
    again = _train(
        capsys, "--config", config_path, "--epochs", "1", "--set", f"model.init_from={tmp_path}/out/mine.pth"
    )
    assert float(_history(again)[0]["train_loss"]) < float(_history(folder)[0]["train_loss"])


def test_weights_of_another_program_are_a_starting_point_and_gaps_are_said(config_path, tmp_path, capsys):
    folder = _train(capsys, "--config", config_path, "--epochs", "1")
    state = load_file(folder.best_path)
    lost = [key for key in state if not key.endswith("num_batches_tracked")][-2:]
    save_file({key: value for key, value in state.items() if key not in lost}, tmp_path / "plain.safetensors")
    settings = ["--epochs", "1", "--set", f"model.init_from={tmp_path}/plain.safetensors"]
    again = _train(capsys, "--config", config_path, *settings)
    said = [e["message"] for e in again.events() if e["event"] == "warning"]
    assert any(message.startswith("2 of ") and all(key in message for key in lost) for message in said)
    assert float(_history(again)[0]["train_loss"]) < float(_history(folder)[0]["train_loss"])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.train=/nowhere/at/all"], "does not exist"),
        (["data.val=/nowhere/at/all"], "does not exist"),
        (["data.train_masks=/nowhere/at/all"], "does not exist"),
        (["train.epoch=3"], "unknown key train.epoch"),
        (["train.epochs=-3"], "train.epochs"),
        (["optim.lr=fast"], "optim.lr"),
        (["model.name=resnet"], "resnet"),
        (["model.encoder=resnet35"], "resnet35"),
        (["loss.focal_alpha=[1, 2]"], "4 classes"),
        (["sampling.target_mix=[1, 2]"], "4 classes"),
        (["data.tiles=[nine]"], "nine"),
        (["data.mean=[1]", "data.std=[1]"], "5 channels"),
        (["model.init_from=/nowhere/best.safetensors"], "/nowhere/best.safetensors"),
        (["device=tpu"], "tpu"),
        (["data.val_tiles=[nine]"], "nine"),
        (["save_path=/dev/null/mine.pth"], "/dev/null"),
        (["save_path=/"], "folder"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(config_path, tmp_path, capsys, overrides, says):
    code, out, err = _run(capsys, "--config", config_path, "--set", *overrides)
    assert code == 2
    assert out == ""
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_unpaired_masks_processes_that_cannot_share_and_unknown_recipes(config_path, capsys):
    root = load_config(config_path).data.train
    code, _, err = _run(capsys, "--config", config_path, "--devices", "3")
    assert (code, "multiple of 3" in err) == (2, True)
    code, _, err = _run(capsys, "--config", "no_such_recipe")
    assert (code, "bundled" in err) == (2, True)
    code, _, err = _run(capsys, "--resume", root)
    assert (code, "run.yaml" in err) == (2, True)
    (root / "train_masks" / "mask_00_00.tif").rename(root / "train_masks" / "mask_77_77.tif")
    code, _, err = _run(capsys, "--config", config_path)
    assert (code, "77_77" in err) == (2, True)


def test_a_prepared_folder_is_told_of_bad_input(config_path, tmp_path, capsys):
    folder = _prepared_folder(config_path, tmp_path, "data.val=/nowhere")
    code, _, err = _run(capsys, "--config", folder.config_path)
    assert code == 2
    assert folder.state() == "failed"
    assert folder.events()[-1]["message"] in err


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_tiles(config_path, capsys, monkeypatch):
    original = Updater._piece

    def poisoned(self, image, target, share, epoch):
        return original(self, image * float("nan") if epoch == 2 else image, target, share, epoch)

    monkeypatch.setattr(Updater, "_piece", poisoned)
    code, _, err = _run(capsys, "--config", config_path)
    folder = RunFolder(next((load_config(config_path).output).iterdir()))
    assert code == 1
    assert "not finite" in err
    assert any(name in err for name in ("00_00", "00_01", "01_00", "01_01"))
    assert folder.state() == "failed"
    assert NonFiniteLossError.__name__ in folder.events()[-1]["message"]
    assert read_card(folder.best_path).epoch == 1
    assert all(torch.isfinite(v).all() for v in load_checkpoint(folder.last_path).model.state_dict().values())


def test_weights_that_diverge_at_the_end_of_an_epoch_stop_the_run(config_path, capsys, monkeypatch):
    original = Trainer._train_epoch

    def diverging(self, epoch):
        row = original(self, epoch)
        if epoch == 2:
            next(iter(self.network.parameters())).data.fill_(float("nan"))
        return row

    monkeypatch.setattr(Trainer, "_train_epoch", diverging)
    code, _, err = _run(capsys, "--config", config_path)
    folder = RunFolder(next((load_config(config_path).output).iterdir()))
    assert code == 1
    assert "validation loss is not finite" in err
    assert "optim.lr" in err
    assert folder.state() == "failed"
    assert NonFiniteLossError.__name__ in folder.events()[-1]["message"]
    assert read_card(folder.best_path).epoch == read_card(folder.last_path).epoch == 1


def test_running_out_of_memory_halves_the_micro_batch_once_said(config_path, capsys, monkeypatch):
    original = Updater._piece
    sizes = []

    def small_device(self, image, target, share, epoch):
        if len(image) > 2:
            raise torch.OutOfMemoryError("too large")
        sizes.append(len(image))
        return original(self, image, target, share, epoch)

    monkeypatch.setattr(Updater, "_piece", small_device)
    folder = _train(capsys, "--config", config_path, "--epochs", "1")
    said = [e["message"] for e in folder.events() if e["event"] == "warning"]
    assert sizes == [2] * 8
    assert sum("2 crops" in message for message in said) == 1
    # The tiles of this test are quarters of each class, so crops of a whole tile cannot have another mix.
    assert sum("cannot have the class mix" in message for message in said) == 1


def test_accumulation_and_stopping_early(config_path, capsys):
    settings = ["train.accumulate=2", "train.patience=1", "train.min_delta=2.0", "train.epochs=5"]
    folder = _train(capsys, "--config", config_path, "--set", *settings)
    # Nothing is progress by two, except the first epoch against nothing.
    assert len(_history(folder)) == 2
    assert "stopped early" in folder.events()[-1]["message"]


def test_check_describes_and_starts_nothing(config_path, tmp_path, capsys):
    code, out, _ = _run(capsys, "--config", config_path, "--check")
    assert code == 0
    for word in ("torch", "cpu", "B10 4/4", "target 40.00%", "glacier4"):
        assert word in out
    assert not (tmp_path / "runs").exists()
    code, _, err = _run(capsys, "--config", config_path, "--check", "--set", "device=tpu")
    assert (code, "tpu" in err) == (2, True)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_valid_and_commented(name, tmp_path):
    config = load_config(name, [f"data.train={tmp_path}"])
    assert config.recipe == name


def test_a_stray_training_module_does_not_shadow_this_one(config_path, tmp_path):
    (tmp_path / "training.py").write_text("raise SystemExit(7)")
    command = [sys.executable, "-P", "-m", "training.run", "--config", config_path, "--set", "data.val=/nowhere"]
    result = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr


@pytest.mark.parametrize(("key", "number"), [("train.batch_size", 4), ("train.pixels", 1024)])
def test_what_processes_cannot_share_equally_is_named(make_dataset, capsys, key, number):
    shared = {"train.batch_size": 6, "train.pixels": 1023, key: number}
    settings = [f"{name}={value}" for name, value in shared.items()]
    arguments = ["--config", "surroundings", "--train_data", make_dataset(), "--devices", "3", "--set", *settings]
    code, _, err = _run(capsys, *arguments)
    assert (code, err.startswith(f"{key} is {number}, which 3 processes cannot share")) == (2, True), err


def test_a_stop_before_the_training_begins_is_no_traceback(config_path, tmp_path, capsys, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.start.prepare", interrupted)
    code, out, err = _run(capsys, "--config", config_path)
    assert (code, out) == (1, "")
    assert err.startswith("Stopped at once.")
    assert not (tmp_path / "runs").exists()


def test_crops_drawn_anywhere_have_no_target_mix(config_path, capsys):
    code, out, _ = _run(capsys, "--config", config_path, "--check", "--set", "sampling.kind=uniform")
    assert (code, "target" in out, "in the crops" in out) == (0, False, True)
