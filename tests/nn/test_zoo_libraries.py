"""Architectures of other libraries: sizes, weights of their own, and what is said where an extra is missing."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint
from napari_glacier.nn.zoo import build_model
from napari_glacier.nn.zoo.encoders import adapt_first_convolution
from napari_glacier.nn.zoo.stages import encoder_of, freeze_stages

SMP = (
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "pan",
    "deeplabv3",
    "deeplabv3plus",
    "segformer",
    "upernet",
)
MONAI = ("monai_unet", "monai_dynunet", "monai_segresnet", "monai_attentionunet")
TINY_SAM = {
    "width": 8,
    "blocks": [1, 1, 2, 1],
    "global_blocks": [3],
    "windows": [8, 4, 4, 2],
    "background": 2,
    "decoder_width": 32,
    "decoder_inner": 64,
}


def _build(name: str, channels: object = CANONICAL_BANDS, num_classes: int = 3, **arguments: object) -> nn.Module:
    torch.manual_seed(6)
    return build_model(name, channels=channels, num_classes=num_classes, **arguments)


def _sam(**arguments: object) -> nn.Module:
    pytest.importorskip("transformers")
    return _build("sam2", **({"size": TINY_SAM, "image_px": 64} | arguments))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_050"])
@pytest.mark.parametrize("name", SMP)
def test_library_models_take_awkward_sizes_on_any_encoder(name: str, encoder: str) -> None:
    model = _build(name, encoder=encoder).eval()
    with torch.no_grad():
        for size in ((1, 1), (33, 70), (130, 9)):
            logits = model(torch.randn(1, 5, *size))
            assert logits.shape == (1, 3, *size)
            assert torch.isfinite(logits).all()


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_pspnet_comes_out_at_the_image_size_at_any_depth(depth: int) -> None:
    model = _build("pspnet", encoder="resnet18", encoder_depth=depth)
    assert model.stride == 2**depth
    assert model(torch.randn(2, 5, 37, 50)).shape == (2, 3, 37, 50)
    # Layers that such a shallow encoder does not call are not there.
    assert (depth >= 5) == any(key.startswith("encoder.layer4") for key in model.state_dict())


def test_torchvision_backbone_is_torchvisions_own() -> None:
    """Same maps as the library's network with the same weights, for the three channels that it knows."""
    from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50

    for name, original in (("fcn_resnet50", fcn_resnet50), ("deeplabv3_resnet50", deeplabv3_resnet50)):
        theirs = original(weights=None, weights_backbone=None, num_classes=3, aux_loss=False).eval()
        ours = _build(name, 3).eval()
        state = theirs.state_dict()
        ours.encoder.load_state_dict(
            {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
        )
        ours.decoder.head.load_state_dict(
            {key.removeprefix("classifier."): value for key, value in state.items() if key.startswith("classifier.")}
        )
        image = torch.randn(1, 3, 40, 56)
        with torch.no_grad():
            torch.testing.assert_close(ours(image), theirs(image)["out"])


def test_torchvision_takes_local_weights_of_the_whole_network(tmp_path: Path) -> None:
    from torchvision.models.segmentation import fcn_resnet50

    source = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21)
    path = tmp_path / "fcn.pth"
    torch.save(source.state_dict(), path)
    model = _build("fcn_resnet50", encoder_weights=str(path))
    torch.testing.assert_close(model.encoder.layer4[2].conv2.weight, source.backbone.layer4[2].conv2.weight)
    adapted = adapt_first_convolution(source.backbone.conv1.weight, CANONICAL_BANDS)
    torch.testing.assert_close(model.encoder.conv1.weight, adapted)


def test_dynunet_supervises_three_levels() -> None:
    pytest.importorskip("monai")
    model = _build("monai_dynunet", widths=[4, 8, 8, 12, 16]).train()
    assert model.auxiliary_weights == (0.5, 0.25, 0.125)
    outputs = model(torch.randn(1, 5, 37, 50))
    assert isinstance(outputs, tuple)
    assert [value.shape for value in outputs] == [(1, 3, 37, 50)] * 4
    # Auxiliary maps are of lower resolution, repeated: level k changes at most every 2^k pixels.
    for level, value in enumerate(outputs[1:], start=1):
        block = value[..., : 2**level, : 2**level]
        assert torch.equal(block, block[..., :1, :1].expand_as(block))
    assert model.eval()(torch.randn(1, 5, 37, 50)).shape == (1, 3, 37, 50)
    without = _build("monai_dynunet", widths=[4, 8, 8, 12], auxiliary_weights=[]).train()
    assert without(torch.randn(1, 5, 37, 50)).shape == (1, 3, 37, 50)


@pytest.mark.parametrize("name", MONAI)
def test_without_monai_the_mend_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("monai", "monai.networks"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'{name} needs MONAI.*pip install "napari-glacier\[monai\]"'):
        _build(name)


def test_without_transformers_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'sam2 needs transformers.*pip install "napari-glacier\[sam2\]"'):
        _build("sam2", size=TINY_SAM, image_px=64)


