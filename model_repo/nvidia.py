"""Which NVIDIA GPU is here, told by the CUDA runtime. Must not know TensorRT, torch or models."""

from __future__ import annotations

from dataclasses import dataclass


class NoGpu(Exception):
    """No usable NVIDIA GPU; the text says why in one line."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses which that is).

    Attributes:
        name: as its driver gives it.
        capability: `sm90` and the like.
        driver: the newest CUDA that the driver serves, as `13.0`.
    """

    name: str
    capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name} {self.capability}"


def first_gpu() -> Gpu:
    """The GPU that will be used.

    Raises:
        NoGpu: there is none, or the driver does not answer.
        ImportError: cuda-bindings is not installed.
    """
    from cuda.bindings import runtime  # noqa: PLC0415 - a machine without a GPU needs no cuda-bindings

    def asked(call: str, *arguments: object) -> object:
        try:
            error, *values = getattr(runtime, call)(*arguments)
        except RuntimeError as failure:  # the driver's library cannot be loaded
            raise NoGpu(f"{call}: {str(failure).splitlines()[0]}") from failure
        if error != runtime.cudaError_t.cudaSuccess:
            raise NoGpu(f"{call}: {runtime.cudaGetErrorString(error)[1].decode()}")
        return values[0]

    if not asked("cudaGetDeviceCount"):
        raise NoGpu("the driver shows no GPU")
    found = asked("cudaGetDeviceProperties", 0)
    version = asked("cudaDriverGetVersion")
    assert isinstance(version, int)
    name = found.name  # type: ignore[attr-defined] # a structure of a library without types
    text = name.decode() if isinstance(name, bytes) else str(name)
    capability = f"sm{found.major}{found.minor}"  # type: ignore[attr-defined]
    return Gpu(text.rstrip("\0"), capability, f"{version // 1000}.{version % 1000 // 10}")
