import math

import numpy as np
import pytest
import torch

from napari_glacier.core.classes import IGNORE_INDEX
from napari_glacier.core.config import LossConfig
from napari_glacier.core.errors import ConfigError
from training.losses import CombinedLoss, Focal, SoftDice, build_loss


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    logits = torch.randn(2, 4, 5, 6) * 3
    target = torch.randint(0, 3, (2, 5, 6), dtype=torch.uint8)  # class 3 is absent
    target[0, :2] = IGNORE_INDEX
    return logits, target


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def test_focal_equals_a_loop_over_pixels(batch):
    logits, target = batch
    alpha, gamma = (1.0, 2.0, 3.0, 4.0), 2.0
    total, count = 0.0, 0
    for n in range(2):
        for row in range(5):
            for col in range(6):
                k = int(target[n, row, col])
                if k == IGNORE_INDEX:
                    continue
                p = _softmax(logits[n, :, row, col].double().numpy())[k]
                total += -alpha[k] * (1 - p) ** gamma * math.log(p)
                count += 1
    loss = CombinedLoss({"focal": (1.0, Focal(alpha, gamma))})
    value, _ = loss.value(loss.sums(logits, target))
    assert value.item() == pytest.approx(total / count, rel=1e-5)


def test_dice_equals_a_loop_over_classes_and_skips_absent_ones(batch):
    logits, target = batch
    probabilities = logits.double().softmax(1).numpy()
    truth = target.numpy()
    losses = []
    for k in range(4):
        if not (truth == k).any():
            continue
        overlap = predicted = true = 0.0
        for n, row, col in np.argwhere(truth != IGNORE_INDEX):
            p, t = probabilities[n, k, row, col], float(truth[n, row, col] == k)
            overlap, predicted, true = overlap + p * t, predicted + p, true + t
        losses.append(1 - (2 * overlap + 1) / (predicted + true + 1))
    assert len(losses) == 3
    loss = CombinedLoss({"dice": (1.0, SoftDice(4))})
    value, _ = loss.value(loss.sums(logits, target))
    assert value.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_ignored_pixels_have_no_gradient(batch):
    logits, target = batch
    logits.requires_grad_()
    loss = build_loss(LossConfig(), 4)
    loss.value(loss.sums(logits, target))[0].backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, :2] == 0).all()
    assert (logits.grad[0, :, 2:] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_saturated_logits_stay_finite(dtype, gamma):
    logits = torch.zeros(1, 4, 2, 2, dtype=dtype)
    logits[0, 0] = 6e4  # sure, and right in one row, wrong in the other
    logits.requires_grad_()
    target = torch.tensor([[[0, 0], [3, 3]]], dtype=torch.uint8)
    loss = build_loss(LossConfig(focal_gamma=gamma), 4)
    value, components = loss.value(loss.sums(logits, target))
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert all(torch.isfinite(v) for v in components.values())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_batch_without_a_counted_pixel_is_worth_nothing():
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    loss = build_loss(LossConfig(), 4)
    value, components = loss.value(loss.sums(logits, torch.full((1, 3, 3), IGNORE_INDEX, dtype=torch.uint8)))
    value.backward()
    assert value.item() == 0.0
    assert all(v.item() == 0.0 for v in components.values())
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_autocast_does_not_lower_the_precision(batch):
    logits, target = batch
    loss = build_loss(LossConfig(), 4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss.sums(logits, target)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, loss.sums(logits, target), rtol=0, atol=0)


def test_sums_of_parts_give_the_loss_of_the_whole(batch):
    logits, target = batch
    loss = build_loss(LossConfig(), 4)
    whole, _ = loss.value(loss.sums(logits, target))
    parts, _ = loss.value(loss.sums(logits[:1], target[:1]) + loss.sums(logits[1:], target[1:]))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)


def test_total_is_the_weighted_sum(batch):
    loss = build_loss(LossConfig(terms={"focal": 0.25, "dice": 2.0}), 4)
    total, components = loss.value(loss.sums(*batch))
    assert total.item() == pytest.approx(0.25 * components["focal"].item() + 2.0 * components["dice"].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (LossConfig(terms={"tversky": 1.0}), "tversky"),
        (LossConfig(terms={"focal": -1.0}), "0 or more"),
        (LossConfig(terms={}), "above 0"),
        (LossConfig(focal_alpha=[1.0, 2.0]), "4 classes"),
    ],
)
def test_impossible_losses_are_refused(config, says):
    with pytest.raises(ConfigError, match=says):
        build_loss(config, 4)
