"""A ResNet of 40 layers, as wide and as deep as the small C = 4 net: the point of comparison.

He et al.'s basic units on the fractal net's own frame (five blocks, each ended by a pool; 1x1 shortcuts where the width
changes), so that only the shortcuts differ. The paper's own rows are a ResNet of 110 layers. Rate and weight decay are
He et al.'s, the rest is the paper's.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="small_resnet40",
    columns=4,
    channels=(16, 32, 64, 128, 128),
    net_options={"family": "residual"},
    draws={"full": 1.0},
    epochs=400,
    batch=100,
    rate=0.1,
    weight_decay=1e-4,
    schedule="halving",
    augmentation="+",
)
