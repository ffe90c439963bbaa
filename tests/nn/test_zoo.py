import copy
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.errors import CheckpointError, ConfigError
from napari_glacier.nn.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from napari_glacier.nn.zoo import build_model, model_names, optional_extra, takes_encoder
from napari_glacier.nn.zoo.deeplab_cbam import AttentionAspp, Cbam
from napari_glacier.nn.zoo.encoders import adapt_first_convolution
from napari_glacier.nn.zoo.network import pad_to_stride

LIGHT = {"encoder": "tu-mobilenetv3_small_050", "decoder_channels": [32, 24, 16, 16, 16]}
TINY_SAM = {
    "width": 8,
    "heads": 1,
    "blocks": [1, 1, 2, 1],
    "global_blocks": [3],
    "windows": [8, 4, 4, 2],
    "background": 2,
    "decoder_width": 32,
    "decoder_inner": 64,
}
LIGHT_ARGUMENTS: dict[str, dict[str, object]] = {
    "plain_unet": {"base": 8},
    "advanced_unet": {"base": 8},
    "glavitu": {"width": 8, "depth": 2},
    "hrnet_w48": {"encoder": "hrnet_w18_small"},
    "monai_unet": {"widths": [8, 16, 24]},
    "monai_dynunet": {"widths": [4, 8, 8, 12, 16]},
    "monai_segresnet": {"width": 8},
    "monai_attentionunet": {"widths": [8, 16, 24]},
    "sam2": {"size": TINY_SAM, "image_px": 64},
}
HEAVY = {"fcn_resnet50", "deeplabv3_resnet50"}  # of one size only


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _light_arguments(name: str) -> dict[str, object]:
    """Arguments that make an architecture small enough to train in a test."""
    if name in {"ba_unet", "deeplab_cbam", "unet"}:
        return LIGHT
    return LIGHT_ARGUMENTS.get(name) or ({"encoder": LIGHT["encoder"]} if takes_encoder(name) else {})


def _build(name: str, channels: Sequence[str], num_classes: int, **arguments: object) -> nn.Module:
    extra = optional_extra(name)
    if extra is not None:
        pytest.importorskip({"monai": "monai", "sam2": "transformers"}[extra])
    torch.manual_seed(5)
    return build_model(name, channels=channels, num_classes=num_classes, **arguments)


