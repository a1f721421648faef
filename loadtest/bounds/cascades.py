"""Cascade options from recorded outputs: "run rung j; if its confidence is below tau run rung k", and one step more.

It knows recorded confidences and right answers per set of finished rungs; nothing of arrivals.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loadtest.bounds.bound import Floats, checked_latencies
from loadtest.bounds.options import Options, cost_per_image_ns

Bins = NDArray[np.intp]


@dataclass(frozen=True)
class Recorded:
    """Outputs of the whole ladder on one set of images: confidences and right answers [2^K sets, images]."""

    confidences: Floats
    right: Floats

    def __post_init__(self) -> None:
        """Raises ValueError unless both have the shape [2^K, images], images > 0."""
        sets = self.right.shape[0] if self.right.ndim == 2 else 0
        if self.right.shape != self.confidences.shape or sets < 2 or sets & (sets - 1) or not self.right.size:
            raise ValueError(
                f"confidences {self.confidences.shape} and right {self.right.shape} need the shape [2^K, images]"
            )

    @property
    def rungs(self) -> int:
        """K, the length of the ladder."""
        return int(self.right.shape[0]).bit_length() - 1

    def edges(self, finished: int, quantiles: int) -> Floats:
        """The thresholds tried after the set `finished`: quantiles of its confidence, and infinity (always go on)."""
        grid = np.arange(1, quantiles) / quantiles
        return np.append(np.unique(np.quantile(self.confidences[finished], grid)), np.inf)

    def bins(self, finished: int, edges: Floats) -> Bins:
        """[images] the place of the first threshold that sends the image on: confidence < edges[place]."""
        return np.asarray(np.searchsorted(edges, self.confidences[finished], side="right"), np.intp)


def cascade_options(
    confidences: ArrayLike, right: ArrayLike, latency_ns: ArrayLike, quantiles: int = 40, steps: int = 2
) -> Options:
    """The concave hull of all cascades of up to `steps` thresholds over a ladder of K rungs.

    `confidences`, `right` [2^K, images]: for every set of finished rungs (bit k = rung k; row 0 is ignored) the
    confidence of the pooled answer and whether it is right; `latency_ns` [K, B] for batches of 1…B. Thresholds are
    the `quantiles` of each set's confidence on these images, and "always". The rungs of a cascade come in any
    order. Options are the single rungs, j then k, and with steps = 2 also j then k then l. An option costs
    the kappas of its stages, each weighted by the share of images that reaches it.

    Why U2 built from these bounds a policy: what the policy does with one image is a walk through the ladder that
    stops by the confidence it sees; for a given price of device time the best walk stops above a threshold wherever
    the expected gain falls with confidence. So the hull of all thresholds is as good as any rule that goes on with the
    same rung or stops (branching into different rungs is not in it: see the package), up to the grid of
    quantiles: the bound may lie below the true optimum by what the best threshold gains over its nearest
    grid neighbour, which vanishes as `quantiles` grows. It is fitted on the very images it is judged on,
    which favours the bound. Only the last set's confidence decides each step (not the whole history), no
    property of the image besides confidence is used, and no walk has more than `steps` decisions.
    Raises ValueError for shapes that do not match.
    """
    recorded = Recorded(np.asarray(confidences, np.float64), np.asarray(right, np.float64))
    latencies = checked_latencies(latency_ns)
    if len(latencies) != recorded.rungs:
        raise ValueError(f"outputs of {recorded.rungs} rungs, but latencies of {len(latencies)}")
    maker = _Maker(recorded, cost_per_image_ns(latencies), latencies[:, 0], quantiles)
    parts = [maker.single(rung) for rung in range(recorded.rungs)]
    parts += [maker.two(*pair) for pair in permutations(range(recorded.rungs), 2)]
    if steps > 1:
        parts += [maker.three(*triple) for triple in permutations(range(recorded.rungs), 3)]
    return _joined(parts)


@dataclass(frozen=True)
class _Maker:
    """Makes the options of one sequence of rungs, for all thresholds at once."""

    recorded: Recorded
    kappas: Floats
    shortest: Floats
    quantiles: int

    def single(self, rung: int) -> Options:
        accuracy = self.recorded.right[1 << rung].mean()
        return Options(self.kappas[[rung]], np.array([accuracy]), self.shortest[[rung]], (str(rung),))

    def two(self, first: int, second: int) -> Options:
        """One option a threshold: images below it go on to `second`."""
        stop, go = 1 << first, 1 << first | 1 << second
        edges = self.recorded.edges(stop, self.quantiles)
        places = self.recorded.bins(stop, edges)
        gains = self.recorded.right[go] - self.recorded.right[stop]
        share = _below(places, np.ones(len(gains)), len(edges))
        accuracy = self.recorded.right[stop].mean() + _below(places, gains, len(edges))
        cost = self.kappas[first] + share * self.kappas[second]
        names = tuple(f"{first} <{edge:.4f} {second}" for edge in edges)
        return Options(cost, accuracy, self._shortest(len(edges), first, second), names).hull()

    def three(self, first: int, second: int, third: int) -> Options:
        """One option a pair of thresholds: below the first go on to `second`, then below the second to `third`."""
        one = 1 << first
        two = one | 1 << second
        three = two | 1 << third
        edges, inner = self.recorded.edges(one, self.quantiles), self.recorded.edges(two, self.quantiles)
        outer_places, inner_places = self.recorded.bins(one, edges), self.recorded.bins(two, inner)
        right = self.recorded.right
        ones = np.ones(right.shape[1])
        share = _below(outer_places, ones, len(edges))[:, None]
        first_gain = _below(outer_places, right[two] - right[one], len(edges))[:, None]
        deeper = _below_both(outer_places, inner_places, ones, (len(edges), len(inner)))
        second_gain = _below_both(outer_places, inner_places, right[three] - right[two], deeper.shape)
        cost = self.kappas[first] + share * self.kappas[second] + deeper * self.kappas[third]
        accuracy = right[one].mean() + first_gain + second_gain
        names = tuple(f"{first} <{a:.4f} {second} <{b:.4f} {third}" for a in edges for b in inner)
        shortest = self._shortest(cost.size, first, second, third)
        return Options(cost.ravel(), accuracy.ravel(), shortest, names).hull()

    def _shortest(self, count: int, *rungs: int) -> Floats:
        return np.full(count, self.shortest[list(rungs)].sum())


def _below(places: Bins, values: Floats, thresholds: int) -> Floats:
    """[thresholds] the mean over all images of `values` where the image is below the threshold, else 0."""
    sums = np.bincount(places, values, minlength=thresholds)[:thresholds]
    return np.asarray(np.cumsum(sums) / len(values))


def _below_both(outer: Bins, inner: Bins, values: Floats, shape: tuple[int, ...]) -> Floats:
    """[outer thresholds, inner thresholds] the same, for images below both."""
    sums = np.bincount(outer * shape[1] + inner, values, minlength=shape[0] * shape[1]).reshape(shape)
    return np.asarray(sums.cumsum(axis=0).cumsum(axis=1) / len(values))


def _joined(parts: list[Options]) -> Options:
    return Options(
        np.concatenate([part.cost_ns for part in parts]),
        np.concatenate([part.accuracy for part in parts]),
        np.concatenate([part.shortest_ns for part in parts]),
        tuple(name for part in parts for name in part.names),
    )
