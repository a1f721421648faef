"""ONNX Runtime on the CPU: the lightest runtime, always installed."""

from __future__ import annotations

import os
import platform

import numpy as np

from model_repo.repository import PublishedModel
from server.engine.backends.protocol import Logits, Pixels, StageUnusable

# From 1.29 on the official Linux builds report models and machine to their maker unless told not to before loading.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

ERRORS_ONLY = 3


class _OnnxStage:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._input = session.get_inputs()[0].name
        self._outputs = [session.get_outputs()[0].name]

    def run(self, pixels: Pixels) -> Logits:
        """The GIL is released meanwhile."""
        assert self._session is not None
        (logits,) = self._session.run(self._outputs, {self._input: pixels})
        return np.asarray(logits, np.float32)

    def runs_as(self, count: int) -> tuple[int, ...]:
        """Its graphs take any size."""
        return (count,)

    def close(self) -> None:
        self._session = None


class OnnxRuntime:
    """One inference session per stage.

    Args:
        threads: of one launch, the calling one included.
        shared_cores: threads that wait give their core away instead of spinning.
    """

    name = "onnxruntime"

    def __init__(self, threads: int, shared_cores: bool) -> None:
        self.device = f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"
        self._threads, self._shared_cores = threads, shared_cores
        self._options = onnxruntime.SessionOptions()
        self._options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.log_severity_level = ERRORS_ONLY
        self._options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0" if shared_cores else "1"
        )

    def load_stage(self, model: PublishedModel, place: int, max_batch: int) -> _OnnxStage:
        """See the protocol; the graph is optimised here, the batch stays dynamic."""
        data = model.read(model.manifest.stages[place])
        try:
            session = onnxruntime.InferenceSession(data, self._options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class of their own
            raise StageUnusable(str(error).splitlines()[0]) from error
        return _OnnxStage(session)

    def describe(self) -> dict[str, str]:
        return {
            "runtime": self.name,
            "version": onnxruntime.__version__,
            "threads": str(self._threads),
            "shared_cores": str(self._shared_cores),
        }
