"""What computes the probabilities of a member: torch on any device, or OpenVINO on the CPU.

Legend: N windows, C channels, K classes, h x w a window.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch
from torch import nn

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn import openvino_engine, openvino_int8
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.memory import is_out_of_memory
from napari_glacier.nn.openvino_engine import ConversionError, OpenVinoEngine
from napari_glacier.nn.openvino_runtime import Graph, core, import_openvino
from napari_glacier.nn.rounding import compute_in_float32

__all__ = ["Engine", "EngineKind", "TorchEngine", "make_engine"]

logger = logging.getLogger(__name__)

EngineKind = Literal["auto", "torch", "openvino", "openvino-int8"]


class Engine(Protocol):
    """Computes the class probabilities of one member."""

    name: str
    """For provenance, e.g. ``torch bfloat16 channels-last`` or ``OpenVINO bf16``."""

    def probabilities(self, batch_NCHW: torch.Tensor) -> torch.Tensor:
        """Class probabilities, float32 (N, K, h, w), on the engine's device.

        Errors of memory pass through: the caller asks again with less.
        """


class TorchEngine:
    """A network run by torch's own operators.

    Parameters
    ----------
    network : nn.Module
        Moved to the device and put into evaluation mode, in place.
    device : torch.device
    dtype : torch.dtype
        Of convolutions and matrix products, but for the first and the last convolution: there rounding to eight bits
        costs most labels and saves least time. These, weights and probabilities are float32.
    compile : bool
        Let torch compile it; where that fails, `name` says so and it runs as it is.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, *, compile: bool = False) -> None:
        # A network that was in training would drop channels at random and normalise by the batch.
        network.eval()
        _keep_ends_exact(network)
        self._network: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device, self._dtype = device, dtype
        self._plain_name = f"torch {str(dtype).removeprefix('torch.')} channels-last"
        self.name = self._plain_name + (", compiled" if compile else "")
        self.note: str | None = None
        self._run = torch.compile(self._network) if compile else self._network

    def probabilities(self, batch_NCHW: torch.Tensor) -> torch.Tensor:
        """Class probabilities, float32 (N, K, h, w), on the engine's device."""
        # The mode belongs to the thread: it must not be left on for the caller.
        with torch.inference_mode():
            if self._device.type == "cuda" and batch_NCHW.device.type == "cpu":
                batch_NCHW = batch_NCHW.pin_memory().to(self._device, non_blocking=True)
            batch_NCHW = batch_NCHW.to(self._device).contiguous(memory_format=torch.channels_last)
            mixed = self._dtype != torch.float32
            with torch.autocast(self._device.type, self._dtype, enabled=mixed):
                logits_NKhw = self._logits(batch_NCHW)
            return torch.softmax(logits_NKhw.float(), dim=1)

    def _logits(self, batch_NCHW: torch.Tensor) -> torch.Tensor:
        try:
            logits: torch.Tensor = self._run(batch_NCHW)
            return logits
        except Exception as error:
            # The compiler has its own errors and those of a C++ compiler; the network as it is needs neither.
            if self._run is self._network or is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            self.note = f"torch could not compile the network and ran it as it is ({reason})"
            logger.warning(self.note)
        self._run, self.name = self._network, self._plain_name
        plain: torch.Tensor = self._network(batch_NCHW)
        return plain


def _keep_ends_exact(network: nn.Module) -> None:
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions[:1] + convolutions[-1:]:
        compute_in_float32(convolution)


