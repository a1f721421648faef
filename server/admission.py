"""Who is let in: each image in work holds a permit, and what cannot be answered in time gets none.

Knows limits, the engine's credits and the front end's own lag; must not know HTTP or images. A permit is a value: it is
handed on until somebody releases it, once.
"""

from __future__ import annotations

from server.backlog import Backlog
from server.catalog import ModelView
from server.deadlines import NEVER, Clock
from server.engine_view import EngineView
from server.errors import (
    Draining,
    EngineLost,
    Infeasible,
    NotReady,
    Overloaded,
    OverShare,
    StagesFailed,
    Unavailable,
)
from server.fairness import WINDOW_NS, Shares
from server.lag import Lag
from server.throttle import Throttle

MOMENT_NS = 100_000_000
PATIENT_PART = 0.125  # of the room: so much may be taken by those who can wait, whatever the rate


class Permit:
    """The right to have one image in work."""

    __slots__ = ("_client", "_door", "_held", "_waits")

    def __init__(self, door: Door, client: str = "") -> None:
        self._door = door
        self._client = client
        self._held = True
        self._waits = True
        door.backlog.begins()

    def answered(self) -> None:
        """Its first stage has finished."""
        if self._waits:
            self._waits = False
            self._door.backlog.answered()

    def rejected(self) -> None:
        """The engine had no room for it after all; it still has to be released."""
        self._door.rejected(self._client)

    def missed(self, had_ns: int) -> None:
        """No stage finished in the `had_ns` that there were for it; it still has to be released."""
        self._door.missed(had_ns)

    def release(self) -> None:
        """Gives it back. Raises RuntimeError the second time: two owners are a bug that leaks or forges room."""
        if not self._held:
            raise RuntimeError("a permit was released twice")
        self._held = False
        self._door.in_work -= 1
        if self._waits:
            self._door.backlog.left()


