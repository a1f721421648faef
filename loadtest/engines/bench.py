"""Every way to run a model's stages, side by side: contenders take turns, cell by cell, on the same cores.

Knows turns and figures; how a contender runs is in contender.py, how figures are written in report.py.
In process, not over HTTP: it measures what a launch costs, and nothing of the service around it.
"""

import multiprocessing
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, get_args

from loadtest.engines import torch_contender
from loadtest.engines.contender import Order, Ready, Reply, open_model, serve
from loadtest.progress import Say
from server.engine.choosing import difference
from server.settings import BackendName

BATCHES = (1, 4, 16, 64)
NO_RUNTIMES = {"auto", "null"}
START_S = 1800.0  # torch.compile compiles every stage for every batch size
CELL_S = 600.0


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long.

    Attributes:
        models_dir, model: of the stages.
        threads: of one launch, the same for all.
        cpus: that every contender is pinned to.
        rounds: turns of each contender at each cell.
        seconds: of one turn.
        batches: sizes.
    """

    models_dir: Path
    model: str
    threads: int
    cpus: tuple[int, ...]
    rounds: int = 5
    seconds: float = 0.3
    batches: tuple[int, ...] = BATCHES


@dataclass(frozen=True)
class Cell:
    """Nanoseconds of one launch: the median over rounds of the rounds' medians, the least and the largest of them."""

    median_ns: float
    least_ns: float
    most_ns: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Cell":
        """Of one number per round."""
        return cls(statistics.median(samples), min(samples), max(samples))


@dataclass
class Contender:
    """What was found of one contender.

    Attributes:
        cells: by stage and batch.
        difference: the largest of a probability from the first contender's, on synthetic probe images.
    """

    name: str
    precision: str
    start_s: float
    memory_bytes: int
    remarks: dict[str, str]
    difference: float
    cells: dict[str, dict[int, Cell]] = field(default_factory=dict)


@dataclass
class Figures:
    """All that was measured.

    Attributes:
        multiply_adds: by stage; None for a foreign graph.
        product_rates: FLOP/s of torch's best matrix product by precision.
        not_run: contenders that are not here, with the reason.
    """

    model: str
    multiply_adds: dict[str, int | None]
    plan: Plan
    product_rates: dict[str, float] = field(default_factory=dict)
    contenders: dict[str, Contender] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        plan = {**asdict(self.plan), "models_dir": self.plan.models_dir.name}
        return {**asdict(self), "plan": plan}


def contender_names() -> list[str]:
    """Everyone who may take part: every backend of the service, `auto`, OpenVINO in float32, torch."""
    named = [name for name in get_args(BackendName) if name not in NO_RUNTIMES]
    return [*named, "openvino f32", "auto", *torch_contender.NAMES]


class ContenderDied(Exception):
    """A contender's process has ended, or says nothing; the text names it."""


class Line:
    """A contender's process and the way to talk to it."""

    def __init__(self, process: SpawnProcess, connection: Connection, name: str) -> None:
        self._process, self._connection, self._name = process, connection, name

    def order(self, wanted: tuple[int, int, float] | None) -> None:
        """(stage, batch, seconds) to be timed; None ends the process. Raises ContenderDied if nobody listens."""
        try:
            self._connection.send(wanted)
        except OSError:
            self._process.join(10)
            raise ContenderDied(f"{self._name}: exit code {self._process.exitcode}") from None

    def reply(self, seconds: float) -> Any:
        """What it says next. Raises ContenderDied if that is nothing."""
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
        except EOFError:
            self._process.join(10)
            raise ContenderDied(f"{self._name}: exit code {self._process.exitcode}") from None
        raise ContenderDied(f"{self._name}: nothing heard for {seconds:g} s")

    def end(self) -> None:
        """The process is gone after it."""
        with suppress(ContenderDied):
            self.order(None)
        self._process.join(10)
        self._process.kill()
        self._process.join()
        self._connection.close()


def bench_engines(plan: Plan, names: Sequence[str], say: Say) -> Figures:
    """Measure the contenders of those names; `say` is told what is being done.

    Raises the repository's errors where there is no such model, ContenderDied where a contender dies in the middle.
    """
    model = open_model(plan.models_dir, plan.model)
    figures = Figures(model.key, {stage.name: stage.multiply_adds for stage in model.manifest.stages}, plan)
    with ExitStack() as ended:
        present: dict[str, Line] = {}
        first: Ready | None = None
        for name in names:  # one after the other: two that load at once would slow each other's start
            say(f"starting {name}")
            line = ended.enter_context(_started(plan, name))
            try:
                reply: Reply = line.reply(START_S)
            except ContenderDied as error:
                reply = f"it died while it was loading ({error})"
            if isinstance(reply, str):
                figures.not_run[name] = reply
                continue
            first = first or reply
            present[name] = line
            figures.contenders[name] = _contender(name, reply, first)
        for place, stage in enumerate(model.manifest.stages):
            for batch in plan.batches:
                say(f"timing {stage.name} at batch {batch}")
                for name, samples in _turns(present, plan, place, batch).items():
                    figures.contenders[name].cells.setdefault(stage.name, {})[batch] = Cell.of(samples)
    say("multiplying matrices")
    figures.product_rates = _product_rates(plan)
    return figures


def _product_rates(plan: Plan) -> dict[str, float]:
    """On the cores of the contenders."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, plan.cpus)
    try:
        return torch_contender.product_rates(plan.threads, plan.seconds)
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _started(plan: Plan, name: str) -> Iterator[Line]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    order = Order(name, plan.models_dir, plan.model, plan.threads, plan.cpus)
    process = context.Process(target=serve, args=(theirs, order), name=name, daemon=True)
    process.start()
    theirs.close()
    line = Line(process, ours, name)
    try:
        yield line
    finally:
        line.end()


def _contender(name: str, ready: Ready, first: Ready) -> Contender:
    worst = max(difference(mine, its) for mine, its in zip(ready.logits, first.logits, strict=True))
    return Contender(name, ready.precision, ready.start_s, ready.memory_bytes, ready.remarks, worst)


def _turns(present: dict[str, Line], plan: Plan, place: int, batch: int) -> dict[str, list[float]]:
    """Nanoseconds by contender, one per round: a machine whose speed wanders hits all of them alike."""
    samples: dict[str, list[float]] = {name: [] for name in present}
    for _ in range(plan.rounds):
        for name, line in present.items():
            line.order((place, batch, plan.seconds))
            samples[name].append(line.reply(CELL_S))
    return samples
