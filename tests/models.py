"""A tiny ladder of real ONNX graphs, built in milliseconds without torch, for tests that serve a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from model_repo.manifest import InputRule, Manifest, Pool, Provenance, Stage, rung_sets
from model_repo.repository import PublishedModel, Repository

SHIPPED_MODELS = Path(__file__).resolve().parents[1] / "model_repo" / "models"
SHIPPED_PLACES = range(len(Repository(SHIPPED_MODELS).open("cifar10").manifest.stages))
"""Every rung of the shipped model, however many there are."""

GAIN_BIN_EDGES = (0.0, 0.5, 0.8, 0.95, 1.0)
NOT_ONNX = b"this is no ONNX graph"


def tiny_stage(place: int, classes: int = 10, size: int = 32, hidden: int = 64) -> bytes:
    """One graph: uint8 [n, size, size, 3] -> float32 logits [n, classes], with `place` hidden layers.

    Its weights are random but fixed; different images get different classes.
    """
    random = np.random.default_rng(place)
    widths = [size * size * 3, *[hidden] * place, classes]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["centred"]),
        helper.make_node("Flatten", ["centred"], ["x0"]),
    ]
    constants = {"scale": np.float32(2 / 255), "one": np.float32(1)}
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        constants[f"w{layer}"] = random.normal(0, 3 / fan_in**0.5, (fan_in, fan_out)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"y{layer}"]))
        nodes.append(helper.make_node("Relu", [f"y{layer}"], [f"x{layer + 1}"]))
    nodes[-1] = helper.make_node("Identity", [f"y{len(widths) - 2}"], ["logits"])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", size, size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    return model.SerializeToString()


def tiny_manifest(
    files: dict[str, bytes], *, name: str = "tiny", version: str = "1", classes: int = 10, size: int = 32
) -> Manifest:
    """The manifest of stages given as {stage name: bytes of its graph}, shallow to deep.

    A rung deeper than all that ran gains 0.3 / 0.15 / 0.05 / 0 by confidence bin, a shallower one nothing.
    """
    names = list(files)
    stages = tuple(
        Stage(
            name=stage,
            file=f"{stage}.onnx",
            sha256=hashlib.sha256(data).hexdigest(),
            depth=place + 1,
            parameters=1000 * (place + 1),
            multiply_adds=10_000 * (place + 1),
            test_accuracy=0.6 + 0.1 * place,
        )
        for place, (stage, data) in enumerate(files.items())
    )
    sets = rung_sets(names)
    return Manifest(
        name=name,
        version=version,
        description="A tiny random ladder for tests.",
        input=InputRule(height=size, width=size),
        labels=tuple(f"class{index}" for index in range(classes)),
        stages=stages,
        pools={
            key: Pool(weights=(1.0,) * (key.count(",") + 1), accuracy=0.6 + 0.1 * _deepest(key, names))
            for key in sets
        },
        gain_bin_edges=GAIN_BIN_EDGES,
        gains={key: _gains(key, names) for key in sets},
        provenance=Provenance(
            data="none",
            recipe="random weights",
            seed=0,
            epochs=0,
            code_commit="unknown",
            date="2026-01-01",
            test_errors={},
        ),
    )


def publish_tiny_model(
    models_dir: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    stages: int = 3,
    classes: int = 10,
    size: int = 32,
    hidden: int = 64,
    unloadable: Sequence[str] = (),
) -> PublishedModel:
    """Publish column1 … full with real graphs; `unloadable` ones get a file of the right hash, no ONNX.

    `hidden` widens the stages: 4096 makes `full` of three stages take milliseconds.
    """
    names = [*(f"column{k}" for k in range(1, stages)), "full"]
    files = {
        stage: NOT_ONNX if stage in unloadable else tiny_stage(place, classes, size, hidden)
        for place, stage in enumerate(names)
    }
    manifest = tiny_manifest(files, name=name, version=version, classes=classes, size=size)
    return Repository(models_dir).publish(manifest, {f"{stage}.onnx": data for stage, data in files.items()})


def _deepest(key: str, names: list[str]) -> int:
    return max(names.index(stage) for stage in key.split(","))


def _gains(key: str, names: list[str]) -> dict[str, tuple[float, ...]]:
    deeper = (0.3, 0.15, 0.05, 0.0)
    nothing = (0.0,) * len(deeper)
    return {
        stage: deeper if names.index(stage) > _deepest(key, names) else nothing
        for stage in names
        if stage not in key.split(",")
    }
