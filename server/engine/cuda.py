"""As much of the CUDA runtime as launches need: a stream, buffers on both sides, a graph that replays them.

Knows CUDA through cuda-bindings, without torch; must not know TensorRT or stages. Every failure becomes one of

    CudaError            what was called, and CUDA's words
    ├── OutOfMemory      not enough on the device or pinned on the host; the device goes on
    └── DeviceGone       the driver, the device or this process's context is lost: nothing runs on it any more
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime
from numpy.typing import DTypeLike, NDArray

from server.engine.backends.protocol import DeviceLost

_ERRORS = runtime.cudaError_t
# CUDA names many errors that leave the context unusable; those that do not are few, and are about one call's arguments.
_HARMLESS = frozenset(
    {
        _ERRORS.cudaErrorInvalidValue,
        _ERRORS.cudaErrorInvalidConfiguration,
        _ERRORS.cudaErrorInvalidResourceHandle,
        _ERRORS.cudaErrorNotSupported,
        _ERRORS.cudaErrorStreamCaptureImplicit,
        _ERRORS.cudaErrorStreamCaptureInvalidated,
        _ERRORS.cudaErrorStreamCaptureIsolation,
        _ERRORS.cudaErrorStreamCaptureUnjoined,
        _ERRORS.cudaErrorStreamCaptureUnsupported,
        _ERRORS.cudaErrorStreamCaptureWrongThread,
    }
)


class CudaError(Exception):
    """A call failed; the device is none the worse for it."""


class OutOfMemory(CudaError):
    """There is not enough memory."""


class DeviceGone(CudaError, DeviceLost):
    """Nothing runs on the device any more, at least in this process."""


def called(name: str, *arguments: object) -> Any:
    """The result of a CUDA runtime function; several come as a tuple. Raises CudaError."""
    try:
        error, *values = getattr(runtime, name)(*arguments)
    except RuntimeError as failure:  # the driver's library cannot be loaded
        raise DeviceGone(f"{name}: {str(failure).splitlines()[0]}") from failure
    if error != _ERRORS.cudaSuccess:
        raise _kind(error)(f"{name}: {_words(error)}")
    return values[0] if len(values) == 1 else tuple(values)


def _kind(error: Any) -> type[CudaError]:
    if error == _ERRORS.cudaErrorMemoryAllocation:
        return OutOfMemory
    return CudaError if error in _HARMLESS else DeviceGone


def _words(error: Any) -> str:
    _, text = runtime.cudaGetErrorString(error)
    return f"{text.decode()} ({error.name})"


class Buffer:
    """The same bytes twice: pinned on the host, as an array, and on the device.

    Attributes:
        array: the host's side.
        device: address of the device's side.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.device = int(called("cudaMalloc", self.size))
        try:
            self.host = int(called("cudaHostAlloc", self.size, runtime.cudaHostAllocDefault))
        except CudaError:
            called("cudaFree", self.device)
            raise
        memory = (ctypes.c_uint8 * self.size).from_address(self.host)
        self.array: NDArray[Any] = np.frombuffer(memoryview(memory), dtype).reshape(shape)
        self.array[...] = 0

    def close(self) -> None:
        """Free both sides; `array` must not be used again."""
        self.array = np.empty(0)
        called("cudaFreeHost", self.host)
        called("cudaFree", self.device)


class Stream:
    """Work in order, on a stream that waits for no other."""

    def __init__(self) -> None:
        self.handle = called("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.address = int(self.handle)

    def upload(self, buffer: Buffer) -> None:
        """Host to device, later."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        called("cudaMemcpyAsync", buffer.device, buffer.host, buffer.size, kind, self.handle)

    def download(self, buffer: Buffer) -> None:
        """Device to host, later."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        called("cudaMemcpyAsync", buffer.host, buffer.device, buffer.size, kind, self.handle)

    def synchronise(self) -> None:
        """Wait until all is done. The GIL is released meanwhile."""
        called("cudaStreamSynchronize", self.handle)

    def capture(self, work: Callable[[], None]) -> Graph:
        """What `work` puts on this stream, as a graph; nothing runs. Raises CudaError if it cannot be captured."""
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        called("cudaStreamBeginCapture", self.handle, mode)
        try:
            work()
        except Exception:
            runtime.cudaStreamEndCapture(self.handle)  # the capture is invalid, and only to be ended
            raise
        graph = called("cudaStreamEndCapture", self.handle)
        try:
            return Graph(called("cudaGraphInstantiate", graph, 0), self)
        finally:
            called("cudaGraphDestroy", graph)


class Graph:
    """Captured work that one call launches."""

    def __init__(self, handle: Any, stream: Stream) -> None:
        self._handle = handle
        self._stream = stream

    def launch(self) -> None:
        """Put it on its stream."""
        called("cudaGraphLaunch", self._handle, self._stream.handle)

    def close(self) -> None:
        """Destroy it."""
        called("cudaGraphExecDestroy", self._handle)
