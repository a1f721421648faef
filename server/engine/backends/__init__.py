"""The runtimes, chosen by name and imported only when chosen."""

from __future__ import annotations

from server.engine.backends.protocol import Backend


def create(name: str, threads: int, shared_cores: bool) -> Backend:
    """The backend of that name.

    Args:
        name: auto | onnxruntime | openvino | null. `auto` is OpenVINO where the processor has native bfloat16, for
            there it measures faster, and ONNX Runtime elsewhere.
        threads: that one launch may use.
        shared_cores: whether other processes compute on the same cores, so that waiting threads must not spin.

    Raises:
        ValueError: no such backend.
        ImportError: its runtime is not installed.
    """
    if name == "auto":
        name = _faster()
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


def _faster() -> str:
    """The faster of the installed runtimes on this processor."""
    try:
        from server.engine.backends.openvino import has_native_bf16
    except ImportError:
        return "onnxruntime"
    return "openvino" if has_native_bf16() else "onnxruntime"
