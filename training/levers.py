"""The lever table's rows: one base recipe for two cores, and what each lever changes of it.

A row is a lever's name, or several joined by `+`, applied from left to right. Must not know runs or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model_repo.fractalnet import FractalConfig, stages
from training.drop_path import REGIMES
from training.recipe import Recipe

EPOCHS = 12

BASE = Recipe(
    name="half_c3",
    columns=3,
    channels=(8, 16, 32, 64, 64),
    draws={"local": 0.5, "column": 0.5},
    epochs=EPOCHS,
    batch=128,
    rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup=0.15,
    augmentation="+",
)
"""C = 3 at half the channels of the paper's small net: the paper's mix, with weight decay, Nesterov and a cosine."""

DROPOUT = (0.0, 0.1, 0.2, 0.3, 0.4)


@dataclass(frozen=True)
class Lever:
    """One lever: what it is, and what it changes of a recipe."""

    title: str
    pull: Callable[[Recipe], Recipe]


def _per_block(recipe: Recipe) -> Recipe:
    return recipe.with_overrides(dropout=DROPOUT, net_options=recipe.net_options | {"dropout_per": "block"})


def _plain(columns: int) -> Callable[[Recipe], Recipe]:
    return lambda recipe: recipe.with_overrides(
        columns=columns,
        net_options=recipe.net_options | {"family": "plain"},
        draws={"full": 1.0},
        tied=False,
    )


LEVERS: dict[str, Lever] = {
    "base": Lever("the paper's mix of draws; weight decay 5e-4, Nesterov, cosine to 0 from 0.1", lambda r: r),
    "paper": Lever(
        "the paper's optimiser too: no weight decay, no Nesterov, rate 0.02 by halving, batch 100",
        lambda r: r.with_overrides(
            rate=0.02, nesterov=False, weight_decay=0.0, schedule="halving", warmup=0.0, batch=100
        ),
    ),
    "nested": Lever(
        "nested fractals: column 1, f_2 and f_3 (local drop-path inside) as 1 : 1 : 2",
        lambda r: r.with_overrides(draws={"column1": 1.0, "joined2": 1.0, "local": 2.0}, tied=False),
    ),
    "nested_even": Lever(
        "nested fractals evenly",
        lambda r: r.with_overrides(draws={"column1": 1.0, "joined2": 1.0, "local": 1.0}, tied=False),
    ),
    "nested_whole": Lever(
        "nested fractals: column 1, f_2 and f_3 (nothing dropped inside) as 1 : 1 : 2",
        lambda r: r.with_overrides(draws={"column1": 1.0, "joined2": 1.0, "full": 2.0}, tied=False),
    ),
    "tied": Lever(
        "every mini-batch trains the full net and all columns", lambda r: r.with_overrides(**REGIMES["tied"])
    ),
    "sandwich": Lever(
        "sandwich: full net on labels; columns 1, C and a random one on its soft answers",
        lambda r: r.with_levers(sandwich="columns"),
    ),
    "sandwich_nested": Lever(
        "sandwich: full net on labels; column 1 and a random f_k between on its soft answers",
        lambda r: r.with_levers(sandwich="nested"),
    ),
    "private": Lever(
        "batch norms of its own for every stage in training", lambda r: r.with_levers(private_norms=True)
    ),
    "average": Lever(
        "exponential moving average of the weights, 0.998 a step", lambda r: r.with_levers(average=0.998)
    ),
    "dropout": Lever(
        "dropout 0 to 0.4 by block in every layer, as in the paper",
        lambda r: r.with_overrides(dropout=DROPOUT),
    ),
    "dropout_block": Lever("one channel-wise dropout a block, 0 to 0.4", _per_block),
    "late": Lever(
        "late columns: only local drop-path in the first half",
        lambda r: r.with_overrides(draws={"local": 1.0}, tied=False).with_levers(
            late_draws={"local": 0.5, "column": 0.5}
        ),
    ),
    "tune": Lever(
        "one more epoch for each stage alone, from a copy, on the full net's soft answers",
        lambda r: r.with_levers(tune_epochs=1, tune_distilled=True),
    ),
    "smoothing": Lever("label smoothing 0.1", lambda r: r.with_levers(label_smoothing=0.1)),
    "cutout": Lever("cutout of 8x8 pixels", lambda r: r.with_levers(cutout=8)),
    "plain5": Lever("plain net of 5 layers: column 1 built and trained alone", _plain(1)),
    "plain10": Lever("plain net of 10 layers: column 2 built and trained alone", _plain(2)),
    "plain20": Lever("plain net of 20 layers: column 3 built and trained alone", _plain(3)),
}


class UnknownLeverError(LookupError):
    """No lever has that name; the message lists those there are."""


def recipe_of(row: str, epochs: int = EPOCHS) -> Recipe:
    """The recipe of a row: the base with every lever of the row pulled. Raises UnknownLeverError."""
    recipe = BASE.with_overrides(epochs=epochs)
    for name in row.split("+"):
        recipe = _lever(name).pull(recipe)
    return recipe.with_overrides(name=f"half_c3 {row}")


def title_of(row: str) -> str:
    """What a row is, in words. Raises UnknownLeverError."""
    return "; ".join(_lever(name).title for name in row.split("+"))


def _lever(name: str) -> Lever:
    if name not in LEVERS:
        raise UnknownLeverError(f"no lever {name!r}; there are: {', '.join(LEVERS)}")
    return LEVERS[name]


def passes(recipe: Recipe, config: FractalConfig) -> dict[str, float]:
    """How often each stage sees an image in one epoch, on average; a local draw is one of the full net's."""
    late = recipe.levers.late_from if recipe.levers.late_draws else 1.0
    early = _shares_of(recipe, config)
    found = {name: late * share for name, share in early.items()}
    for name, share in _shares(recipe.levers.late_draws, config).items():
        found[name] = found.get(name, 0.0) + (1 - late) * share
    return {name: found[name] for name in stages(config) if found.get(name)}


def _shares_of(recipe: Recipe, config: FractalConfig) -> dict[str, float]:
    C = config.columns
    if recipe.levers.sandwich == "columns":
        middle = {f"column{k}": 1 / (C - 2) for k in range(2, C)}
        return {"full": 1.0, "column1": 1.0, f"column{C}": 1.0} | middle
    if recipe.levers.sandwich == "nested":
        return {"full": 1.0, "column1": 1.0} | {f"joined{k}": 1 / (C - 2) for k in range(2, C)}
    if recipe.tied:
        return {"full": 1.0} | {f"column{k}": 1.0 for k in range(1, C + 1)}
    return _shares(recipe.draws, config)


def _shares(draws: dict[str, float], config: FractalConfig) -> dict[str, float]:
    whole = list(stages(config))[-1]
    total, found = sum(draws.values()), dict.fromkeys(stages(config), 0.0)
    for kind, share in draws.items():
        if kind == "column":
            for k in range(1, config.columns + 1):
                found[f"column{k}"] += share / total / config.columns
        else:
            found[kind if kind in found else whole] += share / total
    return found
