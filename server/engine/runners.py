"""From a published model to one runner per stage: loaded on every runtime, tried, compared, timed, and chosen.

Knows the order of these steps and what to do without a part: a runtime that cannot be opened or whose answers are wrong
is left out and named, a stage without a runtime too. Must not know sockets, jobs or the folder of models.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_repo.repository import ModelDamaged, PublishedModel
from server.engine import profile
from server.engine.backends.auto import Runtimes
from server.engine.backends.protocol import DeviceLost, Logits, Pixels, StageRunner, StageUnusable
from server.engine.choosing import ChosenStage, choose, difference, has_lost, in_words, probes, within_parity
from server.engine.latency import buckets_up_to

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
OnRuntimes = dict[str, StageRunner]  # one stage, by runtime


@dataclass
class Runners:
    """What came of a model's stages.

    Attributes:
        by_place: one runner per usable rung.
        profile: their times, and the runtime of each cell.
        failed: names of rungs that cannot run, with the reason.
    """

    by_place: dict[int, StageRunner]
    profile: profile.Profile
    failed: dict[str, str]

    def runs_as(self, max_batch: int) -> dict[int, list[tuple[int, ...]]]:
        """By place, the sizes that a batch of 0, 1, … `max_batch` images is run in."""
        counts = range(1, max_batch + 1)
        return {place: [(0,), *map(runner.runs_as, counts)] for place, runner in self.by_place.items()}

    @property
    def runtimes(self) -> str:
        """Names of the runtimes in use, joined by +."""
        return "+".join(sorted({name for row in self.profile.runtimes.values() for name in row.values()}))


class RunnerMaker:
    """Makes the runners of one model.

    Args:
        runtimes: to choose from.
        state_dir: keeps what was measured and chosen.
        max_batch: largest batch of a launch.
        say: told, in one line, what is being done.
        clock_ns: times the cells.

    Attributes:
        passed_over: by name, why a preferred runtime does not run a stage that another one runs.
    """

    def __init__(
        self,
        runtimes: Runtimes,
        state_dir: Path,
        max_batch: int,
        say: Say,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._runtimes = runtimes
        self._state_dir = state_dir
        self._max_batch = max_batch
        self._say = say
        self._clock_ns = clock_ns
        self._unopened: dict[str, str] = {}
        self._second_best = False  # whether a stage of this model runs on less than the preferred runtime
        self.passed_over: dict[str, str] = {}

    def make(self, model: PublishedModel, places: list[int], keep: bool) -> Runners:
        """Runners of those rungs; `keep`: they are all there are, so that what is measured may be kept.

        Raises StageUnusable if none can run.
        """
        self._second_best = False
        key = self._key(model)
        kept = profile.load(self._state_dir, key)
        if kept and (found := self._as_kept(model, places, kept)):
            logger.info("latency profile reused", extra={"model": model.key})
            return found
        stages, failed = self._load(model, dict.fromkeys(places, self._runtimes.names))
        if not stages:
            reasons = "; ".join(f"{stage}: {reason}" for stage, reason in failed.items())
            raise StageUnusable(f"no usable stage ({reasons})")
        for place, runners in stages.items():
            self._leave_out_wrong(model, place, runners)
        chosen, measured = self._choose(model, stages)
        # A runtime that could not be opened today, or not run a stage, may be better tomorrow.
        if keep and not self._unopened and not self._second_best:
            profile.save(self._state_dir, key, measured)
        return Runners(chosen, measured, failed)

    def _key(self, model: PublishedModel) -> dict[str, str]:
        return {
            "model": model.fingerprint(),
            "processor": profile.processor(),
            "batches": str(self._max_batch),
            **self._runtimes.describe(),
        }

    def _as_kept(self, model: PublishedModel, places: list[int], kept: profile.Profile) -> Runners | None:
        """The choice of an earlier start, if everything of it still runs; a stage that failed then is tried again."""
        wanted = {place: sorted(set(kept.runtimes.get(place, {}).values())) for place in places}
        untimed = {place: self._runtimes.names for place in places if not wanted[place]}
        stages, failed = self._load(model, {**wanted, **untimed})
        loaded = {place: list(stages.get(place, {})) for place in places}
        if stages and loaded == wanted:
            return Runners(_chosen(stages, kept), kept.only(stages), failed)
        _close(stages)
        logger.warning("what was chosen does not run, choosing anew", extra={"model": model.key})
        return None

    def _load(
        self, model: PublishedModel, wanted: Mapping[int, Collection[str]]
    ) -> tuple[dict[int, OnRuntimes], dict[str, str]]:
        """Each stage on those runtimes that can run it, and the stages that none can."""
        stages: dict[int, OnRuntimes] = {}
        failed: dict[str, str] = {}
        for place, names in wanted.items():
            stage = model.manifest.stages[place].name
            runners, reasons = self._load_stage(model, place, names)
            if runners:
                stages[place] = runners
                continue
            failed[stage] = "; ".join(dict.fromkeys(reasons.values()))
            logger.error(
                "stage left out", extra={"model": model.key, "stage": stage, "reason": failed[stage]}
            )
        return stages, failed

    def _load_stage(
        self, model: PublishedModel, place: int, names: Collection[str]
    ) -> tuple[OnRuntimes, dict[str, str]]:
        stage = model.manifest.stages[place].name
        runners: OnRuntimes = {}
        reasons: dict[str, str] = {}
        for tier in self._runtimes.tiers:
            for name in tier if not runners else ():
                if name not in names:
                    continue
                self._say(f"loading {model.key} {stage} on {name}")
                try:
                    runners[name] = self._load_on(model, place, name)
                    self._judge(model, place, runners, name)
                except StageUnusable as error:
                    reasons[name] = str(error)
        if runners:
            for name, reason in reasons.items():
                self._log_left_out(model, stage, name, reason)
                if name not in self._runtimes.tiers[-1]:
                    self._second_best = True
                    self.passed_over.setdefault(name, f"{model.key} {stage}: {reason}")
        return runners, reasons

    def _judge(self, model: PublishedModel, place: int, runners: OnRuntimes, name: str) -> None:
        """Hold a preferred runtime's answers against the trusted one's. Raises StageUnusable, the runner closed."""
        trusted = self._runtimes.tiers[-1]
        if name in trusted or not trusted:
            return
        try:
            judge = self._load_on(model, place, trusted[0])
        except StageUnusable:  # it is no judge of what it cannot run
            return
        images = probes(*model.image_size)[: self._max_batch]
        try:
            _check_parity(_run(runners[name], images), _run(judge, images), trusted[0])
        except StageUnusable:
            runners.pop(name).close()
            raise
        finally:
            judge.close()

    def _load_on(self, model: PublishedModel, place: int, name: str) -> StageRunner:
        """A runner that has given sane logits for one image and for a full batch."""
        if name in self._unopened:
            raise StageUnusable(self._unopened[name])
        try:
            backend = self._runtimes.open(name)
        except Exception as error:  # whatever a broken installation raises, the others may do
            self._unopened[name] = f"{name} cannot be loaded: {_first_line(error)}"
            raise StageUnusable(self._unopened[name]) from error
        try:
            runner = backend.load_stage(model, place, self._max_batch)
        except (StageUnusable, ModelDamaged, DeviceLost):
            raise
        except Exception as error:  # a part of the runtime that is missing, and the like
            raise StageUnusable(f"{name} cannot load it: {_first_line(error)}") from error
        try:
            for batch in {1, self._max_batch}:
                _check_logits(_run(runner, random_pixels(model, batch)), batch, len(model.manifest.labels))
        except StageUnusable:
            runner.close()
            raise
        return runner

    def _leave_out_wrong(self, model: PublishedModel, place: int, runners: OnRuntimes) -> None:
        """Close the runtimes whose answers differ from the first one's by more than the parity bound."""
        first, *others = runners
        if not others:
            return
        images = probes(*model.image_size)[: self._max_batch]
        reference = runners[first].run(images)
        for name in others:
            try:
                _check_parity(_run(runners[name], images), reference, first)
            except StageUnusable as error:
                self._log_left_out(model, model.manifest.stages[place].name, name, str(error))
                runners.pop(name).close()

    def _choose(
        self, model: PublishedModel, stages: dict[int, OnRuntimes]
    ) -> tuple[dict[int, StageRunner], profile.Profile]:
        images = random_pixels(model, self._max_batch)
        names = model.manifest.stage_names
        times = profile.measure(
            [(place, name) for place in sorted(stages) for name in stages[place]],
            buckets_up_to(self._max_batch),
            lambda row, batch: stages[row[0]][row[1]].run(images[:batch]),
            self._clock_ns,
            lambda row, batch: self._say(f"timing {model.key} {names[row[0]]} on {row[1]} at batch {batch}"),
            lambda row, cells: has_lost(cells[row], [cells[row[0], name] for name in stages[row[0]]]),
        )
        choices = {
            place: choose({name: times[place, name] for name in stages[place]}) for place in sorted(stages)
        }
        measured = profile.Profile(
            {place: cells for place, (_, cells) in choices.items()},
            {place: choice for place, (choice, _) in choices.items()},
        )
        for place, runners in stages.items():
            for name in set(runners) - set(measured.runtimes[place].values()):
                runners.pop(name).close()  # it wins nowhere: its memory goes back
        words = {names[place]: in_words(choice) for place, choice in measured.runtimes.items()}
        logger.info("runtimes chosen", extra={"model": model.key, "runtimes": words})
        return _chosen(stages, measured), measured

    def _log_left_out(self, model: PublishedModel, stage: str, name: str, reason: str) -> None:
        logger.warning(
            "runtime left out",
            extra={"model": model.key, "stage": stage, "runtime": name, "reason": reason},
        )


