"""Counts what the engine does.

Knows which metric stands for what; keeps labelled children, for looking one up costs.
"""

from __future__ import annotations

from functools import cache

from server.metrics import EngineMetrics

NS = 1e-9


class Counting:
    """The engine's metrics, in the engine's own units (nanoseconds, places made names by the caller)."""

    def __init__(self, metrics: EngineMetrics) -> None:
        self._metrics = metrics
        self._launches = cache(metrics.launches.labels)
        self._seconds = cache(metrics.launch_seconds.labels)
        self._sizes = cache(metrics.batch_size.labels)
        self._queued = cache(metrics.queue_seconds.labels)
        self._late = cache(metrics.late_work.labels)
        self._ended = cache(metrics.jobs.labels)

    def launch(self, model: str, stage: str, batch: int, duration_ns: int) -> None:
        """A launch has ended well. Its batch is labelled by the power of two that holds it."""
        self._launches(model, stage).inc()
        self._seconds(model, stage, str(1 << (batch - 1).bit_length())).observe(duration_ns * NS)
        self._sizes(model, stage).observe(batch)

    def queued(self, model: str, queue_ns: int) -> None:
        """A job has had its first launch."""
        self._queued(model).observe(queue_ns * NS)

    def late_work(self, model: str, ns: float) -> None:
        """Device time went into refinements that came too late or for nobody."""
        self._late(model).inc(ns * NS)

    def ended(self, model: str, reason: str) -> None:
        """A job has left the engine."""
        self._ended(model, reason).inc()

    def failed(self, model: str, stage: str) -> None:
        """A launch has failed."""
        self._metrics.stage_failures.labels(model, stage).inc()

    def waiting(self, jobs: int) -> None:
        """So many jobs have no refinement yet."""
        self._metrics.waiting.set(jobs)
