"""The Prometheus configuration: its rules read metrics that the service has, and promtool accepts it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from server.metrics import EngineMetrics, FrontEndMetrics

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = ROOT / "deploy" / "prometheus"
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}


def series() -> set[str]:
    """Every series name that the service can expose."""
    registry = CollectorRegistry()
    FrontEndMetrics(registry)
    EngineMetrics(registry)
    types = re.findall(r"^# TYPE (\w+) (\w+)", generate_latest(registry).decode(), re.MULTILINE)
    return {name.removesuffix("_total") + suffix for name, kind in types for suffix in SUFFIXES[kind]}


def test_every_rule_reads_series_that_the_service_exposes() -> None:
    read = set(re.findall(r"\banytime_\w+", (CONFIGURATION / "rules.yml").read_text()))
    assert read
    assert not read - series()


def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (Debian: the package prometheus)")
    done = subprocess.run(
        [promtool, "check", "config", "prometheus.yml"],
        check=False,
        cwd=CONFIGURATION,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
