"""Everything a bench runs on, built once per process: the model, the devices with and without stalls, capacities.

The one place that reads recordings, models and traces for the bench.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtest import arrivals
from loadtest.arrivals import Seconds
from loadtest.simulator import durations, gpu_shaped, model, recording
from loadtest.simulator.baselines.fixed import Fixed
from loadtest.simulator.conditions import DEEPEST, SHALLOWEST
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.offered import offer
from loadtest.simulator.recording import Recording
from loadtest.simulator.scores import score
from loadtest.simulator.world import Costs, simulate
from model_repo.repository import PublishedModel, Repository

CPU, CPU_RAW, GPU = "CPU", "CPU, with stalls", "GPU-shaped"
_CAPACITY_BUDGET_MS = (50.0, 50.0)
_ENOUGH_IN_TIME = 0.99
_PROBES = 9
_PROBE_REQUESTS = 4000
_SHORTEST_PROBE_S = 1.0  # many budgets: a queue hides an overload for one
_PROBE_COSTS = Costs(decision_ns=20_000)  # capacities are the same on every machine


@dataclass(frozen=True)
class Setup:
    """What runs stand on.

    Attributes:
        devices: by name.
        capacities: requests/s by (device, DEEPEST | SHALLOWEST): the highest Poisson rate at which the fixed rung
            has 99 % in time at 50 ms.
    """

    published: PublishedModel
    recording: Recording
    model: SimulatedModel
    devices: Mapping[str, Durations]
    capacities: Mapping[tuple[str, str], float]
    trace: Seconds | None
    costs: Costs = field(default_factory=Costs)


def open_model(models_dir: Path, name: str) -> PublishedModel:
    """name or name@version. Raises RepositoryError."""
    base, _, version = name.partition("@")
    return Repository(models_dir).open(base, version)


def set_up(
    models_dir: Path,
    name: str,
    recordings: Path,
    trace: Path | None,
    costs: Costs,
    scale: int = _PROBE_REQUESTS,
) -> Setup:
    """Read everything and find the capacities with probes of `scale` requests.

    Raises RepositoryError, RecordingError, or ValueError for a trace that is none.
    """
    published = open_model(models_dir, name)
    recorded = recording.load_for(published, recordings)
    simulated = model.from_recording(published.manifest, recorded)
    devices = {
        CPU: durations.from_recording(recorded, with_stalls=False),
        CPU_RAW: durations.from_recording(recorded, with_stalls=True),
        GPU: gpu_shaped.gpu_shaped(published.manifest, gpu_shaped.read_shape()),
    }
    capacities = {}
    for key in (CPU, GPU):
        for of, stage in ((DEEPEST, len(simulated.stages) - 1), (SHALLOWEST, 0)):
            capacities[key, of] = capacity(simulated, devices[key], stage, scale)
    capacities |= {(CPU_RAW, of): capacities[CPU, of] for of in (DEEPEST, SHALLOWEST)}
    times = arrivals.read_trace(trace) if trace is not None else None
    return Setup(published, recorded, simulated, devices, capacities, times, costs)


def capacity(simulated: SimulatedModel, device: Durations, stage: int, requests: int) -> float:
    """The highest Poisson rate, in requests/s, at which that rung alone has 99 % in time at 50 ms; by bisection."""
    batches = range(1, device.max_batch + 1)
    mean_ns = device.mean_ns()[stage]
    # Not above what its best batch carries: a short probe would not see that exceeded.
    high = 1e9 / min(float(mean_ns[batch - 1]) / batch for batch in batches)
    low = high / 8
    for _ in range(_PROBES):
        middle = math.sqrt(low * high)
        if _in_time(simulated, device, stage, middle, requests) >= _ENOUGH_IN_TIME:
            low = middle
        else:
            high = middle
    return low


def _in_time(simulated: SimulatedModel, device: Durations, stage: int, rate: float, requests: int) -> float:
    seconds = max(requests / rate, _SHORTEST_PROBE_S)
    offered = offer(
        arrivals.poisson(rate, seconds, 0), _CAPACITY_BUDGET_MS, simulated.images, 0, 0.1 * seconds
    )
    journal = simulate(Fixed(simulated, device, stage), simulated, device, offered, costs=_PROBE_COSTS)
    return score(journal, offered, simulated).attainment