def random_pixels(model: PublishedModel, batch: int) -> Pixels:
    """Noise that a model takes, always the same: uint8 [batch, height, width, 3]."""
    return np.random.default_rng(0).integers(0, 256, (batch, *model.image_size, 3), dtype=np.uint8)


def _run(runner: StageRunner, images: Pixels) -> Logits:
    """Raises StageUnusable, whatever the runtime raises; DeviceLost passes."""
    try:
        return runner.run(images)
    except DeviceLost:
        raise
    except Exception as error:
        raise StageUnusable(f"a batch of {len(images)} fails: {_first_line(error)}") from error


def _check_logits(logits: Logits, batch: int, classes: int) -> None:
    """Raises StageUnusable."""
    if logits.shape != (batch, classes) or not np.isfinite(logits).all():
        raise StageUnusable(
            f"gives {logits.shape} for {batch} images and {classes} labels, or infinite logits"
        )


def _check_parity(logits: Logits, reference: Logits, trusted: str) -> None:
    """Raises StageUnusable."""
    if not within_parity(logits, reference):
        raise StageUnusable(f"a probability differs from {trusted}'s by {difference(logits, reference):.3f}")


def _chosen(stages: dict[int, OnRuntimes], measured: profile.Profile) -> dict[int, StageRunner]:
    """A stage with one runtime is called without a detour."""
    return {
        place: next(iter(runners.values()))
        if len(runners) == 1
        else ChosenStage(runners, measured.runtimes[place])
        for place, runners in stages.items()
    }


def _close(stages: dict[int, OnRuntimes]) -> None:
    for runners in stages.values():
        for runner in runners.values():
            runner.close()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
