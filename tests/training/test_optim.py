import numpy as np
import pytest
import torch
from torch import nn

from napari_glacier.core.config import OptimConfig
from napari_glacier.core.errors import ConfigError
from training.optim import LearningRate, Progress, build_optimizer, clip_gradients, set_learning_rate


@pytest.mark.parametrize("direction", ["max", "min"])
def test_plateau_equals_torch(direction):
    config = OptimConfig(lr=1e-2, warmup_steps=0, plateau_patience=2, plateau_factor=0.5, min_lr=1e-3)
    ours = LearningRate(config, direction, num_steps=2000)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, direction, factor=0.5, patience=2, min_lr=1e-3)
    for metric in np.random.default_rng(0).uniform(0.1, 0.9, 60).round(2).tolist():
        ours.end_epoch(metric)
        theirs.step(metric)
        assert ours.at_step(1000) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.plateau_lr == 1e-3


def test_warmup_rises_linearly_to_the_plateau():
    rate = LearningRate(OptimConfig(lr=1.0, warmup_steps=4), "max", num_steps=6)
    assert [rate.at_step(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_equals_torch_after_the_warmup():
    rate = LearningRate(OptimConfig(lr=1.0, warmup_steps=5, schedule="cosine", min_lr=0.01), "max", num_steps=45)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.01)
    for step in range(4, 45):
        assert rate.at_step(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    rate.end_epoch(0.1), rate.end_epoch(0.1)
    assert rate.at_step(4) == 1.0  # no plateau on top
    assert rate.at_step(60) == pytest.approx(0.01)  # a run that was given more epochs stays low


def test_the_encoder_may_learn_at_a_rate_of_its_own():
    model = nn.ModuleDict({"encoder": nn.Conv2d(2, 3, 1), "head": nn.Conv2d(3, 2, 1)})
    model.encoder = model["encoder"]
    optimizer = build_optimizer(model, OptimConfig(lr=4e-4, encoder_lr=1e-4), torch.device("cpu"))
    set_learning_rate(optimizer, 2e-4)  # half way through a warm-up
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in model["encoder"].parameters()] == pytest.approx([0.5e-4] * 2)
    assert [rates[id(p)] for p in model["head"].parameters()] == pytest.approx([2e-4] * 2)
    assert len(rates) == 4
    with pytest.raises(ConfigError, match="no encoder apart"):
        build_optimizer(nn.Conv2d(1, 1, 1), OptimConfig(encoder_lr=1e-4), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"frozen\. Lower model\.frozen_stages"):
        build_optimizer(nn.Conv2d(1, 1, 1).requires_grad_(False), OptimConfig(), torch.device("cpu"))


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
