"""Batch-norm statistics per stage."""

from __future__ import annotations

import numpy as np
import torch

from model_repo.fractalnet import FractalConfig, FractalNet, column, full
from training.evaluate import apply_statistics, channel_statistics, logits, norms_of, reestimate

CONFIG = FractalConfig(2, (4, 4), 3, 8)
IMAGES = torch.randn(600, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_a_stage_gets_the_statistics_of_its_own_activations() -> None:
    net = FractalNet(CONFIG)
    stage = column(CONFIG, 1)
    statistics = reestimate(net, stage, IMAGES)
    first = net.blocks[0].layers["column1_row2"]
    responses = first.conv(IMAGES)
    torch.testing.assert_close(
        statistics["blocks.0.layers.column1_row2.norm.running_mean"],
        responses.mean((0, 2, 3)),
        atol=0.02,
        rtol=0.02,
    )
    assert all("column1" in name for name in statistics)


def test_stages_differ_in_the_statistics_of_the_layers_they_share() -> None:
    net = FractalNet(CONFIG)
    alone, whole = (reestimate(net, s, IMAGES) for s in (column(CONFIG, 1), full(CONFIG)))
    name = "blocks.1.layers.column1_row2.norm.running_var"  # reads the join in the full net
    assert not torch.allclose(alone[name], whole[name], rtol=0.05)


def test_measuring_leaves_the_net_as_it_was() -> None:
    net = FractalNet(CONFIG).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    statistics = reestimate(net, full(CONFIG), IMAGES)
    logits(net, full(CONFIG), statistics, IMAGES)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert {n.momentum for n in norms_of(net, full(CONFIG)).values()} == {0.1}


def test_logits_are_those_of_the_net_in_evaluation_with_the_stages_statistics() -> None:
    net = FractalNet(CONFIG)
    stage = column(CONFIG, 2)
    statistics = reestimate(net, stage, IMAGES)
    got = logits(net, stage, statistics, IMAGES)
    net.eval()
    apply_statistics(net, statistics)
    torch.testing.assert_close(torch.from_numpy(got), net(IMAGES, stage), atol=1e-5, rtol=1e-4)


def test_channel_statistics_are_the_mean_and_deviation_of_pixels_scaled_to_one() -> None:
    images = np.random.default_rng(0).integers(0, 200, (1_234, 5, 5, 3), np.uint8)
    images[..., 1] = 7  # a constant channel still gets something to divide by
    mean, std = channel_statistics(images)
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, np.maximum(pixels.std(0), 1e-3), rtol=1e-6)
