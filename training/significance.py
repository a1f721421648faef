"""Is one set of answers better than another? Paired tests on the same images.

Knows counts only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Paired:
    """What McNemar's test found.

    Attributes:
        gained: images that only the second got right.
        lost: images that only the first got right.
        p: probability of a split at least so uneven if both were equally good; exact, two-sided.
    """

    gained: int
    lost: int
    p: float

    @property
    def verdict(self) -> str:
        """The second against the first, at p < 0.05."""
        if self.p >= 0.05:
            return "no difference"
        return "better" if self.gained > self.lost else "worse"


def mcnemar(first: Right, second: Right) -> Paired:
    """McNemar's exact test on whether each image [n] was answered rightly by the first and by the second."""
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Paired(gained, lost, float(p))
