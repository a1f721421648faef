"""How a child process of the supervisor begins: what it was told, and that it ends when the supervisor does.

Knows the environment variable ANYTIME_CHILD and Linux's parent-death signal; must not know what the child
does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from server.settings import Settings

ENVIRONMENT_KEY = "ANYTIME_CHILD"
HANGS_TO_BE_LEFT_OUT = 2  # of engines in launches of one stage, before the next ones go without it

_PR_SET_PDEATHSIG = 1


class Processes(BaseModel):
    """Process ids of one service, as the supervisor last wrote them; 0 for an engine that is down."""

    model_config = ConfigDict(frozen=True)

    supervisor: int = 0
    engine: int = 0
    frontends: tuple[int, ...] = ()


@dataclass(frozen=True)
class ChildContext:
    """What the supervisor tells a child.

    Attributes:
        settings: of the whole service.
        runtime_dir: folder of the sockets, private to this service.
        supervisor_pid: the parent.
        processes_file: JSON that the supervisor rewrites when a child comes or goes (see `Processes`).
        listen_fd: inherited listening socket of a front end, None in the engine.
        number: of a front end among its kind, from 0.
        ended: why the engine's last life ended: died | hung | silent; empty before its first, and for front ends.
        hangs: the stages in whose launches engines have hung ("name@version stage"), the latest last; each at most
            HANGS_TO_BE_LEFT_OUT times.
    """

    settings: Settings
    runtime_dir: Path
    supervisor_pid: int
    processes_file: Path
    listen_fd: int | None = None
    number: int = 0
    ended: str = ""
    hangs: tuple[str, ...] = ()

    @property
    def pulse_file(self) -> Path:
        """Where the engine shows that it lives (see pulse.py)."""
        return self.runtime_dir / "engine.pulse"

    @property
    def busy_file(self) -> Path:
        """Where front ends show that they have had no pause (see busy.py)."""
        return self.runtime_dir / "busy"

    @property
    def rehearsal_busy_file(self) -> Path:
        """As `busy_file`, of front ends that rehearse: nobody reads it."""
        return self.runtime_dir / "rehearsal.busy"

    @property
    def engine_socket(self) -> Path:
        """Unix socket that the engine listens at and front ends connect to."""
        return self.runtime_dir / "engine.sock"

    @property
    def rehearsal_socket(self) -> Path:
        """Unix socket of the engine's rehearsal (see engine/rehearsal.py)."""
        return self.runtime_dir / "rehearsal.sock"

    def encode(self) -> str:
        """The value of ANYTIME_CHILD that `decode` reads back."""
        return json.dumps(
            {
                "settings": self.settings.model_dump(mode="json"),
                "runtime_dir": str(self.runtime_dir),
                "supervisor_pid": self.supervisor_pid,
                "processes_file": str(self.processes_file),
                "listen_fd": self.listen_fd,
                "number": self.number,
                "ended": self.ended,
                "hangs": self.hangs,
            }
        )

    @classmethod
    def decode(cls, text: str) -> ChildContext:
        """Reads what `encode` wrote. Raises ValueError if it is anything else."""
        try:
            told = json.loads(text)
            fd = told.get("listen_fd")
            return cls(
                settings=Settings.model_validate(told["settings"]),
                runtime_dir=Path(told["runtime_dir"]),
                supervisor_pid=int(told["supervisor_pid"]),
                processes_file=Path(told["processes_file"]),
                listen_fd=None if fd is None else int(fd),
                number=int(told.get("number", 0)),
                ended=str(told.get("ended", "")),
                hangs=tuple(told.get("hangs", ())),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{ENVIRONMENT_KEY} is not what the supervisor writes: {error!r}") from error


def enter() -> ChildContext:
    """Reads the context and ties this process's life to the supervisor's.

    Raises:
        SystemExit: started by hand, or the supervisor is already gone.
    """
    text = os.environ.get(ENVIRONMENT_KEY)
    if text is None:
        raise SystemExit("This module is started by the supervisor: run python -m server")
    context = ChildContext.decode(text)
    end_with_parent(context.supervisor_pid)
    return context


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when `parent` dies, and ends it now if that has happened already.

    SIGKILL, not SIGTERM: a draining orphan would hold the port while a new supervisor starts. The check after
    the request closes the gap between the fork and the request.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit(f"The supervisor (process {parent}) is gone")
