import numpy as np
import pytest
import torch
from torch import nn

from napari_glacier.core.config import OptimConfig
from training.optim import LearningRate, Progress, build_optimizer, clip_gradients


@pytest.mark.parametrize("direction", ["max", "min"])
def test_plateau_equals_torch(direction):
    config = OptimConfig(lr=1e-2, warmup_steps=0, plateau_patience=2, plateau_factor=0.5, min_lr=1e-3)
    ours = LearningRate(config, direction)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, direction, factor=0.5, patience=2, min_lr=1e-3)
    for metric in np.random.default_rng(0).uniform(0.1, 0.9, 60).round(2).tolist():
        ours.end_epoch(metric)
        theirs.step(metric)
        assert ours.at_step(1000) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.plateau_lr == 1e-3


def test_warmup_rises_linearly_to_the_plateau():
    rate = LearningRate(OptimConfig(lr=1.0, warmup_steps=4), "max")
    assert [rate.at_step(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_small_gains_make_a_best_but_do_not_buy_patience():
    progress = Progress("max", patience=3, min_delta=0.1)
    assert progress.end_epoch(1, 0.50)
    assert progress.end_epoch(2, 0.55)
    assert not progress.end_epoch(3, 0.52)
    assert not progress.exhausted
    assert progress.end_epoch(4, 0.59)
    assert progress.exhausted
    assert progress.best_epoch == 4


def test_states_go_on_where_they_were():
    first, second = Progress("min", 2, 0.0), Progress("min", 2, 0.0)
    for epoch, value in enumerate((0.5, 0.6), start=1):
        first.end_epoch(epoch, value)
    second.load(first.state())
    assert not second.exhausted
    assert not second.end_epoch(3, 0.55)
    assert second.exhausted
    assert second.best_epoch == 1


def test_norms_and_biases_do_not_decay():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.1), torch.device("cpu"))
    decayed, plain = (group["params"] for group in optimizer.param_groups)
    assert [p.ndim for p in decayed] == [4]
    assert len(plain) == 3
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


def test_clipping_bounds_the_norm_and_zero_turns_it_off():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 10.0)
    clip_gradients([parameter], 0.0)
    assert parameter.grad.norm().item() == pytest.approx(20.0)
    clip_gradients([parameter], 1.0)
    assert parameter.grad.norm().item() == pytest.approx(1.0, rel=1e-4)
