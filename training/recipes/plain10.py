"""A plain net of 10 layers (Table 4): column 2 of a C = 2 net, built and trained alone; ++ augmentation, batch 50.

The point of comparison for columns: column 2 of a fractal net has the same layers.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="plain10",
    columns=2,
    channels=(16, 32, 64, 128, 128),
    net_options={"family": "plain"},
    draws={"full": 1.0},
    epochs=400,
    batch=50,
    rate=0.02,
    schedule="halving",
    augmentation="++",
)
