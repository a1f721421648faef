"""The search finds where the attainment falls below its bound, within its number of probes."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import cast

import pytest

from loadtest.capacity import NARROW, ONE_SIDED, Found, drifted, highest_rate
from loadtest.overload.bench import NoCapacity, OverloadFigures, bench_overload, bounded_load
from loadtest.overload.blocks import Block
from loadtest.published import Published
from loadtest.rig import CannotMeasure, Rig


@pytest.mark.parametrize("guess", [120, 250, 480])
def test_the_edge_is_found_within_three_per_cent(guess: float) -> None:
    found = highest_rate(lambda rate: 1.0 if rate <= 247 else 0.5, 0.99, guess)
    assert found.rate <= 247 < found.failing
    assert found.failing <= NARROW * found.rate
    assert len(found.probes) <= 9


def test_the_edge_has_failed_twice() -> None:
    found = highest_rate(lambda rate: 1.0 if rate <= 247 else 0.5, 0.99, 250)
    assert [rate for rate, _ in found.probes].count(found.failing) == 2


@pytest.mark.parametrize("stalled", range(16))
def test_one_stall_does_not_keep_the_search_below_it(stalled: int) -> None:
    calls = itertools.count()
    found = highest_rate(lambda rate: 1.0 if rate <= 247 and next(calls) != stalled else 0.5, 0.99, 250)
    assert found.rate == pytest.approx(247, rel=0.03)


def test_a_stall_at_the_very_first_rate_does_not_end_the_search_without_a_rate_that_fails() -> None:
    calls = itertools.count()
    found = highest_rate(lambda rate: 1.0 if rate <= 247 and next(calls) else 0.5, 0.99, 200)
    assert found.bracketed
    assert found.rate == pytest.approx(247, rel=0.03)


def test_a_machine_that_became_slower_is_known_by_what_fails_now() -> None:
    calls = itertools.count()
    found = highest_rate(lambda rate: 1.0 if rate <= (247 if next(calls) < 3 else 200) else 0.5, 0.99, 120)
    assert found.rate == pytest.approx(
        240, rel=0.03
    )  # what it could do a moment ago; the next search finds the other


@pytest.mark.parametrize("answered", [0.0, 1.0])
def test_where_all_pass_or_all_fail_the_search_gives_up(answered: float) -> None:
    found = highest_rate(lambda _: answered, 0.99, 100)
    assert len(found.probes) == ONE_SIDED
    assert not found.bracketed


def test_the_search_ends_with_its_probes() -> None:
    assert len(highest_rate(lambda rate: 1.0 if rate <= 247 else 0.5, 0.99, 120, probes=4).probes) == 4


def test_a_server_that_keeps_up_with_everything_has_no_failing_rate() -> None:
    found = highest_rate(lambda _: 1.0, 0.99, 100, probes=4)
    assert (found.rate, found.failing) == (800, math.inf)
    assert "nothing failed" in str(found)


def test_a_server_that_keeps_up_with_nothing_has_no_capacity() -> None:
    assert highest_rate(lambda _: 0.0, 0.99, 100, probes=4).rate == 0


def test_a_share_on_the_bound_passes() -> None:
    assert highest_rate(lambda _: 0.99, 0.99, 100, probes=1).rate == 100


def test_more_than_ten_per_cent_either_way_is_drift() -> None:
    assert not drifted(100, 109.9)
    assert not drifted(100, 90.1)
    assert drifted(100, 111)
    assert drifted(100, 89)
    assert drifted(0, 0)


def test_a_load_is_bound_by_the_lesser_of_multiple_and_ceiling() -> None:
    low, high = bounded_load(1.5, 100, 200), bounded_load(3, 100, 200)
    assert (low.rate, low.capped) == (150, False)
    assert (high.rate, high.capped) == (160, True)
    assert high.reached == 1.6
    assert "80% of the ceiling: 1.60×" in str(high)


def test_without_capacity_there_are_no_multiples() -> None:
    with pytest.raises(NoCapacity):
        bounded_load(1, 0, 200)


def test_a_machine_on_which_the_sender_is_late_from_the_beginning_is_refused() -> None:
    rig = SimpleNamespace(
        ladder=lambda: Published("tiny", "1", ()), highest_rate=lambda *_, **__: Found(100, 102, (), 1)
    )
    with pytest.raises(CannotMeasure, match="too busy"):
        bench_overload(cast("Rig", rig), [1], 1.0)


def block(name: str, after: float, failing: float = 110) -> Block:
    return Block(name, "capacity", Found(100, failing), Found(after, 2 * after), (), 0)


def overload(*, seed: Block, tight: Block) -> OverloadFigures:
    return OverloadFigures(Published("tiny", "1", ()), Found(900, 990), (), (seed,), tight, ())


def test_figures_with_a_block_between_limits_that_drifted_are_void() -> None:
    steady, drifting = block("seed 1", 105), block("10 ms", 115)
    assert overload(seed=steady, tight=steady).void == ()
    reason = "10 ms: the capacity drifted by 15.0 %, more than 10 %"
    assert overload(seed=steady, tight=drifting).void == (reason,)


def test_figures_by_a_capacity_that_was_only_a_lower_bound_are_void() -> None:
    unbounded = block("seed 1", 100, math.inf)
    assert "not bracketed" in overload(seed=unbounded, tight=block("10 ms", 100)).void[0]
