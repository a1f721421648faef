"""A few jobs through a whole engine before anybody waits for one, and one more whenever it has been idle for a while.

Knows how an engine is put together and spoken to; must not know what its answers mean. The first job of a process takes
some milliseconds longer than the hundredth: code that has not been run, memory that has not been touched. So does the
first after a pause, in which others have filled the processor's caches. Whoever asks for an answer within ten of them
and is the first would get none.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
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


class Rehearsal:
    """A second engine made of the same parts, and jobs for it.

    Args:
        path: of a socket that nobody else uses; gone after `close`.
        models: by name@version; what happens to a stage happens to it there too.
        device, config, clock_ns, pulse: of the real engine.
    """

    def __init__(
        self,
        path: Path,
        models: dict[str, LoadedModel],
        device: Device,
        config: PolicyConfig,
        clock_ns: Callable[[], int],
        pulse: Pulse,
    ) -> None:
        self._path = path
        self._models = models
        self._device = device
        self._clock_ns = clock_ns
        self._numbers = itertools.count()
        self._next = itertools.cycle(models.values())
        self._front_ends = FrontEnds(path, _EPOCH)
        self._channel, theirs = (
            Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        )
        self._front_ends.known[b"rehearsal"] = FrontEnd(b"rehearsal", theirs)
        counting = Counting(UNHEARD)
        reports = Reports(self._front_ends, 1, counting)
        self._engine = Engine(self._front_ends, device, models, reports, counting, config, clock_ns, pulse)
        reports.serve(models, "")

    def all(self) -> None:
        """Some jobs through the ladder of each model. Raises DeviceLost."""
        for model in self._models.values():
            until_ns = self._clock_ns() + MODEL_NS
            for number in range(JOBS):
                if self._clock_ns() < until_ns:
                    self._run(model, 1.0, every_stage=number % 2 == 0)

    def one(self, longest_ns: float) -> None:
        """The first rung for one image of the next model, if it takes no longer than that. Raises DeviceLost."""
        model = next(self._next)
        if model.ladder.usable and model.latency.typical_ns(model.ladder.first, 1) <= longest_ns:
            self._run(model, 0.0)

    def close(self) -> None:
        """Its sockets."""
        self._channel.close()
        self._front_ends.close()
        self._path.unlink(missing_ok=True)

    def _run(self, model: LoadedModel, min_confidence: float, *, every_stage: bool = False) -> None:
        if not model.runners:
            return
        height, width, channels = model.shape
        number, deadline_ns = next(self._numbers), self._clock_ns() + BUDGET_NS
        top_k, pixels = len(model.model.manifest.labels), bytes(height * width * channels)
        job = Job(number, model.key, deadline_ns, min_confidence, top_k, every_stage, pixels)
        self._channel.send(encode(_EPOCH, [job]))
        while not _has_ended(self._channel, number) and (self._device.busy or self._clock_ns() < deadline_ns):
            if not self._engine.turn():
                time.sleep(_NAP_S)


def without_memory(models: dict[str, LoadedModel]) -> dict[str, LoadedModel]:
    """The same models: a stage that fails there is out of use here too. But nothing is learnt of how long they take."""
    return {key: replace(model, latency=model.latency.anew()) for key, model in models.items()}


def apart(models: dict[str, LoadedModel]) -> dict[str, LoadedModel]:
    """Copies that learn, and lose stages, without these."""
    return {
        key: replace(
            model,
            runners=dict(model.runners),
            ladder=model.ladder.copy(),
            latency=model.latency.anew(),
            failed=dict(model.failed),
        )
        for key, model in models.items()
    }


def _has_ended(channel: Channel, number: int) -> bool:
    for data in channel.receive():
        for message in decode(data).messages:
            if isinstance(message, Done) or (isinstance(message, Refinement) and message.final):
                return message.number == number
    return False
