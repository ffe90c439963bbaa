"""Architectures by name.

Every network takes (N, C, H, W) of any height and width and gives logits (N, K, H, W): it pads to its
own stride and crops back. A new architecture is one file and one line here.
"""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from napari_glacier.core.errors import ConfigError, GlacierError
from napari_glacier.nn.zoo.ba_unet import ba_unet
from napari_glacier.nn.zoo.deeplab_cbam import deeplab_cbam
from napari_glacier.nn.zoo.smp_models import smp_builders

_BUILDERS = MappingProxyType[str, Callable[..., nn.Module]](
    {"ba_unet": ba_unet, "deeplab_cbam": deeplab_cbam, **smp_builders()}
)


def model_names() -> tuple[str, ...]:
    """Names that `build_model` knows."""
    return tuple(_BUILDERS)


def build_model(name: str, *, channels: Sequence[str] | int, num_classes: int, **arguments: Any) -> nn.Module:
    """Build a network with fresh weights (or pretrained encoder weights, where ``encoder_weights`` says so).

    Parameters
    ----------
    name : str
        One of `model_names`.
    channels : sequence of str, or int
        The input channels by name, or just how many.
    num_classes : int
    **arguments
        Those of the architecture: ``encoder``, ``decoder_channels``, ``dropout``, ``encoder_weights`` …

    Raises
    ------
    ConfigError
        If the name, an argument or the encoder is unknown.
    """
    if name not in _BUILDERS:
        raise ConfigError(f"There is no model {name!r}. Choose from: {', '.join(_BUILDERS)}.")
    channel_names = ("",) * channels if isinstance(channels, int) else tuple(channels)
    if not channel_names or num_classes < 2:
        raise ConfigError(
            f"A model needs at least one channel and two classes; {len(channel_names)} and {num_classes} "
            "were given. Background counts as a class."
        )
    if arguments.get("encoder_weights") in ("none", ""):
        arguments["encoder_weights"] = None
    try:
        return _BUILDERS[name](len(channel_names), num_classes, channel_names=channel_names, **arguments)
    except GlacierError:
        raise
    except (TypeError, KeyError, RuntimeError, ValueError, NotImplementedError) as error:
        # Encoder names and arguments are checked by the libraries, each with its own exception.
        reason = str(error.args[0] if error.args else error).splitlines()[0]
        if len(reason) > 300:  # smp lists all its hundreds of encoders
            reason = reason[:300] + " …"
        raise ConfigError(
            f"Model {name} cannot be built with {arguments or 'its defaults'}: {reason} "
            "Check model.encoder and model.arguments."
        ) from error
