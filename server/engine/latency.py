"""How long a launch will take: a profiled table, corrected by what is measured while serving.

Knows numbers only; profiling and files are in profile.py. Pure: the policy and the simulator use it as it is.

The estimate is profile × factor + jitter. `jitter` is what any launch may lose to the operating system,
however short it is; without it the scatter of 0.1 ms launches would inflate the estimate of 5 ms ones. The
factor is a high quantile of (measured − jitter) / profile, pooled over all cells, or what a recent miss has
raised it to: at once, at most twofold, and sinking again with every launch that keeps its time. Twofold,
because a single stall of the machine (they come several times a second) must not price every deep stage out
of the schedule, while a device that has become ten times slower is known as such after four launches.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise

QUANTILE = 0.99
WINDOW = 512
FIRST_FACTOR = 1.3  # at least, until WARM measurements are in: a handful of samples does not show the tail
WARM = 50
FEW = 5
JITTER_NS = 100_000
DECAY = 0.95


def buckets_up_to(max_batch: int) -> list[int]:
    """The batch sizes that are profiled: powers of two up to 32 or so, and `max_batch` itself."""
    powers = [1 << place for place in range(max_batch.bit_length()) if 1 << place < max_batch]
    return [*powers, max_batch]


class LatencyTable:
    """Estimated latency of every (stage, batch) of one model on one device.

    Args:
        profile: per stage (by place in the ladder) the median nanoseconds by batch size; a stage may be
            missing, and is then never asked for.
        max_batch: largest batch that will be asked for.
        jitter_ns: see the module.
    """

    def __init__(
        self, profile: Mapping[int, Mapping[int, float]], max_batch: int, jitter_ns: int = JITTER_NS
    ) -> None:
        self.max_batch = max_batch
        self.buckets = buckets_up_to(max_batch)
        self._base = {stage: _interpolate(cells, max_batch) for stage, cells in profile.items()}
        self._jitter_ns = jitter_ns
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._raised = 0.0
        self._quantile = FIRST_FACTOR
        self._factor = FIRST_FACTOR

    def ns(self, stage: int, batch: int) -> int:
        """High estimate of a launch of `batch` images: it may be promised."""
        return int(self._base[stage][batch] * self._factor) + self._jitter_ns

    def profiled_ns(self, stage: int, batch: int) -> int:
        """As it was on an undisturbed device."""
        return int(self._base[stage][batch]) + self._jitter_ns

    def typical_ns(self, stage: int, batch: int) -> int:
        """The median, as far as it is known."""
        middle = self._sorted[len(self._sorted) // 2] if self._sorted else 1.0
        return int(self._base[stage][batch] * middle)

    @property
    def factor(self) -> float:
        """What the profile is multiplied by at present."""
        return self._factor

    def observe(self, stage: int, batch: int, duration_ns: int) -> None:
        """Learn from a finished launch."""
        ratio = max(duration_ns - self._jitter_ns, 0) / self._base[stage][batch]
        if ratio > self._factor:
            self._raised = min(ratio, 2.0 * self._factor)
        else:
            self._raised *= DECAY
        self._remember(ratio)
        self._factor = max(self._quantile, self._raised)

    def relax(self) -> None:
        """Forget the worst of what was measured.

        For when the estimate has all work refused: nothing runs any more, so that a device which has recovered would
        never be found out.
        """
        worst = max(1, len(self._sorted) // 10)
        self._sorted = self._sorted[:-worst]
        self._recent = deque(self._sorted)
        self._quantile = self._high_quantile()
        self._raised *= DECAY
        self._factor = max(self._quantile, self._raised)

    def best_batch(self, stage: int, tolerance: float = 0.05) -> int:
        """The smallest batch whose cost per image is within `tolerance` of the lowest; larger ones only block."""
        base = self._base[stage]
        lowest = min((base[b] + self._jitter_ns) / b for b in self.buckets)
        return next(b for b in self.buckets if (base[b] + self._jitter_ns) / b <= lowest * (1 + tolerance))

    def _remember(self, ratio: float) -> None:
        self._recent.append(ratio)
        insort(self._sorted, ratio)
        if len(self._recent) > WINDOW:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._quantile = self._high_quantile()

    def _high_quantile(self) -> float:
        """Of few measurements a lower one: a stall among the first must not stand for the device."""
        count = len(self._sorted)
        if count >= WARM:
            return max(self._sorted[min(int(count * QUANTILE), count - 1)], 0.5)
        return max(self._sorted[int((count - 1) * 0.9)], FIRST_FACTOR) if count >= FEW else FIRST_FACTOR


def _interpolate(cells: Mapping[int, float], max_batch: int) -> Sequence[float]:
    """Nanoseconds by batch 0 … max_batch: linear between profiled sizes, never falling, extended by the last slope."""
    sizes = sorted(cells)
    values = [max(cells[size] for size in sizes[: place + 1]) for place in range(len(sizes))]
    if len(sizes) == 1:
        sizes, values = [sizes[0], 2 * sizes[0]], [values[0], 2 * values[0]]
    table = [values[0]] * (sizes[0] + 1)
    for (low, low_ns), (high, high_ns) in pairwise(zip(sizes, values, strict=True)):
        slope = (high_ns - low_ns) / (high - low)
        table += [low_ns + slope * step for step in range(1, high - low + 1)]
    slope = max((values[-1] - values[-2]) / (sizes[-1] - sizes[-2]), 0.0)
    table += [values[-1] + slope * step for step in range(1, max_batch - sizes[-1] + 1)]
    return table
