"""The policy that serves, as a scheduler of the simulator: the same code, warmed up by the same kind of profile."""

from collections.abc import Sequence

from loadtest.simulator.durations import Durations
from loadtest.simulator.model import NAME, SimulatedModel
from loadtest.simulator.scheduler import Event, Instruction
from server.engine.policy import Ladder, LatencyTable, PolicyConfig, new_state, step


class Ours:
    """server.engine.policy with one model.

    Args:
        model: what it knows of the model comes from the manifest.
        device: its profile is the warm-up's.
        config: by default as the engine's, with the device's largest batch.
    """

    def __init__(self, model: SimulatedModel, device: Durations, config: PolicyConfig | None = None) -> None:
        ladder = Ladder(model.stages, model.accuracies, model.gain_bin_edges, model.gains)
        latency = LatencyTable(device.profile, device.max_batch)
        self.state = new_state({NAME: (ladder, latency)}, config or PolicyConfig(max_batch=device.max_batch))

    def step(self, event: Event, now_ns: int) -> Sequence[Instruction]:
        """The policy's step."""
        return step(self.state, event, now_ns)[1]
