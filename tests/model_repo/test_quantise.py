from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from model_repo.quantise import quantise
from tests.model_repo.foreign_graphs import COLOURS, colour_graph


def patches(count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, 8, 8, 3] of noisy colours, and their classes."""
    random = np.random.default_rng(1)
    classes = np.arange(count) % 3
    colours = np.array(list(COLOURS.values()))[classes][:, None, None, :]
    return np.clip(random.normal(colours, 60, (count, 8, 8, 3)), 0, 255).astype(np.uint8), classes


@pytest.fixture(scope="module")
def graphs() -> tuple[bytes, bytes]:
    """A graph and the same in INT8."""
    exact = colour_graph(12, layout="nhwc", kind=TensorProto.UINT8)
    return exact, quantise(exact, patches(60)[0])


def logits(graph: bytes, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


def test_weights_of_a_quantised_graph_are_int8(graphs):
    kinds = {t.data_type for t in onnx.load_from_string(graphs[1]).graph.initializer}
    assert TensorProto.INT8 in kinds
    operators = {node.op_type for node in onnx.load_from_string(graphs[1]).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


def test_a_quantised_graph_takes_and_gives_the_same(graphs):
    exact, small = (onnx.load_from_string(graph).graph for graph in graphs)
    assert [v.name for v in small.input] == [v.name for v in exact.input]
    assert [v.name for v in small.output] == [v.name for v in exact.output]


def test_its_answers_are_nearly_the_same_in_any_batch(graphs):
    pixels, classes = patches(90)
    exact, small = (logits(graph, pixels) for graph in graphs)
    assert (small.argmax(1) == classes).mean() > 0.95
    assert (small.argmax(1) == exact.argmax(1)).mean() > 0.95
    np.testing.assert_allclose(logits(graphs[1], pixels[:1]), small[:1], atol=1e-3)
