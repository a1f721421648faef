"""FractalNet-20 with shared 1x1 layers where the width changes between blocks: the paper's printed 38.6 M parameters.

The paper does not say where its 4.8 M further parameters are; 1x1 convolutions with batch norm (and ReLU, our choice),
shared by all columns of the next block, give 38,589,476 with 100 classes. Otherwise as `fractalnet20_regularised`.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="fractalnet20_widened",
    columns=3,
    channels=(64, 128, 256, 512, 512),
    net_options={"widening": True},
    draws={"local": 0.5, "column": 0.5},
    dropout=(0.0, 0.1, 0.2, 0.3, 0.4),
    epochs=400,
    batch=100,
    rate=0.02,
    schedule="halving",
    augmentation="+",
)
