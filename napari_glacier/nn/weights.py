"""Plain weight files of other programs: read without ever running what is in them."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from napari_glacier.core.errors import CheckpointError

_CONTAINERS = ("model_state_dict", "state_dict", "model", "net")
_WRAPPERS = ("module.", "_orig_mod.")  # left behind by DataParallel and torch.compile


def looks_like_pickle(path: Path) -> bool:
    """Whether a file begins like a pickle, or like the zip archive that torch.save makes around one."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":  # safetensors: eight bytes of length, which may look like anything, then JSON
        return False
    return head[:4] == b"PK\x03\x04" or (len(head) > 1 and head[0] == 0x80 and head[1] <= 5)


def load_foreign_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a plain state dict from a ``.safetensors`` or a ``.pth`` file.

    A ``.pth`` file is read with ``weights_only=True`` or not at all. The weights may lie bare in the
    file, or under ``model_state_dict``, ``state_dict``, ``model`` or ``net``; prefixes that parallel or
    compiled training leaves behind are dropped.

    Returns
    -------
    dict of str to tensor, on the CPU

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds more than plain weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no weight file {path}. Check the path.")
    content: Any
    try:
        if path.suffix == ".safetensors" and not looks_like_pickle(path):
            content = load_file(path)
        else:
            # By its content: given a path, newer versions of torch go by the name.
            with path.open("rb") as file, warnings.catch_warnings():
                # An unusual pickle protocol is refused or read like any other.
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, KeyError) as error:
        if not looks_like_pickle(path):
            raise CheckpointError(
                f"{path} is no weight file that torch or safetensors wrote. Save the weights as "
                "torch.save(model.state_dict(), path)."
            ) from error
        if isinstance(error, KeyError):
            raise CheckpointError(f"{path} is damaged. Copy or download it again.") from error
        raise CheckpointError(
            f"{path} holds Python objects besides weights, and loading those can run foreign code; it is "
            "refused. Re-save it where it was made as torch.save(model.state_dict(), path)."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable weight file ({_first_line(error)}). It may be cut short: copy or "
            "download it again."
        ) from error
    state = _find_tensors(content)
    if state is None:
        raise CheckpointError(
            f"{path} holds no state dict: neither bare nor under {', '.join(_CONTAINERS)}. "
            "Save it as torch.save(model.state_dict(), path)."
        )
    return {_unwrapped(key): value for key, value in state.items()}


def load_matching(model: nn.Module, state: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Load the tensors that fit a network by name and shape; leave the others as they are.

    Returns
    -------
    tuple of str
        Names of the network's tensors that were not filled (a head for other classes, for instance).

    Raises
    ------
    CheckpointError
        If less than half of the network's tensors fit: then it is another architecture.
    """
    wanted = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in wanted and wanted[key].shape == value.shape}
    left_out = tuple(key for key in wanted if key not in fitting and not key.endswith("num_batches_tracked"))
    if len(left_out) * 2 > len(wanted):
        raise CheckpointError(
            f"Only {len(fitting)} of the network's {len(wanted)} tensors are found in the weights given. "
            "They belong to another architecture or encoder: choose the model they were trained as."
        )
    model.load_state_dict({**wanted, **fitting})
    return left_out


def _find_tensors(content: Any) -> Mapping[str, torch.Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    for key in _CONTAINERS:
        if isinstance(content.get(key), Mapping):
            return _find_tensors(content[key])
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return content
    return None


def _unwrapped(key: str) -> str:
    # They stand in any order, as often as a network was wrapped.
    while key.startswith(_WRAPPERS):
        for wrapper in _WRAPPERS:
            key = key.removeprefix(wrapper)
    return key


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()
