"""The architectures written by hand, each called directly."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import vgg16_bn

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo.encoders import adapt_first_convolution
from napari_glacier.nn.zoo.glavitu import glavitu
from napari_glacier.nn.zoo.hrnet import FuseResolutions, hrnet_w48
from napari_glacier.nn.zoo.segnet import UnpoolDecoder, VggEncoder, segnet, unpool
from napari_glacier.nn.zoo.stages import freeze_stages
from napari_glacier.nn.zoo.unets import SpatialAttention, advanced_unet, plain_unet

NAMES = (*CANONICAL_BANDS, "elevation")  # all three modalities
TINY: dict[str, Callable[..., nn.Module]] = {
    "plain_unet": partial(plain_unet, base=4),
    "advanced_unet": partial(advanced_unet, base=4),
    "segnet": segnet,
    "hrnet_w48": partial(hrnet_w48, encoder="hrnet_w18_small"),
    "glavitu": partial(glavitu, width=8, depth=2),
}


def _tiny(name: str, num_classes: int = 3) -> nn.Module:
    torch.manual_seed(3)
    return TINY[name](len(NAMES), num_classes, channel_names=NAMES)


def _loss(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum(logits.float().square().mean() for logits in outputs)


@pytest.mark.parametrize(
    ("builder", "lowest", "highest"),
    [
        (plain_unet, 31.02, 31.04),
        (advanced_unet, 31.03, 31.05),
        (segnet, 29.47, 29.49),
        (hrnet_w48, 65.84, 65.86),
        (glavitu, 10.02, 10.04),
    ],
)
def test_default_sizes(builder: Callable[..., nn.Module], lowest: float, highest: float) -> None:
    with torch.device("meta"):
        model = builder(5, 4, channel_names=CANONICAL_BANDS)
    assert lowest < sum(parameter.numel() for parameter in model.parameters()) / 1e6 < highest


@pytest.mark.parametrize("name", TINY)
def test_any_size(name: str) -> None:
    model = _tiny(name, num_classes=2).eval()
    with torch.no_grad():
        for size in ((1, 1), (37, 50), (64, 96)):
            logits = model(torch.randn(2, 6, *size))
            assert logits.shape == (2, 2, *size)
            assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", TINY)
def test_one_image_trains_every_parameter(name: str) -> None:
    model = _tiny(name).train()
    outputs = model(torch.randn(1, 6, 37, 50))
    _loss(outputs).backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    # A hidden branch that multiplies by zero would have gradients, all nought.
    assert sum(bool(parameter.grad.any()) for parameter in model.parameters()) > 0.9 * len([*model.parameters()])


@pytest.mark.parametrize("name", TINY)
def test_auxiliary_logits_only_while_training(name: str) -> None:
    model = _tiny(name)
    weights = getattr(model, "auxiliary_weights", ())
    assert weights == ((0.5,) if name == "glavitu" else ())
    x = torch.randn(2, 6, 33, 40)
    outputs = model.train()(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert [tuple(logits.shape) for logits in outputs] == [(2, 3, 33, 40)] * (1 + len(weights))
    assert isinstance(model.eval()(x), torch.Tensor)


@pytest.mark.parametrize("name", TINY)
def test_channels_last_and_half_precision_train(name: str) -> None:
    model = _tiny(name).train().to(memory_format=torch.channels_last)
    x = torch.randn(2, 6, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(x)
    _loss(outputs).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        plain = _tiny(name).eval()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(x), plain(x.contiguous()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", TINY)
def test_saved_weights_give_the_same_logits(name: str, tmp_path) -> None:
    model = _tiny(name).train()
    x = torch.randn(2, 6, 40, 50)
    model(x)  # moves the running statistics
    model.eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(4)
    again = TINY[name](6, 3, channel_names=NAMES).eval()
    with torch.no_grad():
        assert not torch.equal(again(x), model(x))
        again.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
        assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("name", TINY)
def test_a_traced_network_is_the_same(name: str) -> None:
    model = _tiny(name).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become constants, as wanted
        traced = torch.jit.trace(model, torch.randn(1, 6, 40, 72))
    x = torch.randn(1, 6, 40, 72)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), model(x))


@pytest.mark.parametrize(
    ("name", "first_stage"), [("plain_unet", "levels.0."), ("advanced_unet", "levels.0."), ("segnet", "features.")]
)
def test_encoders_freeze_stage_by_stage(name: str, first_stage: str) -> None:
    model = _tiny(name)
    freeze_stages(model, 1)
    frozen = [key for key, parameter in model.encoder.named_parameters() if not parameter.requires_grad]
    convolutions = [key for key in frozen if model.encoder.get_parameter(key).dim() == 4]
    assert len(convolutions) == 2
    assert all(key.startswith(first_stage) for key in frozen)
    freeze_stages(model, 5)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


# U-Nets


def test_unet_skips_join_maps_of_the_same_stride() -> None:
    model = _tiny("plain_unet")
    features = model.encoder(torch.randn(1, 6, 64, 96))
    assert [tuple(x.shape[1:]) for x in features] == [(4 * 2**k, 64 >> k, 96 >> k) for k in range(5)]
    assert model.decoder(features).shape == (1, 4, 64, 96)


def test_plain_unet_keeps_the_size_of_the_signal() -> None:
    """Without normalisation nothing but the initial weights does."""
    torch.manual_seed(0)
    model = plain_unet(5, 2, base=16).eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        features = model.encoder(torch.randn(1, 5, 64, 64))
        sizes = [x.square().mean().sqrt().item() for x in (*features, model.decoder(features))]
    assert all(0.3 < size < 3 for size in sizes)


def test_spatial_attention_formula() -> None:
    attention, x = SpatialAttention(), torch.randn(2, 5, 9, 8)
    weight = attention.conv.weight.detach()[0]
    padded = functional.pad(torch.stack([x.mean(1), x.max(1).values], 1), (3, 3, 3, 3))
    expected = torch.empty_like(x)
    for n in range(2):
        for row in range(9):
            for column in range(8):
                score = (padded[n, :, row : row + 7, column : column + 7] * weight).sum()
                expected[n, :, row, column] = x[n, :, row, column] / (1 + torch.exp(-score))
    torch.testing.assert_close(attention(x), expected)


def test_advanced_unet_weighs_every_skip() -> None:
    model = _tiny("advanced_unet").eval()
    x = torch.randn(1, 6, 32, 32)
    with torch.no_grad():
        features = model.encoder(x)
        before = model(x)
        halved = [feature / 2 for feature in features[:-1]] + [features[-1]]
        for attention in model.decoder.attentions:
            nn.init.zeros_(attention.conv.weight)  # sigmoid(0): half of every skip
        everywhere_half = model(x)
        model.decoder.attentions = nn.ModuleList(nn.Identity() for _ in range(4))
        torch.testing.assert_close(model.segmentation_head(model.decoder(halved)), everywhere_half)
        assert not torch.allclose(before, everywhere_half)


@pytest.mark.parametrize(("activation", "kind"), [("leaky_relu", nn.LeakyReLU), ("elu", nn.ELU), ("silu", nn.SiLU)])
def test_advanced_unet_activations_and_dropout(activation: str, kind: type[nn.Module]) -> None:
    model = advanced_unet(5, 2, base=4, activation=activation, dropout=0.3)
    assert sum(isinstance(module, kind) for module in model.modules()) == 18
    assert all(module.negative_slope == 0.1 for module in model.modules() if isinstance(module, nn.LeakyReLU))
    shares = [
        [module.p for module in part.modules() if isinstance(module, nn.Dropout2d)]
        for part in (model.encoder, model.decoder)
    ]
    assert shares == [[0.3] * 5, [0.15] * 4]
    model.train()(torch.randn(1, 5, 32, 32)).sum().backward()  # in-place activations and autograd


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no activation 'relu7'.*leaky_relu, elu, silu"):
        advanced_unet(5, 2, activation="relu7")


# SegNet


def test_unpool_equals_the_library() -> None:
    x = torch.randn(2, 3, 8, 12, requires_grad=True)
    peaks, where = functional.max_pool2d(x, 2, return_indices=True)
    ours, oracle = unpool(peaks, where), functional.max_unpool2d(peaks, where, 2)
    assert torch.equal(ours, oracle)
    assert torch.equal(ours != 0, functional.interpolate(peaks, scale_factor=2) == x)
    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (ours, oracle)]
    assert torch.equal(*gradients)


def test_encoder_gives_the_indices_of_its_poolings() -> None:
    encoder = VggEncoder(3).eval()
    with torch.no_grad():
        x = image = torch.randn(1, 3, 64, 96)
        pooled = encoder(image)
        torch.testing.assert_close(pooled[-1][0], encoder.features(image))
        for layer in encoder.features:
            if isinstance(layer, nn.MaxPool2d):
                peaks, indices = pooled.pop(0)
                torch.testing.assert_close(peaks, functional.max_pool2d(x, 2))
                torch.testing.assert_close(x.flatten(2).gather(2, indices.flatten(2)), peaks.flatten(2))
            x = layer(x)
    assert pooled == []


def test_decoder_puts_values_where_the_indices_say() -> None:
    decoder = UnpoolDecoder().eval()
    for k in range(5):
        decoder.stages[k] = nn.Identity()
    x = torch.rand(1, 2, 1, 1) + 1
    scene = torch.rand(1, 2, 32, 32)
    pooled = []
    for _ in range(5):
        scene, where = functional.max_pool2d(scene, 2, return_indices=True)
        pooled.append((scene, where))
    pooled[-1] = (x, where)
    expected = x
    for _, where in pooled[::-1]:
        expected = functional.max_unpool2d(expected, where, 2)
    assert torch.equal(decoder(pooled), expected)
    assert (expected != 0).sum() == 2  # one pixel a channel


def test_encoder_is_the_vgg_of_torchvision() -> None:
    with torch.device("meta"):
        ours, theirs = VggEncoder(3), vgg16_bn(weights=None)
    shapes = {key: value.shape for key, value in theirs.state_dict().items() if key.startswith("features.")}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    kinds = [[type(layer) for layer in network.features] for network in (ours, theirs)]
    assert kinds[0] == kinds[1]


def test_segnet_takes_weights_of_vgg(tmp_path) -> None:
    source = VggEncoder(3)
    torch.save(source.state_dict() | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "vgg.pth")
    model = segnet(5, 2, encoder_weights=tmp_path / "vgg.pth", channel_names=CANONICAL_BANDS)
    torch.testing.assert_close(model.encoder.features[3].weight, source.features[3].weight)
    torch.testing.assert_close(
        model.encoder.features[0].weight, adapt_first_convolution(source.features[0].weight, CANONICAL_BANDS)
    )


# HRNet


def test_resolutions_are_fused_at_the_finest() -> None:
    fuse = FuseResolutions([2, 3]).eval()
    features = [torch.randn(1, 2, 8, 8), torch.randn(1, 3, 4, 4)]
    upsampled = functional.interpolate(features[1], scale_factor=2, mode="bilinear")
    mixed = torch.einsum("oi,nihw->nohw", fuse.mix[0].weight[:, :, 0, 0], torch.cat([features[0], upsampled], 1))
    expected = torch.relu(fuse.mix[1](mixed))
    torch.testing.assert_close(fuse(features), expected)


def test_hrnet_takes_weights_of_timm(tmp_path) -> None:
    source = timm.create_model("hrnet_w18_small", pretrained=False)
    torch.save(source.state_dict(), tmp_path / "hrnet.pth")
    model = hrnet_w48(
        5, 2, encoder="hrnet_w18_small", encoder_weights=tmp_path / "hrnet.pth", channel_names=CANONICAL_BANDS
    )
    state = model.encoder.state_dict()
    expected = source.state_dict() | {
        "conv1.weight": adapt_first_convolution(source.conv1.weight.detach(), CANONICAL_BANDS)
    }
    for key, value in state.items():
        torch.testing.assert_close(value, expected[key])


def test_unknown_hrnet_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no HRNet 'resnet34'.*hrnet_w48"):
        hrnet_w48(5, 2, encoder="resnet34")
