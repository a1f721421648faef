"""An exported stage read back: its ONNX graph's weights -> the FractalNet they came from, along that stage's path.

A published model holds graphs only. Exported weights keep the names they had in the net, batch norm is folded into
them, and a stage's graph holds exactly the layers that the stage computes: so names and shapes tell the net and the
path. What they do not tell (an operation without weights) is caught by comparing the net's answers with the graph's: a
net that computes something else is refused. Must not know runtimes beside those two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_repo import export, half
from model_repo.fractalnet import (
    BlockPaths,
    ConvLayer,
    FractalConfig,
    FractalNet,
    Subnetwork,
    join_members,
    layer_span,
)

TOLERANCE = 2e-3
"""Largest difference of a probability between the net read back and its graph, both in fp32."""

Weights = Mapping[str, NDArray[np.generic]]

_LAYER = re.compile(
    r"net\.blocks\.(\d+)\.layers\.column(\d+)_row(\d+)\.(conv|pointwise\.conv|depthwise\.conv)\.weight"
)
_PROJECTION = re.compile(r"net\.blocks\.(\d+)\.projections\.column(\d+)_row(\d+)\.weight")


class NotAFractalNet(Exception):
    """The graph is no stage of a FractalNet that was exported here; the text says why in one line."""


class StoredStage(nn.Module):
    """A stage as it is served: uint8 [n, height, width, channels] -> float32 logits [n, classes].

    Normalisation and head compute in fp32 always, the blocks in the precision they are cast to.

    Attributes:
        net: without its head, batch norm folded.
        subnetwork: the stage's path.
        head: the linear head.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, net: FractalNet, subnetwork: Subnetwork, head: nn.Linear, scale: Tensor, shift: Tensor
    ) -> None:
        super().__init__()
        self.net, self.subnetwork, self.head = net, subnetwork, head
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise, run the blocks in their own precision, and the head in fp32."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift
        kind = next(self.net.parameters()).dtype
        features = self.net(images.to(kind, memory_format=torch.channels_last), self.subnetwork)
        return self.head(features.to(torch.float32))  # type: ignore[no-any-return]


def read(graph: bytes) -> StoredStage:
    """The net of an exported graph, in evaluation mode, fp32, on the CPU.

    Raises:
        NotAFractalNet: the weights are not those of one, or the net computes something else than the graph.
    """
    try:
        model = half.load(graph)
    except half.NotConvertible as error:
        raise NotAFractalNet(str(error)) from error
    size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    weights = half.weights_of(model)
    pools = sum(node.op_type == "MaxPool" for node in model.graph.node)
    try:
        stage = _rebuilt(weights, size, pools)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise NotAFractalNet(f"its weights are not a FractalNet's: {str(error).splitlines()[0]}") from error
    _compare(stage, graph, size)
    return stage


def _rebuilt(weights: Weights, size: int, pools: int) -> StoredStage:
    layers = {key: weights[name] for name in weights if (key := _place(_LAYER, name))}
    if not layers:
        raise ValueError("no layer bears the name of a column's")
    config, subnetwork = _described(weights, layers, size, pools)
    net = FractalNet(config).eval()
    head, net.head = net.head, nn.Identity()  # type: ignore[assignment] # what is left gives features
    for layer in (part for outer in net.layers_of(subnetwork) for part in outer.modules()):
        if isinstance(layer, ConvLayer):
            _fold(layer)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    known = {name.removeprefix("net."): value for name, value in tensors.items() if name.startswith("net.")}
    head.load_state_dict({part: known.pop(f"head.{part}") for part in ("weight", "bias")})
    unread = net.load_state_dict(known, strict=False).unexpected_keys
    if unread:
        raise ValueError(f"no place for {unread[0]}")
    return StoredStage(net, subnetwork, head, tensors["scale"], tensors["shift"])


def _fold(layer: ConvLayer) -> None:
    """Make room for the bias that batch norm has become."""
    conv = layer.conv
    kernel = conv.kernel_size[0]
    layer.conv = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        kernel,
        stride=conv.stride[0],
        padding=kernel // 2,
        groups=conv.groups,
    )
    layer.norm = nn.Identity()


