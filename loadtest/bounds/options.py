"""Ways to answer one image, as points of (mean device time, mean accuracy), and the best mix of them.

It knows what an option costs and yields on average; not when requests arrive, and not how options are scheduled.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loadtest.bounds.bound import Floats, checked_accuracies, checked_latencies


@dataclass(frozen=True)
class Options:
    """Ways to answer an image, one per entry.

    `cost_ns` [o]: mean device time an image, every launch at its best batch. `accuracy` [o]: mean accuracy.
    `shortest_ns` [o]: no image can be answered in less time than this, so smaller budgets rule the option out.
    `names` [o]: for tables, e.g. `0`, `0 <0.81 2` (run rung 0; confidence below 0.81: run rung 2).
    """

    cost_ns: Floats
    accuracy: Floats
    shortest_ns: Floats
    names: tuple[str, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)

    def take(self, chosen: NDArray[np.intp]) -> "Options":
        """The options at these places, in this order."""
        return Options(
            self.cost_ns[chosen],
            self.accuracy[chosen],
            self.shortest_ns[chosen],
            tuple(self.names[index] for index in chosen),
        )

    def charged(self, overhead_ns: float) -> "Options":
        """The same options when every answered request also costs the device's core `overhead_ns` (a front end)."""
        return Options(self.cost_ns + overhead_ns, self.accuracy, self.shortest_ns + overhead_ns, self.names)

    def within(self, budget_ns: float) -> "Options":
        """Those that can end within a budget."""
        return self.take(np.flatnonzero(self.shortest_ns <= budget_ns))

    def hull(self) -> "Options":
        """The corners of the upper concave hull of (cost, accuracy) over "do nothing" = (0, 0), by rising cost.

        A programme with one capacity mixes only these: every other option is no better than a mix of two of them.
        """
        order = np.lexsort((-self.accuracy, self.cost_ns))
        kept: list[int] = []
        for index in order:
            while kept and self._gain_per_ns(kept[-1], index) >= self._last_gain_per_ns(kept):
                kept.pop()
            # By slope and not by accuracy: a rise so small that its slope is zero is none.
            if self._gain_per_ns(kept[-1] if kept else None, index) > 0:
                kept.append(int(index))
        return self.take(np.asarray(kept, dtype=np.intp))

    def _gain_per_ns(self, before: int | None, after: int) -> float:
        cost = self.cost_ns[after] - (0.0 if before is None else self.cost_ns[before])
        gain = self.accuracy[after] - (0.0 if before is None else self.accuracy[before])
        return float(gain / cost) if cost > 0 else (np.inf if gain > 0 else -np.inf)

    def _last_gain_per_ns(self, kept: list[int]) -> float:
        return self._gain_per_ns(kept[-2] if len(kept) > 1 else None, kept[-1])

    def best_at(self, cost_ns: float) -> float:
        """The highest mean accuracy of any mix, dropping included, whose mean cost is at most `cost_ns`."""
        corners = self.hull()
        return float(np.interp(cost_ns, np.append(0.0, corners.cost_ns), np.append(0.0, corners.accuracy)))


def direct_options(accuracies: ArrayLike, latency_ns: ArrayLike) -> Options:
    """One option a rung: `accuracies` [K], and the latencies [K, B] of batches of 1…B images in nanoseconds.

    Costs kappa_k = min over b of T_k(b) / b. Raises ValueError for shapes that do not match.
    """
    latencies = checked_latencies(latency_ns)
    kappas = cost_per_image_ns(latencies)
    names = tuple(str(rung) for rung in range(len(kappas)))
    return Options(kappas, checked_accuracies(accuracies, len(kappas)), latencies[:, 0], names)


def cost_per_image_ns(latency_ns: ArrayLike) -> Floats:
    """kappa [K]: the least device time an image, over all batch sizes, of latencies [K, B]."""
    latencies = checked_latencies(latency_ns)
    return np.asarray((latencies / np.arange(1, latencies.shape[1] + 1)).min(axis=1))


def pooled_accuracies(accuracy_by_set: ArrayLike, latency_ns: ArrayLike) -> Floats:
    """Accuracies [K] to give to `u1`, `u1_prime` and `fluid` when finished rungs are pooled.

    `accuracy_by_set` [2^K]: accuracy per set of finished rungs (bit k = rung k; entry 0 is ignored). A request that
    ran a set S took at least the launch of S's costliest rung, so crediting that rung alone with the best accuracy of
    any set in which it is the costliest can only help: the bounds then hold for policies that pool, too.
    Raises ValueError unless there are 2^K entries.
    """
    kappas = cost_per_image_ns(latency_ns)
    by_set = np.asarray(accuracy_by_set, dtype=np.float64)
    if by_set.shape != (1 << len(kappas),):
        raise ValueError(f"{len(kappas)} rungs have {1 << len(kappas)} sets, not {by_set.shape}")
    best = np.zeros(len(kappas))
    for mask in range(1, len(by_set)):
        members = [rung for rung in range(len(kappas)) if mask >> rung & 1]
        costliest = max(members, key=lambda rung: kappas[rung])
        best[costliest] = max(best[costliest], by_set[mask])
    return best


def fluid(accuracies: ArrayLike, latency_ns: ArrayLike, rate_per_ns: float) -> float:
    """Effective accuracy of the fluid programme: maximise sum A_k x_k, sum kappa_k x_k <= 1/rate, sum x_k <= 1.

    `accuracies` [K]; `latency_ns` [K, B] for batches of 1…B; `rate_per_ns` > 0 requests a nanosecond. An upper bound
    on the long-run effective accuracy of every policy that does not look at the images, for arrivals of this mean
    rate however they are spread: on average no more than 1/rate of device time falls to a request, no image costs less
    than kappa, and a mix of rungs yields its mean accuracy. A finite burst that leaves the device idle afterwards is
    bounded only over the whole time until the last deadline. With `cascade_options(…).best_at(1 / rate_per_ns)` the
    same holds for policies that look at confidence by thresholds (the fluid form of U2).
    Raises ValueError for a rate that is not positive.
    """
    if not rate_per_ns > 0:
        raise ValueError(f"the rate must be positive, not {rate_per_ns}")
    return direct_options(accuracies, latency_ns).best_at(1.0 / rate_per_ns)
