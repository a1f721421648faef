"""The loop that tutorials show, as the yardstick of ours: a DataLoader that augments image by image, and nothing tuned.

The same net, loss, optimiser and kind of augmentation as in training.loop; weights and images in contiguous memory.
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from model_repo.fractalnet import FractalConfig, FractalNet, stages
from training.augment import SHIFT
from training.evaluate import channel_statistics
from training.loop import Hardware, autocast
from training.parts import Part
from training.recipe import Recipe


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images one by one: to float, normalised, padded, cropped at random, mirrored at random."""

    def __init__(self, part: Part) -> None:
        self.images, self.labels = torch.from_numpy(part.images), part.labels
        mean, std = channel_statistics(part.images)
        self.mean, self.std = mean.view(-1, 1, 1), std.view(-1, 1, 1)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One augmented image, float32 [c, h, w], and its label."""
        image = self.images[index].permute(2, 0, 1).contiguous().float().div(255)
        image = image.sub(self.mean).div(self.std)
        _, height, width = image.shape
        top, left = torch.randint(2 * SHIFT + 1, (2,)).tolist()
        image = F.pad(image, (SHIFT,) * 4)[:, top : top + height, left : left + width]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        return image, int(self.labels[index])


def steps(
    recipe: Recipe, config: FractalConfig, stage: str, train: Part, hardware: Hardware, workers: int
) -> Generator[None, None, None]:
    """Train one stage of a new net, without end; one item per step. Closing the iterator ends the workers."""
    net = FractalNet(config).to(hardware.device).train()
    subnetwork = stages(config)[stage]
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=recipe.rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    loader = DataLoader(
        PerImage(train),
        batch_size=recipe.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            with autocast(hardware):
                loss = F.cross_entropy(
                    net(images.to(hardware.device), subnetwork), labels.to(hardware.device)
                )
            loss.backward()
            optimizer.step()
            loss.item()  # as loops do that show the loss; waits for a GPU
            yield
