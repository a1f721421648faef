"""The paper's measure of ImageNet nets: ten crops of every image (section 4, Table 2).

The four corners and the middle, and their mirror images; their softmax outputs are averaged. The data are an
ImageFolder, `train/<class>/` and `val/<class>/`, brought to 256x256. Knows nets and images; must not know runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from model_repo.fractalnet import FractalNet, Subnetwork
from training.augment import middle
from training.evaluate import Pixels, Statistics, batch_size, device_of, wearing
from training.parts import Part


def ten_crops(images: Tensor, crop: int) -> Iterator[Tensor]:
    """[n, c, h, w] -> ten times [n, c, crop, crop]: corners and middle, each as it is and mirrored."""
    bottom, right = images.shape[2] - crop, images.shape[3] - crop
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    for view in [*(images[:, :, y : y + crop, x : x + crop] for y, x in corners), middle(images, crop)]:
        yield view
        yield view.flip(3)


@torch.no_grad()
def ten_crop_errors(
    net: FractalNet, subnetwork: Subnetwork, statistics: Statistics, part: Part, pixels: Pixels
) -> dict[str, float]:
    """`top1` and `top5` error of one stage over ten crops of the net's input size; shares, 0…1."""
    crop, wrong = net.config.input_size, np.zeros(2, np.int64)
    with wearing(net, statistics):
        net.eval()
        size = batch_size(net)
        for start in range(0, len(part), size):
            images = pixels.tensor(part.images[start : start + size], whole=True).to(device_of(net))
            mean = torch.stack([net(view, subnetwork).softmax(1) for view in ten_crops(images, crop)]).mean(0)
            best = mean.topk(min(5, net.config.classes)).indices.cpu().numpy()
            hits = best == part.labels[start : start + size, None]
            wrong += len(hits) - np.array([hits[:, 0].sum(), hits.any(1).sum()])
    return {"top1": float(wrong[0] / len(part)), "top5": float(wrong[1] / len(part))}
