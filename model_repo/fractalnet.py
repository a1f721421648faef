"""FractalNet (Larsson, Maire, Shakhnarovich, ICLR 2017): the network, evaluated along any of its subnetworks.

Knows blocks and joins; the expansion rule and the subnetworks are in `subnetworks`, single layers in `layers`. Must
not know anything of data, training or serving.

A *subnetwork* says which inputs every join keeps. Joins are evaluated on demand, from the last row backwards, so
nothing is computed for what is dropped, and a dropped input counts as absent from the mean, not as zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_repo.layers import LAYERS, ConvLayer, ImageNetStem, LayerFactory, projection, xavier_fan_in
from model_repo.residual import ResidualBlock
from model_repo.subnetworks import (
    BlockPaths,
    FractalConfig,
    Join,
    Subnetwork,
    column,
    demanded_rows,
    full,
    join_members,
    joined,
    layer_span,
    stage_depth,
    stages,
)

__all__ = [
    "BlockPaths",
    "ConvLayer",
    "Cost",
    "FractalBlock",
    "FractalConfig",
    "FractalNet",
    "Join",
    "LayerFactory",
    "ResidualBlock",
    "Subnetwork",
    "column",
    "cost",
    "demanded_rows",
    "full",
    "join",
    "join_members",
    "joined",
    "layer_span",
    "stage_depth",
    "stages",
]


class FractalBlock(nn.Module):
    """One block f_C, its 2x2 max-pool included: every column is pooled, then the join spans them all.

    Where columns differ in width a join is as wide as its widest member, and thinner members are widened before it,
    after the pool if there is one, where that is cheaper.
    """

    def __init__(self, config: FractalConfig, index: int, layer: LayerFactory) -> None:
        super().__init__()
        self.rows = config.rows
        self.pools = config.last_pool or index < config.blocks - 1
        columns = [config.columns] if config.family == "plain" else range(1, config.columns + 1)
        self.spans = {k: layer_span(config, k) for k in columns}
        outputs = config.channels[index]
        inputs = block_inputs(config, index)
        self.widen = (
            ConvLayer(inputs, outputs, kernel=1) if config.widening and index and inputs != outputs else None
        )
        dropout = config.dropout[index] if config.dropout else 0.0
        self.dropout = nn.Dropout2d(dropout) if dropout and config.dropout_per == "block" else None
        per_layer = 0.0 if self.dropout else dropout
        self._widths = {
            row: max(config.width(index, k) for k in join_members(config, row))
            for row in range(1, self.rows + 1)
        } | {0: outputs if self.widen else inputs}
        self.layers, self.projections = nn.ModuleDict(), nn.ModuleDict()
        for k, span in self.spans.items():
            width = config.width(index, k)
            for row in range(span, self.rows + 1, span):
                make = _PointwiseLayer if _is_pointwise(config, k, row - span) else layer
                self.layers[_layer_key(k, row)] = make(self._widths[row - span], width, per_layer)
                if width != self._widths[row]:
                    self.projections[_layer_key(k, row)] = projection(width, self._widths[row])

    def forward(self, z: Tensor, paths: BlockPaths) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h // 2, w // 2], along `paths` only; without a pool h, w stay."""
        values: dict[int, Tensor] = {0: self.widen(z) if self.widen else z}
        for row in demanded_rows(self.spans, paths):
            values[row] = join([self._branch(k, row, values[row - self.spans[k]]) for k in paths[row - 1]])
        last = values[self.rows]
        return self.dropout(last) if self.dropout else last

    def _branch(self, k: int, row: int, z: Tensor) -> Tensor:
        key = _layer_key(k, row)
        value: Tensor = self.layers[key](z)
        if row == self.rows and self.pools:
            value = F.max_pool2d(value, 2)
        return self.projections[key](value) if key in self.projections else value

    def layers_on(self, paths: BlockPaths) -> Iterator[nn.Module]:
        """The layers and projections that `paths` computes, in the order of computation."""
        if self.widen:
            yield self.widen
        for row in demanded_rows(self.spans, paths):
            for key in (_layer_key(k, row) for k in paths[row - 1]):
                yield self.layers[key]
                if key in self.projections:
                    yield self.projections[key]


