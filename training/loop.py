"""The training loop: SGD over drawn subnetworks, with exact resume.

Every random choice of a step (order of images, augmentation, drop-path, dropout) comes from generators seeded by
(seed, epoch) or (seed, step), so a run that was stopped anywhere and resumed from a checkpoint ends in the same
weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model_repo.fractalnet import FractalConfig, FractalNet
from training.augment import augment, normalise
from training.data import Part
from training.drop_path import Draw, Sampler
from training.evaluate import channel_statistics
from training.recipe import Recipe
from training.schedule import rate

ORDER, STEP = 1, 2
"""What a generator is for; part of its seed."""


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
        bf16: autocast to bfloat16; only where the processor has it natively.
    """

    def __init__(self, recipe: Recipe, config: FractalConfig, train: Part, seed: int, bf16: bool) -> None:
        torch.manual_seed(seed)
        self.recipe, self.seed, self.bf16 = recipe, seed, bf16
        self.net = FractalNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=recipe.rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self.step = 0
        self.progress = Progress()
        self._images, self._labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
        self._mean, self._std = channel_statistics(train.images)
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
            self._train_step(order[start : start + self.recipe.batch])
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
        with autocast(self.bf16):
            loss = F.cross_entropy(self.net(images, draw.subnetwork), labels)
        if not torch.isfinite(loss):
            raise DivergedError(f"the loss of {draw.kind} is {loss.item()} at step {self.step}: lower the rate")
        (draw.weight * loss).backward()  # type: ignore[no-untyped-call]
        self.progress.add(draw.kind, loss.item())


class DivergedError(Exception):
    """The loss is no finite number any more."""


def autocast(bf16: bool) -> AbstractContextManager[object]:
    """bfloat16 autocast on the CPU, or nothing."""
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def bf16_is_faster(config: FractalConfig, batch: int, clock: Callable[[], float] = time.perf_counter) -> bool:
    """Whether training steps of this net run faster in bfloat16 here: timed, since a processor may only emulate it."""
    net = FractalNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.zeros(batch, config.input_channels, config.input_size, config.input_size)
    images = images.contiguous(memory_format=torch.channels_last)

    def seconds(bf16: bool) -> float:
        times = []
        for _ in range(3):
            start = clock()
            with autocast(bf16):
                loss = net(images).sum()
            loss.backward()
            times.append(clock() - start)
        return min(times)

    return seconds(True) < seconds(False)
