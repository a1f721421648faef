"""Every metric of the service and every bucket, in one place. Seconds and base units; prefix anytime_.

Knows names, labels, buckets and how one scrape sums all processes; must not know who counts. The registry is injected.
In the service PROMETHEUS_MULTIPROC_DIR is set before prometheus_client is imported, so values live in files of that
folder and any front end can answer for all processes.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MultiProcessValue

_MS = 1e-3
LATENCY = tuple(
    x * _MS
    for x in (
        0.25,
        0.5,
        1,
        2,
        3,
        5,
        7.5,
        10,
        15,
        20,
        30,
        50,
        75,
        100,
        150,
        200,
        300,
        500,
        1000,
        2500,
        5000,
        10_000,
    )
)
SHORT = tuple(x * _MS for x in (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000))
LATE = tuple(x * _MS for x in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 500, 1000, 5000))
BATCH = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class FrontEndMetrics:
    """What front ends count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "anytime_requests", "Requests answered.", ["route", "model", "status"], registry=registry
        )
        self.latency = Histogram(
            "anytime_answer_seconds",
            "Time from a request's headers to its answer, by the last rung in it.",
            ["model", "stage"],
            buckets=LATENCY,
            registry=registry,
        )
        self.answers = Counter(
            "anytime_answers",
            "Images answered, by the last rung in the answer and why it ended.",
            ["model", "stage", "stop_reason"],
            registry=registry,
        )
        self.expected_accuracy = Counter(
            "anytime_expected_accuracy",
            "Sum of the expected accuracy of all answers; over anytime_answers_total it is the mean.",
            ["model"],
            registry=registry,
        )
        self.late = Histogram(
            "anytime_late_seconds",
            "How long after its deadline an answer left, as the server believes; only late ones.",
            ["model"],
            buckets=LATE,
            registry=registry,
        )
        self.refused = Counter(
            "anytime_refused", "Images refused before any work was done.", ["reason"], registry=registry
        )
        self.refusal = Histogram(
            "anytime_refusal_seconds",
            "Time from when a request was read until its refusal was ready to be written.",
            buckets=SHORT,
            registry=registry,
        )
        self.left = Counter(
            "anytime_clients_left", "Requests whose client left before the answer.", registry=registry
        )
        self.in_flight = Gauge(
            "anytime_jobs_in_flight",
            "Images in work at the front ends.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.connections = Gauge(
            "anytime_connections", "Open connections.", registry=registry, multiprocess_mode="livesum"
        )
        self.loop_lag = Gauge(
            "anytime_loop_lag_seconds",
            "How late the event loop of a front end runs.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.loop_busy = Counter(
            "anytime_loop_busy_seconds",
            "Time in which a front end's loop had something to read in every turn.",
            registry=registry,
        )
        self.coalescing = Counter(
            "anytime_coalescing_seconds",
            "Time for which a front end slept so as to find several requests at once.",
            registry=registry,
        )
        self.answer_guard = Gauge(
            "anytime_answer_guard_seconds",
            "How long before a deadline a front end writes the answer.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.rate_limit = Gauge(
            "anytime_rate_limit",
            "Requests a second that a front end takes on; +Inf while it takes on all.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.backlog = Gauge(
            "anytime_backlog_seconds",
            "How long an image that is taken on now would wait behind those before it, at the pace of late; 0 of few.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.pressed = Counter(
            "anytime_pressed_seconds",
            "Time in which a front end had an engine on its cores finish what is answered and run first rungs only.",
            registry=registry,
        )
        self.decode = Histogram(
            "anytime_decode_seconds",
            "Time to decode one image.",
            ["where"],
            buckets=SHORT,
            registry=registry,
        )
        self.engine_lost = Counter(
            "anytime_engine_lost", "Times a front end lost its engine.", registry=registry
        )


