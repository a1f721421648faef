"""An exported graph -> the same graph in fp16, for runtimes that take their precision from the graph's types.

Knows ONNX types and which operations bear fp16; must not know torch, nor what the graph computes. Three parts:

- Pixels stay uint8 and are cast at once, since TensorRT does nothing with uint8 but cast it.
- Convolutions and matrix products take fp16. What merely moves or combines values follows its inputs.
- What sums or exponentiates (SENSITIVE), all before the first product (the normalisation) and the product that gives
  the logits stay fp32: they cost nothing and would lose the most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SENSITIVE = frozenset(
    {
        "BatchNormalization", "CumSum", "Erf", "Exp", "GlobalAveragePool", "GlobalLpPool", "GroupNormalization",
        "InstanceNormalization", "LayerNormalization", "Log", "LogSoftmax", "LpNormalization", "Pow", "Range",
        "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd",
        "ReduceSum", "ReduceSumSquare", "Resize", "Softmax", "Softplus", "Sqrt",
    }
)  # fmt: skip
MOVES = frozenset({"Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
TYPED_BY_THEMSELVES = frozenset({"Cast", "Constant", "ConstantOfShape", "EyeLike"})
QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear"})
LARGEST_HALF = 65504.0

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
FLOATS = (FLOAT, HALF)


class NotConvertible(Exception):
    """The graph cannot be made fp16; the text says why in one line."""


def load(data: bytes) -> ModelProto:
    """A graph from its bytes, weights that lie as fp16 behind a cast made fp32 again. Raises NotConvertible."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # the parser of protocol buffers has no error of its own that is public
        raise NotConvertible(f"not an ONNX graph: {str(error).splitlines()[0]}") from error
    if not model.graph.node:
        raise NotConvertible("an ONNX graph without operations")
    _fold_stored_casts(model)
    return model


