"""A warm restart of `small_nested_c4` for a finished run of it: `--start RUN`.

After 70 epochs the full net fits its training images almost wholly, so that the second cycle hides a part of each
(cutout) besides raising the rate once more, to half of the first cycle's. What is published is the mean of the
weights at the ends of both cycles: it beats either on validation (docs/results/restart.md).
"""

from training.recipe import Levers
from training.recipes.small_nested_c4 import RECIPE as FIRST

RECIPE = FIRST.with_overrides(
    name="small_nested_c4_again",
    epochs=20,
    rate=0.05,
    warmup=0.0,
    levers=Levers(cutout=8, blend=0.5),
)
