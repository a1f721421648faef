"""OpenVINO on the CPU: where the processor multiplies bfloat16 natively, nearly twice ONNX Runtime's speed.

Weights and activations are rounded to bfloat16 there (8 bits of mantissa), which moves a probability by a hundredth or
so; docs/operator.md says what that does to the shipped model. Elsewhere float32 is used.
"""

from __future__ import annotations

import platform
import sys

import numpy as np

from model_repo.repository import PublishedModel
from server.engine.backends.protocol import Logits, Pixels, StageUnusable

# OpenVINO's converters report usage through this package. Without it they take their own stub; nothing here converts.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402 - after the line above

BF16 = "BF16"


def has_native_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively."""
    return BF16 in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _OpenVinoStage:
    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._request: openvino.InferRequest | None = compiled.create_infer_request()

    def run(self, pixels: Pixels) -> Logits:
        """The GIL is released meanwhile."""
        assert self._request is not None
        outputs = self._request.infer({0: pixels}, share_inputs=True)
        return np.asarray(outputs[0], np.float32)

    def close(self) -> None:
        self._request = None


class OpenVino:
    """One compiled model per stage.

    Args:
        threads: of one launch.
        precision: bf16 or f32; by default bf16 where the processor has it.
    """

    name = "openvino"

    def __init__(self, threads: int, precision: str = "") -> None:
        self._core = openvino.Core()
        self._precision = precision or ("bf16" if has_native_bf16() else "f32")
        self.device = (
            f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}, {self._precision}"
        )
        self._options: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # which cores are used is the supervisor's choice
        }

    def load_stage(self, model: PublishedModel, place: int, max_batch: int) -> _OpenVinoStage:
        """See the protocol; the graph is compiled here, the batch stays dynamic."""
        data = model.read(model.manifest.stages[place])
        try:
            graph = self._core.read_model(model=data, weights=b"")
            return _OpenVinoStage(self._core.compile_model(graph, "CPU", self._options))
        except Exception as error:  # its exceptions share no base class of their own
            raise StageUnusable(_cause(error)) from error

    def describe(self) -> dict[str, str]:
        options = {key: str(value) for key, value in self._options.items()}
        return {"runtime": self.name, "version": openvino.get_version(), **options}


def _cause(error: Exception) -> str:
    """Its words in one line, without those of its first lines that say only where in its source it was noticed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return "; ".join(told or lines)[:300] or type(error).__name__
