"""Runs between two searches for the limit that their loads are multiples of.

A shared machine is faster in one minute than in the next. What is compared is therefore measured in one short block, at
multiples of what the machine could do just then, and a block during which that changed is measured again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtest.capacity import MAX_DRIFT, Found, drift, drifted
from loadtest.overload.rows import Row
from loadtest.tables import percent

MAX_REPEATS = 5


@dataclass(frozen=True)
class Block:
    """Its rows, the limit before and after them, and how often it had been measured in vain."""

    name: str
    limit: str
    before: Found
    after: Found
    rows: tuple[Row, ...]
    repeats: int

    @property
    def drift(self) -> float:
        """Relative change of the limit, as a fraction of the first."""
        return drift(self.before.rate, self.after.rate)

    @property
    def void(self) -> tuple[str, ...]:
        """Reasons why its figures do not count; empty when they do."""
        searches = (self.before, self.after)
        reasons = [
            f"the {self.limit} was not bracketed: {found}" for found in searches if not found.bracketed
        ]
        reasons += [
            f"the {self.limit} was sought by a late sender: {found}" for found in searches if found.late
        ]
        if drifted(self.before.rate, self.after.rate):
            reasons.append(
                f"the {self.limit} drifted by {percent(self.drift, 1)}, more than {percent(MAX_DRIFT, 0)}"
            )
        return tuple(f"{self.name}: {reason}" for reason in reasons)

    def to_json(self) -> dict[str, Any]:
        """JSON values, without the rows."""
        return {
            "block": self.name,
            "limit": self.limit,
            "before": self.before.rate,
            "after": self.after.rate,
            "probes": {"before": self.before.probes, "after": self.after.probes},
            "repeats": self.repeats,
        }


def steady(
    name: str,
    limit: str,
    search: Callable[[], Found],
    measure: Callable[[Found], tuple[Row, ...]],
    before: Found | None = None,
) -> Block:
    """Measures until the limit is the same before and after, at most 1 + MAX_REPEATS times; the last block is returned
    either way.

    `before` is what a search has just found; without it, and after a search that cannot be used, there is one more.
    """
    for repeats in range(MAX_REPEATS + 1):
        if before is None or not before.sound:
            before = search()
        rows = measure(before)
        after = search()
        block = Block(name, limit, before, after, rows, repeats)
        if not block.void:
            break
        before = after
    return block
