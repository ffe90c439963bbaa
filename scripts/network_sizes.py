"""Write napari_glacier/core/models/network_sizes.py: python scripts/network_sizes.py

Of every architecture with its usual encoder, and of the networks that the recipes and the bundled ensemble use: the
parameters, and the bytes that a training step keeps for its backward pass for each pixel of a crop.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.config_files import load_config, recipe_names
from napari_glacier.core.files import write_text_atomically
from napari_glacier.nn.ensemble import resolve_models
from napari_glacier.nn.zoo import build_model, default_encoder, model_names, takes_encoder

PAGE = Path(__file__).resolve().parents[1] / "napari_glacier" / "core" / "models" / "network_sizes.py"
_SIDE_PX, _CROPS = 128, (2, 4)
# It brings every crop to a size of its own, so that what it keeps does not go with the pixels.
_LEFT_OUT = {"sam2"}
_MODULE = '''\
"""How large networks are in training; written by scripts/network_sizes.py, which measures them.

`kept` and `kept_half` are the bytes that a step keeps for its backward pass, for each pixel of each crop: in float32,
and in bfloat16. `features` are those by which a pixel is described, where single pixels can be learnt.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class NetworkSize(NamedTuple):
    """Parameters, and bytes a pixel."""

    parameters: int
    kept: int
    kept_half: int
    features: int = 0


# By architecture and encoder; of those without one to choose the encoder is empty.
NETWORK_SIZES: Mapping[tuple[str, str], NetworkSize] = MappingProxyType(
    {{
{rows}
    }}
)
'''


def main() -> None:
    """Measure, and write the module."""
    torch.manual_seed(0)
    sizes: dict[tuple[str, str], tuple[int, ...]] = {}
    for name, encoder, arguments in _networks():
        key = (name, encoder)
        if key in sizes or name in _LEFT_OUT:
            continue
        given = {**({"encoder": encoder} if encoder else {}), **arguments}
        try:
            model = build_model(name, channels=CANONICAL_BANDS, num_classes=4, **given).train()
        except ImportError as error:
            print(f"{name}: {error}")
            continue
        parameters = sum(parameter.numel() for parameter in model.parameters())
        sizes[key] = (parameters, kept_bytes(model, torch.float32), kept_bytes(model, torch.bfloat16))
        if hasattr(model, "describe"):
            sizes[key] += (4 * model.num_features,)
        print(*key, *sizes[key], flush=True)
    rows = "\n".join(f"        {key!r}: NetworkSize{value!r}," for key, value in sorted(sizes.items()))
    write_text_atomically(PAGE, _MODULE.format(rows=rows))
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(PAGE)], check=True)
    print(PAGE)


def kept_bytes(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Bytes that a forward pass keeps for the backward one, for each pixel more; weights in bfloat16 do not grow."""
    few, many = (_kept(model, dtype, crops) for crops in _CROPS)
    return round((many - few) / ((_CROPS[1] - _CROPS[0]) * _SIDE_PX**2))


def _kept(model: torch.nn.Module, dtype: torch.dtype, crops: int) -> int:
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    image = torch.randn(crops, len(CANONICAL_BANDS), _SIDE_PX, _SIDE_PX)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        outputs = model(image)
        logits, *_ = outputs if isinstance(outputs, tuple) else (outputs,)
        logits.float().log_softmax(1).mean()
    return sum(storage.nbytes() for storage in kept.values())


def _networks() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for recipe in recipe_names():
        changes = ["data.train=.", *(["distill.teachers=[bundled]"] if recipe == "distill" else [])]
        model = load_config(recipe, changes).model
        yield model.name, model.encoder or default_encoder(model.name) or "", model.arguments
    for member in resolve_models(None).members:
        arguments = dict(member.card.arguments)
        yield member.card.architecture, str(arguments.pop("encoder", "")), arguments
    for name in model_names():
        yield name, (default_encoder(name) or "") if takes_encoder(name) else "", {}


if __name__ == "__main__":
    main()
