"""Images in work: from the moment one is handed to the engine until there is something to say to its client.

Knows when a job ends (the last refinement, enough confidence, the clock, the engine's refusal or death) and what
then is its outcome; must not know HTTP, JSON or sockets. It waits on the clock, never on the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from server.admission import Permit
from server.catalog import ModelView
from server.deadlines import Clock, Deadlines, Entry
from server.engine_view import EngineView
from server.errors import EngineLost, Infeasible, NothingInTime, Problem, StagesFailed
from server.messages import Cancel, Decision, Done, Message, Refinement
from server.messages import Job as JobMessage

COMPLETE = frozenset({"deepest", "confident", "no_gain"})


class Rings(Protocol):
    """Whoever wants to hear of a job."""

    def ring(self) -> None:
        """There is news, or the job has ended."""


class Bell:
    """Wakes the one coroutine that waits for news of its jobs: one future per wait, none while nobody waits.

    Ringing while nobody waits is lost: look at the jobs first, and wait without awaiting anything in between.
    """

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wakes the waiter, if there is one."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Returns at the next ring."""
        self._future = self._loop.create_future()
        try:
            await self._future
        finally:
            self._future = None


class Job:
    """One image of one request.

    Attributes:
        model: the served model.
        due_ns: when the answer has to leave at the latest.
        started_ns: when it was handed to `Jobs`.
        overhead_ns: of its budget, what never reaches the engine: time before it was handed over, and the guard.
        had_ns: how long before its client's deadline its image had wholly arrived.
        refinements: what has come, in order.
        stages: bit k is set when rung k is in the pooled answer.
        ended: why nothing more will come (a stop_reason, "problem" or "left"); empty while more may.
        problem: set when it ended without an answer.
        by_clock: whether it was the clock that ended it.
        explain: whether its client wants to know what the scheduler decided.
        decisions: those that the engine has told of, then.
    """

    __slots__ = (
        "bell",
        "by_clock",
        "decisions",
        "due_ns",
        "ended",
        "entry",
        "every_stage",
        "explain",
        "had_ns",
        "min_confidence",
        "model",
        "number",
        "overhead_ns",
        "permit",
        "pixels",
        "problem",
        "refinements",
        "sent",
        "stages",
        "started_ns",
        "top_k",
    )

    def __init__(
        self,
        model: ModelView,
        pixels: bytes,
        bell: Rings,
        permit: Permit,
        *,
        due_ns: int,
        overhead_ns: int,
        had_ns: int,
        top_k: int,
        min_confidence: float = 1.0,
        every_stage: bool = False,
        explain: bool = False,
    ) -> None:
        self.model = model
        self.pixels = pixels
        self.bell = bell
        self.permit = permit
        self.due_ns = due_ns
        self.overhead_ns = overhead_ns
        self.had_ns = had_ns
        self.top_k = top_k
        self.min_confidence = min_confidence
        self.every_stage = every_stage
        self.explain = explain
        self.decisions: list[Decision] | None = None
        self.number = 0
        self.started_ns = 0
        self.sent = False
        self.entry: Entry | None = None
        self.refinements: list[Refinement] = []
        self.stages = 0
        self.ended = ""
        self.problem: Problem | None = None
        self.by_clock = False

    def message(self) -> JobMessage:
        """As the engine takes it."""
        return JobMessage(
            self.number,
            self.model.key,
            self.due_ns,
            self.min_confidence,
            self.top_k,
            self.every_stage,
            self.pixels,
            self.explain,
        )

    def note(self, decisions: list[Decision] | None) -> None:
        """The engine has told what it decided."""
        if decisions is not None:
            self.decisions = [*(self.decisions or ()), *decisions]


