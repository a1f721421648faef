"""What the engine tells front ends of itself: heartbeats, credits, what it serves and how fast.

Knows when such a message is due; must not know jobs one by one.
"""

from __future__ import annotations

import os

from server.engine.counting import Counting
from server.engine.frontends import FrontEnd, FrontEnds
from server.engine.loading import LoadedModel
from server.engine.policy import State, first_answer_ns
from server.messages import Credit, Heartbeat, ServedModel, StageLatency

HEARTBEAT_NS = 100_000_000
CREDIT_NS = 2_000_000  # at most this often …
CREDIT_STEP_NS = 300_000  # … and only when the estimate has moved by this much
DESCRIBE_NS = 1_000_000_000
DRIFT = 0.1
# Over all front ends: what the policy's queues are made for, and a bound on memory.
MOST_JOBS = 4096


class Reports:
    """State of one life of the engine, as front ends are told.

    Args:
        front_ends: who is told.
        max_jobs: of one front end.
        counting: takes the number of waiting jobs along with the heartbeats.
    """

    def __init__(self, front_ends: FrontEnds, max_jobs: int, counting: Counting | None = None) -> None:
        self._front_ends = front_ends
        self._max_jobs = max_jobs
        self._counting = counting
        self._state = "starting"
        self._detail = "starting"
        self._models: dict[str, LoadedModel] = {}
        self._described: list[ServedModel] = []
        self._description = 0
        self._described_ns = 0
        self._factors: dict[str, float] = {}
        self._beat_ns = 0
        self._credit_ns = 0

    def say(self, detail: str, now_ns: int) -> None:
        """While starting: what is being done. Front ends hear it with the next heartbeat, which is sent if due."""
        self._detail = detail
        for _ in (
            self._front_ends.receive()
        ):  # to know who is there; nobody has credit, so nothing else is sent yet
            self._beat_ns = 0
        if now_ns - self._beat_ns >= HEARTBEAT_NS:
            self._beat(now_ns)
            self._front_ends.flush()

    def serve(self, models: dict[str, LoadedModel], detail: str) -> None:
        """Start-up is over. Without a model the state stays `starting`, and `detail` says what is wrong."""
        self._models, self._detail = models, detail
        self._state = "ready" if models else "starting"
        self.models_changed()

    def drain(self) -> None:
        """No more jobs are taken."""
        self._state, self._detail = "draining", "shutting down"
        self._beat_ns = self._credit_ns = 0

    def models_changed(self) -> None:
        """Describe the models anew, at once."""
        self._described = [self._describe(model) for model in self._models.values()]
        self._factors = {key: model.latency.factor for key, model in self._models.items()}
        self._description += 1
        self._beat_ns = 0

    def greet(self, front_end: FrontEnd, now_ns: int) -> None:
        """Tell a front end that does not know this life of the engine."""
        front_end.models_known = -1
        front_end.credit = None
        front_end.outbox.append(self._heartbeat(front_end))
        self._credit_ns = min(self._credit_ns, now_ns - CREDIT_NS)

    def most_jobs(self) -> int:
        """Jobs a front end may have here before it is refused more: its credit may have been cut when another came."""
        return 2 * self._share()

    def send_due(self, policy: State, now_ns: int) -> None:
        """Put into the outboxes what is due."""
        if now_ns - self._beat_ns >= HEARTBEAT_NS:
            self._refresh(policy, now_ns)
            self._beat(now_ns)
            if self._counting:
                self._counting.waiting(sum(len(queue.unanswered) for queue in policy.models.values()))
        if now_ns - self._credit_ns >= CREDIT_NS:
            self._send_credits(policy, now_ns)

    def next_due_ns(self, busy: bool, now_ns: int) -> int:
        """When `send_due` wants to be called again; soon while a long launch makes the credits change."""
        due_ns = self._beat_ns + HEARTBEAT_NS
        unsettled = busy or any(front_end.credit is None for front_end in self._front_ends.known.values())
        return min(due_ns, max(self._credit_ns + CREDIT_NS, now_ns + CREDIT_STEP_NS)) if unsettled else due_ns

    def _share(self) -> int:
        if self._state != "ready":
            return 0
        return max(1, min(self._max_jobs, MOST_JOBS // max(1, len(self._front_ends.known))))

    def _send_credits(self, policy: State, now_ns: int) -> None:
        self._credit_ns = now_ns
        credit = Credit(self._share(), {name: first_answer_ns(policy, name, now_ns) for name in self._models})
        for front_end in self._front_ends.known.values():
            if front_end.credit is None or _differs(front_end.credit, credit):
                front_end.credit = credit
                front_end.outbox.append(credit)

    def _beat(self, now_ns: int) -> None:
        self._beat_ns = now_ns
        for front_end in self._front_ends.known.values():
            front_end.outbox.append(self._heartbeat(front_end))

    def _heartbeat(self, front_end: FrontEnd) -> Heartbeat:
        models = self._described if front_end.models_known != self._description else []
        front_end.models_known = self._description
        return Heartbeat(self._state, self._detail, os.getpid(), models)

    def _refresh(self, policy: State, now_ns: int) -> None:
        """Describe anew when a latency has drifted."""
        if now_ns - self._described_ns < DESCRIBE_NS:
            return
        self._described_ns = now_ns
        if self._counting:
            for key, model in self._models.items():
                names = {place: model.model.manifest.stage_names[place] for place in sorted(model.runners)}
                self._counting.latencies(key, names, model.latency, first_answer_ns(policy, key, now_ns))
        for key, model in self._models.items():
            if abs(model.latency.factor / self._factors[key] - 1) > DRIFT:
                self.models_changed()
                return

    def _describe(self, model: LoadedModel) -> ServedModel:
        names = model.model.manifest.stage_names
        latency = model.latency
        return ServedModel(
            model.key,
            model.runtimes,
            {
                names[place]: [
                    StageLatency(batch, latency.typical_ns(place, batch), latency.ns(place, batch))
                    for batch in latency.buckets
                ]
                for place in sorted(model.runners)
            },
            list(model.failed),
            latency.factor,
            latency.tail_ns,
        )


def _differs(old: Credit, new: Credit) -> bool:
    return old.jobs != new.jobs or any(
        abs(ns - old.first_answer_ns.get(model, 0)) > CREDIT_STEP_NS
        for model, ns in new.first_answer_ns.items()
    )
