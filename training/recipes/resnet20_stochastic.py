"""`resnet20` with stochastic depth (Huang et al., 2016): units are passed by, the last one half of the time.

Survival falls linearly from 1 at the input to 0.5 at the last unit; one choice serves the whole mini-batch.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="resnet20_stochastic",
    columns=3,
    channels=(64, 128, 256, 512, 512),
    net_options={"family": "residual", "survival": 0.5},
    draws={"stochastic_depth": 1.0},
    epochs=400,
    batch=100,
    rate=0.1,
    weight_decay=1e-4,
    schedule="halving",
    augmentation="+",
)
