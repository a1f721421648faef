"""What device time is worth, and the plan that each price makes best for each image.

At a price of `p` expected right answers per nanosecond, a job that has had the rungs `mask` and stands in confidence
bin `b` is worth

    V(mask, b) = max(0, max over rungs k of gain(mask, b, k) - p·cost(k) + E[V(mask + k, b')])

the value of going on with the best rung, or of stopping. `Plans` solves this for one model on a whole grid of prices
at once, from the gains of the manifest, the latency table, and how often an image went from bin `b` to bin `b'`, which
it learns while serving. So it knows for every price the rung to run next, and the device time that the job is still
going to take. The price of the moment is the lowest at which all planned work fits in the time there is: `price_of`.

Compared with the greedy rule "most gain per nanosecond", the price decides *which* rung an image should have: a cheap
rung whose answer will not do is a detour when time is plentiful, and the best there is when it is short. This is the
Lagrangian of the cascade optimum (the bound U2 of loadtest.bounds), followed from moment to moment. What a rung is
worth to an image beyond what it would gain if it were passed over, gain + E[V(mask + k, b')] - V(mask, b), is p·cost(k)
for the rung of its plan and less for any other: so much it may pay for a seat in a launch (see candidates.py).

Pure arithmetic; must not know jobs, deadlines or the clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.engine.ladder import Ladder
from server.engine.latency import LatencyTable

Floats: TypeAlias = NDArray[np.float64]

# A ladder's cost may be anything from microseconds to seconds, so the grid is wide: 12 prices a decade.
GRID: Floats = np.concatenate([[0.0], np.logspace(-13, -4, 109)])
UNSEEN: Final = 2.0  # so many images as have never been seen are taken to stop after a step
SOLVE_EVERY: Final = 10_000.0  # finished rungs
SOLVE_AGAIN: Final = 2_048.0  # at least so many between two solutions, however the device's speed wavers
KNOWN: Final = 64.0
FORGET_AT: Final = 20_000.0  # finished rungs, then all counts are halved: traffic changes
LEAST_WORTH: Final = (
    5e-4  # of the whole ladder's time on an idle device, in right answers: no detour is quite free
)
# How surely an image that is passed over now is served later: so much counts what it would gain.
PATIENCE: Final = 0.95
STALE: Final = 0.1  # relative change of the device's speed after which plans are made anew


class Worths:
    """What launches are worth to images at one price, in expected right answers, the price of their time not taken off.

    Attributes:
        root_value: what a new image will gain, less the price of the time for it.
        root_worth: by rung, what it gains a new image at once and all that is gained after it.
        root_rung: the rung that it should begin with.
        known: what `of` has said, by state.
    """

    def __init__(self, tables: _Tables, place: int) -> None:
        self._tables, self._place = tables, place
        self.known: dict[int, tuple[list[float], list[tuple[int, float]]]] = {}
        self.root_value = float(tables.root_value[place])
        self.root_worth: list[float] = tables.root_worth[:, place].tolist()
        self.root_rung = int(tables.root_rung[place])

    def of(self, state: int) -> tuple[list[float], list[tuple[int, float]]]:
        """Of an image in this state: by rung, what it gains at once and all that is gained after it; and the rungs
        that are worth more than to be passed over, each with what it is worth beyond that."""
        found = self.known.get(state)
        if found is None:  # few of the states are met, so that all would take longer
            tables, place = self._tables, self._place
            worth = tables.worth[state, :, place].tolist()
            passed = PATIENCE * float(tables.value[state, place])
            beyond = [(stage, each - passed) for stage, each in enumerate(worth) if each > passed]
            found = self.known[state] = worth, beyond
        return found


class _Tables:
    """Plans in the making: float64 arrays over states (and rungs) and prices; see Worths and Plans."""

    def __init__(self, states: int, rungs: int) -> None:
        prices = len(GRID)
        self.value = np.zeros((states, prices))
        self.cost = np.zeros((states, prices))
        self.worth = np.zeros((states, rungs, prices))
        self.root_value = np.zeros(prices)
        self.root_cost = np.zeros(prices)
        self.root_rung = np.zeros(prices, np.int64)
        self.root_worth = np.zeros((rungs, prices))


class Plans:
    """The plans of one model for every price of GRID.

    Args:
        ladder: accuracies and gains.
        latency: costs.

    Attributes:
        root_cost: by price, nanoseconds that a new image will take, all its rungs together.
        floor, ceiling: the places in GRID of the least price and of the highest: that of first rungs.
    """

    def __init__(self, ladder: Ladder, latency: LatencyTable) -> None:
        self._ladder = ladder
        self._latency = latency
        self._bins = ladder.bins
        self._masks = 1 << len(ladder.names)
        self._at: dict[int, Worths] = {}
        self._costs: dict[int, list[float]] = {}
        self._longest_ns = math.inf
        self._steps: Iterator[bool] | None = None
        self._seen: dict[int, list[list[float]]] = {}
        self._first_seen: dict[int, list[float]] = {}
        self._observed = 0.0
        self._solve_at = 0.0
        self._solved_at = 0.0
        self._basis = 0.0
        self.renew()

    def state(self, mask: int, bin_: int) -> int:
        """The number of the state of an image that has had `mask` and stands in that bin."""
        return mask * self._bins + bin_

    def at(self, place: int) -> Worths:
        """What launches are worth to images at a price of GRID."""
        found = self._at.get(place)
        if found is None:
            found = self._at[place] = Worths(self._tables, place)
        return found

    def cost(self, state: int) -> list[float]:
        """By price, nanoseconds that an image in this state will still take if it follows its plan."""
        found = self._costs.get(state)
        if found is None:
            found = self._costs[state] = self._tables.cost[state].tolist()
        return found

    def saw(self, mask: int, bin_: int, stage: int, new_bin: int) -> None:
        """Count that `stage` has taken an image from (mask, bin_) to `new_bin`; mask 0 is an image without answer."""
        if mask:
            step = self._step(mask, stage)
            table = self._seen.get(step)
            if table is None:
                table = self._seen[step] = [[0.0] * self._bins for _ in range(self._bins)]
            table[bin_][new_bin] += 1.0
        else:
            row = self._first_seen.get(stage)
            if row is None:
                row = self._first_seen[stage] = [0.0] * self._bins
            row[new_bin] += 1.0
        self._observed += 1.0

    def _step(self, mask: int, stage: int) -> int:
        return mask * len(self._ladder.names) + stage

    def knows(self, stage: int) -> bool:
        """Whether enough new images have had this rung to say where they go from there."""
        return sum(self._first_seen.get(stage, ())) >= KNOWN

    def refresh(self, longest_ns: float) -> None:
        """Go on with making the plans anew, a step a call, where they have gone stale.

        They have when the device has changed its speed, enough images have been seen since, or `longest_ns` has
        changed: how long launches of several images should take at most.
        """
        if self._steps is not None:
            if next(self._steps, True):
                self._steps = None
            return
        basis = self._latency.work_ns(self._ladder.usable[-1], 1) if self._ladder.usable else 1.0
        changed = abs(basis - self._basis) > STALE * self._basis
        changed |= not 0.8 * self._longest_ns < longest_ns < 1.25 * self._longest_ns
        changed = changed and self._observed >= self._solved_at + SOLVE_AGAIN
        if not (changed or self._observed >= self._solve_at):
            return
        self._longest_ns = longest_ns
        self._solve_at = min(max(2 * self._observed, 64.0), self._observed + SOLVE_EVERY)
        if self._observed > FORGET_AT:
            for row in (*chain.from_iterable(self._seen.values()), *self._first_seen.values()):
                row[:] = [0.5 * count for count in row]
            self._observed *= 0.5
            self._solve_at = self._observed + SOLVE_EVERY
        self._solved_at = self._observed
        self._basis = basis
        self._steps = self._solve()

    def renew(self) -> None:
        """Make the plans anew at once: a rung has gone out of use."""
        self._steps = None
        for _ in self._solve():
            pass

    def _solve(self) -> Iterator[bool]:
        """In steps of some twenty microseconds, for a decision waits for each; the last puts the new plans in use."""
        made = _Tables(self._masks * self._bins, len(self._ladder.names))
        costs = {stage: self._cost_of(stage) for stage in self._ladder.usable}
        for mask in range(self._masks - 1, 0, -1):  # a set of rungs before its subsets
            for stage, cost in costs.items():
                if not mask >> stage & 1 and self._solve_step(made, mask, stage, cost):
                    yield False
        self._solve_root(made, costs)
        total = sum(costs.values())
        self.floor = int(np.searchsorted(GRID, LEAST_WORTH / total)) if total else 0
        # At a higher price no image is worth even its first rung, and what spares a first rung would seem a bargain.
        first = min(costs, default=0)
        most = self._ladder.accuracy(1 << first) / costs[first] if costs else 0.0
        self.ceiling = max(int(np.searchsorted(GRID, most, "right")) - 1, self.floor)
        self._tables = made
        self.root_cost = made.root_cost.tolist()
        self._at.clear()
        self._costs.clear()

    def _solve_step(self, made: _Tables, mask: int, stage: int, cost: float) -> bool:
        """Consider one rung for images that have had `mask`; returns whether there was anything to consider."""
        gains = self._ladder.gain_row(mask, stage)
        if max(gains) <= 0:
            return False
        here = slice(mask * self._bins, (mask + 1) * self._bins)
        there = mask | 1 << stage
        after = slice(there * self._bins, (there + 1) * self._bins)
        moves = self._moves(mask, stage)
        gain = np.array(gains)[:, None]
        worth = made.worth[here, stage]
        np.matmul(moves, made.value[after], out=worth)
        worth += gain
        worth *= gain > 0  # no detours over a rung that makes the answer worse
        net = worth - GRID * cost
        better = net > made.value[here]
        np.copyto(made.value[here], net, where=better)
        np.copyto(made.cost[here], cost + moves @ made.cost[after], where=better)
        return True

    def _solve_root(self, made: _Tables, costs: dict[int, float]) -> None:
        """Every image gets a rung, however dear time is."""
        made.root_value[:] = -np.inf
        for stage, cost in costs.items():
            after = slice((1 << stage) * self._bins, ((1 << stage) + 1) * self._bins)
            shares = self._shares(stage)
            worth = made.root_worth[stage] = self._ladder.accuracy(1 << stage) + shares @ made.value[after]
            net = worth - GRID * cost
            better = net > made.root_value
            np.copyto(made.root_value, net, where=better)
            np.copyto(made.root_rung, stage, where=better)
            np.copyto(made.root_cost, cost + shares @ made.cost[after], where=better)

    def _cost_of(self, stage: int) -> float:
        """Nanoseconds an image in a batch that uses the device well and does not block it too long."""
        batch = self._latency.best_batch(stage, longest_ns=self._longest_ns)
        return self._latency.work_ns(stage, batch) / batch

    def _moves(self, mask: int, stage: int) -> Floats:
        """Probability [bin, next bin]; what is missing to 1 stops."""
        seen = self._seen.get(self._step(mask, stage))
        if seen is None:
            return np.zeros((self._bins, self._bins))
        table = np.array(seen)
        moves: Floats = table / (table.sum(axis=1, keepdims=True) + UNSEEN)
        return moves

    def _shares(self, stage: int) -> Floats:
        seen = self._first_seen.get(stage)
        if seen is None:
            return np.zeros(self._bins)
        row = np.array(seen)
        shares: Floats = row / (row.sum() + UNSEEN)
        return shares


def price_of(planned: list[tuple[list[float], float]], room_ns: float, guess: int) -> tuple[int, float]:
    """The place in GRID of the lowest price at which the planned work fits, and how nearly the one below does.

    The latter is the share of images that could follow the plans of the price below. The best of all schedules is such
    a mixture: where many images change their plan at one price, as they do without use of confidence, that price alone
    leaves much of the device idle, and the one below does not fit.

    Args:
        planned: nanoseconds by price of one image, which fall with the price, and how many such images there are.
        room_ns: nanoseconds there are.
        guess: where to begin to look: prices change little from one decision to the next.
    """
    works: dict[int, float] = {}

    def fits(place: int) -> bool:
        work = 0.0
        for cost, count in planned:
            work += count * cost[place]
        works[place] = work
        return work <= room_ns

    last, step = len(GRID) - 1, 1
    if fits(guess):
        high = guess
        while high >= step and fits(high - step):
            high, step = high - step, 2 * step
        low = max(high - step + 1, 0)
    else:
        low = min(guess + 1, last)
        while low + step <= last and not fits(low + step - 1):
            low, step = low + step, 2 * step
        high = min(low + step - 1, last)
    place = low + bisect_left(range(low, high), True, key=fits)
    below, here = works.get(place - 1, 0.0), works.get(place, 0.0)
    return place, min(max((room_ns - here) / (below - here), 0.0), 1.0) if below > here else 0.0
