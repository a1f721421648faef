"""Half the channels of `small_paper` on the paper's mix of draws, for serving the paper's own ladder: its columns.

`cifar10-columns` is trained with it: small, so that it lies beside the shipped model without weighing much.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="half_paper",
    columns=3,
    channels=(8, 16, 32, 64, 64),
    draws={"local": 0.5, "column": 0.5},
    epochs=30,
    batch=128,
    rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup=0.15,
    augmentation="+",
)
