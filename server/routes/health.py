"""GET /livez, /readyz and /metrics.

Knows what ready means: not draining, an engine that is ready and not silent, and a model that it serves. Must not know
how any of it comes about.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from server.admission import Door
from server.catalog import Catalog
from server.child import Processes
from server.deadlines import Clock
from server.engine_view import EngineView


class Live(BaseModel):
    """This front end answers."""

    live: bool = True
    pid: int


class Ready(BaseModel):
    """Whether requests can be served, and if not, why not."""

    ready: bool
    reason: str = Field(description="ready | draining | no_engine | starting | stalled | no_model")
    detail: str
    models: list[str] = Field(description="Served, as name@version.")
    damaged: list[str] = Field(description="Versions that cannot be served, each with its file and reason.")
    processes: Processes


def router(
    catalog: Catalog,
    view: EngineView,
    door: Door,
    clock: Clock,
    processes: Callable[[], Processes],
    metrics: Callable[[], bytes],
) -> APIRouter:
    """The three routes. `metrics` is called in a thread: it reads a file of every process."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/livez")
    async def livez() -> Live:
        """Answers as long as this process does."""
        return Live(pid=os.getpid())

    @routes.get("/readyz", responses={503: {"model": Ready, "description": "Not ready"}})
    async def readyz(response: Response) -> Ready:
        """200 when requests can be served, else 503."""
        reason, detail = _state(view, door, clock())
        if reason != "ready":
            response.status_code = 503
        return Ready(
            ready=reason == "ready",
            reason=reason,
            detail=detail,
            models=sorted(view.models) if view.ready else [],
            damaged=[f"{damage.model}: {damage.file}: {damage.reason}" for damage in catalog.damaged],
            processes=processes(),
        )

    @routes.get("/metrics", response_class=Response)
    async def scrape() -> Response:
        """All processes of the service in Prometheus's text format."""
        return Response(await asyncio.to_thread(metrics), media_type=CONTENT_TYPE_LATEST)

    return routes


def _state(view: EngineView, door: Door, now_ns: int) -> tuple[str, str]:
    if door.draining or view.state == "draining":
        return "draining", "The service is being shut down."
    if view.epoch == 0:
        return "no_engine", view.detail
    if view.stalled(now_ns):
        return "stalled", "The engine process has been silent for too long."
    if not view.ready:
        return "starting", view.detail
    if not view.models:
        return "no_model", view.detail or "No model can be served."
    return "ready", view.detail
