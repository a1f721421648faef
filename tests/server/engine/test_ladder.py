from __future__ import annotations

import pytest

from server.engine.ladder import EVERY_STAGE_GAIN
from tests.server.engine.simulation import tiny_ladder


def test_an_edge_belongs_to_the_bin_above_it_and_certainty_to_the_last():
    ladder = tiny_ladder()
    assert [ladder.bin_of(c) for c in (0.0, 0.49, 0.5, 0.79, 0.8, 0.95, 1.0)] == [0, 0, 1, 1, 2, 3, 3]


def test_only_rungs_with_a_gain_come_next():
    ladder = tiny_ladder()
    assert ladder.gains_after(0b001, 0, every_stage=False) == ((1, 0.3), (2, 0.6))
    assert ladder.gains_after(0b010, 0, every_stage=False) == ((2, 0.3),)
    assert ladder.gains_after(0b001, 3, every_stage=False) == ()


def test_a_stream_climbs_one_rung_at_a_time_whatever_it_gains():
    ladder = tiny_ladder()
    assert ladder.gains_after(0b001, 3, every_stage=True) == ((1, EVERY_STAGE_GAIN),)
    assert ladder.gains_after(0b011, 0, every_stage=True) == ((2, 0.3),)
    assert ladder.gains_after(0b111, 0, every_stage=True) == ()


def test_a_negative_gain_is_none():
    ladder = tiny_ladder(gains=(-0.1, -0.1, -0.1, -0.1))
    assert ladder.gains_after(0b001, 0, every_stage=False) == ()


def test_a_failed_rung_is_left_out_also_of_what_was_asked_before():
    ladder = tiny_ladder()
    assert ladder.gains_after(0b001, 0, every_stage=False) == ((1, 0.3), (2, 0.6))
    ladder.fail(1)
    ladder.fail(1)
    assert ladder.gains_after(0b001, 0, every_stage=False) == ((2, 0.6),)
    assert ladder.gains_after(0b001, 0, every_stage=True) == ((2, 0.6),)
    assert ladder.first == 0
    ladder.fail(0)
    assert ladder.first == 2
    ladder.fail(2)
    with pytest.raises(IndexError):
        _ = ladder.first


def test_the_reason_to_stop_tells_the_deepest_from_no_gain():
    ladder = tiny_ladder()
    assert ladder.reason_after(0b101) == "deepest"
    assert ladder.reason_after(0b011) == "no_gain"
    ladder.fail(2)
    assert ladder.reason_after(0b011) == "deepest"
    assert not ladder.has_published_deepest(0b011)


def test_accuracies_are_looked_up_by_the_set_of_rungs():
    assert tiny_ladder().accuracy(0b101) == pytest.approx(0.8)
