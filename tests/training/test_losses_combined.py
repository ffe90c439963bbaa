"""What holds for every loss: finite values and slopes, sums that add up, masks, precision, schedules, errors."""

import pytest
import torch
from torch.nn import functional

from napari_glacier.core.classes import IGNORE_INDEX, SCHEMES
from napari_glacier.core.config import LossConfig, Ramp, Steps
from napari_glacier.core.errors import ConfigError
from training.losses import LOSS_NAMES, build_loss, weight_at

FOUR, TWO = SCHEMES["glacier4"], SCHEMES["glacier2"]

# Every term, and the settings under which a slope could become infinite.
VARIANTS = [
    *((name, {}) for name in LOSS_NAMES),
    ("focal", {"focal_gamma": 0.0}),
    ("focal", {"focal_gamma": 0.5}),
    ("focal", {"focal_gamma": 0.5, "label_smoothing": 0.1}),
    ("ce", {"label_smoothing": 0.1}),
    ("mcc", {"mcc_phi": 0.7}),
    ("mcc", {"mcc_phi": 2.0}),
    ("focal_iou", {"focal_iou_gamma": 0.5}),
    ("focal_iou", {"focal_iou_gamma": 0.0}),
    ("tversky", {"tversky": (1.0, 0.0)}),
    ("tversky", {"tversky": (0.0, 1.0)}),
]
every_variant = pytest.mark.parametrize(
    ("name", "settings"), VARIANTS, ids=[f"{name}-{'-'.join(map(str, s.values()))}" for name, s in VARIANTS]
)

TRUTHS = {
    "mixed": torch.tensor([[[0, 1, 2, 3], [3, 2, IGNORE_INDEX, 0], [1, 1, 2, IGNORE_INDEX]]]),
    "absent": torch.tensor([[[0, 0, 1, 1], [0, 1, IGNORE_INDEX, 0], [1, 1, 0, 0]]]),
    "single": torch.full((1, 3, 4), 2),
    "one pixel": torch.full((1, 3, 4), IGNORE_INDEX).index_put_((torch.tensor(0),) * 3, torch.tensor(1)),
    "ignored": torch.full((1, 3, 4), IGNORE_INDEX),
}


def _logits(kind: str, truth: torch.Tensor) -> torch.Tensor:
    sure = functional.one_hot(truth.masked_fill(truth == IGNORE_INDEX, 0), 4).permute(0, 3, 1, 2).float()
    return {
        "right": sure * 2e4 - 1e4,
        "wrong": 1e4 - sure * 2e4,
        "one class": torch.tensor([-1e4, -1e4, -1e4, 1e4]).view(1, 4, 1, 1).expand(sure.shape).clone(),
        "equal": torch.zeros_like(sure),
        "nearly right": sure * 17.0,  # 1 - p is at the edge of float32
    }[kind]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    target = torch.randint(0, 3, (4, 5, 6), dtype=torch.uint8)  # class 3 is absent
    target[0, :2] = IGNORE_INDEX
    target[3] = IGNORE_INDEX
    return torch.randn(4, 4, 5, 6) * 2, target, torch.randn(4, 4, 5, 6).softmax(1)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_value_and_gradient_are_finite(name, settings, dtype):
    loss = build_loss(LossConfig(terms={name: 1.0}, **settings), FOUR)
    for what, truth in TRUTHS.items():
        for kind in ("right", "wrong", "one class", "equal", "nearly right"):
            logits = _logits(kind, truth).to(dtype).requires_grad_()
            # A teacher that is as sure as the student, of another class.
            teacher = _logits(kind, truth).roll(1, 1).softmax(1)
            value, components = loss.value(loss.sums(logits, truth.to(torch.uint8), teacher))
            value.backward()
            case = f"{what}, {kind}"
            assert value.dtype == torch.float32, case
            assert torch.isfinite(value), case
            assert torch.isfinite(components[name]), case
            assert value >= 0, case
            assert logits.grad is not None, case
            assert torch.isfinite(logits.grad).all(), case
            assert (logits.grad.movedim(1, -1)[truth == IGNORE_INDEX] == 0).all(), case
            if what == "ignored":
                assert value.item() == 0.0, case


