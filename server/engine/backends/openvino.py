"""OpenVINO on the CPU: where the processor multiplies bfloat16 natively, nearly twice ONNX Runtime's speed.

Weights and activations are rounded to bfloat16 there (8 bits of mantissa), which moves a probability by a hundredth or
so; docs/operator.md says what that does to the shipped model. Elsewhere float32 is used.
"""

from __future__ import annotations

import logging
import platform
import sys
import time

import numpy as np

from model_repo.repository import PublishedModel
from server.engine.backends.protocol import Logits, Pixels, StageUnusable

# OpenVINO's converters report usage through this package. Without it they take their own stub; nothing here converts.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402 - after the line above
from openvino.passes import ConstantFolding, Manager  # noqa: E402

logger = logging.getLogger(__name__)

BF16 = "BF16"


def has_native_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively."""
    return BF16 in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


_MEETING_S = 1.0
_GRAPH_BYTES = 3_000_000  # that a graph takes beside its weights
_OF_FILE = 2  # times its file, which holds the weights in float16: once in float32 for all graphs, and in each packed


def fixed_sizes(file_bytes: int, room: int, max_batch: int) -> list[int]:
    """The batch sizes that a stage gets a graph of its own for, ascending.

    A graph that is made for one size is up to a quarter faster than one that takes any, and that one moreover prepares
    itself anew, for 0.3 to 1.5 ms, whenever a batch has another size than the one before. In exchange each takes memory
    and is compiled at start: as many as there is room for, powers of two first, then those halfway between. More of
    them gain nothing: their weights take each other's place in the processor's cache.

    Args:
        file_bytes: of the stage.
        room: bytes for all its graphs of one size.
        max_batch: the largest size.
    """
    powers = [1 << power for power in range(max_batch.bit_length())]
    halfway = [3 * size for size in powers if 3 * size <= max_batch]
    weights = _OF_FILE * file_bytes
    return sorted([*powers, *halfway][: max(0, room - weights) // (weights + _GRAPH_BYTES)])


def worth_padding(size: int, images: int) -> bool:
    """Whether so many images had better be padded to `size` than run on the graph that takes any."""
    return images <= size <= images * 3 / 2


class _FixedGraph:
    """A graph for one batch size, with its input and its output.

    That they are always the same saves 40 microseconds a launch, half of what one image takes in a shallow stage.
    """

    def __init__(self, compiled: openvino.CompiledModel, size: int, height: int, width: int) -> None:
        self.size = size
        self._pixels = np.zeros((size, height, width, 3), np.uint8)
        self._request = compiled.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(self._pixels, shared_memory=True))
        self._logits = np.zeros(list(compiled.output(0).shape), compiled.output(0).element_type.to_dtype())
        self._request.set_output_tensor(openvino.Tensor(self._logits, shared_memory=True))
        self.run(self._pixels)  # the first time it takes memory, for milliseconds

    def run(self, pixels: Pixels) -> Logits:
        """What the padding holds does not matter: no image influences another."""
        self._pixels[: len(pixels)] = pixels
        self._request.infer(share_outputs=True)
        return self._logits[: len(pixels)].astype(np.float32)  # a copy: the next launch writes over it


class _OpenVinoStage:
    def __init__(self) -> None:
        self._any_size: openvino.InferRequest | None = None
        self._fixed: list[_FixedGraph] = []

    def add(self, graph: _FixedGraph) -> None:
        """From now on batches of about that size run there; sizes are added in ascending order."""
        self._fixed.append(graph)

    def add_any_size(self, compiled: openvino.CompiledModel) -> None:
        """From now on batches that no graph is made for run there."""
        self._any_size = compiled.create_infer_request()

    def sizes_without(self, max_batch: int) -> list[int]:
        """Those that no graph is made for, ascending."""
        return [count for count in range(1, max_batch + 1) if self._graph_for(count) is None]

    def runs_as(self, count: int) -> int:
        """Those without a graph are not padded."""
        graph = self._graph_for(count)
        return count if graph is None else graph.size

    def run(self, pixels: Pixels) -> Logits:
        """The GIL is released meanwhile."""
        graph = self._graph_for(len(pixels))
        if graph is not None:
            return graph.run(pixels)
        assert self._any_size is not None
        # As `infer(pixels)`, without what that does to find out what it was given.
        self._any_size.set_input_tensor(openvino.Tensor(np.ascontiguousarray(pixels), shared_memory=True))
        self._any_size.infer(share_outputs=True)
        return np.array(self._any_size.get_output_tensor(0).data, np.float32)

    def close(self) -> None:
        self._any_size = None
        self._fixed = []

    def _graph_for(self, count: int) -> _FixedGraph | None:
        for graph in self._fixed:
            if graph.size >= count:
                return graph if worth_padding(graph.size, count) else None
        return None


class OpenVino:
    """Some compiled graphs per stage for one batch size each, and one that takes any if they leave sizes out.

    Args:
        threads: of one launch.
        precision: bf16 or f32; by default bf16 where the processor has it.
        fixed_bytes: memory that a stage may take for graphs of one batch size each.
    """

    name = "openvino"

    def __init__(self, threads: int, precision: str = "", *, fixed_bytes: int = 0) -> None:
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
        self._fixed_bytes = fixed_bytes

    def load_stage(self, model: PublishedModel, place: int, max_batch: int) -> _OpenVinoStage:
        """See the protocol."""
        data = model.read(model.manifest.stages[place])
        stage = _OpenVinoStage()
        try:
            graph = self._read(data)
            # One after the other: with two threads that compiled at once, one start in some hundreds did not end.
            for size in fixed_sizes(len(data), self._fixed_bytes, max_batch):
                self._fix(stage, graph, size, *model.image_size)
            if left := stage.sizes_without(max_batch):
                stage.add_any_size(self._compile(graph))
                if self._fixed_bytes:  # else the start has to be quick
                    _meet(stage, left, *model.image_size)
        except Exception as error:  # its exceptions share no base class of their own
            raise StageUnusable(_cause(error)) from error
        return stage

    def describe(self) -> dict[str, str]:
        options = {key: str(value) for key, value in self._options.items()}
        return {"runtime": self.name, "version": openvino.get_version(), **options}

    def _read(self, data: bytes) -> openvino.Model:
        """The graph with its weights in float32: whatever is compiled of its clones then shares them."""
        graph = self._core.read_model(model=data, weights=b"")
        passes = Manager()
        passes.register_pass(ConstantFolding())
        passes.run_passes(graph)
        return graph

    def _compile(self, graph: openvino.Model) -> openvino.CompiledModel:
        return self._core.compile_model(graph, "CPU", self._options)

    def _fix(self, stage: _OpenVinoStage, graph: openvino.Model, size: int, height: int, width: int) -> None:
        try:
            fixed = graph.clone()
            fixed.reshape({fixed.inputs[0]: [size, height, width, 3]})
            stage.add(_FixedGraph(self._compile(fixed), size, height, width))
        except Exception as error:  # noqa: BLE001 - whatever it is, the graph that takes any size will do
            logger.warning("no graph for one batch size", extra={"batch": size, "reason": _cause(error)})


def _meet(stage: _OpenVinoStage, sizes: list[int], height: int, width: int) -> None:
    """Runs each batch size once, for a second at most.

    The first time makes kernels for that size, which takes as long again as the batch.
    """
    pixels = np.zeros((sizes[-1], height, width, 3), np.uint8)
    until = time.monotonic() + _MEETING_S
    for count in sizes:
        if time.monotonic() >= until:
            return
        stage.run(pixels[:count])


def _cause(error: Exception) -> str:
    """Its words in one line, without those of its first lines that say only where in its source it was noticed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return "; ".join(told or lines)[:300] or type(error).__name__
