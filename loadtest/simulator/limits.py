"""Bounds for a run: the same arrivals and deadlines, the device's mean launch times, the recorded answers.

Bounds know the future and pay for no decision; see loadtest.bounds for what each of them holds against. They are told
the times at the engine, so what a request spends before and after it is taken off its budget. Requests that are not
scored are not there for them: a bound on the others it is all the more.
"""

from collections.abc import Mapping

import numpy as np

from loadtest import bounds
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.offered import Offered
from loadtest.simulator.world import Costs

U1, U1_PRIME, U2 = "U1", "U1′", "U2"
U1_TOLERANCE = 0.001


def limits(
    model: SimulatedModel, device: Durations, offered: Offered, costs: Costs, *, exact: bool
) -> dict[str, bounds.Bound]:
    """U1 (only where `exact`, and budgets are equal), U1' and U2."""
    latency_ns = device.mean_ns()
    chosen = offered.scored
    begins = (offered.arrivals_ns[chosen] + costs.inbound_ns).astype(np.float64)
    ends = (offered.deadlines_ns[chosen] - costs.outbound_ns).astype(np.float64)
    # The very images that were offered: among thousands drawn, accuracy strays by tenths of a point.
    images = offered.images[chosen]
    right, confidence = model.right[:, images], model.confidence[:, images]
    accuracies = bounds.pooled_accuracies(right.mean(axis=1), latency_ns)
    found = {U1_PRIME: bounds.u1_prime(accuracies, latency_ns, begins, ends)}
    options = bounds.cascade_options(confidence, right, latency_ns)
    found[U2] = bounds.u2(options, begins, ends)
    if exact:
        budget_ns = float(ends[0] - begins[0])
        found[U1] = bounds.u1(accuracies, latency_ns, begins, budget_ns, U1_TOLERANCE)
    return found


def as_json(found: Mapping[str, bounds.Bound]) -> dict[str, dict[str, float]]:
    """JSON values."""
    return {
        name: {"effective_accuracy": bound.effective_accuracy, "attainment": bound.attainment}
        for name, bound in found.items()
    }
