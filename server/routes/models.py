"""GET /models and /models/{name}: the published contract, and how it is being kept here and now.

Knows how manifests and the engine's reports become one description; must not know how either is made.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from model_repo.manifest import InputRule, Provenance, Stage
from server.catalog import Catalog, ModelView
from server.engine_view import EngineView
from server.errors import UnknownModel
from server.lag import Lag
from server.messages import ServedModel

State = Literal["serving", "not_serving", "damaged"]


class LatencyCard(BaseModel):
    """Measured latency of one launch at one batch size, milliseconds."""

    batch: int
    p50_ms: float
    p99_ms: float


class StageCard(BaseModel):
    """One rung."""

    name: str
    depth: int | None
    parameters: int | None
    multiply_adds: int | None
    test_accuracy: float | None = Field(description="Alone, on the test set.")
    expected_accuracy: float = Field(description="Alone, on the calibration data.")
    state: Literal["serving", "failed", "not_serving"]
    latency: list[LatencyCard] = Field(description="Here, now; empty until measured.")


class TimingCard(BaseModel):
    """Where the time of a budget goes, here and now, beside the launches themselves; milliseconds."""

    first_answer_ms: float = Field(
        description="From a job's arrival at the engine to its first rung: queueing, launch and transport."
    )
    slowdown: float = Field(description="How much longer than their profile launches take.")
    launch_tail_ms: float = Field(
        description="Added to the estimate of each launch for stalls of the machine."
    )
    answering_ms: float = Field(description="Kept back before the deadline for writing the answer.")


class ModelCard(BaseModel):
    """One version of one model."""

    name: str
    version: str
    state: State
    reason: str | None = Field(None, description="Why it is damaged, and which file.")
    default: bool = Field(False, description="Whether requests that name no model get this one.")
    description: str = ""
    backend: str | None = Field(None, description="Runtime that it is served by.")
    timing: TimingCard | None = Field(None, description="While it is served.")
    input: InputRule | None = None
    labels: tuple[str, ...] = ()
    stages: list[StageCard] = []
    expected_accuracy: dict[str, float] = Field({}, description="Of every set of finished rungs.")
    provenance: Provenance | None = None


class ModelCards(BaseModel):
    """A list of them."""

    models: list[ModelCard]


def router(catalog: Catalog, view: EngineView, lag: Lag) -> APIRouter:
    """The two routes."""
    routes = APIRouter(tags=["models"])

    @routes.get("/models")
    async def list_models() -> ModelCards:
        """Every version there is, the damaged ones with the reason."""
        return ModelCards(models=_cards(catalog, view, lag, catalog.models) + _damaged(catalog, None))

    @routes.get("/models/{name}")
    async def describe_model(name: str) -> ModelCards:
        """Every version of one model, or the one that `name@version` names."""
        name, _, version = name.partition("@")
        cards = _cards(catalog, view, lag, catalog.versions(name)) + _damaged(catalog, name)
        cards = [card for card in cards if version in ("", card.version)]
        if not cards:
            raise UnknownModel(f"There is no model {name!r} here; GET /models lists them.")
        return ModelCards(models=cards)

    return routes


def _cards(catalog: Catalog, view: EngineView, lag: Lag, models: list[ModelView]) -> list[ModelCard]:
    default = catalog.default()
    return [
        _card(model, view.models.get(model.key), _timing(model, view, lag), is_default=model is default)
        for model in models
    ]


def _timing(model: ModelView, view: EngineView, lag: Lag) -> TimingCard | None:
    served = view.models.get(model.key)
    if served is None or (served.failed and not served.stages):  # without a stage nothing takes any time
        return None
    return TimingCard(
        first_answer_ms=view.first_answer_ns(model.key) / 1e6,
        slowdown=served.factor,
        launch_tail_ms=served.tail_ns / 1e6,
        answering_ms=lag.guard_ns / 1e6,
    )


def _card(
    model: ModelView, served: ServedModel | None, timing: TimingCard | None, *, is_default: bool
) -> ModelCard:
    manifest = model.manifest
    return ModelCard(
        name=model.name,
        version=model.version,
        state="not_serving" if served is None else "serving",
        default=is_default,
        description=manifest.description,
        backend=None if served is None else served.backend,
        timing=timing,
        input=manifest.input,
        labels=manifest.labels,
        stages=[_stage(model, stage, served) for stage in manifest.stages],
        expected_accuracy={key: pool.accuracy for key, pool in manifest.pools.items()},
        provenance=manifest.provenance,
    )


def _stage(model: ModelView, stage: Stage, served: ServedModel | None) -> StageCard:
    latencies = [] if served is None else served.stages.get(stage.name, [])
    state: Literal["serving", "failed", "not_serving"] = "not_serving"
    if served is not None:
        state = "failed" if stage.name in served.failed else "serving"
    return StageCard(
        name=stage.name,
        depth=stage.depth,
        parameters=stage.parameters,
        multiply_adds=stage.multiply_adds,
        test_accuracy=stage.test_accuracy,
        expected_accuracy=model.manifest.pools[stage.name].accuracy,
        state=state,
        latency=[
            LatencyCard(batch=one.batch, p50_ms=one.p50_ns / 1e6, p99_ms=one.p99_ns / 1e6)
            for one in latencies
        ],
    )


def _damaged(catalog: Catalog, name: str | None) -> list[ModelCard]:
    damages = catalog.damaged if name is None else catalog.damages(name)
    return [
        ModelCard(
            name=damage.model.partition("@")[0],
            version=damage.model.partition("@")[2],
            state="damaged",
            reason=f"{damage.file}: {damage.reason}",
        )
        for damage in damages
    ]
