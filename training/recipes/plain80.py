"""A plain net of 80 layers (Table 4): column 5 of a C = 5 net, built and trained alone; ++ augmentation, batch 50.

Not in the paper's table, between the 40 layers that train badly and the 160 that do not.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="plain80",
    columns=5,
    channels=(16, 32, 64, 128, 128),
    net_options={"family": "plain"},
    draws={"full": 1.0},
    epochs=400,
    batch=50,
    rate=0.02,
    schedule="halving",
    augmentation="++",
)
