"""One run of the overload bench: its load, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.summary import Summary, json_values

CEILING_PART = 0.8


@dataclass(frozen=True)
class Load:
    """A multiple of capacity, the rate that was really offered, and whether the ceiling is what bounds it.

    `reached` is the multiple that the rate amounts to. With `of_ceiling` it is the front-end ceiling that `multiple`
    counts, and nothing bounds it. Two loads are the same load if they are the same multiple, whatever the machine could
    do at the time.
    """

    multiple: float
    rate: float = field(compare=False)
    capped: bool = field(compare=False)
    reached: float = field(compare=False)
    of_ceiling: bool = False

    def __str__(self) -> str:
        if self.of_ceiling:
            return f"{self.multiple:g}× the ceiling"
        if not self.capped:
            return f"{self.multiple:g}×"
        return f"{self.multiple:g}×, bound by {CEILING_PART:.0%} of the ceiling: {self.reached:.2f}×"


@dataclass(frozen=True)
class Row:
    """One measured run.

    Attributes:
        cpu_us: per offered request, by role of process.
        pinned: the stage that the scheduler was pinned to; empty where it was free.
        hopeless: whether some requests had a deadline that nothing can meet, to see how soon they are refused.
        deepest: share of the run's images that the whole ladder gets right; None without a recording of the model.
        bound: effective accuracy of the bound U2, with the front end charged to the same core; None likewise.
        refused_within_ms: in which the server had refused 99 % of those it refused, by its own clock and to a bound of
            its histogram; None for a run without hopeless requests, or where it does not tell.
        right: bool [offered], whether the request was answered rightly and in time; the same requests in the same
            order in every run of a load and seed.
    """

    load: Load
    seed: int
    repeats: int
    summary: Summary
    cpu_us: dict[str, float]
    pinned: str = ""
    hopeless: bool = False
    deepest: float | None = None
    bound: float | None = None
    refused_within_ms: float | None = None
    right: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_), repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "multiple": self.load.multiple,
            "of_ceiling": self.load.of_ceiling,
            "load_rate": self.load.rate,  # `rate`, from the summary, is what the seed made of it
            "capped": self.load.capped,
            "reached": self.load.reached,
            "seed": self.seed,
            "repeats": self.repeats,
            "pinned": self.pinned,
            "hopeless": self.hopeless,
            "deepest_accuracy": self.deepest,
            "bound_u2": self.bound,
            "server_refused_within_ms": json_values(self.refused_within_ms),
            "cpu_us_per_request": self.cpu_us,
            **self.summary.to_json(),
        }


def rate_of(rows: Sequence[Row]) -> float:
    """Requests per second, mean of the rows."""
    return float(np.mean([row.load.rate for row in rows])) if rows else float("nan")
