"""The pass that makes a graph fp16, on the shipped graphs and on small ones made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_repo import half
from model_repo.repository import PublishedModel, Repository
from tests.models import SHIPPED_PLACES, tiny_stage

MODELS = Path(__file__).resolve().parents[2] / "model_repo" / "models"


@pytest.fixture(scope="module")
def shipped() -> PublishedModel:
    return Repository(MODELS).open("cifar10")


def logits(graph: bytes, pixels: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


def probabilities(graph: bytes, pixels: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits(graph, pixels).astype(np.float64))
    return exponentials / exponentials.sum(1, keepdims=True)


def small_graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], size: int = 4) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", size, size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, ir_version=10, opset_imports=opset).SerializeToString()


def linear(weight: np.ndarray) -> bytes:
    return small_graph(
        [
            helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["y"]),
            helper.make_node("Softmax", ["y"], ["s"]),
            helper.make_node("MatMul", ["s", "last"], ["logits"]),
        ],
        {"weight": weight, "last": np.eye(2, dtype=np.float32)},
    )


@pytest.mark.parametrize("place", SHIPPED_PLACES)
def test_a_shipped_stage_in_fp16_gives_the_same_answers(place: int, shipped: PublishedModel) -> None:
    graph = shipped.read(shipped.manifest.stages[place])
    pixels = np.random.default_rng(place).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    before, after = probabilities(graph, pixels), probabilities(half.to_half(graph), pixels)
    assert np.abs(before - after).max() < 0.01
    assert (before.argmax(1) == after.argmax(1)).all()


def test_pixels_are_cast_first_convolutions_are_fp16_and_the_logits_are_made_in_fp32(
    shipped: PublishedModel,
) -> None:
    model = onnx.load_model_from_string(half.to_half(shipped.read(shipped.manifest.stages[1])))
    nodes, weights = model.graph.node, {t.name: t.data_type for t in model.graph.initializer}
    assert (nodes[0].op_type, list(nodes[0].input)) == ("Cast", ["pixels"])
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolutions) == 15
    assert {weights[name] for node in convolutions for name in node.input[1:]} == {TensorProto.FLOAT16}
    assert {weights[name] for name in nodes[-1].input[1:]} == {TensorProto.FLOAT}
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_moving_the_cast_of_the_pixels_changes_no_logit(shipped: PublishedModel) -> None:
    graph = shipped.read(shipped.manifest.stages[0])
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(logits(graph, pixels), logits(half.casts_pixels_first(graph), pixels))


def test_what_exponentiates_stays_fp32_between_fp16_products() -> None:
    graph = half.to_half(linear(np.full((48, 2), 0.01, np.float32)))
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert types["y"] == TensorProto.FLOAT16
    assert types["s"] == TensorProto.FLOAT


def test_an_fp16_graph_can_be_passed_again(shipped: PublishedModel) -> None:
    once = half.to_half(tiny_stage(2))
    pixels = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(logits(once, pixels), logits(half.to_half(once), pixels))


def test_a_quantised_graph_keeps_its_own_precision() -> None:
    graph = small_graph(
        [
            helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("QuantizeLinear", ["flat", "step", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
            helper.make_node("MatMul", ["d", "weight"], ["y"]),
            helper.make_node("Identity", ["y"], ["logits"]),
        ],
        {"weight": np.ones((48, 2), np.float32), "step": np.float32(2), "zero": np.int8(0)},
    )
    model = onnx.load_model_from_string(half.to_half(graph))
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in model.graph.initializer}


def test_a_weight_beyond_the_range_of_fp16_is_refused_by_name() -> None:
    with pytest.raises(half.NotConvertible, match="weight holds values beyond 65504"):
        half.to_half(linear(np.full((48, 2), 1e5, np.float32)))


@pytest.mark.parametrize("data", [b"this is no ONNX graph", b""])
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    with pytest.raises(half.NotConvertible, match="ONNX graph"):
        half.to_half(data)
