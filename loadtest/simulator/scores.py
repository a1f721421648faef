"""From a journal to figures. Effective accuracy counts right and in time over all offered; nothing is left out.

Knows arrays; must not know who scheduled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.offered import MS, Offered
from loadtest.simulator.world import NEVER, Journal


@dataclass(frozen=True)
class Scores:
    """Figures of one run, over the requests that are scored. Shares are fractions of all offered.

    Attributes:
        attainment: an answer was at the client by the deadline.
        effective_accuracy: and it was right.
        accuracy_in_time: right among those in time.
        refused: told so at once.
        expired: admitted (or only queued), and given up without an answer.
        late: the first answer came after the deadline.
        lateness_ms: p50, p99, p99.9, max of answer less deadline; refused are not in it, expired are infinite.
        device_us: device time a request offered.
        wasted: share of the device's time in launches for answers that nobody got.
        decision_us: p50, p99 of the calls that ordered a launch.
        call_us: all calls of the scheduler, per request.
        batch: mean size of a launch.
        mix: share of all offered by the deepest rung in the answer, in ladder order.
    """

    offered: int
    attainment: float
    effective_accuracy: float
    accuracy_in_time: float
    refused: float
    expired: float
    late: float
    lateness_ms: tuple[float, float, float, float]
    device_us: float
    wasted: float
    decision_us: tuple[float, float]
    call_us: float
    batch: float
    mix: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values; infinity becomes null."""
        lateness = [None if np.isinf(value) else round(value, 4) for value in self.lateness_ms]
        return {**self.__dict__, "lateness_ms": lateness}


def score(journal: Journal, offered: Offered, model: SimulatedModel) -> Scores:
    """The figures of a run; of nothing offered all shares are NaN."""
    chosen = offered.scored
    mask, late_mask = journal.mask[chosen], journal.late_mask[chosen]
    refused = journal.refused[chosen]
    in_time, answered = mask > 0, late_mask > 0
    right = model.right[mask, offered.images[chosen]] & in_time
    late = answered & ~in_time
    device_ns = journal.device_ns[chosen]
    count = len(mask)
    return Scores(
        offered=count,
        attainment=_share(in_time, count),
        effective_accuracy=_share(right, count),
        accuracy_in_time=_share(right, int(in_time.sum())),
        refused=_share(refused, count),
        expired=_share(~answered & ~refused, count),
        late=_share(late, count),
        lateness_ms=_lateness(journal, offered, ~refused),
        device_us=float(device_ns.sum() / count / 1e3) if count else float("nan"),
        wasted=float(device_ns[late].sum() / max(int(device_ns.sum()), 1)),
        decision_us=_percentiles(journal.decision_ns / 1e3, (50, 99)),  # type: ignore[arg-type]
        call_us=journal.calls_ns / max(len(offered), 1) / 1e3,
        batch=float(journal.launches[:, 3].mean()) if len(journal.launches) else float("nan"),
        mix=tuple(stage_shares(mask, len(model.stages))),
    )


def stage_shares(mask: NDArray[np.uint16], stages: int) -> list[float]:
    """Share of all by the deepest rung in the answer; those without one are in none."""
    deepest = deepest_rung(mask)
    return [float((deepest == stage).mean()) if len(mask) else float("nan") for stage in range(stages)]


def deepest_rung(mask: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Place of the highest bit, -1 for an empty set."""
    return np.frexp(mask.astype(np.float64))[1].astype(np.int64) - 1


def _lateness(
    journal: Journal, offered: Offered, admitted: NDArray[np.bool_]
) -> tuple[float, float, float, float]:
    chosen = offered.scored
    answered_ns, late_mask = journal.answered_ns[chosen], journal.late_mask[chosen]
    lateness = (answered_ns - offered.deadlines_ns[chosen]) / MS
    lateness = np.where((late_mask == 0) | (answered_ns == NEVER), np.inf, lateness)[admitted]
    return _percentiles(lateness, (50, 99, 99.9, 100))  # type: ignore[return-value]


def _percentiles(values: NDArray[np.float64], wanted: Sequence[float]) -> tuple[float, ...]:
    """The smallest value that so many per cent of all do not exceed: infinities need no interpolation."""
    if not len(values):
        return tuple(float("nan") for _ in wanted)
    found = np.percentile(values, list(wanted), method="inverted_cdf")
    return tuple(float(value) for value in found)


def _share(chosen: NDArray[np.bool_], of: int) -> float:
    return float(chosen.sum() / of) if of else float("nan")
