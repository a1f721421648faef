"""What a run will send: fixed entirely before it starts, so that sending is a lookup and a write.

Knows images, arrival times and the service's query parameters; opens no socket.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray

from loadtest.arrivals import Nanoseconds
from loadtest.images import LabelledImages
from loadtest.wire import request_head, request_tail

# A client that waits for ever hides what never came back; one that gives up at the deadline cannot see
# how late.
GRACE_S = 2.0


@dataclass(frozen=True)
class Target:
    """Where requests go: an address and a path with fixed query parameters (without deadline_ms)."""

    host: str
    port: int
    path: str = "/classify"
    query: Mapping[str, str] | None = None

    @classmethod
    def parse(cls, url: str, path: str = "/classify", query: Mapping[str, str] | None = None) -> "Target":
        """From `http://host:port`. Raises ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"the target must look like http://127.0.0.1:8000, not {url!r}")
        return cls(parts.hostname, parts.port or 80, path, query)

    def head(self, deadline_ms: float) -> bytes:
        """Request line and fixed headers for a budget."""
        query = {"deadline_ms": f"{deadline_ms:g}", **(self.query or {})}
        return request_head(f"{self.path}?{urlencode(query)}", f"{self.host}:{self.port}")


@dataclass(frozen=True)
class Plan:
    """Arrivals (int64 ns, sorted), images (int32 places) and budgets (int64 ns), a value per request.

    `heads[head_of[i]] + tails[images[i]]` are the bytes of request i. `grace_s` after its deadline the client
    gives a request up. `connections` bounds the pool; `warm` of them are open before the run starts.
    """

    target: Target
    arrivals_ns: Nanoseconds
    images: NDArray[np.int32]
    labels: NDArray[np.int16]
    budgets_ns: NDArray[np.int64]
    heads: tuple[bytes, ...]
    head_of: NDArray[np.intp]
    tails: tuple[bytes, ...]
    seconds: float
    grace_s: float = GRACE_S
    connections: int = 1024
    warm: int = 16

    def __len__(self) -> int:
        return len(self.arrivals_ns)


def _tails(images: LabelledImages) -> tuple[bytes, ...]:
    pairs = zip(images.media_types, images.payloads, strict=True)
    return tuple(request_tail(media_type, payload) for media_type, payload in pairs)


def make_plan(
    target: Target,
    images: LabelledImages,
    arrivals_ns: Nanoseconds,
    seconds: float,
    *,
    deadline_ms: float | NDArray[np.float64],
    order: NDArray[np.int32] | None = None,
    seed: int = 0,
    grace_s: float = GRACE_S,
    connections: int = 1024,
    warm: int = 16,
) -> Plan:
    """A request per arrival; images drawn by `seed` unless `order` names them; one budget or one for each."""
    count = len(arrivals_ns)
    drawn = images.draw(count, seed) if order is None else order
    budgets_ms = np.broadcast_to(np.asarray(deadline_ms, dtype=np.float64), (count,))
    if len(drawn) != count or (np.diff(arrivals_ns) < 0).any() or not (budgets_ms > 0).all():
        raise ValueError("a plan needs sorted arrivals, an image for each and budgets above 0")
    distinct, head_of = np.unique(budgets_ms, return_inverse=True)
    return Plan(
        target,
        arrivals_ns,
        drawn,
        images.labels[drawn],
        np.rint(budgets_ms * 1e6).astype(np.int64),
        tuple(target.head(float(budget)) for budget in distinct),
        head_of,
        _tails(images),
        seconds,
        grace_s,
        connections,
        warm,
    )


def back_to_back(
    target: Target,
    images: LabelledImages,
    order: NDArray[np.int32],
    *,
    deadline_ms: float,
    concurrency: int,
    patience_s: float,
) -> Plan:
    """A closed loop as a plan: all due at once, through `concurrency` connections, so each waits for a free
    one.

    Its latency is done - sent, never done - intended. All of it must end within `patience_s`.
    """
    at_once = np.zeros(len(order), dtype=np.int64)
    return make_plan(
        target,
        images,
        at_once,
        patience_s,
        deadline_ms=deadline_ms,
        order=order,
        grace_s=patience_s,
        connections=concurrency,
        warm=concurrency,
    )
