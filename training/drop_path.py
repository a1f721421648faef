"""Drop-path (section 3.1): which subnetworks a mini-batch trains.

Knows how subnetworks are drawn; must not know losses, data or the optimiser. One mask serves the whole mini-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from model_repo.fractalnet import FractalConfig, Join, Subnetwork, column, full, stages
from model_repo.subnetworks import SHORTCUT, survivals
from training.recipe import Recipe

Role = Literal["labels", "teacher", "student"]

Regime = Literal["none", "local", "global", "mixed", "tied"]

REGIMES: dict[Regime, dict[str, Any]] = {
    "none": {"draws": {"full": 1.0}, "tied": False},
    "local": {"draws": {"local": 1.0}, "tied": False},
    "global": {"draws": {"column": 1.0}, "tied": False},
    "mixed": {"draws": {"local": 0.5, "column": 0.5}, "tied": False},
    "tied": {"tied": True},
}
"""The paper's ways of training a net, as changes to a recipe."""

assert tuple(REGIMES) == get_args(Regime)


@dataclass(frozen=True)
class Draw:
    """One subnetwork to train on a mini-batch.

    Attributes:
        kind: its name in logs.
        weight: of its loss.
        mode: the stage whose batch norms it trains where these are private.
        role: what it learns from: `labels`; `teacher`, labels, and its answers teach; `student`, a teacher's answers.
    """

    kind: str
    subnetwork: Subnetwork
    weight: float = 1.0
    mode: str = "full"
    role: Role = "labels"


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


def stochastic_depth(config: FractalConfig, generator: torch.Generator) -> Subnetwork:
    """Every unit of a residual net is passed by with 1 - its survival probability (Huang et al., 2016)."""

    def unit(members: Join, survival: float) -> Join:
        return members if float(torch.rand((), generator=generator)) < survival else (SHORTCUT,)

    return tuple(
        tuple(
            unit(members, survives[row // 2]) if SHORTCUT in members else members
            for row, members in enumerate(block)
        )
        for block, survives in zip(full(config), survivals(config), strict=True)
    )


def _index(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))


class Sampler:
    """Draws what each mini-batch trains, as the recipe's shares and levers say.

    Raises:
        ValueError: the recipe names a kind of draw that the net does not have.
    """

    def __init__(self, recipe: Recipe, config: FractalConfig) -> None:
        self._recipe = recipe
        self._config = config
        self._stages = stages(config)
        self._full = list(self._stages)[-1]  # a net of one column calls it column1
        self._check()

    def _check(self) -> None:
        recipe, fractal = self._recipe, self._config.family == "fractal"
        if (recipe.tied or recipe.levers.sandwich) and not fractal:
            raise ValueError(f"recipe {recipe.name}: only a fractal net has columns to train")
        possible = set(self._stages) | {"full"} | ({"local", "column"} if fractal else set())
        possible |= {"stochastic_depth"} if self._config.family == "residual" else set()
        asked = set(recipe.levers.late_draws)
        if not (recipe.tied or recipe.levers.sandwich):
            asked |= set(recipe.draws)
        if unknown := asked - possible:
            raise ValueError(f"recipe {recipe.name}: the net has no {', '.join(sorted(unknown))} to draw")

    def draw(self, generator: torch.Generator, progress: float = 0.0) -> list[Draw]:
        """What the next mini-batch trains: one draw, or several in the tied mode and under the sandwich rule.

        `progress` is the share of the training that is done, 0…1.
        """
        levers = self._recipe.levers
        if levers.late_draws and progress >= levers.late_from:
            return [self._one(levers.late_draws, generator)]
        if levers.sandwich == "columns":
            return list(self._sandwich_of_columns(generator))
        if levers.sandwich == "nested":
            return list(self._sandwich_of_nested(generator))
        return (
            list(self._tied(generator)) if self._recipe.tied else [self._one(self._recipe.draws, generator)]
        )

    def _one(self, draws: dict[str, float], generator: torch.Generator) -> Draw:
        shares = torch.tensor(list(draws.values()), dtype=torch.float64)
        kind = list(draws)[int(torch.multinomial(shares, 1, generator=generator))]
        if kind == "local":
            return Draw(kind, local(self._config, self._recipe.local_p, generator), mode=self._full)
        if kind == "column":
            k = 1 + _index(self._config.columns, generator)
            return Draw(kind, column(self._config, k), mode=f"column{k}")
        if kind == "stochastic_depth":
            return Draw(kind, stochastic_depth(self._config, generator), mode=self._full)
        if kind == "full":
            return Draw(kind, full(self._config), mode=self._full)
        return Draw(kind, self._stages[kind], mode=kind)

    def _tied(self, generator: torch.Generator) -> Iterator[Draw]:
        yield Draw("local", local(self._config, self._recipe.local_p, generator), mode=self._full)
        for k in range(1, self._config.columns + 1):
            yield self._column(k, 1.0 / self._config.columns, "labels")

    def _sandwich_of_columns(self, generator: torch.Generator) -> Iterator[Draw]:
        C = self._config.columns
        students = {1, C} | ({2 + _index(C - 2, generator)} if C > 2 else set())
        yield Draw("full", full(self._config), mode=self._full, role="teacher")
        for k in sorted(students):
            yield self._column(k, 1.0 / len(students), "student")

    def _sandwich_of_nested(self, generator: torch.Generator) -> Iterator[Draw]:
        C = self._config.columns
        students = ["column1"] + ([f"joined{2 + _index(C - 2, generator)}"] if C > 2 else [])
        yield Draw("full", full(self._config), mode=self._full, role="teacher")
        for name in students:
            yield Draw(name, self._stages[name], 1.0 / len(students), mode=name, role="student")

    def _column(self, k: int, weight: float, role: Role) -> Draw:
        return Draw(f"column{k}", column(self._config, k), weight, mode=f"column{k}", role=role)
