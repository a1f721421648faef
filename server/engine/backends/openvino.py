"""OpenVINO on the CPU: where the processor multiplies bfloat16 natively, nearly twice ONNX Runtime's speed.

Weights and activations are rounded to bfloat16 there (8 bits of mantissa), which moves a probability by a hundredth or
so; docs/operator.md says what that does to the shipped model. Elsewhere float32 is used.
"""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Sequence

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


_GRAPH_BYTES = 2_000_000  # that a graph takes beside its weights
_OF_FILE = 2  # times its file, which holds the weights in float16: once in float32 for all graphs, and in each packed
_SHARE = 0.3  # of the memory for all graphs, that one stage may take
_LAUNCH = 7  # images would take as long as it takes to run a graph at all: 6 to 10 measured, with caches cold
_LEAST = 3  # graphs, or batches are better run on one that takes any size


def fixed_sizes(file_bytes: int, room: int, max_batch: int) -> list[int]:
    """The batch sizes that a stage gets a graph of its own for, ascending; none where there is too little room.

    A graph that is made for one size is up to a quarter faster than one that takes any, and that one moreover prepares
    itself anew, for 0.3 to 1.5 ms, whenever a batch has another size than the one before, and for tens of milliseconds
    when it meets a size first. In exchange each takes memory and is compiled at start: as many as there is room for,
    powers of four first, the other powers of two, then those halfway between. More of them gain nothing: their weights
    take each other's place in the processor's cache.

    Args:
        file_bytes: of the stage.
        room: bytes for its graphs.
        max_batch: the largest size.
    """
    powers = [1 << power for power in range(max_batch.bit_length())]
    halfway = [3 * size for size in powers if 3 * size <= max_batch]
    every = [*powers[::2], *powers[1::2], *halfway]
    sizes = every[: room // (_OF_FILE * file_bytes + _GRAPH_BYTES)]
    return sorted(sizes) if len(sizes) >= min(_LEAST, len(every)) else []


def pieces(max_batch: int, sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """The sizes that 0, 1, … `max_batch` images are run in, the last one padded: what costs least.

    `sizes`: of the graphs, among them 1.
    """
    best: list[tuple[int, ...]] = [()]
    for count in range(1, max_batch + 1):
        ways = [(size, *best[max(0, count - size)]) for size in sizes]
        best.append(min(ways, key=lambda way: (sum(way) + _LAUNCH * len(way), -way[0])))
    return best


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


class _AnySizeGraph:
    """A graph for any batch size, with room for its largest input."""

    def __init__(self, compiled: openvino.CompiledModel, max_batch: int, height: int, width: int) -> None:
        self._pixels = np.zeros((max_batch, height, width, 3), np.uint8)
        self._request = compiled.create_infer_request()

    def run(self, pixels: Pixels) -> Logits:
        chosen = self._pixels[: len(pixels)]
        chosen[:] = pixels
        self._request.set_input_tensor(openvino.Tensor(chosen, shared_memory=True))
        self._request.infer(share_outputs=True)
        return np.array(self._request.get_output_tensor(0).data, np.float32)


class _OpenVinoStage:
    """On graphs for one size each where it has some, else on one that takes any."""

    def __init__(
        self, max_batch: int, fixed: Sequence[_FixedGraph], any_size: _AnySizeGraph | None = None
    ) -> None:
        self._fixed = {graph.size: graph for graph in fixed}
        self._any_size = any_size
        self._pieces = pieces(max_batch, list(self._fixed)) if any_size is None else []

    def run(self, pixels: Pixels) -> Logits:
        """The GIL is released meanwhile."""
        if self._any_size is not None:
            return self._any_size.run(pixels)
        logits, start = [], 0
        for size in self._pieces[len(pixels)]:
            logits.append(self._fixed[size].run(pixels[start : start + size]))
            start += size
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def runs_as(self, count: int) -> tuple[int, ...]:
        """See the protocol."""
        return self._pieces[count] if self._any_size is None else (count,)

    def close(self) -> None:
        self._any_size = None
        self._fixed = {}


class OpenVino:
    """A stage is compiled for some batch sizes, or once for any.

    Args:
        threads: of one launch.
        precision: bf16 or f32; by default bf16 where the processor has it.
        fixed_bytes: memory for the graphs of one batch size of all stages, three tenths of it for one at most; those
            that are loaded first get theirs first.
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
        self._room, self._of_a_stage = fixed_bytes, int(_SHARE * fixed_bytes)

    def load_stage(self, model: PublishedModel, place: int, max_batch: int) -> _OpenVinoStage:
        """See the protocol."""
        data = model.read(model.manifest.stages[place])
        sizes = fixed_sizes(len(data), min(self._room, self._of_a_stage), max_batch)
        try:
            graph = self._read(data)
            if sizes and (fixed := self._fixed(graph, sizes, *model.image_size)):
                self._room -= len(sizes) * (_OF_FILE * len(data) + _GRAPH_BYTES)
                return _OpenVinoStage(max_batch, fixed)
            return _OpenVinoStage(
                max_batch, [], _AnySizeGraph(self._compile(graph), max_batch, *model.image_size)
            )
        except Exception as error:  # its exceptions share no base class of their own
            raise StageUnusable(_cause(error)) from error

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

    def _fixed(
        self, graph: openvino.Model, sizes: Sequence[int], height: int, width: int
    ) -> list[_FixedGraph]:
        """None at all where one fails: whatever it is, the graph that takes any size will do."""
        fixed = []
        # One after the other: with two threads that compiled at once, one start in some hundreds did not end.
        for size in sizes:
            try:
                of_size = graph.clone()
                of_size.reshape({of_size.inputs[0]: [size, height, width, 3]})
                fixed.append(_FixedGraph(self._compile(of_size), size, height, width))
            except Exception as error:  # noqa: BLE001 - see above
                logger.warning("no graphs for one batch size", extra={"batch": size, "reason": _cause(error)})
                return []
        return fixed


def _cause(error: Exception) -> str:
    """Its words in one line, without those of its first lines that say only where in its source it was noticed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return "; ".join(told or lines)[:300] or type(error).__name__
