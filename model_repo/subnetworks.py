"""The description of a net, and its subnetworks: columns, joined prefixes, every stage.

The rule (paper, section 2): f_1(z) = conv(z); f_{C+1}(z) = (f_C ∘ f_C)(z) ⊕ conv(z), where ⊕ is the element-wise
mean and neighbouring joins collapse into one. Unrolled, a block of C columns has R = 2^(C-1) rows; column k
(1 = shallowest) has a layer that ends at every row divisible by 2^(C-k), and row r ends in a join of all columns
that have a layer ending there. Every layer of column k reads the join at the row where column k's last layer ended.

Two other families share this frame, so that they are trained and measured by the same code: a *plain* net is the
deepest column and nothing else; a *residual* net is the deepest column with a shortcut past every two layers, which
counts as member 0 of the join at every even row. Knows numbers only; must not know torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Join = tuple[int, ...]
"""The columns (1 = shallowest) that a join keeps, ascending; 0 is a residual net's shortcut."""

BlockPaths = tuple[Join, ...]
"""The join of every row 1…R of one block, at index row - 1."""

Subnetwork = tuple[BlockPaths, ...]
"""One BlockPaths per block."""

Family = Literal["fractal", "plain", "residual"]
Stem = Literal["none", "imagenet"]
DropoutPer = Literal["layer", "block"]

SHORTCUT = 0
"""The member of a residual net's joins that passes its input on."""


@dataclass(frozen=True)
class FractalConfig:
    """The one description of a net; a checkpoint stores it.

    Attributes:
        columns: C ≥ 1, columns per block; plain and residual nets have only the deepest, of 2^(C-1) layers a block.
        channels: output channels of every block; its length is B, the number of blocks.
        classes: number of classes, ≥ 2.
        input_size: height and width of the square input in pixels; every block halves it (rounded down).
        input_channels: 3 for RGB.
        dropout: dropout probability of every block; empty means none.
        dropout_per: `layer`, inside every layer, as in the paper; `block`, once a block and whole channels at a time,
            behind its last join.
        family: `fractal`; `plain`, the deepest column alone; `residual`, the same with shortcuts (He et al., 2016).
        layer: what stands for conv, a key of model_repo.layers.LAYERS.
        column_divisors: what the channels of column k are divided by, at index k - 1, ascending from 1; empty means
            that all columns are equally wide. Linear 1x1 projections widen thin columns before a join.
        pointwise: layers of columns 2…C that read a join or the block's input are 1x1 convolutions, the others, which
            read a thin signal, and the shallowest column's 3x3 (the mix of FractalNet-40, as we read section 4.1).
        widening: a shared 1x1 layer widens the input of a block whose width differs from the last one's.
        stem: `imagenet` puts ResNet-34's first layer and pool, a fourth of height and width, in front.
        last_pool: whether the last block pools before the average over positions.
        survival: of a residual net: probability that its last unit is trained; falls linearly from 1 at the input
            (stochastic depth, Huang et al., 2016). In evaluation every unit's branch is scaled by its own.
    """

    columns: int
    channels: tuple[int, ...]
    classes: int
    input_size: int = 32
    input_channels: int = 3
    dropout: tuple[float, ...] = ()
    dropout_per: DropoutPer = "layer"
    family: Family = "fractal"
    layer: str = "conv"
    column_divisors: tuple[int, ...] = ()
    pointwise: bool = False
    widening: bool = False
    stem: Stem = "none"
    last_pool: bool = True
    survival: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError if the description fits no network."""
        if self.columns < 1 or not self.channels or min(self.channels) < 1 or self.classes < 2:
            raise ValueError(f"a net needs columns >= 1, channels >= 1 per block and classes >= 2: {self}")
        if self.dropout and len(self.dropout) != self.blocks:
            raise ValueError(f"{len(self.dropout)} dropout probabilities for {self.blocks} blocks")
        if self.input_size // self.reduction < 1:
            raise ValueError(f"{self.blocks} blocks of pooling leave nothing of {self.input_size} pixels")
        _check_divisors(self)
        _check_family(self)

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
        """Layers on the longest path, without stem and head: B·2^(C-1) (section 2)."""
        return self.blocks * self.rows

    @property
    def reduction(self) -> int:
        """What stem and pools divide height and width by."""
        return (4 if self.stem == "imagenet" else 1) << (self.blocks - (not self.last_pool))

    def width(self, block: int, k: int) -> int:
        """Channels of column k's layers in the 0-based `block`."""
        return self.channels[block] // (self.column_divisors[k - 1] if self.column_divisors else 1)

    def to_dict(self) -> dict[str, Any]:
        """The configuration in plain types, for a checkpoint."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FractalConfig:
        """The inverse of `to_dict`. Raises TypeError for unknown keys, ValueError for impossible nets."""
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)


def _check_divisors(config: FractalConfig) -> None:
    divisors = config.column_divisors
    if not divisors:
        return
    if len(divisors) != config.columns or divisors[0] != 1 or list(divisors) != sorted(divisors):
        raise ValueError(f"column divisors must ascend from 1, one per column, not {divisors}")
    if any(c % d for c in config.channels for d in divisors):
        raise ValueError(f"column divisors {divisors} do not divide the channels {config.channels}")


def _check_family(config: FractalConfig) -> None:
    if config.family not in ("fractal", "plain", "residual"):
        raise ValueError(f"no family of nets is called {config.family!r}")
    if config.family == "residual" and config.columns < 2:
        raise ValueError("a residual net needs columns >= 2: a unit has two layers")
    if config.family != "fractal" and (config.column_divisors or config.pointwise):
        raise ValueError(f"a {config.family} net has one column: no divisors and no mix of kernels")
    if config.family == "residual" and (config.layer != "conv" or config.widening):
        raise ValueError("a residual net is made of plain convolutions and widens in its shortcuts")
    if not 0 < config.survival <= 1 or (config.survival < 1 and config.family != "residual"):
        raise ValueError("survival is a probability above 0, and below 1 for residual nets only")
    if config.pointwise and config.layer != "conv":
        raise ValueError("the mix of kernels is one of convolutions")


def layer_span(config: FractalConfig, column: int) -> int:
    """Rows that one layer of `column` spans: 2^(C-k); a shortcut spans two."""
    return 2 if column == SHORTCUT else 1 << (config.columns - column)


def join_members(config: FractalConfig, row: int) -> Join:
    """All columns that have a layer ending at `row` (1…R); a residual net's shortcut is 0."""
    if config.family == "plain":
        return (config.columns,)
    if config.family == "residual":
        return (SHORTCUT, config.columns) if row % 2 == 0 else (config.columns,)
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
    return _every_block(config, lambda members: members)


