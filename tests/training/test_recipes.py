"""Recipes: their numbers, that what they name exists, and that every choice is explained."""

import pytest
import torch

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.config import Ramp, Steps
from napari_glacier.core.config_files import load_config, recipe_names, recipe_path
from napari_glacier.core.errors import CheckpointError
from napari_glacier.nn.zoo import build_model, model_names
from training.losses import build_loss
from training.start import load_start, model_arguments

# From the specification: epochs, batch, accumulation, rate, patience of the rate and of the run.
PLAN = {
    "deeplab": (50, 8, 1, 1e-4, 5, 10),
    "hkh_pretrain": (60, 48, 1, 5e-4, 5, 15),
    "finetune": (150, 32, 2, 1e-4, 8, 20),
    "transfer": (150, 8, 4, 5e-5, 8, 20),
    "distill": (80, 16, 1, 1e-4, 8, 20),
    "sam2": (10, 8, 1, 1e-4, 10, 10),
    "salt": (50, 8, 1, 5e-4, 10, 10),
}
PHASE_A = {"focal": 0.6, "dice": 0.4}
PHASE_B = {"focal": 0.25, "dice": 0.25, "mcc": 0.35, "boundary": Ramp(start=0.0075, end=0.15, epochs=30)}
TERMS = {
    "deeplab": {"ce": 1.0, "dice": 1.0},
    "hkh_pretrain": PHASE_A,
    "finetune": PHASE_B,
    "transfer": PHASE_B,
    "distill": {"kl": 0.5, "ce": 0.5},
    "glavitu": {"focal": 1.0},
    "sam2": {"ce": 1.0, "dice": 1.0},
    "salt": {
        "ce": Steps(steps={1: 0.3, 20: 0.2}),
        "dice": Steps(steps={1: 2.0, 20: 1.5}),
        "iou": Steps(steps={1: 0.0, 20: 0.3}),
    },
    "adaptive": {"ce": Ramp(start=0.8, end=0.2, epochs=60), "iou": Ramp(start=0.2, end=0.8, epochs=60)},
    "pretrain_synthetic": PHASE_A,
    "bundled": PHASE_A,
    "smoke": PHASE_A,
    "default": PHASE_A,
    "quick": PHASE_A,
}
# Small encoders in the place of large ones: whether an architecture fits its arguments shows as well.
SMALL = "tu-mobilenetv3_small_050"


def _load(name, *overrides):
    return load_config(name, ["data.train=tiles", *overrides])


@pytest.mark.parametrize("name", PLAN)
def test_the_numbers_are_those_of_the_plan(name):
    config = _load(name)
    train, optim = config.train, config.optim
    found = (train.epochs, train.batch_size, train.accumulate, optim.lr, optim.plateau_patience, train.patience)
    assert found == PLAN[name]
    assert (optim.betas, optim.weight_decay, optim.clip_norm, optim.min_lr) == ((0.9, 0.999), 1e-4, 1.0, 1e-7)
    assert (optim.schedule, optim.plateau_factor) == ("plateau", 0.7 if name == "salt" else 0.5)
    assert train.monitor == ("val_loss" if name == "salt" else "val_mcc")
    assert train.min_delta == 0.001


@pytest.mark.parametrize("name", TERMS)
def test_the_losses_are_those_of_the_plan(name):
    assert _load(name).loss.terms == TERMS[name]


def test_gammas_smoothing_and_weights_of_outlines():
    gammas = {name: _load(name).loss.focal_gamma for name in ("hkh_pretrain", "finetune", "transfer", "glavitu")}
    assert gammas == {"hkh_pretrain": 3.0, "finetune": 2.0, "transfer": 2.0, "glavitu": 2.0}
    assert _load("glavitu").loss.label_smoothing == 0.1
    for name in ("finetune", "transfer"):
        assert (_load(name).loss.boundary_weight, _load(name).loss.interface_weight) == (3.0, 5.0)


def test_glavitu_goes_through_both_stages_at_a_constant_rate():
    first = _load("glavitu")
    assert (first.train.epochs, first.train.batch_size, first.optim.lr) == (50, 8, 5e-4)
    second = _load("glavitu", "model.init_from=run", "train.epochs=80", "optim.lr=5e-5")
    assert min(second.optim.plateau_patience, second.train.patience) >= 80
    text = recipe_path("glavitu").read_text()
    assert "train.epochs=80 optim.lr=5e-5" in text


def test_augmentation_is_that_of_the_plan():
    off = {"affine": 0, "elastic": 0, "grid_distortion": 0, "brightness_contrast": 0, "gamma": 0, "noise": 0, "blur": 0}

    def of(name):
        return _load(name).augmentation.model_dump()

    assert off | {"flips": 0.5, "rot90": 0.0} == {k: of("deeplab")[k] for k in (*off, "flips", "rot90")}
    assert off | {"flips": 0.5, "rot90": 0.5} == {k: of("glavitu")[k] for k in (*off, "flips", "rot90")}
    assert off | {"flips": 0.0, "rot90": 0.0} == {k: of("salt")[k] for k in (*off, "flips", "rot90")}
    assert (of("hkh_pretrain")["flips"], of("hkh_pretrain")["rotate_deg"], of("hkh_pretrain")["scale"]) == (
        0.5,
        45,
        0.2,
    )
    for name in ("finetune", "transfer", "distill"):
        assert of(name) == of("finetune")
    assert (of("finetune")["rotate_deg"], of("finetune")["scale"]) == (90, 0.3)
    assert min(of("finetune")[key] for key in ("flips", "affine", "elastic", "grid_distortion")) > 0


