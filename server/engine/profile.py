"""The warm-up profile: how long each (stage, batch) takes on this machine, measured once and kept on disk.

Knows how to measure and where the figures lie; what they mean for a schedule is in latency.py. Which runtime was chosen
for a cell is kept with its time. A kept profile is used again only for the same processor, the same runtimes to choose
from, their threads and versions, and the same weights; a damaged one is measured anew. It may go stale in silence only
as far as the online correction reaches.
"""

from __future__ import annotations

import hashlib
import logging
import os
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

logger = logging.getLogger(__name__)

Cells = dict[int, dict[int, float]]  # stage -> batch -> median nanoseconds
RowKey = TypeVar("RowKey", bound=Hashable)

FORMAT = 4
SAMPLES = 7
FEW_SAMPLES = 3
BUDGET_NS = 1_500_000_000
SLOW_NS = 20_000_000


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    key: dict[str, str]
    cells: dict[str, dict[str, float]]
    runtimes: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Profile:
    """Every cell's time and runtime, by stage and batch."""

    cells: Cells
    runtimes: dict[int, dict[int, str]]

    def only(self, stages: Iterable[int]) -> Profile:
        """Without the other stages."""
        wanted = set(stages)
        return Profile(
            {stage: row for stage, row in self.cells.items() if stage in wanted},
            {stage: row for stage, row in self.runtimes.items() if stage in wanted},
        )


def processor() -> str:
    """The processor's model, as Linux names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown"


def measure(
    rows: Iterable[RowKey],
    batches: Iterable[int],
    run: Callable[[RowKey, int], object],
    clock_ns: Callable[[], int],
    on_progress: Callable[[RowKey, int], None],
    is_settled: Callable[[RowKey, Mapping[RowKey, Mapping[int, float]]], bool] = lambda _row, _cells: False,
) -> dict[RowKey, dict[int, float]]:
    """Time every cell: small batches of all rows first, so that when the time is used up only large ones are missing.

    Args:
        rows: what is timed at each batch size: stages, or stages on runtimes.
        batches: sizes, ascending.
        run: runs a row at a batch size once.
        clock_ns: a monotonic clock.
        on_progress: told (row, batch) before each cell.
        is_settled: asked whether a row needs no more of its cells, with all that were timed.

    Returns:
        Medians, in nanoseconds. Every row has its smallest batch; a missing larger one is extrapolated by the latency
        table.
    """
    cells: dict[RowKey, dict[int, float]] = {row: {} for row in rows}
    started = clock_ns()
    for batch in batches:
        for row, done in cells.items():
            expected_ns = 2 * max(done.values(), default=0.0)
            left_ns = started + BUDGET_NS - clock_ns()
            if done and (FEW_SAMPLES * expected_ns > left_ns or is_settled(row, cells)):
                continue
            on_progress(row, batch)
            done[batch] = _time_cell(lambda r=row, b=batch: run(r, b), clock_ns)  # type: ignore[misc]
    return cells


def _time_cell(run: Callable[[], object], clock_ns: Callable[[], int]) -> float:
    """Median of a few runs, fewer where one is slow; the first run of a shape only prepares memory."""
    samples: list[int] = []
    begin = clock_ns()
    run()
    first_ns = clock_ns() - begin
    wanted = FEW_SAMPLES if first_ns > SLOW_NS else SAMPLES
    while len(samples) < wanted:
        begin = clock_ns()
        run()
        samples.append(clock_ns() - begin)
    return max(statistics.median(samples), 1.0)


def path_of(state_dir: Path, key: Mapping[str, str]) -> Path:
    """Where the profile of that key is kept."""
    digest = hashlib.sha256(msgspec.json.encode(dict(sorted(key.items())))).hexdigest()[:16]
    return state_dir / "latency" / f"{digest}.json"


def load(state_dir: Path, key: Mapping[str, str]) -> Profile | None:
    """The kept profile of that key; None if there is none, or it is damaged (which is logged)."""
    path = path_of(state_dir, key)
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        found = _understood(kept)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, ValueError) as error:
        logger.warning("latency profile cannot be read", extra={"file": str(path), "reason": str(error)})
        return None
    return found if kept.format == FORMAT and kept.key == dict(key) else None


def _understood(kept: _Kept) -> Profile:
    """Raises ValueError where something is missing."""
    cells = {int(s): {int(b): float(ns) for b, ns in row.items()} for s, row in kept.cells.items()}
    runtimes = {int(s): {int(b): name for b, name in row.items()} for s, row in kept.runtimes.items()}
    for stage, row in cells.items():
        if not row or not all(batch > 0 and ns > 0 for batch, ns in row.items()):
            raise ValueError(f"stage {stage} has no usable times")
    if {stage: set(row) for stage, row in cells.items()} != {s: set(row) for s, row in runtimes.items()}:
        raise ValueError("not every cell has a time and a runtime")
    return Profile(cells, runtimes)


def save(state_dir: Path, key: Mapping[str, str], profile: Profile) -> None:
    """Keep a profile. A folder that cannot be written is logged: the next start measures again."""
    path = path_of(state_dir, key)
    kept = _Kept(
        FORMAT,
        dict(key),
        {str(s): {str(b): ns for b, ns in row.items()} for s, row in profile.cells.items()},
        {str(s): {str(b): name for b, name in row.items()} for s, row in profile.runtimes.items()},
    )
    half = path.with_suffix(f".{os.getpid()}.half")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
        half.replace(path)
    except OSError as error:
        logger.warning("latency profile cannot be kept", extra={"file": str(path), "reason": str(error)})