def _check_column(config: FractalConfig, k: int) -> None:
    if config.family != "fractal":
        raise ValueError(f"a {config.family} net has no subnetwork but itself")
    if not 1 <= k <= config.columns:
        raise ValueError(f"no column {k}: the net has columns 1 to {config.columns}")


def _every_block(config: FractalConfig, keep: Callable[[Join], Join]) -> Subnetwork:
    block = tuple(keep(join_members(config, row)) for row in range(1, config.rows + 1))
    return (block,) * config.blocks


def stages(config: FractalConfig) -> dict[str, Subnetwork]:
    """Every stage that a net has, by its name: column1 … columnC, joined2 … joined(C-1), full."""
    if config.family != "fractal":
        return {"full": full(config)}
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


def demanded_rows(spans: dict[int, int], paths: BlockPaths) -> list[int]:
    """The rows whose joins the last row of a block needs, directly or not, in ascending order."""
    needed = {len(paths)}
    for row in range(len(paths), 0, -1):
        if row in needed:
            needed |= {row - spans[k] for k in paths[row - 1]}
    return sorted(needed - {0})


def survivals(config: FractalConfig) -> list[list[float]]:
    """Of a residual net, per block and unit: the probability that the unit is trained (Huang et al., 2016)."""
    units = config.rows // 2
    total = config.blocks * units
    return [
        [1 - (b * units + u + 1) / total * (1 - config.survival) for u in range(units)]
        for b in range(config.blocks)
    ]
