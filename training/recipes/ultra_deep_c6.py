"""Table 3, C = 6: 160 layers, 21.1 M parameters with 100 classes; ++ augmentation, batch 50.

The paper does not say whether these nets had drop-path or dropout; ours have neither, since only the full net is
measured. `--drop-path mixed` adds it.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="ultra_deep_c6",
    columns=6,
    channels=(16, 32, 64, 128, 128),
    draws={"full": 1.0},
    epochs=400,
    batch=50,
    rate=0.02,
    schedule="halving",
    augmentation="++",
)
