"""Exported stages read back into the net: the same answers, whatever the net's shape; everything else is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from model_repo.export import TrainedStage, export_stage
from model_repo.fractalnet import FractalConfig, FractalNet, column, full, joined
from model_repo.repository import Repository
from model_repo.stored_net import NotAFractalNet, read
from tests.models import tiny_stage

MODELS = Path(__file__).resolve().parents[2] / "model_repo" / "models"

SMALL = {"classes": 5, "input_size": 16, "channels": (8, 16)}
NETS = {
    "thin columns": (FractalConfig(columns=3, column_divisors=(1, 2, 4), **SMALL), lambda c: column(c, 3)),
    "pointwise": (FractalConfig(columns=3, pointwise=True, widening=True, **SMALL), full),
    "separable, no last pool": (
        FractalConfig(columns=2, layer="separable", last_pool=False, **SMALL),
        lambda c: joined(c, 1),
    ),
}


@pytest.fixture(scope="module")
def shipped_graphs() -> list[bytes]:
    model = Repository(MODELS).open("cifar10")
    return [model.read(stage) for stage in model.manifest.stages]


def test_the_shipped_stages_are_read_back_with_their_paths(shipped_graphs: list[bytes]) -> None:
    stages = [read(graph) for graph in shipped_graphs]  # each compares its answers with its graph's
    assert {stage.net.config.columns for stage in stages[1:]} == {4}
    assert [stage.subnetwork[0][-1] for stage in stages] == [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
    assert stages[2].net.config.channels == (16, 32, 64, 128, 128)


@pytest.mark.parametrize("name", NETS)
def test_nets_of_other_shapes_are_read_back(name: str) -> None:
    config, path = NETS[name]
    torch.manual_seed(0)
    net = FractalNet(config).eval()
    with torch.no_grad():  # as if trained: the exporter merges weights that are equal, as zeros are
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    stage = TrainedStage(name, net, path(config), {}, torch.full((3,), 0.5), torch.full((3,), 0.25))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    found = read(export_stage(stage, pixels).onnx)
    assert (found.net.config.layer, found.net.config.pointwise) == (config.layer, config.pointwise)
    assert found.net.config.column_divisors == config.column_divisors
    assert found.net.config.last_pool == config.last_pool


def test_a_graph_from_elsewhere_is_refused() -> None:
    with pytest.raises(NotAFractalNet, match="no layer bears the name of a column's"):
        read(tiny_stage(1))


def test_a_graph_that_computes_something_else_with_these_weights_is_refused(
    shipped_graphs: list[bytes],
) -> None:
    model = onnx.load_model_from_string(shipped_graphs[1])
    halved = next(t for t in model.graph.initializer if t.name == "scalar_tensor_default")  # of every mean
    halved.CopyFrom(numpy_helper.from_array(np.float32(1.0), halved.name))
    with pytest.raises(NotAFractalNet, match="differs from the graph"):
        read(model.SerializeToString())


def test_a_missing_weight_is_named(shipped_graphs: list[bytes]) -> None:
    model = onnx.load_model_from_string(shipped_graphs[0])
    kept = [tensor for tensor in model.graph.initializer if not tensor.name.startswith("net.head.bias")]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    with pytest.raises(NotAFractalNet, match=r"head\.bias"):
        read(model.SerializeToString())
