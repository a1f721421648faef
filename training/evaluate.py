"""Measure stages: batch-norm statistics of each stage, then its logits.

Re-estimation is not optional: a joined mean has less variance than a lone path, so statistics mixed over subnetworks
fit none of them. Each stage gets its own, by cumulative averaging over training images with dropout off.
Knows nets and images; must not know recipes or the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_repo.fractalnet import FractalNet, Subnetwork
from training.augment import middle, normalise
from training.parts import Part

Statistics = dict[str, Tensor]
"""What one stage has of its own, by name in the net: the running means and variances of its batch norms, and weights
where the recipe gives it some."""

BATCH = 500


class Batched(Protocol):
    """Normalised images that come in batches: a tensor [n, c, h, w], or PixelBatches."""

    def split(self, size: int, /) -> Iterable[Tensor]:
        """Batches of at most `size` images."""


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


@contextmanager
def wearing(net: FractalNet, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The net with the given weights and buffers, by name; afterwards, and in its mode, it is as it was."""
    with frozen_buffers(net), torch.no_grad():
        own = {name: p for name, p in net.named_parameters() if name in tensors}
        before = {name: p.clone() for name, p in own.items()}
        apply_statistics(net, tensors)
        try:
            yield
        finally:
            for name, p in own.items():
                p.copy_(before[name])


@torch.no_grad()
def reestimate(
    net: FractalNet,
    subnetwork: Subnetwork,
    images: Batched,
    weights: Mapping[str, Tensor] | None = None,
) -> Statistics:
    """Batch-norm statistics of one stage over normalised `images` [n, c, h, w]; the net is left as it was.

    `weights` are those that the stage has of its own; they are part of what comes back.
    """
    norms = norms_of(net, subnetwork)
    momenta = {name: norm.momentum for name, norm in norms.items()}
    with wearing(net, weights or {}):
        net.eval()
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        for batch in images.split(batch_size(net)):
            net(batch.to(device_of(net)), subnetwork)
        statistics = {
            f"{name}.{key}": getattr(norm, key).cpu().clone()
            for name, norm in norms.items()
            for key in ("running_mean", "running_var")
        }
    for name, norm in norms.items():
        norm.momentum = momenta[name]
    return statistics | dict(weights or {})


@torch.no_grad()
def apply_statistics(net: FractalNet, statistics: Mapping[str, Tensor]) -> None:
    """Put a stage's statistics, and the weights it has of its own, into the net, in place."""
    tensors = dict(net.named_buffers()) | dict(net.named_parameters())
    for name, value in statistics.items():
        tensors[name].copy_(value)


@torch.no_grad()
def logits(
    net: FractalNet, subnetwork: Subnetwork, statistics: Statistics, images: Batched
) -> NDArray[np.float32]:
    """float32 logits [n, classes] of one stage with its own statistics, in float32; the net is left as it was."""
    with wearing(net, statistics):
        net.eval()
        outputs = [net(batch.to(device_of(net)), subnetwork) for batch in images.split(batch_size(net))]
    return torch.cat(outputs).float().cpu().numpy()


def batch_size(net: FractalNet) -> int:
    """Images that are measured at a time: BATCH small ones, fewer large ones, so that activations fit the memory."""
    return max(16, min(BATCH, BATCH * 32 * 32 // net.config.input_size**2))


def device_of(net: FractalNet) -> torch.device:
    """Where the net's weights lie."""
    return net.head.weight.device


class Pixels:
    """A part's images as normalised tensors, with the mean and deviation of the training images.

    `crop`: side of the middle square that the net sees, 0 for all of an image.
    """

    def __init__(self, train: Part, crop: int = 0) -> None:
        self.mean, self.std = channel_statistics(train.images)
        self._crop = crop

    def tensor(self, images: NDArray[np.uint8], whole: bool = False) -> Tensor:
        """uint8 [n, h, w, c] -> normalised float32 [n, c, h, w], cropped unless `whole`."""
        normal = normalise(torch.from_numpy(images), self.mean, self.std)
        return middle(normal, self._crop) if self._crop and not whole else normal

    def batches(self, images: NDArray[np.uint8]) -> PixelBatches:
        """The same, normalised batch by batch."""
        return PixelBatches(self, images)


class PixelBatches:
    """Images that are normalised when their batch is asked for: all of them at once may not fit the memory."""

    def __init__(self, pixels: Pixels, images: NDArray[np.uint8]) -> None:
        self._pixels, self._images = pixels, images

    def split(self, size: int) -> Iterator[Tensor]:
        """Normalised batches of at most `size` images."""
        for start in range(0, len(self._images), size):
            yield self._pixels.tensor(self._images[start : start + size])


STATISTICS_BYTES = 1 << 33
"""Mean and deviation are those of evenly spread images of at most so many bytes."""


def channel_statistics(images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of images scaled to [0, 1], float32 [c] each."""
    if images.nbytes > STATISTICS_BYTES:
        count = max(1, STATISTICS_BYTES // images[0].nbytes)
        images = images[np.linspace(0, len(images) - 1, count).astype(np.int64)]
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
