"""The other nets of the paper: thin columns, mixed kernels, stems, plain and residual nets, other layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from model_repo.export import TrainedStage, export_stage
from model_repo.fractalnet import FractalConfig, FractalNet, column, cost, full, joined, stages
from model_repo.layers import SeparableLayer
from model_repo.subnetworks import SHORTCUT, Subnetwork, survivals

WIDE = (64, 128, 256, 512, 512)
FORTY = FractalConfig(
    4,
    (128, 256, 512, 1024, 1024),
    100,
    column_divisors=(1, 2, 4, 8),
    pointwise=True,
)


def on_paper(config: FractalConfig) -> FractalNet:
    """The net without memory for its weights."""
    with torch.device("meta"):
        return FractalNet(config)


def parameters(module: nn.Module, kind: type[nn.Module] = nn.Module) -> int:
    if kind is nn.Module:
        return sum(p.numel() for p in module.parameters())
    return sum(p.numel() for m in module.modules() if isinstance(m, kind) for p in m.parameters())


def small(**options: object) -> FractalNet:
    torch.manual_seed(0)
    return FractalNet(FractalConfig(3, (8, 16), 3, 8, **options)).eval()  # type: ignore[arg-type]


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# --- counts -------------------------------------------------------------------------------------------------------


def test_fractalnet40_has_the_papers_parameter_count() -> None:
    net = on_paper(FORTY)
    assert parameters(net) == 22_925_108
    assert parameters(net) - parameters(net, nn.BatchNorm2d) == 22_901_556


def test_fractalnet20_widened_between_blocks_has_the_printed_parameter_count() -> None:
    assert parameters(on_paper(FractalConfig(3, WIDE, 100, widening=True))) == 38_589_476


def test_fractalnet34_has_its_parameter_count_and_averages_seven_by_seven_positions() -> None:
    config = FractalConfig(4, (128, 256, 512, 1024), 1000, 224, stem="imagenet", last_pool=False)
    net = on_paper(config)
    assert parameters(net) == 164_031_016
    sizes: list[torch.Size] = []
    net.blocks[-1].register_forward_hook(lambda _m, _i, output: sizes.append(output.shape))
    net(torch.zeros(1, 3, 224, 224, device="meta"), column(config, 1))
    assert sizes == [(1, 1024, 7, 7)]


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 6])
def test_a_plain_net_is_the_deepest_column_and_nothing_else(columns: int) -> None:
    channels = (16, 32, 64, 128, 128)
    plain = on_paper(FractalConfig(columns, channels, 100, family="plain"))
    convolutions = [m for m in plain.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == plain.config.depth == 5 * 2 ** (columns - 1)
    fractal = on_paper(FractalConfig(columns, channels, 100))
    assert cost(plain, full(plain.config)) == cost(fractal, column(fractal.config, columns))
    assert parameters(plain) == cost(fractal, column(fractal.config, columns)).parameters


def test_a_plain_net_computes_what_the_column_of_a_fractal_computes() -> None:
    fractal, plain = small(), small(family="plain")
    plain.load_state_dict(fractal.state_dict(), strict=False)
    torch.testing.assert_close(plain(IMAGES), fractal(IMAGES, column(fractal.config, 3)))


# --- thin columns ---------------------------------------------------------------------------------------------------


def test_thin_columns_are_widened_before_every_join_they_share_with_wider_ones() -> None:
    net = small(column_divisors=(1, 2, 4))
    block = net.blocks[1]
    assert {key: (m.in_channels, m.out_channels) for key, m in block.projections.items()} == {
        "column2_row4": (8, 16),
        "column3_row2": (4, 8),
        "column3_row4": (4, 16),
    }
    assert all(m.bias is None and m.kernel_size == (1, 1) for m in block.projections.values())
    z = torch.randn(1, 8, 4, 4)
    one, two = block.layers["column3_row1"], block.layers["column3_row2"]
    three, four = block.layers["column3_row3"], block.layers["column3_row4"]
    pool, widen = nn.functional.max_pool2d, block.projections
    alone = widen["column3_row4"](pool(four(three(widen["column3_row2"](two(one(z))))), 2))
    torch.testing.assert_close(block(z, column(net.config, 3)[1]), alone)


def test_a_stage_of_thin_columns_counts_the_projections_it_passes() -> None:
    net = small(column_divisors=(1, 2, 4))
    block = net.blocks[1]
    passed = list(block.layers_on(column(net.config, 2)[1]))
    assert passed == [
        block.layers["column2_row2"],
        block.layers["column2_row4"],
        block.projections["column2_row4"],
    ]


def test_mixed_kernels_are_1x1_where_a_deep_column_reads_a_wide_signal() -> None:
    block = on_paper(FORTY).blocks[1]
    kernels = {key: layer.conv.kernel_size[0] for key, layer in block.layers.items()}
    deepest = [kernels[f"column4_row{row}"] for row in range(1, 9)]
    assert deepest == [1, 3, 1, 3, 1, 3, 1, 3]
    assert kernels["column1_row8"] == 3
    assert {kernels["column2_row4"], kernels["column2_row8"], kernels["column3_row2"]} == {1}


# --- residual nets --------------------------------------------------------------------------------------------------


def test_a_residual_unit_adds_its_input_to_two_layers_and_rectifies_the_sum() -> None:
    net = small(family="residual")
    block = net.blocks[0]
    z = torch.randn(2, 3, 8, 8)
    rows = [block.layers[f"row{r}"] for r in range(1, 5)]
    first = torch.relu(block.shortcut(z) + rows[1](rows[0](z)))
    second = torch.relu(first + rows[3](rows[2](first)))
    torch.testing.assert_close(block(z, full(net.config)[0]), nn.functional.max_pool2d(second, 2))
    assert (rows[1](rows[0](z)) < 0).any()  # the second layer ends in no ReLU of its own


def without_branch(net: FractalNet, block: int, unit: int) -> Subnetwork:
    paths = [list(p) for p in full(net.config)]
    paths[block][2 * unit + 1] = (SHORTCUT,)
    return tuple(tuple(p) for p in paths)


def test_a_dropped_unit_passes_its_input_and_computes_nothing() -> None:
    net = small(family="residual")
    dropped = without_branch(net, 1, 1)
    ran: list[str] = []
    for name, layer in net.blocks[1].layers.items():
        layer.register_forward_hook(lambda *_args, name=name: ran.append(name))
    net(IMAGES, dropped)
    assert ran == ["row1", "row2"]


def test_survival_falls_linearly_and_scales_branches_in_evaluation_only() -> None:
    config = FractalConfig(3, (8, 16), 3, 8, family="residual", survival=0.5)
    assert survivals(config) == [[0.875, 0.75], [0.625, 0.5]]
    net = FractalNet(config)
    block = net.blocks[1]
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eval()
    z = torch.randn(2, 8, 4, 4)
    branch = block.layers["row2"](block.layers["row1"](z))
    paths = ((2 + 1,), (SHORTCUT, 3), (3,), (SHORTCUT,))
    pool = nn.functional.max_pool2d
    torch.testing.assert_close(block(z, paths), pool(torch.relu(block.shortcut(z) + branch), 2))
    block.eval()
    torch.testing.assert_close(block(z, paths), pool(torch.relu(block.shortcut(z) + 0.625 * branch), 2))


@pytest.mark.parametrize("family", ["plain", "residual"])
def test_a_net_of_one_column_has_one_stage(family: str) -> None:
    net = small(family=family)
    assert list(stages(net.config)) == ["full"]
    with pytest.raises(ValueError, match="no subnetwork but itself"):
        joined(net.config, 1)


# --- other options --------------------------------------------------------------------------------------------------


def test_one_channelwise_dropout_a_block_stands_behind_its_last_join() -> None:
    net = small(dropout=(0.0, 0.5), dropout_per="block").train()
    assert net.blocks[0].dropout is None
    assert not any(isinstance(m, nn.Dropout) for m in net.modules())
    z = torch.rand(4, 8, 4, 4)
    out = net.blocks[1](z, full(net.config)[1])
    whole = [bool((channel == 0).all()) for image in out for channel in image]
    assert 0.2 < sum(whole) / len(whole) < 0.9


def test_the_layer_is_chosen_by_name() -> None:
    net = small(layer="separable")
    assert all(isinstance(m, SeparableLayer) for b in net.blocks for m in b.layers.values())
    assert parameters(net) < parameters(small()) / 4
    with pytest.raises(ValueError, match="no layer is called"):
        small(layer="nosuch")


@pytest.mark.parametrize(
    "options",
    [
        {"column_divisors": (1, 2, 4), "pointwise": True},
        {"family": "plain"},
        {"family": "residual", "survival": 0.5},
        {"layer": "separable"},
        {"widening": True, "dropout": (0.1, 0.2), "dropout_per": "block"},
        {"last_pool": False},
    ],
)
def test_every_kind_of_net_becomes_a_graph_that_answers_as_torch_does(options: dict[str, object]) -> None:
    net = small(**options)
    name, subnetwork = list(stages(net.config).items())[-1]
    statistics = {n: torch.rand(b.shape) + 0.5 for n, b in net.named_buffers() if n.endswith(("mean", "var"))}
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    stage = TrainedStage(name, net, subnetwork, statistics, mean, std)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    graph = export_stage(stage, pixels)
    assert graph.parity < 1e-3
    assert b"BatchNormalization" not in graph.onnx


def test_a_config_of_before_these_options_is_still_read() -> None:
    old = {
        "columns": 3,
        "channels": [8, 16],
        "classes": 3,
        "input_size": 8,
        "input_channels": 3,
        "dropout": [],
    }
    assert FractalConfig.from_dict(old) == FractalConfig(3, (8, 16), 3, 8)
    config = FractalConfig(3, (8, 16), 3, 8, column_divisors=(1, 2, 4), pointwise=True)
    assert FractalConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "options",
    [
        {"column_divisors": (1, 2)},
        {"column_divisors": (2, 1, 1)},
        {"column_divisors": (1, 3, 3)},
        {"family": "residual", "pointwise": True},
        {"family": "residual", "layer": "separable"},
        {"family": "nosuch"},
        {"survival": 0.5},
        {"pointwise": True, "layer": "separable"},
        {"stem": "imagenet"},
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each case has its own words
        small(**options)