class Jobs:
    """All jobs of one front end, by number."""

    def __init__(
        self, view: EngineView, deadlines: Deadlines, send: Callable[[Message], None], clock: Clock
    ) -> None:
        self._view = view
        self._deadlines = deadlines
        self._send = send
        self._clock = clock
        self._jobs: dict[int, Job] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def begun(self) -> int:
        """How many there have been."""
        return self._numbers

    def start(self, job: Job) -> None:
        """Hands a job to the engine, or holds it until there is one. Owns its permit from here on."""
        job.started_ns = self._clock()
        if job.due_ns <= job.started_ns:
            self._miss(job)
            return
        self._numbers += 1
        job.number = self._numbers
        self._jobs[job.number] = job
        job.entry = self._deadlines.schedule(job.due_ns, partial(self._due, job))
        if self._view.ready:
            self._hand_over(job)

    def refinement(self, message: Refinement) -> None:
        """One more stage finished. Of a job that has ended it is ignored."""
        job = self._jobs.get(message.number)
        if job is None:
            return
        if not job.refinements:
            job.permit.answered()
        job.refinements.append(message)
        job.note(message.decisions)
        job.stages |= 1 << message.stage
        if message.final is not None:
            self._end(job, message.final)
        elif job.min_confidence < 1.0 and message.top[0][1] >= job.min_confidence:
            self._send(Cancel(job.number))
            self._end(job, "confident")
        elif job.every_stage:
            job.bell.ring()

    def done(self, message: Done) -> None:
        """Nothing more will come for a job."""
        job = self._jobs.get(message.number)
        if job is None:
            return
        job.note(message.decisions)
        if job.refinements:
            self._end(job, message.stop_reason)
        elif message.stop_reason == "rejected":
            job.permit.rejected()
            job.permit.missed(job.had_ns)
            self._fail(job, _rejected(job, message.feasible_ns))
        elif message.stop_reason == "stage_failed":
            self._fail(job, StagesFailed())
        else:
            self._miss(job)

    def abandon(self, job: Job) -> None:
        """Nobody waits for this job any more."""
        if not job.ended:
            if job.sent:
                self._send(Cancel(job.number))
            self._end(job, "left")

    def engine_lost(self) -> None:
        """What has something is answered at once; what has time is held for the next engine; the rest refused."""
        now = self._clock()
        back_in_ns = self._view.back_in_ns(now)
        for job in list(self._jobs.values()):
            if not job.sent:
                continue
            job.sent = False
            if job.refinements:
                self._end(job, "engine_lost")
            elif job.due_ns - now <= back_in_ns:
                self._fail(job, engine_lost(back_in_ns))

    def engine_ready(self) -> None:
        """Hands over what was held."""
        for job in self._jobs.values():
            if not job.sent:
                self._hand_over(job)

    def _hand_over(self, job: Job) -> None:
        job.sent = True
        self._send(job.message())

    def _due(self, job: Job) -> None:
        job.by_clock = True
        if job.sent:
            self._send(Cancel(job.number))
        if job.refinements:
            self._end(job, "deadline")
        elif job.sent:
            self._miss(job)
        else:
            self._fail(job, engine_lost(self._view.back_in_ns(self._clock())))

    def _miss(self, job: Job) -> None:
        job.permit.missed(job.had_ns)
        self._fail(job, _nothing_in_time())

    def _fail(self, job: Job, problem: Problem) -> None:
        job.problem = problem
        self._end(job, "problem")

    def _end(self, job: Job, why: str) -> None:
        job.ended = why
        job.pixels = b""
        self._jobs.pop(job.number, None)
        if job.entry is not None:
            self._deadlines.cancel(job.entry)
        job.permit.release()
        job.bell.ring()


def engine_lost(back_in_ns: int) -> EngineLost:
    """The refusal while there is no engine."""
    return EngineLost(
        "The engine is being restarted and the deadline leaves no time to wait for it.",
        retry_after_ms=max(back_in_ns / 1e6, 1000),
    )


def _nothing_in_time() -> NothingInTime:
    return NothingInTime("The request was admitted, but no stage finished before the deadline.")


def _rejected(job: Job, feasible_ns: int) -> Infeasible:
    return Infeasible(
        "At the load there is now, not even the first stage can finish by this deadline.",
        retry_after_ms=feasible_ns / 1e6,
        smallest_feasible_ms=(feasible_ns + job.overhead_ns) / 1e6,
    )
