"""Accuracy through HTTP: every image once at a loose deadline, and whether each rung is as good as the one
before.

Claims nothing about speed, so it needs neither the lock nor a quiet machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.answers import read_events, read_json
from loadtest.images import LabelledImages
from loadtest.plan import Target, back_to_back
from loadtest.records import NO_INDEX, Outcome, Run
from loadtest.summary import right
from loadtest.tables import markdown, percent
from loadtest.trial import Bench, carry_out

_PATIENCE_PER_IMAGE_S = 0.1
SIGNIFICANCE = 0.05


def classify_all(
    target: Target,
    images: LabelledImages,
    ladder: Sequence[str],
    *,
    deadline_ms: float,
    concurrency: int,
) -> Run:
    """Sends every image once, `concurrency` at a time; row i is image i."""
    order = np.arange(len(images), dtype=np.int32)
    patience = 10 + deadline_ms / 1000 + _PATIENCE_PER_IMAGE_S * len(images)
    plan = back_to_back(
        target,
        images,
        order,
        deadline_ms=deadline_ms,
        concurrency=concurrency,
        patience_s=patience,
    )
    return carry_out(plan, Bench(), ladder)


@dataclass(frozen=True)
class RungAnswers:
    """Classes after every rung of a stream, int16 [images, rungs], NO_INDEX where a rung gave none.

    `pooled` is the answer so far, `alone` what that rung said by itself.
    """

    stages: tuple[str, ...]
    pooled: NDArray[np.int16]
    alone: NDArray[np.int16]


def rung_answers(run: Run, ladder: Sequence[str]) -> RungAnswers:
    """The `refinement` events of a run of streams. Raises NotAnAnswer or KeyError where one is not as
    promised.
    """
    shape = (len(run.records), len(ladder))
    pooled, alone = np.full(shape, NO_INDEX, np.int16), np.full(shape, NO_INDEX, np.int16)
    for number, body in enumerate(run.bodies):
        if run.records["outcome"][number] != Outcome.ANSWERED:
            continue
        for event in read_events(body or b""):
            if event.name == "refinement":
                answer, place = read_json(event.data), int(event.identity) - 1
                pooled[number, place] = answer["index"]
                alone[number, place] = answer["stage_only"]["index"]
    return RungAnswers(tuple(ladder), pooled, alone)


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same images: how many only the first, only the second got right; exact
    two-sided p.
    """

    only_first: int
    only_second: int
    p: float

    @property
    def second_is_worse(self) -> bool:
        """Significantly so, at 5 %."""
        return self.only_first > self.only_second and self.p < SIGNIFICANCE


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test: of the images that just one gets right, is the split that of a fair coin?"""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(comb(tosses, k) for k in range(fewer + 1))
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**tosses))


@dataclass(frozen=True)
class AccuracyFigures:
    """Over all images; `steps` compare the pooled answer after each rung with that after the one before."""

    images: int
    answered: int
    outcomes: dict[str, int]
    accuracy: float
    by_stage: dict[str, tuple[int, float]]  # last rung: images, accuracy
    pooled: dict[str, float]
    alone: dict[str, float]
    incomplete_streams: int
    steps: dict[str, McNemar]

    @property
    def sound(self) -> bool:
        """Every image answered, every stream with every rung, no rung significantly worse than the one
        before.
        """
        worse = any(step.second_is_worse for step in self.steps.values())
        return self.answered == self.images and not self.incomplete_streams and not worse

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        steps = {name: step.__dict__ | {"worse": step.second_is_worse} for name, step in self.steps.items()}
        return {**self.__dict__, "steps": steps, "sound": self.sound}


def judge(run: Run, rungs: RungAnswers | None) -> AccuracyFigures:
    """Figures of a run of classify_all; of its rungs too where it was one of streams."""
    records, correct = run.records, right(run.records)
    by_stage = {}
    for place, name in enumerate(run.stages):
        chosen = records["stage"] == place
        if chosen.any():
            by_stage[name] = (int(chosen.sum()), float(correct[chosen].mean()))
    pooled: dict[str, float] = {}
    alone: dict[str, float] = {}
    steps: dict[str, McNemar] = {}
    incomplete = 0
    if rungs is not None:
        hits = rungs.pooled == records["label"][:, None]
        own = rungs.alone == records["label"][:, None]
        pooled = {name: float(hits[:, k].mean()) for k, name in enumerate(rungs.stages)}
        alone = {name: float(own[:, k].mean()) for k, name in enumerate(rungs.stages)}
        incomplete = int((rungs.pooled == NO_INDEX).any(axis=1).sum())
        neighbours = zip(rungs.stages, rungs.stages[1:], strict=False)
        steps = {f"{a} → {b}": mcnemar(hits[:, k], hits[:, k + 1]) for k, (a, b) in enumerate(neighbours)}
    outcomes = {o.name.lower(): int((records["outcome"] == o).sum()) for o in Outcome}
    return AccuracyFigures(
        images=len(records),
        answered=outcomes["answered"],
        outcomes={name: count for name, count in outcomes.items() if count},
        accuracy=float(correct.mean()),
        by_stage=by_stage,
        pooled=pooled,
        alone=alone,
        incomplete_streams=incomplete,
        steps=steps,
    )


def save_answers(path: Path, run: Run, images: LabelledImages, rungs: RungAnswers | None) -> None:
    """Writes what was answered, image by image in the order of sorted paths, for comparison with offline
    figures.

    Arrays: names, labels, index (NO_INDEX unanswered), stages (names), stages_run (bit k: stages[k]), stage
    (place of the last), and of streams rung_pooled and rung_alone [images, rungs] with rungs (names).
    """
    arrays: dict[str, Any] = {
        "names": np.array(images.names, dtype=np.str_),
        "stages": np.array(run.stages, dtype=np.str_),
        "labels": run.records["label"],
        **{name: run.records[name] for name in ("index", "stages_run", "stage")},
    }
    if rungs is not None:
        arrays["rungs"] = np.array(rungs.stages, dtype=np.str_)
        arrays["rung_pooled"], arrays["rung_alone"] = rungs.pooled, rungs.alone
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def render(figures: AccuracyFigures) -> str:
    """The report as Markdown."""
    outcomes = ", ".join(f"{name} {count}" for name, count in figures.outcomes.items())
    rows = [[name, str(count), percent(share)] for name, (count, share) in figures.by_stage.items()]
    lines = [
        f"{figures.images} images over HTTP: {outcomes}; accuracy {percent(figures.accuracy)} of all.",
        "",
        markdown(("Last rung of the answer", "Images", "Accuracy"), rows),
    ]
    if figures.pooled:
        ladder = [
            [name, percent(figures.pooled[name]), percent(figures.alone[name])] for name in figures.pooled
        ]
        steps = [
            [
                name,
                str(step.only_first),
                str(step.only_second),
                f"{step.p:.2g}",
                "**worse**" if step.second_is_worse else "no",
            ]
            for name, step in figures.steps.items()
        ]
        lines += [
            "",
            f"{figures.incomplete_streams} streams lack a rung.",
            "",
            markdown(("Rung", "Pooled so far", "Alone"), ladder),
            "",
            markdown(
                ("Step", "Right before only", "Right after only", "p (McNemar)", "Significantly worse"), steps
            ),
        ]
    return "\n".join(lines)
