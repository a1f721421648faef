"""A plain net of 40 layers (Table 4): column 4 of a C = 4 net, built and trained alone; ++ augmentation, batch 50.

The point of comparison for columns: column 4 of a fractal net has the same layers.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="plain40",
    columns=4,
    channels=(16, 32, 64, 128, 128),
    net_options={"family": "plain"},
    draws={"full": 1.0},
    epochs=400,
    batch=50,
    rate=0.02,
    schedule="halving",
    augmentation="++",
)
