"""The stages of an encoder: which parameters make which feature map, and how the first of them are kept as they are.

A stage is what an encoder's next feature map needs beyond the maps before it. Which parameters these are is asked of
the encoder itself, by differentiating its feature maps, because every library names its layers differently.
"""

from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from napari_glacier.core.errors import ConfigError

ARCHITECTURE = "architecture"  # attribute by which a network knows its name in the registry
_FROZEN_NORMS = "frozen_norms"
_PROBE_PX = 64  # two pixels at stride 32


def encoder_of(network: nn.Module) -> nn.Module | None:
    """Encoder of a network, or None where it has no part that could be called so."""
    encoder = getattr(network, "encoder", None)
    return encoder if isinstance(encoder, nn.Module) else None


def encoder_stages(encoder: nn.Module) -> list[frozenset[str]]:
    """Names of the parameters of each stage, first stage first.

    Parameters
    ----------
    encoder : nn.Module
        Turns an image (N, C, H, W) into feature maps, in any nest of lists, tuples and mappings; or a ModuleList,
        each entry of which is a stage.

    Returns
    -------
    list of frozenset of str
        Each parameter at most once; parameters that no feature map depends on are in no stage.
    """
    if isinstance(encoder, nn.ModuleList):
        return [
            frozenset(f"{name}.{key}" for key, _ in child.named_parameters())
            for name, child in encoder.named_children()
        ]
    stand_ins, maps = _differentiable_maps(encoder)
    stages: list[frozenset[str]] = []
    for value in maps:
        stage = _reached(value.sum(), stand_ins)
        if stage:
            stages.append(stage)
        stand_ins = {name: tensor for name, tensor in stand_ins.items() if name not in stage}
    return stages


def freeze_stages(network: nn.Module, stages: int | Literal["all"]) -> None:
    """Keep the first stages of a network's encoder as they are: neither gradients nor new running statistics.

    Their normalisation layers stay in evaluation mode whatever ``network.train()`` says; this also holds once the
    network is copied, wrapped for distributed training, or its batch norms are exchanged for synchronised ones.
    The state dict does not change.

    Parameters
    ----------
    network : nn.Module
    stages : int or "all"
        0: none; 1: up to the first feature map; and so on.

    Raises
    ------
    ConfigError
        If the network has no encoder, or fewer stages.
    """
    if stages == 0:
        return
    encoder = encoder_of(network)
    if encoder is None:
        name = getattr(network, ARCHITECTURE, type(network).__name__)
        raise ConfigError(
            f"{stages} stages of the encoder were to be frozen, but model {name} has no encoder of its own. "
            "Set model.frozen_stages to 0, or choose a model with an encoder."
        )
    found = encoder_stages(encoder) if stages != "all" else []
    if stages != "all" and stages > len(found):
        name = getattr(network, ARCHITECTURE, type(network).__name__)
        raise ConfigError(
            f"{stages} stages of the encoder were to be frozen, but that of model {name} has {len(found)}. "
            f"Set model.frozen_stages to {len(found)} or less, or to all."
        )
    frozen = {name for name, _ in encoder.named_parameters()} if stages == "all" else set().union(*found[:stages])
    for name, parameter in encoder.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    norms = {
        name
        for name, module in encoder.named_modules()
        if isinstance(module, _NormBase)
        and (stages == "all" or any(f"{name}.{key}" in frozen for key, _ in module.named_parameters()))
    }
    # On the encoder and by name, not on the layers: SyncBatchNorm.convert_sync_batchnorm exchanges the layers. A bound
    # method among the instance's attributes is found by the network's own train(), and is copied with the encoder.
    vars(encoder)[_FROZEN_NORMS] = norms | vars(encoder).get(_FROZEN_NORMS, set())
    vars(encoder)["train"] = MethodType(_train_but_frozen, encoder)
    encoder.train(encoder.training)


def settle_idle(encoder: nn.Module, *, remove: bool) -> None:
    """Deal with the parameters of an encoder that no feature map depends on, in place.

    A shallow encoder is often a deep one whose last stages are not called, and some libraries keep a layer of the
    classifier: parameters without a gradient, over which distributed training stumbles.

    Parameters
    ----------
    encoder : nn.Module
        As for `encoder_stages`.
    remove : bool
        Exchange parts that are idle as a whole for identities, since they are dead weight in every checkpoint. False:
        freeze them, and the state dict stays as it is.

    Raises
    ------
    ConfigError
        If the encoder takes images of one size only.
    """
    try:
        stand_ins, maps = _differentiable_maps(encoder)
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        # Every family of encoders finds a wrong size in a place of its own.
        raise ConfigError(_of_one_size(encoder, error)) from error
    used = _reached(torch.stack([value.sum() for value in maps]).sum(), stand_ins)

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in list(module.named_children()):
            inside = {f"{prefix}{name}.{key}" for key, _ in child.named_parameters()}
            if inside and not inside & used:
                setattr(module, name, nn.Identity())
            elif inside:
                visit(child, f"{prefix}{name}.")

    if remove:
        visit(encoder, "")
    for name, parameter in encoder.named_parameters():
        if name not in used:
            parameter.requires_grad_(False)


def _differentiable_maps(encoder: nn.Module) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Feature maps of an empty image, and the parameters by name that they can be differentiated by."""
    # Stand-ins that share the memory: what is frozen already is differentiated too, and no gradient is left behind.
    stand_ins = {name: value.detach().requires_grad_() for name, value in encoder.named_parameters()}
    first = next(module for module in encoder.modules() if isinstance(module, nn.Conv2d))
    image = first.weight.new_zeros(1, first.in_channels, _PROBE_PX, _PROBE_PX)
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.enable_grad():
            maps = [value for value in _tensors(functional_call(encoder, stand_ins, (image,))) if value.requires_grad]
    finally:
        for module, mode in modes:
            module.training = mode
    return stand_ins, maps


def _of_one_size(encoder: nn.Module, error: Exception) -> str:
    name = getattr(encoder, "name", type(encoder).__name__)
    made_for = (getattr(getattr(encoder, "model", None), "pretrained_cfg", None) or {}).get("input_size")
    size = f"images of {made_for[1]} x {made_for[2]} px" if made_for else "images of one size"
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"The encoder {name} is made for {size} and does not take {_PROBE_PX} x {_PROBE_PX} px ({reason}); models "
        "here need one that takes any multiple of its stride. Set model.encoder to one without a fixed size, such as "
        "resnet34, tu-convnext_tiny or tu-swin_tiny_patch4_window7_224."
    )


def _reached(value: torch.Tensor, stand_ins: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Names of the parameters that a number depends on."""
    if not stand_ins:
        return frozenset()
    gradients = torch.autograd.grad(value, list(stand_ins.values()), allow_unused=True, retain_graph=True)
    return frozenset(name for name, gradient in zip(stand_ins, gradients, strict=True) if gradient is not None)


def _train_but_frozen(encoder: nn.Module, mode: bool = True) -> nn.Module:
    """As nn.Module.train, but for the normalisation layers that are frozen."""
    type(encoder).train(encoder, mode)
    for name in vars(encoder)[_FROZEN_NORMS]:
        encoder.get_submodule(name).eval()
    return encoder


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)
