"""FractalNet-20 (Table 1): C = 3, five blocks, no drop-path and no dropout; + augmentation.

33.8 M parameters. The paper prints 38.6 M, which `fractalnet20_widened` has. Left open by the paper, our choice: no
weight decay. The table's other columns: `--augmentation none` and `--augmentation ++`.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="fractalnet20",
    columns=3,
    channels=(64, 128, 256, 512, 512),
    draws={"full": 1.0},
    epochs=400,
    batch=100,
    rate=0.02,
    schedule="halving",
    augmentation="+",
)
