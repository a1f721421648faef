"""Counts what became of requests and images: each once, here and nowhere else.

Knows which outcome moves which metric; must not know how outcomes come about. Label lookups cost as much as counting,
so the children are kept.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from server.errors import Problem, Unavailable
from server.jobs import Job
from server.lag import Lag
from server.metrics import FrontEndMetrics


class Tally:
    """Of one front end."""

    def __init__(self, metrics: FrontEndMetrics, lag: Lag) -> None:
        self._metrics = metrics
        self._lag = lag
        self._requests: dict[tuple[str, str, int], Counter] = {}
        self._answers: dict[tuple[str, int, str], tuple[Histogram, Counter, Counter]] = {}

    def request(self, route: str, model: str, status: int) -> None:
        """A request was answered. `model` is name@version, or empty where none is meant."""
        key = (route, model, status)
        child = self._requests.get(key)
        if child is None:
            child = self._requests[key] = self._metrics.requests.labels(route, model, str(status))
        child.inc()

    def image(self, job: Job, now_ns: int, received_ns: int, deadline_ns: int) -> None:
        """An image's answer was written."""
        key = (job.model.key, job.stages, job.ended)
        children = self._answers.get(key)
        if children is None:
            children = self._answers[key] = self._children(job)
        latency, answers, accuracy = children
        latency.observe((now_ns - received_ns) / 1e9)
        answers.inc()
        accuracy.inc(job.model.stage_set(job.stages).expected_accuracy)
        if now_ns > deadline_ns:
            self._metrics.late.labels(job.model.key).observe((now_ns - deadline_ns) / 1e9)
        if job.by_clock:
            self._lag.answered(now_ns - job.due_ns)

    def problem(self, problem: Problem) -> None:
        """An image got a problem instead of an answer."""
        if isinstance(problem, Unavailable):
            self._metrics.refused.labels(problem.kind).inc()

    def _children(self, job: Job) -> tuple[Histogram, Counter, Counter]:
        model, stage = job.model.key, job.model.stage_set(job.stages).names[-1]
        metrics = self._metrics
        return (
            metrics.latency.labels(model, stage),
            metrics.answers.labels(model, stage, job.ended),
            metrics.expected_accuracy.labels(model),
        )
