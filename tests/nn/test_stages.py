"""Frozen stages of encoders, idle parameters, and batch norms that can wait."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo import build_model
from napari_glacier.nn.zoo.norm import PatientBatchNorm, with_patient_norms
from napari_glacier.nn.zoo.stages import encoder_of, encoder_stages, freeze_stages, settle_idle

LIGHT = {"encoder": "tu-mobilenetv3_small_050", "decoder_channels": [32, 24, 16, 16, 16]}


def _unet(**arguments: object) -> nn.Module:
    torch.manual_seed(2)
    return build_model("unet", channels=5, num_classes=3, **({"encoder": "resnet18"} | arguments))


def _train_a_step(network: nn.Module) -> None:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(3 + torch.randn(2, 5, 64, 64)).square().mean().backward()
    optimizer.step()


def _moved(network: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}


def _state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def test_stages_of_a_resnet_are_its_layers() -> None:
    """The layers' names are known here; `encoder_stages` does not look at them."""
    stages = encoder_stages(_unet().encoder)
    assert [{name.split(".")[0] for name in stage} for stage in stages] == [
        {"conv1", "bn1"},
        {"layer1"},
        {"layer2"},
        {"layer3"},
        {"layer4"},
    ]


def test_stages_of_a_dilated_resnet_are_its_layers_too() -> None:
    network = build_model("deeplabv3_resnet50", channels=5, num_classes=2)
    stages = encoder_stages(network.encoder)
    assert [{name.split(".")[0] for name in stage} for stage in stages] == [
        {"conv1", "bn1"},
        {"layer1"},
        {"layer2"},
        {"layer3"},
        {"layer4"},
    ]


@pytest.mark.parametrize(
    ("encoder", "count"), [("tu-mobilenetv3_small_050", 5), ("mit_b0", 4), ("vgg11_bn", 5), ("tu-convnext_atto", 4)]
)
def test_stages_share_out_all_parameters_of_any_encoder(encoder: str, count: int) -> None:
    network = _unet(encoder=encoder)
    network.encoder.train()
    before = _state(network)
    stages = encoder_stages(network.encoder)
    names = [name for stage in stages for name in stage]
    assert len(stages) == count
    assert len(names) == len(set(names))
    assert set(names) == {name for name, _ in network.encoder.named_parameters()}
    # Asking left no trace.
    assert _moved(network, before) == set()
    assert all(module.training for module in network.encoder.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_every_entry_of_a_module_list_is_a_stage() -> None:
    encoder = nn.ModuleList([nn.Conv2d(2, 3, 1), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))])
    assert encoder_stages(encoder) == [
        {"0.weight", "0.bias"},
        {"1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias"},
    ]


@pytest.mark.parametrize("arguments", [{}, LIGHT], ids=["resnet18", "timm"])
@pytest.mark.parametrize("stages", [1, 3, "all"])
def test_frozen_stages_do_not_move(stages: int | str, arguments: dict[str, object]) -> None:
    network = _unet(**arguments)
    found = encoder_stages(network.encoder)
    frozen = set().union(*(found if stages == "all" else found[:stages]))
    assert len(frozen) > 0
    freeze_stages(network, stages)
    before = _state(network)
    _train_a_step(network)
    moved = _moved(network, before)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    frozen_norms = {name.rpartition(".")[0] for name in frozen}
    still = {f"encoder.{name}" for name in frozen} | {
        key
        for key in before
        if key.endswith(statistics) and key.removeprefix("encoder.").rpartition(".")[0] in frozen_norms
    }
    assert any(key.endswith("running_mean") for key in still)
    assert not moved & still
    # All else learns, running statistics included (a bias may have no gradient where a norm follows).
    others = {key for key, value in before.items() if key.endswith("running_mean") or value.ndim == 4} - still
    assert others <= moved


def test_stages_stay_frozen_when_wrapped_copied_and_converted() -> None:
    network = _unet()
    freeze_stages(network, 1)
    freeze_stages(network, 2)
    assert list(network.state_dict()) == list(_unet().state_dict())
    holder = nn.Module()  # as DistributedDataParallel does: the network is its child
    holder.module = network
    twin = copy.deepcopy(network)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    for which, outer in ((network, holder), (twin, twin), (converted, converted)):
        outer.train()
        modes = {name: module.training for name, module in which.named_modules() if isinstance(module, _NormBase)}
        frozen = {name for name, training in modes.items() if not training}
        expected = {name for name in modes if name == "encoder.bn1" or name.startswith("encoder.layer1.")}
        assert frozen == expected
        assert len(expected) == 5
    twin.encoder.get_submodule("layer2.0.bn1").eval()
    twin.train()
    assert twin.encoder.get_submodule("layer2.0.bn1").training
    assert network.encoder is not twin.encoder
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.encoder.modules())


