"""The runtimes, chosen by name and imported only when chosen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from server.engine.backends import gpu
from server.engine.backends.auto import Runtimes, installed, processor_flags
from server.engine.backends.protocol import Backend

STATE_DIR = Path(".cache/anytime")
GRAPH_BYTES = 216_000_000  # for graphs of one batch size
Say = Callable[[str], None]


def _say_nothing(_detail: str) -> None:
    pass


def runtimes(
    name: str,
    threads: int,
    shared_cores: bool,
    state_dir: Path = STATE_DIR,
    say: Say = _say_nothing,
    use_gpu: bool = True,
    graph_bytes: int = GRAPH_BYTES,
    quick: bool = False,
) -> Runtimes:
    """What stages may run on.

    Args:
        name: a backend's name, or auto: on an NVIDIA GPU the first of tensorrt, tensorrt-rtx and torch-cuda that runs
            a stage; else every runtime that is installed for this processor, of which the loader takes the fastest
            for each (stage, batch).
        threads: that one launch may use.
        shared_cores: whether other processes compute on the same cores, so that waiting threads must not spin.
        state_dir: keeps what a runtime compiles.
        say: told, often, what a runtime is doing while it compiles.
        use_gpu: whether auto looks for a GPU.
        graph_bytes: memory that a CPU runtime may take for each stage's graphs of one batch size.
        quick: to go without these, with what was measured and chosen with them.

    Raises:
        ValueError: no such backend.
        ImportError: its runtime is not installed.
        BackendUnusable: it is, and cannot work here.
    """
    made = 0 if quick else graph_bytes
    if name != "auto":
        return Runtimes.of(create(name, threads, shared_cores, state_dir, say, made))
    on_gpu = gpu.usable_here() if use_gpu else {}
    versions = installed()
    # Threads of one runtime that spin would take the cores from a launch of another.
    shared_cores = shared_cores or len(versions) > 1
    on_cores = {
        "threads": str(threads),
        "shared_cores": str(shared_cores),
        "processor": processor_flags(),
        "graph_bytes": str(graph_bytes),
    }
    described = {each: {"version": version, **on_cores} for each, version in versions.items()}
    gpu_name = gpu.gpu_name() if on_gpu else ""
    described |= {each: {"version": version, "gpu": gpu_name} for each, version in on_gpu.items()}
    return Runtimes(
        {
            each: partial(create, each, threads, shared_cores, state_dir, say, made)
            for each in (*on_gpu, *versions)
        },
        described,
        preferred=tuple(on_gpu),
    )


def create(
    name: str,
    threads: int,
    shared_cores: bool,
    state_dir: Path = STATE_DIR,
    say: Say = _say_nothing,
    graph_bytes: int = GRAPH_BYTES,
) -> Backend:
    """The backend of that name: tensorrt | tensorrt-rtx | torch-cuda | onnxruntime | openvino | null.

    Arguments and errors as for `runtimes`.
    """
    if name in {"tensorrt", "tensorrt-rtx"}:
        from server.engine.backends.tensorrt import TensorRt

        return TensorRt(name, state_dir, say)
    if name == "torch-cuda":
        from server.engine.backends.torch_cuda import TorchCuda

        return TorchCuda()
    if name == "openvino":
        from server.engine.backends.openvino import OpenVino

        return OpenVino(threads, fixed_bytes=graph_bytes)
    if name == "onnxruntime":
        from server.engine.backends.onnxruntime import OnnxRuntime

        return OnnxRuntime(threads, shared_cores)
    if name == "null":
        from server.engine.backends.null import Null

        return Null()
    raise ValueError(f"no backend is called {name!r}")