# Of the others the optimum is elsewhere, or nowhere.
@pytest.mark.parametrize(
    ("name", "settings"),
    [v for v in VARIANTS if v[0] != "kl" and "label_smoothing" not in v[1] and v[1] != {"focal_iou_gamma": 0.0}],
)
def test_right_answers_cost_nothing_and_wrong_ones_much(name, settings):
    loss = build_loss(LossConfig(terms={name: 1.0}, **settings), FOUR)
    right, wrong = (
        loss.value(loss.sums(_logits(kind, TRUTHS["mixed"]), TRUTHS["mixed"]))[0].item() for kind in ("right", "wrong")
    )
    assert right == pytest.approx(0.0, abs=2e-4)  # a fractional power of the smallest miss
    assert wrong > 0.8


@every_variant
def test_sums_of_parts_give_the_loss_of_the_whole(batch, name, settings):
    logits, target, teacher = batch
    loss = build_loss(LossConfig(terms={name: 1.0}, **settings), FOUR)
    whole = loss.sums(logits, target, teacher)
    assert whole.shape == (loss.num_sums,)
    parts = sum(loss.sums(logits[p], target[p], teacher[p]) for p in (slice(1), slice(1, 2), slice(2, 4)))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    assert loss.value(parts)[0].item() == pytest.approx(loss.value(whole)[0].item(), rel=1e-5)


# MCC's pixel weights are taken as given, so its gradient is not the slope of its value.
@pytest.mark.parametrize(("name", "settings"), [v for v in VARIANTS if "mcc_phi" not in v[1]])
def test_the_gradient_is_the_slope(batch, name, settings):
    logits, target, teacher = (tensor[:2, ..., :3, :4] for tensor in batch)
    loss = build_loss(LossConfig(terms={name: 1.0}, **settings), FOUR)

    def value(logits: torch.Tensor) -> torch.Tensor:
        return loss.value(loss.sums(logits, target, teacher))[0]

    assert torch.autograd.gradcheck(value, logits.double().requires_grad_())


def test_terms_together_have_the_gradient_of_each_alone(batch):
    logits, target, teacher = batch
    weights = {name: 0.1 * (i + 1) for i, name in enumerate(LOSS_NAMES)}

    def gradient(terms: dict[str, float]) -> torch.Tensor:
        leaf = logits.clone().requires_grad_()
        loss = build_loss(LossConfig(terms=terms, mcc_phi=0.7), FOUR)
        loss.value(loss.sums(leaf, target, teacher))[0].backward()
        assert leaf.grad is not None
        return leaf.grad

    alone = torch.stack([gradient({name: weight}) for name, weight in weights.items()]).sum(0)
    torch.testing.assert_close(gradient(weights), alone, rtol=1e-5, atol=1e-7)


def test_the_weight_of_mcc_pixels_has_no_gradient(batch):
    """Against the same loss written with autograd's own softmax and weights that are numbers."""
    logits, target = batch[0].double(), batch[1]
    loss = build_loss(LossConfig(terms={"mcc": 1.0}, mcc_phi=0.7), FOUR)
    ours = logits.clone().requires_grad_()
    value, _ = loss.value(loss.sums(ours, target))
    value.backward()

    theirs = logits.clone().requires_grad_()
    counted = target != IGNORE_INDEX
    p = theirs.softmax(1).movedim(1, -1)[counted]
    truth = functional.one_hot(target[counted].long(), 4).double()
    w = ((1 - (p * truth).sum(1)) ** 0.7).detach().unsqueeze(1)
    tp, fp = (w * p * truth).sum(0)[:3], (w * p * (1 - truth)).sum(0)[:3]
    fn, tn = (w * (1 - p) * truth).sum(0)[:3], (w * (1 - p) * (1 - truth)).sum(0)[:3]
    expected = 1 - ((tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).sqrt()).mean()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-10)


