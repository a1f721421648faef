"""A stage's graph -> a TensorRT plan. Knows the builder's interface, the same in TensorRT 10.12 to 11 and TensorRT-RTX.

Networks are strongly typed: precision comes from the graph, which is made fp16 first (half.py), never from the builder.
Must not know where plans lie, nor how one is run. Nothing of TensorRT is imported before `library` is called.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from model_repo.plans import PlanDamaged, PlanFolder, PlanKey

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

TYPICAL_BATCH = 8
"""What kernels are tuned for, if batches may be as large: one image and a full batch are both not far from it."""

TELL_S = 0.2
ANY_RTX = "any from SM80 on"
MODULES = {"tensorrt": "tensorrt", "tensorrt-lean": "tensorrt_lean", "tensorrt-rtx": "tensorrt_rtx"}


class BuildFailed(Exception):
    """No plan came of a graph; the text says why in one line."""


@dataclass(frozen=True)
class Library:
    """One installed TensorRT.

    Attributes:
        name: tensorrt | tensorrt-lean | tensorrt-rtx.
        trt: its module.
        log: takes its messages; passes them on to logging.
    """

    name: str
    trt: Any
    log: Any

    @property
    def version(self) -> str:
        """What plans are bound to. Version-compatible ones, all that the lean runtime runs, only to the major part."""
        version = str(self.trt.__version__)
        return version.split(".", maxsplit=1)[0] if self.name == "tensorrt-lean" else version

    @property
    def builds(self) -> bool:
        """Whether it can build, not only run."""
        return hasattr(self.trt, "Builder")

    def key(self, graph: str, gpu: str, max_batch: int) -> PlanKey:
        """Of the plan of a stage whose ONNX file has that SHA-256. TensorRT-RTX finishes its plans on the GPU."""
        portable = self.name == "tensorrt-rtx"
        return PlanKey(graph, self.name, self.version, ANY_RTX if portable else gpu, max_batch)


def library(name: str) -> Library:
    """The TensorRT of that name. Raises ImportError, also for a library that is there but cannot be loaded."""
    try:
        trt = importlib.import_module(MODULES[name])
    except ImportError:
        raise
    except Exception as error:  # loading the shared libraries fails in ways of its own
        raise ImportError(f"{MODULES[name]}: {str(error).splitlines()[0]}") from error
    return Library(name, trt, _log_of(trt))


def obtain(
    library: Library, plans: PlanFolder, key: PlanKey, read_graph: Callable[[], bytes], say: Say
) -> tuple[bytes, bool]:
    """(The plan of that key, whether it was built just now). A damaged one is logged by name and built again.

    Args:
        library: builds it, if it can.
        plans: where plans are kept.
        key: of the plan.
        read_graph: gives the stage's ONNX bytes.
        say: told every TELL_S seconds how far a build is.

    Raises:
        BuildFailed: no usable plan is there and none can be built.
    """
    reason = "none is there"
    try:
        kept = plans.read(key)
        if kept is not None:
            return kept, False
    except PlanDamaged as error:
        logger.warning("plan damaged, building it again", extra={"reason": str(error)})
        reason = str(error)
    return rebuild(library, plans, key, read_graph, say, reason), True


def rebuild(
    library: Library, plans: PlanFolder, key: PlanKey, read_graph: Callable[[], bytes], say: Say, reason: str
) -> bytes:
    """A new plan of that key, kept. `reason` says what is wrong with the old one. Raises BuildFailed."""
    if not library.builds:
        raise BuildFailed(f"{library.name} only runs plans, and of {plans.path(key)} {reason}")
    logger.info("building a plan", extra={"file": str(plans.path(key)), "reason": reason})
    started = time.monotonic()
    timing = plans.read_timing(key)
    with ThreadPoolExecutor(1, "plan") as thread:  # the caller stays free to tell that it lives
        progress = ["starting"]
        built = thread.submit(build, library, read_graph(), key.max_batch, timing, progress)
        while wait([built], TELL_S).not_done:
            say(f"building a plan: {progress[-1]}")
        plan, timing = built.result()
    plans.write(key, plan)
    if timing:
        plans.write_timing(key, timing)
    seconds = round(time.monotonic() - started, 1)
    logger.info("plan built", extra={"file": str(plans.path(key)), "took_s": seconds, "bytes": len(plan)})
    return plan


def build(
    library: Library, graph: bytes, max_batch: int, timing: bytes, progress: list[str]
) -> tuple[bytes, bytes]:
    """Build one plan for batches of 1 to `max_batch`.

    Args:
        library: one that builds.
        graph: ONNX bytes, uint8 [n, height, width, 3] -> logits [n, classes], with a dynamic batch.
        max_batch: largest batch.
        timing: a timing cache, or nothing.
        progress: its last item is overwritten with what is being done.

    Returns:
        The plan and the timing cache afterwards.

    Raises:
        BuildFailed: with TensorRT's own words.
    """
    trt = library.trt
    library.log.errors.clear()
    try:
        builder = trt.Builder(library.log)
    except TypeError as error:  # how its bindings say that the driver does not fit
        raise BuildFailed(f"no builder: {_one_line([*library.log.errors, str(error)])}") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.log)
    if not parser.parse(_typed(graph)):
        errors = [parser.get_error(n) for n in range(parser.num_errors)]
        why = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
        raise BuildFailed(f"the graph cannot be parsed: {_one_line(why)}")
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network, max_batch))
    config.progress_monitor = monitor = _monitor(trt, progress)
    _set_flags(library, config)
    cache = _set_timing(library, config, timing)
    plan = builder.build_serialized_network(network, config)
    del monitor
    if plan is None:
        raise BuildFailed(f"no plan was built: {_one_line(library.log.errors)}")
    return bytes(plan), bytes(cache.serialize()) if cache is not None else b""


def _typed(graph: bytes) -> bytes:
    """In fp16 where that is possible, else as it is but for the cast of the pixels."""
    from model_repo import half  # noqa: PLC0415 - to run a plan that is there needs no onnx

    try:
        return half.to_half(graph)
    except half.NotConvertible as error:
        logger.warning("graph stays in fp32", extra={"reason": str(error)})
    try:
        return half.casts_pixels_first(graph)
    except half.NotConvertible as error:
        raise BuildFailed(str(error)) from error


def _profile(builder: Any, network: Any, max_batch: int) -> Any:
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise BuildFailed(f"{network.num_inputs} inputs and {network.num_outputs} outputs, not one of each")
    pixels = network.get_input(0)
    batch, *image = tuple(pixels.shape)
    if batch != -1:
        raise BuildFailed(f"its batch is fixed at {batch}")
    profile = builder.create_optimization_profile()
    sizes = (1, min(TYPICAL_BATCH, max_batch), max_batch)
    profile.set_shape(pixels.name, *((size, *image) for size in sizes))
    return profile


def _set_flags(library: Library, config: Any) -> None:
    flags = library.trt.BuilderFlag
    if library.name == "tensorrt-rtx" and hasattr(flags, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)  # else a launch may allocate, and cannot be captured
    if library.name == "tensorrt-lean":
        config.set_flag(flags.VERSION_COMPATIBLE)
        config.set_flag(flags.EXCLUDE_LEAN_RUNTIME)


def _set_timing(library: Library, config: Any, timing: bytes) -> Any:
    """The timing cache in use. TensorRT-RTX times nothing while it builds."""
    if library.name == "tensorrt-rtx":
        return None
    cache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")  # the kept one is damaged
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _monitor(trt: Any, progress: list[str]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # a class of a module without types
        """Called from TensorRT's threads: it only notes."""

        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Part of TensorRT's interface."""
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Part of TensorRT's interface: True goes on."""
            progress[-1] = f"{phase_name}, step {step + 1} of {self.steps.get(phase_name, 0)}"
            return True

        def phase_finish(self, phase_name: str) -> None:
            """Part of TensorRT's interface."""
            self.steps.pop(phase_name, None)

    return Monitor()


def _log_of(trt: Any) -> Any:
    severity = trt.ILogger.Severity
    levels = {severity.INTERNAL_ERROR: logging.ERROR, severity.ERROR: logging.ERROR}

    class Log(trt.ILogger):  # type: ignore[misc] # a class of a module without types
        """Errors are kept for whoever asks what went wrong; they are warnings here, since a caller handles them."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            """Part of TensorRT's interface."""
            if severity in levels:
                self.errors.append(msg)
            logger.log(logging.WARNING if severity in levels else logging.DEBUG, msg)

    return Log()


def _one_line(messages: list[str]) -> str:
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"
