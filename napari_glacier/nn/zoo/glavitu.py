"""GlaViTU: a vision transformer for the wide view, refined by a residual U-Net (Maslov et al. 2023, 2025).

Written from the published description: "GlaViTU: a hybrid CNN-transformer for multi-regional glacier mapping
from multi-source data", IGARSS 2023, and "Globally scalable glacier mapping by deep learning matches expert
delineation accuracy", Nature Communications 2025. The image goes through

1. a fusion: every modality (optical, thermal, terrain) has its own two convolutions, and every pixel weighs them;
2. a transformer on patches of 16 pixels, whose tokens a small decoder brings back up, stage by stage;
3. a residual U-Net on both, whose logits count; those of an auxiliary head on the transformer are supervised too.

10.0 million parameters with the five bands and four classes. The learned positions are a 32 x 32 grid, that of
512 pixels, and are interpolated for other sizes.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo.network import pad_to_stride

_PATCH = 16  # pixels a side, and the stride to which images are padded
_NATIVE_GRID = 32  # patches a side of 512 pixels
_MODALITY_OF = {"B10": "thermal", "elevation": "terrain", "slope": "terrain"}  # every other channel is optical


def modalities_of(channel_names: Sequence[str]) -> list[list[int]]:
    """Positions of the channels of each modality present: optical (all that is not another), thermal, terrain."""
    groups: dict[str, list[int]] = {"optical": [], "thermal": [], "terrain": []}
    for position, name in enumerate(channel_names):
        groups[_MODALITY_OF.get(name, "optical")].append(position)
    return [positions for positions in groups.values() if positions]


def _conv_bn_act(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(inplace=True)
    )


def _double(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class GatedFusion(nn.Module):
    """Two convolutions per modality, then a sum weighted by a softmax over the modalities at every pixel.

    Parameters
    ----------
    modalities : sequence of sequences of int
        Positions of the channels of each modality.
    width : int
        Channels of the output.
    dropout : float
        Share of each modality's channels dropped while training.
    """

    def __init__(self, modalities: Sequence[Sequence[int]], width: int, dropout: float) -> None:
        super().__init__()
        self.modalities = [list(positions) for positions in modalities]
        self.branches = nn.ModuleList(
            nn.Sequential(_conv_bn_act(len(positions), width), _conv_bn_act(width, width), nn.Dropout2d(dropout))
            for positions in self.modalities
        )
        # One modality needs no gate, and a softmax over one has no gradient.
        self.gates = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in self.modalities if len(self.modalities) > 1)

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        maps = []
        for branch, positions in zip(self.branches, self.modalities, strict=True):
            planes = [image_NCHW[:, position : position + 1] for position in positions]
            maps.append(branch(torch.cat(planes, dim=1)))
        if len(maps) == 1:
            alone: torch.Tensor = maps[0]
            return alone
        scores = [gate(feature) for gate, feature in zip(self.gates, maps, strict=True)]
        weights = torch.softmax(torch.cat(scores, dim=1), dim=1).to(maps[0].dtype)
        fused: torch.Tensor = maps[0] * weights[:, :1]
        for k, feature in enumerate(maps[1:], start=1):
            fused = fused + feature * weights[:, k : k + 1]
        return fused


class TransformerBlock(nn.Module):
    """Attention and a two-layer network, each normalised before and added after; tokens (N, L, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens_NLD: torch.Tensor) -> torch.Tensor:
        batch, length, width = tokens_NLD.shape
        # Written out, as the framework's own transformer layer cannot be traced.
        qkv = self.qkv(self.norm_attention(tokens_NLD)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        tokens_NLD = tokens_NLD + self.project(attended.transpose(1, 2).reshape(batch, length, width))
        result: torch.Tensor = tokens_NLD + self.mlp(self.norm_mlp(tokens_NLD))
        return result


def positions_for(positions_1DHW: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Learned positions for a grid of patches: as they are at their own size, else interpolated (bicubic).

    Without antialiasing, which exports to other engines get wrong.
    """
    if tuple(positions_1DHW.shape[-2:]) == grid:
        return positions_1DHW
    return functional.interpolate(positions_1DHW, size=grid, mode="bicubic", align_corners=False)


class TransformerBranch(nn.Module):
    """Patches of the fused map through pre-norm transformer blocks, then up again to stride 2.

    The published decoder doubles the size four times; the last doubling is left to whoever reads the map, as
    1x1 convolutions give the same before it for a quarter of the work.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(width, width, _PATCH, stride=_PATCH)
        self.positions = nn.Parameter(torch.empty(1, width, _NATIVE_GRID, _NATIVE_GRID))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.ups = nn.ModuleList(_conv_bn_act(width, width) for _ in range(4))
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, fused_NDHW: torch.Tensor) -> torch.Tensor:
        patches = self.embed(fused_NDHW)
        height, width = patches.shape[-2:]
        patches = patches + positions_for(self.positions, (height, width))
        tokens = self.norm(self.blocks(patches.flatten(2).transpose(1, 2)))
        x: torch.Tensor = tokens.transpose(1, 2).reshape(patches.shape)
        for k, up in enumerate(self.ups):
            x = up(_double(x) if k else x)
        return x


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions added to the input, which passes a 1x1 convolution where widths differ."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv_bn_act(inputs, outputs),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.activation = nn.LeakyReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.activation(self.body(x) + self.shortcut(x))
        return result


class ResidualUNet(nn.Module):
    """A residual block on each of four levels down, and on three up, each joined with the skip of its size."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            ResidualBlock(inputs, outputs) for inputs, outputs in zip((widths[0], *widths), widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        deep_to_fine = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(deep, fine, 2, stride=2) for deep, fine in deep_to_fine)
        self.blocks = nn.ModuleList(ResidualBlock(2 * fine, fine) for _, fine in deep_to_fine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.down[0](x)]
        for block in self.down[1:]:
            features.append(block(self.pool(features[-1])))
        x = features[-1]
        for up, block, skip in zip(self.ups, self.blocks, features[-2::-1], strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        return x


class GlaViTU(nn.Module):
    """Fusion, transformer, residual U-Net; see the top of this file and `glavitu`."""

    def __init__(
        self,
        modalities: Sequence[Sequence[int]],
        num_classes: int,
        *,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.auxiliary_weights: tuple[float, ...] = (0.5,)  # the main loss counts 1
        self.stride = _PATCH
        self.fusion = GatedFusion(modalities, width, dropout)
        self.transformer = TransformerBranch(width, depth, heads)
        # A 1x1 convolution of both maps, in two halves so that the transformer's is taken before it is doubled.
        self.join_fused = nn.Conv2d(width, width, 1, bias=False)
        self.join_transformer = nn.Conv2d(width, width, 1, bias=False)
        self.join_norm = nn.Sequential(nn.BatchNorm2d(width), nn.LeakyReLU(inplace=True))
        self.refine = ResidualUNet([width, 2 * width, 4 * width, 8 * width])
        self.segmentation_head = nn.Conv2d(width, num_classes, 1)
        self.auxiliary_head = nn.Conv2d(width, num_classes, 1)

    def join(self, fused_NDHW: torch.Tensor, wide_NDHW: torch.Tensor) -> torch.Tensor:
        """Mix the fused map and the transformer's, which is half its size."""
        mixed = self.join_fused(fused_NDHW) + _double(self.join_transformer(wide_NDHW))
        joined: torch.Tensor = self.join_norm(mixed)
        return joined

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits (N, K, H, W); while training, also those of the auxiliary head at the same size."""
        height, width = image_NCHW.shape[-2:]
        fused = self.fusion(pad_to_stride(image_NCHW, _PATCH))
        wide = self.transformer(fused)
        logits: torch.Tensor = self.segmentation_head(self.refine(self.join(fused, wide)))
        logits = logits[..., :height, :width]
        if not self.training:
            return logits
        return logits, _double(self.auxiliary_head(wide))[..., :height, :width]


def glavitu(
    in_channels: int,
    num_classes: int,
    *,
    width: int = 64,
    depth: int = 12,
    heads: int = 4,
    dropout: float = 0.1,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the network.

    Parameters
    ----------
    in_channels, num_classes : int
    width : int
        Channels of the fusion and of the tokens, and of the U-Net's first level; its other levels are 2, 4 and 8
        times as wide.
    depth, heads : int
        Blocks of the transformer and heads of its attention.
    dropout : float
        Share of each modality's channels dropped after the fusion's convolutions while training.
    channel_names : sequence of str
        Names of the channels, which decide their modality: B10 is thermal, elevation and slope are terrain, all
        others optical. Without names there is one modality.

    Raises
    ------
    ConfigError
        If the width does not divide among the heads.
    """
    if width % heads:
        raise ConfigError(f"A width of {width} does not divide among {heads} heads. Use a multiple of {heads}.")
    names = channel_names or ("",) * in_channels
    return GlaViTU(modalities_of(names), num_classes, width=width, depth=depth, heads=heads, dropout=dropout)