class Door:
    """The door of one front end.

    Attributes:
        draining: set at SIGTERM; lets nobody in.
        in_work: permits that are out.
        asked: requests that wanted to be taken on.
        tightest_ns: the tightest budget of those since somebody set it to NEVER.
        body_bytes: bytes of bodies that are still being received.
        backlog: of the images that have been taken on.
    """

    def __init__(
        self,
        view: EngineView,
        lag: Lag,
        clock: Clock,
        *,
        max_jobs: int,
        max_body_bytes: int,
        shares: Shares | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self._view = view
        self._lag = lag
        self._clock = clock
        self._max_jobs = max_jobs
        self._shares = shares
        self._throttle = throttle or Throttle()
        self._max_buffered = max(256_000_000, 2 * max_body_bytes)
        self._refused_ns = -MOMENT_NS
        self.draining = False
        self.in_work = 0
        self.asked = 0
        self.tightest_ns = NEVER
        self.body_bytes = 0
        self.backlog = Backlog()

    def admit(self, model: ModelView, received_ns: int, deadline_ns: int, client: str = "") -> Permit:
        """A permit for one image.

        Args:
            model: that it is for.
            received_ns: when its request's headers were complete.
            deadline_ns: by when the client wants the answer.
            client: who asks; clients are held to fair shares while there is not room for all.

        Raises:
            Draining, NotReady, EngineLost, Overloaded, Infeasible, StagesFailed: no.
        """
        self.check(model, received_ns, deadline_ns, client)
        if self._shares is not None:
            self._shares.admitted(client, self._clock())
        self.in_work += 1
        return Permit(self, client)

    def rejected(self, client: str) -> None:
        """An image of this client was refused after it had been let in."""
        self._refused_ns = self._clock()
        if self._shares is not None:
            self._shares.rejected(client)

    def missed(self, had_ns: int) -> None:
        """An image that had been let in got no answer in the time that there was for it."""
        self._throttle.missed(had_ns)

    def check(self, model: ModelView, received_ns: int, deadline_ns: int, client: str = "") -> None:
        """Raises what `admit` would, and takes nothing: for refusing before the body is read."""
        now = self._clock()
        try:
            self._check_all(model, now, received_ns, deadline_ns, client)
        except Unavailable:
            self._refused_ns = now
            raise

    def enter(self, model: ModelView, received_ns: int, deadline_ns: int, client: str = "") -> None:
        """Takes a request on, before its body is read. Raises what `admit` would, and Overloaded above the rate."""
        self.asked += 1
        self.tightest_ns = min(self.tightest_ns, deadline_ns - received_ns)
        self.check(model, received_ns, deadline_ns, client)
        now = self._clock()
        budget_ns = max(deadline_ns - received_ns, 1)
        tightness = (self._view.first_answer_ns(model.key) + self._lag.guard_ns) / budget_ns
        queued = self.backlog.wait_ns(received_ns) / budget_ns
        patience_ns = budget_ns if self.in_work < PATIENT_PART * self._max_jobs else 0
        if not self._throttle.take(now, tightness, queued, patience_ns):
            self._refused_ns = now
            if self._shares is not None:
                self._shares.refused(client)
            raise Overloaded(
                "More requests arrive than this service can answer.", retry_after_ms=MOMENT_NS / 1e6
            )
        self.backlog.comes(received_ns)

    def refusing(self, now_ns: int) -> bool:
        """Whether somebody has been refused a moment ago, so that the next one may be too."""
        return now_ns - self._refused_ns < MOMENT_NS

    def _check_all(self, model: ModelView, now: int, received_ns: int, deadline_ns: int, client: str) -> None:
        try:
            self._check_room(model, now, received_ns, deadline_ns)
        except (Infeasible, Overloaded):
            if self._shares is not None and self._fits_alone(model, deadline_ns - now):
                self._shares.refused(client)
            raise
        if self._shares is not None and not self._shares.allow(client, now):
            raise OverShare(
                "There is not room for all: other clients are refused, and this one has had its share.",
                retry_after_ms=WINDOW_NS / 1e6,
            )

    def _check_room(self, model: ModelView, now: int, received_ns: int, deadline_ns: int) -> None:
        due_ns = deadline_ns - self._lag.guard_ns
        if self.draining:
            raise draining()
        if not self._view.ready or self._view.stalled(now):
            self._check_worth_waiting(now, due_ns)
        elif model.key not in self._view.models:
            raise NotReady(f"Model {model.key} is not being served.", retry_after_ms=10_000)
        elif (served := self._view.models[model.key]).failed and not served.stages:
            raise StagesFailed
        first_ns = self._view.first_answer_ns(model.key)
        feasible_ms = (now - received_ns + first_ns + self._lag.guard_ns) / 1e6
        if now + first_ns >= due_ns:
            raise Infeasible(
                "At the load there is now, not even the first stage can finish by this deadline.",
                retry_after_ms=first_ns / 1e6,
                smallest_feasible_ms=feasible_ms,
            )
        credit = self._view.credit
        if self.in_work >= (self._max_jobs if credit is None else min(credit.jobs, self._max_jobs)):
            raise Overloaded(
                "As many images are in work as are allowed.",
                retry_after_ms=max(first_ns / 1e6, 10),
                smallest_feasible_ms=feasible_ms,
            )

    def _fits_alone(self, model: ModelView, budget_ns: int) -> bool:
        """Whether it is the load that keeps it out: a budget too small for an idle service is nobody's fault."""
        served = self._view.models.get(model.key)
        alone = [row.p99_ns for rows in served.stages.values() for row in rows[:1]] if served else []
        return min(alone, default=0) + self._lag.guard_ns < budget_ns

    def take_bytes(self, count: int) -> None:
        """Counts bytes of a body that is still coming. Raises Overloaded when too many are held already."""
        if self.body_bytes + count > self._max_buffered:
            raise Overloaded("Too many request bodies are being received.", retry_after_ms=1000)
        self.body_bytes += count

    def give_bytes(self, count: int) -> None:
        """The opposite of `take_bytes`."""
        self.body_bytes -= count

    def _check_worth_waiting(self, now: int, due_ns: int) -> None:
        """Held jobs wait for the engine; those that would wait in vain are told at once."""
        view = self._view
        if view.state == "draining":
            raise draining()
        back_in_ns = view.back_in_ns(now)
        if due_ns - now <= back_in_ns:
            raise self._no_engine(back_in_ns)

    def _no_engine(self, back_in_ns: int) -> Unavailable:
        retry_ms = max(back_in_ns / 1e6, 1000)
        if self._view.was_ready:
            return EngineLost(
                "The engine does not respond and the deadline leaves no time to wait for it.", retry_ms
            )
        return NotReady(f"The service is starting: {self._view.detail}", retry_ms)


def draining() -> Draining:
    """The refusal of a service that is being shut down."""
    return Draining("The service is being shut down.", retry_after_ms=1000)
