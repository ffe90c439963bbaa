"""Networks as OpenVINO graphs: on the CPU they run two to three times as fast as torch's operators.

A network is traced once into a graph that ends in probabilities, compared with torch, and kept on disk for the next
time. Windows go through it one at a time, several at once: batches gain nothing here, one stream a window does.
A graph is compiled for each shape of window. Padding to the network's stride stays outside of it, because tracing
would make the padding of the first window that of all.

Legend: N windows, C channels, K classes, H x W a window.
"""

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.memory import is_out_of_memory
from napari_glacier.nn.openvino_cache import keep_graph, key_of, read_graph, short_reason, usual_cache_dir
from napari_glacier.nn.openvino_runtime import (
    Compiled,
    Graph,
    compile_graph,
    num_threads,
    run_graph,
)
from napari_glacier.nn.zoo.network import pad_to_stride

logger = logging.getLogger(__name__)

PROBABILITY_TOLERANCE = 1e-3
"""How far probabilities in float32 may be from torch's: accumulation order makes 1e-5, a wrong operator 0.01 to 1."""

OUTLIERS_ALLOWED = 1e-3
"""Share of probabilities beyond the tolerance: near-ties of a badly scaled network, less than one row of pixels."""

BFLOAT16_SLACK = (4.0, 0.005)
"""In bfloat16 the mean error may be this many times torch's own in bfloat16, plus this much."""

_CHECK_SHAPE = (101, 163)  # of another aspect than usual windows, and no multiple of a stride
_MAX_COMPILED = 4  # the inside of a scene, one border of it, and that turned by a quarter
_MOST_STREAMS = 4  # images computed side by side


class ConversionError(Exception):
    """A network cannot be used as a graph; the text says why. torch computes it instead."""


