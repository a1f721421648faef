"""The shipped model's recipe: a small C = 3 net on nested fractals f_1 ⊂ f_2 ⊂ f_3.

A third of the usual cost in training, and better rungs than the paper's mix: see docs/trainer.md for the comparison.
The deepest fractal gets half of all draws, with local drop-path inside, because it pulls away slowly.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="small_nested",
    columns=3,
    channels=(16, 32, 64, 128, 128),
    draws={"column1": 1, "joined2": 1, "local": 2},
    epochs=50,
    batch=128,
    rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup=0.15,
    augmentation="+",
)
