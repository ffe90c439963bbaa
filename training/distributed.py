"""The processes that train one model together; one process is a team of its own.

The loss is a function of sums over the whole batch, so each process adds its sums to the others' in a
step that gradients pass through, and computes the same loss as one process with the whole batch would.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from napari_glacier.core.errors import DeviceError
from napari_glacier.nn.device import pick_device
from training.batch_norm import synchronise_batch_norm

T = TypeVar("T")
# While the first process reads thousands of tiles for their statistics the others wait. torchrun itself notices
# processes that have died.
_TIMEOUT = timedelta(hours=3)
_CONNECT_LIMIT, _CONNECT_ATTEMPTS = timedelta(seconds=6), 5
# The argument's name changed in torch 2.15.
_PARAMETERS = inspect.signature(DistributedDataParallel.__init__).parameters
_SEND_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers"


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient undoes the averaging of DistributedDataParallel.

    Every process computes the same loss from the same sums, so each holds the full gradient of the loss
    by its sums; DDP then divides the parameters' gradients by the number of processes.
    """

    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        total = sums.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * dist.get_world_size()


@dataclass(frozen=True, slots=True)
class Team:
    """This process's place among those that train the model."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def sum_with_gradient(self, sums: Tensor) -> Tensor:
        """Sum over processes that gradients pass through."""
        return sums if self.size == 1 else _SumOverProcesses.apply(sums)

    def sum_in_place(self, values: Tensor) -> Tensor:
        """Sum over processes, without gradient."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Sum over processes, for values on the CPU."""
        return values if self.size == 1 else self.sum_in_place(values.to(self.device)).cpu()

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers: the running statistics of normalisation layers."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return flag
        return bool(self.sum_in_place(torch.tensor(float(flag), device=self.device)).item())

    def from_first(self, make: Callable[[], T]) -> T:
        """Let the first process make a value and give it to all; it must pickle.

        An error of the first process is raised in all of them, so that none waits for ever.
        """
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box[0] = make()
            except Exception as error:  # noqa: BLE001 - raised below, in every process
                box[1] = error
        dist.broadcast_object_list(box, src=0, device=self.device)
        if box[1] is not None:
            raise box[1]
        value: T = box[0]
        return value

    def wait(self) -> None:
        """Wait for the others: whoever leaves first closes connections that they may still read from."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Make the model average its gradients, and take its batch statistics, over all processes."""
        if self.size == 1:
            return model
        model = synchronise_batch_norm(model, self.device)
        places = [self.device.index] if self.device.type == "cuda" else None
        # Running statistics are the same everywhere without being sent round before each step.
        options: dict[str, Any] = {_SEND_BUFFERS: False}
        return DistributedDataParallel(model, device_ids=places, **options)


@contextmanager
def join_team(device: str) -> Iterator[Team]:
    """Join the processes that torchrun started, or be alone.

    Parameters
    ----------
    device : str
        As in the configuration; with several processes each takes the accelerator of its local rank.

    Raises
    ------
    DeviceError
        If the device is not there, or the GPUs of this host are fewer than its processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        place = pick_device(device)
        if place.type == "cuda":
            # Else the loader's pinned memory would belong to the first GPU.
            torch.cuda.set_device(place)
        yield Team(place)
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    place = _place_of(device, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    _connect("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Team(place, rank, size)
    finally:
        dist.destroy_process_group()


def _connect(backend: str) -> None:
    """Join the others, again where it failed for any of them.

    Gloo loses a connection now and then, and then waits five times the time limit: so connecting has a short limit of
    its own, and all begin again together.
    """
    store, rank, size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
    for attempt in range(1, _CONNECT_ATTEMPTS + 1):
        own = PrefixStore(f"connect-{attempt}", store)
        own.set(f"here-{rank}", "")
        # Some may have started late, or read slower data.
        own.wait([f"here-{other}" for other in range(size)], _TIMEOUT)
        reason: Exception | None = None
        try:
            limit = _CONNECT_LIMIT if backend == "gloo" else _TIMEOUT
            dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=limit)
        except RuntimeError as error:
            reason = error
        own.set(f"went-{rank}", "badly" if reason else "well")
        own.wait([f"went-{other}" for other in range(size)], _TIMEOUT)
        if all(own.get(f"went-{other}") == b"well" for other in range(size)):
            _set_limit(_TIMEOUT)
            return
        if dist.is_initialized():
            dist.destroy_process_group()
        if attempt == _CONNECT_ATTEMPTS:
            raise DeviceError(
                f"The {size} processes could not connect to each other ({reason or 'another one failed'}). Check the "
                "network and its firewall, or name the interface to use with GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME."
            )


def _set_limit(limit: timedelta) -> None:
    # Public since torch 2.15.
    set_limit = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_limit(limit)


def _place_of(device: str, local_rank: int, on_this_host: int) -> torch.device:
    """Device of one of several processes; all decide alike, as they could not talk to each other otherwise."""
    if device not in {"auto", "cpu", "cuda"}:
        raise DeviceError(
            f"device is {device}, and {on_this_host} processes of this host are to train together. Use auto, cuda (one "
            "GPU each) or cpu, or train with --devices 1."
        )
    num_gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" or num_gpus:
        if num_gpus < on_this_host:
            raise DeviceError(
                f"{on_this_host} processes were started on this host, which has {num_gpus} GPUs. Start as many as "
                "there are GPUs, or set device=cpu."
            )
        return torch.device("cuda", local_rank)
    return torch.device("cpu")
