"""FractalNet-20 on SVHN (Table 1): 20 epochs, so that the rate falls after 10, 15, 17.5 and 18.75; no augmentation.

With drop-path and dropout; `--drop-path none --no-dropout` gives the table's first row. Trained on the training and
the extra images together (`--data svhn`), pixels normalised per channel: the paper leaves its preprocessing open.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="fractalnet20_svhn",
    columns=3,
    channels=(64, 128, 256, 512, 512),
    draws={"local": 0.5, "column": 0.5},
    dropout=(0.0, 0.1, 0.2, 0.3, 0.4),
    epochs=20,
    batch=100,
    rate=0.02,
    schedule="halving",
    augmentation="none",
)
