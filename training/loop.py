"""The training loop: SGD over drawn subnetworks, with exact resume.

Every random choice of a step (order of images, augmentation, drop-path, dropout) comes from generators seeded by
(seed, epoch) or (seed, step), so a run that was stopped anywhere and resumed from a checkpoint ends in the same
weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model_repo.fractalnet import FractalConfig, FractalNet
from training.augment import Extent, augment, normalise
from training.average import Average, Blend
from training.drop_path import Draw, Sampler
from training.evaluate import channel_statistics
from training.losses import PrivateNorms, StepLosses
from training.parts import Part
from training.ranks import Ranks, synchronise
from training.recipe import Recipe
from training.schedule import rate

Precision = Literal["auto", "bf16", "float32"]

ORDER, STEP = 1, 2
"""What a generator is for; part of its seed."""


@dataclass(frozen=True)
class Hardware:
    """Where a net is trained (`cpu`, `cuda` or `cuda:1`), and whether in bfloat16 autocast."""

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
        config: the net; must fit the images, or the recipe's crop of them.
        train: the images that fit the weights.
        seed: of everything random.
        hardware: where and how precisely to compute.
        ranks: the processes that train together; each takes its share of every batch.

    Raises:
        ValueError: the images do not fill one batch, or the batch cannot be shared evenly.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: FractalConfig,
        train: Part,
        seed: int,
        hardware: Hardware,
        ranks: Ranks | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.seed, self.hardware, self.ranks = recipe, seed, hardware, ranks or Ranks()
        self.net = on_device(FractalNet(config), hardware)
        if self.ranks.size > 1:
            synchronise(self.net)
        levers = recipe.levers
        private = PrivateNorms(self.net) if levers.private_norms else None
        self.losses = StepLosses(self.net, private, levers.label_smoothing).to(hardware.device)
        self.average = Average(self.losses, levers.average) if levers.average else None
        self._blend: Blend | None = None
        self._parallel = _in_parallel(self.losses) if self.ranks.size > 1 else None
        self.optimizer = torch.optim.SGD(
            self.losses.parameters(),
            lr=recipe.rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self.step = 0
        self.progress = Progress()
        self._images, self._labels = _resident(train, hardware)
        self._mean, self._std = (value.to(hardware.device) for value in channel_statistics(train.images))
        self._sampler = Sampler(recipe, config)
        self.steps_per_epoch = len(train) // recipe.batch
        self.total_steps = self.steps_per_epoch * recipe.epochs
        self._share = self.ranks.share(recipe.batch)
        if self.steps_per_epoch < 1:
            raise ValueError(f"{len(train)} training images do not fill one batch of {recipe.batch}")

    @property
    def epoch(self) -> int:
        """Whole epochs that are done."""
        return self.step // self.steps_per_epoch

    # --- checkpoints and what is measured -----------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """What a checkpoint needs to go on exactly here."""
        state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        if self.losses.private:
            state["private"] = self.losses.private.state_dict()
        if self.average:
            state["average"] = self.average.weights
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        if self.losses.private:
            self.losses.private.load_state_dict(state["private"])
        if self.average:
            self.average.restore(state["average"])

    def begin_with(self, weights: dict[str, Tensor]) -> None:
        """Take the first weights from a trained net; everything else begins as in a new run."""
        self.net.load_state_dict(weights)
        if self.average:
            self.average.restore(dict(self.losses.named_parameters()))

    def blend_with(self, weights: dict[str, Tensor]) -> None:
        """Have the net measured with the mean of its own weights and these, as the recipe's `blend` says."""
        self._blend = Blend(self.net, weights, self.recipe.levers.blend)

    def measured(self) -> AbstractContextManager[None]:
        """The net as it is measured and published: with averaged weights where the recipe says so."""
        averages = self.average or self._blend
        return averages.worn() if averages else nullcontext()

    def stage_weights(self, stage: str) -> dict[str, Tensor]:
        """Weights that a stage has of its own in training, by name in the net."""
        return self.losses.private.weights(stage) if self.losses.private else {}

    # --- steps --------------------------------------------------------------------------------------------------

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
        # Dropout draws from the global generator.
        torch.manual_seed((generator.initial_seed() & 0x7FFFFFFF) + self.ranks.rank)
        draws = self._sampler.draw(generator, self.step / self.total_steps)
        if self.losses.teacher:
            draws = [replace(draw, role="student") for draw in draws]
        images, labels = self._batch(index, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.recipe, self.step, self.total_steps)
        self.losses.train()
        self.optimizer.zero_grad(set_to_none=True)
        for draw, loss in self._backward(draws, images, labels):
            self.progress.add(draw.kind, loss.item())
        self.optimizer.step()
        if self.average:
            self.average.update(self.step)

    def _batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This process's share of the images at `index`, normalised and augmented, and their labels."""
        own = index[self._share].to(self._images.device)
        pixels = self._images[own].to(self.hardware.device)
        images = augment(
            normalise(pixels, self._mean, self._std),
            self.recipe.augmentation,
            generator,
            self.recipe.crop,
            self.recipe.levers.cutout,
            Extent(self._share.start, len(index)),
        )
        return images, self._labels[own].to(self.hardware.device)

    def _backward(self, draws: list[Draw], images: Tensor, labels: Tensor) -> Iterator[tuple[Draw, Tensor]]:
        """Gradients of the weighted losses; one way back for each draw, so that one graph at a time is held."""
        if self._parallel is not None:
            yield from self._backward_together(self._parallel, draws, images, labels)
            return
        losses = self.losses.each(images, labels, draws)
        while True:
            with autocast(self.hardware):
                found = next(losses, None)
            if found is None:
                return
            draw, loss = found
            self._check(draw, loss)
            (draw.weight * loss).backward()
            yield draw, loss.detach()

    def _backward_together(
        self, parallel: nn.Module, draws: list[Draw], images: Tensor, labels: Tensor
    ) -> Iterator[tuple[Draw, Tensor]]:
        """One way back for all draws, in which DistributedDataParallel averages the gradients."""
        with autocast(self.hardware):
            total, losses = parallel(images, labels, draws)
        if self.ranks.any(not bool(torch.isfinite(total))):
            self._check(draws[0], torch.tensor(float("nan")))
        total.backward()
        yield from zip(draws, losses, strict=True)

    def _check(self, draw: Draw, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss of {draw.kind} is {loss.item()} at step {self.step}: lower the rate"
            )


