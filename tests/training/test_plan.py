"""Defaults by the size of the data, and what needs no training."""

from __future__ import annotations

import numpy as np
import pytest

from model_repo.fractalnet import FractalNet
from training import plan
from training.baselines import largest_class, nearest_class_mean
from training.parts import Part


def test_photographs_get_a_larger_input_than_thumbnails() -> None:
    assert plan.input_size([28, 32, 32, 500]) == 32
    assert plan.input_size([60, 200, 300, 31]) == 64
    assert plan.input_size([]) == 32


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("images", [20, 192, 1_000, 2_000, 20_000, 90_000])
def test_every_number_of_images_gets_a_net_that_can_be_built_and_batches_that_fill(
    images: int, size: int
) -> None:
    recipe = plan.recipe(images, "++", wide=False)
    FractalNet(recipe.net(10, size))
    assert recipe.batch <= images
    assert 15 <= recipe.epochs <= 120


def test_more_images_mean_fewer_epochs_but_more_steps() -> None:
    numbers = [200, 1_000, 10_000, 100_000]
    recipes = [plan.recipe(n, "+", wide=False) for n in numbers]
    assert [r.epochs for r in recipes] == sorted((r.epochs for r in recipes), reverse=True)
    steps = [r.epochs * (n // r.batch) for r, n in zip(recipes, numbers, strict=True)]
    assert steps == sorted(steps)
    assert steps[0] > 500
    assert [r.columns for r in recipes] == [2, 2, 3, 3]


def test_epochs_are_cut_to_the_time_but_never_to_nothing() -> None:
    assert plan.within(100, 1.0, 300).epochs == 100
    assert plan.within(100, 10.0, 300) == plan.Schedule(30, 300.0)
    assert plan.within(100, 1000.0, 300).epochs == 3


def test_the_time_grows_with_the_data() -> None:
    assert plan.minutes(200) == plan.minutes(1_000) == 5.0
    assert plan.minutes(100_000) > 60


def test_answers_that_need_no_training() -> None:
    dark, bright = np.full((2, 2, 3), 10, np.uint8), np.full((2, 2, 3), 200, np.uint8)
    train = Part(np.stack([dark, dark, bright, bright + 9, bright]), np.array([3, 3, 0, 0, 0]))
    test = Part(np.stack([dark + 5, bright, dark, dark]), np.array([3, 0, 3, 0]))
    assert largest_class(train, test) == 0.5
    assert nearest_class_mean(train, test) == 0.75
