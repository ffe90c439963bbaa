"""Graphs in 8-bit integers: faster on CPUs that have instructions for them, and less exact.

How much less depends on the network: residual ones keep over 99 % of the labels, mobile ones with their sharp
activations less. So it is measured, on windows of the scene that is to be mapped, and the graph is used only where
enough of them stay.
"""

import logging
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import torch

from napari_glacier.nn.openvino_runtime import Graph, compile_graph, run_graph, without_reports

LEAST_AGREEMENT = 0.99
"""Share of labels that must stay those of the graph in float32."""

MISSING = "it needs nncf, which is not installed (pip install 'napari-glacier[int8]')"


def import_nncf() -> Any:
    """Return the package nncf; None where it is not installed or does not load here."""
    try:
        with without_reports():
            import nncf
    except (ImportError, OSError):
        return None
    nncf.set_log_level(logging.ERROR)
    return nncf


def quantised(graph: Graph, samples: Sequence[torch.Tensor], precision: str) -> tuple[Graph, float]:
    """Turn a graph's convolutions and matrix products to 8-bit integers.

    Parameters
    ----------
    graph : Graph
    samples : sequence of float32 tensor, each (1, C, H, W)
        Two or more windows as the network gets them, of one shape for which the graph is right. Every other one sets
        the ranges of the integers, the others measure the agreement.
    precision : "f32" or "bf16"
        Of what stays in floating point.

    Returns
    -------
    graph : Graph
    agreement : float
        Share of pixels whose label is that of the graph in float32.
    """
    nncf = import_nncf()
    images = [np.ascontiguousarray(sample.numpy()) for sample in samples]
    # It draws bars of its own.
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        model = nncf.quantize(
            graph.model.clone(),
            nncf.Dataset(images[::2]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images[::2]),
        )
    small = replace(graph, model=model)
    height, width = images[0].shape[-2:]
    exact = compile_graph(graph, (height, width), "f32", streams=1)
    rough = compile_graph(small, (height, width), precision, streams=1)
    same = [run_graph(exact, image).argmax(1) == run_graph(rough, image).argmax(1) for image in images[1::2]]
    return small, float(np.mean(same))