def test_sampling_is_balanced_where_classes_are_rare():
    for name in ("finetune", "transfer", "distill", "hkh_pretrain", "tiny_data"):
        sampling = _load(name).sampling
        assert (sampling.kind, sampling.interface_boost, sampling.target_mix) == ("balanced", 3.0, None)
    for name in ("deeplab", "glavitu", "salt"):
        assert _load(name).sampling.kind == "uniform"


def test_salt_sees_grey_images_whose_black_is_data():
    data = _load("salt").data
    assert (data.channels, data.scheme, data.zero_is_nodata, data.val_fraction) == (["grey"], "salt2", False, 0.15)
    assert _load("salt").sampling.crop_px == 128
    assert "optim.encoder_lr=1e-5" in recipe_path("salt").read_text()


def test_variants_stand_in_the_comments_and_load():
    deeplab = _load("deeplab", "train.epochs=100", "train.batch_size=16", "optim.lr=2e-4")
    assert (deeplab.train.epochs, deeplab.optim.lr) == (100, 2e-4)
    for name, variants in {
        "deeplab": ["train.epochs=100 train.batch_size=16 optim.lr=2e-4", "train.epochs=200 train.batch_size=4"],
        "hkh_pretrain": ["loss.terms={focal: 0.5, dice: 0.3, boundary: 0.2}", "train.batch_size=16 train.epochs=50"],
        "finetune": ["loss.focal_alpha=[0.08, 0.27, 0.45, 0.20]"],
        "transfer": ["model.frozen_stages=2"],
        "adaptive": ["loss.terms={ce: 0.3, iou: 0.7}"],
        "tiny_data": ["folds=5"],
    }.items():
        text = recipe_path(name).read_text()
        for variant in variants:
            assert variant in text
            _load(name, *([variant] if "{" in variant or "[" in variant else variant.split()))
    assert "{start: 0.05, end: 0.30, epochs: 100}" in recipe_path("finetune").read_text()


def test_tiny_data_is_averaged_and_ends_its_cosine():
    config = _load("tiny_data")
    assert (config.model.name, config.model.encoder_weights) == ("unet", "imagenet")
    assert config.train.ema == 0.999
    assert config.optim.schedule == "cosine"
    assert config.train.monitor == "none"
    assert build_loss(config.loss, get_scheme("glacier2")).terms.keys() == {"ce", "dice"}


def test_transfer_asks_for_the_model_to_start_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no model hkh_pretrained\.safetensors\. Name 'bundled'"):
        load_start(_load("transfer").model.init_from)
    assert load_start(_load("transfer", "model.init_from=bundled").model.init_from).card.architecture == "ba_unet"


def test_distill_takes_teachers_by_name():
    assert _load("distill").distill.teachers == ["bundled"]
    config = _load("distill", "distill.teachers=[runs/A, runs/B]")
    assert config.distill.teachers == ["runs/A", "runs/B"]
    assert (config.model.name, config.model.encoder) == ("unet", "efficientnet-b0")
    assert config.train.max_size_mb == 100
    network = build_model("unet", channels=5, num_classes=4, encoder="efficientnet-b0")
    assert 4 * sum(p.numel() for p in network.parameters()) / 1e6 < 100


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_its_network_and_its_loss(name):
    torch.set_num_threads(1)
    config = _load(name)
    assert config.model.name in model_names()
    arguments = model_arguments(config)
    if arguments.get("encoder") and not arguments.get("encoder_weights"):
        arguments["encoder"] = SMALL
    if name == "sam2":
        pytest.importorskip("transformers")
        arguments["image_px"] = 64
    for scheme in ("salt2",) if name == "salt" else ("glacier2", "glacier4", "glacier4-index"):
        num_classes = get_scheme(scheme).num_classes
        network = build_model(
            config.model.name, channels=config.data.channels, num_classes=num_classes, **arguments
        ).eval()
        with torch.no_grad():
            logits = network(torch.randn(1, len(config.data.channels), 64, 64))
        assert logits.shape == (1, num_classes, 64, 64)
        target = torch.arange(64 * 64).view(1, 64, 64) % num_classes
        loss = build_loss(config.loss, get_scheme(scheme))
        teacher = torch.full_like(logits, 1 / num_classes) if "kl" in config.loss.terms else None
        sums = loss.sums(logits, target, teacher)
        for epoch in (1, config.train.epochs, None):
            total, components = loss.value(sums, epoch)
            assert torch.isfinite(total)
            assert total > 0
            assert components.keys() == config.loss.terms.keys()


@pytest.mark.parametrize("name", recipe_names())
def test_every_choice_is_explained(name):
    lines = recipe_path(name).read_text().splitlines()
    assert lines[0].startswith("# ")
    assert any(line.startswith("#   python -m training.run") for line in lines)
    assert f"recipe: {name}" in lines
    for line in lines:
        assert len(line) <= 120
        key, _, value = line.partition(":")
        if line.strip() and not line.startswith("#") and value.strip() and key != "recipe":
            assert "  # " in line, f"{line!r} says not why"
