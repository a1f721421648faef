"""Parts of a front end on a manual clock, with what they send kept in a list."""

from __future__ import annotations

from collections.abc import Callable

from server.admission import Door, Permit
from server.catalog import ModelView
from server.engine_view import EngineView
from server.jobs import Job, Jobs
from server.lag import Lag
from server.messages import Credit, Heartbeat, Message, ServedModel
from server.throttle import Throttle
from tests.models import tiny_manifest
from tests.server.test_deadlines import ManualClock

MS = 1_000_000
SECOND = 1_000_000_000


class CountingBell:
    """A bell that counts."""

    def __init__(self) -> None:
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1


class Parts:
    """One front end without sockets."""

    def __init__(self, max_jobs: int = 10) -> None:
        self.clock = ManualClock()
        now: Callable[[], int] = lambda: self.clock.now
        self.model = ModelView(tiny_manifest({"column1": b"1", "column2": b"2", "full": b"3"}))
        self.view = EngineView()
        self.sent: list[Message] = []
        self.lag = Lag(2 * MS)
        self.throttle = Throttle()
        self.door = Door(
            self.view, self.lag, now, max_jobs=max_jobs, max_body_bytes=1000, throttle=self.throttle
        )
        self.jobs = Jobs(self.view, self.clock.deadlines, self.sent.append, now)

    def engine_is_ready(self, epoch: int = 1, jobs: int = 100, first_ns: int = MS) -> None:
        self.view.heard(epoch, self.clock.now)
        self.view.heartbeat(
            Heartbeat("ready", models=[ServedModel("tiny@1", "fake", {}, [])]), self.clock.now
        )
        self.view.credit = Credit(jobs, {"tiny@1": first_ns})

    def job(
        self,
        due_ns: int,
        *,
        every_stage: bool = False,
        min_confidence: float = 1.0,
        had_ns: int = 50 * MS,
    ) -> Job:
        self.door.in_work += 1
        job = Job(
            self.model,
            b"pixels",
            CountingBell(),  # type: ignore[arg-type]
            Permit(self.door),
            due_ns=due_ns,
            overhead_ns=3 * MS,
            had_ns=had_ns,
            top_k=1,
            min_confidence=min_confidence,
            every_stage=every_stage,
        )
        self.jobs.start(job)
        return job