@pytest.mark.parametrize("name", MONAI)
def test_monai_networks_have_no_encoder_to_freeze(name: str) -> None:
    pytest.importorskip("monai")
    model = _build(name)
    assert encoder_of(model) is None
    with pytest.raises(ConfigError, match=f"{name} has no encoder"):
        freeze_stages(model, 1)


def test_sam2_masks_are_those_of_the_library() -> None:
    """The same parts driven through Sam2Model's own forward, a point prompt in the place of the learned ones."""
    transformers = pytest.importorskip("transformers")
    from napari_glacier.nn.zoo.sam2 import Sam2Segmenter, _config, _known_size

    torch.manual_seed(1)
    config = transformers.Sam2Config(**_config(_known_size(TINY_SAM), 64))
    config.mask_decoder_config.dynamic_multimask_via_stability = False
    sam = transformers.Sam2Model(config).eval()
    with torch.no_grad():
        sam.no_memory_embedding.normal_()
    image = torch.randn(2, 3, 64, 64)
    point = torch.tensor([[[[20.0, 30.0]]]]).expand(2, 1, 1, 2)
    label = torch.ones(2, 1, 1, dtype=torch.int)
    with torch.no_grad():
        expected = sam(pixel_values=image, input_points=point, input_labels=label, multimask_output=False).pred_masks
        tokens, _ = sam.prompt_encoder(point, label, None, None)
        ours = Sam2Segmenter(sam, ("B4", "B3", "B2"), 1, 64, tokens.shape[2]).eval()
        ours.prompts.copy_(tokens[0])
        torch.testing.assert_close(
            ours(image), functional.interpolate(expected[:, :, 0], (64, 64), mode="bilinear"), rtol=1e-4, atol=1e-5
        )


def test_sam2_trains_all_but_its_image_encoder() -> None:
    model = _sam().train()
    model(torch.randn(1, 5, 37, 50)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith("encoder.")
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == parameter.requires_grad, name


def test_sam2_composite_starts_as_true_colour() -> None:
    weight = _sam().composite.weight.detach()[:, :, 0, 0]
    assert weight.tolist() == [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]  # B4, B3, B2 of B2, B3, B4, B6, B10
    unnamed = _sam(channels=4).composite.weight.detach()
    torch.testing.assert_close(unnamed, torch.full_like(unnamed, 0.25))


def test_sam2_resizes_any_image() -> None:
    model = _sam(image_px=96).eval()
    with torch.no_grad():
        for size in ((1, 1), (37, 50), (200, 130)):
            logits = model(torch.randn(1, 5, *size))
            assert logits.shape == (1, 3, *size)
            assert torch.isfinite(logits).all()


def test_sam2_takes_local_weights_and_reloads_without_them(make_card, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from napari_glacier.nn.zoo.sam2 import _config, _known_size

    torch.manual_seed(2)
    folder = tmp_path / "sam"
    source = transformers.Sam2Model(transformers.Sam2Config(**_config(_known_size(TINY_SAM), 1024)))
    source.save_pretrained(folder)
    arguments = {"size": TINY_SAM, "image_px": 64, "encoder_weights": str(folder)}
    model = _build("sam2", num_classes=4, **arguments).eval()
    for key, value in source.vision_encoder.state_dict().items():
        assert torch.equal(model.encoder.vision.state_dict()[key], value), key
    assert torch.equal(model.decoder.mask_tokens.weight, source.mask_decoder.mask_tokens.weight)
    assert torch.equal(model.positions.positional_embedding, source.shared_image_embedding.positional_embedding)

    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, make_card(architecture="sam2", arguments=arguments))
    for file in folder.iterdir():
        file.unlink()
    image = torch.randn(1, 5, 40, 40)
    with torch.no_grad():
        assert torch.equal(load_checkpoint(path).model(image), model(image))


def test_sam2_refuses_what_does_not_fit(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from napari_glacier.nn.zoo.sam2 import _config, _known_size

    with pytest.raises(ConfigError, match=r"no SAM 2 weights in .*config\.json"):
        _sam(encoder_weights=str(tmp_path / "absent"))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text('{"model_type": "sam2"}')
    with pytest.raises(ConfigError, match="not of SAM 2"):
        _sam(encoder_weights=str(empty))
    folder = tmp_path / "sam"
    transformers.Sam2Model(transformers.Sam2Config(**_config(_known_size(TINY_SAM), 64))).save_pretrained(folder)
    for other in ({"width": 16}, {"blocks": [1, 1, 1, 1]}, {"blocks": [1, 1, 3, 1]}):
        with pytest.raises(ConfigError, match="not of SAM 2 of size"):
            _sam(size=TINY_SAM | other, encoder_weights=str(folder))
    with pytest.raises(ConfigError, match="no SAM 2 of size 'huge'"):
        _sam(size="huge")
    with pytest.raises(ConfigError, match="has no colour"):
        _sam(size={"colour": 1})
    with pytest.raises(ConfigError, match="multiples of 32"):
        _sam(image_px=100)
    with pytest.raises(ConfigError, match="at least one prompt"):
        _sam(prompts_per_class=0)


def test_sam2_stages_are_its_pyramid() -> None:
    model = _sam()
    freeze_stages(model, 3)
    with pytest.raises(ConfigError, match="has 3"):
        freeze_stages(model, 4)
