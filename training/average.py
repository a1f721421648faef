"""Averages of weights, measured and published instead of the last ones.

An exponential moving average over the steps (Polyak and Juditsky, 1992), and the mean of the ends of two cycles of the
rate (Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018). Batch-norm statistics
are not averaged: they are estimated anew for the averaged weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a module's parameters.

    `decay` is what an update keeps; it grows towards it from 0.1, so that the first random weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the 0-based `step`."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, p in self._module.named_parameters():
            self.weights[name].lerp_(p, 1 - decay)

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's."""
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @contextmanager
    def worn(self) -> Iterator[None]:
        """The module with its averaged weights; afterwards it has its own again."""
        with _wearing(self._module, self.weights):
            yield


class Blend:
    """The mean of a module's parameters and earlier ones of the same shapes, `share` of which are the earlier."""

    def __init__(self, module: nn.Module, earlier: dict[str, Tensor], share: float) -> None:
        self._module, self._earlier, self._share = module, earlier, share

    @contextmanager
    def worn(self) -> Iterator[None]:
        """The module with the mean; afterwards it has its own again."""
        parameters = self._module.named_parameters()
        mean = {name: p.detach().lerp(self._earlier[name].to(p), self._share) for name, p in parameters}
        with _wearing(self._module, mean):
            yield


@contextmanager
def _wearing(module: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    own = {name: p.detach().clone() for name, p in module.named_parameters()}
    _put(module, weights)
    try:
        yield
    finally:
        _put(module, own)


@torch.no_grad()
def _put(module: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, p in module.named_parameters():
        p.copy_(weights[name])
