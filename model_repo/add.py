"""Any ONNX graphs, in order of cost, become a ladder: measured, calibrated and published in one step.

Knows the order of the steps. Everything is checked before anything is published.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_repo.calibration import accuracy, calibrate
from model_repo.foreign import GraphRefused, Preparation, ServedGraph, prepare
from model_repo.labelled import ImagesRefused, Labelled, read_labelled, read_labels
from model_repo.manifest import InputRule, Manifest, Provenance, Stage
from model_repo.repository import Repository

BATCH = 32
SAME = 1e-3
"""Largest difference of a logit, as a share of the largest one, between a batch and its images one by one."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Wanted:
    """What is to be added.

    Attributes:
        stages: ONNX files in order of cost.
        labels, images: the list of labels, and the folder of calibration images.
        most: images that are used at most.
    """

    models_dir: Path
    name: str
    stages: Sequence[Path]
    labels: Path
    images: Path
    preparation: Preparation
    resize: Literal["cover", "stretch"] = "cover"
    description: str = ""
    most: int = 5_000


@dataclass(frozen=True)
class Measured:
    """A graph, its logits of all images [n, classes], and the seconds that they took."""

    name: str
    graph: ServedGraph
    logits: Floats
    seconds: float


def add(wanted: Wanted, say: Callable[[str], None]) -> Manifest:
    """Check, measure, calibrate, publish; `say` is told what is found.

    Raises:
        GraphRefused, ImagesRefused: nothing was published; the text says what to do.
        RepositoryError: the version cannot be published.
    """
    labels = read_labels(wanted.labels)
    graphs = [(name, _prepared(path, wanted)) for name, path in _named(wanted.stages)]
    sizes = {(graph.height, graph.width) for _, graph in graphs}
    if len(sizes) > 1:
        raise GraphRefused(f"the graphs take images of different sizes: {sorted(sizes)}")
    height, width = sizes.pop()
    rule = InputRule(height=height, width=width, resize=wanted.resize)
    images = read_labelled(wanted.images, labels, rule, wanted.most)
    for path in images.unreadable:
        say(f"left out, unreadable: {path}")
    measured = [_measure(name, graph, images, labels) for name, graph in graphs]
    for rung in measured:
        say(
            f"{rung.name}: {_cost(rung)}, {100 * accuracy(rung.logits, images.labels):.2f} % of {len(images.labels)}"
        )
    _check_order(measured)
    manifest = _manifest(wanted, labels, rule, images, measured)
    files: dict[str, bytes | Path] = {f"{rung.name}.onnx": rung.graph.onnx for rung in measured}
    files["labels.txt"] = ("\n".join(labels) + "\n").encode()
    Repository(wanted.models_dir).publish(manifest, files)
    say(f"published {manifest.name}@{manifest.version} with {', '.join(manifest.stage_names)}")
    say(_how_to_ask(manifest, images.example))
    return manifest


