import pytest
import torch
from torch import nn

from training.averaging import WeightAverage


def test_the_mean_is_the_sum_over_all_weights_so_far():
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average, values, shares = WeightAverage(network, decay=0.5), [0.0], [1.0]
    for update, value in enumerate((1.0, 4.0, -2.0, 8.0, 3.0, 5.0, 7.0, 1.0, 6.0), start=1):
        with torch.no_grad():
            network.weight.fill_(value)
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        shares = [share * decay for share in shares] + [1.0 - decay]
        values.append(value)
    assert sum(shares) == pytest.approx(1.0)
    expected = sum(share * value for share, value in zip(shares, values, strict=True))
    assert average.network.weight.item() == pytest.approx(expected, rel=1e-6)


def test_buffers_are_the_newest_and_the_state_goes_on():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = WeightAverage(network, decay=0.9)
    network(torch.randn(4, 1, 8, 8))
    average.update()
    assert not torch.equal(average.network[1].running_mean, network[1].running_mean)
    average.take_buffers()
    assert torch.equal(average.network[1].running_mean, network[1].running_mean)
    other = WeightAverage(network, decay=0.9)
    other.load(average.state())
    with torch.no_grad():
        network[0].weight.add_(1.0)
    average.update(), other.update()
    assert torch.equal(average.network[0].weight, other.network[0].weight)
    assert all(not p.requires_grad for p in average.network.parameters())
