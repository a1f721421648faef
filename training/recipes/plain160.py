"""A plain net of 160 layers (Table 4): column 6 of a C = 6 net, built and trained alone; ++ augmentation, batch 50.

The paper's did not converge.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="plain160",
    columns=6,
    channels=(16, 32, 64, 128, 128),
    net_options={"family": "plain"},
    draws={"full": 1.0},
    epochs=400,
    batch=50,
    rate=0.02,
    schedule="halving",
    augmentation="++",
)
