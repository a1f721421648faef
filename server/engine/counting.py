"""Counts what the engine does.

Knows which metric stands for what; keeps labelled children, for looking one up costs. Counting costs too, tens of
microseconds a launch: what is told here is kept until `settle`, which is called when the refinements have left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache

from server.engine.latency import LatencyTable
from server.metrics import EngineMetrics, write_counts

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
        self._told: list[tuple[Callable[[float], None], float]] = []
        self._ends: defaultdict[tuple[str, str], int] = defaultdict(int)  # of jobs, since the last `settle`

    def launch(self, model: str, stage: str, batch: int, duration_ns: int) -> None:
        """A launch has ended well. Its batch is labelled by the power of two that holds it."""
        bucket = str(1 << (batch - 1).bit_length())
        self._told += (
            (self._launches(model, stage).inc, 1),
            (self._seconds(model, stage, bucket).observe, duration_ns * NS),
            (self._sizes(model, stage).observe, batch),
        )

    def queued(self, model: str, queue_ns: int) -> None:
        """A job has had its first launch."""
        self._told.append((self._queued(model).observe, queue_ns * NS))

    def late_work(self, model: str, ns: float) -> None:
        """Device time went into refinements that came too late or for nobody."""
        self._told.append((self._late(model).inc, ns * NS))

    def ended(self, model: str, reason: str) -> None:
        """A job has left the engine."""
        self._ends[model, reason] += 1

    def failed(self, model: str, stage: str) -> None:
        """A launch has failed."""
        self._told.append((self._metrics.stage_failures.labels(model, stage).inc, 1))

    def restarted(self, reason: str, stage: str) -> None:
        """This engine takes the place of one that ended so."""
        self._metrics.restarts.labels(reason, stage).inc()

    def latencies(
        self, model: str, stages: Mapping[int, str], latency: LatencyTable, first_answer_ns: int
    ) -> None:
        """What is believed now of the launches of a model; `stages` are names by place in its ladder."""
        metrics = self._metrics
        metrics.factor.labels(model).set(latency.factor)
        metrics.tail.labels(model).set(latency.tail_ns * NS)
        metrics.first_answer.labels(model).set(first_answer_ns * NS)
        for place, name in stages.items():
            for batch in latency.buckets:
                metrics.promised.labels(model, name, str(batch)).set(latency.ns(place, batch) * NS)

    def waiting(self, jobs: int) -> None:
        """So many jobs have no refinement yet."""
        self._told.append((self._metrics.waiting.set, jobs))

    def settle(self) -> None:
        """Moves the metrics by all that was told."""
        told, self._told = self._told, []
        for move, value in told:
            move(value)
        for (model, reason), count in self._ends.items():
            self._ended(model, reason).inc(count)
        self._ends.clear()
        write_counts()
