"""Counts what became of requests and images: each once, here and nowhere else.

Knows which outcome moves which metric; must not know how outcomes come about. Label lookups cost as much as counting,
so the children are kept.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter, Histogram

from server.catalog import ModelView
from server.errors import Problem, Unavailable
from server.jobs import Job
from server.lag import Lag
from server.metrics import FrontEndMetrics

USUAL_REASONS = ("deepest", "no_gain", "confident", "deadline", "overload")


class Tally:
    """Of one front end."""

    def __init__(self, metrics: FrontEndMetrics, lag: Lag) -> None:
        self._metrics = metrics
        self._lag = lag
        self._requests: dict[tuple[str, str, int], Counter] = {}
        self._refused: dict[str, Counter] = {}
        self._answers: dict[tuple[str, int, str], tuple[Histogram, Counter, Counter]] = {}

    def expect(self, model: ModelView, routes: Iterable[str]) -> None:
        """Makes the children that answers of `model` will move: else its first requests would, a millisecond late."""
        for route in routes:
            self.request_child(route, model.key, 200)
        for stages in range(1, 1 << len(model.manifest.stages)):
            for reason in USUAL_REASONS:
                self._children(model, stages, reason)

    def request_child(self, route: str, model: str, status: int) -> Counter:
        """The counter of such requests."""
        key = (route, model, status)
        child = self._requests.get(key)
        if child is None:
            child = self._requests[key] = self._metrics.requests.labels(route, model, str(status))
        return child

    def request(self, route: str, model: str, status: int) -> None:
        """A request was answered. `model` is name@version, or empty where none is meant."""
        self.request_child(route, model, status).inc()

    def image(self, job: Job, now_ns: int, received_ns: int, deadline_ns: int) -> None:
        """An image's answer was written."""
        latency, answers, accuracy = self._children(job.model, job.stages, job.ended)
        latency.observe((now_ns - received_ns) / 1e9)
        answers.inc()
        accuracy.inc(job.model.stage_set(job.stages).expected_accuracy)
        if now_ns > deadline_ns:
            self._metrics.late.labels(job.model.key).observe((now_ns - deadline_ns) / 1e9)
        if job.by_clock:
            self._lag.answered(now_ns - job.due_ns)

    def refusal(self, problem: Problem, spent_ns: int) -> None:
        """A request got this problem, after `spent_ns` nanoseconds from when it was read."""
        if isinstance(problem, Unavailable):
            self._metrics.refusal.observe(spent_ns / 1e9)

    def problem(self, problem: Problem) -> None:
        """An image got a problem instead of an answer."""
        if isinstance(problem, Unavailable):
            child = self._refused.get(problem.kind)
            if child is None:
                child = self._refused[problem.kind] = self._metrics.refused.labels(problem.kind)
            child.inc()

    def _children(self, model: ModelView, stages: int, reason: str) -> tuple[Histogram, Counter, Counter]:
        key = (model.key, stages, reason)
        known = self._answers.get(key)
        if known is None:
            stage, metrics = model.stage_set(stages).names[-1], self._metrics
            known = self._answers[key] = (
                metrics.latency.labels(model.key, stage),
                metrics.answers.labels(model.key, stage, reason),
                metrics.expected_accuracy.labels(model.key),
            )
        return known
