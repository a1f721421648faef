"""Trained net -> one ONNX graph per published stage, with a parity check, published with its manifest.

Knows how a stage becomes a graph: uint8 NHWC in, normalisation inside, batch norm folded with the stage's own
statistics, weights stored as fp16 if the answers stay the same. Which stages are published, and how well they do, is
decided by the caller.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model_repo.fractalnet import ConvLayer, FractalNet, Subnetwork

PARITY_BOUND = 1e-3
"""Largest allowed difference of a probability between the graph and torch float32."""

ROUNDED_BOUND = 5e-3
"""The same where weights are stored as fp16: half a percent of probability, a tenth of what bf16 arithmetic moves."""

SAME_CLASS = 0.998
"""Share of images whose top class rounded weights must keep."""

OPSET = 18


class ParityError(Exception):
    """A graph's answers differ from torch's by more than the bound; nothing is published."""


@dataclass(frozen=True)
class StageGraph:
    """One exported stage: its ONNX bytes, their hash, and the largest difference seen in the parity check."""

    name: str
    onnx: bytes
    parity: float

    @property
    def sha256(self) -> str:
        """Hash of the ONNX bytes, for the manifest."""
        return hashlib.sha256(self.onnx).hexdigest()


@dataclass(frozen=True)
class TrainedStage:
    """One stage of a trained net, ready to become a graph.

    Attributes:
        statistics: what this stage has of its own, by name in the net: batch-norm buffers, and weights where a
            stage was given its own.
        mean, std: per channel, of images in [0, 1]; float32 [channels].
    """

    name: str
    net: FractalNet
    subnetwork: Subnetwork
    statistics: Mapping[str, Tensor]
    mean: Tensor
    std: Tensor

    def with_statistics(self) -> FractalNet:
        """A copy of the net, in evaluation mode, that bears this stage's statistics and weights."""
        own = copy.deepcopy(self.net).eval()
        tensors = dict(own.named_buffers()) | dict(own.named_parameters())
        with torch.no_grad():
            for name, value in self.statistics.items():
                tensors[name].copy_(value)
        return own

    def folded(self) -> FractalNet:
        """The same with batch norm inside the convolutions. Other kinds of layer stay as they are."""
        own = self.with_statistics()
        for layer in (part for outer in own.layers_of(self.subnetwork) for part in outer.modules()):
            if isinstance(layer, ConvLayer) and isinstance(layer.norm, nn.BatchNorm2d):
                layer.conv = fuse_conv_bn_eval(layer.conv, layer.norm)
                layer.norm = nn.Identity()
        return own


class PixelsToLogits(nn.Module):
    """A stage as it is served: uint8 [n, height, width, channels] -> float32 logits [n, classes]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, stage: TrainedStage, net: FractalNet) -> None:
        super().__init__()
        self.net, self.subnetwork = net, stage.subnetwork
        self.register_buffer("scale", (1.0 / (255.0 * stage.std)).view(1, -1, 1, 1))
        self.register_buffer("shift", (-stage.mean / stage.std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise, then run the stage."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32)
        return self.net(images * self.scale + self.shift, self.subnetwork)  # type: ignore[no-any-return]


def export_stage(stage: TrainedStage, pixels: NDArray[np.uint8]) -> StageGraph:
    """Export one stage and compare it with torch on `pixels`, real images, uint8 [n, height, width, channels].

    Raises:
        ParityError: even with fp32 weights a probability differs by more than PARITY_BOUND, or a top class does.
    """
    # The reference is not folded: the check covers the fold too.
    reference = _reference(PixelsToLogits(stage, stage.with_statistics()).eval(), pixels)
    graph = _trace(PixelsToLogits(stage, stage.folded()).eval(), pixels[:2])
    for candidate, bound in ((_store_as_fp16(graph), ROUNDED_BOUND), (graph, PARITY_BOUND)):
        data = candidate.SerializeToString()
        answers = run(data, pixels)
        parity = float(np.abs(answers - reference).max())
        same = float((answers.argmax(1) == reference.argmax(1)).mean())
        if parity <= bound and same >= SAME_CLASS:
            return StageGraph(stage.name, data, parity)
    raise ParityError(
        f"{stage.name}: probabilities differ from torch by {parity:.2e}, more than {PARITY_BOUND:.0e}"
    )


def run(model: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities [n, classes] of an exported graph under ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    logits = [session.run(None, {feed: batch})[0] for batch in _batches(pixels)]
    return _softmax(torch.from_numpy(np.concatenate(logits)))


def _batches(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(pixels), 100):
        yield pixels[start : start + 100]


def _softmax(logits: Tensor) -> NDArray[np.float32]:
    return logits.softmax(1).numpy()


@torch.no_grad()
def _reference(module: PixelsToLogits, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _softmax(torch.cat([module(torch.from_numpy(batch)) for batch in _batches(pixels)]))


def _trace(module: PixelsToLogits, example: NDArray[np.uint8]) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            module,
            (torch.from_numpy(example),),
            dynamo=True,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: torch.export.Dim.DYNAMIC}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    return _without_traces_of_python(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own internals; its errors still surface."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _without_traces_of_python(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter notes of stack frames and file paths: it is of no use to a runtime."""
    del model.metadata_props[:]
    model.doc_string = ""
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def _store_as_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights lie on disk as fp16 and are cast to fp32 when the graph is loaded."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    casts = []
    for tensor in small.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 64:
            continue
        stored = f"{tensor.name}_fp16"
        casts.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
    nodes = [*casts, *small.graph.node]
    del small.graph.node[:]
    small.graph.node.extend(nodes)
    onnx.checker.check_model(small)
    return small


def sample(images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Evenly spread images for a parity check."""
    chosen: Sequence[int] = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int).tolist()
    return images[chosen]
