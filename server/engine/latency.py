"""How long a launch will take: a profiled table, corrected by what is measured while serving.

Knows numbers only; profiling and files are in profile.py. Pure: the policy and the simulator use it as it is.

Two things make a launch longer than its profile, and they must not be taken for each other. A device that has become
slower makes every launch longer in proportion: the *factor*. A stall of the machine (they come several times a second)
adds milliseconds to whichever launch it meets: the *tail*. Seen through ratios alone, one stall in a launch of 0.1 ms
would price every deep stage out of the schedule. So

    work  = profile × factor + overhead     what a launch costs, to be added up over many
    ns    = work + tail                     what may be promised for one, now

The overhead is what was measured between launches that followed each other, quick to rise and slow to sink.

The factor is a high quantile of recent ratios of measured to profiled, of the stage itself once it has run often
enough, of all stages until then: a shallow stage suffers more from a cold cache than a deep one. A launch counts by
its profiled time: on a crowded core each may lose milliseconds to others, which is ten times the length of a small one,
and taken for the device's speed it would make a large one seem too long for anybody's deadline. All rise at once by
the second largest of the last three ratios, each taken against what is usual for its stage: one slow launch may be a
stall, two are a slow device. The tail is a high quantile of what the factor leaves over, and at once the excess of a
miss, sinking again with every launch that keeps its time. The tail is capped: guarding against longer stalls would
refuse more work than they spoil.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Final

WINDOW: Final = 512
FACTOR_QUANTILE: Final = 0.9
FIRST_FACTOR: Final = 1.15  # at least, until WARM launches are in: a handful of samples shows no spread
TAIL_QUANTILE: Final = 0.99
FIRST_TAIL_NS: Final = 300_000
LONGEST_TAIL_NS: Final = 2_000_000
WARM: Final = 50
TAIL_DECAY: Final = 0.9
OVERHEAD_NS: Final = 100_000  # of the engine's loop around each launch, at least
LONGEST_OVERHEAD_NS: Final = 5_000_000
OVERHEAD_RISES: Final = 0.25  # towards what was measured last, where that is more
OVERHEAD_SINKS: Final = 0.02  # where it is less
TELLING_OVERHEAD_NS: Final = 25_000  # and a tenth: less is not worth computing all estimates anew
TELLING_NS: Final = 50_000  # launches shorter than this by their profile say nothing about the device's speed

TELLING_FACTOR: Final = 0.002  # relative change; less is not worth computing all estimates anew
# So many launches of other stages, and a stage's worst ratios are doubted: it may be avoided for them.
UNSEEN: Final = 256


class _Recent:
    """The last WINDOW numbers, in order of size, each with a weight."""

    def __init__(self) -> None:
        self._order: deque[tuple[float, float]] = deque()  # the oldest first
        self._values: list[float] = []
        self._weights: list[float] = []
        self._total = 0.0  # weight
        self._found: dict[float, float] = {}  # quantiles, until the next number

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float, weight: float = 1.0) -> None:
        self._order.append((value, weight))
        place = self._place(value)
        self._values.insert(place, value)
        self._weights.insert(place, weight)
        self._total += weight
        if len(self._order) > WINDOW:
            self._remove(*self._order.popleft())
        self._found.clear()

    def quantile(self, share: float) -> float:
        """What so much of the weight does not exceed."""
        found = self._found.get(share)
        if found is None:
            found = self._found[share] = self._quantile(share)
        return found

    def forget_worst(self) -> None:
        left = len(self._values) - max(1, len(self._values) // 10)
        del self._values[left:]
        del self._weights[left:]
        self._order = deque(zip(self._values, self._weights, strict=True))
        self._total = sum(self._weights)
        self._found.clear()

    def _quantile(self, share: float) -> float:
        above = (1.0 - share) * self._total
        place = len(self._weights)
        while place > 1 and above >= 0:
            place -= 1
            above -= self._weights[place]
        return self._values[place if above < 0 else 0]

    def _place(self, value: float) -> int:
        """Of the first that is not less."""
        start, end = 0, len(self._values)
        while start < end:
            middle = (start + end) >> 1
            if self._values[middle] < value:
                start = middle + 1
            else:
                end = middle
        return start

    def _remove(self, value: float, weight: float) -> None:
        place = self._place(value)
        while self._weights[place] != weight:  # of equal values
            place += 1
        del self._values[place]
        del self._weights[place]
        self._total -= weight


def buckets_up_to(max_batch: int) -> list[int]:
    """The batch sizes that are profiled: powers of two up to 32 or so, and `max_batch` itself."""
    powers = [1 << place for place in range(max_batch.bit_length()) if 1 << place < max_batch]
    return [*powers, max_batch]


class LatencyTable:
    """Estimated latency of every (stage, batch) of one model on one device.

    Args:
        profile: per stage (by place in the ladder) the median nanoseconds by batch size; a stage may be missing,
            and is then never asked for.
        max_batch: largest batch that will be asked for.
        runs_as: per stage, where its runtime pads or splits batches, the sizes that one of 0, 1, … max_batch is run in.
        overhead_ns: the least, see the module.
        first_tail_ns: the least tail until enough is measured.

    Attributes:
        overhead_ns: what there is of it now.
        tail_ns: likewise.
    """

    def __init__(
        self,
        profile: Mapping[int, Mapping[int, float]],
        max_batch: int,
        runs_as: Mapping[int, Sequence[Sequence[int]]] | None = None,
        overhead_ns: int = OVERHEAD_NS,
        first_tail_ns: int = FIRST_TAIL_NS,
    ) -> None:
        self._made_of = profile, max_batch, runs_as, overhead_ns, first_tail_ns
        self.max_batch = max_batch
        self.buckets = buckets_up_to(max_batch)
        self.tail_ns = first_tail_ns
        as_they_are = [(batch,) for batch in range(max_batch + 1)]
        # By stage; empty where it is missing.
        self._base: list[list[float]] = [[] for _ in range(max(profile, default=-1) + 1)]
        for stage, cells in profile.items():
            run_in = (runs_as or {}).get(stage, as_they_are)
            self._base[stage] = _as_run(_interpolate(cells, max_batch), run_in)
        self.overhead_ns = self._least_overhead_ns = overhead_ns
        self._between_ns = float(overhead_ns)
        self._first_tail_ns = first_tail_ns
        self._ratios = _Recent()
        self._ratios_of = {stage: _Recent() for stage in profile}
        self._unseen = dict.fromkeys(profile, 0)
        self._factors = dict.fromkeys(profile, FIRST_FACTOR)
        # By stage and batch, 0 where not known: kept until a stage's factor changes, for it is asked dozens of times a
        # decision.
        self._work = [[0] * len(table) for table in self._base]
        self._best = {stage: self.best_batch(stage) for stage in profile}
        self._left_over = _Recent()
        self._last_excesses: deque[float] = deque(maxlen=3)
        self._raised_ns = 0.0

    def anew(self) -> LatencyTable:
        """One that has learnt nothing yet."""
        return LatencyTable(*self._made_of)

    def ns(self, stage: int, batch: int) -> int:
        """High estimate of one launch of `batch` images: it may be promised."""
        return self.work_ns(stage, batch) + self.tail_ns

    def work_ns(self, stage: int, batch: int) -> int:
        """Device time of such a launch, for sums: the tail comes on top of the sum, once."""
        found = self._work[stage][batch]
        if not found:
            found = int(self._base[stage][batch] * self._factors[stage]) + self.overhead_ns
            self._work[stage][batch] = found
        return found

    def profiled_ns(self, stage: int, batch: int) -> int:
        """As it was on an undisturbed device."""
        return int(self._base[stage][batch]) + self._least_overhead_ns

    @property
    def factor(self) -> float:
        """Measured to profiled, the mean of the stages."""
        return sum(self._factors.values()) / max(len(self._factors), 1)

    def typical_ns(self, stage: int, batch: int) -> int:
        """The median, as far as it is known."""
        return int(self._base[stage][batch] * self._usual(stage))

    def observe(self, stage: int, batch: int, duration_ns: int) -> None:
        """Learn from a finished launch."""
        base = self._base[stage][batch]
        excess_ns = duration_ns - base * self._factors[stage]
        if base >= TELLING_NS:
            ratio = duration_ns / base
            self._last_excesses.append(ratio / self._usual(stage))
            self._ratios.add(ratio, base)
            self._ratios_of[stage].add(ratio, base)
        missed = excess_ns > self.tail_ns
        self._raised_ns = max(excess_ns, 0.0) if missed else self._raised_ns * TAIL_DECAY
        self._left_over.add(excess_ns)
        self._doubt_unseen(stage)
        self._settle()

    def observe_between(self, between_ns: int) -> bool:
        """Learn from the time between the end of a launch and the beginning of the next, though work was waiting.

        It is the engine's own work, and on a crowded core that of everybody else: there it can be longer than the
        launches. Returns whether estimates have changed.
        """
        rises = between_ns > self._between_ns
        step = OVERHEAD_RISES if rises else OVERHEAD_SINKS
        self._between_ns += step * (min(between_ns, LONGEST_OVERHEAD_NS) - self._between_ns)
        overhead_ns = max(int(self._between_ns), self._least_overhead_ns)
        if abs(overhead_ns - self.overhead_ns) <= TELLING_OVERHEAD_NS + self.overhead_ns // 10:
            return False
        self._set_overhead(overhead_ns)
        return True

    def rest(self) -> bool:
        """The device has been idle for a while: nobody crowds it any more, and nothing else would find out, if tight
        jobs are refused meanwhile. Returns whether estimates have changed."""
        if self.overhead_ns == self._least_overhead_ns:
            return False
        self._between_ns = float(self._least_overhead_ns)
        self._set_overhead(self._least_overhead_ns)
        return True

    def _set_overhead(self, overhead_ns: int) -> None:
        self.overhead_ns = overhead_ns
        for stage in self._best:
            self._forget(stage)
            self._best[stage] = self.best_batch(stage)

    def _forget(self, stage: int) -> None:
        self._work[stage] = [0] * len(self._base[stage])

    def _doubt_unseen(self, stage: int) -> None:
        """A stage too slow for its deadlines does not run: nothing else would find out that it has recovered."""
        for other in self._unseen:
            self._unseen[other] = 0 if other == stage else self._unseen[other] + 1
            if self._unseen[other] >= UNSEEN:
                self._unseen[other] = 0
                self._ratios_of[other].forget_worst()

    def relax(self) -> None:
        """Forget the worst of what was measured.

        For when the estimate has all work refused: nothing runs any more, so that a device which has recovered would
        never be found out.
        """
        for recent in (self._ratios, self._left_over, *self._ratios_of.values()):
            recent.forget_worst()
        self._last_excesses.clear()
        self._raised_ns *= TAIL_DECAY
        self.rest()
        self._settle()

    def best_batch(self, stage: int, tolerance: float = 0.05, longest_ns: float = math.inf) -> int:
        """The smallest batch whose cost per image is within `tolerance` of the lowest; larger ones only block.

        Only batches of at most `longest_ns` are considered, and that of one image.
        """
        base = self._base[stage]
        sizes = [b for b in self.buckets if b == 1 or self.work_ns(stage, b) <= longest_ns]
        lowest = min((base[b] + self.overhead_ns) / b for b in sizes)
        return next(b for b in sizes if (base[b] + self.overhead_ns) / b <= lowest * (1 + tolerance))

    def efficiency(self, stage: int, batch: int) -> float:
        """Time per image at the best batch as a share of that at this one, 0…1."""
        best = self._best[stage]
        return self.work_ns(stage, best) * batch / (best * self.work_ns(stage, batch))

    def _recent(self, stage: int) -> _Recent | None:
        """What says how long this stage takes now; None before enough launches do."""
        own = self._ratios_of[stage]
        if len(own) >= WARM:
            return own
        return self._ratios if len(self._ratios) >= WARM else None

    def _usual(self, stage: int) -> float:
        recent = self._recent(stage)
        return recent.quantile(0.5) if recent else 1.0

    def _settle(self) -> None:
        surge = sorted(self._last_excesses)[-2] if len(self._last_excesses) > 1 else 0.0
        for stage in self._factors:
            recent = self._recent(stage)
            factor, usual = FIRST_FACTOR, 1.0
            if recent:
                factor, usual = recent.quantile(FACTOR_QUANTILE), recent.quantile(0.5)
            factor = max(factor, surge * usual, 0.5)
            if abs(factor - self._factors[stage]) > TELLING_FACTOR * factor:
                self._factors[stage] = factor
                self._forget(stage)
        tail = (
            self._left_over.quantile(TAIL_QUANTILE) if len(self._left_over) >= WARM else self._first_tail_ns
        )
        self.tail_ns = int(min(max(tail, self._raised_ns, 0.0), LONGEST_TAIL_NS))


def _as_run(table: Sequence[float], runs_as: Sequence[Sequence[int]]) -> list[float]:
    """Nanoseconds by batch 0 …, of the sizes that it is run in; never falling."""
    return list(accumulate([sum(table[size] for size in sizes) for sizes in runs_as], max))


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
