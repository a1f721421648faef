"""The goals of the service under load over HTTP, each beside what was measured.

Knows the goals and where in the figures each is answered; measures nothing. A goal that nothing was measured for is
not reached.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.overload.rows import Load, Row, rate_of
from loadtest.tables import markdown, percent

PUNCTUAL = {0.5: 0.999, 1.5: 0.995, 3.0: 0.995}
OF_DEEPEST = 0.003
OF_UNLOADED = 0.015
OF_BOUND = 0.02
OF_BEST_GOODPUT = 0.9
JUDGED = 1.5  # times the ceiling
TIGHT_IN_TIME = 0.995
REFUSED_THERE_MS = 1.0  # at p99 in the server …
REFUSED_MS = 5.0  # … and at the client …
REFUSED_UNTIL = 0.8  # … up to so much of the ceiling
OVER_FIXED = 0.01
OVER_FIXED_FROM, OVER_FIXED_TO = 1.5, 4.0


@dataclass(frozen=True)
class Goal:
    """One line."""

    what: str
    wanted: str
    measured: str
    reached: bool


def table(found: Sequence[Goal]) -> str:
    """Markdown."""
    rows = [[g.what, g.wanted, g.measured, "yes" if g.reached else "**no**"] for g in found]
    return markdown(("Goal", "Wanted", "Measured, mean of the seeds", "Reached"), rows)


def goals(
    rows: Sequence[Row],
    fixed: Sequence[Row],
    beyond: Sequence[Row],
    tight: Sequence[Row],
    refusals: Sequence[Row],
) -> list[Goal]:
    """All of them; `fixed` are runs with the scheduler pinned to one stage, `beyond` those around the ceiling, and
    `refusals` those in which some had a deadline that nothing can meet.
    """
    return [
        *_punctuality(rows),
        *_accuracy(rows),
        *_against_fixed(rows, fixed),
        *_beyond(beyond),
        *_tight(tight),
        *_refusals(refusals),
    ]


def _of(rows: Sequence[Row], multiple: float) -> list[Row]:
    return [row for row in rows if row.load.multiple == multiple]


def _mean(rows: Sequence[Row], value: Callable[[Row], float]) -> float:
    return float(np.mean([value(row) for row in rows])) if rows else float("nan")


def _effective(row: Row) -> float:
    return row.summary.effective_accuracy


def _punctuality(rows: Sequence[Row]) -> Iterator[Goal]:
    for multiple, wanted in PUNCTUAL.items():
        chosen = _of(rows, multiple)
        share = _mean(chosen, lambda row: row.summary.attainment)
        yield Goal(
            f"{_title(chosen, multiple)}: in time", f"≥ {percent(wanted, 1)}", percent(share), share >= wanted
        )
    worst = max((row.summary.lateness_ms.p999 for row in rows), default=float("nan"))
    yield Goal("lateness p99.9, every run", "≤ 0 ms", f"{worst:+.2f} ms at worst", worst <= 0)


def _title(rows: Sequence[Row], multiple: float) -> str:
    return f"{multiple:g}× ({rate_of(rows):.0f}/s)" if rows else f"{multiple:g}×"


def _accuracy(rows: Sequence[Row]) -> Iterator[Goal]:
    low, middle, high = (_of(rows, multiple) for multiple in (0.5, 1.5, 3.0))
    unloaded = _mean(low, _effective)
    known = [row for row in low if row.deepest is not None]
    deepest = _mean(known, lambda row: row.deepest or 0.0)
    yield _goal_points(
        "0.5×: accuracy, beside the full net on the same images", deepest - unloaded, OF_DEEPEST
    )
    loss = unloaded - _mean(middle, _effective)
    yield _goal_points("1.5×: effective accuracy, beside 0.5×", loss, OF_UNLOADED)
    bounded = [row for row in high if row.bound is not None]
    gap = _mean(bounded, lambda row: (row.bound or 0.0) - row.summary.effective_accuracy)
    yield _goal_points(
        "3×: effective accuracy, beside the bound U2 with the front end charged", gap, OF_BOUND
    )


def _goal_points(what: str, loss: float, most: float) -> Goal:
    return Goal(what, f"at most {100 * most:g} points less", f"{-100 * loss:+.2f} points", loss <= most)


def _against_fixed(rows: Sequence[Row], fixed: Sequence[Row]) -> Iterator[Goal]:
    for load in sorted({row.load for row in fixed}, key=lambda load: load.multiple):
        own = {row.seed: row for row in rows if row.load == load}
        by_stage: dict[str, list[Row]] = {}
        for row in fixed:
            if row.load == load and row.seed in own:
                by_stage.setdefault(row.pinned, []).append(row)
        if not by_stage:
            continue
        best = max(by_stage, key=lambda stage: _mean(by_stage[stage], _effective))
        pairs = [(own[row.seed], row) for row in by_stage[best]]
        ours, theirs = _mean([pair[0] for pair in pairs], _effective), _mean(by_stage[best], _effective)
        reached = _mean([pair[0] for pair in pairs], lambda row: row.load.reached)
        wanted = OVER_FIXED if OVER_FIXED_FROM <= reached <= OVER_FIXED_TO else 0.0
        yield Goal(
            f"{_title(list(own.values()), load.multiple)}: effective accuracy, beside the best fixed stage",
            f"at least {100 * wanted:g} points more",
            f"{100 * (ours - theirs):+.2f} points{_error(pairs)} ({percent(ours)}; {best} {percent(theirs)})",
            ours - theirs >= wanted,
        )


def _error(pairs: Sequence[tuple[Row, Row]]) -> str:
    """The standard error of a difference between runs of the same images, " ± 0.12"; empty if they are not known."""
    differences = np.concatenate([one.right.astype(float) - other.right for one, other in pairs])
    return f" ± {100 * differences.std() / np.sqrt(len(differences)):.2f}" if len(differences) else ""


def _goodput(row: Row) -> float:
    return row.summary.effective_accuracy * row.summary.rate


def _beyond(rows: Sequence[Row]) -> Iterator[Goal]:
    by_load: dict[Load, list[Row]] = {}
    for row in rows:
        by_load.setdefault(row.load, []).append(row)
    goodput = {load: _mean(runs, _goodput) for load, runs in by_load.items()}
    best = max(goodput.values(), default=float("nan"))
    for load, runs in by_load.items():
        share = goodput[load] / best
        judged = load.multiple == JUDGED
        yield Goal(
            f"{load} ({rate_of(runs):.0f}/s): right answers in time a second",
            f"≥ {percent(OF_BEST_GOODPUT, 0)} of the best load's" if judged else "told",
            f"{goodput[load]:.0f}, {percent(share, 0)} of {best:.0f}",
            share >= OF_BEST_GOODPUT or not judged,
        )
        hung = max(row.summary.timed_out + row.summary.broken + row.summary.errors for row in runs)
        yield Goal(f"{load}: requests that hang or break", "none", percent(hung), hung == 0)


def _tight(rows: Sequence[Row]) -> Iterator[Goal]:
    if not rows:
        return
    raw = float(np.median([row.summary.attainment for row in rows]))
    metered = [
        row.summary.outside_stalls.attainment for row in rows if row.summary.outside_stalls is not None
    ]
    outside = float(np.median(metered)) if metered else float("nan")
    yield Goal(
        f"10 ms deadlines, {rate_of(rows):.0f}/s: in time outside recorded stalls, median of {len(rows)} seeds",
        f"≥ {percent(TIGHT_IN_TIME, 1)}",
        f"{percent(outside)} (all: {percent(raw)})",
        outside >= TIGHT_IN_TIME,
    )


def _refusals(rows: Sequence[Row]) -> Iterator[Goal]:
    judged = _of(rows, REFUSED_UNTIL)
    if not judged:
        return
    p99 = _mean(judged, lambda row: row.summary.refusal_ms.p99)
    yield Goal(
        f"{judged[0].load} ({rate_of(judged):.0f}/s): refusals at the client, p99",
        f"≤ {REFUSED_MS:g} ms",
        f"{p99:.2f} ms",
        p99 <= REFUSED_MS,
    )
    there = [row.refused_within_ms for row in judged if row.refused_within_ms is not None]
    yield Goal(
        f"{judged[0].load} ({rate_of(judged):.0f}/s): refusals in the server, p99 of every seed",
        f"≤ {REFUSED_THERE_MS:g} ms",
        f"≤ {max(there):g} ms" if there else "–",
        len(there) == len(judged) and max(there) <= REFUSED_THERE_MS,
    )
