"""Each loss against an oracle of its own: torch, scikit-learn, or a loop over pixels."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, matthews_corrcoef
from torch.nn import functional

from napari_glacier.core.classes import IGNORE_INDEX, SCHEMES
from napari_glacier.core.config import LossConfig
from training.losses import CombinedLoss, build_loss

FOUR, TWO = SCHEMES["glacier4"], SCHEMES["glacier2"]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    logits = torch.randn(2, 4, 5, 6) * 3
    target = torch.randint(0, 3, (2, 5, 6), dtype=torch.uint8)  # class 3 is absent
    target[0, :2] = IGNORE_INDEX
    return logits, target


def loss_of(name: str, scheme=FOUR, temperature: float = 2.0, **settings) -> CombinedLoss:
    return build_loss(LossConfig(terms={name: 1.0}, **settings), scheme, temperature)


def value_of(loss: CombinedLoss, logits, target, teacher=None) -> float:
    return loss.value(loss.sums(logits, target, teacher))[0].item()


def counted_pixels(logits: torch.Tensor, target: torch.Tensor):
    """Probabilities (float64) and class of each counted pixel."""
    probabilities = logits.double().softmax(1).numpy()
    for n, row, col in np.argwhere(target.numpy() != IGNORE_INDEX):
        yield probabilities[n, :, row, col], int(target[n, row, col])


def counts_of(logits: torch.Tensor, target: torch.Tensor) -> list[tuple[float, float, float]]:
    """True positives, false positives and false negatives of each class that occurs, by a loop."""
    counts = {}
    for p, t in counted_pixels(logits, target):
        for k in range(len(p)):
            hit, false, missed, occurs = counts.get(k, (0.0, 0.0, 0.0, False))
            if t == k:
                counts[k] = (hit + p[k], false, missed + 1 - p[k], True)
            else:
                counts[k] = (hit, false + p[k], missed, occurs)
    present = [count[:3] for count in counts.values() if count[3]]
    assert len(present) == 3
    return present


def hard(predicted: torch.Tensor, num_classes: int, size: float = 1e4) -> torch.Tensor:
    """Logits that are wholly sure of the given classes (N, H, W)."""
    return functional.one_hot(predicted.long(), num_classes).permute(0, 3, 1, 2).float() * size


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_cross_entropy_equals_torch(batch, smoothing):
    logits, target = batch
    expected = functional.cross_entropy(logits, target.long(), ignore_index=IGNORE_INDEX, label_smoothing=smoothing)
    assert value_of(loss_of("ce", label_smoothing=smoothing), *batch) == pytest.approx(expected.item(), rel=1e-5)
    # Without focusing and class weights focal loss is cross-entropy.
    focal = loss_of("focal", focal_gamma=0.0, focal_alpha=[1.0] * 4, label_smoothing=smoothing)
    assert value_of(focal, *batch) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_equals_a_loop_over_pixels(batch, gamma, smoothing):
    alpha, losses = (1.0, 2.0, 3.0, 4.0), []
    for p, t in counted_pixels(*batch):
        truth = [(1 - smoothing) * (k == t) + smoothing / 4 for k in range(4)]
        losses.append(sum(truth[k] * alpha[k] * (1 - p[k]) ** gamma * -math.log(p[k]) for k in range(4)))
    loss = loss_of("focal", focal_gamma=gamma, label_smoothing=smoothing)
    assert value_of(loss, *batch) == pytest.approx(np.mean(losses), rel=1e-5)


def test_binary_cross_entropy_equals_torch(batch):
    logits, target = batch
    p = logits.double().softmax(1).permute(0, 2, 3, 1)[target != IGNORE_INDEX]
    truth = functional.one_hot(target[target != IGNORE_INDEX].long(), 4).double()
    expected = functional.binary_cross_entropy(p, truth).item()
    assert value_of(loss_of("bce"), *batch) == pytest.approx(expected, rel=1e-5)


def test_binary_cross_entropy_of_two_classes_is_cross_entropy(batch):
    logits, target = batch[0][:, :2], batch[1].where(batch[1] != 2, 1)
    expected = functional.cross_entropy(logits, target.long(), ignore_index=IGNORE_INDEX)
    assert value_of(loss_of("bce", TWO), logits, target) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("smooth", [1.0, 7.0])
def test_dice_equals_a_loop_and_skips_absent_classes(batch, smooth):
    losses = [1 - (2 * tp + smooth) / (2 * tp + fp + fn + smooth) for tp, fp, fn in counts_of(*batch)]
    assert value_of(loss_of("dice", dice_smooth=smooth), *batch) == pytest.approx(np.mean(losses), rel=1e-5)


def test_iou_equals_a_loop(batch):
    losses = [1 - tp / (tp + fp + fn) for tp, fp, fn in counts_of(*batch)]
    assert value_of(loss_of("iou"), *batch) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 2.0), (0.5, 0.7), (2.0, 0.0)])
def test_focal_iou_equals_a_loop(batch, alpha, gamma):
    losses = [alpha * (1 - tp / (tp + fp + fn)) ** gamma for tp, fp, fn in counts_of(*batch)]
    loss = loss_of("focal_iou", focal_iou_alpha=alpha, focal_iou_gamma=gamma)
    assert value_of(loss, *batch) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("weights", [(0.3, 0.7), (1.0, 0.0), (0.5, 0.5)])
def test_tversky_equals_a_loop(batch, weights):
    losses = [1 - tp / (tp + weights[0] * fp + weights[1] * fn) for tp, fp, fn in counts_of(*batch)]
    assert value_of(loss_of("tversky", tversky=weights), *batch) == pytest.approx(np.mean(losses), rel=1e-5)


def test_boundary_equals_a_loop_over_neighbours():
    torch.manual_seed(5)
    blocks = torch.randint(0, 4, (3, 4, 4), dtype=torch.uint8).repeat_interleave(3, 1).repeat_interleave(3, 2)
    target = blocks.clone()
    target[torch.rand(target.shape) < 0.2] = IGNORE_INDEX
    logits, truth = torch.randn(3, 4, 12, 12), target.numpy()
    total = weights = 0.0
    seen = set()
    log_p = logits.double().log_softmax(1)
    for n, row, col in np.argwhere(truth != IGNORE_INDEX):
        own, around = truth[n, row, col], set()
        for up, left in itertools.product((-1, 0, 1), repeat=2):
            if 0 <= row + up < 12 and 0 <= col + left < 12:
                around.add(int(truth[n, row + up, col + left]))
        around -= {int(own), IGNORE_INDEX}
        weight = 5.0 if (own == 1 and 2 in around) or (own == 2 and 1 in around) else 3.0 if around else 1.0
        seen.add(weight)
        total, weights = total - weight * log_p[n, own, row, col].item(), weights + weight
    assert seen == {1.0, 3.0, 5.0}
    assert value_of(loss_of("boundary"), logits, target) == pytest.approx(total / weights, rel=1e-5)


def test_boundary_of_a_scheme_without_debris_has_no_interface():
    target = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    logits = torch.randn(1, 2, 1, 4, generator=torch.Generator().manual_seed(0))
    nll = functional.cross_entropy(logits, target.long(), reduction="none").flatten().tolist()
    expected = (nll[0] + 4 * nll[1] + 4 * nll[2] + nll[3]) / 10
    assert value_of(loss_of("boundary", TWO, boundary_weight=4.0), logits, target) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("phi", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_mcc_of_hard_predictions_equals_scikit_learn(seed, phi):
    random = np.random.default_rng(seed)
    for scheme in (TWO, FOUR):
        num_classes = scheme.num_classes
        truth = random.integers(0, num_classes, (2, 9, 7))
        predicted = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, num_classes, truth.shape))
        # Weights of right pixels are a millionth, of wrong ones 1.
        weights = None if phi == 0 else np.where(truth == predicted, 1e-6, 1.0).ravel()
        scores = [
            matthews_corrcoef((truth == k).ravel(), (predicted == k).ravel(), sample_weight=weights)
            for k in range(num_classes)
        ]
        value = value_of(
            loss_of("mcc", scheme, mcc_phi=phi), hard(torch.tensor(predicted), num_classes), torch.tensor(truth)
        )
        assert value == pytest.approx(1 - np.mean(scores), abs=1e-3 if phi else 1e-5)


def test_soft_mcc_equals_its_formula(batch):
    losses = []
    total = sum(1 for _ in counted_pixels(*batch))
    for tp, fp, fn in counts_of(*batch):
        tn = total - tp - fp - fn
        losses.append(1 - (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    assert value_of(loss_of("mcc"), *batch) == pytest.approx(np.mean(losses), rel=1e-5)


def test_mcc_of_a_class_nobody_predicts_and_of_the_only_class():
    truth = torch.tensor([[[0, 0, 0, 1]]])
    assert value_of(loss_of("mcc", TWO), hard(torch.zeros_like(truth), 2), truth) == pytest.approx(1.0, abs=1e-6)
    # One class everywhere: nothing to correlate.
    assert value_of(loss_of("mcc", TWO), hard(truth, 2), torch.zeros_like(truth)) == 0.0


def test_lovasz_of_hard_predictions_is_the_jaccard_distance():
    random = np.random.default_rng(2)
    truth, predicted = random.integers(0, 3, (2, 2, 6, 6))
    losses = [
        1 - jaccard_score(t.ravel(), p.ravel(), labels=np.unique(t), average="macro")
        for t, p in zip(truth, predicted, strict=True)
    ]
    value = value_of(loss_of("lovasz"), hard(torch.tensor(predicted), 4), torch.tensor(truth))
    assert value == pytest.approx(np.mean(losses), rel=1e-5)


def test_lovasz_equals_its_definition(batch):
    """Sum over pixels, worst first, of the error times what the pixel adds to the Jaccard distance (set by set)."""
    logits, target = batch
    images = []
    for n in range(2):
        pixels = list(counted_pixels(logits[n : n + 1], target[n : n + 1]))
        losses = []
        for k in sorted({t for _, t in pixels}):
            errors = [abs((t == k) - p[k]) for p, t in pixels]
            inside = {i for i, (_, t) in enumerate(pixels) if t == k}
            wrong: set[int] = set()
            loss = before = 0.0
            for i in sorted(range(len(pixels)), key=lambda i: -errors[i]):
                wrong.add(i)
                distance = len(wrong) / len(inside | wrong)
                loss, before = loss + errors[i] * (distance - before), distance
            losses.append(loss)
        images.append(np.mean(losses))
    assert value_of(loss_of("lovasz"), *batch) == pytest.approx(np.mean(images), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_distillation_equals_torch(batch, temperature):
    logits, target = batch
    teacher = (torch.randn(logits.shape, generator=torch.Generator().manual_seed(8)) / temperature).softmax(1)
    teacher[0, :, 3, 3] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    counted = target != IGNORE_INDEX
    student = (logits.double() / temperature).log_softmax(1).permute(0, 2, 3, 1)[counted]
    soft = teacher.double().permute(0, 2, 3, 1)[counted]
    expected = functional.kl_div(student, soft, reduction="batchmean").item() * temperature**2
    loss = loss_of("kl", temperature=temperature)
    assert value_of(loss, logits, target, teacher) == pytest.approx(expected, rel=1e-5)


def test_without_a_teacher_distillation_counts_nothing(batch):
    loss = build_loss(LossConfig(terms={"kl": 0.5, "ce": 0.5}), FOUR)
    sums = loss.sums(*batch)
    total, components = loss.value(sums)
    assert sums[:2].tolist() == [0.0, 0.0]
    assert components["kl"].item() == 0.0
    assert total.item() == pytest.approx(0.5 * components["ce"].item())


def test_a_student_equal_to_its_teacher_has_nothing_to_learn(batch):
    logits, target = batch
    logits.requires_grad_()
    loss = loss_of("kl")
    value, _ = loss.value(loss.sums(logits, target, (logits.detach() / 2).softmax(1)))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-7