def test_freezing_nothing_changes_nothing() -> None:
    network = build_model("plain_unet", channels=3, num_classes=2, base=4)
    freeze_stages(network, 0)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.train().training


@pytest.mark.parametrize("stages", [1, "all"])
def test_a_network_without_encoder_says_so(stages: int | str) -> None:
    network = build_model("glavitu", channels=3, num_classes=2, width=8, depth=1)
    assert encoder_of(network) is None
    with pytest.raises(ConfigError, match="model glavitu has no encoder"):
        freeze_stages(network, stages)


def test_more_stages_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"6 stages .* model unet has 5"):
        freeze_stages(_unet(), 6)


def test_idle_parts_are_removed_or_frozen() -> None:
    def two_layers() -> nn.Module:
        class Shallow(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used = nn.Conv2d(2, 3, 1)
                self.idle = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

            def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
                return [x, self.used(x)]

        return Shallow()

    removed, held = two_layers(), two_layers()
    settle_idle(removed, remove=True)
    settle_idle(held, remove=False)
    assert set(removed.state_dict()) == {"used.weight", "used.bias"}
    assert set(held.state_dict()) == set(two_layers().state_dict())
    assert {name for name, value in held.named_parameters() if value.requires_grad} == {"used.weight", "used.bias"}


@pytest.mark.parametrize("name", ["ba_unet", "deeplab_cbam", "unet"])
def test_an_encoder_with_idle_layers_trains_all_that_is_trainable(name: str) -> None:
    """The library's EfficientNet keeps the convolution before its classifier."""
    network = build_model(name, channels=5, num_classes=2, encoder="efficientnet-b0").train()
    network(torch.randn(1, 5, 64, 64)).square().mean().backward()
    held = {key for key, value in network.named_parameters() if not value.requires_grad}
    assert held == {"encoder._conv_head.weight", "encoder._bn1.weight", "encoder._bn1.bias"}
    assert all(value.grad is not None for value in network.parameters() if value.requires_grad)


def _pair() -> tuple[nn.BatchNorm2d, PatientBatchNorm]:
    torch.manual_seed(4)
    plain, patient = nn.BatchNorm2d(6), PatientBatchNorm(6)
    for layer in (plain, patient):
        nn.init.uniform_(layer.weight, generator=torch.Generator().manual_seed(1))
        nn.init.uniform_(layer.bias, generator=torch.Generator().manual_seed(2))
    return plain, patient


@pytest.mark.parametrize("shape", [(1, 6, 1, 2), (2, 6, 1, 1), (3, 6, 5, 4)])
def test_patient_norm_is_batch_norm_for_ordinary_batches(shape: tuple[int, ...]) -> None:
    plain, patient = _pair()
    for _ in range(3):
        x = 2 + 3 * torch.randn(shape)
        assert torch.equal(patient(x), plain(x))
    for key, value in plain.state_dict().items():
        assert torch.equal(patient.state_dict()[key], value)
    assert int(patient.num_batches_tracked) == 3
    assert torch.equal(patient.eval()(x), plain.eval()(x))


def test_patient_norm_uses_what_it_knows_of_a_single_value() -> None:
    plain, patient = _pair()
    known, lone = 2 + 3 * torch.randn(4, 6, 5, 5), torch.randn(1, 6, 1, 1)
    plain(known), patient(known)
    before = _state(patient)
    with pytest.raises(ValueError, match="more than 1 value"):
        plain(lone)
    value = patient(lone)
    assert patient.training
    torch.testing.assert_close(value, plain.eval()(lone))
    value.sum().backward()
    assert patient.weight.grad is not None
    assert _moved(patient, before) == set()


def test_norms_are_exchanged_in_place() -> None:
    class Own(nn.BatchNorm2d):
        pass

    network = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(2)), Own(2))
    before = dict(network.named_parameters())
    assert with_patient_norms(network) is network
    assert [type(module) for module in (network[0], *network[1], network[2])] == [
        PatientBatchNorm,
        PatientBatchNorm,
        nn.BatchNorm1d,
        Own,
    ]
    assert all(value is before[name] for name, value in network.named_parameters())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert isinstance(converted[0], nn.SyncBatchNorm)


@pytest.mark.parametrize("name", ["pan", "deeplabv3", "deeplabv3plus", "deeplabv3_resnet50"])
def test_networks_are_built_with_patient_norms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network with the library's own layers refuses a batch of one."""
    builder: Callable[..., nn.Module] = lambda: build_model(name, channels=2, num_classes=2)  # noqa: E731
    lone = torch.randn(1, 2, 32, 32)
    assert builder().train()(lone).shape == (1, 2, 32, 32)
    monkeypatch.setattr("napari_glacier.nn.zoo.with_patient_norms", lambda network: network)
    with pytest.raises(ValueError, match="more than 1 value"):
        builder().train()(lone)
