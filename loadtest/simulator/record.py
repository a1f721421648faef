"""Makes a recording: every image through every rung, then every (rung, batch) timed on one core.

Knows backends, images and the manifest's pools, and measures with the clock; must not know schedules. Cells are timed
in turn, round by round, as launches follow each other in service: a slow minute of the machine then touches all of
them alike. Each round has an order of its own, for a launch takes longer after one that has taken its caches. A stall
meter on the same core says which samples met a stall of the machine.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from loadtest.images import LabelledImages
from loadtest.machine import describe_machine, machine_line
from loadtest.simulator.recording import MOST_RUNGS, Cell, Recording, hash_of
from loadtest.stalls import metering, touched
from model_repo import images as decoding
from model_repo.manifest import Manifest
from model_repo.pooling import pool, softmax, stage_log_probabilities
from model_repo.repository import PublishedModel
from server.engine import backends
from server.engine.backends.protocol import StageRunner, StageUnusable
from server.engine.latency import buckets_up_to
from server.engine.loading import LoadedModel, Loader

Floats = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

CHUNK = 32
LEAST_SAMPLES = 20
_LABELS_DIFFER = "classes of the images are not the labels of the model"


@dataclass(frozen=True)
class Wanted:
    """How to record: launches per cell, in how many seconds at most, up to which batch, on which core.

    `cpu_time` takes the process's CPU time for a launch's: beside other work it leaves the waiting out, and with it
    most of the tail, so that such a recording is good for trying things out only. The header says so.
    """

    backend: str = "auto"
    samples: int = 200
    seconds: float = 60.0
    max_batch: int = 32
    cpu: int = 0
    cpu_time: bool = False
    command: str = "python -m loadtest record"


@dataclass
class _Timed:
    """Of one cell: begins and ends on CLOCK_MONOTONIC, and what each launch took by the chosen clock."""

    begins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    took: list[int] = field(default_factory=list)


def record(model: PublishedModel, images: LabelledImages, wanted: Wanted, progress: Progress) -> Recording:
    """Record a model.

    Raises:
        ValueError: the ladder is too long, or images and model do not fit together.
        StageUnusable, ImportError: of the backend.
    """
    manifest = model.manifest
    if len(manifest.stages) > MOST_RUNGS:
        raise ValueError(f"{len(manifest.stages)} rungs have too many sets to record; at most {MOST_RUNGS}")
    truth = _labels_in_order_of(manifest, images)
    pixels = np.stack([decoding.decode(payload, manifest.input) for payload in images.payloads])
    with _on_core(wanted.cpu), TemporaryDirectory() as scratch:
        loaded = _as_served(model, wanted, Path(scratch))
        runners = [loaded.runners[place] for place in range(len(manifest.stages))]
        logits = [
            _logits(runner, pixels, name, progress)
            for runner, name in zip(runners, manifest.stage_names, strict=True)
        ]
        runs_as = [[(0,), *map(runner.runs_as, range(1, wanted.max_batch + 1))] for runner in runners]
        timed, stalls, trusted = _timed_cells(runners, pixels, wanted, progress)
    confidence, right = pooled_answers(manifest, logits, truth)
    machine = describe_machine()
    header = {
        "model": model.key,
        "hash": hash_of(model),
        "stages": list(manifest.stage_names),
        "machine": machine_line(machine),
        "backend": loaded.runtimes,
        "command": wanted.command,
        "date": time.strftime("%Y-%m-%d"),
        "images": len(images),
        "clock": "process CPU time" if wanted.cpu_time else "wall",
        "stall_meter_trustworthy": trusted,
        "runs_as": runs_as,
    }
    samples = {cell: np.maximum(np.array(t.took), 1) for cell, t in timed.items()}
    met = {cell: touched(np.array(t.begins), np.array(t.ends), stalls) for cell, t in timed.items()}
    return Recording(header, confidence, right, samples, met)


def pooled_answers(
    manifest: Manifest, logits: Sequence[Floats], truth: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.bool_]]:
    """(top probability, whether it is right) of the answer over each set, [2^rungs, images]; as the engine pools.

    Args:
        logits: float32 [images, classes] per rung, in ladder order.
        truth: int64 [images], the true classes.
    """
    names, temperatures = manifest.stage_names, [stage.temperature for stage in manifest.stages]
    alone = [stage_log_probabilities(z, t) for z, t in zip(logits, temperatures, strict=True)]
    confidence = np.zeros((1 << len(names), len(truth)), dtype=np.float32)
    right = np.zeros(confidence.shape, dtype=np.bool_)
    for mask in range(1, len(confidence)):
        members = [k for k in range(len(names)) if mask >> k & 1]
        rule = manifest.pools[",".join(names[k] for k in members)]
        speaking = [k for k, weight in zip(members, rule.weights, strict=True) if weight]
        if len(speaking) == 1 and max(rule.weights) == rule.temperature:
            probabilities = softmax(logits[speaking[0]], temperatures[speaking[0]])
        else:
            probabilities = pool([alone[k] for k in members], rule.weights, rule.temperature)
        confidence[mask] = probabilities.max(axis=1)
        right[mask] = probabilities.argmax(axis=1) == truth
    return confidence, right


def progress_bar(what: str, done: int, total: int) -> None:
    """One line on stderr, drawn over itself; where that is no terminal, only the last state."""
    if done < total and not sys.stderr.isatty():
        return
    filled = 30 * done // max(total, 1)
    end = "\n" if done >= total else ""
    print(f"\r{what:<28} [{'#' * filled:<30}] {done}/{total}", end=end, file=sys.stderr, flush=True)


def _labels_in_order_of(manifest: Manifest, images: LabelledImages) -> NDArray[np.int64]:
    if set(images.classes) != set(manifest.labels):
        raise ValueError(f"{_LABELS_DIFFER}: {', '.join(images.classes)}; {', '.join(manifest.labels)}")
    place = np.array([manifest.labels.index(name) for name in images.classes], dtype=np.int64)
    return place[images.labels]


def _as_served(model: PublishedModel, wanted: Wanted, scratch: Path) -> LoadedModel:
    """The model as an engine with one thread loads it. Raises StageUnusable where a rung cannot run."""
    folder = scratch / "models" / model.manifest.name
    folder.mkdir(parents=True)
    (folder / model.manifest.version).symlink_to(model.path.resolve())
    runtimes = backends.runtimes(wanted.backend, 1, shared_cores=True)
    loader = Loader(runtimes, scratch / "state", wanted.max_batch, 0, lambda _line: None)
    loaded = loader.load_all(folder.parent)
    if loaded.unserved or loaded.models[model.key].failed:
        reasons = loaded.unserved or [f"{k}: {why}" for k, why in loaded.models[model.key].failed.items()]
        raise StageUnusable("; ".join(reasons))
    return loaded.models[model.key]


@contextmanager
def _on_core(cpu: int) -> Iterator[None]:
    """Pins this process, and so the threads that a runtime starts in it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu} if cpu in before else before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _logits(runner: StageRunner, pixels: NDArray[np.uint8], name: str, progress: Progress) -> Floats:
    parts = []
    for start in range(0, len(pixels), CHUNK):
        parts.append(runner.run(pixels[start : start + CHUNK]))
        if start // CHUNK % 16 == 0:
            progress(f"answers of {name}", start, len(pixels))
    progress(f"answers of {name}", len(pixels), len(pixels))
    return np.concatenate(parts)


