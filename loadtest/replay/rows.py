"""From what a replay heard to rows: what a front end would have answered, judged on the generator's clock.

A client gets the last refinement that was here by its deadline, at once if it was the final one, else at the deadline.
One that came first of all but too late is an answer too, and late. Pure: messages in, rows out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loadtest.records import NEVER, STOP_REASONS, Outcome, Records, Run, empty_records
from loadtest.replay.bench import Heard, ReplayPlan
from loadtest.summary import sender_late_ms
from server.messages import Done, Refinement

SENDER_LIMIT_MS = 0.2
COMPLETE = frozenset({"deepest", "confident", "no_gain"})


def kept_time(records: Records) -> bool:
    """p99.9 of the generator's lateness is within SENDER_LIMIT_MS."""
    if not len(records):
        return True
    return bool(np.quantile(sender_late_ms(records), 0.999, method="inverted_cdf") <= SENDER_LIMIT_MS)


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
