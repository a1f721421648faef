"""FractalNet-20 with drop-path and dropout (Table 1, second row; its deepest column is the third row).

Local and global drop-path half and half, a new subnetwork each mini-batch, local p = 0.15; dropout 0 to 0.4 by block,
between convolution and batch norm, as in the authors' code. Left open by the paper, our choice: no weight decay.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="fractalnet20_regularised",
    columns=3,
    channels=(64, 128, 256, 512, 512),
    draws={"local": 0.5, "column": 0.5},
    dropout=(0.0, 0.1, 0.2, 0.3, 0.4),
    epochs=400,
    batch=100,
    rate=0.02,
    schedule="halving",
    augmentation="+",
)
