"""Augmentation in batch, on the device that holds the images (section 4.1's none, + and ++)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.recipe import Augmentation

SHIFT = 4
"""Largest shift of the paper's + and ++ in pixels, for 32-pixel images."""


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [n, h, w, c] -> float32 [n, c, h, w] in channels-last memory: (x / 255 - mean) / std."""
    scaled = images.to(torch.float32).div_(255.0).sub_(mean).div_(std)
    return scaled.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Extent:
    """Which images of a mini-batch these are: draws are made for all `total`, so that a share gets its own."""

    first: int
    total: int


def augment(
    images: Tensor,
    kind: Augmentation,
    generator: torch.Generator,
    crop: int = 0,
    cutout: int = 0,
    extent: Extent | None = None,
) -> Tensor:
    """Move, mirror and cut every image of a normalised float batch [n, c, h, w].

    Shifts pad after normalisation: with zeros, which is the mean image (+), or by reflection (++). With a `crop` the
    images become crop x crop: from a random place, or from the middle (none).

    Args:
        cutout: side of a square that is set to zero around a random pixel of every image (DeVries and Taylor, 2017).
        extent: where these images stand in the mini-batch; None means that they are all of it.
    """
    extent = extent or Extent(0, len(images))
    if kind != "none":
        images = _moved(images, kind, generator, crop, extent)
    elif crop:
        images = middle(images, crop)
    return _cut_out(images, cutout, generator, extent) if cutout else images


def middle(images: Tensor, crop: int) -> Tensor:
    """The middle crop x crop pixels of [n, c, h, w]."""
    top, left = (images.shape[2] - crop) // 2, (images.shape[3] - crop) // 2
    return images[:, :, top : top + crop, left : left + crop]


def _moved(
    images: Tensor, kind: Augmentation, generator: torch.Generator, crop: int, extent: Extent
) -> Tensor:
    n, _, height, width = images.shape
    shift = 0 if crop else min(SHIFT, height // 8)
    room = height - crop if crop else 2 * shift
    h, w = (crop, crop) if crop else (height, width)
    own = slice(extent.first, extent.first + n)
    top, left = torch.randint(room + 1, (2, extent.total, 1), generator=generator)[:, own]
    mirrored = torch.rand(extent.total, 1, generator=generator)[own] < 0.5
    padded = F.pad(images, (shift,) * 4, mode="constant" if kind == "+" else "reflect") if shift else images
    rows = top + torch.arange(h)
    columns = torch.where(mirrored, left + torch.arange(w - 1, -1, -1), left + torch.arange(w))
    index = (torch.arange(n).view(n, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1))
    by_pixel = padded.permute(0, 2, 3, 1)[tuple(i.to(images.device) for i in index)]
    return by_pixel.permute(0, 3, 1, 2)


def _cut_out(images: Tensor, side: int, generator: torch.Generator, extent: Extent) -> Tensor:
    n, _, h, w = images.shape
    own = slice(extent.first, extent.first + n)
    places = torch.rand(2, extent.total, 1, generator=generator)[:, own]
    y, x = (places * torch.tensor([h, w]).view(2, 1, 1)).floor()
    rows, columns = (
        (torch.arange(length) >= at - side // 2) & (torch.arange(length) < at - side // 2 + side)
        for at, length in ((y, h), (x, w))
    )
    hole = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
    return images.masked_fill(hole.to(images.device), 0.0)
