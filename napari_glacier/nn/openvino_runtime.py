"""OpenVINO itself: the one entry of the process, and graphs compiled and run on the CPU.

Nothing is reported to anybody: openvino would send usage statistics on being imported.

Legend: N windows, C channels, K classes, H x W a window.
"""

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Graph:
    """A converted network.

    Attributes
    ----------
    model : openvino.Model
        Image (1, C, H, W), padded to the stride, to probabilities (1, K, H, W).
    num_channels : int
    shape : (int, int)
        H and W that it was traced with.
    reshapes : bool
        It is right for other shapes, too.
    """

    model: Any
    num_channels: int
    shape: tuple[int, int]
    reshapes: bool


@dataclass(frozen=True, slots=True)
class Compiled:
    """A graph for one shape of window, and the requests that run side by side."""

    requests: tuple[Any, ...]

    def let_go(self) -> None:
        """Give back the memory between layers, else kept for the next window, while no request is at work."""
        self.requests[0].get_compiled_model().release_memory()


def import_openvino() -> Any:
    """Return the package openvino; None where it is not installed or does not load here."""
    try:
        with without_reports():
            import openvino
    except (ImportError, OSError):
        return None
    return openvino


def num_threads() -> int:
    """Threads to compute with: ``OMP_NUM_THREADS`` where it is set, else the cores that this process may use."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isdecimal() and int(chosen):
        return int(chosen)
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def without_reports() -> Iterator[None]:
    """Hide the package with which openvino reports each import and use, unless a person has opted out."""
    name = "openvino_telemetry"
    hidden = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if hidden is not None:
            sys.modules[name] = hidden


@functools.cache
def core() -> Any:
    """OpenVINO's entry, one for the process.

    Its CPU plugin gives the thread a stack for signals, and takes the memory away again with the last entry: the next
    signal that Python handles would then crash the process.
    """
    return import_openvino().Core()


def compile_graph(graph: Graph, shape: tuple[int, int], precision: str, streams: int) -> Compiled:
    """Make a graph ready for windows of a shape, in f32 or bf16, `streams` at a time."""
    fixed = graph.model.clone()
    fixed.reshape([1, graph.num_channels, *shape])
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": num_threads(),
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # pinned threads wait for whoever else computes on their core
    }
    compiled = core().compile_model(fixed, "CPU", settings)
    return Compiled(tuple(compiled.create_infer_request() for _ in range(streams)))


def run_graph(compiled: Compiled, images_NCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Send images through the requests in turn; each is waited for only when its request is needed again."""
    requests, results = compiled.requests, [np.empty(0, np.float32)] * len(images_NCHW)

    def collect(k: int) -> None:
        request = requests[k % len(requests)]
        request.wait()
        results[k] = request.get_output_tensor(0).data.copy()

    for k in range(len(images_NCHW)):
        if k >= len(requests):
            collect(k - len(requests))
        requests[k % len(requests)].start_async({0: images_NCHW[k : k + 1]})
    for k in range(max(len(images_NCHW) - len(requests), 0), len(images_NCHW)):
        collect(k)
    return np.concatenate(results)
