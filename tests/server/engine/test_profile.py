from __future__ import annotations

import json

import pytest

from server.engine import profile

KEY = {"model": "abc", "runtime": "r", "threads": "1"}
CELLS = {0: {1: 10.0, 2: 15.0}, 2: {1: 100.0}}
RUNTIMES = {0: {1: "fast", 2: "other"}, 2: {1: "fast"}}
KEPT = profile.Profile(CELLS, RUNTIMES)


class SlowDevice:
    """A clock that only launches move."""

    def __init__(self, costs_ms: dict[int, float]) -> None:
        self.now = 0
        self.costs_ms = costs_ms
        self.runs: list[tuple[int, int]] = []

    def run(self, stage: int, batch: int) -> None:
        self.runs.append((stage, batch))
        self.now += int(self.costs_ms[stage] * batch * 1e6)

    def clock(self) -> int:
        return self.now


def test_every_cell_of_a_fast_model_is_measured_with_enough_samples():
    device = SlowDevice({0: 0.1, 1: 0.5, 2: 3.0})
    cells = profile.measure([0, 1, 2], [1, 2, 4, 8, 16, 32], device.run, device.clock, lambda *_: None)
    assert all(list(cells[stage]) == [1, 2, 4, 8, 16, 32] for stage in range(3))
    assert cells[2][4] == pytest.approx(12e6)
    assert device.runs.count((0, 1)) >= 6


def test_a_slow_model_keeps_to_its_time_and_still_has_every_stage():
    device = SlowDevice({0: 5, 1: 40, 2: 300})
    cells = profile.measure([0, 1, 2], [1, 2, 4, 8, 16, 32], device.run, device.clock, lambda *_: None)
    assert all(1 in row for row in cells.values())
    assert 32 not in cells[2]
    assert device.now < 3e9


def test_a_row_that_is_settled_is_timed_no_further():
    device = SlowDevice({0: 1, 1: 3})
    cells = profile.measure(
        *([0, 1], [1, 2, 4, 8], device.run, device.clock, lambda *_: None),
        lambda row, cells: row == 1 and len(cells[0]) > 2,
    )
    assert [list(row) for row in cells.values()] == [[1, 2, 4, 8], [1, 2]]


def test_progress_is_told_before_each_cell():
    device, told = SlowDevice({0: 1, 1: 1}), []
    profile.measure([0, 1], [1, 2], device.run, device.clock, lambda *cell: told.append(cell))
    assert told == [(0, 1), (1, 1), (0, 2), (1, 2)]


def test_a_profile_is_kept_and_found_by_its_key(tmp_path):
    assert profile.load(tmp_path, KEY) is None
    profile.save(tmp_path, KEY, KEPT)
    assert profile.load(tmp_path, KEY) == KEPT
    assert profile.load(tmp_path, {**KEY, "threads": "2"}) is None
    assert profile.load(tmp_path, dict(reversed(KEY.items()))) == KEPT


def test_a_profile_of_some_stages_is_cut_from_the_whole():
    assert KEPT.only([2]) == profile.Profile({2: CELLS[2]}, {2: RUNTIMES[2]})


def kept_as(**changes: object) -> bytes:
    sound = {
        "format": profile.FORMAT,
        "key": KEY,
        "cells": {"0": {"1": 1.0}},
        "runtimes": {"0": {"1": "fast"}},
    }
    return json.dumps({**sound, **changes}).encode()


def test_the_example_that_is_damaged_below_is_sound(tmp_path):
    path = profile.path_of(tmp_path, KEY)
    path.parent.mkdir(parents=True)
    path.write_bytes(kept_as())
    assert profile.load(tmp_path, KEY) == profile.Profile({0: {1: 1.0}}, {0: {1: "fast"}})


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        kept_as(key={}),
        kept_as(format=1),
        kept_as(cells={"0": {}}),
        kept_as(cells={"0": {"one": 1.0}}),
        kept_as(cells={"0": {"1": -1.0}}),
        kept_as(cells={"1": {"1": 1.0}}),
        kept_as(runtimes={}),
        kept_as(runtimes={"0": {"2": "fast"}}),
        kept_as(runtimes={"0": {"1": 7}}),
    ],
)
def test_a_damaged_profile_counts_as_none(tmp_path, damage):
    path = profile.path_of(tmp_path, KEY)
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    assert profile.load(tmp_path, KEY) is None


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path, caplog):
    (tmp_path / "latency").write_text("a file where the folder should be")
    profile.save(tmp_path, KEY, KEPT)
    assert "latency profile cannot be kept" in caplog.text
    assert profile.load(tmp_path, KEY) is None


def test_this_machine_has_a_processor():
    assert profile.processor()