class _PointwiseLayer(ConvLayer):
    """A ConvLayer whose convolution is 1x1."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__(inputs, outputs, dropout, kernel=1)


def _is_pointwise(config: FractalConfig, k: int, read_row: int) -> bool:
    """Whether column k's layer that reads `read_row` (0 is the block's input) is 1x1."""
    reads_join = read_row == 0 or len(join_members(config, read_row)) > 1
    return config.pointwise and k > 1 and reads_join


def block_inputs(config: FractalConfig, index: int) -> int:
    """Channels that the 0-based block `index` reads."""
    if index:
        return config.channels[index - 1]
    return ImageNetStem.outputs if config.stem == "imagenet" else config.input_channels


def join(inputs: Sequence[Tensor]) -> Tensor:
    """Element-wise mean of the active inputs (section 2); one input passes unchanged."""
    total = inputs[0]
    for value in inputs[1:]:
        total = total + value
    return total / len(inputs) if len(inputs) > 1 else total


def _layer_key(k: int, row: int) -> str:
    return f"column{k}_row{row}"


class FractalNet(nn.Module):
    """B blocks and one linear head, shared by the full network and every subnetwork.

    Args:
        config: the description of the net.
        layer: what stands where the paper has conv → batch norm → ReLU; any module that keeps height and width.
            None takes the one that `config.layer` names.

    Raises:
        ValueError: no layer is called `config.layer`.
    """

    def __init__(self, config: FractalConfig, layer: LayerFactory | None = None) -> None:
        super().__init__()
        self.config = config
        if config.layer not in LAYERS:
            raise ValueError(f"no layer is called {config.layer!r}; there are: {', '.join(LAYERS)}")
        self.stem = ImageNetStem(config.input_channels) if config.stem == "imagenet" else None
        self.blocks = nn.ModuleList(
            _block(config, b, layer or LAYERS[config.layer]) for b in range(config.blocks)
        )
        self.head = nn.Linear(config.channels[-1], config.classes)
        xavier_fan_in(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._full = full(config)

    def forward(self, images: Tensor, subnetwork: Subnetwork | None = None) -> Tensor:
        """Logits of a subnetwork.

        Args:
            images: float [n, input channels, input size, input size], normalised.
            subnetwork: which inputs every join keeps; None means the full network.

        Returns:
            [n, classes] logits. What is left of height and width after the last pool is averaged.
        """
        z = self.stem(images) if self.stem else images
        for block, paths in zip(self.blocks, subnetwork or self._full, strict=True):
            z = block(z, paths)
        return self.head(z.mean((2, 3)))  # type: ignore[no-any-return]

    def layers_of(self, subnetwork: Subnetwork) -> Iterator[nn.Module]:
        """The layers that a subnetwork computes, in the order of computation."""
        if self.stem:
            yield self.stem.layer
        for block, paths in zip(self.blocks, subnetwork, strict=True):
            assert isinstance(block, (FractalBlock, ResidualBlock))
            yield from block.layers_on(paths)


def _block(config: FractalConfig, index: int, layer: LayerFactory) -> nn.Module:
    if config.family == "residual":
        return ResidualBlock(config, index, block_inputs(config, index))
    return FractalBlock(config, index, layer)


@dataclass(frozen=True)
class Cost:
    """What a stage costs: its own parameters (the head included) and multiply-adds of one image."""

    parameters: int
    multiply_adds: int


def cost(net: FractalNet, subnetwork: Subnetwork) -> Cost:
    """Count a subnetwork's parameters and the multiply-adds of its convolutions and linear maps for one image."""
    modules = [*net.layers_of(subnetwork), net.head]
    parameters = sum(p.numel() for module in modules for p in module.parameters())
    return Cost(parameters, _count_multiply_adds(net, subnetwork))


def _count_multiply_adds(net: FractalNet, subnetwork: Subnetwork) -> int:
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        positions = output[0, 0].numel() if output.dim() == 4 else 1
        total += weight.numel() * positions

    leaves = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    was_training = net.training
    try:
        net.eval()
        weight = net.head.weight
        shape = (1, net.config.input_channels, net.config.input_size, net.config.input_size)
        with torch.no_grad():
            net(torch.zeros(shape, device=weight.device, dtype=weight.dtype), subnetwork)
    finally:
        net.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
