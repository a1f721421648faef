"""Starting and stopping the servers under test, and reading from /proc what they cost.

Knows command lines, /readyz and /proc; imports nothing of a server.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

HOST = "127.0.0.1"
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.01


class ServerFailed(Exception):
    """The server did not become ready; the text ends with what it last logged."""


@dataclass(frozen=True)
class Memory:
    """Bytes of all processes of a server: resident set sizes summed, and proportional (shared pages
    split).
    """

    resident: int
    proportional: int


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def get_text(host: str, port: int, path: str, timeout_s: float = 5.0) -> tuple[int, str]:
    """Status and body of a GET. Raises OSError where nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP answer to GET {path}") from error
    finally:
        connection.close()


def get_json(host: str, port: int, path: str, timeout_s: float = 5.0) -> tuple[int, Any]:
    """Status and parsed body of a GET; body None where it is not JSON. Raises OSError where nobody answers."""
    status, text = get_text(host, port, path, timeout_s)
    try:
        return status, json.loads(text)
    except ValueError:
        return status, None


def descendants(pid: int) -> list[int]:
    """The process and all its living children, their children, and so on."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found.extend(int(child) for child in task.read_text().split())
            except OSError:
                continue  # it ended while we looked
    return found


def cpu_ns(pid: int) -> int:
    """Nanoseconds that all living threads of a process have run; 0 where it is gone."""
    total = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(file.read_text().split()[0])
        except OSError:
            continue
    return total


def memory_of(pids: Sequence[int]) -> Memory:
    """Sums over the processes that still live."""
    resident = proportional = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        fields = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
        resident += int(fields["Rss"]) * 1024
        proportional += int(fields["Pss"]) * 1024
    return Memory(resident, proportional)


@dataclass(frozen=True)
class Server:
    """Somewhere on this machine that answers HTTP."""

    port: int
    host: str = HOST

    @classmethod
    def at(cls, url: str) -> "Server":
        """From `http://host:port`. Raises ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or not parts.port:
            raise ValueError(f"not the address of a server: {url!r}")
        return cls(parts.port, parts.hostname)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    def get(self, path: str) -> Any:
        """Parsed body of a GET. Raises ServerFailed unless the status is 200."""
        try:
            status, body = get_json(self.host, self.port, path)
        except OSError as error:
            raise ServerFailed(f"GET {path}: {error}") from error
        if status != 200:
            raise ServerFailed(f"GET {path} gave {status}")
        return body


@dataclass(frozen=True)
class RunningServer(Server):
    """A server that we started and that became ready after `ready_s`; `roles` are its processes by role."""

    pid: int = 0
    ready_s: float = 0.0
    roles: dict[str, list[int]] = field(default_factory=dict)

    def cpu_ns(self) -> dict[str, int]:
        """CPU time by role until now, in nanoseconds."""
        return {role: sum(cpu_ns(pid) for pid in pids) for role, pids in self.roles.items()}

    def buckets(self, metric: str) -> dict[float, float]:
        """A histogram of /metrics, summed over its labels: observations up to each bound, the last infinite.

        Empty where it is not told. Raises OSError where nobody answers.
        """
        status, text = get_text(self.host, self.port, "/metrics")
        counts: dict[float, float] = {}
        for family in text_string_to_metric_families(text if status == HTTPStatus.OK else ""):
            for sample in family.samples:
                if sample.name == f"{metric}_bucket":
                    bound = float(sample.labels["le"])
                    counts[bound] = counts.get(bound, 0.0) + sample.value
        return counts

    def memory(self) -> Memory:
        """Memory of all its processes now."""
        return memory_of(descendants(self.pid))


def _roles(pid: int, readiness: Any) -> dict[str, list[int]]:
    """From the `processes` of /readyz; a server that names none is one role with all its processes."""
    named = readiness.get("processes") if isinstance(readiness, dict) else None
    if not isinstance(named, dict):
        return {"server": descendants(pid)}
    return {role: [pids] if isinstance(pids, int) else list(pids) for role, pids in named.items()}


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int) -> Any:
    end = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServerFailed(f"it ended with status {process.returncode} before it was ready")
        try:
            status, body = get_json(HOST, port, "/readyz")
        except OSError:
            status, body = 0, None
        if status == 200:
            return body
        time.sleep(_POLL_S)
    raise ServerFailed(f"not ready after {READY_TIMEOUT_S:.0f} s")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and SIGKILL for what is left of it after a while."""
    family = descendants(process.pid) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for pid in family:
            _kill(pid)
        process.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[RunningServer]:
    """Starts a command that serves on `port`, waits for its /readyz, and stops it after the block.

    Raises ServerFailed, with the end of its log, where it does not become ready.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        begun = time.monotonic()
        process = subprocess.Popen(
            list(command), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            readiness = _wait_until_ready(process, port)
            ready_s = time.monotonic() - begun
            yield RunningServer(port, HOST, process.pid, ready_s, _roles(process.pid, readiness))
        except ServerFailed as error:
            raise ServerFailed(f"{error}\n{_tail(log)}") from error
        finally:
            _stop(process)


def _tail(log: Path, characters: int = 2000) -> str:
    return f"end of {log}:\n{log.read_text(errors='replace')[-characters:]}"


@dataclass(frozen=True)
class ServerSettings:
    """What of `python -m server` the benches set; `pin_rung` 1 is the first rung, None leaves the
    policy free.
    """

    models_dir: Path
    state_dir: Path
    cpus: str = "0"
    workers: int = 1
    backend: str = "onnxruntime"
    pin_rung: int | None = None

    def command(self, port: int) -> list[str]:
        """The command line."""
        pinned = [] if self.pin_rung is None else ["--pin-rung", str(self.pin_rung)]
        return [
            *(sys.executable, "-m", "server", "--host", HOST, "--port", str(port)),
            *("--models-dir", str(self.models_dir), "--state-dir", str(self.state_dir)),
            *("--workers", str(self.workers), "--backend", self.backend, "--cpus", self.cpus),
            *pinned,
        ]


@contextmanager
def anytime_server(settings: ServerSettings, log: Path) -> Iterator[RunningServer]:
    """Our server with these settings, ready."""
    port = free_port()
    with running(settings.command(port), port, log) as server:
        yield server
