"""Boundary-aware U-Net: a U-Net whose decoder weighs channels and places (scSE, Roy et al. 2018).

The squeeze-and-excitation on places lets thin classes survive the upsampling: debris-covered margins are
a few pixels wide. 24.6 million parameters with the resnet34 encoder and five bands.
"""

from collections.abc import Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
from torch import nn

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo.encoders import load_encoder_weights, size_arguments
from napari_glacier.nn.zoo.network import SegmentationNetwork
from napari_glacier.nn.zoo.stages import settle_idle

_SCSE_REDUCTION = 16  # of the library's scSE block


def ba_unet(
    in_channels: int,
    num_classes: int,
    *,
    encoder: str = "resnet34",
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    dropout: float = 0.2,
    encoder_weights: str | Path | None = None,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the network.

    Parameters
    ----------
    in_channels, num_classes : int
    encoder : str
        Any encoder of segmentation-models-pytorch; ``tu-`` names come from timm.
    decoder_channels : sequence of five int
        Widths of the decoder, deepest first; 16 or more.
    dropout : float
        Share of channels dropped before the head while training.
    encoder_weights : str or Path, optional
        ``"imagenet"`` or a local file; see `load_encoder_weights`.
    channel_names : sequence of str
        Names of the channels, for adapting pretrained weights.
    """
    if min(decoder_channels) < _SCSE_REDUCTION:
        raise ConfigError(
            f"decoder_channels {list(decoder_channels)} go below {_SCSE_REDUCTION}, where the attention of ba_unet has "
            f"no channel left. Use at least {_SCSE_REDUCTION} everywhere."
        )
    model = smp.Unet(
        encoder,
        encoder_weights=None,
        decoder_channels=list(decoder_channels),
        decoder_attention_type="scse",
        in_channels=in_channels,
        classes=num_classes,
        **size_arguments(encoder),
    )
    # The last decoder block has no skip connection, and the library then passes its first attention by:
    # parameters without a gradient, over which distributed training stumbles.
    model.decoder.blocks[-1].attention1 = nn.Identity()
    if encoder_weights is not None:
        load_encoder_weights(model.encoder, encoder, encoder_weights, channel_names)
    settle_idle(model.encoder, remove=False)
    return SegmentationNetwork.from_smp(model, dropout)
