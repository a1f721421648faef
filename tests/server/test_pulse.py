"""When an engine counts as hung, on a clock of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.pulse import Hang, Pulse, Watch

MS = 1_000_000
SECOND = 1000 * MS
LOOK_NS = 250 * MS


class Pair:
    """An engine's pulse, and who watches it."""

    def __init__(self, path: Path) -> None:
        self.watch = Watch(path, 2 * SECOND)
        self.watch.begin()
        self.pulse = Pulse(path, 2 * SECOND)
        self.now = 5 * SECOND

    def looks(self, seconds: float, *, turning: bool = False) -> Hang | None:
        """Look every 250 ms for that long; the first that is seen to be wrong."""
        for _ in range(round(seconds * 4)):
            self.now += LOOK_NS
            if turning:
                self.pulse.turn()
            hang = self.watch.look(self.now)
            if hang is not None:
                return hang
        return None


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "pulse")


def test_an_engine_that_loads_its_models_is_left_alone(pair: Pair) -> None:
    assert pair.looks(600) is None


def test_one_that_turns_is_left_alone(pair: Pair) -> None:
    assert pair.looks(600, turning=True) is None


def test_one_that_launches_again_and_again_is_left_alone(pair: Pair) -> None:
    pair.pulse.turn()
    for number in range(1, 50):
        pair.pulse.launching(number, "tiny@1 full", 10 * MS)
        assert pair.looks(1.5) is None
        pair.pulse.landed()
        pair.pulse.turn()


def test_a_launch_that_does_not_end_is_a_hang_and_has_a_name(pair: Pair) -> None:
    pair.pulse.turn()
    assert pair.looks(1) is None
    pair.pulse.launching(7, "tiny@1 full", 10 * MS)
    assert pair.looks(2) is None
    hang = pair.looks(1)
    assert hang is not None
    assert (hang.reason, hang.stage) == ("hung", "tiny@1 full")
    assert hang.seconds > 2


def test_a_launch_beside_the_turning_loop_hangs_too(pair: Pair) -> None:
    pair.pulse.launching(7, "tiny@1 full", 10 * MS)
    hang = pair.looks(3, turning=True)
    assert hang is not None
    assert hang.reason == "hung"


def test_a_long_launch_has_twenty_times_what_was_promised(pair: Pair) -> None:
    pair.pulse.turn()
    pair.pulse.launching(1, "big@1 full", SECOND)
    assert pair.looks(20) is None
    assert pair.looks(1) is not None


def test_a_loop_that_stops_outside_of_a_launch_is_silent(pair: Pair) -> None:
    pair.pulse.turn()
    pair.pulse.launching(1, "tiny@1 full", MS)
    pair.pulse.landed()
    hang = pair.looks(3)
    assert hang is not None
    assert (hang.reason, hang.stage) == ("silent", "")


def test_time_that_nobody_saw_pass_does_not_count(pair: Pair) -> None:
    """The whole machine was away, or the clock jumped: the engine had no time to show that it lives."""
    pair.pulse.turn()
    assert pair.looks(1) is None
    pair.now += 3600 * SECOND
    assert pair.looks(0.5) is None
    pair.pulse.turn()
    pair.now -= 3600 * SECOND
    assert pair.looks(1.5) is None


def test_the_next_life_begins_with_a_page_of_its_own(pair: Pair, tmp_path: Path) -> None:
    pair.pulse.turn()
    pair.pulse.launching(3, "tiny@1 full", MS)
    assert pair.looks(3) is not None
    pair.watch.begin()
    assert pair.looks(600) is None, "the old engine's words are not the new one's"
    pair.pulse = Pulse(tmp_path / "pulse", 2 * SECOND)
    assert pair.looks(10, turning=True) is None


def test_a_name_longer_than_the_page_is_cut(pair: Pair) -> None:
    pair.pulse.turn()
    pair.pulse.launching(1, "n" * 9000, MS)
    hang = pair.looks(3)
    assert hang is not None
    assert set(hang.stage) == {"n"}
