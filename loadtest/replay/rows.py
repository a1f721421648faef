"""From what a replay heard to rows: what a front end would have answered, judged on the generator's clock.

A client gets the last refinement that was here by its deadline, at once if it was the final one, else at the deadline.
One that came first of all but too late is an answer too, and late. Pure: messages in, rows out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.records import NEVER, STOP_REASONS, Outcome, Records, Run, empty_records
from loadtest.replay.bench import Heard, ReplayPlan
from loadtest.stalls import touched
from loadtest.summary import sender_late_ms
from server.messages import Done, Refinement

SENDER_LIMIT_MS = 0.2
MOST_IN_STALLS = 0.01
COMPLETE = frozenset({"deepest", "confident", "no_gain"})


@dataclass(frozen=True)
class Punctuality:
    """How late the generator came to its requests, p99.9 in ms.

    Attributes:
        all_ms: of all requests.
        outside_ms: of those that met no stall of its core, recorded by the meter (stalls.py).
        in_stalls: share of the others.
    """

    all_ms: float
    outside_ms: float
    in_stalls: float

    @property
    def kept_time(self) -> bool:
        """It was late only where the machine was away, and that was seldom."""
        return self.outside_ms <= SENDER_LIMIT_MS and self.in_stalls <= MOST_IN_STALLS


def punctuality(records: Records, stalls_ns: NDArray[np.int64]) -> Punctuality:
    """Of one run.

    `stalls_ns` are those of the generator's core, from the run's zero, int64 [n, 2]; none where none are known.
    """
    picked = np.where(records["picked_ns"] == NEVER, np.iinfo(np.int64).max, records["picked_ns"])
    met = touched(records["intended_ns"], picked, stalls_ns)
    late_ms = sender_late_ms(records)
    share = float(met.mean()) if len(met) else 0.0
    return Punctuality(_p999(late_ms), _p999(late_ms[~met]), share)


def _p999(milliseconds: NDArray[np.float64]) -> float:
    return float(np.quantile(milliseconds, 0.999, method="inverted_cdf")) if len(milliseconds) else 0.0


def to_run(plan: ReplayPlan, heard: Heard, labels: NDArray[np.int16], stages: Sequence[str]) -> Run:
    """The rows of a plan that was carried out; `labels` are those of its images, by arrival."""
    records = empty_records(len(plan))
    records["image"], records["label"] = plan.images, labels
    records["budget_ns"], records["intended_ns"] = plan.budgets_ns, plan.arrivals_ns
    for name, stamps in (("picked_ns", heard.picked_ns), ("sent_ns", heard.sent_ns)):
        values = np.array(stamps, dtype=np.int64)
        records[name] = np.where(values == NEVER, NEVER, values - heard.start_ns)
    records["outcome"] = Outcome.TIMED_OUT  # until something was heard of it
    for received_ns, message in heard.messages:
        row = records[message.number]
        now = received_ns - heard.start_ns
        if isinstance(message, Done):
            _end(row, message, now)
        else:
            _refine(row, message, now)
    _answer_by_the_clock(records)
    return Run(records, plan.seconds, heard.start_ns, tuple(stages))


def _refine(row: np.void, message: Refinement, now: int) -> None:
    due = row["intended_ns"] + row["budget_ns"]
    first = row["outcome"] != Outcome.ANSWERED
    if not first and now > due:
        return  # the answer had left
    row["outcome"], row["status"] = Outcome.ANSWERED, 200
    if first:
        row["first_byte_ns"] = now
        row["stages_run"] = 0
    row["stages_run"] |= 1 << message.stage
    row["index"] = message.top[0][0]
    row["stage"] = max(int(row["stage"]), message.stage)
    row["queue_ms"], row["compute_ms"] = message.queue_ns / 1e6, message.compute_ns / 1e6
    if message.final is not None or now > due:
        row["done_ns"] = now
    if message.final is not None:
        _reason(row, message.final)


def _end(row: np.void, message: Done, now: int) -> None:
    if row["outcome"] == Outcome.ANSWERED:
        if row["done_ns"] == NEVER and now <= row["intended_ns"] + row["budget_ns"]:
            row["done_ns"] = now
            _reason(row, message.stop_reason)
        return
    refused = message.stop_reason == "rejected"
    row["outcome"], row["status"] = (Outcome.REFUSED, 503) if refused else (Outcome.UNANSWERED, 504)
    row["done_ns"] = now


def _reason(row: np.void, reason: str) -> None:
    row["complete"] = reason in COMPLETE
    if reason in STOP_REASONS:
        row["stop_reason"] = STOP_REASONS.index(reason)


def _answer_by_the_clock(records: Records) -> None:
    """Those with something when their deadline came, and nothing that ended them before."""
    waiting = (records["outcome"] == Outcome.ANSWERED) & (records["done_ns"] == NEVER)
    records["done_ns"][waiting] = (records["intended_ns"] + records["budget_ns"])[waiting]
    records["stop_reason"][waiting] = STOP_REASONS.index("deadline")
