"""Bounds hold for the requests that are scored."""

from __future__ import annotations

from dataclasses import replace

from loadtest.simulator.limits import U1, U1_PRIME, U2, limits
from loadtest.simulator.world import Costs

from .worlds import MS, at, device, model


def test_requests_that_are_not_scored_do_not_lower_the_bounds_of_those_that_are() -> None:
    crowd = [k / 100 for k in range(500)]  # half a second of the deepest rung's work in 5 ms
    calm = [1000.0 + 20 * k for k in range(20)]
    all_scored = at(crowd + calm, 10.0)
    without_crowd = replace(all_scored, scored_from_ns=900 * MS)
    bounds = limits(model(), device(), without_crowd, Costs(), exact=True)
    assert bounds.keys() == {U1, U1_PRIME, U2}
    for bound in bounds.values():
        assert bound.attainment > 1 - 1e-9
        assert bound.effective_accuracy > 0.899
    assert limits(model(), device(), all_scored, Costs(), exact=False)[U2].effective_accuracy < 0.7
