"""Training in several processes (torchrun): who this one is, its share of a batch, and batch norms over all of them.

Gradients are averaged by DistributedDataParallel; batch norms take the mean and variance of the whole batch, so that
several processes end where one would that has the whole batch. Must not know nets, recipes or data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; `local` is its number on this machine, and its GPU's."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes files and says what happens."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The part of a batch that this process trains. Raises ValueError if the batch cannot be cut evenly."""
        if batch % self.size:
            raise ValueError(f"a batch of {batch} cannot be cut into {self.size} equal parts")
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process; all must ask."""
        if self.size == 1:
            return flag
        votes = torch.tensor(float(flag), device=_collective_device(self))
        dist.all_reduce(votes)
        return bool(votes.item())


@contextmanager
def together() -> Iterator[Ranks]:
    """Join the processes that torchrun started, and leave them at the end; alone where it started none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()


def _collective_device(ranks: Ranks) -> torch.device:
    return torch.device("cuda", ranks.local) if torch.cuda.is_available() else torch.device("cpu")


class _Sum(torch.autograd.Function):
    """The sum over all processes, with its gradient."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


class SyncedNorm(nn.BatchNorm2d):
    """Batch norm over the equal shares of all processes, on any device (torch's own is for GPUs only).

    Only where gradients are recorded: a process that measures does so alone.
    """

    def forward(self, z: Tensor) -> Tensor:
        """[n, channels, h, w] -> the same shape."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(z)
        wide, size = z.float(), dist.get_world_size()
        mean = _sum(wide.mean((0, 2, 3))) / size
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _sum(centred.square().mean((0, 2, 3))) / size
        self._remember(mean.detach(), variance.detach(), size * z.numel() // z.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt()
        out: Tensor = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return out.to(z.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = self.momentum or 0.0
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / max(count - 1, 1), momentum)


def synchronise(net: nn.Module) -> None:
    """Make every batch norm of `net` one over all processes, in place; names and weights stay."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                own = SyncedNorm(child.num_features, child.eps, child.momentum)
                own.load_state_dict(child.state_dict())
                setattr(module, name, own)