def _loss(model: nn.Module, image_NCHW: torch.Tensor, target_NHW: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the logits, and of the auxiliary outputs by their weights."""
    outputs = model(image_NCHW)
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = getattr(model, "auxiliary_weights", ()) if model.training else ()
    loss = functional.cross_entropy(logits, target_NHW)
    for weight, other in zip(weights, auxiliary, strict=True):
        assert other.shape == logits.shape
        loss = loss + weight * functional.cross_entropy(other, target_NHW)
    return loss


@pytest.mark.parametrize("channels", [CANONICAL_BANDS, (*CANONICAL_BANDS, "NDSI", "valid")], ids=["5", "7"])
@pytest.mark.parametrize("scheme", ["glacier2", "glacier4"])
@pytest.mark.parametrize("name", model_names())
def test_every_model_learns_and_reloads(
    name: str, scheme: str, channels: tuple[str, ...], make_card: Callable[..., ModelCard], tmp_path: Path
) -> None:
    num_classes = get_scheme(scheme).num_classes
    arguments = _light_arguments(name)
    model = _build(name, channels, num_classes, **arguments).train()
    side = 32 if name in HEAVY else 64
    image = torch.randn(1, len(channels), side, side)  # one image: every model trains on a batch of one
    # Classes that follow from the bands, as in life.
    smooth = functional.avg_pool2d(image[:, :2].sum(1, keepdim=True), 9, 1, 4)[:, 0]
    target = torch.bucketize(smooth, smooth.quantile(torch.arange(1, num_classes) / num_classes))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-5)  # larger steps overshoot on one image
    losses = []
    for _ in range(4):
        torch.manual_seed(1)  # the same dropout in every step, so that the losses compare
        loss = _loss(model, image, target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(map(math.isfinite, losses))

    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, make_card(channels, scheme, architecture=name, arguments=arguments))
    loaded = load_checkpoint(path).model
    with torch.no_grad():
        expected = model.eval()(image)
        assert expected.shape == (1, num_classes, side, side)
        torch.testing.assert_close(loaded(image), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", model_names())
def test_every_model_trains_on_one_image_of_any_size(name: str) -> None:
    model = _build(name, (*CANONICAL_BANDS, "valid"), 3, **_light_arguments(name)).train()
    loss = _loss(model, torch.randn(1, 6, 37, 50), torch.randint(0, 3, (1, 37, 50)))
    loss.backward()
    without = [key for key, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert without == []
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 6, 37, 50)).shape == (2, 3, 37, 50)


@pytest.mark.parametrize("name", ["unet", "glavitu", "monai_dynunet", "monai_unet", "sam2"])
def test_models_can_be_copied_after_training(name: str) -> None:
    """A running mean of the weights begins as a copy; MONAI keeps maps with their graph on the network."""
    model = _build(name, CANONICAL_BANDS, 2, **_light_arguments(name)).train()
    image = torch.randn(1, 5, 64, 64)
    _loss(model, image, torch.zeros(1, 64, 64, dtype=torch.long)).backward()
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        torch.testing.assert_close(twin(image), model.eval()(image))


def test_which_models_take_an_encoder() -> None:
    with_encoder = {name for name in model_names() if takes_encoder(name)}
    assert {"ba_unet", "deeplab_cbam", "unet", "pspnet", "upernet"} <= with_encoder
    assert not with_encoder & {"plain_unet", "glavitu", "segnet", "fcn_resnet50", "monai_unet", "sam2"}
    with pytest.raises(ConfigError, match="no model 'resunet'"):
        takes_encoder("resunet")


def test_which_models_are_extras() -> None:
    extras = {name: optional_extra(name) for name in model_names() if optional_extra(name)}
    assert extras == dict.fromkeys(
        ("monai_unet", "monai_dynunet", "monai_segresnet", "monai_attentionunet"), "monai"
    ) | {"sam2": "sam2"}


def test_extras_are_not_imported_with_the_zoo() -> None:
    code = (
        "import sys, napari_glacier.nn.zoo; print([name for name in ('monai', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "millions"), [("ba_unet", 24.6), ("deeplab_cbam", 22.5)])
def test_default_sizes(name: str, millions: float) -> None:
    model = build_model(name, channels=5, num_classes=4)
    assert _count(model) / 1e6 == pytest.approx(millions, abs=0.05)


def test_light_member_is_small() -> None:
    model = build_model(
        "ba_unet",
        channels=5,
        num_classes=4,
        encoder="tu-mobilenetv3_small_100",
        decoder_channels=[64, 48, 32, 16, 16],
    )
    assert _count(model) / 1e6 == pytest.approx(1.48, abs=0.005)


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (31, 64), (101, 101)])
@pytest.mark.parametrize("name", ["ba_unet", "deeplab_cbam"])
def test_awkward_sizes(name: str, size: tuple[int, int]) -> None:
    model = build_model(name, channels=3, num_classes=2, **LIGHT).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 2, *size)
    assert torch.isfinite(logits).all()


def test_padding_keeps_the_image_and_mirrors_it() -> None:
    image = torch.arange(40.0 * 50).reshape(1, 1, 40, 50)
    padded = pad_to_stride(image, 32)
    assert padded.shape == (1, 1, 64, 64)
    assert torch.equal(padded[..., :40, :50], image)
    assert torch.equal(padded[..., 40, :50], image[..., 38, :])
    assert pad_to_stride(padded, 32) is padded


def test_dropout_only_while_training() -> None:
    model = build_model("ba_unet", channels=5, num_classes=2, dropout=0.5, **LIGHT)
    x = torch.randn(2, 5, 64, 64)
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(x), model(x))
        model.decoder.eval(), model.encoder.eval(), model.dropout.train()
        assert not torch.equal(model(x), model(x))


def test_attention_formulas() -> None:
    """CBAM and the gated pyramid against their formulas written out."""
    cbam, x = Cbam(8), torch.randn(2, 8, 6, 7)
    mean, peak = x.mean((2, 3)), x.amax((2, 3))
    w1, w2 = (cbam.mlp[k].weight[:, :, 0, 0] for k in (0, 2))
    channel = torch.sigmoid(torch.relu(mean @ w1.T) @ w2.T + torch.relu(peak @ w1.T) @ w2.T)
    attended = x * channel[:, :, None, None]
    summary = torch.stack([attended.mean(1), attended.amax(1)], 1)
    place = torch.sigmoid(torch.nn.functional.conv2d(summary, cbam.spatial.weight, padding=3))
    torch.testing.assert_close(cbam(x), attended * place)

    aspp = AttentionAspp(8, 16, (1, 2, 3), dropout=0.0).eval()
    torch.nn.init.zeros_(aspp.gate.weight)
    torch.nn.init.zeros_(aspp.gate.bias)
    maps = [branch(x) for branch in aspp.branches] + [aspp.image_level(x).expand(-1, -1, 6, 7)]
    torch.testing.assert_close(aspp(x), aspp.project(torch.cat(maps, 1)))  # equal weights change nothing


def test_first_convolution_goes_by_band_name() -> None:
    rgb = torch.randn(4, 3, 3, 3)
    adapted = adapt_first_convolution(rgb, CANONICAL_BANDS)
    scale = 3 / 5
    for band, plane in {"B4": 0, "B3": 1, "B2": 2}.items():
        torch.testing.assert_close(adapted[:, CANONICAL_BANDS.index(band)], rgb[:, plane] * scale)
    torch.testing.assert_close(adapted[:, 3], rgb.mean(1) * scale)
    torch.testing.assert_close(adapted[:, 4], rgb.mean(1) * scale)
    # A grey surface gives the same answer as before.
    torch.testing.assert_close(adapted[:, [0, 1, 2]].sum() * 5 / 3, rgb.sum())


def test_first_convolution_is_blind_to_what_is_no_light() -> None:
    rgb = torch.randn(4, 3, 3, 3)
    channels = ("elevation", *CANONICAL_BANDS, "slope", "NDSI", "valid", "contrast")
    adapted = adapt_first_convolution(rgb, channels)
    torch.testing.assert_close(adapted[:, 1:6], adapt_first_convolution(rgb, CANONICAL_BANDS))
    assert adapted[:, [0, 6, 7, 8, 9]].abs().max() == 0
    torch.testing.assert_close(adapt_first_convolution(rgb, ("red", "green", "blue")), rgb)
    torch.testing.assert_close(adapt_first_convolution(rgb, ("grey",))[:, 0], rgb.sum(1))
    torch.testing.assert_close(adapt_first_convolution(rgb, ("elevation", "slope")).sum(1), rgb.sum(1))


@pytest.mark.parametrize("kind", ["pth", "safetensors", "nested"])
def test_encoder_weights_from_a_local_file(kind: str, tmp_path) -> None:
    source = build_model("unet", channels=3, num_classes=2, encoder="resnet18")
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    encoder_state = {key: value.clone() for key, value in source.encoder.state_dict().items()}
    if kind == "safetensors":
        save_file(encoder_state, path)
    elif kind == "pth":
        torch.save(encoder_state | {"fc.weight": torch.zeros(3, 512)}, path)
    else:
        torch.save({"state_dict": {f"module.{key}": value for key, value in source.state_dict().items()}}, path)
    model = build_model(
        "ba_unet", channels=CANONICAL_BANDS, num_classes=4, encoder="resnet18", encoder_weights=str(path)
    )
    torch.testing.assert_close(model.encoder.layer3[0].conv1.weight, source.encoder.layer3[0].conv1.weight)
    torch.testing.assert_close(
        model.encoder.conv1.weight, adapt_first_convolution(source.encoder.conv1.weight, CANONICAL_BANDS)
    )


def test_timm_encoder_weights_lose_their_prefix(tmp_path) -> None:
    source = build_model("ba_unet", channels=3, num_classes=2, **LIGHT)
    path = tmp_path / "timm.pth"
    torch.save({key.removeprefix("model."): value for key, value in source.encoder.state_dict().items()}, path)
    model = build_model("ba_unet", channels=5, num_classes=2, encoder_weights=path, **LIGHT)
    torch.testing.assert_close(
        model.encoder.model.blocks[1][0].conv_pw.weight, source.encoder.model.blocks[1][0].conv_pw.weight
    )


def test_weights_of_another_encoder_are_refused(tmp_path) -> None:
    path = tmp_path / "other.pth"
    torch.save(build_model("unet", channels=3, num_classes=2, encoder="resnet18").encoder.state_dict(), path)
    with pytest.raises(ConfigError, match="do not fit the encoder resnet34"):
        build_model("ba_unet", channels=5, num_classes=2, encoder_weights=str(path))
    with pytest.raises(CheckpointError, match="no weight file"):
        build_model("ba_unet", channels=5, num_classes=2, encoder_weights=str(tmp_path / "absent.pth"))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "resunet"}, "no model 'resunet'.*ba_unet"),
        ({"encoder": "resnet35"}, "resnet35"),
        ({"decoder_channels": (16, 16)}, "decoder_channels"),
        ({"decoder_channels": (64, 32, 16, 16, 8)}, "at least 16"),
        ({"colour": 1}, "colour"),
        ({"channels": []}, "at least one channel"),
        ({"num_classes": 1}, "two classes"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(arguments: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        build_model(**({"name": "ba_unet", "channels": 5, "num_classes": 4} | arguments))


def test_the_table_of_the_guide_is_true() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    table = guide.partition("architectures: begin -->")[2].partition("<!-- architectures: end")[0]
    rows = [[cell.strip(" `[]") for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]
    assert [name for name, *_ in rows] == list(model_names())
    for name, millions, encoder, extra in rows:
        assert (encoder != "its own", extra or None) == (takes_encoder(name), optional_extra(name))
        counted = _count(_build(name, CANONICAL_BANDS, 4)) / 1e6
        assert f"{counted:.{1 if counted >= 1 else 2}f}" == millions
