"""Figures from the rows of runs. Pure: rows in, numbers out.

In time: answered, and the last byte here by intended send + budget. Lateness and latency percentiles are
over all offered requests but the refused ones, a failure counting as infinitely late; refusals have
percentiles of their own.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.records import NEVER, STOP_REASONS, Outcome, Records, Run
from loadtest.stalls import touched

SENDER_LIMIT_MS = 2.0
_SENDER_QUANTILE = 0.999

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Spread:
    """Percentiles in milliseconds, nearest rank (an infinity does not leak into its neighbours); NaN of
    nothing.
    """

    p50: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class Share:
    """Parts of some offered requests."""

    offered: int
    attainment: float
    effective_accuracy: float


@dataclass(frozen=True)
class Summary:
    """One run in figures; shares are fractions of all offered requests unless said otherwise."""

    offered: int
    seconds: float
    rate: float  # offered requests per second of the plan
    attainment: float
    effective_accuracy: float  # right and in time, over all offered
    accuracy_in_time: float  # right, over those in time
    late: float
    refused: float
    unanswered: float  # 504
    errors: float
    timed_out: float
    broken: float
    stage_mix: dict[str, float]  # last rung, over those answered
    accuracy_by_stage: dict[str, float]  # right, over those answered with this last rung
    stop_reasons: dict[str, float]  # over those answered
    complete: float  # over those answered
    latency_ms: Spread
    lateness_ms: Spread  # negative: early
    refusal_ms: Spread
    sender_late_ms: Spread
    sender_kept_time: bool
    outside_stalls: Share | None  # None: no meter, or one that cannot be trusted
    stalls: int | None

    def to_json(self) -> dict[str, Any]:
        """JSON values; infinities as the string "inf", NaN as null."""
        plain = json_values(asdict(self))
        assert isinstance(plain, dict)
        return plain


def json_values(value: Any) -> Any:
    """The value with infinities as the string "inf" and NaN as None, through dictionaries."""
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def spread(milliseconds: NDArray[np.float64]) -> Spread:
    """p50, p99, p99.9 and the maximum of the values."""
    if not len(milliseconds):
        return Spread(*[float("nan")] * 4)
    levels = np.quantile(milliseconds, [0.5, 0.99, 0.999, 1.0], method="inverted_cdf")
    return Spread(*(float(level) for level in levels))


def latency_ms(records: Records) -> NDArray[np.float64]:
    """Intended send to last byte; infinite for whatever was neither answered nor refused."""
    ended = np.isin(records["outcome"], (Outcome.ANSWERED, Outcome.REFUSED)) & (records["done_ns"] != NEVER)
    taken = np.where(ended, records["done_ns"], 0) - records["intended_ns"]
    return np.where(ended, taken / 1e6, np.inf)


def service_ms(records: Records) -> NDArray[np.float64]:
    """Send to last byte of the answered requests of a closed loop."""
    answered = records[records["outcome"] == Outcome.ANSWERED]
    return np.asarray((answered["done_ns"] - answered["sent_ns"]) / 1e6)


def in_time(records: Records) -> Flags:
    """Which requests were answered by intended send + budget."""
    due = records["intended_ns"] + records["budget_ns"]
    return np.asarray((records["outcome"] == Outcome.ANSWERED) & (records["done_ns"] <= due))


def right(records: Records) -> Flags:
    """Which requests were answered with the true class."""
    return np.asarray((records["outcome"] == Outcome.ANSWERED) & (records["index"] == records["label"]))


def sender_late_ms(records: Records) -> NDArray[np.float64]:
    """How late the sender came to each request. (A request that then waits for a connection is not its
    fault.)
    """
    return np.where(
        records["picked_ns"] == NEVER, np.inf, (records["picked_ns"] - records["intended_ns"]) / 1e6
    )


def sender_kept_time(records: Records) -> bool:
    """p99.9 of the sender's lateness is within SENDER_LIMIT_MS."""
    if not len(records):
        return True
    level = np.quantile(sender_late_ms(records), _SENDER_QUANTILE, method="inverted_cdf")
    return bool(level <= SENDER_LIMIT_MS)


def _mean(flags: Flags) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def _shares_of(names: Sequence[str], places: NDArray[Any]) -> dict[str, float]:
    counts = {name: int((places == place).sum()) for place, name in enumerate(names)}
    return {name: count / len(places) for name, count in counts.items() if count}


def _outside_stalls(run: Run, punctual: Flags, correct: Flags) -> Share | None:
    """Figures of the requests whose whole budget met no stall: a window that does not depend on how
    they ended.
    """
    if run.stalls_ns is None or not run.facts.get("meters_trustworthy"):
        return None
    begins = run.records["intended_ns"]
    clear = ~touched(begins, begins + run.records["budget_ns"], run.stalls_ns)
    return Share(int(clear.sum()), _mean(punctual[clear]), _mean((punctual & correct)[clear]))


def summarise(run: Run) -> Summary:
    """All figures of an interpreted run."""
    records = run.records
    punctual, correct, outcome = in_time(records), right(records), records["outcome"]
    answered, refused = outcome == Outcome.ANSWERED, outcome == Outcome.REFUSED
    latency = latency_ms(records)
    lateness = latency - records["budget_ns"] / 1e6
    by_stage = {
        name: _mean(correct[answered & (records["stage"] == place)]) for place, name in enumerate(run.stages)
    }
    return Summary(
        offered=len(records),
        seconds=run.seconds,
        rate=len(records) / run.seconds,
        attainment=_mean(punctual),
        effective_accuracy=_mean(punctual & correct),
        accuracy_in_time=_mean(correct[punctual]),
        late=_mean(answered & ~punctual),
        refused=_mean(refused),
        unanswered=_mean(outcome == Outcome.UNANSWERED),
        errors=_mean(outcome == Outcome.ERROR),
        timed_out=_mean(outcome == Outcome.TIMED_OUT),
        broken=_mean(outcome == Outcome.BROKEN),
        stage_mix=_shares_of(run.stages, records["stage"][answered]),
        accuracy_by_stage={name: share for name, share in by_stage.items() if not np.isnan(share)},
        stop_reasons=_shares_of(STOP_REASONS, records["stop_reason"][answered]),
        complete=_mean(records["complete"][answered]),
        latency_ms=spread(latency[~refused]),
        lateness_ms=spread(lateness[~refused]),
        refusal_ms=spread(latency[refused]),
        sender_late_ms=spread(sender_late_ms(records)),
        sender_kept_time=sender_kept_time(records),
        outside_stalls=_outside_stalls(run, punctual, correct),
        stalls=None if run.stalls_ns is None else len(run.stalls_ns),
    )