def _named(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Names of the rungs, from those of the files."""
    names = [re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:64] for path in paths]
    if len(set(names)) != len(names) or not all(names):
        raise GraphRefused(f"the files' names must differ, they name the rungs: {names}")
    return list(zip(names, paths, strict=True))


def _prepared(path: Path, wanted: Wanted) -> ServedGraph:
    try:
        return prepare(path, wanted.preparation)
    except GraphRefused as error:
        raise GraphRefused(f"{path}: {error}") from error


def _measure(name: str, graph: ServedGraph, images: Labelled, labels: list[str]) -> Measured:
    """Run all images. Raises GraphRefused where the graph fails, or gives something else than finite logits."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(graph.onnx, options, providers=["CPUExecutionProvider"])
        feed = session.get_inputs()[0].name

        def run(pixels: NDArray[np.uint8]) -> Floats:
            return session.run(None, {feed: pixels})[0]  # type: ignore[no-any-return]

        alone = np.concatenate([run(images.pixels[n : n + 1]) for n in range(3)])
        together = run(images.pixels[:3])
        begun = time.perf_counter()
        parts = [run(images.pixels[at : at + BATCH]) for at in range(0, len(images.pixels), BATCH)]
        seconds = time.perf_counter() - begun
    except Exception as error:  # its exceptions share no base class of their own
        raise GraphRefused(f"{name}: cannot be run: {str(error).splitlines()[0]}") from error
    logits = np.concatenate(parts)
    if logits.shape != (len(images.pixels), len(labels)):
        raise GraphRefused(f"{name}: gives {list(logits.shape[1:])} values an image for {len(labels)} labels")
    if not np.isfinite(logits).all():
        raise GraphRefused(f"{name}: gives infinite logits")
    if logits.min() >= 0 and np.abs(logits.sum(1) - 1).max() < SAME:
        raise GraphRefused(f"{name}: gives probabilities, not logits: export it without what makes them")
    if np.abs(alone - together).max() > SAME * max(1.0, float(np.abs(together).max())):
        raise GraphRefused(f"{name}: an image's logits depend on the others of its batch")
    return Measured(name, graph, logits, seconds)


def _cost(rung: Measured) -> str:
    known = rung.graph.multiply_adds
    return f"{1e3 * rung.seconds:.0f} ms in all" if known is None else f"{known / 1e6:.1f} M multiply-adds"


def _check_order(measured: Sequence[Measured]) -> None:
    """From cheap to dear, by multiply-adds; by time where those are not known."""
    known = all(rung.graph.multiply_adds is not None for rung in measured)
    costs = [float(rung.graph.multiply_adds or 0) if known else rung.seconds for rung in measured]
    for (one, cost), (other, next_cost) in pairwise(zip(measured, costs, strict=True)):
        if next_cost <= cost:
            raise GraphRefused(
                f"{other.name} costs no more than {one.name} before it ({_cost(other)}, {_cost(one)}): "
                "give --stages from cheap to dear"
            )


def _manifest(
    wanted: Wanted, labels: list[str], rule: InputRule, images: Labelled, measured: Sequence[Measured]
) -> Manifest:
    found = calibrate({rung.name: rung.logits for rung in measured}, images.labels)
    accuracies = {rung.name: accuracy(rung.logits, images.labels) for rung in measured}
    versions = Repository(wanted.models_dir).versions(wanted.name)
    return Manifest(
        name=wanted.name,
        version=str(int(versions[-1]) + 1 if versions else 1),
        description=wanted.description,
        input=rule,
        labels=tuple(labels),
        stages=tuple(
            Stage(
                name=rung.name,
                file=f"{rung.name}.onnx",
                sha256=hashlib.sha256(rung.graph.onnx).hexdigest(),
                depth=None,
                parameters=rung.graph.parameters,
                multiply_adds=rung.graph.multiply_adds,
                test_accuracy=accuracies[rung.name],
                temperature=round(found.temperatures[rung.name], 4),
            )
            for rung in measured
        ),
        pools=found.pools,
        gain_bin_edges=found.gain_bin_edges,
        gains=found.gains,
        provenance=Provenance(
            data=f"not trained here; measured and calibrated on {len(images.labels)} images",
            recipe="graphs from elsewhere",
            seed=0,
            epochs=0,
            code_commit="unknown",
            date=dt.datetime.now(dt.UTC).date().isoformat(),
            test_errors={name: round(1 - share, 6) for name, share in accuracies.items()},
        ),
    )


def _how_to_ask(manifest: Manifest, example: Path) -> str:
    kind = {".png": "image/png", ".webp": "image/webp"}.get(example.suffix.lower(), "image/jpeg")
    quoted = "'" + str(example).replace("'", "'\\''") + "'"
    return (
        f"curl --data-binary @{quoted} -H 'Content-Type: {kind}' "
        f"'localhost:8000/classify?model={manifest.name}&deadline_ms=50'"
    )


__all__ = ["GraphRefused", "ImagesRefused", "Wanted", "add"]
