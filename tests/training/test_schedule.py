"""Learning rates over a run."""

from __future__ import annotations

import pytest

from training import recipes
from training.recipe import Recipe
from training.schedule import halving, rate


@pytest.mark.parametrize(
    ("epochs", "drops"),
    [(400, [200, 300, 350, 375]), (20, [10, 15, 17.5, 18.75])],
)
def test_the_papers_rate_falls_tenfold_whenever_the_rest_halves(epochs: int, drops: list[float]) -> None:
    steps = epochs * 40
    factors = [halving(step / steps, steps) for step in range(steps)]
    changes = [i / 40 for i in range(1, steps) if factors[i] != factors[i - 1]]
    assert changes == drops
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(1e-4)


def test_the_cosine_rises_over_the_warm_up_and_ends_at_zero() -> None:
    recipe = Recipe("r", 1, (4,), schedule="cosine", warmup=0.2, rate=0.1)
    rates = [rate(recipe, step, 100) for step in range(100)]
    assert rates[19] == pytest.approx(0.1)
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)


def test_the_rate_falls_tenfold_at_the_steps_that_are_named() -> None:
    recipe = recipes.find("fractalnet34_imagenet")
    rates = [rate(recipe, step, 70 * 3) for step in range(70 * 3)]
    assert [step / 3 for step in range(1, 210) if rates[step] != rates[step - 1]] == [50, 65]
    assert rates[0] == 0.001
    assert rates[-1] == pytest.approx(1e-5)
    with pytest.raises(ValueError, match="drops belong to the schedule"):
        Recipe("r", 1, (4,), schedule="steps")
