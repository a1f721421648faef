"""What is offered in one run: when each request comes, how long it may take, and which image it brings.

Knows seeds and distributions; must not know who serves. The same seed offers the same to every scheduler.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MS = 1_000_000


@dataclass(frozen=True)
class Offered:
    """n requests in order of arrival.

    Attributes:
        arrivals_ns: int64 [n], sorted: intended sends of the clients.
        budgets_ns: int64 [n].
        images: int32 [n].
        scored_from_ns: requests that come before are served but not scored: estimates of a just-started
            server settle meanwhile.
    """

    arrivals_ns: NDArray[np.int64]
    budgets_ns: NDArray[np.int64]
    images: NDArray[np.int32]
    scored_from_ns: int = 0

    def __len__(self) -> int:
        return len(self.arrivals_ns)

    @property
    def deadlines_ns(self) -> NDArray[np.int64]:
        """int64 [n]."""
        return self.arrivals_ns + self.budgets_ns

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which requests count."""
        return self.arrivals_ns >= self.scored_from_ns


def offer(
    arrivals_ns: NDArray[np.int64],
    budget_ms: tuple[float, float],
    images: int,
    seed: int,
    scored_from_s: float = 0.0,
) -> Offered:
    """Budgets log-uniform in `budget_ms` (low, high), images uniform and with repetition; streams of their own."""
    low, high = budget_ms
    if not 0 < low <= high:
        raise ValueError(f"a budget of {low} to {high} ms")
    random = np.random.default_rng([seed, 0xB0D6])
    count = len(arrivals_ns)
    drawn = np.exp(random.uniform(np.log(low), np.log(high), count)) if low < high else np.full(count, low)
    chosen = random.integers(0, images, count, dtype=np.int32)
    budgets = np.rint(drawn * MS).astype(np.int64)
    return Offered(arrivals_ns, budgets, chosen, round(scored_from_s * 1e9))
