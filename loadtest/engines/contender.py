"""One way to run a model's stages, in a process of its own, that answers and times what it is asked to.

Knows how the service's runtimes are opened (the very code that serves: this module and torch_contender.py are the only
ones here that import more of the server than its policy). A process each, because runtimes in one process share
threads and memory: neither could be measured.
"""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.engines import torch_contender
from loadtest.engines.stages import NotHere, Run, Stages
from model_repo.repository import PublishedModel, Repository
from server.engine import backends
from server.engine.backends.auto import installed
from server.engine.choosing import in_words, probes
from server.engine.runners import RunnerMaker

MAX_BATCH = 64
LEAST_RUNS = 3


@dataclass(frozen=True)
class Order:
    """What a contender is, and where it runs.

    Attributes:
        name: a backend's name (also auto), `openvino f32`, or one of torch_contender.NAMES.
        models_dir, model: what it runs.
        threads: of one launch.
        cpus: that its process is pinned to.
    """

    name: str
    models_dir: Path
    model: str
    threads: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Ready:
    """What a contender says when it has answered a batch of 1 at every stage.

    Attributes:
        start_s: from the first import of its runtime to then.
        memory_bytes: that its resident memory has grown by meanwhile, after a batch of MAX_BATCH at every stage.
        logits: of the probe images, per stage; float32 [n, classes].
    """

    precision: str
    remarks: dict[str, str]
    start_s: float
    memory_bytes: int
    logits: list[NDArray[np.float32]]


Reply = Ready | str
"""Or why it is not here."""


def serve(connection: Connection, order: Order) -> None:
    """The process: say Ready or why not, then for each (stage, batch, seconds) send the median nanoseconds of a run."""
    os.sched_setaffinity(0, order.cpus)
    model = open_model(order.models_dir, order.model)
    before, begun = resident_bytes(), time.perf_counter()
    try:
        stages = _load(order, model)
    except NotHere as reason:
        connection.send(str(reason))
        return
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises, it is the reason why it is not here
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    images = _images(model, MAX_BATCH)
    for run in stages.runs:
        run(images[:1])
    start_s = time.perf_counter() - begun
    for run in stages.runs:
        run(images)
    grown = resident_bytes() - before
    logits = [run(probes(*model.image_size)) for run in stages.runs]
    connection.send(Ready(stages.precision, stages.remarks, start_s, grown, logits))
    while (wanted := connection.recv()) is not None:
        place, batch, seconds = wanted
        connection.send(time_runs(stages.runs[place], images[:batch], seconds))


def time_runs(run: Run, images: NDArray[np.uint8], seconds: float) -> float:
    """Median nanoseconds of a run, over at least LEAST_RUNS of them and `seconds`; one more before prepares memory."""
    run(images)
    samples: list[int] = []
    until_ns = time.perf_counter_ns() + int(seconds * 1e9)
    while len(samples) < LEAST_RUNS or time.perf_counter_ns() < until_ns:
        begun = time.perf_counter_ns()
        run(images)
        samples.append(time.perf_counter_ns() - begun)
    return statistics.median(samples)


def open_model(models_dir: Path, model: str) -> PublishedModel:
    """`name` or `name@version`; empty: the first there is. Raises the repository's errors."""
    repository = Repository(models_dir)
    name, _, version = model.partition("@")
    return repository.open(name or next(iter(repository.names()), ""), version)


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _load(order: Order, model: PublishedModel) -> Stages:
    if order.name in torch_contender.NAMES:
        return torch_contender.load(order.name, model, order.threads)
    if order.name == "auto":
        return _load_auto(order, model)
    if order.name == "openvino f32":
        return _load_plain_openvino(order, model)
    backend = backends.create(order.name, order.threads, shared_cores=False)
    runs = [backend.load_stage(model, n, MAX_BATCH).run for n in range(len(model.manifest.stages))]
    return Stages(runs, _precision(backend.describe()), {})


def _load_auto(order: Order, model: PublishedModel) -> Stages:
    runtimes = backends.runtimes("auto", order.threads, shared_cores=False)
    with tempfile.TemporaryDirectory() as state:
        maker = RunnerMaker(runtimes, Path(state), MAX_BATCH, lambda _: None)
        made = maker.make(model, list(range(len(model.manifest.stages))), keep=True)
    if made.failed:
        raise NotHere("; ".join(f"{stage}: {reason}" for stage, reason in made.failed.items()))
    names = model.manifest.stage_names
    precisions = {_precision(runtimes.open(name).describe()) for name in made.runtimes.split("+")}
    remarks = {names[place]: in_words(choice) for place, choice in made.profile.runtimes.items()}
    return Stages(
        [made.by_place[place].run for place in sorted(made.by_place)], "+".join(sorted(precisions)), remarks
    )


def _load_plain_openvino(order: Order, model: PublishedModel) -> Stages:
    if "openvino" not in installed():
        raise NotHere("OpenVINO is not installed")
    from server.engine.backends.openvino import OpenVino, has_native_bf16  # noqa: PLC0415 - if it is there

    if not has_native_bf16():
        raise NotHere("openvino computes in f32 anyway: this processor has no native bfloat16")
    backend = OpenVino(order.threads, "f32", fixed_bytes=backends.GRAPH_BYTES)
    runs = [backend.load_stage(model, n, MAX_BATCH).run for n in range(len(model.manifest.stages))]
    return Stages(runs, "f32", {})


def _precision(described: dict[str, str]) -> str:
    return described.get("INFERENCE_PRECISION_HINT", described.get("precision", "f32"))


def _images(model: PublishedModel, count: int) -> Any:
    shape = (count, *model.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
