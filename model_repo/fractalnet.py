"""FractalNet (Larsson, Maire, Shakhnarovich, ICLR 2017): the network and its subnetworks.

Knows the expansion rule, the joins and which subnetworks (columns, joined prefixes, drop-path samples) exist.
Must not know anything of data, training or serving.

The rule (paper, section 2): f_1(z) = conv(z); f_{C+1}(z) = (f_C ∘ f_C)(z) ⊕ conv(z), where ⊕ is the element-wise
mean and neighbouring joins collapse into one. Unrolled, a block of C columns has R = 2^(C-1) rows; column k
(1 = shallowest) has a layer that ends at every row divisible by 2^(C-k), and row r ends in a join of all columns
that have a layer ending there. Every layer of column k reads the join at the row where column k's last layer ended.

A *subnetwork* says which inputs every join keeps. Joins are evaluated on demand, from the last row backwards, so
nothing is computed for what is dropped, and a dropped input counts as absent from the mean, not as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Join = tuple[int, ...]
"""The columns (1 = shallowest) that a join keeps, ascending."""

BlockPaths = tuple[Join, ...]
"""The join of every row 1…R of one block, at index row - 1."""

Subnetwork = tuple[BlockPaths, ...]
"""One BlockPaths per block."""

LayerFactory = Callable[[int, int, float], nn.Module]
"""(input channels, output channels, dropout probability) -> a module that keeps height and width."""


@dataclass(frozen=True)
class FractalConfig:
    """The one description of a net; a checkpoint stores it.

    Attributes:
        columns: C ≥ 1, columns per block.
        channels: output channels of every block; its length is B, the number of blocks.
        classes: number of classes, ≥ 2.
        input_size: height and width of the square input in pixels; every block halves it (rounded down).
        input_channels: 3 for RGB.
        dropout: dropout probability inside the layers of every block; empty means none.
    """

    columns: int
    channels: tuple[int, ...]
    classes: int
    input_size: int = 32
    input_channels: int = 3
    dropout: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if the description fits no network."""
        if self.columns < 1 or not self.channels or min(self.channels) < 1 or self.classes < 2:
            raise ValueError(f"a net needs columns >= 1, channels >= 1 per block and classes >= 2: {self}")
        if self.dropout and len(self.dropout) != self.blocks:
            raise ValueError(f"{len(self.dropout)} dropout probabilities for {self.blocks} blocks")
        if self.input_size >> self.blocks < 1:
            raise ValueError(f"{self.blocks} blocks of pooling leave nothing of {self.input_size} pixels")

    @property
    def blocks(self) -> int:
        """B, the number of blocks."""
        return len(self.channels)

    @property
    def rows(self) -> int:
        """Rows of one block: the depth of its deepest column, 2^(C-1)."""
        return 1 << (self.columns - 1)

    @property
    def depth(self) -> int:
        """Layers on the longest path, without the head: B·2^(C-1) (section 2)."""
        return self.blocks * self.rows

    def to_dict(self) -> dict[str, Any]:
        """The configuration in plain types, for a checkpoint."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FractalConfig:
        """The inverse of `to_dict`. Raises TypeError for unknown keys, ValueError for impossible nets."""
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)


def layer_span(config: FractalConfig, column: int) -> int:
    """Rows that one layer of `column` spans: 2^(C-k)."""
    return 1 << (config.columns - column)


def join_members(config: FractalConfig, row: int) -> Join:
    """All columns that have a layer ending at `row` (1…R)."""
    return tuple(k for k in range(1, config.columns + 1) if row % layer_span(config, k) == 0)


def column(config: FractalConfig, k: int) -> Subnetwork:
    """Column k alone: a plain network of depth B·2^(k-1).

    Rows at which column k has no layer keep all their members; no path asks for them.
    """
    _check_column(config, k)
    return _every_block(config, lambda members: (k,) if k in members else members)


def joined(config: FractalConfig, k: int) -> Subnetwork:
    """Columns 1…k together, the rest dropped: the smaller fractal f_k inside the net."""
    _check_column(config, k)
    return _every_block(config, lambda members: tuple(m for m in members if m <= k) or members)


def full(config: FractalConfig) -> Subnetwork:
    """The whole network, every join complete (= joined C)."""
    return joined(config, config.columns)


def _check_column(config: FractalConfig, k: int) -> None:
    if not 1 <= k <= config.columns:
        raise ValueError(f"no column {k}: the net has columns 1 to {config.columns}")


def _every_block(config: FractalConfig, keep: Callable[[Join], Join]) -> Subnetwork:
    block = tuple(keep(join_members(config, row)) for row in range(1, config.rows + 1))
    return (block,) * config.blocks


def stages(config: FractalConfig) -> dict[str, Subnetwork]:
    """Every stage that a net has, by its name: column1 … columnC, joined2 … joined(C-1), full."""
    named = {f"column{k}": column(config, k) for k in range(1, config.columns + 1)}
    named |= {f"joined{k}": joined(config, k) for k in range(2, config.columns)}
    if config.columns > 1:
        named["full"] = full(config)
    return named


def stage_depth(config: FractalConfig, name: str) -> int:
    """Layers on the longest path of the stage called `name`, without the head."""
    if name == "full":
        return config.depth
    k = int(name.removeprefix("column").removeprefix("joined"))
    return config.blocks * (1 << (k - 1))


class ConvLayer(nn.Module):
    """3x3 convolution → (dropout) → batch norm → ReLU (section 3.3): the layer of the paper's nets.

    The convolution has no bias, since batch norm has one. Weights are Caffe's Xavier (uniform, fan-in only), as the
    authors used.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        xavier_fan_in(self.conv.weight)

    def forward(self, z: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h, w]."""
        return F.relu(self.norm(self.dropout(self.conv(z))))


def xavier_fan_in(weight: Tensor) -> None:
    """Fill in place: uniform in ±sqrt(3 / fan-in), Caffe's reading of Xavier."""
    bound = (3.0 / weight[0].numel()) ** 0.5
    nn.init.uniform_(weight, -bound, bound)


