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


def _rung(stage: Mapping[str, Any]) -> Rung:
    ones = [float(cell["p50_ms"]) for cell in stage["latency"] if cell["batch"] == 1]
    return Rung(stage["name"], ones[0] if ones else float("nan"))


def read_model(server: Server, name: str | None = None) -> Published:
    """The model that `name` or `name@version` means, or the default one; of several versions the newest served.

    Raises ServerFailed where no such model is served, or what is published is not as promised.
    """
    path = "/models" if name is None else f"/models/{name}"
    try:
        cards = [card for card in server.get(path)["models"] if card["state"] == "serving"]
        chosen = [card for card in cards if card["default"]] if name is None else cards
        if not chosen:
            raise ServerFailed(f"GET {path} names no model that is being served")
        card = max(chosen, key=lambda card: int(card["version"]))
        return Published(card["name"], card["version"], tuple(_rung(stage) for stage in card["stages"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ServerFailed(f"GET {path} is not as promised: {error!r}") from error
