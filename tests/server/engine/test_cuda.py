"""CUDA's errors in three kinds; what a stream and buffers do is tested where there is a GPU."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest

from server.engine.backends.protocol import DeviceLost


@pytest.fixture(scope="module")
def cuda() -> ModuleType:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings comes with the gpu group only")
    return importlib.import_module("server.engine.cuda")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudaErrorMemoryAllocation", "OutOfMemory"),
        ("cudaErrorInvalidValue", "CudaError"),
        ("cudaErrorStreamCaptureUnsupported", "CudaError"),
        ("cudaErrorLaunchFailure", "DeviceGone"),
        ("cudaErrorNoDevice", "DeviceGone"),
        ("cudaErrorDevicesUnavailable", "DeviceGone"),
    ],
)
def test_an_error_is_of_the_kind_that_says_what_to_do(name: str, kind: str, cuda: ModuleType) -> None:
    assert cuda._kind(getattr(cuda.runtime.cudaError_t, name)).__name__ == kind
    assert issubclass(cuda.DeviceGone, DeviceLost)
    assert not issubclass(cuda.OutOfMemory, DeviceLost)


def test_a_failed_call_is_told_in_cudas_words(cuda: ModuleType) -> None:
    if cuda.runtime.cudaGetDeviceCount()[0] == cuda.runtime.cudaError_t.cudaSuccess:
        pytest.skip("needs a machine without an NVIDIA GPU")
    with pytest.raises(cuda.DeviceGone, match=r"cudaMalloc: .+ \(cudaError\w+\)"):
        cuda.Buffer((4, 2), np.float32)


@pytest.mark.gpu
def test_a_captured_graph_copies_there_and_back(cuda: ModuleType) -> None:
    stream, buffer = cuda.Stream(), cuda.Buffer((4, 2), np.float32)

    def there_and_back() -> None:
        stream.upload(buffer)
        stream.download(buffer)

    graph = stream.capture(there_and_back)
    buffer.array[...] = 7
    graph.launch()
    stream.synchronise()
    assert (buffer.array == 7).all()
    for part in (graph, buffer, stream):
        part.close()
