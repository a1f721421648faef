"""From the folder of models to models that can be served.

Knows what to do without a part: a stage that fails is left out and named, a model without a usable stage is not served,
a damaged one neither, each with its reason. How a stage gets its runner is in runners.py. Must not know sockets or
jobs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from model_repo.repository import ModelDamaged, PublishedModel, Repository
from server.engine.backends.auto import Runtimes
from server.engine.backends.protocol import DeviceLost, StageRunner, StageUnusable
from server.engine.ladder import Ladder
from server.engine.latency import LatencyTable
from server.engine.runners import RunnerMaker

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

HUNG = "its launches have hung the engine"


@dataclass
class LoadedModel:
    """A model that is served.

    Attributes:
        model: as published.
        runners: by place in the ladder; a rung that is out of use has none.
        ladder, latency: what the policy knows of it.
        failed: names of rungs that cannot run, with the reason.
        runtimes: names of those it runs on, joined by +.
    """

    model: PublishedModel
    runners: dict[int, StageRunner]
    ladder: Ladder
    latency: LatencyTable
    failed: dict[str, str]
    runtimes: str = ""

    @property
    def key(self) -> str:
        """name@version."""
        return self.model.key

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels of its input."""
        return self.model.manifest.input.height, self.model.manifest.input.width, 3


@dataclass
class Loaded:
    """What came of the folder: models that are served, and one line for each that is not.

    Attributes:
        notes: one line for each runtime that would have been better and does not run.
    """

    models: dict[str, LoadedModel] = field(default_factory=dict)
    unserved: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Loader:
    """Loads models onto the runtimes that are there.

    Args:
        runtimes: run the stages.
        state_dir: keeps latency profiles.
        max_batch: largest batch of a launch.
        pin_rung: serve this rung only (1 = first); 0 serves the ladder.
        say: told, in one line, what is being done; also called often enough to keep the outside informed.
        untrusted: stages ("name@version stage") that have hung and are left out, unless nothing else would be left.
    """

    def __init__(
        self,
        runtimes: Runtimes,
        state_dir: Path,
        max_batch: int,
        pin_rung: int,
        say: Say,
        untrusted: frozenset[str] = frozenset(),
    ) -> None:
        self._maker = RunnerMaker(runtimes, state_dir, max_batch, say)
        self._max_batch = max_batch
        self._pin_rung = pin_rung
        self._say = say
        self._untrusted = untrusted

    def load_all(self, models_dir: Path) -> Loaded:
        """Every version in the folder that can be served; damage is logged with the file and the reason."""
        loaded = Loaded()
        self._say(f"verifying the models in {models_dir}")
        good, bad = Repository(models_dir).scan()
        for damage in bad:
            logger.error(
                "model damaged",
                extra={"model": damage.model, "file": str(damage.file), "reason": damage.reason},
            )
            loaded.unserved.append(str(damage))
        for model in good:
            try:
                loaded.models[model.key] = self._load(model)
            except (StageUnusable, ModelDamaged) as error:
                logger.error("model not served", extra={"model": model.key, "reason": str(error)})
                loaded.unserved.append(f"model {model.key}: {error}")
            except DeviceLost:
                raise
            except Exception as error:  # else the engine would end, and start again, and end
                logger.exception("model not served", extra={"model": model.key})
                loaded.unserved.append(f"model {model.key}: {type(error).__name__}: {error}")
        if not good and not bad:
            loaded.unserved.append(f"no models in {models_dir}")
        loaded.notes += [f"{name} passed over: {why}" for name, why in self._maker.passed_over.items()]
        return loaded

    def _load(self, model: PublishedModel) -> LoadedModel:
        """Raises StageUnusable if nothing of it can run."""
        places, failed = self._trusted(model, self._wanted(model))
        # A pinned service has one rung's figures only: they must not pass for the whole ladder's.
        found = self._maker.make(model, places, keep=len(places) == len(model.manifest.stages))
        usable = sorted(found.by_place)
        logger.info(
            "model loaded",
            extra={"model": model.key, "stages": [model.manifest.stages[p].name for p in usable]},
        )
        return LoadedModel(
            model,
            found.by_place,
            ladder_of(model, usable),
            LatencyTable(found.profile.cells, self._max_batch, found.runs_as(self._max_batch)),
            {**failed, **found.failed},
            found.runtimes,
        )

    def _wanted(self, model: PublishedModel) -> list[int]:
        count = len(model.manifest.stages)
        if self._pin_rung > count:
            raise StageUnusable(f"it has {count} rungs, rung {self._pin_rung} was asked for")
        return [self._pin_rung - 1] if self._pin_rung else list(range(count))

    def _trusted(self, model: PublishedModel, places: list[int]) -> tuple[list[int], dict[str, str]]:
        """(The places to load, names of those left out with the reason)."""
        names = {place: model.manifest.stages[place].name for place in places}
        hung = [place for place in places if f"{model.key} {names[place]}" in self._untrusted]
        if len(hung) == len(places):
            return places, {}
        for place in hung:
            logger.error("stage left out", extra={"model": model.key, "stage": names[place], "reason": HUNG})
        return [place for place in places if place not in hung], {names[place]: HUNG for place in hung}


def ladder_of(model: PublishedModel, usable: list[int]) -> Ladder:
    """What the manifest says the rungs are worth."""
    manifest = model.manifest
    accuracies = {key: pool.accuracy for key, pool in manifest.pools.items()}
    return Ladder(manifest.stage_names, accuracies, manifest.gain_bin_edges, manifest.gains, usable)
