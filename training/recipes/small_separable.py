"""The small C = 3 net of another layer: depthwise 3x3, then 1x1 convolutions where the paper has 3x3 ones.

It shows that the rule does not depend on what it expands: `layer` names any module that keeps height and width. An
eighth of the parameters, otherwise as `small_nested`.
"""

from training.recipe import Recipe

RECIPE = Recipe(
    name="small_separable",
    columns=3,
    channels=(16, 32, 64, 128, 128),
    net_options={"layer": "separable"},
    draws={"column1": 1, "joined2": 1, "local": 2},
    epochs=50,
    batch=128,
    rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
    schedule="cosine",
    warmup=0.15,
    augmentation="+",
)
