"""An exported stage -> the same stage in INT8: static quantisation with QDQ pairs, ranges from training images.

Knows graphs as export.py makes them: the normalisation before the first convolution stays in float32. Weights are
quantised per channel, on 7 bits, so that processors without VNNI do not saturate and give other answers. What it costs
in accuracy is for the caller to measure.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from model_repo import half

BATCH = 50
QUANTISED = ["Conv", "Gemm", "MatMul", "Relu", "MaxPool", "Add"]
"""Div and the mean over the image stay in float32: they cost nothing there, and accuracy here."""


def quantise(graph: bytes, pixels: NDArray[np.uint8]) -> bytes:
    """The graph in INT8. Raises half.NotConvertible for what is no ONNX graph.

    Args:
        graph: ONNX bytes, uint8 NHWC in, float32 logits out.
        pixels: training images that ranges are taken from, uint8 [n, height, width, 3]; a few hundred.
    """
    model = half.load(graph)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node{number}"
    with tempfile.TemporaryDirectory() as folder, _quiet():
        quantize_static(
            model,
            Path(folder) / "int8.onnx",
            _Batches(model.graph.input[0].name, pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            nodes_to_exclude=_before_first_convolution(model),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        small = onnx.load(Path(folder) / "int8.onnx")
    del small.metadata_props[:]
    onnx.checker.check_model(small)
    return bytes(small.SerializeToString())


class _Batches(CalibrationDataReader):  # type: ignore[misc] # ONNX Runtime ships no types
    """Images in batches, as ONNX Runtime asks for them."""

    def __init__(self, name: str, pixels: NDArray[np.uint8]) -> None:
        self._left: Iterator[dict[str, Any]] = iter(
            [{name: pixels[at : at + BATCH]} for at in range(0, len(pixels), BATCH)]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def _before_first_convolution(model: ModelProto) -> list[str]:
    names = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            break
        names.append(node.name)
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its advice to pre-process the graph goes nowhere: the graph comes from the exporter, folded."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
