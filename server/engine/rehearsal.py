"""A few jobs through a whole engine before anybody waits for one.

Knows how an engine is put together and spoken to; must not know what its answers mean. The first job of a process takes
some milliseconds longer than the hundredth: code that has not been run, memory that has not been touched. Whoever asks
for an answer within ten of them and is the first would get none.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from server.channel import Channel
from server.engine.counting import Counting
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.frontends import FrontEnd, FrontEnds
from server.engine.loading import LoadedModel
from server.engine.policy import PolicyConfig
from server.engine.reports import Reports
from server.messages import Done, Job, Refinement, decode, encode
from server.metrics import UNHEARD
from server.pulse import Pulse

JOBS = 16  # of each model: Python makes code faster after eight turns
MODEL_NS = (
    300_000_000  # no job is begun after that: a slow model's first one takes hardly longer than the others
)
BUDGET_NS = 1_000_000_000
_EPOCH = 1
_NAP_S = 1e-4


def rehearse(
    path: Path,
    models: dict[str, LoadedModel],
    device: Device,
    config: PolicyConfig,
    clock_ns: Callable[[], int],
    pulse: Pulse,
) -> None:
    """Runs jobs of each model; nothing is counted or learnt of them, but a stage that fails is out of use.

    Args:
        path: of a socket that nobody else uses; gone afterwards.
        models: by name@version.
        device, config, clock_ns, pulse: of the engine to come.

    Raises:
        DeviceLost: no stage runs in this process any more.
    """
    front_ends = FrontEnds(path, _EPOCH)
    ours, theirs = (Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    front_ends.known[b"rehearsal"] = FrontEnd(b"rehearsal", theirs)
    counting = Counting(UNHEARD)
    reports = Reports(front_ends, 1, counting)
    copies = {key: replace(model, latency=deepcopy(model.latency)) for key, model in models.items()}
    engine = Engine(front_ends, device, copies, reports, counting, config, clock_ns, pulse)
    reports.serve(copies, "")
    try:
        numbers = itertools.count()
        for model in models.values():
            _rehearse(engine, ours, model, itertools.islice(numbers, JOBS), clock_ns)
    finally:
        ours.close()
        front_ends.close()
        path.unlink(missing_ok=True)


def _rehearse(
    engine: Engine, channel: Channel, model: LoadedModel, numbers: Iterator[int], clock_ns: Callable[[], int]
) -> None:
    height, width, channels = model.shape
    pixels = bytes(height * width * channels)
    until_ns = clock_ns() + MODEL_NS
    for number in numbers:
        now_ns = clock_ns()
        if now_ns >= until_ns or not model.runners:
            return
        every_stage = number % 2 == 0
        job = Job(
            number, model.key, now_ns + BUDGET_NS, 1.0, len(model.model.manifest.labels), every_stage, pixels
        )
        channel.send(encode(_EPOCH, [job]))
        while not _has_ended(channel, number) and clock_ns() < job.deadline_ns:
            if not engine.turn():
                time.sleep(_NAP_S)


def _has_ended(channel: Channel, number: int) -> bool:
    for data in channel.receive():
        for message in decode(data).messages:
            if isinstance(message, Done) or (isinstance(message, Refinement) and message.final):
                return message.number == number
    return False
