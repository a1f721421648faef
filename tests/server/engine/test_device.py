from __future__ import annotations

import select
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from server.engine.device import BESIDE_NS, Device
from server.engine.events import Launch

LOGITS = np.zeros((1, 2), np.float32)


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.close()


def launch() -> Launch:
    return Launch(1, "m", 0, (1,), 1000, 1000)


def broken() -> np.ndarray:
    raise RuntimeError("out of memory")


def test_a_short_launch_runs_at_once(device):
    result = device.start(launch(), lambda: LOGITS, 1000)
    assert result.logits is LOGITS
    assert result.error is None
    assert result.duration_ns >= 0
    assert not device.busy


def test_a_long_launch_runs_beside_the_loop_and_wakes_it(device):
    go = threading.Event()

    def work() -> np.ndarray:
        assert go.wait(5)
        return LOGITS

    assert device.start(launch(), work, BESIDE_NS) is None
    assert device.busy
    assert device.poll() is None
    go.set()
    assert select.select([device.fileno()], [], [], 5)[0]
    assert device.poll().logits is LOGITS
    assert not device.busy
    assert device.poll() is None


@pytest.mark.parametrize("typical_ns", [1000, BESIDE_NS])
def test_what_a_launch_raises_is_its_result(device, typical_ns):
    result = device.start(launch(), broken, typical_ns)
    if result is None:
        assert select.select([device.fileno()], [], [], 5)[0]
        result = device.poll()
    assert result.logits is None
    assert str(result.error) == "out of memory"