class EngineMetrics:
    """What the engine counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.launches = Counter(
            "anytime_launches", "Launches on the device.", ["model", "stage"], registry=registry
        )
        self.launch_seconds = Histogram(
            "anytime_launch_seconds",
            "Wall time of a launch, by stage and by the batch size it ran at.",
            ["model", "stage", "batch"],
            buckets=SHORT,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "anytime_queue_seconds",
            "Time from a job's arrival at the engine to its first launch.",
            ["model"],
            buckets=SHORT,
            registry=registry,
        )
        self.batch_size = Histogram(
            "anytime_batch_size", "Images in a launch.", ["model", "stage"], buckets=BATCH, registry=registry
        )
        self.late_work = Counter(
            "anytime_late_work_seconds",
            "Device time spent on refinements that nobody got.",
            ["model"],
            registry=registry,
        )
        self.jobs = Counter(
            "anytime_engine_jobs",
            "Jobs ended at the engine, by why.",
            ["model", "stop_reason"],
            registry=registry,
        )
        self.waiting = Gauge(
            "anytime_engine_jobs_waiting",
            "Jobs at the engine without a refinement yet.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.promised = Gauge(
            "anytime_promised_seconds",
            "High estimate of a launch now.",
            ["model", "stage", "batch"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.factor = Gauge(
            "anytime_latency_factor",
            "How much longer than their profile launches take now.",
            ["model"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.tail = Gauge(
            "anytime_latency_tail_seconds",
            "What is added to the estimate of each launch for stalls of the machine.",
            ["model"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.first_answer = Gauge(
            "anytime_first_answer_seconds",
            "How long a job that arrives at the engine now would wait for its first rung.",
            ["model"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.restarts = Counter(
            "anytime_engine_restarts",
            "Engines started again, by what became of the one before (died, hung in a launch of this stage, silent).",
            ["reason", "stage"],
            registry=registry,
        )
        self.stage_failures = Counter(
            "anytime_stage_failures", "Launches that failed.", ["model", "stage"], registry=registry
        )


class _Unheard:
    """In place of a metric, of its children and of all metrics: takes every count and forgets it."""

    def __getattr__(self, name: str) -> _Unheard:
        return self

    def __call__(self, *_values: object) -> _Unheard:
        return self


UNHEARD: Any = _Unheard()
"""FrontEndMetrics or EngineMetrics of a rehearsal: what a service asks itself is no request."""

_lock = Lock()
_unwritten: list[Any] = []  # values of this process that have been raised since they were written


def count_in_memory() -> None:
    """Has every count of this process wait in memory for `write_counts`; to be called before metrics are made.

    prometheus_client writes each into a mapped file at once, and asks before for the process's number, in case it has
    forked, which those of the service never do. That was a twelfth of what an answer costs a front end, and a fifth of
    what a refusal does; an image moves the same few counts as the one before. In memory a count takes 0.3 instead of
    0.8 microseconds, an observation 0.7 instead of 1.7 (AMD EPYC).
    """
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return
    own = os.getpid()
    mapped: Any = MultiProcessValue(process_identifier=lambda: own)  # type: ignore[no-untyped-call]

    class Kept(mapped):  # type: ignore[misc]
        """A value of such a file, and what it has been raised by since it was written."""

        def __init__(self, *args: object, **options: object) -> None:
            self._more = 0.0
            super().__init__(*args, **options)

        def inc(self, amount: float) -> None:
            with _lock:  # images are decoded in threads too
                if not self._more:
                    _unwritten.append(self)
                self._more += amount

        def set(self, value: float, timestamp: float | None = None) -> None:
            with _lock:
                self._more = 0.0
                super().set(value, timestamp)

        def get(self) -> float:
            with _lock:
                return float(super().get() + self._more)

        def write(self) -> None:
            """Under the lock."""
            super().inc(self._more)
            self._more = 0.0

    values.ValueClass = Kept


def write_counts() -> None:
    """Writes to the mapped files what has been counted since the last time: then any process can tell of it."""
    with _lock:
        for value in _unwritten:
            value.write()
        _unwritten.clear()


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics in Prometheus's text format: of all processes of the service, or of `registry` outside of it."""
    write_counts()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        everything = CollectorRegistry()
        MultiProcessCollector(everything)  # type: ignore[no-untyped-call]
        return generate_latest(everything)
    return generate_latest(registry)
