"""One update: what pieces of a batch weigh, and what happens where memory runs out."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from napari_glacier.core.classes import IGNORE_INDEX, get_scheme
from napari_glacier.core.config import LossConfig, OptimConfig
from napari_glacier.nn.memory import is_out_of_memory
from training.distributed import Team
from training.losses import build_loss
from training.optim import build_optimizer
from training.precision import Precision
from training.update import Updater

CPU = torch.device("cpu")


class _Silent:
    def __init__(self):
        self.said = []

    def message(self, text, kind="log"):
        self.said.append(text)


@pytest.fixture
def make_updater(tmp_path):
    def make(micro_batch, terms, size=1, clip_norm=0.0):
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 3, padding=1)
        optimizer = build_optimizer(network, OptimConfig(lr=1e-2), CPU)
        report = _Silent()
        update = Updater(
            network,
            network,
            loss=build_loss(LossConfig(terms=terms), get_scheme("glacier4")),
            optimizer=optimizer,
            precision=Precision("off", CPU),
            team=Team(CPU, size=size),
            average=None,
            report=report,
            clip_norm=clip_norm,
            micro_batch=micro_batch,
            note_path=tmp_path,
        )
        return update, network, report

    return make


def _batches():
    """Two batches of four crops, some nearly or wholly without counted pixels."""
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.normal(size=(8, 3, 16, 16)).astype("f4"))
    target = torch.from_numpy(rng.integers(0, 4, (8, 16, 16)).astype("u1"))
    target[1, 1:] = IGNORE_INDEX
    target[4] = target[5] = IGNORE_INDEX
    target[6, 3:9] = IGNORE_INDEX
    return [(image[:4], target[:4]), (image[4:], target[4:])]


def test_accumulated_pieces_have_the_loss_and_gradient_of_the_whole(make_updater):
    batches = _batches()
    _, network, _ = make_updater(4, {"ce": 1.0})
    image, target = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    expected = functional.cross_entropy(network(image), target.long(), ignore_index=IGNORE_INDEX)
    expected_gradient = torch.autograd.grad(expected, network.weight)[0]
    for micro_batch in (1, 2, 3, 4):
        update, ours, _ = make_updater(micro_batch, {"ce": 1.0})
        step = update(batches, epoch=1)
        torch.testing.assert_close(step.loss, expected)
        torch.testing.assert_close(step.components["ce"], expected.detach())
        torch.testing.assert_close(ours.weight.grad, expected_gradient)


def test_a_step_without_a_counted_pixel_moves_nothing_but_decay(make_updater):
    update, network, _ = make_updater(2, {"ce": 1.0, "dice": 1.0})
    image, target = _batches()[0]
    before = network.bias.detach().clone()
    step = update([(image, torch.full_like(target, IGNORE_INDEX))], epoch=1)
    assert step.loss == 0
    torch.testing.assert_close(network.bias.detach(), before)


def test_a_batch_that_does_not_fit_is_halved_and_has_the_same_gradient(make_updater, monkeypatch):
    batches = _batches()
    expected, network, _ = make_updater(4, {"focal": 1.0})
    expected(batches, epoch=1)
    original = Updater._piece

    def small_device(self, image, target, share, epoch):
        if len(image) > 1:
            raise torch.OutOfMemoryError("too large")
        return original(self, image, target, share, epoch)

    monkeypatch.setattr(Updater, "_piece", small_device)
    update, ours, report = make_updater(4, {"focal": 1.0})
    update(batches, epoch=1)
    torch.testing.assert_close(ours.weight.grad, network.weight.grad)
    assert update.micro_batch == 1
    assert [text.split(":")[1].split()[0] for text in report.said] == ["2", "1"]


def test_moments_are_there_before_the_first_step_and_change_nothing():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, OptimConfig(lr=1e-2, weight_decay=0.1), CPU)
    assert all("exp_avg" in optimizer.state[p] for p in ours.parameters())
    assert all(p.grad is None for p in ours.parameters())
    plain = torch.optim.AdamW(
        [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}], lr=1e-2
    )
    x = torch.randn(4, 5)
    for _ in range(3):
        for model, opt in ((ours, optimizer), (theirs, plain)):
            opt.zero_grad()
            model(x).square().sum().backward()
            opt.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_the_note_of_several_processes_goes_down_fast_and_counts_for_as_many_alone(make_updater, monkeypatch):
    def no_room(self, batches, epoch):
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(Updater, "_forward_backward", no_room)
    for before, after in ((24, 12), (12, 3), (3, 1)):
        update, _, report = make_updater(before, {"ce": 1.0}, size=2)
        update.heed_note()
        assert report.said == []  # as large as the resume file says
        with pytest.raises(torch.OutOfMemoryError):
            update(_batches(), epoch=1)
        update, _, report = make_updater(before, {"ce": 1.0}, size=2)
        update.heed_note()
        assert update.micro_batch == after
        assert len(report.said) == 1
    other, _, report = make_updater(24, {"ce": 1.0}, size=4)
    other.heed_note()
    assert (other.micro_batch, report.said) == (24, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUBLAS_STATUS_EXECUTION_FAILED", False),
    ],
)
def test_what_is_out_of_memory(text, expected):
    assert is_out_of_memory(RuntimeError(text)) is expected


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.float32), ("off", torch.bfloat16)])
def test_on_the_cpu_convolutions_of_single_channels_stay_in_float32_under_bfloat16(amp, dtype):
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=4))
    precision = Precision(amp, CPU)
    precision.prepare(network)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(torch.randn(1, 4, 8, 8))
    assert found.dtype == dtype
