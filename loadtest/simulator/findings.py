"""Results gathered: by condition and policy, over seeds; and the best of a family of fixed rungs.

Knows how to look results up and to average; must not know how they are shown.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtest.bounds import Bound
from loadtest.simulator import policies
from loadtest.simulator.conditions import Condition
from loadtest.simulator.runs import BOUNDS, Result
from loadtest.simulator.scores import Scores


@dataclass(frozen=True)
class Spread:
    """Mean, lowest and highest over the seeds; NaN without any."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one figure per seed."""
        if not values:
            return cls(float("nan"), float("nan"), float("nan"))
        return cls(float(np.mean(values)), min(values), max(values))


@dataclass
class Findings:
    """All results of a bench."""

    results: Sequence[Result]
    _by_key: dict[tuple[Condition, str], list[Result]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Sorts them by condition and policy."""
        self._by_key = defaultdict(list)
        for result in self.results:
            self._by_key[result.task.condition, result.task.policy].append(result)

    def conditions(self, among: Iterable[Condition]) -> list[Condition]:
        """Those that have been run, in that order."""
        run = {condition for condition, _ in self._by_key}
        return [condition for condition in among if condition in run]

    def policies(self, condition: Condition) -> list[str]:
        """Who has met a condition, in the order of running."""
        return [policy for at, policy in self._by_key if at == condition and policy != BOUNDS]

    def of(self, condition: Condition, policy: str) -> list[Result]:
        """One result per seed; empty where it was not run."""
        return self._by_key.get((condition, policy), [])

    def scores(self, condition: Condition, policy: str) -> list[Scores]:
        """Scores by seed."""
        return [result.scores for result in self.of(condition, policy) if result.scores is not None]

    def spread(self, condition: Condition, policy: str, figure: Callable[[Scores], float]) -> Spread:
        """Of one figure."""
        return Spread.of([figure(scores) for scores in self.scores(condition, policy)])

    def bound(self, condition: Condition, name: str, figure: Callable[[Bound], float]) -> Spread:
        """Of one figure of a bound."""
        found = [result.bounds for result in self.of(condition, BOUNDS) if result.bounds is not None]
        return Spread.of([figure(bounds[name]) for bounds in found if name in bounds])

    def best_of(self, condition: Condition, family: str) -> str:
        """The rung's policy of a family with the most effective accuracy here; empty where none was run."""
        own = [policy for policy in self.policies(condition) if policy.startswith(f"{family}:")]
        return max(own, key=lambda p: self.spread(condition, p, effective).mean, default="")

    def pooled_misses(self, condition: Condition, policy: str) -> tuple[int, int]:
        """(Not in time, offered) over all seeds."""
        scores = self.scores(condition, policy)
        return sum(round(s.offered * (1 - s.attainment)) for s in scores), sum(s.offered for s in scores)


FAMILIES = tuple(policies.PER_STAGE)


def effective(scores: Scores) -> float:
    """Right and in time, over all offered."""
    return scores.effective_accuracy


def attained(scores: Scores) -> float:
    """In time, over all offered."""
    return scores.attainment


def bound_effective(bound: Bound) -> float:
    """The bound on effective accuracy."""
    return bound.effective_accuracy


def bound_attained(bound: Bound) -> float:
    """The bound on attainment."""
    return bound.attainment
