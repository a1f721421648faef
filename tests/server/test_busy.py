"""Who has had no pause, as front ends and the engine tell each other by a page of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.busy import BUSY_NS, STALE_NS, Busy, Crowding

LATER_NS = 10**15  # the clock has no zero of its own


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "busy"


def test_a_loop_that_has_not_slept_for_a_while_wants_its_core(page):
    front_end, crowding = Busy(page, 0), Crowding(page, 1, spare=0)
    assert not crowding.crowded(LATER_NS)
    front_end.begins(LATER_NS)
    assert not crowding.crowded(LATER_NS + BUSY_NS)
    assert crowding.crowded(LATER_NS + BUSY_NS + 1)
    front_end.ends(LATER_NS + 2 * BUSY_NS)
    assert not crowding.crowded(LATER_NS + BUSY_NS + 1)


def test_its_time_is_counted_turn_by_turn_and_without_pauses(page):
    front_end = Busy(page, 0)
    front_end.begins(LATER_NS)
    front_end.goes_on(LATER_NS + 3)
    assert front_end.total_ns == 3
    front_end.ends(LATER_NS + 5)
    front_end.begins(LATER_NS + 100)
    front_end.ends(LATER_NS + 110)
    assert front_end.total_ns == 15


def test_it_counts_only_as_long_as_its_turns_go_on(page):
    front_end, crowding = Busy(page, 0), Crowding(page, 1, spare=0)
    front_end.begins(LATER_NS)
    assert not crowding.crowded(LATER_NS + STALE_NS)
    front_end.goes_on(LATER_NS + STALE_NS)
    assert crowding.crowded(LATER_NS + STALE_NS)


def test_stages_are_crowded_only_where_all_other_cores_are_taken(page):
    front_ends, crowding = [Busy(page, number) for number in range(3)], Crowding(page, 3, spare=1)
    for front_end, expected in zip(front_ends, (False, True, True), strict=True):
        front_end.begins(LATER_NS)
        assert crowding.crowded(LATER_NS + 2 * BUSY_NS) == expected


def test_a_new_front_end_takes_nothing_over_from_a_killed_one(page):
    Busy(page, 0).begins(LATER_NS)
    Busy(page, 0)
    assert not Crowding(page, 1, spare=0).crowded(LATER_NS + 2 * BUSY_NS)
