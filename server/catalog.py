"""Which models there are, and what the front end has to know of each to answer.

Knows manifests, names and versions; must not know HTTP, pixels or the engine's state beyond the keys it serves.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from model_repo.manifest import Manifest
from model_repo.repository import Repository
from server.errors import NotReady, UnknownModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageSet:
    """Some finished rungs.

    Attributes:
        names: in ladder order.
        last: the JSON-ready name and depth of the last of them.
        expected_accuracy: of the pooled answer, from calibration.
    """

    names: list[str]
    last: dict[str, object]
    expected_accuracy: float


class ModelView:
    """One version of one model, ready to be answered with."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.name = manifest.name
        self.version = manifest.version
        self.key = f"{manifest.name}@{manifest.version}"
        self.input = manifest.input
        self.labels = manifest.labels
        self._sets: dict[int, StageSet] = {}

    def stage_set(self, stages: int) -> StageSet:
        """The set whose rung k is present where bit k of `stages` is set."""
        known = self._sets.get(stages)
        if known is None:
            known = self._sets[stages] = self._describe(stages)
        return known

    def _describe(self, stages: int) -> StageSet:
        members = [stage for k, stage in enumerate(self.manifest.stages) if stages >> k & 1]
        names = [stage.name for stage in members]
        last: dict[str, object] = {"name": members[-1].name, "depth": members[-1].depth}
        return StageSet(names, last, self.manifest.pools[",".join(names)].accuracy)


@dataclass(frozen=True)
class Damage:
    """A version that must not be served: which file and why."""

    model: str
    file: str
    reason: str


class Catalog:
    """All models of one repository, as last read."""

    def __init__(self, repository: Repository, default_model: str = "") -> None:
        self._repository = repository
        self._default = default_model
        self._models: dict[str, ModelView] = {}
        self._served: frozenset[str] = frozenset()
        self._resolved: dict[str, ModelView] = {}
        self.damaged: tuple[Damage, ...] = ()

    @property
    def models(self) -> list[ModelView]:
        """Every sound version, by name, then oldest first."""
        return list(self._models.values())

    @property
    def served(self) -> list[ModelView]:
        """Those of them that the engine serves."""
        return [model for key, model in self._models.items() if key in self._served]

    def knows(self, keys: Iterable[str]) -> bool:
        """Whether all of these (name@version) were there when the repository was last read."""
        return all(key in self._models for key in keys)

    def read(self) -> None:
        """Reads the repository anew; sound versions keep their view, so requests in work are not disturbed."""
        good, bad = self._repository.scan()
        self._models = {model.key: self._models.get(model.key) or ModelView(model.manifest) for model in good}
        self.damaged = tuple(Damage(error.model, str(error.file), error.reason) for error in bad)
        self._resolved = {}
        for damage in self.damaged:
            log.error(
                "model %s is damaged", damage.model, extra={"file": damage.file, "reason": damage.reason}
            )

    def serve(self, keys: Iterable[str]) -> None:
        """Tells which are being served: of a name's versions the newest served one is meant."""
        served = frozenset(keys)
        if served != self._served:
            self._served = served
            self._resolved = {}

    def resolve(self, text: str) -> ModelView:
        """The model meant by `name`, `name@version` or, if empty, the default.

        Raises:
            UnknownModel: there is none.
            NotReady: it is there but damaged, or there is no model at all.
        """
        known = self._resolved.get(text)
        if known is None:
            known = self._resolved[text] = self._find(text)
        return known

    def default(self) -> ModelView | None:
        """The model of requests that name none; None if there is no such model."""
        try:
            return self.resolve("")
        except (UnknownModel, NotReady):
            return None

    def versions(self, name: str) -> list[ModelView]:
        """The sound versions of a name, oldest first; empty if there are none."""
        return [model for model in self._models.values() if model.name == name]

    def damages(self, name: str) -> list[Damage]:
        """What is wrong with versions of a name."""
        return [damage for damage in self.damaged if damage.model.partition("@")[0] == name]

    def _find(self, text: str) -> ModelView:
        wanted = text or self._default
        if not wanted:
            return self._first()
        name, _, version = wanted.partition("@")
        found = [model for model in self.versions(name) if version in ("", model.version)]
        if found:
            return self._preferred(found)
        if any(version in ("", damage.model.partition("@")[2]) for damage in self.damages(name)):
            raise NotReady(f"Model {wanted} is damaged and not served.", retry_after_ms=60_000)
        raise UnknownModel(f"There is no model {wanted!r} here; GET /models lists them.")

    def _first(self) -> ModelView:
        if not self._models:
            raise NotReady("There is no model that can be served.", retry_after_ms=60_000)
        served = [model for model in self._models.values() if model.key in self._served] or self.models
        return self._preferred([model for model in served if model.name == served[0].name])

    def _preferred(self, candidates: list[ModelView]) -> ModelView:
        served = [model for model in candidates if model.key in self._served]
        return (served or candidates)[-1]