def _in_parallel(losses: StepLosses) -> nn.Module:
    # Drawn subnetworks leave parameters unused, and buffers are equal everywhere without being sent.
    return DistributedDataParallel(losses, broadcast_buffers=False, find_unused_parameters=True)


def _resident(train: Part, hardware: Hardware) -> tuple[Tensor, Tensor]:
    """Images and labels where they stay: on the device if they take less than half of its free memory."""
    images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    device = torch.device(hardware.device)
    if device.type == "cuda" and train.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return images, labels
    return images.to(device), labels.to(device)


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
    kind = torch.device(hardware.device).type
    return torch.autocast(kind, torch.bfloat16) if hardware.bf16 else nullcontext()


def choose_hardware(
    config: FractalConfig, batch: int, precision: Precision, ranks: Ranks | None = None
) -> Hardware:
    """A GPU if there is one, else the CPU; with `auto`, whichever precision times faster for a training step here.

    Timed rather than asked for, since a processor may only emulate bfloat16, ten times slower than float32. Of several
    processes the first decides.
    """
    ranks = ranks or Ranks()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and ranks.size > 1:
        device = f"cuda:{ranks.local}"
    if precision != "auto":
        return Hardware(device, precision == "bf16")
    seconds = {bf16: _step_seconds(config, batch, Hardware(device, bf16)) for bf16 in (False, True)}
    return Hardware(device, ranks.any(ranks.leads and seconds[True] < seconds[False]))


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