def _place(pattern: re.Pattern[str], name: str) -> tuple[int, int, int] | None:
    """(Block, column, row) of a weight; of a separable layer, its second half stands for it."""
    match = pattern.fullmatch(name)
    if not match or name.endswith("depthwise.conv.weight"):
        return None
    return int(match[1]), int(match[2]), int(match[3])


def _described(
    weights: Weights, layers: Mapping[tuple[int, int, int], NDArray[Any]], size: int, pools: int
) -> tuple[FractalConfig, Subnetwork]:
    """The net and the path that these weights belong to."""
    blocks = 1 + max(block for block, _, _ in layers)
    columns = max(row for _, _, row in layers).bit_length()
    channels = tuple(_inputs(weights, layers, block + 1, columns) for block in range(blocks - 1))
    head = weights["net.head.weight"]
    stem = weights.get("net.stem.layer.conv.weight")
    ends = sum(row == 1 << (columns - 1) for _, _, row in layers)
    last = sum(block == blocks - 1 and row == 1 << (columns - 1) for block, _, row in layers)
    first = stem if stem is not None else layers[min(layers)]
    config = FractalConfig(
        columns=columns,
        channels=(*channels, head.shape[1]),
        classes=head.shape[0],
        input_size=size,
        input_channels=weights["scale"].size if stem is None else first.shape[1],
        layer="separable" if any(".depthwise." in name for name in weights) else "conv",
        column_divisors=_divisors(weights, layers, (*channels, head.shape[1]), columns),
        pointwise=any(values.shape[-1] == 1 for values in layers.values()) and not _separable(weights),
        widening=any(re.fullmatch(r"net\.blocks\.\d+\.widen\.conv\.weight", name) for name in weights),
        stem="none" if stem is None else "imagenet",
        last_pool=pools == ends + (stem is not None) or pools != ends - last + (stem is not None),
    )
    return config, tuple(_paths(config, layers, block) for block in range(blocks))


def _separable(weights: Weights) -> bool:
    return any(".depthwise." in name for name in weights)


def _inputs(
    weights: Weights, layers: Mapping[tuple[int, int, int], NDArray[Any]], block: int, columns: int
) -> int:
    """Channels that a block reads."""
    widen = weights.get(f"net.blocks.{block}.widen.conv.weight")
    if widen is not None:
        return int(widen.shape[1])
    first = next(key for key in sorted(layers) if key[0] == block and key[2] == 1 << (columns - key[1]))
    depthwise = weights.get(f"net.blocks.{block}.layers.column{first[1]}_row{first[2]}.depthwise.conv.weight")
    return int(layers[first].shape[1] if depthwise is None else depthwise.shape[0])


def _divisors(
    weights: Weights,
    layers: Mapping[tuple[int, int, int], NDArray[Any]],
    channels: tuple[int, ...],
    columns: int,
) -> tuple[int, ...]:
    """What each column is thinner by; a column that the stage lacks shows in the projections onto its joins."""
    found: dict[int, int] = {}
    for (block, column, _), values in layers.items():
        found[column] = channels[block] // values.shape[0]
    for name, values in weights.items():
        if key := _place(_PROJECTION, name):
            widest = min(k for k in range(1, columns + 1) if key[2] % (1 << (columns - k)) == 0)
            found.setdefault(widest, channels[key[0]] // values.shape[0])
    divisors = [1]
    for column in range(2, columns + 1):
        divisors.append(found.get(column, divisors[-1]))
    return tuple(divisors) if any(divisor > 1 for divisor in divisors) else ()


def _paths(
    config: FractalConfig, layers: Mapping[tuple[int, int, int], NDArray[Any]], block: int
) -> BlockPaths:
    """Of every join, the members whose layers the graph holds; all of them where no path asks."""
    rows = []
    for row in range(1, config.rows + 1):
        members = join_members(config, row)
        held = tuple(k for k in members if row % layer_span(config, k) == 0 and (block, k, row) in layers)
        rows.append(held or members)
    return tuple(rows)


@torch.no_grad()
def _compare(stage: StoredStage, graph: bytes, size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    ours = stage(torch.from_numpy(pixels)).softmax(1).numpy()
    difference = float(np.abs(ours - export.run(graph, pixels)).max())
    if not difference <= TOLERANCE:
        raise NotAFractalNet(f"the net of these weights differs from the graph by {difference:.3f}")