def make_engine(
    member: LoadedModel,
    device: torch.device,
    dtype: torch.dtype,
    *,
    window_px: int | tuple[int, int],
    kind: EngineKind = "auto",
    compile: bool = False,
    samples: Sequence[torch.Tensor] = (),
    cache_dir: Path | None = None,
) -> tuple[Engine, str | None]:
    """Make what computes a member.

    Parameters
    ----------
    member : LoadedModel
        Its network is moved to the device.
    device : torch.device
    dtype : torch.dtype
        bfloat16 lets OpenVINO compute in it, too, where the CPU can; a network that says ``in_float32`` is not rounded.
    window_px : int or (int, int)
        Side, or height and width, of the usual window; other shapes work as well.
    kind : "auto", "torch", "openvino" or "openvino-int8"
        ``auto`` is OpenVINO on the CPU where it is installed, else torch, and torch for a network that says
        ``takes_gigabytes``. ``openvino`` falls back to torch where it does not work for this member.
    compile : bool
        Compile the network where torch computes it; the first window of each shape then takes long.
    samples : sequence of float32 tensor, each (1, C, h, w)
        Windows of what is to be mapped, of one shape, as the network gets them; for ``openvino-int8``.
    cache_dir : Path, optional
        Where converted networks are kept; in the user's data folder by default.

    Returns
    -------
    engine : Engine
    note : str or None
        What was asked for and did not work, for provenance.

    Raises
    ------
    ConfigError
        If the kind is unknown.
    """
    if kind not in get_args(EngineKind):
        raise ConfigError(f"There is no engine {kind!r}. Use {', '.join(get_args(EngineKind))}.")
    if getattr(member.model, "in_float32", False):
        dtype = torch.float32  # its statistics would be lost in rounding
    if kind == "auto" and getattr(member.model, "takes_gigabytes", False):
        kind = "torch"  # as fast, while converting it takes a minute and several gigabytes
    window = (window_px, window_px) if isinstance(window_px, int) else window_px
    refusal = _refusal(kind, device)
    eager = TorchEngine(member.model, device, dtype, compile=compile and (kind == "torch" or refusal is not None))
    if kind == "torch" or refusal is not None:
        if compile:
            # Known before the first result, so that provenance can tell.
            eager.probabilities(openvino_engine.sample_window(len(member.card.channels), *window))
        notes = [text for text in (refusal if kind.startswith("openvino") else None, eager.note) if text]
        return eager, f"{member.card.name}: {'; '.join(notes)}." if notes else None
    precision = "bf16" if dtype == torch.bfloat16 and _has_bfloat16() else "f32"
    try:
        graph = openvino_engine.obtain_graph(member, window=window, precision=precision, cache_dir=cache_dir)
    except ConversionError as error:
        return eager, f"{member.card.name}: {error}; torch computes it."
    name, notes = f"OpenVINO {precision}", [] if graph.reshapes else [_fixed_note(member, graph)]
    if kind == "openvino-int8":
        graph, name, note = _in_integers(member, graph, precision, samples)
        notes.append(note)
    engine = OpenVinoEngine(member, graph, precision=precision, name=name, otherwise=eager.probabilities)
    return engine, " ".join(notes) or None


def _in_integers(
    member: LoadedModel, graph: Graph, precision: str, samples: Sequence[torch.Tensor]
) -> tuple[Graph, str, str]:
    """A member's graph, its engine's name and a note: in 8-bit integers, or as it is where they do not do."""
    usual, who = f"OpenVINO {precision}", member.card.name
    padded = [openvino_engine.padded(member.model, sample) for sample in samples]
    if openvino_int8.import_nncf() is None:
        return graph, usual, f"{who}: not in 8-bit integers, {openvino_int8.MISSING}."
    if len(padded) < 2 or not (graph.reshapes or padded[0].shape[-2:] == graph.shape):
        return graph, usual, f"{who}: not in 8-bit integers, the scene has too few windows to adjust them by."
    small, agreement = openvino_int8.quantised(graph, padded, precision)
    kept = f"8-bit integers keep {agreement:.2%} of the labels of {len(padded) // 2} windows"
    if agreement < openvino_int8.LEAST_AGREEMENT:
        return graph, usual, f"{who}: {kept}, fewer than {openvino_int8.LEAST_AGREEMENT:.0%}; computed in {precision}."
    return small, f"OpenVINO int8 + {precision}", f"{who}: {kept}."


def _refusal(kind: str, device: torch.device) -> str | None:
    """Why OpenVINO is not used, None where it is."""
    if kind == "torch":
        return None
    if device.type != "cpu":
        return f"OpenVINO computes on the CPU, the device is {device}; torch computes it"
    if import_openvino() is None:
        return "OpenVINO is not installed (pip install 'napari-glacier[openvino]'); torch computes it"
    return None


def _has_bfloat16() -> bool:
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _fixed_note(member: LoadedModel, graph: Graph) -> str:
    height, width = graph.shape
    return (
        f"{member.card.name}: its OpenVINO graph is right for windows of {height} x {width} px only; torch computes "
        "windows of other shapes."
    )
