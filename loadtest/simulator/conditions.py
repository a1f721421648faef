"""What a run is made of: device, arrivals, budgets, load. Loads are told as multiples of a capacity.

Knows how to turn a condition and a seed into what is offered; must not know schedulers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from loadtest import arrivals
from loadtest.arrivals import Nanoseconds, Seconds
from loadtest.simulator.offered import Offered, offer

DEEPEST, SHALLOWEST, ABSOLUTE = "deepest", "shallowest", "absolute"
SHORT, LONG, MIXED = (10.0, 10.0), (50.0, 50.0), (5.0, 200.0)
STEP_BEFORE, STEP_AFTER = 0.5, 5.0
STEP_AT_S, STEP_SECONDS = 1.0, 2.0
KINDS = ("poisson", "gamma2", "gamma4", "gamma8", "mmpp2", "ramp", "step", "trace-faster", "trace-copies")
_LEAST_SECONDS = 2.0
_SETTLING = 0.25  # of a run, at most half a second: served but not scored


@dataclass(frozen=True)
class Condition:
    """One point of the grid.

    Attributes:
        device: name of a device of the setup.
        kind: one of KINDS; the number after gamma is the squared coefficient of variation of the gaps.
        budget_ms: lowest and highest, log-uniform between them.
        multiple: of the capacity of the rung `of`, or requests/s where that is ABSOLUTE (of a step it is ignored:
            STEP_BEFORE, then STEP_AFTER).
        requests: about so many are offered.
    """

    device: str
    kind: str
    budget_ms: tuple[float, float]
    multiple: float
    requests: int
    of: str = DEEPEST

    @property
    def budget(self) -> str:
        """For tables."""
        low, high = self.budget_ms
        return f"{low:g} ms" if low == high else f"{low:g}–{high:g} ms"

    @property
    def equal_budgets(self) -> bool:
        """Whether all requests have the same."""
        return self.budget_ms[0] == self.budget_ms[1]


def offered(
    condition: Condition, capacity: float, images: int, seed: int, trace: Seconds | None = None
) -> Offered:
    """What a condition offers at a capacity in requests/s.

    Raises ValueError where the trace is wanted and not there.
    """
    rate = condition.multiple * capacity
    if condition.kind == "step":
        times = arrivals.steps(
            [(STEP_BEFORE * capacity, STEP_AT_S), (STEP_AFTER * capacity, STEP_SECONDS - STEP_AT_S)], seed
        )
        return offer(times, condition.budget_ms, images, seed, _SETTLING)
    seconds = max(condition.requests / rate, _LEAST_SECONDS)
    times = _times(condition.kind, rate, seconds, seed, trace)
    return offer(times, condition.budget_ms, images, seed, min(0.5, _SETTLING * seconds))


def _times(kind: str, rate: float, seconds: float, seed: int, trace: Seconds | None) -> Nanoseconds:
    if kind.startswith("trace"):
        if trace is None:
            raise ValueError("this condition needs a trace: give one with --trace")
        if kind == "trace-faster":
            return arrivals.compressed(trace, rate, seconds)
        return arrivals.superposed(trace, rate, seconds, seed)
    if kind.startswith("gamma"):
        return arrivals.gamma(rate, seconds, seed, float(kind.removeprefix("gamma")))
    if kind == "mmpp2":  # three times as many for a quarter of the time; states last a few budgets
        return arrivals.mmpp2((rate / 3, 3 * rate), (0.3, 0.1), seconds, seed)
    if kind == "ramp":
        return arrivals.ramp(0.2 * rate, 1.8 * rate, seconds, seed)
    if kind == "poisson":
        return arrivals.poisson(rate, seconds, seed)
    raise ValueError(f"no arrivals are called {kind!r}; there are {', '.join(KINDS)}")


def capacity_for(condition: Condition, capacities: Mapping[tuple[str, str], float]) -> float:
    """What the condition's multiple is of, in requests/s."""
    return 1.0 if condition.of == ABSOLUTE else capacities[condition.device, condition.of]


def rate_of(condition: Condition, capacities: Mapping[tuple[str, str], float]) -> float:
    """Mean requests/s; of a step those after it."""
    multiple = STEP_AFTER if condition.kind == "step" else condition.multiple
    return capacity_for(condition, capacities) * multiple
