"""Learning-rate schedules as pure functions of progress. Knows nothing of optimisers."""

from __future__ import annotations

from math import cos, floor, log2, pi

from training.recipe import Recipe


def halving(progress: float, total_steps: int) -> float:
    """Factor of the paper's rule (section 4.1): divided by 10 whenever the remaining training halves.

    `progress` in [0, 1). With 400 epochs it drops at 200, 300, 350, 375 …; counted in steps, so that 20 epochs drop
    at 10, 15, 17.5. The paper stops after four drops; so does this.
    """
    remaining = max(1.0 - progress, 1.0 / total_steps)
    drops = min(floor(-log2(remaining) + 1e-9), 4)
    return float(10.0**-drops)


def steps(progress: float, drops: tuple[float, ...]) -> float:
    """Factor that is divided by 10 at every share of the training in `drops` (ImageNet: epochs 50 and 65 of 70)."""
    return float(10.0 ** -sum(progress >= drop - 1e-9 for drop in drops))


def cosine(progress: float, warmup: float) -> float:
    """Factor that rises linearly over the first `warmup` of training, then falls along a half cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1.0 + cos(pi * (progress - warmup) / (1.0 - warmup)))


def rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Learning rate of the 0-based `step` of `total_steps`."""
    progress = step / total_steps
    if recipe.schedule == "halving":
        return recipe.rate * halving(progress, total_steps)
    if recipe.schedule == "steps":
        return recipe.rate * steps(progress, recipe.drops)
    return recipe.rate * cosine((step + 1) / total_steps, recipe.warmup)
