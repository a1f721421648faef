"""A small C = 4 net on nested fractals f_1 ⊂ f_2 ⊂ f_3 ⊂ f_4: a ladder whose last rung costs 28 times its first.

As `small_nested`, but nothing is dropped inside the deepest fractal: at few epochs that drop-path costs the full net
more than it gives (rows `nested` and `nested_whole` of docs/results/columns.md).
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="small_nested_c4",
    columns=4,
    channels=(16, 32, 64, 128, 128),
    draws={"column1": 1, "joined2": 1, "joined3": 1, "full": 2},
    epochs=70,
    batch=128,
    rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup=0.15,
    augmentation="+",
)