class OpenVinoEngine:
    """A member as a graph on the CPU.

    Parameters
    ----------
    member : LoadedModel
        Its network is on the CPU, in float32 and in evaluation mode.
    graph : Graph
    precision : "f32" or "bf16"
    name : str
    otherwise : callable
        Batch to probabilities, for shapes that the graph is not right for.
    """

    def __init__(
        self,
        member: LoadedModel,
        graph: Graph,
        *,
        precision: str,
        name: str,
        otherwise: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.name = name
        self.graph = graph
        self._network, self._precision, self._otherwise = member.model, precision, otherwise
        self._lets_go = bool(getattr(member.model, "takes_gigabytes", False))
        self._compiled: OrderedDict[tuple[tuple[int, int], int], Compiled] = OrderedDict()

    def probabilities(self, batch_NCHW: torch.Tensor) -> torch.Tensor:
        """Class probabilities, float32 (N, K, H, W), on the CPU.

        Raises
        ------
        MemoryError
            If memory runs out.
        """
        height, width = batch_NCHW.shape[-2:]
        images_NCHW = padded(self._network, batch_NCHW.detach().to("cpu", torch.float32))
        shape = _shape_of(images_NCHW)
        if shape != self.graph.shape and not self.graph.reshapes:
            return self._otherwise(batch_NCHW)
        try:
            compiled = self._compiled_for(shape, len(batch_NCHW))
            answers_NKHW = run_graph(compiled, np.ascontiguousarray(images_NCHW.numpy()))
            if self._lets_go:
                compiled.let_go()
            return torch.from_numpy(answers_NKHW[..., :height, :width])
        except RuntimeError as error:
            if _is_out_of_memory(error):
                raise MemoryError("OpenVINO ran out of memory.") from error
            raise

    def _compiled_for(self, shape: tuple[int, int], num_images: int) -> Compiled:
        # A single window gets all threads; several share them, which is a sixth faster than one after the other.
        streams = 1 if num_images == 1 or self._lets_go else min(num_threads(), _MOST_STREAMS)
        key = (shape, streams)
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return self._compiled[key]
        while len(self._compiled) >= _MAX_COMPILED:
            self._compiled.popitem(last=False)
        self._compiled[key] = compile_graph(self.graph, shape, self._precision, streams)
        return self._compiled[key]


def obtain_graph(member: LoadedModel, *, window: tuple[int, int], precision: str, cache_dir: Path | None) -> Graph:
    """Read a member's graph from the cache, or convert, check and keep it.

    Parameters
    ----------
    member : LoadedModel
        On the CPU, in evaluation mode.
    window : (int, int)
        Height and width of the usual window.
    precision : "f32" or "bf16"
        In which it will compute.
    cache_dir : Path, optional
        `usual_cache_dir` by default.

    Raises
    ------
    ConversionError
        If the network cannot be traced, or its graph gives other probabilities.
    """
    key = key_of(member, precision)
    shape = _padded_shape(member, window)
    folder = usual_cache_dir() if cache_dir is None else cache_dir
    graph = read_graph(folder, key, shape)
    if graph is None:
        graph = convert(member, window)
        check(member, graph, window, precision)
        graph = replace(graph, reshapes=_is_right(member, graph, _other_shape(member, graph.shape)))
        keep_graph(folder, key, graph)
    return graph


def convert(member: LoadedModel, window: tuple[int, int]) -> Graph:
    """Trace a network into a graph, unchecked; `ConversionError` where that fails."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    image_NCHW = padded(member.model, sample_window(_channels_of(member), *window))
    try:
        # Tracing warns of being deprecated and of every Python number in the network; the check says if they matter.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoder = TorchScriptPythonDecoder(
                _Probabilities(member.model), example_input=image_NCHW, trace_kwargs={"check_trace": False}
            )
            frontend = FrontEndManager().load_by_framework("pytorch")
            model = frontend.convert(frontend.load(decoder))
    except Exception as error:
        # A network can raise anything under tracing; it still runs in torch.
        if _is_out_of_memory(error):
            raise MemoryError("Memory ran out while a network was converted.") from error
        raise ConversionError(f"OpenVINO cannot convert it ({short_reason(error)})") from error
    return Graph(model, _channels_of(member), _shape_of(image_NCHW), reshapes=False)


def check(member: LoadedModel, graph: Graph, window: tuple[int, int], precision: str) -> None:
    """Compare a graph with torch on one window; `ConversionError` where they differ.

    In float32 at most `OUTLIERS_ALLOWED` of the probabilities may be more than `PROBABILITY_TOLERANCE` off. In
    bfloat16 the mean error is held against that of torch in bfloat16 (`BFLOAT16_SLACK`).
    """
    image_NCHW = sample_window(_channels_of(member), *window)
    expected_NKHW = _eager(member.model, image_NCHW, torch.float32)
    try:
        found_NKHW = _probabilities(member.model, graph, image_NCHW, "f32")
        share, largest = _outliers(found_NKHW, expected_NKHW)
        if not share <= OUTLIERS_ALLOWED:
            raise ConversionError(
                f"its OpenVINO graph differs from torch by up to {largest:.2g} ({share:.1%} of the probabilities by "
                f"more than {PROBABILITY_TOLERANCE})"
            )
        if precision == "bf16":
            usual = (_eager(member.model, image_NCHW, torch.bfloat16) - expected_NKHW).abs().mean().item()
            error = (_probabilities(member.model, graph, image_NCHW, "bf16") - expected_NKHW).abs().mean().item()
            times, plus = BFLOAT16_SLACK
            if not error <= times * usual + plus:
                raise ConversionError(f"OpenVINO's mean error in bfloat16 is {error:.2g}, torch's {usual:.2g}")
    except RuntimeError as error_:
        if _is_out_of_memory(error_):
            raise MemoryError("Memory ran out while a network was converted.") from error_
        raise ConversionError(f"OpenVINO cannot run its graph ({short_reason(error_)})") from error_


def sample_window(num_channels: int, height: int, width: int) -> torch.Tensor:
    """A seeded window (1, C, H, W) such as networks get: smooth fields with noise, of about unit variance."""
    rng = np.random.default_rng(20)
    noise_CHW = rng.standard_normal((num_channels, height, width))
    smooth_CHW = gaussian_filter(rng.standard_normal((num_channels, height, width)), (0, 8, 8), mode="wrap")
    image_CHW = smooth_CHW / max(float(smooth_CHW.std()), 1e-12) + 0.5 * noise_CHW
    return torch.from_numpy((image_CHW / 1.12).astype(np.float32))[None]


class _Probabilities(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network(image_NCHW).float(), dim=1)


def _eager(network: nn.Module, image_NCHW: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return torch.softmax(network(image_NCHW).float(), dim=1)


def _probabilities(network: nn.Module, graph: Graph, image_NCHW: torch.Tensor, precision: str) -> torch.Tensor:
    height, width = image_NCHW.shape[-2:]
    padded_NCHW = padded(network, image_NCHW)
    shape = _shape_of(padded_NCHW)
    compiled = compile_graph(graph, shape, precision, streams=1)
    return torch.from_numpy(run_graph(compiled, padded_NCHW.contiguous().numpy()))[..., :height, :width]


def _outliers(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    if found.shape != expected.shape:
        return 1.0, 1.0
    difference = (found - expected).abs()
    # "not within", so that NaN counts
    return (~(difference <= PROBABILITY_TOLERANCE)).float().mean().item(), difference.max().item()


def _is_right(member: LoadedModel, graph: Graph, shape: tuple[int, int]) -> bool:
    """Whether a graph gives torch's probabilities for another shape than it was traced with."""
    image_NCHW = sample_window(_channels_of(member), *shape)
    try:
        found_NKHW = _probabilities(member.model, graph, image_NCHW, "f32")
    except RuntimeError as error:
        if _is_out_of_memory(error):
            raise MemoryError("Memory ran out while a network was converted.") from error
        return False
    return _outliers(found_NKHW, _eager(member.model, image_NCHW, torch.float32))[0] <= OUTLIERS_ALLOWED


def _other_shape(member: LoadedModel, shape: tuple[int, int]) -> tuple[int, int]:
    return _CHECK_SHAPE if _padded_shape(member, _CHECK_SHAPE) != shape else (_CHECK_SHAPE[1], _CHECK_SHAPE[0])


def padded(network: nn.Module, image_NCHW: torch.Tensor) -> torch.Tensor:
    """Pad as the network would; one that does not say its stride gets the image as it is."""
    stride = getattr(network, "stride", None)
    return pad_to_stride(image_NCHW, stride, getattr(network, "least", 2)) if isinstance(stride, int) else image_NCHW


def _padded_shape(member: LoadedModel, window: tuple[int, int]) -> tuple[int, int]:
    return _shape_of(padded(member.model, torch.empty(1, 1, *window)))


def _shape_of(image_NCHW: torch.Tensor) -> tuple[int, int]:
    height, width = image_NCHW.shape[-2:]
    return int(height), int(width)


def _channels_of(member: LoadedModel) -> int:
    return len(member.card.channels)


def _is_out_of_memory(error: BaseException | None) -> bool:
    # The frontend wraps what a network raises; OpenVINO reports C++'s exception inside a RuntimeError of many lines.
    while error is not None:
        if is_out_of_memory(error) or (isinstance(error, RuntimeError) and "bad_alloc" in str(error)):
            return True
        error = error.__cause__
    return False
