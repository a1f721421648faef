"""The paper's small net (its Tables 3 and 4): C = 4, five blocks, local and global drop-path half and half.

The recipe follows section 4.1: SGD with momentum 0.9, no Nesterov, rate 0.02 divided by 10 whenever the remaining
epochs halve, batch 100, 400 epochs, dropout 0 to 0.4 by block. Weight decay is not stated in the paper; ours is none.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="small_paper",
    columns=4,
    channels=(16, 32, 64, 128, 128),
    draws={"local": 0.5, "column": 0.5},
    dropout=(0.0, 0.1, 0.2, 0.3, 0.4),
    epochs=400,
    batch=100,
    rate=0.02,
    schedule="halving",
    augmentation="+",
)