class FractalBlock(nn.Module):
    """One block f_C, its 2x2 max-pool included: every column is pooled, then the join spans them all."""

    def __init__(self, config: FractalConfig, index: int, layer: LayerFactory) -> None:
        super().__init__()
        inputs = config.channels[index - 1] if index else config.input_channels
        outputs = config.channels[index]
        dropout = config.dropout[index] if config.dropout else 0.0
        self.rows = config.rows
        self.spans = {k: layer_span(config, k) for k in range(1, config.columns + 1)}
        self.layers = nn.ModuleDict()
        for k, span in self.spans.items():
            for row in range(span, self.rows + 1, span):
                self.layers[_layer_key(k, row)] = layer(inputs if row == span else outputs, outputs, dropout)

    def forward(self, z: Tensor, paths: BlockPaths) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h // 2, w // 2], along `paths` only."""
        values: dict[int, Tensor] = {0: z}
        for row in demanded_rows(self.spans, paths):
            inputs = [self.layers[_layer_key(k, row)](values[row - self.spans[k]]) for k in paths[row - 1]]
            if row == self.rows:
                inputs = [F.max_pool2d(value, 2) for value in inputs]
            values[row] = join(inputs)
        return values[self.rows]


def demanded_rows(spans: dict[int, int], paths: BlockPaths) -> list[int]:
    """The rows whose joins the last row needs, directly or not, in ascending order."""
    needed = {len(paths)}
    for row in range(len(paths), 0, -1):
        if row in needed:
            needed |= {row - spans[k] for k in paths[row - 1]}
    return sorted(needed - {0})


def join(inputs: Sequence[Tensor]) -> Tensor:
    """Element-wise mean of the active inputs (section 2); one input passes unchanged."""
    total = inputs[0]
    for value in inputs[1:]:
        total = total + value
    return total / len(inputs) if len(inputs) > 1 else total


def _layer_key(k: int, row: int) -> str:
    return f"column{k}_row{row}"


class FractalNet(nn.Module):
    """B fractal blocks and one linear head, shared by the full network and every subnetwork.

    Args:
        config: the description of the net.
        layer: what stands where the paper has conv → batch norm → ReLU; any module that keeps height and width.
    """

    def __init__(self, config: FractalConfig, layer: LayerFactory = ConvLayer) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(FractalBlock(config, b, layer) for b in range(config.blocks))
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
        z = images
        for block, paths in zip(self.blocks, subnetwork or self._full, strict=True):
            z = block(z, paths)
        return self.head(z.mean((2, 3)))  # type: ignore[no-any-return]

    def layers_of(self, subnetwork: Subnetwork) -> Iterator[nn.Module]:
        """The layers that a subnetwork computes, in the order of computation."""
        for block, paths in zip(self.blocks, subnetwork, strict=True):
            assert isinstance(block, FractalBlock)
            for row in demanded_rows(block.spans, paths):
                for k in paths[row - 1]:
                    yield block.layers[_layer_key(k, row)]


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
