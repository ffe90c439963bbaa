"""Parts of a network that compute in float32 under autocast."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from napari_glacier.nn.rounding import compute_in_float32, keep_depthwise_exact

IMAGE = torch.randn(2, 8, 17, 17, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.ReLU(), Conv2dSame(8, 8, 5, stride=2, groups=8)
    )


def test_convolutions_of_single_channels_are_not_rounded_and_others_are(network: nn.Module) -> None:
    plain = copy.deepcopy(network)
    keep_depthwise_exact(network)
    seen = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0], out)}))
    with torch.autocast("cpu", torch.bfloat16):
        network(IMAGE)
    assert [seen[name][1].dtype for name in "013"] == [torch.float32, torch.bfloat16, torch.float32]
    for name in "03":
        given, found = seen[name]
        assert torch.equal(found, plain[int(name)](given.float()))


def test_gradients_are_those_of_float32(network: nn.Module) -> None:
    plain = copy.deepcopy(network)
    keep_depthwise_exact(network)
    with torch.autocast("cpu", torch.bfloat16):
        network(IMAGE).square().mean().backward()
    plain(IMAGE).square().mean().backward()
    for rounded, exact in zip(network.parameters(), plain.parameters(), strict=True):
        assert rounded.grad is not None
        assert rounded.grad.dtype == torch.float32
        assert exact.grad is not None
        torch.testing.assert_close(rounded.grad, exact.grad, atol=0.02 * float(exact.grad.abs().max()), rtol=0.02)


def test_a_copy_computes_with_its_own_weights(network: nn.Module) -> None:
    keep_depthwise_exact(network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other[0].weight.zero_()
        other[0].bias.zero_()
    assert not other[0](IMAGE).any()
    assert network[0](IMAGE).all()
    assert set(other.state_dict()) == set(network.state_dict())


def test_done_twice_it_is_done_once(network: nn.Module) -> None:
    compute_in_float32(network[0])
    kind = type(network[0])
    compute_in_float32(network[0])
    assert type(network[0]) is kind
    assert isinstance(network[0], nn.Conv2d)
