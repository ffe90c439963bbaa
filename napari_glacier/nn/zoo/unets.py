"""The classic four-level U-Net (Ronneberger et al. 2015) and its modernised sibling.

- `plain_unet`: no normalisation; the convolutions keep the size (padding 1) instead of shrinking it. 31.0 million
  parameters at base 64.
- `advanced_unet`: batch normalisation, a choice of activations, dropout of whole channels after every block, and
  on every skip a spatial attention sigmoid(conv7x7([mean, max over channels])) as in CBAM (Woo et al. 2018).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo.network import SegmentationNetwork

_LEVELS = 4  # times that the resolution is halved
_ACTIVATIONS = MappingProxyType[str, Callable[[], nn.Module]](
    {
        "leaky_relu": partial(nn.LeakyReLU, 0.1, inplace=True),
        "elu": partial(nn.ELU, inplace=True),
        "silu": partial(nn.SiLU, inplace=True),
    }
)

# (inputs, outputs) to a block that keeps the size of the map.
BlockMaker = Callable[[int, int], nn.Module]


class SpatialAttention(nn.Module):
    """Weigh every pixel by sigmoid(conv7x7([mean, max over channels])); (N, C, H, W) to the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        summary = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        weighted: torch.Tensor = x * torch.sigmoid(self.conv(summary))
        return weighted


def _block(
    inputs: int, outputs: int, *, activation: Callable[[], nn.Module], normalise: bool, dropout: float
) -> nn.Sequential:
    """Two 3x3 convolutions that keep the size, each normalised on request and activated; then dropout."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers.append(nn.Conv2d(width, outputs, 3, padding=1, bias=not normalise))
        if normalise:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(activation())
    if dropout:
        layers.append(nn.Dropout2d(dropout))
    return nn.Sequential(*layers)


class UNetEncoder(nn.Module):
    """Five blocks with a 2x2 maximum between them; the image to five maps of strides 1, 2, 4, 8, 16."""

    def __init__(self, inputs: int, widths: Sequence[int], make_block: BlockMaker) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for width in widths:
            self.levels.append(make_block(inputs, width))
            inputs = width
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = [self.levels[0](x)]
        for level in self.levels[1:]:
            features.append(level(self.pool(features[-1])))
        return features


class UNetDecoder(nn.Module):
    """Doubles the size by 2x2 transposed convolutions and joins the skip of that size, up to stride 1."""

    def __init__(self, widths: Sequence[int], make_block: BlockMaker, attention: bool) -> None:
        super().__init__()
        deep_to_fine = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(deep, fine, 2, stride=2) for deep, fine in deep_to_fine)
        self.attentions = nn.ModuleList(SpatialAttention() if attention else nn.Identity() for _ in deep_to_fine)
        self.blocks = nn.ModuleList(make_block(2 * fine, fine) for _, fine in deep_to_fine)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        skips = features[-2::-1]
        for up, attention, block, skip in zip(self.ups, self.attentions, self.blocks, skips, strict=True):
            x = block(torch.cat([attention(skip), up(x)], dim=1))
        return x


def plain_unet(
    in_channels: int,
    num_classes: int,
    *,
    base: int = 64,
    dropout: float = 0.0,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the classic U-Net, without normalisation.

    Parameters
    ----------
    in_channels, num_classes : int
    base : int
        Width of the first level; every level below doubles it.
    dropout : float
        Share of whole channels dropped before the head while training.
    channel_names : sequence of str
        Not needed: all channels enter alike.
    """
    widths = _widths(base)
    make_block = partial(_block, activation=partial(nn.ReLU, inplace=True), normalise=False, dropout=0.0)
    network = SegmentationNetwork(
        UNetEncoder(in_channels, widths, make_block),
        UNetDecoder(widths, make_block, attention=False),
        nn.Conv2d(base, num_classes, 1),
        stride=2**_LEVELS,
        dropout=dropout,
    )
    # Without normalisation only the weights keep the signal's size over 18 convolutions: the U-Net paper draws
    # them with variance 2 / fan-in; the framework's default would shrink the signal at each of them.
    for module in [*network.encoder.modules(), *network.decoder.modules()]:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.ConvTranspose2d):
            # No ReLU follows, and every pixel of the output sums over the input's channels once.
            nn.init.normal_(module.weight, std=math.sqrt(1 / module.in_channels))
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return network


def advanced_unet(
    in_channels: int,
    num_classes: int,
    *,
    base: int = 64,
    activation: str = "leaky_relu",
    dropout: float = 0.2,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the U-Net with batch normalisation, dropout and attention on the skips.

    Parameters
    ----------
    in_channels, num_classes : int
    base : int
        Width of the first level; every level below doubles it.
    activation : str
        ``leaky_relu`` (slope 0.1), ``elu`` or ``silu``.
    dropout : float
        Share of whole channels dropped after each block of the encoder while training; half of it in the decoder.
    channel_names : sequence of str
        Not needed: all channels enter alike.

    Raises
    ------
    ConfigError
        If the activation is unknown.
    """
    if activation not in _ACTIVATIONS:
        raise ConfigError(f"There is no activation {activation!r}. Choose from: {', '.join(_ACTIVATIONS)}.")
    make_block = partial(_block, activation=_ACTIVATIONS[activation], normalise=True)
    widths = _widths(base)
    return SegmentationNetwork(
        UNetEncoder(in_channels, widths, partial(make_block, dropout=dropout)),
        UNetDecoder(widths, partial(make_block, dropout=dropout / 2), attention=True),
        nn.Conv2d(base, num_classes, 1),
        stride=2**_LEVELS,
    )


def _widths(base: int) -> list[int]:
    return [base * 2**level for level in range(_LEVELS + 1)]
