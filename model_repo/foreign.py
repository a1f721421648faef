"""An ONNX graph from elsewhere -> a graph as it is served: uint8 [n, height, width, 3] -> float32 logits [n, classes].

Knows what a graph's inputs and outputs may be, and the prologue that turns pixels into what a float graph expects. Must
not know labels, accuracies or other rungs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Layout = Literal["nhwc", "nchw"]

FLOATS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


class GraphRefused(Exception):
    """This graph cannot be a rung; the text says why in one line, and what to do."""


@dataclass(frozen=True)
class Preparation:
    """What a float graph expects of its input; a uint8 graph does all this itself.

    Attributes:
        mean, std: of images in [0, 1], one number or three; None: the graph takes [0, 1] as it is.
        layout: None: told by where its input has 3 channels.
        size: height and width where the graph leaves them open.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    layout: Layout | None = None
    size: int | None = None


@dataclass(frozen=True)
class ServedGraph:
    """A graph that takes pixels.

    Attributes:
        onnx: its bytes.
        height, width: of its input.
        parameters: numbers in its weights.
        multiply_adds: of one image; None where a shape is not known beforehand.
    """

    onnx: bytes
    height: int
    width: int
    parameters: int
    multiply_adds: int | None


def prepare(path: Path, preparation: Preparation) -> ServedGraph:
    """Read a graph, check it, and put the prologue before it where it needs one. Raises GraphRefused."""
    model = _read(path)
    given, output = _input(model), _output(model)
    kind = given.type.tensor_type.elem_type
    if kind == TensorProto.UINT8:
        if preparation.mean or preparation.std or preparation.layout == "nchw":
            raise GraphRefused(
                "takes uint8 pixels and normalises them itself: no --mean, --std or --layout nchw"
            )
        height, width = _size(given, "nhwc", preparation.size)
    elif kind in FLOATS:
        layout = preparation.layout or _layout(given)
        height, width = _size(given, layout, preparation.size)
        _add_prologue(model, given, layout, preparation)
    else:
        raise GraphRefused(f"takes {TensorProto.DataType.Name(kind).lower()}; uint8 or float is served")
    _fix_input(model, height, width)
    _end_in_logits(model, output)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise GraphRefused(f"is not valid: {str(error).splitlines()[0]}") from error
    return ServedGraph(model.SerializeToString(), height, width, _parameters(model), multiply_adds(model))


