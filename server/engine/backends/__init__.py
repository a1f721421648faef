"""The runtimes, chosen by name and imported only when chosen."""

from __future__ import annotations

from functools import partial

from server.engine.backends.auto import Runtimes, installed, processor_flags
from server.engine.backends.protocol import Backend


def runtimes(name: str, threads: int, shared_cores: bool) -> Runtimes:
    """What stages may run on.

    Args:
        name: a backend's name, or auto: every runtime that is installed for this processor, of which the loader takes
            the fastest for each (stage, batch).
        threads: that one launch may use.
        shared_cores: whether other processes compute on the same cores, so that waiting threads must not spin.

    Raises:
        ValueError: no such backend.
        ImportError: its runtime is not installed.
    """
    if name != "auto":
        return Runtimes.of(create(name, threads, shared_cores))
    versions = installed()
    # Threads of one runtime that spin would take the cores from a launch of another.
    shared_cores = shared_cores or len(versions) > 1
    common = {"threads": str(threads), "shared_cores": str(shared_cores), "processor": processor_flags()}
    return Runtimes(
        {each: partial(create, each, threads, shared_cores) for each in versions},
        {each: {"version": version, **common} for each, version in versions.items()},
    )


def create(name: str, threads: int, shared_cores: bool) -> Backend:
    """The backend of that name: onnxruntime | openvino | null. Arguments and errors as for `runtimes`."""
    if name == "openvino":
        from server.engine.backends.openvino import OpenVino

        return OpenVino(threads)
    if name == "onnxruntime":
        from server.engine.backends.onnxruntime import OnnxRuntime

        return OnnxRuntime(threads, shared_cores)
    if name == "null":
        from server.engine.backends.null import Null

        return Null()
    raise ValueError(f"no backend is called {name!r}")
