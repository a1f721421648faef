"""The list of recipes with what each one builds and trains. Builds nets without memory for their weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from model_repo.fractalnet import FractalConfig, FractalNet, cost, full
from training import recipes
from training.recipe import Recipe

CLASSES = {"digits": 10, "fractalnet34_imagenet": 1000}
"""Classes that a recipe is counted with: its usual data's, else 100 (CIFAR-100)."""

SIZES = {"digits": 8}


def lines() -> Iterator[str]:
    """A heading, then one line per recipe."""
    yield f"{'recipe':32} {'depth':>5} {'parameters':>12} {'multiply-adds':>14} {'classes':>7} {'epochs':>6}  trains"
    for name in recipes.names():
        recipe = recipes.find(name)
        config = recipe.net(CLASSES.get(name, 100), SIZES.get(name, recipe.image_size))
        parameters, multiply_adds = counts(config)
        yield (
            f"{name:32} {config.depth:5} {parameters:12,} {multiply_adds / 1e6:12,.1f} M {config.classes:7} "
            f"{recipe.epochs:6}  {trains(recipe)}"
        )


def counts(config: FractalConfig) -> tuple[int, int]:
    """Parameters of a net, and multiply-adds of the whole of it for one image."""
    with torch.device("meta"):
        net = FractalNet(config)
    return sum(p.numel() for p in net.parameters()), cost(net, full(config)).multiply_adds


def trains(recipe: Recipe) -> str:
    """What a mini-batch trains, in words."""
    if recipe.levers.sandwich:
        return f"sandwich of {recipe.levers.sandwich}"
    if recipe.tied:
        return "tied"
    return ", ".join(f"{kind} {share:g}" for kind, share in recipe.draws.items())
