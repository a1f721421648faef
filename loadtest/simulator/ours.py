"""The policy that serves, as a scheduler of the simulator: the same code, warmed up by the same kind of profile."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loadtest.simulator.durations import Durations
from loadtest.simulator.model import NAME, SimulatedModel
from loadtest.simulator.scheduler import Event, Instruction
from server.engine.policy import Ladder, LatencyTable, PolicyConfig, new_state, step

TOLD_APART = 0.005
"""Accuracies nearer to each other cannot be told apart by calibration images."""


class Ours:
    """server.engine.policy with one model.

    Args:
        model: what it knows of the model comes from the manifest.
        device: its profile is the warm-up's.
        config: by default as the engine's, with the device's largest batch.
    """

    def __init__(self, model: SimulatedModel, device: Durations, config: PolicyConfig | None = None) -> None:
        ladder = Ladder(model.stages, model.accuracies, model.gain_bin_edges, model.gains)
        latency = LatencyTable(device.profile, device.max_batch, device.runs_as)
        self.state = new_state({NAME: (ladder, latency)}, config or PolicyConfig(max_batch=device.max_batch))

    @classmethod
    def blind(cls, model: SimulatedModel, device: Durations) -> "Ours":
        """The same, not knowing which images gain from more: every gain is the mean over all. For U1's sake."""
        return cls(without_confidence(model), device)

    def step(self, event: Event, now_ns: int) -> Sequence[Instruction]:
        """The policy's step."""
        return step(self.state, event, now_ns)[1]


def without_confidence(model: SimulatedModel) -> SimulatedModel:
    """One bin for every confidence; a gain is the difference of accuracies, as far as calibration data can tell it."""
    names = model.stages
    believed = {done: _surely(model.accuracies, done) for done in model.accuracies}
    gains = {
        done: {
            name: (believed[_joined(names, done, name)] - accuracy,)
            for name in names
            if name not in done.split(",")
        }
        for done, accuracy in believed.items()
    }
    return replace(model, gain_bin_edges=(0.0, 1.0), gains=gains)


def _surely(accuracies: Mapping[str, float], done: str) -> float:
    """Of a set of rungs: that of the best of them alone, unless pooling them adds more than calibration could mistake.

    The labels of a few thousand images tell a gain to half a point. What they say of a dozen pools is, in the best of
    them, mostly luck, and a detour over a cheap rung is worth less than that.
    """
    alone = max(accuracies[name] for name in done.split(","))
    return accuracies[done] if accuracies[done] - alone >= TOLD_APART else alone


def _joined(names: Sequence[str], done: str, more: str) -> str:
    """The key of a set of rungs and one more."""
    members = {*done.split(","), more}
    return ",".join(name for name in names if name in members)
