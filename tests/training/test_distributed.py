"""Several processes compute the gradient that one process with the whole batch computes."""

import os
import subprocess
import sys

import torch
from torch import nn

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import LossConfig
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
"""


def gradients(team=None) -> dict[str, torch.Tensor]:
    """Gradients of both losses on a batch whose halves differ much in classes and in ignored pixels."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    image = torch.randn(4, 3, 8, 8)
    target = torch.randint(0, 4, (4, 8, 8), dtype=torch.uint8)
    target[0] = 0
    target[2, 2:] = IGNORE_INDEX
    loss = build_loss(LossConfig(), 4)
    wrapped, mine = (model, slice(None)) if team is None else (team.wrap(model), slice(team.rank, None, team.size))
    sums = loss.sums(wrapped(image[mine]), target[mine])
    value, _ = loss.value(sums if team is None else team.sum_with_gradient(sums))
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()} | {"loss": value.detach()}


def test_two_processes_have_the_gradient_of_one(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    command += [str(tmp_path / "gradients.pt"), os.path.dirname(__file__)]  # noqa: PTH120
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    together, alone = torch.load(tmp_path / "gradients.pt", weights_only=True), gradients()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-5, atol=1e-7)
