"""The training loop: SGD over drawn subnetworks, with exact resume.

Every random choice of a step (order of images, augmentation, drop-path, dropout) comes from generators seeded by
(seed, epoch) or (seed, step), so a run that was stopped anywhere and resumed from a checkpoint ends in the same
weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model_repo.fractalnet import FractalConfig, FractalNet
from training.augment import augment, normalise
from training.drop_path import Draw, Sampler
from training.evaluate import channel_statistics
from training.parts import Part
from training.recipe import Recipe
from training.schedule import rate

Precision = Literal["auto", "bf16", "float32"]

ORDER, STEP = 1, 2
"""What a generator is for; part of its seed."""


@dataclass(frozen=True)
class Hardware:
    """Where a net is trained (`cpu` or `cuda`), and whether in bfloat16 autocast."""

    device: str
    bf16: bool


@dataclass
class Progress:
    """Running mean loss per kind of draw, for the progress bar and the log."""

    losses: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, loss: float) -> None:
        """Take one loss in; the mean forgets with a half-life of about 70 draws."""
        old = self.losses.get(kind)
        self.losses[kind] = loss if old is None else 0.99 * old + 0.01 * loss


class Trainer:
    """One net in training: weights, optimiser, the step it stands at.

    Args:
        recipe: what to do.
        config: the net; must fit the images.
        train: the images that fit the weights.
        seed: of everything random.
        hardware: where and how precisely to compute.
    """

    def __init__(
        self, recipe: Recipe, config: FractalConfig, train: Part, seed: int, hardware: Hardware
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.seed, self.hardware = recipe, seed, hardware
        device = torch.device(hardware.device)
        self.net = on_device(FractalNet(config), hardware)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=recipe.rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self.step = 0
        self.progress = Progress()
        self._images = torch.from_numpy(train.images).to(device)
        self._labels = torch.from_numpy(train.labels).to(device)
        self._mean, self._std = (value.to(device) for value in channel_statistics(train.images))
        self._sampler = Sampler(recipe, config)
        self.steps_per_epoch = len(train) // recipe.batch
        self.total_steps = self.steps_per_epoch * recipe.epochs
        if self.steps_per_epoch < 1:
            raise ValueError(f"{len(train)} training images do not fill one batch of {recipe.batch}")

    @property
    def epoch(self) -> int:
        """Whole epochs that are done."""
        return self.step // self.steps_per_epoch

    def state(self) -> dict[str, object]:
        """What a checkpoint needs to go on exactly here."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def restore(self, state: dict[str, object]) -> None:
        """Go on where `state` was taken."""
        self.net.load_state_dict(state["net"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.step = int(state["step"])  # type: ignore[call-overload]

    def rest_of_epoch(self) -> Iterator[int]:
        """Train to the end of the current epoch; yields the number of every step done."""
        order = torch.randperm(len(self._labels), generator=self._generator(ORDER, self.epoch))
        first = self.step % self.steps_per_epoch
        for position in range(first, self.steps_per_epoch):
            start = position * self.recipe.batch
            self._train_step(order[start : start + self.recipe.batch].to(self._labels.device))
            self.step += 1
            yield self.step

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        words = np.random.SeedSequence([self.seed, purpose, number]).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))

    def _train_step(self, index: Tensor) -> None:
        generator = self._generator(STEP, self.step)
        torch.manual_seed(generator.initial_seed() & 0x7FFFFFFF)  # dropout draws from the global generator
        draws = self._sampler.draw(generator)
        images = augment(
            normalise(self._images[index], self._mean, self._std), self.recipe.augmentation, generator
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.recipe, self.step, self.total_steps)
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        for draw in draws:
            self._backward(draw, images, self._labels[index])
        self.optimizer.step()

    def _backward(self, draw: Draw, images: Tensor, labels: Tensor) -> None:
        with autocast(self.hardware):
            loss = F.cross_entropy(self.net(images, draw.subnetwork), labels)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss of {draw.kind} is {loss.item()} at step {self.step}: lower the rate"
            )
        (draw.weight * loss).backward()
        self.progress.add(draw.kind, loss.item())


class DivergedError(Exception):
    """The loss is no finite number any more."""


def on_device(net: FractalNet, hardware: Hardware) -> FractalNet:
    """The net where it is trained, its weights in channels-last memory."""
    net.to(hardware.device)
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net


def autocast(hardware: Hardware) -> AbstractContextManager[object]:
    """bfloat16 autocast, or nothing."""
    return torch.autocast(hardware.device, torch.bfloat16) if hardware.bf16 else nullcontext()


def choose_hardware(config: FractalConfig, batch: int, precision: Precision) -> Hardware:
    """A GPU if there is one, else the CPU; with `auto`, whichever precision times faster for a training step here.

    Timed rather than asked for, since a processor may only emulate bfloat16, ten times slower than float32.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision != "auto":
        return Hardware(device, precision == "bf16")
    seconds = {bf16: _step_seconds(config, batch, Hardware(device, bf16)) for bf16 in (False, True)}
    return Hardware(device, seconds[True] < seconds[False])


def _step_seconds(config: FractalConfig, batch: int, hardware: Hardware) -> float:
    net = on_device(FractalNet(config), hardware)
    shape = (batch, config.input_channels, config.input_size, config.input_size)
    images = torch.zeros(shape, device=hardware.device).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with autocast(hardware):
            loss = net(images).sum()
        loss.backward()
        loss.item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times)
