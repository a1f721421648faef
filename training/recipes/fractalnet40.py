"""FractalNet-40 (Table 1): C = 4 with thin deep columns, 22.9 M parameters.

Columns 1 to 4 are (128, 64, 32, 16) channels wide, times (1, 2, 4, 8, 8) by block. Linear 1x1 projections, without bias
and batch norm, widen the thinner members of a join. Kernels are mixed: 3x3 in column 1 and wherever a layer reads a
thin signal, 1x1 where columns 2 to 4 read a join or the block's input. The paper does not say which layers are 1x1;
this reading gives 22,925,108 parameters with 100 classes. Also open, our choice: projections stand behind the pool at
a block's end, where they are four times cheaper; drop-path and dropout as in FractalNet-20.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="fractalnet40",
    columns=4,
    channels=(128, 256, 512, 1024, 1024),
    net_options={"column_divisors": (1, 2, 4, 8), "pointwise": True},
    draws={"local": 0.5, "column": 0.5},
    dropout=(0.0, 0.1, 0.2, 0.3, 0.4),
    epochs=400,
    batch=100,
    rate=0.02,
    schedule="halving",
    augmentation="+",
)
