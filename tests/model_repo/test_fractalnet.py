"""The network of the paper: expansion rule, joins, subnetworks, counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from model_repo.fractalnet import (
    ConvLayer,
    FractalBlock,
    FractalConfig,
    FractalNet,
    column,
    cost,
    full,
    join,
    join_members,
    joined,
    stage_depth,
    stages,
)

SMALL = (16, 32, 64, 128, 128)


def net_of(columns: int, channels: tuple[int, ...] = (4, 6), classes: int = 3, size: int = 8) -> FractalNet:
    torch.manual_seed(0)
    return FractalNet(FractalConfig(columns, channels, classes, size)).eval()


@pytest.mark.parametrize(
    ("columns", "parameters"),
    [(1, 258_292), (2, 847_716), (3, 2_125_204), (4, 4_778_820), (5, 10_184_692), (6, 21_095_076)],
)
def test_the_small_nets_have_the_papers_parameter_counts(columns: int, parameters: int) -> None:
    net = FractalNet(FractalConfig(columns, SMALL, 100))
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(("classes", "parameters"), [(10, 33_724_618), (100, 33_770_788)])
def test_fractalnet20_has_its_parameter_count(classes: int, parameters: int) -> None:
    with torch.device("meta"):
        net = FractalNet(FractalConfig(3, (64, 128, 256, 512, 512), classes))
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(("columns", "millions"), [(1, 4.6), (2, 19.2), (3, 53.8), (4, 128.6)])
def test_multiply_adds_of_the_small_nets_are_those_measured(columns: int, millions: float) -> None:
    net = FractalNet(FractalConfig(columns, SMALL, 100))
    assert cost(net, full(net.config)).multiply_adds / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_stage_counts_only_its_own_parameters() -> None:
    net = net_of(2)
    alone = sum(p.numel() for b in net.blocks for p in b.layers["column1_row2"].parameters())
    head = sum(p.numel() for p in net.head.parameters())
    assert cost(net, column(net.config, 1)).parameters == alone + head
    assert cost(net, full(net.config)).parameters == sum(p.numel() for p in net.parameters())


def test_the_joins_of_a_four_column_block_are_those_of_the_drawing() -> None:
    config = FractalConfig(4, (8,), 10)
    members = {row: join_members(config, row) for row in range(1, 9)}
    assert members == {
        1: (4,), 2: (3, 4), 3: (4,), 4: (2, 3, 4), 5: (4,), 6: (3, 4), 7: (4,), 8: (1, 2, 3, 4),
    }  # fmt: skip
    assert [len(members[row]) for row in (2, 4, 6, 8)] == [2, 3, 2, 4]


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5])
def test_the_deepest_path_has_b_times_two_to_the_c_minus_one_layers(columns: int) -> None:
    config = FractalConfig(columns, (4, 4, 4), 10)
    net = FractalNet(config)
    assert config.depth == 3 * 2 ** (columns - 1)
    for k in range(1, columns + 1):
        layers = sum(1 for _ in net.layers_of(column(config, k)))
        assert layers == 3 * 2 ** (k - 1) == stage_depth(config, f"column{k}")


class Recursive(nn.Module):
    """The expansion rule as the paper writes it, f_{C+1} = (f_C ∘ f_C) ⊕ conv, on the layers of a block.

    Yields the inputs of the block's last join instead of their mean: neighbouring joins collapse into one.
    """

    def __init__(self, block: FractalBlock, columns: int) -> None:
        super().__init__()
        self.block, self.columns = block, columns

    def branches(self, z: Tensor, first: int, top_row: int) -> list[Tensor]:
        """Outputs of the sub-fractal whose shallowest column is `first` and which ends at `top_row`."""
        conv = self.block.layers[f"column{first}_row{top_row}"]
        if first == self.columns:
            return [conv(z)]
        half = self.block.spans[first] // 2
        below = self.branches(z, first + 1, top_row - half)
        return [conv(z), *self.branches(torch.stack(below).mean(0), first + 1, top_row)]

    def forward(self, z: Tensor) -> Tensor:
        pooled = [nn.functional.max_pool2d(b, 2) for b in self.branches(z, 1, self.block.rows)]
        return torch.stack(pooled).mean(0)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_block_computes_the_papers_recursion(columns: int) -> None:
    net = net_of(columns, (5,))
    block = net.blocks[0]
    assert isinstance(block, FractalBlock)
    z = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(block(z, full(net.config)[0]), Recursive(block, columns)(z))


def test_every_column_is_pooled_before_the_join_that_spans_them() -> None:
    net = net_of(2, (4,))
    block, z = net.blocks[0], torch.randn(1, 3, 8, 8)
    shallow = block.layers["column1_row2"](z)
    deep = block.layers["column2_row2"](block.layers["column2_row1"](z))
    pool = nn.functional.max_pool2d
    got = block(z, full(net.config)[0])
    torch.testing.assert_close(got, (pool(shallow, 2) + pool(deep, 2)) / 2)
    assert not torch.allclose(got, pool((shallow + deep) / 2, 2))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_column_alone_is_a_plain_network(k: int) -> None:
    net = net_of(3)
    z = images = torch.randn(2, 3, 8, 8)
    for block in net.blocks:
        span = block.spans[k]
        for row in range(span, 5, span):
            z = block.layers[f"column{k}_row{row}"](z)
        z = nn.functional.max_pool2d(z, 2)
    torch.testing.assert_close(net(images, column(net.config, k)), net.head(z.mean((2, 3))))


def test_joined_k_is_the_smaller_fractal_with_the_same_weights() -> None:
    big = net_of(3)
    small = FractalNet(FractalConfig(2, (4, 6), 3, 8)).eval()
    for own, other in zip(small.blocks, big.blocks, strict=True):
        for key in own.layers:
            k, row = key.split("_row")
            own.layers[key].load_state_dict(other.layers[f"{k}_row{int(row) * 2}"].state_dict())
    small.head.load_state_dict(big.head.state_dict())
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(big(images, joined(big.config, 2)), small(images))


def test_an_absent_input_is_no_zero_in_the_mean() -> None:
    values = [torch.full((1, 1), 2.0), torch.full((1, 1), 4.0)]
    assert join(values).item() == 3.0
    assert join(values[:1]).item() == 2.0


def test_nothing_is_computed_for_dropped_paths() -> None:
    net = net_of(4, (4,))
    ran: list[str] = []
    for name, layer in net.blocks[0].layers.items():
        layer.register_forward_hook(lambda *_args, name=name: ran.append(name))
    net(torch.randn(1, 3, 8, 8), column(net.config, 2))
    assert ran == ["column2_row4", "column2_row8"]
    ran.clear()
    net(torch.randn(1, 3, 8, 8))
    assert sorted(ran) == sorted(net.blocks[0].layers)


def test_gradients_reach_every_parameter() -> None:
    net = net_of(3).train()
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_custom_module_may_stand_in_place_of_the_convolution() -> None:
    class Linear1x1(nn.Module):
        def __init__(self, inputs: int, outputs: int, _dropout: float) -> None:
            super().__init__()
            self.map = nn.Conv2d(inputs, outputs, 1)

        def forward(self, z: Tensor) -> Tensor:
            return torch.tanh(self.map(z))

    net = FractalNet(FractalConfig(3, (4, 6), 3, 8), layer=Linear1x1)
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    assert not any(isinstance(m, ConvLayer) for m in net.modules())


def test_dropout_stands_between_convolution_and_norm_in_its_block() -> None:
    net = FractalNet(FractalConfig(1, (4, 4), 3, 8, dropout=(0.0, 0.3)))
    first, second = (b.layers["column1_row1"] for b in net.blocks)
    assert isinstance(first.dropout, nn.Identity)
    assert [type(m).__name__ for m in second.children()] == ["Conv2d", "Dropout", "BatchNorm2d"]
    assert second.dropout.p == 0.3


def test_the_stages_of_a_net_are_columns_joined_prefixes_and_full() -> None:
    assert list(stages(FractalConfig(3, (4,), 2))) == ["column1", "column2", "column3", "joined2", "full"]
    assert list(stages(FractalConfig(1, (4,), 2))) == ["column1"]


def test_a_config_survives_the_checkpoint() -> None:
    config = FractalConfig(3, (4, 8), 10, 16, dropout=(0.0, 0.1))
    assert FractalConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "values",
    [
        {"columns": 0, "channels": (4,), "classes": 2},
        {"columns": 1, "channels": (), "classes": 2},
        {"columns": 1, "channels": (4,), "classes": 1},
        {"columns": 1, "channels": (4,) * 4, "classes": 2, "input_size": 8},
        {"columns": 1, "channels": (4,), "classes": 2, "dropout": (0.1, 0.2)},
    ],
)
def test_an_impossible_net_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each case has its own words
        FractalConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, 4])
def test_a_column_that_is_not_there_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="no column"):
        column(FractalConfig(3, (4,), 2), k)
