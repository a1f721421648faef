"""Augmentation in batch, on the device that holds the images (section 4.1's none, + and ++)."""

from __future__ import annotations

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


def augment(images: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """Mirror and shift every image of a normalised float batch [n, c, h, w]; same shape back.

    Shifts pad after normalisation: with zeros, which is the mean image (+), or by reflection (++).
    """
    if kind == "none":
        return images
    n, _, h, w = images.shape
    shift = min(SHIFT, h // 8)
    padded = F.pad(images, (shift,) * 4, mode="constant" if kind == "+" else "reflect")
    top, left = torch.randint(2 * shift + 1, (2, n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    rows = top + torch.arange(h)
    columns = torch.where(mirrored, left + torch.arange(w - 1, -1, -1), left + torch.arange(w))
    index = (torch.arange(n).view(n, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1))
    by_pixel = padded.permute(0, 2, 3, 1)[tuple(i.to(images.device) for i in index)]
    return by_pixel.permute(0, 3, 1, 2)