def weights_of(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    """The initialisers of a graph, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def casts_pixels_first(data: bytes) -> bytes:
    """The graph in fp32, uint8 inputs cast before anything else is done with them. Raises NotConvertible."""
    return _Rewrite(load(data), frozenset()).run()


def to_half(data: bytes) -> bytes:
    """The graph in fp16, with uint8 in and float32 out as before. A quantised one says itself what is computed how:
    of it only the pixels' cast is moved.

    Raises:
        NotConvertible: not an ONNX graph; one with branches or loops; a weight beyond fp16's range; types that do
            not fit together.
    """
    model = load(data)
    quantised = any(node.op_type in QUANTISED for node in model.graph.node)
    return _Rewrite(model, frozenset() if quantised else PRODUCTS).run()


def _fold_stored_casts(model: ModelProto) -> None:
    """Replace `Cast(fp16 initialiser) -> fp32` by an fp32 initialiser."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    kept: list[NodeProto] = []
    for node in model.graph.node:
        tensor = stored.get(node.input[0]) if node.op_type == "Cast" else None
        if tensor is None or tensor.data_type != HALF or _cast_to(node) != FLOAT:
            kept.append(node)
            continue
        values = numpy_helper.to_array(tensor).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    used = {name for node in kept for name in node.input} | {out.name for out in model.graph.output}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(tensors)
    model.graph.node.extend(kept)


def _cast_to(node: NodeProto) -> int:
    return next(int(a.i) for a in node.attribute if a.name == "to")


class _Rewrite:
    """One pass over a graph in its (topological) order.

    `_types` holds the type that each value has in the new graph; a value is cast once per type that is asked for.
    """

    def __init__(self, model: ModelProto, products: frozenset[str]) -> None:
        self._model = model
        self._products = products
        self._nodes: list[NodeProto] = []
        self._old = _value_types(model)
        self._types = dict(self._old)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._casts: dict[tuple[str, int], str] = {}
        self._outputs = {output.name for output in model.graph.output}

    def run(self) -> bytes:
        graph = self._model.graph
        for node in list(graph.node):
            self._rewrite(node)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        self._drop_unused()
        try:
            onnx.checker.check_model(self._model)
            shape_inference.infer_shapes(self._model, check_type=True, strict_mode=True)
        except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
            raise NotConvertible(str(error).strip().splitlines()[0]) from error
        return bytes(self._model.SerializeToString())

    def _rewrite(self, node: NodeProto) -> None:
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise NotConvertible(f"{node.op_type} has a graph of its own inside")
        if self._is_needless_cast(node):
            self._alias(node)
            return
        new = NodeProto()
        new.CopyFrom(node)
        if node.op_type in MOVES and self._types.get(node.input[0]) == TensorProto.UINT8:
            new.input[0] = self._as(node.input[0], FLOAT)
        kind = self._kind(new)
        for place, name in enumerate(new.input):
            if self._types.get(name) in FLOATS:
                new.input[place] = self._as(name, kind)
        self._note_outputs(new, kind)
        self._nodes.append(new)
        self._restore_outputs(new)

    def _is_needless_cast(self, node: NodeProto) -> bool:
        """Whether it casts pixels to float that have been cast already."""
        if node.op_type != "Cast" or _cast_to(node) not in FLOATS:
            return False
        return self._old.get(node.input[0]) not in FLOATS and self._types.get(node.input[0]) in FLOATS

    def _alias(self, cast: NodeProto) -> None:
        source, name = cast.input[0], cast.output[0]
        self._nodes.append(helper.make_node("Identity", [source], [name]))
        self._types[name] = self._types[source]

    def _kind(self, node: NodeProto) -> int:
        """FLOAT or HALF: what this node's float inputs and outputs become."""
        if node.op_type in SENSITIVE or self._outputs.intersection(node.output):
            return FLOAT
        if node.op_type in self._products:
            return HALF
        return HALF if any(self._types.get(name) == HALF for name in node.input) else FLOAT

    def _as(self, name: str, kind: int) -> str:
        """The name under which value `name` is had in that type."""
        if not name or self._types.get(name) == kind:
            return name
        if (name, kind) not in self._casts:
            self._casts[name, kind] = self._convert(name, kind)
        return self._casts[name, kind]

    def _convert(self, name: str, kind: int) -> str:
        new = f"{name}_{'half' if kind == HALF else 'float'}"
        self._types[new] = kind
        tensor = self._constants.get(name)
        if tensor is None:
            self._nodes.append(helper.make_node("Cast", [name], [new], to=kind))
            return new
        values = numpy_helper.to_array(tensor)
        if kind == HALF and values.size and float(np.abs(values).max()) > LARGEST_HALF:
            raise NotConvertible(f"{name} holds values beyond {LARGEST_HALF:.0f}")
        converted = values.astype(np.float16 if kind == HALF else np.float32)
        self._model.graph.initializer.append(numpy_helper.from_array(converted, new))
        return new

    def _note_outputs(self, node: NodeProto, kind: int) -> None:
        for name in node.output:
            moved_pixels = node.op_type in MOVES and self._old.get(name) == TensorProto.UINT8
            if moved_pixels or (self._old.get(name) in FLOATS and node.op_type not in TYPED_BY_THEMSELVES):
                self._types[name] = kind

    def _restore_outputs(self, node: NodeProto) -> None:
        """A graph's output keeps its type."""
        for place, name in enumerate(node.output):
            if name in self._outputs and self._types.get(name) != self._old.get(name):
                node.output[place] = f"{name}_made"
                self._nodes.append(helper.make_node("Cast", [node.output[place]], [name], to=self._old[name]))

    def _drop_unused(self) -> None:
        used = {name for node in self._nodes for name in node.input} | self._outputs
        tensors = [tensor for tensor in self._model.graph.initializer if tensor.name in used]
        del self._model.graph.initializer[:]
        self._model.graph.initializer.extend(tensors)


def _value_types(model: ModelProto) -> dict[str, int]:
    """The element type of every value whose type can be told."""
    try:
        typed = shape_inference.infer_shapes(model)
    except Exception as error:  # an operator set it does not know, and the like
        raise NotConvertible(f"types cannot be told: {str(error).strip().splitlines()[0]}") from error
    values: Iterable[onnx.ValueInfoProto] = (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)
    types: Mapping[str, int] = {value.name: value.type.tensor_type.elem_type for value in values}
    return {**types, **{tensor.name: tensor.data_type for tensor in model.graph.initializer}}
