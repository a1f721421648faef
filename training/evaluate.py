"""Measure stages: batch-norm statistics of each stage, then its logits.

Re-estimation is not optional: a joined mean has less variance than a lone path, so statistics mixed over subnetworks
fit none of them. Each stage gets its own, by cumulative averaging over training images with dropout off.
Knows nets and images; must not know recipes or the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_repo.fractalnet import FractalNet, Subnetwork
from training.augment import normalise
from training.parts import Part

Statistics = dict[str, Tensor]
"""Running means and variances of the batch norms that one stage uses, by buffer name."""

BATCH = 500


def norms_of(net: FractalNet, subnetwork: Subnetwork) -> dict[str, nn.BatchNorm2d]:
    """The batch norms that a subnetwork passes through, by module name."""
    used = {id(m) for layer in net.layers_of(subnetwork) for m in layer.modules()}
    return {n: m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d) and id(m) in used}


@contextmanager
def frozen_buffers(net: FractalNet) -> Iterator[None]:
    """Give back every buffer and the training mode of `net` at the end."""
    was_training = net.training
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        yield
    finally:
        net.train(was_training)
        for name, buffer in net.named_buffers():
            buffer.copy_(before[name])


@torch.no_grad()
def reestimate(net: FractalNet, subnetwork: Subnetwork, images: Tensor) -> Statistics:
    """Batch-norm statistics of one stage over normalised `images` [n, c, h, w]; the net is left as it was."""
    norms = norms_of(net, subnetwork)
    momenta = {name: norm.momentum for name, norm in norms.items()}
    with frozen_buffers(net):
        net.eval()
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        for batch in images.split(BATCH):
            net(batch.to(device_of(net)), subnetwork)
        statistics = {
            f"{name}.{key}": getattr(norm, key).cpu().clone()
            for name, norm in norms.items()
            for key in ("running_mean", "running_var")
        }
    for name, norm in norms.items():
        norm.momentum = momenta[name]
    return statistics


def apply_statistics(net: FractalNet, statistics: Statistics) -> None:
    """Put a stage's statistics into the net's buffers, in place."""
    buffers = dict(net.named_buffers())
    for name, value in statistics.items():
        buffers[name].copy_(value)


@torch.no_grad()
def logits(
    net: FractalNet, subnetwork: Subnetwork, statistics: Statistics, images: Tensor
) -> NDArray[np.float32]:
    """float32 logits [n, classes] of one stage with its own statistics, in float32; the net is left as it was."""
    with frozen_buffers(net):
        net.eval()
        apply_statistics(net, statistics)
        outputs = [net(batch.to(device_of(net)), subnetwork) for batch in images.split(BATCH)]
    return torch.cat(outputs).float().cpu().numpy()


def device_of(net: FractalNet) -> torch.device:
    """Where the net's weights lie."""
    return net.head.weight.device


class Pixels:
    """A part's images as normalised tensors, with the mean and deviation of the training images."""

    def __init__(self, train: Part) -> None:
        self.mean, self.std = channel_statistics(train.images)

    def tensor(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 [n, h, w, c] -> normalised float32 [n, c, h, w]."""
        return normalise(torch.from_numpy(images), self.mean, self.std)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of images scaled to [0, 1], float32 [c] each."""
    counts = sum(_histograms(images[start : start + BATCH]) for start in range(0, len(images), BATCH))
    values = np.arange(256, dtype=np.float64)
    pixels = images.size / images.shape[-1]
    mean = (counts @ values) / pixels / 255
    std = np.sqrt((counts @ values**2) / pixels / 255**2 - mean**2)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.maximum(std, 1e-3)).float()


def _histograms(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each channel has each value, int64 [c, 256]; exact, and small whatever the number of images."""
    channels = (images[..., c].ravel() for c in range(images.shape[-1]))
    return np.stack([np.bincount(channel, minlength=256) for channel in channels])
