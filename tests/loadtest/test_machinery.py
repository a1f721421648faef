"""Timer, cores, stall meters, the lock and the description of the machine, as real parts."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.busy import Busy, alone
from loadtest.machine import describe_machine, machine_line
from loadtest.pinning import own_core
from loadtest.stalls import metering
from loadtest.timer import AbsoluteTimer

HOLD_SHARED = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_SH)
print("held", flush=True)
input()
"""


def test_the_timer_wakes_a_poll_at_its_instant_and_never_before() -> None:
    timer, poll = AbsoluteTimer(), select.poll()
    poll.register(timer.fd, select.POLLIN)
    when = time.monotonic_ns() + 3_300_000
    timer.set(when)
    assert poll.poll(5000)
    assert time.monotonic_ns() >= when
    timer.acknowledge()
    assert not poll.poll(0)
    timer.set(1)  # long past
    assert poll.poll(5000)
    timer.acknowledge()
    timer.acknowledge()  # nothing to acknowledge
    timer.close()


def test_a_core_is_given_back_with_everything_as_it_was() -> None:
    before = os.sched_getaffinity(0), os.sched_getscheduler(0)
    with own_core(0) as hold:
        assert hold.cpus == (0,)
        assert os.sched_getaffinity(0) == {0}
    assert (os.sched_getaffinity(0), os.sched_getscheduler(0)) == before


def test_meters_report_gaps_as_intervals_and_end_with_their_block() -> None:
    with metering((0,), 10) as meters:
        begun = time.monotonic_ns()
        select.select([], [], [], 0.05)
        stalls = meters.stop()
    assert stalls.shape[1] == 2
    assert (stalls[:, 0] < stalls[:, 1]).all()
    assert (stalls[:, 1] > begun - 10**9).all()
    with metering((0,), 60) as abandoned:
        children = list(abandoned._children.values())
    assert all(child.returncode is not None for child in children)


def test_a_benchmark_refuses_to_run_beside_another_and_says_which(tmp_path: Path) -> None:
    lock = tmp_path / "runs" / ".busy.lock"
    with alone("first bench", lock), pytest.raises(Busy, match="first bench"), alone("second", lock):
        pytest.fail("two benches at once")
    with alone("third", lock):
        pass


def test_a_benchmark_refuses_to_run_beside_training(tmp_path: Path) -> None:
    lock = tmp_path / ".busy.lock"
    command = [sys.executable, "-c", HOLD_SHARED, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        training.stdout.readline()
        with pytest.raises(Busy, match="training run"), alone("bench", lock):
            pytest.fail("a bench beside training")
        training.communicate(b"\n")
    with alone("bench", lock):
        pass


def test_the_machine_is_named() -> None:
    machine = describe_machine()
    assert machine["processor"]
    assert machine["cores"] == os.cpu_count()
    line = machine_line(machine)
    assert machine["processor"] in line
    assert "numpy" in line
