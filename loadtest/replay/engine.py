"""A real engine process without front ends, as the supervisor starts one, for a replay to speak to.

Knows how an engine is started and ended, and where its socket is; must not know jobs.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.servers import STOP_TIMEOUT_S
from server.child import ENVIRONMENT_KEY, ChildContext
from server.settings import Settings

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class EngineSettings:
    """What a replay sets of the engine: models, kept profiles, its cores, runtime, and the rung (0: the policy)."""

    models_dir: Path
    state_dir: Path
    cpus: tuple[int, ...]
    backend: str = "auto"
    pin_rung: int = 0
    max_jobs: int = 4096


@dataclass(frozen=True)
class RunningEngine:
    """The process; it may still be loading its models."""

    socket: Path


@contextmanager
def engine(settings: EngineSettings, log: Path) -> Iterator[RunningEngine]:
    """Starts an engine, pinned, and ends it after the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # A unix socket's path may have 107 characters, and folders of raw records are long.
    with tempfile.TemporaryDirectory(prefix="replay-") as runtime_dir, log.open("wb") as output:
        context = _context(settings, Path(runtime_dir))
        process = subprocess.Popen(
            [sys.executable, "-m", "server.engine.process"],
            env=_environment(context),
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
        try:
            _pin(process.pid, settings.cpus)
            yield RunningEngine(context.engine_socket)
        finally:
            _end(process)


def _context(settings: EngineSettings, runtime_dir: Path) -> ChildContext:
    wanted = Settings(
        models_dir=settings.models_dir,
        state_dir=settings.state_dir,
        backend=settings.backend,
        pin_rung=settings.pin_rung,
        max_jobs=settings.max_jobs,
        engine_threads=len(settings.cpus),
        drain_s=0,
    )
    return ChildContext(wanted, runtime_dir, os.getpid(), runtime_dir / "processes.json")


def _environment(context: ChildContext) -> dict[str, str]:
    environment = {**os.environ, ENVIRONMENT_KEY: context.encode(), **dict.fromkeys(ONE_THREAD, "1")}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    return environment


def _pin(pid: int, cpus: Collection[int]) -> None:
    """At once after the start: threads that it makes later stay on the same cores."""
    there = set(cpus) & set(range(os.cpu_count() or 1))
    if there:
        os.sched_setaffinity(pid, there)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
