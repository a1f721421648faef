"""Recipes: everything that decides how one net is trained, one readable file each.

`find(name)` imports the module of that name and returns its RECIPE; `names()` lists them.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from training.recipe import Recipe


class UnknownRecipeError(LookupError):
    """No recipe has that name; the message lists those there are."""


def names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Recipe:
    """The recipe called `name`. Raises UnknownRecipeError."""
    if name not in names():
        raise UnknownRecipeError(f"no recipe {name!r}; there are: {', '.join(names())}")
    recipe: Recipe = import_module(f"{__name__}.{name}").RECIPE
    return recipe
