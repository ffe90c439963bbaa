"""Power cuts and full disks: what is written stays whole, and the run goes on as if nothing had happened."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from napari_glacier.core.runfiles import RunFolder
from napari_glacier.nn.checkpoint import load_checkpoint

# From the second state on files may not grow beyond a size in the child: a disk that fills up while one is written.
LIMITED = """
import resource, sys
from training import trainer
from training.run import main

write, written = trainer.write_state, []

def write_with_little_room(path, state):
    written.append(path)
    if len(written) == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
    write(path, state)

trainer.write_state = write_with_little_room
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def config_path(make_dataset, tmp_path):
    tree = {
        "model": {"encoder": "tu-mobilenetv3_small_050", "arguments": {"decoder_channels": [16] * 5}},
        "sampling": {"crop_px": 64, "crops_per_epoch": 8},
        "optim": {"lr": 2e-3, "warmup_steps": 2},
        # The mean of the weights must go on exactly, too.
        "train": {"epochs": 3, "batch_size": 4, "amp": "off", "ema": 0.9},
        "data": {"train": str(make_dataset(splits=("train", "val"))), "workers": 0},
        "output": str(tmp_path / "runs"),
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def _run(*command) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-P", *map(str, command)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=250)


def _folder(result: subprocess.CompletedProcess) -> RunFolder:
    assert result.returncode == 0, result.stderr[-4000:]
    return RunFolder(Path(result.stdout.splitlines()[-1]))


def _history(folder: RunFolder) -> list[dict[str, str]]:
    with folder.history_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in {"seconds", "eta_s", "samples_per_s"}} for row in rows]


def _same_weights(a: RunFolder, b: RunFolder) -> bool:
    ours, theirs = (load_checkpoint(folder.last_path).model.state_dict() for folder in (a, b))
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_full_disk_stops_the_run_and_a_resumed_one_equals_an_uninterrupted_one(config_path, tmp_path):
    straight = _folder(_run("-m", "training.run", "--config", config_path))
    limit = straight.resume_path.stat().st_size // 2
    full = _run("-c", LIMITED, limit, "--config", config_path, "--set", f"output={tmp_path / 'full'}")
    assert full.returncode == 1
    folder = RunFolder(next((tmp_path / "full").iterdir()))
    assert folder.state() == "failed"
    assert "Free space" in folder.events()[-1]["message"]
    state = torch.load(folder.resume_path, weights_only=True)
    assert state["epoch"] == 0
    assert load_checkpoint(folder.best_path).card.epoch == 1  # what could be written is whole
    _folder(_run("-m", "training.run", "--resume", folder.path))
    assert _history(folder) == _history(straight)
    assert _same_weights(folder, straight)


def test_a_power_cut_in_the_middle_of_writing_leaves_the_epoch_before(config_path):
    straight = _folder(_run("-m", "training.run", "--config", config_path))
    folder = _folder(_run("-m", "training.run", "--config", config_path, "--set", "train.epochs=2"))
    # As the cut leaves them: half-written files that have not been renamed, and half an event.
    halves = [folder.path / ".resume-abc123.pt", folder.path / ".last-abc123.safetensors"]
    for half, whole in zip(halves, (folder.resume_path, folder.last_path), strict=True):
        half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    folder.truncate_events(1)
    with folder.events_path.open("a") as file:
        file.write('{"event": "epoch", "epoch": 2, "val_m')
    _folder(_run("-m", "training.run", "--resume", folder.path, "--set", "train.epochs=3"))
    assert not any(half.exists() for half in halves)
    strip = [{k: v for k, v in row.items() if k != "epochs"} for row in _history(straight)]
    assert [{k: v for k, v in row.items() if k != "epochs"} for row in _history(folder)] == strip
    assert [e["epoch"] for e in folder.events() if e["event"] == "epoch"] == [1, 2, 3]
    assert _same_weights(folder, straight)
