"""TensorRT (10.12 to 11, the lean runtime) and TensorRT-RTX: one fp16 engine per stage, one CUDA graph per batch size.

Knows how a plan becomes launches; how one is built is in model_repo.plan_builder, where it lies in model_repo.plans.
All launches share one stream. A launch is one graph: pixels up, the engine, logits down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model_repo.nvidia import NoGpu, first_gpu
from model_repo.plan_builder import BuildFailed, library, obtain, rebuild
from model_repo.plans import PlanFolder, PlanKey
from model_repo.repository import PublishedModel
from server.engine.backends.protocol import BackendUnusable, DeviceLost, StageRunner, StageUnusable
from server.engine.latency import buckets_up_to
from server.engine.padded import FixedBatch, PaddedStage

logger = logging.getLogger(__name__)

Say = Callable[[str], None]


class TensorRt:
    """One TensorRT on the first GPU.

    Args:
        name: tensorrt (or its lean runtime, where only that is installed) | tensorrt-rtx.
        state_dir: keeps plans.
        say: told how far a build is.

    Raises:
        ImportError: it, or cuda-bindings, is not installed.
        BackendUnusable: there is no GPU, or its driver does not answer.
    """

    def __init__(self, name: str, state_dir: Path, say: Say) -> None:
        self.name = name
        self._library = _library(name)
        try:
            gpu = first_gpu()
        except NoGpu as error:
            raise BackendUnusable(str(error)) from error
        self._cuda = cuda = import_cuda()
        self._gpu = gpu
        self.device = str(gpu)
        self._plans = PlanFolder(state_dir)
        self._say = say
        try:
            self._stream = cuda.Stream()
        except cuda.CudaError as error:
            raise BackendUnusable(str(error)) from error
        try:
            self._runtime = self._library.trt.Runtime(self._library.log)
        except TypeError as error:  # how its bindings say that the driver does not fit
            raise BackendUnusable(f"{self._library.name} does not start: {self._last_error()}") from error

    def load_stage(self, model: PublishedModel, place: int, max_batch: int) -> StageRunner:
        """See the protocol; a plan that is missing or damaged is built here, which takes from a second to minutes."""
        stage = model.manifest.stages[place]
        key = self._library.key(stage.sha256, str(self._gpu), max_batch)
        say: Say = lambda detail: self._say(f"{model.key} {stage.name} for {self.name}: {detail}")
        try:
            engine = self._engine(key, lambda: model.read(stage), say)
            return self._stage(engine, max_batch)
        except BuildFailed as error:
            raise StageUnusable(str(error)) from error
        except DeviceLost:
            raise
        except self._cuda.CudaError as error:
            raise StageUnusable(str(error)) from error

    def describe(self) -> dict[str, str]:
        """See the protocol."""
        version = str(self._library.trt.__version__)
        return {
            "runtime": self._library.name, "version": version, "gpu": str(self._gpu), "driver": self._gpu.driver
        }  # fmt: skip

    def _engine(self, key: PlanKey, read_graph: Callable[[], bytes], say: Say) -> Any:
        """The engine of that plan. One that TensorRT refuses is built again, once."""
        plan, fresh = obtain(self._library, self._plans, key, read_graph, say)
        engine = self._deserialised(plan)
        if engine is None and not fresh:
            reason = f"is refused by {self._library.name}: {self._last_error()}"
            logger.warning(
                "plan damaged, building it again",
                extra={"file": str(self._plans.path(key)), "reason": reason},
            )
            engine = self._deserialised(rebuild(self._library, self._plans, key, read_graph, say, reason))
        if engine is None:
            raise StageUnusable(f"{self._library.name} refuses its own plan: {self._last_error()}")
        return engine

    def _deserialised(self, plan: bytes) -> Any:
        self._library.log.errors.clear()
        return self._runtime.deserialize_cuda_engine(plan)

    def _last_error(self) -> str:
        errors = self._library.log.errors
        return str(errors[0]).splitlines()[0] if errors else "no reason given"

    def _stage(self, engine: Any, max_batch: int) -> PaddedStage:
        with ExitStack() as made:
            batches = []
            for size in buckets_up_to(max_batch):
                batch = self._batch(engine, size)
                made.callback(batch.close)
                batches.append(batch)
            made.pop_all()
            return PaddedStage(batches)

    def _batch(self, engine: Any, size: int) -> FixedBatch:
        """One size: a context of its own, since a captured graph is bound to one."""
        names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
        shapes = [(size, *tuple(engine.get_tensor_shape(name))[1:]) for name in names]
        kinds = [np.dtype(self._library.trt.nptype(engine.get_tensor_dtype(name))) for name in names]
        if kinds[0] != np.uint8 or kinds[1] not in (np.float32, np.float16):
            raise StageUnusable(f"takes {kinds[0]} and gives {kinds[1]}, not uint8 and float32")
        context = self._context(engine)
        with ExitStack() as made:
            buffers = []
            for name, shape, kind in zip(names, shapes, kinds, strict=True):
                buffers.append(self._cuda.Buffer(shape, kind))
                made.callback(buffers[-1].close)
                context.set_tensor_address(name, buffers[-1].device)
            context.set_input_shape(names[0], shapes[0])
            launch = self._captured(partial(self._work, context, *buffers), size, made)
            return FixedBatch(buffers[0].array, buffers[1].array, launch, made.pop_all().close)

    def _context(self, engine: Any) -> Any:
        self._library.log.errors.clear()
        if self._library.name == "tensorrt-rtx":
            # Kernels are made for this one shape now, not in the background while the general ones are captured.
            config = engine.create_runtime_config()
            strategy = self._library.trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise StageUnusable(f"no execution context: {self._last_error()}")
        return context

    def _work(self, context: Any, pixels: Any, logits: Any) -> None:
        self._stream.upload(pixels)
        if not context.execute_async_v3(self._stream.address):
            raise self._cuda.CudaError(f"{self._library.name} could not launch: {self._last_error()}")
        self._stream.download(logits)

    def _captured(self, work: Callable[[], None], size: int, made: ExitStack) -> Callable[[], None]:
        """What launches and waits: a graph, whose end is left to `made`, or without one what cannot be captured."""

        def plain() -> None:
            work()
            self._stream.synchronise()

        plain()  # the first launch allocates and sets up, which a capture must not
        plain()
        try:
            graph = self._stream.capture(work)
        except DeviceLost:
            raise
        except self._cuda.CudaError as error:
            logger.warning("launches without a CUDA graph", extra={"batch": size, "reason": str(error)})
            return plain
        made.callback(graph.close)

        def replay() -> None:
            graph.launch()
            self._stream.synchronise()

        replay()
        return replay


def import_cuda() -> Any:
    """server.engine.cuda, which needs cuda-bindings. Raises ImportError."""
    from server.engine import cuda

    return cuda


def _library(name: str) -> Any:
    try:
        return library(name)
    except ImportError:
        if name != "tensorrt":
            raise
        try:
            return library("tensorrt-lean")
        except ImportError:
            pass
        raise
