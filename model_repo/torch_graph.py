"""A published ONNX graph as a torch module: what torch itself makes of the very weights that are served.

Knows the operators that exported stages consist of; must not know stages, manifests or where a graph comes from. For
comparing answers and speeds with torch. Convolutions are folded already, for the graph's are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from onnx import NodeProto, numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional as F

Value = fx.Node | Tensor
Attributes = Mapping[str, Any]


class NotTranslatable(Exception):
    """The graph has an operator, or a use of one, that is not known here; the text names it."""


def to_torch(data: bytes) -> fx.GraphModule:
    """The module: uint8 [n, height, width, 3] -> logits [n, classes], in evaluation mode, float32.

    Raises NotTranslatable.
    """
    model = onnx.load_from_string(data)
    graph, root = fx.Graph(), nn.Module()
    known: dict[str, Value] = {}
    for number, tensor in enumerate(model.graph.initializer):
        array = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        known[tensor.name] = array
        if array.is_floating_point():
            root.register_buffer(f"weight{number}", array)
            known[tensor.name] = graph.get_attr(f"weight{number}")
    known[model.graph.input[0].name] = graph.placeholder("pixels")
    constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    for node in model.graph.node:
        _translate(node, graph, known, constants)
    graph.output(known[model.graph.output[0].name])
    return fx.GraphModule(root, graph).eval()


def in_bfloat16(module: fx.GraphModule) -> fx.GraphModule:
    """The same module, computing in bfloat16 from the pixels on; its logits are bfloat16."""
    for node in module.graph.nodes:
        if node.target is torch.Tensor.to:
            node.kwargs = {"dtype": torch.bfloat16}
    module.recompile()
    return module.to(torch.bfloat16)


def _translate(
    node: NodeProto, graph: fx.Graph, known: dict[str, Value], constants: Mapping[str, Tensor]
) -> None:
    if node.op_type not in _OPERATORS:
        raise NotTranslatable(f"operator {node.op_type}")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise NotTranslatable(f"{node.op_type} with automatic padding")
    inputs = [known[name] for name in node.input if name]
    plain = [constants.get(name) for name in node.input if name]
    function, arguments, options = _OPERATORS[node.op_type](attributes, inputs, plain)
    known[node.output[0]] = graph.call_function(function, tuple(arguments), options)


Call = tuple[Callable[..., Any], list[Any], dict[str, Any]]


def _pads(attributes: Attributes) -> list[int]:
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if pads[:2] != pads[2:]:
        raise NotTranslatable("padding that differs by side")
    return pads[:2]


def _conv(a: Attributes, inputs: list[Value], _plain: list[Tensor | None]) -> Call:
    options = {
        "stride": list(a.get("strides", [1, 1])),
        "padding": _pads(a),
        "dilation": list(a.get("dilations", [1, 1])),
        "groups": a.get("group", 1),
    }
    return F.conv2d, inputs, options


def _max_pool(a: Attributes, inputs: list[Value], _plain: list[Tensor | None]) -> Call:
    options = {"kernel_size": list(a["kernel_shape"]), "stride": list(a["strides"]), "padding": _pads(a)}
    return F.max_pool2d, inputs, options


def _mean(a: Attributes, inputs: list[Value], plain: list[Tensor | None]) -> Call:
    axes = a.get("axes") or (plain[1].tolist() if len(plain) > 1 and plain[1] is not None else None)
    if axes is None:
        raise NotTranslatable("a mean over axes that are computed")
    return torch.mean, inputs[:1], {"dim": list(axes), "keepdim": bool(a.get("keepdims", 1))}


def _gemm(a: Attributes, inputs: list[Value], _plain: list[Tensor | None]) -> Call:
    if (a.get("alpha", 1.0), a.get("beta", 1.0), a.get("transA", 0), a.get("transB", 0)) != (1.0, 1.0, 0, 1):
        raise NotTranslatable("a Gemm that is no linear layer")
    return F.linear, inputs, {}


def _cast(a: Attributes, inputs: list[Value], _plain: list[Tensor | None]) -> Call:
    kinds = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}
    if a["to"] not in kinds:
        raise NotTranslatable("a cast to another type than float")
    return torch.Tensor.to, inputs, {"dtype": kinds[a["to"]]}


def _simple(function: Callable[..., Any]) -> Callable[..., Call]:
    return lambda _a, inputs, _plain: (function, inputs, {})


_OPERATORS: dict[str, Callable[[Attributes, list[Value], list[Tensor | None]], Call]] = {
    "Add": _simple(torch.add),
    "Cast": _cast,
    "Conv": _conv,
    "Div": _simple(torch.div),
    "Flatten": lambda a, inputs, _plain: (torch.flatten, [*inputs, a.get("axis", 1)], {}),
    "Gemm": _gemm,
    "Identity": lambda _a, inputs, _plain: (torch.Tensor.contiguous, inputs, {}),
    "MatMul": _simple(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _simple(torch.mul),
    "ReduceMean": _mean,
    "Relu": _simple(torch.relu),
    "Sub": _simple(torch.sub),
    "Transpose": lambda a, inputs, _plain: (torch.permute, [*inputs, list(a["perm"])], {}),
}
