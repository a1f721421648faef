"""A tiny real task for tests and first tries: scikit-learn's 8x8 digits, C = 2, three blocks; under a minute."""

from training.recipe import Recipe

RECIPE = Recipe(
    name="digits",
    columns=2,
    channels=(16, 32, 32),
    draws={"column1": 1, "local": 1},
    epochs=12,
    batch=64,
    rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup=0.15,
    augmentation="none",
)
