"""Several processes compute what one process with the whole batch computes."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from torch import nn

from napari_glacier.core.classes import IGNORE_INDEX, get_scheme
from napari_glacier.core.config import LossConfig
from napari_glacier.core.runfiles import RunFolder
from training.batch_norm import TeamBatchNorm, synchronise_batch_norm
from training.losses import build_loss

PROGRAM = """
import sys
import torch
from training.distributed import join_team
sys.path.insert(0, sys.argv[2])
from test_distributed import gradients
with join_team("cpu") as team:
    assert team.any(team.rank == 1) and not team.any(False)
    assert team.from_first(lambda: {"made by": team.rank}) == {"made by": 0}
    found = gradients(team)
    if team.is_first:
        torch.save(found, sys.argv[1])
    team.wait()
"""
# Every kind of loss: sums over pixels, over classes and over images.
TERMS = {"focal": 0.3, "dice": 0.2, "ce": 0.1, "boundary": 0.1, "mcc": 0.2, "iou": 0.1, "tversky": 0.1, "lovasz": 0.2}


def gradients(team=None) -> dict[str, torch.Tensor]:
    """Gradients of a batch whose halves differ much in brightness, in classes and in ignored pixels."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4)
    )
    image = torch.randn(4, 3, 8, 8) * torch.tensor([1.0, 5.0, 1.0, 9.0]).view(4, 1, 1, 1) + 3.0
    target = torch.randint(0, 4, (4, 8, 8), dtype=torch.uint8)
    target[0] = 0
    target[2, 2:] = IGNORE_INDEX
    loss = build_loss(LossConfig(terms=TERMS), get_scheme("glacier4"))
    wrapped, mine = (model, slice(None)) if team is None else (team.wrap(model), slice(team.rank, None, team.size))
    sums = loss.sums(wrapped(image[mine]), target[mine])
    value, _ = loss.value(sums if team is None else team.sum_with_gradient(sums))
    value.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    return found | {name: b.clone() for name, b in model.named_buffers()} | {"loss": value.detach()}


def test_two_processes_have_the_gradient_and_the_statistics_of_one(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    command += [str(tmp_path / "gradients.pt"), os.path.dirname(__file__)]  # noqa: PTH120
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr[-4000:]
    together, alone = torch.load(tmp_path / "gradients.pt", weights_only=True), gradients()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=2e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_batch_norm_for_several_processes_keeps_names_weights_and_what_evaluation_gives():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3, affine=False))
    model(torch.randn(4, 2, 5, 5))
    before, image = {k: v.clone() for k, v in model.state_dict().items()}, torch.randn(2, 2, 5, 5)
    expected = model.eval()(image)
    made = synchronise_batch_norm(model, torch.device("cpu"))
    assert [type(m) for m in made][1:] == [TeamBatchNorm, TeamBatchNorm]
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    assert torch.equal(made(image), expected)


@pytest.fixture
def config_path(make_dataset, tmp_path):
    tree = {
        "model": {
            "encoder": "tu-mobilenetv3_small_050",
            # Dropout is drawn by each process for itself.
            "arguments": {"decoder_channels": [16] * 5, "dropout": 0.0},
        },
        "sampling": {"crop_px": 64, "crops_per_epoch": 16},
        "optim": {"lr": 1e-3, "warmup_steps": 2},
        "train": {"epochs": 3, "batch_size": 4, "amp": "off", "accumulate": 2},
        "data": {"train": str(make_dataset(splits=("train", "val"))), "workers": 0},
        "output": str(tmp_path / "runs"),
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def _command(*arguments) -> list[str]:
    return [sys.executable, "-P", "-m", "training.run", *map(str, arguments)]


def _train(*arguments) -> RunFolder:
    result = subprocess.run(_command(*arguments), capture_output=True, text=True, check=False, timeout=250)
    assert result.returncode == 0, result.stderr[-4000:]
    return RunFolder(Path(result.stdout.splitlines()[-1]))


def _history(folder: RunFolder) -> list[dict[str, str]]:
    with folder.history_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in {"seconds", "eta_s", "samples_per_s"}} for row in rows]


@pytest.mark.slow
def test_two_processes_train_as_one_does(config_path):
    alone = _train("--config", config_path, "--devices", "cpu")
    together = _train("--config", config_path, "--devices", "2")
    assert together.events()[0]["processes"] == 2
    ours, theirs = _history(together), _history(alone)
    assert len(ours) == len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        # Steps multiply rounding: after two epochs of Adam the fourth digit may differ.
        numbers = {k: (float(v), float(other[k])) for k, v in mine.items() if k != "best"}
        assert {k: a for k, (a, _) in numbers.items()} == pytest.approx(
            {k: b for k, (_, b) in numbers.items()}, rel=2e-3, abs=2e-4
        )
    first = {k: (float(v), float(theirs[0][k])) for k, v in ours[0].items() if k.startswith(("train_", "mix_"))}
    assert all(a == pytest.approx(b, rel=1e-4, abs=1e-5) for a, b in first.values()), first


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_the_history_goes_on_exactly(config_path):
    settings = ("--devices", "2", "--set", "sampling.crops_per_epoch=48")
    straight = _train("--config", config_path, *settings)
    process = subprocess.Popen(
        _command("--config", config_path, *settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    root, deadline = straight.path.parent, time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        found = [RunFolder(path) for path in root.iterdir() if path.is_dir() and path != straight.path]
        if found and any(e["event"] == "step" and e["epoch"] == 2 for e in found[0].events()):
            break
        time.sleep(0.02)
    ranks = [p for p in psutil.Process(process.pid).children(recursive=True) if p.environ().get("RANK") == "1"]
    ranks[0].kill()
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err[-4000:]
    folder = RunFolder(Path(out.splitlines()[-1]))
    assert _history(folder) == _history(straight)
    events = folder.events()
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2, 3]
    assert any(e.get("resumed_from") == 1 for e in events if e["event"] == "start")
    assert folder.state() == "done"
