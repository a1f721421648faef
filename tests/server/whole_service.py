"""`python -m server` as a process of its own, for tests that ask the whole service."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


@contextmanager
def whole_service(home: Path, models_dir: Path, *arguments: str) -> Iterator[httpx.Client]:
    """A client of a service with its state and log in `home`; at the end it must stop with status 0."""
    command = [sys.executable, "-m", "server", "--port", "0", "--models-dir", str(models_dir)]
    command += ["--state-dir", str(home / "state")]
    command += ["--backend", "onnxruntime"]  # the numbers are compared with float32
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([*command, *arguments], stderr=log, stdout=subprocess.DEVNULL)
    try:
        with _when_ready(process, home / "log") as client:
            yield client
    finally:
        process.terminate()
        try:
            status = process.wait(20)
        finally:
            process.kill()
    assert status == 0


def _when_ready(process: subprocess.Popen[bytes], log: Path) -> httpx.Client:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        assert process.poll() is None, log.read_text()
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        ports = [line["port"] for line in lines if line["message"] == "listening"]
        if ports:
            url = f"http://127.0.0.1:{ports[0]}"
            if httpx.get(f"{url}/readyz", timeout=30, trust_env=False).status_code == 200:
                # Fewer kept connections than threads would have one thread close what another is about to use.
                limits = httpx.Limits(max_keepalive_connections=100)
                return httpx.Client(base_url=url, timeout=30, trust_env=False, limits=limits)
        time.sleep(0.05)
    raise AssertionError(log.read_text())
