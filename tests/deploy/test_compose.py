"""The composed service, brought up for real: an image through it, a metric out of Prometheus.

Needs a Docker engine that has or can pull the two base images; skipped with the reason where there is none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import httpx
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "anytime:composed-test"
PROJECT = f"anytime-test-{os.getpid()}"
BUILD_S, UP_S, ANSWER_S = 900, 120, 60

pytestmark = pytest.mark.slow
Found = TypeVar("Found")


def run(*command: str, seconds: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command in the repository; never raises for its exit status."""
    return subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def missing_docker() -> str | None:
    """Why the composed service cannot be brought up here, or None where it can."""
    if shutil.which("docker") is None:
        return "no docker command here"
    if run("docker", "info").returncode != 0:
        return "no Docker engine answers here"
    if compose_command() is None:
        return "neither `docker-compose` nor `docker compose` here"
    for image in base_images():
        present = run("docker", "image", "inspect", image).returncode == 0
        if not present and run("docker", "pull", image, seconds=300).returncode != 0:
            return f"the image {image} is neither here nor to be pulled"
    return None


def compose_command() -> list[str] | None:
    """docker-compose, or the plugin, whichever is there."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if run("docker", "compose", "version").returncode == 0:
        return ["docker", "compose"]
    return None


def base_images() -> set[str]:
    """Every image that the Dockerfile starts from and that the compose file takes ready-made."""
    dockerfile = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    compose = re.findall(r"^ +image: ([^$\s]\S*)", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    return {*dockerfile, *compose}


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def eventually(look: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """The first thing that `look` finds; fails, naming `what`, when it has found nothing for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (found := look()) is not None:
            return found
        time.sleep(0.25)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


@dataclass(frozen=True)
class Composed:
    """The running pair, and the way to ask compose about it."""

    server: str
    prometheus: str
    environment: dict[str, str]

    def compose(self, *arguments: str, seconds: float = UP_S) -> str:
        done = run(*(compose_command() or []), "-p", PROJECT, *arguments, seconds=seconds, **self.environment)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def inspect(self, service: str) -> dict[str, Any]:
        container = self.compose("ps", "-q", service).strip()
        return dict(json.loads(run("docker", "inspect", container).stdout)[0])

    def scraped(self, query: str) -> float | None:
        """The value of a query that gives one number; None while Prometheus has none."""
        try:
            reply = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": query}, timeout=5)
            result = reply.raise_for_status().json()["data"]["result"]
        except httpx.HTTPError:
            return None
        return float(result[0]["value"][1]) if result else None


@pytest.fixture(scope="module")
def composed() -> Iterator[Composed]:
    if reason := missing_docker():
        pytest.skip(reason)
    port, prometheus_port = free_port(), free_port()
    environment = {"PORT": port, "PROMETHEUS_PORT": prometheus_port, "BIND": "127.0.0.1", "IMAGE": IMAGE}
    pair = Composed(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{prometheus_port}", environment)
    try:
        pair.compose("build", seconds=BUILD_S)
        pair.compose("up", "-d")
        eventually(lambda: ready(pair), UP_S, "a ready service")
        yield pair
    finally:
        print(pair.compose("logs", "--tail=60", "server"))  # shown beside a failure
        pair.compose("down", "--volumes", "--remove-orphans")
        run("docker", "image", "rm", IMAGE)


def ready(pair: Composed) -> bool | None:
    try:
        return httpx.get(f"{pair.server}/readyz", timeout=5).status_code == 200 or None
    except httpx.TransportError:
        return None


def png() -> bytes:
    """A 32 by 32 picture: a red disc on blue."""
    picture = np.full((32, 32, 3), (200, 80, 20), np.uint8)
    cv2.circle(picture, (16, 16), 9, (20, 20, 220), -1)
    return bytes(cv2.imencode(".png", picture)[1])


def classify(pair: Composed) -> dict[str, Any]:
    reply = httpx.post(
        f"{pair.server}/classify?deadline_ms=2000",
        content=png(),
        headers={"Content-Type": "image/png"},
        timeout=10,
    )
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_an_image_is_classified_through_the_composed_service(composed: Composed) -> None:
    answer = classify(composed)
    assert answer["stages_run"]
    assert 0 < answer["probability"] <= 1
    assert answer["elapsed_ms"] <= 2000


def test_prometheus_reads_the_requests_that_were_answered(composed: Composed) -> None:
    assert eventually(lambda: composed.scraped('up{job="anytime"}'), ANSWER_S, "a scrape") == 1
    before = composed.scraped("sum(anytime_requests_total)") or 0
    for _ in range(3):
        classify(composed)

    def counted() -> float | None:
        value = composed.scraped("sum(anytime_requests_total)") or 0
        return value if value >= before + 3 else None

    eventually(counted, ANSWER_S, f"three more requests than the {before:.0f} counted before")


def test_prometheus_accepts_its_configuration_and_rules(composed: Composed) -> None:
    checked = composed.compose(
        "exec", "-T", "prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml"
    )
    assert "SUCCESS" in checked


def test_the_container_becomes_healthy_by_its_own_check(composed: Composed) -> None:
    def healthy() -> bool | None:
        return composed.inspect("server")["State"]["Health"]["Status"] == "healthy" or None

    assert eventually(healthy, ANSWER_S, "a healthy container")


def test_the_service_runs_unprivileged_on_a_read_only_root_without_torch(composed: Composed) -> None:
    container = composed.inspect("server")
    assert container["Config"]["User"].split(":")[0] not in {"", "0", "root"}
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert container["HostConfig"]["CapDrop"] == ["ALL"]
    imported = run("docker", "exec", container["Id"], "python", "-c", "import torch")
    assert "No module named 'torch'" in imported.stderr


def test_the_runtime_leaves_no_telemetry_behind(composed: Composed) -> None:
    container = composed.inspect("server")["Id"]
    found = run("docker", "exec", container, "find", "/tmp", "-name", "deviceid", "-o", "-name", ".ses")
    assert (found.returncode, found.stdout) == (0, "")


def test_stopping_the_service_ends_it_with_status_zero(composed: Composed) -> None:
    container = composed.inspect("server")["Id"]
    composed.compose("stop", "server")
    state = json.loads(run("docker", "inspect", container).stdout)[0]["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)
