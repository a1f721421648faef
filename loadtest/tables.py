"""Markdown tables of figures. Knows how figures are written, not how they come about."""

import math
from collections.abc import Mapping, Sequence

from loadtest.summary import Spread, Summary


def percent(share: float, digits: int = 2) -> str:
    """A fraction as per cent."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f} %"


def milliseconds(value: float) -> str:
    """Milliseconds, two digits; ∞ for what never came."""
    if math.isnan(value):
        return "–"
    return ("∞" if value > 0 else "-∞") if math.isinf(value) else f"{value:.2f}"


def percentiles(spread: Spread) -> str:
    """p50 / p99 / p99.9 / max."""
    return " / ".join(milliseconds(v) for v in (spread.p50, spread.p99, spread.p999, spread.max))


def mix(shares: Mapping[str, float]) -> str:
    """Names with their shares."""
    return ", ".join(f"{name} {percent(share, 1)}" for name, share in shares.items()) or "–"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


FIGURES = (
    *("Load", "Requests/s", "Seed", "Offered", "In time", "Effective accuracy", "Accuracy in time"),
    *("Refused (503)", "504", "Errors, broken, timed out", "Late", "Last rung"),
    *("Latency ms p50 / p99 / p99.9 / max", "Lateness ms p50 / p99 / p99.9 / max"),
    *("In time outside stalls", "Sender late ms p99.9", "Repeats"),
)


def figures_row(load: str, seed: str, summary: Summary, repeats: int) -> list[str]:
    """One run as a row under FIGURES; a void one says so."""
    failures = summary.errors + summary.broken + summary.timed_out
    outside = summary.outside_stalls
    void = "" if summary.sender_kept_time else " **VOID: the sender was late**"
    return [
        load + void,
        f"{summary.rate:.0f}",
        seed,
        str(summary.offered),
        percent(summary.attainment),
        percent(summary.effective_accuracy),
        percent(summary.accuracy_in_time),
        percent(summary.refused),
        percent(summary.unanswered),
        percent(failures),
        percent(summary.late),
        mix(summary.stage_mix),
        percentiles(summary.latency_ms),
        percentiles(summary.lateness_ms),
        "–" if outside is None else percent(outside.attainment),
        milliseconds(summary.sender_late_ms.p999),
        str(repeats),
    ]
