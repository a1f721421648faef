"""Drop-path (section 3.1): which subnetwork a mini-batch trains.

Knows how subnetworks are drawn; must not know losses, data or the optimiser. One mask serves the whole mini-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from model_repo.fractalnet import FractalConfig, Join, Subnetwork, column, full, stages
from training.recipe import Recipe


@dataclass(frozen=True)
class Draw:
    """One subnetwork to train on a mini-batch, and the weight of its loss. `kind` names it in logs."""

    kind: str
    subnetwork: Subnetwork
    weight: float = 1.0


def local(config: FractalConfig, drop_probability: float, generator: torch.Generator) -> Subnetwork:
    """Local drop-path: every input of every join is dropped with `drop_probability`, at least one survives."""

    def sample(members: Join) -> Join:
        if len(members) == 1:
            return members
        dropped = (torch.rand(len(members), generator=generator) < drop_probability).tolist()
        kept = tuple(m for m, gone in zip(members, dropped, strict=True) if not gone)
        return kept or (members[_index(len(members), generator)],)

    return tuple(tuple(sample(members) for members in block) for block in full(config))


def global_column(config: FractalConfig, generator: torch.Generator) -> Subnetwork:
    """Global drop-path: one column, drawn once for the whole net."""
    return column(config, 1 + _index(config.columns, generator))


def _index(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))


class Sampler:
    """Draws what each mini-batch trains, as the recipe's shares say.

    Raises:
        ValueError: the recipe names a kind of draw that the net does not have.
    """

    def __init__(self, recipe: Recipe, config: FractalConfig) -> None:
        self._recipe = recipe
        self._config = config
        self._stages = stages(config)
        unknown = set(recipe.draws) - set(self._stages) - {"local", "column"}
        if unknown and not recipe.tied:
            raise ValueError(f"recipe {recipe.name}: the net has no {', '.join(sorted(unknown))} to draw")
        self._kinds = list(recipe.draws)
        self._shares = torch.tensor(list(recipe.draws.values()), dtype=torch.float64)

    def draw(self, generator: torch.Generator) -> list[Draw]:
        """What the next mini-batch trains: one draw, or in tied mode the full net and every column."""
        return list(self._tied(generator)) if self._recipe.tied else [self._one(generator)]

    def _one(self, generator: torch.Generator) -> Draw:
        kind = self._kinds[int(torch.multinomial(self._shares, 1, generator=generator))]
        if kind == "local":
            return Draw(kind, local(self._config, self._recipe.local_p, generator))
        if kind == "column":
            return Draw(kind, global_column(self._config, generator))
        return Draw(kind, self._stages[kind])

    def _tied(self, generator: torch.Generator) -> Iterator[Draw]:
        yield Draw("local", local(self._config, self._recipe.local_p, generator))
        for k in range(1, self._config.columns + 1):
            yield Draw(f"column{k}", column(self._config, k), 1.0 / self._config.columns)
