"""Residual blocks: the point of comparison that the paper names, on the same frame of blocks, widths and pools.

A unit is He et al.'s (2016) basic one: conv → batch norm → ReLU → conv → batch norm, plus the unit's input, then ReLU.
Where the width changes the shortcut is a 1x1 convolution with batch norm (their option B). A subnetwork that drops a
unit's branch keeps its shortcut, which is stochastic depth (Huang et al., 2016). Must not know training.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from model_repo.layers import ConvLayer
from model_repo.subnetworks import (
    SHORTCUT,
    BlockPaths,
    FractalConfig,
    demanded_rows,
    layer_span,
    survivals,
)


class ResidualBlock(nn.Module):
    """One block of 2^(C-2) residual units, its 2x2 max-pool included.

    In evaluation each branch is scaled by its unit's survival probability; in training it is kept whole or dropped.
    """

    def __init__(self, config: FractalConfig, index: int, inputs: int) -> None:
        super().__init__()
        self.rows, self.column = config.rows, config.columns
        self.pools = config.last_pool or index < config.blocks - 1
        self.spans = {k: layer_span(config, k) for k in (SHORTCUT, self.column)}
        self.survivals = survivals(config)[index]
        outputs = config.channels[index]
        dropout = config.dropout[index] if config.dropout else 0.0
        self.dropout = nn.Dropout2d(dropout) if dropout and config.dropout_per == "block" else None
        per_layer = 0.0 if self.dropout else dropout
        self.layers = nn.ModuleDict(
            {
                f"row{row}": ConvLayer(inputs if row == 1 else outputs, outputs, per_layer, relu=row % 2 == 1)
                for row in range(1, self.rows + 1)
            }
        )
        self.shortcut = ConvLayer(inputs, outputs, kernel=1, relu=False) if inputs != outputs else None

    def forward(self, z: Tensor, paths: BlockPaths) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h // 2, w // 2], along `paths` only; without a pool h, w stay."""
        values: dict[int, Tensor] = {0: z}
        for row in demanded_rows(self.spans, paths):
            branches = [self._branch(k, row, values[row - self.spans[k]]) for k in paths[row - 1]]
            total = branches[0] if len(branches) == 1 else branches[0] + branches[1]
            values[row] = F.relu(total) if row % 2 == 0 else total
        last = F.max_pool2d(values[self.rows], 2) if self.pools else values[self.rows]
        return self.dropout(last) if self.dropout else last

    def _branch(self, k: int, row: int, z: Tensor) -> Tensor:
        if k == SHORTCUT:
            return self.shortcut(z) if self.shortcut and row == 2 else z
        value: Tensor = self.layers[f"row{row}"](z)
        survival = self.survivals[row // 2 - 1] if row % 2 == 0 else 1.0
        return value if self.training or survival == 1 else value * survival

    def layers_on(self, paths: BlockPaths) -> Iterator[nn.Module]:
        """The layers and shortcut convolutions that `paths` computes, in the order of computation."""
        for row in demanded_rows(self.spans, paths):
            for k in paths[row - 1]:
                if k != SHORTCUT:
                    yield self.layers[f"row{row}"]
                elif self.shortcut and row == 2:
                    yield self.shortcut
