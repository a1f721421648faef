"""The warm-up profile: how long each (stage, batch) takes on this machine, measured once and kept on disk.

Knows how to measure and where the figures lie; what they mean for a schedule is in latency.py. A kept profile is used
again only for the same processor, runtime, its threads and version, and the same weights; a damaged one is measured
anew. It may go stale in silence only as far as the online correction reaches.
"""

from __future__ import annotations

import hashlib
import logging
import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

logger = logging.getLogger(__name__)

Cells = dict[int, dict[int, float]]  # stage -> batch -> median nanoseconds

FORMAT = 1
SAMPLES = 7
FEW_SAMPLES = 3
BUDGET_NS = 1_500_000_000
SLOW_NS = 20_000_000


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    key: dict[str, str]
    cells: dict[str, dict[str, float]]


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
    stages: Iterable[int],
    batches: Iterable[int],
    run: Callable[[int, int], object],
    clock_ns: Callable[[], int],
    on_progress: Callable[[int, int], None],
) -> Cells:
    """Time every cell: small batches of all stages first, so that when the time is used up only large ones are missing.

    Args:
        stages: places in the ladder.
        batches: sizes, ascending.
        run: runs a stage at a batch size once.
        clock_ns: a monotonic clock.
        on_progress: told (stage, batch) before each cell.

    Returns:
        Medians. Every stage has its smallest batch; a missing larger one is extrapolated by the latency table.
    """
    cells: Cells = {stage: {} for stage in stages}
    started = clock_ns()
    for batch in batches:
        for stage, done in cells.items():
            expected_ns = 2 * max(done.values(), default=0.0)
            left_ns = started + BUDGET_NS - clock_ns()
            if done and FEW_SAMPLES * expected_ns > left_ns:
                continue
            on_progress(stage, batch)
            done[batch] = _time_cell(lambda s=stage, b=batch: run(s, b), clock_ns)  # type: ignore[misc]
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


def load(state_dir: Path, key: Mapping[str, str], stages: Iterable[int]) -> Cells | None:
    """The kept profile of that key; None if there is none for all `stages`, or it is damaged (which is logged)."""
    path = path_of(state_dir, key)
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        cells = {int(s): {int(b): float(ns) for b, ns in row.items()} for s, row in kept.cells.items()}
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, ValueError) as error:
        logger.warning("latency profile cannot be read", extra={"file": str(path), "reason": str(error)})
        return None
    if kept.format != FORMAT or kept.key != dict(key):
        return None
    if not all(
        cells.get(stage) and all(b > 0 and ns > 0 for b, ns in cells[stage].items()) for stage in stages
    ):
        logger.warning("latency profile is incomplete", extra={"file": str(path)})
        return None
    return cells


def save(state_dir: Path, key: Mapping[str, str], cells: Cells) -> None:
    """Keep a profile. A folder that cannot be written is logged: the next start measures again."""
    path = path_of(state_dir, key)
    kept = _Kept(
        FORMAT, dict(key), {str(s): {str(b): ns for b, ns in row.items()} for s, row in cells.items()}
    )
    half = path.with_suffix(f".{os.getpid()}.half")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(msgspec.json.format(msgspec.json.encode(kept)) + b"\n")
        half.replace(path)
    except OSError as error:
        logger.warning("latency profile cannot be kept", extra={"file": str(path), "reason": str(error)})