def _read(path: Path) -> ModelProto:
    try:
        model = onnx.load_from_string(path.read_bytes())
    except OSError as error:
        raise GraphRefused(f"cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's errors differ by its implementation
        raise GraphRefused("is no ONNX graph") from error
    if not model.graph.node:
        raise GraphRefused("is no ONNX graph, or an empty one")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise GraphRefused("keeps its weights in another file: save it with all of them inside")
    return model


def _input(model: ModelProto) -> ValueInfoProto:
    """The one input that is no weight: [n, …] of rank 4."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise GraphRefused(f"has {len(inputs)} inputs, one of images is served")
    dims = inputs[0].type.tensor_type.shape.dim
    if len(dims) != 4:
        raise GraphRefused(f"its input has {len(dims)} dimensions; a batch of images has 4")
    if dims[0].dim_value:
        raise GraphRefused(f"its batch is fixed at {dims[0].dim_value}: export it with a dynamic batch")
    given: ValueInfoProto = inputs[0]
    return given


def _output(model: ModelProto) -> ValueInfoProto:
    """The one output: float [n, classes]."""
    outputs = list(model.graph.output)
    if len(outputs) != 1:
        raise GraphRefused(f"has {len(outputs)} outputs, one of logits is served")
    kind = outputs[0].type.tensor_type
    if kind.elem_type not in FLOATS:
        raise GraphRefused("its output is no float")
    if kind.HasField("shape") and len(kind.shape.dim) != 2:
        raise GraphRefused(f"its output has {len(kind.shape.dim)} dimensions; logits have 2: [n, classes]")
    given: ValueInfoProto = outputs[0]
    return given


def _layout(given: ValueInfoProto) -> Layout:
    dims = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    if (dims[1] == 3) == (dims[3] == 3):
        raise GraphRefused(f"its input {dims} does not tell where the channels are: give --layout")
    return "nchw" if dims[1] == 3 else "nhwc"


def _size(given: ValueInfoProto, layout: Layout, wanted: int | None) -> tuple[int, int]:
    """Height and width; checks the channels on the way."""
    dims = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    channels, sides = (dims[3], dims[1:3]) if layout == "nhwc" else (dims[1], dims[2:4])
    if channels not in (0, 3):
        raise GraphRefused(f"takes {channels} channels in layout {layout}; images have 3")
    if wanted is not None and any(side not in (0, wanted) for side in sides):
        raise GraphRefused(f"takes images of {sides[0]} x {sides[1]}, not of --size {wanted}")
    if not all(sides) and wanted is None:
        raise GraphRefused("leaves the size of its images open: give --size")
    return sides[0] or int(wanted or 0), sides[1] or int(wanted or 0)


def _add_prologue(model: ModelProto, given: ValueInfoProto, layout: Layout, preparation: Preparation) -> None:
    """pixels -> cast -> (x / 255 - mean) / std -> layout and type of the graph; `given` becomes an inner value."""
    mean, std = (
        _three(v, n) for v, n in ((preparation.mean or [0.0], "mean"), (preparation.std or [1.0], "std"))
    )
    if (std <= 0).any():
        raise GraphRefused("--std must be above 0")
    constants = {"served_scale": 1 / (255 * std), "served_shift": -mean / std}
    steps = [
        helper.make_node("Cast", ["served_pixels"], ["served_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["served_float", "served_scale"], ["served_scaled"]),
        helper.make_node("Add", ["served_scaled", "served_shift"], ["served_normal"]),
    ]
    if layout == "nchw":
        steps.append(helper.make_node("Transpose", ["served_normal"], ["served_nchw"], perm=[0, 3, 1, 2]))
    kind = given.type.tensor_type.elem_type
    last = helper.make_node("Cast", [steps[-1].output[0]], [given.name], to=kind)
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()
    )
    _put_nodes(model, [*steps, last, *model.graph.node])
    given.name = "served_pixels"
    given.type.tensor_type.elem_type = TensorProto.UINT8


def _three(values: Sequence[float], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if len(values) not in (1, 3):
        raise GraphRefused(f"--{name} takes one number or three, not {len(values)}")
    return np.broadcast_to(np.asarray(values, np.float64), (3,)).copy()


def _fix_input(model: ModelProto, height: int, width: int) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    (given,) = (value for value in model.graph.input if value.name not in weights)
    fixed = helper.make_tensor_value_info(given.name, TensorProto.UINT8, ["n", height, width, 3])
    given.CopyFrom(fixed)


def _end_in_logits(model: ModelProto, output: ValueInfoProto) -> None:
    """Leave out a final softmax: temperatures divide logits. An fp16 output becomes float32. Raises GraphRefused."""
    nodes = list(model.graph.node)
    maker = next((node for node in nodes if output.name in node.output), None)
    if maker is None:
        raise GraphRefused("its output comes of no operation")
    if maker.op_type == "Softmax":
        output.name = maker.input[0]
        _put_nodes(model, [node for node in nodes if node is not maker])
    if output.type.tensor_type.elem_type == TensorProto.FLOAT16:
        cast = helper.make_node("Cast", [output.name], ["served_logits"], to=TensorProto.FLOAT)
        model.graph.node.append(cast)
        output.name = "served_logits"
        output.type.tensor_type.elem_type = TensorProto.FLOAT


def _put_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(copies)


def _parameters(model: ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in FLOATS)


def multiply_adds(model: ModelProto) -> int | None:
    """Of convolutions, linear layers and matrix products for one image; None where a shape is not known."""
    one = ModelProto.FromString(model.SerializeToString())
    weights = {tensor.name: list(tensor.dims) for tensor in one.graph.initializer}
    for value in (*one.graph.input, *one.graph.output):
        if value.name not in weights and value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    one.graph.ClearField("value_info")
    inferred = onnx.shape_inference.infer_shapes(one).graph
    shapes = {v.name: _dims(v) for v in (*inferred.value_info, *inferred.input, *inferred.output)} | weights
    total = 0
    for node in one.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            found = _multiply_adds(node, shapes)
            if found is None:
                return None
            total += found
    return total


def _multiply_adds(node: NodeProto, shapes: dict[str, list[int]]) -> int | None:
    out, weight, left = (shapes.get(name, []) for name in (node.output[0], node.input[1], node.input[0]))
    if not out or not weight or not left or 0 in (*out, *weight):
        return None
    if node.op_type == "Conv":
        return int(np.prod(out[2:])) * int(np.prod(weight))
    if node.op_type == "Gemm":
        return out[0] * int(np.prod(weight))
    return int(np.prod(out)) * left[-1]


def _dims(value: ValueInfoProto) -> list[int]:
    """0 where a dimension is open."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
