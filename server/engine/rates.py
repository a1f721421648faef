"""How fast jobs of one model come.

Knows moments; must not know jobs.
"""

from __future__ import annotations

import math
from typing import Final

LONG_NS: Final = 200e6
SHORT_NS: Final = 30e6
SURE: Final = 3.0  # standard deviations


class Rates:
    """The rate of arrivals, recent ones counting most.

    The mean over a fifth of a second is steady, but knows of a burst when it is half over. A shorter one counts as far
    as it is above what it would be by chance.
    """

    def __init__(self) -> None:
        self._long = self._short = 0.0
        self._last_ns: int | None = None

    def count(self, now_ns: int) -> None:
        """A job has come."""
        self._long, self._short = self._now(now_ns)
        self._long += 1 / LONG_NS
        self._short += 1 / SHORT_NS
        self._last_ns = now_ns

    def per_ns(self, now_ns: int) -> float:
        """Jobs per nanosecond."""
        long, short = self._now(now_ns)
        # The count under a decaying weight, were arrivals random, would vary by half of its mean.
        return max(long, short - SURE * math.sqrt(short / (2 * SHORT_NS)))

    def _now(self, now_ns: int) -> tuple[float, float]:
        if self._last_ns is None:
            return 0.0, 0.0
        passed_ns = self._last_ns - now_ns
        return self._long * math.exp(passed_ns / LONG_NS), self._short * math.exp(passed_ns / SHORT_NS)
