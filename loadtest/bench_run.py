"""One load against one running server, seed by seed: the everyday use of the sender."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest import arrivals
from loadtest.images import LabelledImages
from loadtest.plan import Plan, Target, make_plan
from loadtest.summary import Summary, summarise
from loadtest.tables import FIGURES, figures_row, markdown
from loadtest.trial import Bench, measure

KINDS = ("poisson", "gamma", "constant", "step", "trace-compressed", "trace-superposed")


@dataclass(frozen=True)
class Offer:
    """What to offer: kind of arrivals, requests per second, length, budgets from `low_ms` to `high_ms`.

    `phases` are the (rate, seconds) of a step; `cv2` belongs to gamma; `trace` to the two kinds of trace.
    Unequal budgets are drawn log-uniformly.
    """

    kind: str
    rate: float
    seconds: float
    low_ms: float
    high_ms: float
    cv2: float = 1.0
    trace: Path | None = None
    phases: tuple[tuple[float, float], ...] = ()

    @property
    def length_s(self) -> float:
        """Seconds over which requests arrive."""
        return sum(seconds for _, seconds in self.phases) if self.kind == "step" else self.seconds

    def arrivals_ns(self, seed: int) -> NDArray[np.int64]:
        """Arrival times. Raises ValueError for an unknown kind or a missing trace."""
        if self.kind == "poisson":
            return arrivals.poisson(self.rate, self.seconds, seed)
        if self.kind == "gamma":
            return arrivals.gamma(self.rate, self.seconds, seed, self.cv2)
        if self.kind == "constant":
            return arrivals.constant(self.rate, self.seconds)
        if self.kind == "step" and self.phases:
            return arrivals.steps(self.phases, seed)
        if self.kind.startswith("trace-") and self.trace is not None:
            trace = arrivals.read_trace(self.trace)
            if self.kind == "trace-compressed":
                return arrivals.compressed(trace, self.rate, self.seconds)
            return arrivals.superposed(trace, self.rate, self.seconds, seed)
        raise ValueError(f"arrivals of kind {self.kind} need what was not given, or are unknown")

    def budgets_ms(self, count: int, seed: int) -> float | NDArray[np.float64]:
        """One budget for all, or `count` of them, rounded to hundredths of a millisecond."""
        if self.low_ms == self.high_ms:
            return self.low_ms
        random = np.random.default_rng([seed, 0xB0D6E7])
        drawn = np.exp(random.uniform(np.log(self.low_ms), np.log(self.high_ms), count))
        return np.maximum(np.round(drawn, 2), 0.01)

    def plan(self, target: Target, images: LabelledImages, seed: int) -> Plan:
        """What one seed sends."""
        times = self.arrivals_ns(seed)
        budgets = self.budgets_ms(len(times), seed)
        return make_plan(target, images, times, self.length_s, deadline_ms=budgets, seed=seed)


@dataclass(frozen=True)
class LoadFigures:
    """A summary for each seed; `name` is the load in words."""

    name: str
    runs: tuple[tuple[int, int, Summary], ...]  # seed, repeats, summary

    @property
    def sound(self) -> bool:
        """The sender kept time in every run."""
        return all(summary.sender_kept_time for _, _, summary in self.runs)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        runs = [{"seed": seed, "repeats": repeats, **s.to_json()} for seed, repeats, s in self.runs]
        return {"load": self.name, "runs": runs}


def bench_run(
    target: Target,
    images: LabelledImages,
    offer: Offer,
    seeds: Sequence[int],
    bench: Bench,
    folder: Path,
    name: str,
) -> LoadFigures:
    """Offers the load once for each seed and keeps the raw records in `folder`."""
    runs = []
    for seed in seeds:
        plan = offer.plan(target, images, seed)
        run = measure(plan, bench)
        run.save(folder / f"run-seed{seed}.npz")
        runs.append((seed, int(run.facts["repeats"]), summarise(run)))
    return LoadFigures(name, tuple(runs))


def render(figures: LoadFigures) -> str:
    """The report as Markdown."""
    rows = [figures_row(figures.name, str(seed), summary, repeats) for seed, repeats, summary in figures.runs]
    return markdown(FIGURES, rows)