def test_autocast_does_not_lower_the_precision(batch):
    loss = build_loss(LossConfig(terms=dict.fromkeys(LOSS_NAMES, 1.0), mcc_phi=0.7), FOUR)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        logits = batch[0].clone().requires_grad_()
        sums = loss.sums(logits, *batch[1:])
        loss.value(sums)[0].backward()
        assert logits.grad is not None
        return sums.detach(), logits.grad

    with torch.autocast("cpu", torch.bfloat16):
        inside = run()
    assert inside[0].dtype == torch.float32
    for mine, other in zip(inside, run(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_the_layout_of_the_logits_does_not_matter(batch):
    loss = build_loss(LossConfig(), FOUR)
    last = loss.sums(batch[0].to(memory_format=torch.channels_last), batch[1])
    torch.testing.assert_close(last, loss.sums(batch[0], batch[1]), rtol=0, atol=0)


def test_large_batches_keep_their_precision():
    """Half a million alike pixels, where adding one by one in float32 would drift."""
    logits = torch.tensor([1.0, 0.3, -2.0, 0.0]).view(1, 4, 1, 1).expand(2, 4, 512, 512)
    target = torch.zeros(2, 512, 512, dtype=torch.uint8)
    target[1] = 1
    loss = build_loss(LossConfig(terms={"mcc": 1.0, "ce": 1.0}), FOUR)
    _, of_many = loss.value(loss.sums(logits, target))
    _, of_few = loss.value(loss.sums(logits[..., :1, :1].double(), target[:, :1, :1]))
    for name, value in of_many.items():
        assert value.item() == pytest.approx(of_few[name].item(), rel=1e-5)


def test_total_is_the_weighted_sum(batch):
    loss = build_loss(LossConfig(terms={"focal": 0.25, "dice": 2.0}), FOUR)
    total, components = loss.value(loss.sums(*batch))
    assert total.item() == pytest.approx(0.25 * components["focal"].item() + 2.0 * components["dice"].item(), rel=1e-6)


def test_weights_follow_their_schedules(batch):
    terms = {
        "ce": Ramp(start=0.8, end=0.2, epochs=31),
        "iou": 0.5,
        "dice": Steps(steps={1: 2.0, 20: 1.5}),
        "mcc": Steps(steps={1: 0.0, 20: 0.35}),
    }
    loss = build_loss(LossConfig(terms=terms), FOUR)
    sums = loss.sums(*batch)
    expected = {
        1: (0.8, 0.5, 2.0, 0.0),
        16: (0.5, 0.5, 2.0, 0.0),
        19: (0.44, 0.5, 2.0, 0.0),
        20: (0.42, 0.5, 1.5, 0.35),
        31: (0.2, 0.5, 1.5, 0.35),
        500: (0.2, 0.5, 1.5, 0.35),
        None: (0.2, 0.5, 1.5, 0.35),
    }
    for epoch, weights in expected.items():
        total, components = loss.value(sums, epoch)
        assert list(components) == list(terms)
        assert components["mcc"] > 0.5  # told even where its weight is 0
        wanted = sum(w * value.item() for w, value in zip(weights, components.values(), strict=True))
        assert total.item() == pytest.approx(wanted, rel=1e-5), epoch


def test_a_number_is_the_same_weight_in_all_epochs():
    assert {weight_at(0.3, epoch) for epoch in (None, 1, 50)} == {0.3}


def test_the_names_of_the_losses():
    assert set(LOSS_NAMES) == {
        *("focal", "ce", "bce", "dice", "boundary", "mcc"),
        *("iou", "focal_iou", "tversky", "lovasz", "kl"),
    }
    for scheme in (TWO, FOUR):
        assert list(build_loss(LossConfig(terms=dict.fromkeys(LOSS_NAMES, 1.0)), scheme).terms) == list(LOSS_NAMES)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (LossConfig(terms={"hinge": 1.0}), "names hinge; known losses are focal, ce"),
        (LossConfig(terms={"focal": -1.0}), "0 or more"),
        (LossConfig(terms={"focal": float("nan")}), "0 or more"),
        (LossConfig(terms={}), "above 0"),
        (LossConfig(terms={"focal": 0.0, "dice": 0.0}), "above 0"),
        (LossConfig(terms={"focal": 0.0, "dice": Ramp(start=0.0, end=0.0, epochs=5)}), "above 0"),
        (LossConfig(terms={"dice": Steps(steps={1: 0.0, 9: 0.0})}), "above 0"),
        (LossConfig(terms={"dice": Steps(steps={1: 1.0, 9: float("nan")})}), "in epoch 9"),
        (LossConfig(terms={"dice": Ramp(start=1, end=0, epochs=5), "ce": Steps(steps={1: 1, 7: 0})}), "in epoch 7"),
        (LossConfig(focal_alpha=[1.0, 2.0]), "4 classes"),
        (LossConfig(focal_alpha=[1.0, 2.0, 3.0, -1.0]), "0 or more"),
        (LossConfig(tversky=(0.0, 0.0)), "one of them above 0"),
        (LossConfig(tversky=(-0.3, 0.7)), "0 or more"),
    ],
)
def test_impossible_losses_are_refused(config, says):
    with pytest.raises(ConfigError, match=says):
        build_loss(config, FOUR)
