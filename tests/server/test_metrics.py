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
