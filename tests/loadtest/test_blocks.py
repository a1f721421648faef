"""When a block of runs counts, with limits made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from loadtest.capacity import Found
from loadtest.overload.blocks import MAX_REPEATS, Block, steady
from loadtest.overload.rows import Row


def search(rates: Sequence[float]) -> Callable[[], Found]:
    found = iter(rates)
    return lambda: Found(rate := next(found), rate * 1.02)


def measured(rates: Sequence[float], before: Found | None = None) -> tuple[Block, list[float]]:
    """The block, and the limits that its runs were multiples of, one for each time it was measured."""
    seen: list[float] = []

    def measure(found: Found) -> tuple[Row, ...]:
        seen.append(found.rate)
        return ()

    return steady("seed 1", "capacity", search(rates), measure, before), seen


def test_a_block_with_the_same_limit_before_and_after_counts() -> None:
    block, seen = measured([100, 109])
    assert seen == [100]
    assert (block.repeats, block.void) == (0, ())
    assert block.to_json()["after"] == 109


def test_a_block_in_which_the_machine_changed_is_measured_again_at_what_it_can_do_now() -> None:
    block, seen = measured([100, 80, 81])
    assert seen == [100, 80]
    assert (block.before.rate, block.after.rate, block.repeats, block.void) == (80, 81, 1, ())


def test_the_limit_after_one_block_serves_as_the_one_before_the_next() -> None:
    _, seen = measured([101], Found(100, 102))
    assert seen == [100]


def test_a_machine_that_never_stays_the_same_makes_the_block_void() -> None:
    block, seen = measured([100 * 1.5**n for n in range(MAX_REPEATS + 2)])
    assert len(seen) == MAX_REPEATS + 1
    assert block.void == ("seed 1: the capacity drifted by 50.0 %, more than 10 %",)


@pytest.mark.parametrize("rates", [[0.0] * 20, [100.0, *[0.0] * 20]])
def test_a_limit_that_was_not_found_makes_it_void_too(rates: list[float]) -> None:
    block, _ = measured(rates)
    assert "was not bracketed" in block.void[0]


def test_a_limit_sought_by_a_late_sender_makes_it_void_and_is_sought_again() -> None:
    late, good = Found(100, 102, (), 1), Found(100, 102)
    found = iter([late, good, good])
    block = steady("seed 1", "capacity", lambda: next(found), lambda _: (), good)
    assert (block.repeats, block.void) == (1, ())
    assert "was sought by a late sender" in Block("seed 1", "capacity", good, late, (), 0).void[0]
