"""The runtimes that the stages of one service may run on, each opened only when something needs it.

Knows which runtimes are installed and what distinguishes their latencies, without loading them: a start that finds its
choice on disk loads only what was chosen. Must not know how one is chosen (choosing.py) nor import any of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from server.engine.backends.protocol import Backend

INSTALLED_CPU_RUNTIMES = ("onnxruntime", "openvino")
"""What `auto` chooses from on a CPU. The first computes in float32: the others' answers are held against it."""


class Runtimes:
    """Named runtimes, in order of trust: answers of the later ones are compared with those of the first.

    Args:
        openers: by name, what loads the runtime. May raise ImportError.
        described: by name, all that a latency depends on beside model and processor. Part of the profile's key.
        preferred: names that are tried for a stage one after the other before the rest: the rest, which are then the
            judges of its answers, run it only if none of these can.

    Attributes:
        tiers: the names, those that are alternatives to each other together.
    """

    def __init__(
        self,
        openers: Mapping[str, Callable[[], Backend]],
        described: Mapping[str, Mapping[str, str]],
        preferred: Sequence[str] = (),
    ) -> None:
        self.names = tuple(openers)
        rest = tuple(name for name in self.names if name not in preferred)
        self.tiers = (*((name,) for name in preferred), rest)
        self._openers = openers
        self._described = described
        self._open: dict[str, Backend] = {}

    @classmethod
    def of(cls, backend: Backend) -> Runtimes:
        """One runtime that is open already."""
        return cls({backend.name: lambda: backend}, {backend.name: backend.describe()})

    def open(self, name: str) -> Backend:
        """That runtime, loaded at the first call. Raises whatever its library raises when it cannot be loaded."""
        if name not in self._open:
            self._open[name] = self._openers[name]()
        return self._open[name]

    def describe(self) -> dict[str, str]:
        """Everything a choice among them depends on, none of them loaded for it."""
        return {
            f"{name}.{key}": value
            for name in self.names
            for key, value in sorted(self._described[name].items())
        }


def installed(names: tuple[str, ...] = INSTALLED_CPU_RUNTIMES) -> dict[str, str]:
    """Versions of those packages that can be imported here, by name; nothing is imported for it."""
    return {name: _version(name) for name in names if importlib.util.find_spec(name) is not None}


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Which fast arithmetic the processor has: a virtual machine may hide what its model name promises."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return "unknown"
    flags = next(
        (line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), []
    )
    return " ".join(sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma", "bf16", "sve"))))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a build that carries another distribution's name
        return "unknown"
