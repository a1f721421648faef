"""The same stages in torch, eager and compiled, and the rate at which torch multiplies matrices here.

The only module here that imports torch, and only when asked to load: the rest of a load test needs none of it.
Convolutions are folded, memory is channels_last, threads are those of the other contenders.
"""

import shutil
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.engines.stages import NotHere, Run, Stages
from model_repo.repository import PublishedModel

NAMES = ("torch eager", "torch eager bf16", "torch.compile", "torch.compile bf16")
PRODUCT_SIZES = (512, 1024, 2048)


def load(name: str, model: PublishedModel, threads: int) -> Stages:
    """The contender of that name. Raises NotHere where torch, a compiler or bfloat16 is missing."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    bf16 = name.endswith("bf16")
    if bf16 and not computes_bf16():
        raise NotHere("this processor has no native bfloat16")
    if name.startswith("torch.compile") and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise NotHere("torch.compile needs a C++ compiler, and there is none")
    runs = [_run(_module(model.read(stage), name, bf16)) for stage in model.manifest.stages]
    return Stages(runs, "bf16" if bf16 else "f32", {})


def _module(data: bytes, name: str, bf16: bool) -> Any:
    import torch  # noqa: PLC0415

    from model_repo.torch_graph import NotTranslatable, in_bfloat16, to_torch  # noqa: PLC0415

    try:
        module = to_torch(data)
    except NotTranslatable as error:
        raise NotHere(f"the graph cannot be had in torch: {error}") from error
    module = (in_bfloat16(module) if bf16 else module).to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch states it for tensors only
    return torch.compile(module, dynamic=False) if name.startswith("torch.compile") else module


def _run(module: Any) -> Run:
    import torch  # noqa: PLC0415

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            # NHWC pixels, permuted by the graph's first operator, are channels_last as they lie.
            return module(torch.from_numpy(pixels)).float().numpy()  # type: ignore[no-any-return]

    return run


def computes_bf16() -> bool:
    """Whether the processor has bfloat16 instructions."""
    import torch  # noqa: PLC0415

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - the only way to ask


def product_rates(threads: int, seconds: float) -> dict[str, float]:
    """FLOP/s of the best matrix product, by precision; empty without torch."""
    try:
        import torch  # noqa: PLC0415
    except ImportError:
        return {}
    torch.set_num_threads(threads)
    kinds = {"f32": torch.float32} | ({"bf16": torch.bfloat16} if computes_bf16() else {})
    return {name: max(_rate(n, kind, seconds) for n in PRODUCT_SIZES) for name, kind in kinds.items()}


def _rate(n: int, kind: Any, seconds: float) -> float:
    import torch  # noqa: PLC0415

    a, b = (torch.randn(n, n).to(kind) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    return 2 * n**3 / best
