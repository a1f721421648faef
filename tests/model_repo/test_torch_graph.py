from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from model_repo.torch_graph import NotTranslatable, to_torch
from tests.models import tiny_stage


def graph_of(node, kind=TensorProto.FLOAT, shape=("n", 4, 4, 3)) -> bytes:
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def test_a_graph_gives_in_torch_what_it_gives_in_onnx_runtime():
    data = tiny_stage(2)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"pixels": pixels})
    np.testing.assert_allclose(to_torch(data)(torch.from_numpy(pixels)).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (helper.make_node("Hardmax", ["x"], ["y"]), "Hardmax"),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT8), "cast"),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], auto_pad="SAME_UPPER"), "padding"),
    ],
)
def test_what_cannot_be_translated_is_named(node, named):
    with pytest.raises(NotTranslatable, match=named):
        to_torch(graph_of(node))
