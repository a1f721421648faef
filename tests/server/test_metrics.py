"""Metrics: names, buckets, and one scrape for several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import LATENCY, EngineMetrics, FrontEndMetrics, exposition


def test_all_names_have_the_prefix_and_a_help_text() -> None:
    registry = CollectorRegistry()
    FrontEndMetrics(registry)
    EngineMetrics(registry)
    families = list(registry.collect())
    assert len(families) > 15
    for family in families:
        assert family.name.startswith("anytime_"), family.name
        assert family.documentation.endswith("."), family.name


def test_times_are_in_seconds_and_begin_at_a_quarter_of_a_millisecond() -> None:
    assert LATENCY[0] == 0.00025
    assert list(LATENCY) == sorted(LATENCY)
    metrics = FrontEndMetrics(CollectorRegistry())
    for metric in (metrics.latency, metrics.late, metrics.decode):
        assert isinstance(metric, Histogram)
        assert metric._name.endswith("_seconds")


def test_outside_of_a_service_the_registry_itself_is_shown() -> None:
    registry = CollectorRegistry()
    FrontEndMetrics(registry).left.inc(3)
    assert b"anytime_clients_left_total 3.0" in exposition(registry)


def test_one_scrape_sums_all_processes(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    script = """
from prometheus_client import CollectorRegistry
from server.metrics import EngineMetrics, FrontEndMetrics, exposition
registry = CollectorRegistry()
FrontEndMetrics(registry).requests.labels("/classify", "tiny@1", "200").inc(2)
EngineMetrics(registry).launches.labels("tiny@1", "full").inc()
print(exposition(registry).decode())
"""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(done.stdout)
        for sample in family.samples
        if sample.labels
    }
    assert samples["anytime_requests_total"] == 4
    assert samples["anytime_launches_total"] == 2


def test_counts_wait_in_memory_until_they_are_written(tmp_path: Path) -> None:
    """What another process could tell of them is read from the files; this one writes before it tells."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    script = """
import threading
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from server.engine.counting import Counting
from server.metrics import EngineMetrics, FrontEndMetrics, count_in_memory, exposition, write_counts

def others_see(line):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return line in generate_latest(registry).decode().splitlines()

count_in_memory()
metrics = FrontEndMetrics(CollectorRegistry())
requests = metrics.requests.labels("/classify", "tiny@1", "200")
line = 'anytime_requests_total{model="tiny@1",route="/classify",status="200"} '
requests.inc(2)
assert requests._value.get() == 2
assert not others_see(line + "2.0")
write_counts()
assert others_see(line + "2.0")
requests.inc()
metrics.latency.labels("tiny@1", "full").observe(0.012)
told = exposition(CollectorRegistry()).decode()
assert line + "3.0" in told.splitlines()
assert 'anytime_answer_seconds_bucket{le="0.015",model="tiny@1",stage="full"} 1.0' in told.splitlines()
metrics.in_flight.set(7)
assert others_see("anytime_jobs_in_flight 7.0")

counting = Counting(EngineMetrics(CollectorRegistry()))
counting.restarted("died", "")
counting.ended("tiny@1", "no_gain")
counting.ended("tiny@1", "no_gain")
counting.settle()
assert others_see('anytime_engine_restarts_total{reason="died",stage=""} 1.0')
assert others_see('anytime_engine_jobs_total{model="tiny@1",stop_reason="no_gain"} 2.0')
counting.settle()
assert others_see('anytime_engine_jobs_total{model="tiny@1",stop_reason="no_gain"} 2.0')

def count():
    for _ in range(20_000):
        metrics.left.inc()
        write_counts()

threads = [threading.Thread(target=count) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert others_see("anytime_clients_left_total 80000.0")
"""
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
