"""Pretrained encoder weights for inputs that are not RGB photographs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.weights import load_foreign_state_dict

StateDict = dict[str, torch.Tensor]

# Which input plane of an RGB network sees the same light as a band.
RGB_PLANE = {"B4": 0, "B3": 1, "B2": 2, "red": 0, "green": 1, "blue": 2}
# Channels that measure no light: what is valid, ratios of bands, textures, terrain.
_NO_LIGHT = ("valid", "ndsi", "ndwi", "glcm", "texture", "contrast", "energy", "elevation", "slope")
_PREFIXES = ("", "encoder.", "backbone.", "model.", "model.encoder.", "net.encoder.")


def adapt_first_convolution(weight: torch.Tensor, channel_names: Sequence[str]) -> torch.Tensor:
    """Turn RGB weights of a first convolution into weights for named channels.

    Red, green and blue go to the bands of that light (B4, B3 and B2), and every other band starts from their
    mean; these are scaled by 3 / (number of bands), so that the sum over channels keeps its size. Channels that
    measure no light (validity, indices, textures, elevation, slope) start at zero: a photograph's filters would see
    edges in them that mean something else, and from zero the network begins as the pretrained one and learns what
    they are for.

    Parameters
    ----------
    weight : tensor, shape (out, 3, k, k)
    channel_names : sequence of str
        The C channels of the new input.

    Returns
    -------
    tensor, shape (out, C, k, k)
    """
    if len(channel_names) == 3 and not any(name in RGB_PLANE or _without_light(name) for name in channel_names):
        return weight  # an RGB picture without band names
    num_bands = sum(not _without_light(name) for name in channel_names)
    if not num_bands:  # nothing but terrain or textures: the mean serves all
        return weight.mean(dim=1, keepdim=True).expand(-1, len(channel_names), -1, -1) * (3 / len(channel_names))
    mean, zero = weight.mean(dim=1), torch.zeros_like(weight[:, 0])
    planes = [
        zero if _without_light(name) else weight[:, RGB_PLANE[name]] if name in RGB_PLANE else mean
        for name in channel_names
    ]
    return torch.stack(planes, dim=1) * (3 / num_bands)


def _without_light(channel: str) -> bool:
    return channel.lower().startswith(_NO_LIGHT)


def load_encoder_weights(
    encoder: nn.Module, encoder_name: str, source: str | Path, channel_names: Sequence[str]
) -> None:
    """Fill an encoder with pretrained weights, its first convolution adapted to the channels.

    Parameters
    ----------
    encoder : nn.Module
        As made by segmentation-models-pytorch for ``len(channel_names)`` channels.
    encoder_name : str
    source : str or Path
        ``"imagenet"`` (downloaded by the library), or a local ``.safetensors`` or ``.pth`` file with the
        state dict of this encoder, alone or within a whole network.
    channel_names : sequence of str

    Raises
    ------
    ConfigError
        If the weights cannot be had or do not belong to this encoder.
    CheckpointError
        If the file is not a plain state dict.
    """
    given = _download(encoder_name) if str(source) == "imagenet" else load_foreign_state_dict(source)
    wanted = encoder.state_dict()
    state = _select(given, wanted)
    first = next(f"{name}.weight" for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d))
    if first in state and state[first].shape[1] == 3:
        state[first] = adapt_first_convolution(state[first], channel_names)
    # Counters of seen batches are absent from older files and matter to nobody.
    bad = [
        key
        for key, value in wanted.items()
        if not key.endswith("num_batches_tracked") and (key not in state or state[key].shape != value.shape)
    ]
    if bad:
        raise ConfigError(
            f"The weights of {source} do not fit the encoder {encoder_name}: {len(bad)} of {len(wanted)} "
            f"tensors are missing or of another shape ({', '.join(bad[:3])} …). "
            "Give weights of this encoder, or set encoder_weights to none."
        )
    encoder.load_state_dict({key: state.get(key, value) for key, value in wanted.items()})


def _select(given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> StateDict:
    """Drop the prefix under which most of the wanted names are found (timm encoders add ``model.``)."""

    def under(prefix: str, add: str) -> StateDict:
        return {add + key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}

    candidates = [under(prefix, add) for prefix in _PREFIXES for add in ("", "model.")]
    best = max(candidates, key=lambda state: len(state.keys() & wanted.keys()))
    return {key: value for key, value in best.items() if key in wanted}


def _download(encoder_name: str) -> StateDict:
    from segmentation_models_pytorch.encoders import get_encoder

    weights: Any = True if encoder_name.startswith("tu-") else "imagenet"
    try:
        encoder = get_encoder(encoder_name, in_channels=3, weights=weights)
    except (OSError, RuntimeError, KeyError) as error:
        raise ConfigError(
            f"ImageNet weights for {encoder_name} could not be had ({error}). "
            "Check the network connection, give a local file as encoder_weights, or set it to none."
        ) from error
    state: StateDict = encoder.state_dict()
    return state