def _timed_cells(
    runners: Sequence[StageRunner], pixels: NDArray[np.uint8], wanted: Wanted, progress: Progress
) -> tuple[dict[Cell, _Timed], NDArray[np.int64], bool]:
    """Begins and ends on CLOCK_MONOTONIC by cell, the stalls meanwhile, and whether the meter can be trusted."""
    timed = {(k, b): _Timed() for b in buckets_up_to(wanted.max_batch) for k in range(len(runners))}
    random = np.random.default_rng(0)

    clock_ns = time.process_time_ns if wanted.cpu_time else time.monotonic_ns

    def launch(cell: Cell) -> tuple[int, int, int]:
        stage, batch = cell
        start = int(random.integers(0, max(len(pixels) - batch, 1)))
        chosen = pixels[np.arange(start, start + batch) % len(pixels)]
        begin, before = time.monotonic_ns(), clock_ns()
        runners[stage].run(chosen)
        return begin, time.monotonic_ns(), clock_ns() - before

    cells = list(timed.items())
    rounds = rounds_of({cell: _first_ns(lambda c=cell: launch(c)) for cell in timed}, wanted)  # type: ignore[misc]
    with metering([wanted.cpu], 10 * wanted.seconds + 60) as meters:
        for number in range(max(rounds.values())):
            for place in random.permutation(len(cells)):
                cell, times = cells[place]
                if number < rounds[cell]:
                    begin, end, took = launch(cell)
                    times.begins.append(begin)
                    times.ends.append(end)
                    times.took.append(took)
            progress("latencies", number + 1, max(rounds.values()))
        stalls = meters.stop()
        return timed, stalls, meters.trustworthy


def _first_ns(launch: Callable[[], tuple[int, int, int]]) -> int:
    """The first launch of a shape prepares memory; the best of the next two tells what one costs."""
    spans = [launch() for _ in range(3)]
    return min(took for _, _, took in spans[1:])


def rounds_of(cost_ns: dict[Cell, int], wanted: Wanted) -> dict[Cell, int]:
    """Launches per cell: as many as wanted, fewer where one would take more than its share of the time."""
    share_ns = wanted.seconds * 1e9 / len(cost_ns)
    return {cell: max(min(wanted.samples, int(share_ns / ns)), LEAST_SAMPLES) for cell, ns in cost_ns.items()}
