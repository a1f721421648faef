"""What a server publishes of its models: GET /models and GET /models/{name}, read into a ladder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.servers import Server, ServerFailed


@dataclass(frozen=True)
class Rung:
    """A published stage; `p50_ms` is its launch time for one image, here and now (NaN where not
    published).
    """

    name: str
    p50_ms: float


@dataclass(frozen=True)
class Published:
    """A model as served: name, version, and its rungs in ladder order."""

    name: str
    version: str
    rungs: tuple[Rung, ...]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The rungs' names."""
        return tuple(rung.name for rung in self.rungs)

    @property
    def others_ms(self) -> float:
        """Launch times of all rungs but the last, one image each, summed."""
        return sum(rung.p50_ms for rung in self.rungs[:-1])


def _batch_of_one(stage: Mapping[str, Any]) -> float:
    """p50 at batch 1 of a stage's `latency`: {"1": {"p50_ms": …}} or [{"batch": 1, "p50_ms": …}, …]."""
    latency = stage.get("latency") or {}
    cells = latency if isinstance(latency, list) else [{"batch": int(k), **v} for k, v in latency.items()]
    return next((float(cell["p50_ms"]) for cell in cells if cell["batch"] == 1), float("nan"))


def read_model(server: Server, name: str | None = None) -> Published:
    """The named model, or the only (or default) one. Raises ServerFailed where what is published is not
    as promised.
    """
    if name is None:
        listing = server.get("/models")
        name = listing.get("default") or listing["models"][0]["name"]
    body = server.get(f"/models/{name}")
    try:
        rungs = tuple(Rung(stage["name"], _batch_of_one(stage)) for stage in body["stages"])
        return Published(body["name"], str(body["version"]), rungs)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerFailed(f"GET /models/{name} is not as promised: {error!r}") from error
