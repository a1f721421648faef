"""The parent: holds the listening socket, starts the engine and the front ends, starts again what dies and kills
an engine that hangs.

Knows processes, signals and the private folder they meet in; must not know HTTP, models or jobs, and imports none of
what its children do. Children die with it (parent-death signal, see child.py), so a killed supervisor leaves nothing
behind but its folder, which the next start removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from server.child import ENVIRONMENT_KEY, HANGS_TO_BE_LEFT_OUT, ChildContext, Processes
from server.pulse import LOOK_S, Hang, Watch
from server.settings import Settings

logger = logging.getLogger(__name__)

ENGINE = "server.engine.process"
FRONT_END = "server.app"
PREFIX = "anytime-"
LOCK = "lock"
LONG_LIFE_S = 10.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0
GRACE_S = 2.0  # beyond drain_s, for a child to notice and to end
HURRY_S = 0.5
# A child computes on the threads it asks for, not on one per core for every library that is linked in.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

Spawn = Callable[[str, dict[str, str], tuple[int, ...]], "subprocess.Popen[bytes]"]


@dataclass
class Child:
    """One place in the service and the process that fills it.

    Attributes:
        module: what it runs.
        name: for people.
        number: of a front end, from 0.
        process: None while it waits to be started again.
        started_s: when the present process was started.
        early_deaths: lives in a row that were short.
        due_s: when to start it (again).
    """

    module: str
    name: str
    number: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    early_deaths: int = 0
    due_s: float = field(default=0.0)

    def ended(self, now_s: float) -> float:
        """Note the end of a life; returns the seconds to wait before the next: none the first time, then growing."""
        self.early_deaths = 1 if now_s - self.started_s >= LONG_LIFE_S else self.early_deaths + 1
        delay_s = 0.0
        if self.early_deaths > 1:
            delay_s = min(FIRST_DELAY_S * 2 ** (self.early_deaths - 2), LONGEST_DELAY_S)
        self.process = None
        self.due_s = now_s + delay_s
        return delay_s


class RuntimeFolder:
    """A folder of mode 700 for sockets and metrics. Locked while its supervisor lives, so that others see it does."""

    def __init__(self) -> None:
        _remove_stale_folders()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Locked before it bears its name: whoever finds it unlocked may take the folder for abandoned.
        self._lock = (self.path / "locking").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self.path / "locking").rename(self.path / LOCK)
        self.metrics = self.path / "metrics"
        self.metrics.mkdir()

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_stale_folders() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if folder.lstat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # its supervisor lives, or it is not ours
            continue


def _spawn(module: str, environment: dict[str, str], descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    # A process group of its own: a terminal's Ctrl-C goes to the supervisor alone, which ends them in order.
    return subprocess.Popen(
        [sys.executable, "-m", module],
        env={**os.environ, **environment},
        pass_fds=descriptors,
        process_group=0,
    )


class Supervisor:
    """One service.

    Args:
        settings: of all of it.
        listener: bound and listening; the front ends inherit it.
        folder: where they meet.
        spawn: starts a child; tests give another.
    """

    def __init__(
        self, settings: Settings, listener: socket.socket, folder: RuntimeFolder, spawn: Spawn = _spawn
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._folder = folder
        self._spawn = spawn
        self._engine = Child(ENGINE, "engine")
        self._front_ends = [Child(FRONT_END, f"front end {n + 1}", n) for n in range(settings.workers)]
        self._watch = Watch(folder.path / "engine.pulse", int(settings.hang_s * 1e9))
        self._hang: Hang | None = None  # what the present engine is being killed for
        self._ended = ""
        self._hangs: list[str] = []
        self._stops = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit status: 0 if everything ended by itself."""
        self._watch_signals()
        while not self._stops:
            self._reap()
            self._start_due()
            self._kill_hanging()
            self._wait(self._next_due_s())
        return self._shut_down()

    # Starting

    def _start_due(self) -> None:
        now_s = time.monotonic()
        for child in self._children():
            if child.process is None and child.due_s <= now_s:
                self._start(child, now_s)

    def _start(self, child: Child, now_s: float) -> None:
        serves = child.module == FRONT_END
        context = ChildContext(
            settings=self._settings,
            runtime_dir=self._folder.path,
            supervisor_pid=os.getpid(),
            processes_file=self._folder.path / "processes.json",
            listen_fd=self._listener.fileno() if serves else None,
            number=child.number,
            ended="" if serves else self._ended,
            hangs=() if serves else tuple(self._hangs),
        )
        if not serves:
            self._watch.begin()
        environment = {
            ENVIRONMENT_KEY: context.encode(),
            "PROMETHEUS_MULTIPROC_DIR": str(self._folder.metrics),
            "ORT_DISABLE_TELEMETRY": "1",  # see backends/onnxruntime.py
            **dict.fromkeys(ONE_THREAD, "1"),
        }
        child.started_s = now_s
        try:
            child.process = self._spawn(
                child.module, environment, (self._listener.fileno(),) if serves else ()
            )
        except OSError as error:  # the machine has no memory, process or descriptor to give: it may have soon
            child.early_deaths = max(child.early_deaths, 1)  # so that even the first time is waited for
            fields = {"child": child.name, "error": str(error), "again_in_s": child.ended(now_s)}
            logger.error("could not be started", extra=fields)
            return
        logger.info("started", extra={"child": child.name, "child_pid": child.process.pid})
        self._write_processes()

    def _write_processes(self) -> None:
        path = self._folder.path / "processes.json"
        processes = Processes(
            supervisor=os.getpid(),
            engine=self._engine.process.pid if self._engine.process else 0,
            frontends=tuple(child.process.pid for child in self._front_ends if child.process),
        )
        half = path.with_suffix(".half")
        half.write_text(processes.model_dump_json())
        half.replace(path)

    # Watching

    def _watch_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to be woken
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: object) -> None:
        self._stops += 1

    def _next_due_s(self) -> float | None:
        due = [child.due_s for child in self._children() if child.process is None]
        until_s = max(min(due) - time.monotonic(), 0.0) if due else None
        if self._settings.hang_s and self._engine.process is not None:
            return LOOK_S if until_s is None else min(until_s, LOOK_S)
        return until_s

    def _kill_hanging(self) -> None:
        """An engine that makes no progress cannot end by itself, nor be asked to. Its front ends answer meanwhile."""
        if not self._settings.hang_s or self._engine.process is None or self._hang is not None:
            return
        self._hang = self._watch.look(time.monotonic_ns())
        if self._hang is not None:
            said = {"reason": self._hang.reason, "stage": self._hang.stage}
            seconds = round(self._hang.seconds, 3)
            logger.error("the engine hangs, killing it", extra={**said, "for_s": seconds})
            _signal(self._engine, signal.SIGKILL)

    def _note_end_of_engine(self) -> None:
        """For the next life, which counts it."""
        hang, self._hang = self._hang, None
        self._ended = hang.reason if hang else "died"
        if hang and hang.stage:
            # More say no more, and a model's only stage may hang for ever: the list travels in the environment.
            while self._hangs.count(hang.stage) >= HANGS_TO_BE_LEFT_OUT:
                self._hangs.remove(hang.stage)
            self._hangs.append(hang.stage)

    def _wait(self, seconds: float | None) -> None:
        """Until a signal comes or the time is up."""
        select.select([self._wake_read], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _reap(self) -> None:
        """Note the children that have ended, and when each is to be started again."""
        for child in self._children():
            process = child.process
            if process is None or process.poll() is None:
                continue
            mark_process_dead(process.pid, str(self._folder.metrics))  # type: ignore[no-untyped-call]
            now_s = time.monotonic()
            lived_s = round(now_s - child.started_s, 3)
            if child is self._engine:
                self._note_end_of_engine()
            delay_s = child.ended(now_s)
            said = {"child": child.name, "child_pid": process.pid, "reason": reason_of(process.returncode)}
            if self._stops:
                logger.info("ended", extra=said)
            elif child.early_deaths > 1:
                said["deaths_in_a_row"] = str(child.early_deaths)
                logger.error("keeps dying", extra={**said, "lived_s": lived_s, "again_in_s": delay_s})
            else:
                logger.warning("died, starting it again", extra={**said, "lived_s": lived_s})
            self._write_processes()

    # Ending

    def _shut_down(self) -> int:
        """Front ends first, for they have promised answers that the engine still has to give; then the engine."""
        logger.info("shutting down", extra={"drain_s": self._settings.drain_s})
        self._listener.close()
        clean = self._end(self._front_ends)
        clean = self._end([self._engine]) and clean
        return 0 if clean else 1

    def _end(self, children: list[Child]) -> bool:
        """SIGTERM, wait, and SIGKILL for whoever has not ended in time; True if nobody needed that."""
        for child in children:
            _signal(child, signal.SIGTERM)
        until_s = time.monotonic() + self._settings.drain_s + GRACE_S
        while self._alive(children) and (left_s := until_s - time.monotonic()) > 0:
            hurried = self._stops > 1
            self._wait(min(left_s, HURRY_S) if hurried else left_s)
            self._reap()
            if hurried:
                break
        late = self._alive(children)
        for child in late:
            logger.error("killed, it did not end in time", extra={"child": child.name})
            _signal(child, signal.SIGKILL)
            if child.process:
                child.process.wait()
        return not late

    def _alive(self, children: list[Child]) -> list[Child]:
        return [child for child in children if child.process and child.process.poll() is None]

    def _children(self) -> list[Child]:
        return [self._engine, *self._front_ends]


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process and child.process.poll() is None:
        child.process.send_signal(number)


def reason_of(status: int) -> str:
    """A process's end in words, from its return code as subprocess gives it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def listen(host: str, port: int, patience_s: float = 1.0) -> socket.socket:
    """A listening TCP socket that does not block, in whichever process.

    A service that was killed a moment ago may hold the port for some milliseconds more: its children are dying.

    Raises:
        OSError: the address cannot be had.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    until_s = time.monotonic() + patience_s
    while True:
        try:
            listener = socket.create_server(address[:2], family=family, backlog=2048)
        except OSError:
            if time.monotonic() >= until_s:
                raise
            select.select([], [], [], 0.05)
        else:
            listener.setblocking(False)
            return listener


def cores_of(text: str) -> set[int]:
    """Core numbers as taskset writes them: 0 or 0,1 or 0-3. Raises ValueError."""
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    if not cores:
        raise ValueError(f"no cores in {text!r}")
    return cores
