"""What every contender offers once it has loaded. Knows no runtime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images uint8 [n, h, w, 3] -> logits float32 [n, classes]."""


class NotHere(Exception):
    """This contender cannot run on this machine; the text says why."""


@dataclass(frozen=True)
class Stages:
    """A contender that has loaded: a run per stage, the precision it computes in, and a remark for each stage."""

    runs: Sequence[Run]
    precision: str
    remarks: dict[str, str]
