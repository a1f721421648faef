"""The runtimes, chosen by name and imported only when chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from server.engine.backends import gpu
from server.engine.backends.auto import Runtimes, installed, processor_flags
from server.engine.backends.protocol import Backend

STATE_DIR = Path(".cache/anytime")


@dataclass(frozen=True)
class Graphs:
    """What a CPU runtime may do to be faster at single batch sizes.

    Attributes:
        bytes: memory that a stage may take for graphs that are made for one batch size each.
        later: whether somebody waits, so that a stage has to be ready before they are.
    """

    bytes: int = 128_000_000
    later: bool = False


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
    graphs: Graphs = Graphs(),
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
        graphs: how many a runtime may make of a stage, and when.

    Raises:
        ValueError: no such backend.
        ImportError: its runtime is not installed.
        BackendUnusable: it is, and cannot work here.
    """
    if name != "auto":
        return Runtimes.of(create(name, threads, shared_cores, state_dir, say, graphs))
    on_gpu = gpu.usable_here() if use_gpu else {}
    versions = installed()
    # Threads of one runtime that spin would take the cores from a launch of another.
    shared_cores = shared_cores or len(versions) > 1
    on_cores = {
        "threads": str(threads),
        "shared_cores": str(shared_cores),
        "processor": processor_flags(),
        "graph_bytes": str(graphs.bytes),
    }
    described = {each: {"version": version, **on_cores} for each, version in versions.items()}
    gpu_name = gpu.gpu_name() if on_gpu else ""
    described |= {each: {"version": version, "gpu": gpu_name} for each, version in on_gpu.items()}
    return Runtimes(
        {
            each: partial(create, each, threads, shared_cores, state_dir, say, graphs)
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
    graphs: Graphs = Graphs(),
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

        return OpenVino(threads, fixed_bytes=graphs.bytes, hurry=graphs.later)
    if name == "onnxruntime":
        from server.engine.backends.onnxruntime import OnnxRuntime

        return OnnxRuntime(threads, shared_cores)
    if name == "null":
        from server.engine.backends.null import Null

        return Null()
    raise ValueError(f"no backend is called {name!r}")
