"""What is kept of a run: one structured array, a row per offered request, and the facts that explain it.

Times are int64 nanoseconds from the run's start; NEVER where the thing did not happen. Knows nothing of
sockets or of how figures are made from the rows. Saved without pickles.
"""

import json
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEVER = int(np.iinfo(np.int64).max)
NO_INDEX = -1


class Outcome(IntEnum):
    """How a request ended. Only ANSWERED can be in time; REFUSED is counted apart; the rest are failures."""

    PENDING = 0
    ANSWERED = 1
    REFUSED = 2  # 503
    UNANSWERED = 3  # 504: admitted, nothing by the deadline
    ERROR = 4  # another status, or a body that is not an answer
    TIMED_OUT = 5  # the client gave up
    BROKEN = 6  # no connection, or it closed before the last byte


STOP_REASONS = ("deepest", "confident", "no_gain", "deadline", "overload", "stage_failed", "engine_lost")
UNKNOWN_REASON = 255

RECORD = np.dtype(
    [
        ("image", "<i4"),  # place among the labelled images
        ("label", "<i2"),  # the true class
        ("budget_ns", "<i8"),
        ("intended_ns", "<i8"),  # fixed before the run; latency counts from here
        ("picked_ns", "<i8"),  # when the sender came to it: picked - intended is the sender's own lateness
        ("sent_ns", "<i8"),  # first byte handed to a socket (later than picked where no connection was free)
        ("first_byte_ns", "<i8"),
        ("done_ns", "<i8"),  # last byte here
        ("status", "<i2"),  # HTTP status, 0 without a response
        ("outcome", "u1"),
        ("index", "<i2"),  # the answer's class, NO_INDEX without
        ("stage", "i1"),  # place of the last rung among Run.stages, -1 without
        ("stages_run", "<u4"),  # bit k: Run.stages[k] is in the answer
        ("complete", "?"),
        ("stop_reason", "u1"),  # place in STOP_REASONS
        ("elapsed_ms", "<f4"),  # as the server says; NaN without
        ("queue_ms", "<f4"),
        ("compute_ms", "<f4"),
    ]
)

Records = NDArray[np.void]


def empty_records(count: int) -> Records:
    """`count` rows in which nothing has happened yet."""
    records = np.zeros(count, dtype=RECORD)
    for name in ("picked_ns", "sent_ns", "first_byte_ns", "done_ns"):
        records[name] = NEVER
    for name in ("index", "stage"):
        records[name] = -1
    for name in ("elapsed_ms", "queue_ms", "compute_ms"):
        records[name] = np.nan
    records["stop_reason"] = UNKNOWN_REASON
    return records


@dataclass(frozen=True)
class Run:
    """One run: its rows, the stage names that the rows count by, and facts (JSON values only).

    `start_ns` is the run's zero on CLOCK_MONOTONIC; `seconds` is the length planned for the arrivals;
    `stalls_ns` are (begin, end) of recorded stalls of the machine, from the run's zero, int64 [n, 2].
    `bodies` are the raw responses; they are not saved.
    """

    records: Records
    seconds: float
    start_ns: int
    stages: tuple[str, ...] = ()
    stalls_ns: NDArray[np.int64] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    bodies: tuple[bytes | None, ...] = ()

    def with_facts(self, **facts: Any) -> "Run":
        """The same run with more facts."""
        return replace(self, facts=self.facts | facts)

    def save(self, path: Path) -> None:
        """Writes an .npz with the arrays `records`, `stages`, `stalls_ns` and the JSON text `facts`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"seconds": self.seconds, "start_ns": self.start_ns, "metered": self.stalls_ns is not None}
        stalls = np.zeros((0, 2), np.int64) if self.stalls_ns is None else self.stalls_ns
        stages = np.array(self.stages, dtype=np.str_)
        text = np.array(json.dumps(facts | {"facts": self.facts}))
        np.savez_compressed(path, records=self.records, stages=stages, stalls_ns=stalls, facts=text)


def load_run(path: Path) -> Run:
    """Reads what Run.save wrote. Raises ValueError where the rows are of another shape."""
    with np.load(path, allow_pickle=False) as archive:
        records = archive["records"]
        if records.dtype != RECORD:
            raise ValueError(f"{path} was written by another version: its rows are {records.dtype}")
        facts = json.loads(str(archive["facts"]))
        stalls = archive["stalls_ns"] if facts["metered"] else None
        stages = tuple(str(name) for name in archive["stages"])
    return Run(records, facts["seconds"], facts["start_ns"], stages, stalls, facts["facts"])
