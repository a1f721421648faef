"""Every scheduler by name. The one place that knows them all."""

from collections.abc import Callable, Sequence

from loadtest.simulator.baselines.clipper import Clipper
from loadtest.simulator.baselines.clockwork import Clockwork
from loadtest.simulator.baselines.fixed import Fixed
from loadtest.simulator.baselines.proteus import Proteus
from loadtest.simulator.baselines.rtdeepiot import RTDeepIoT
from loadtest.simulator.baselines.slackfit import SlackFit
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.ours import Ours
from loadtest.simulator.scheduler import Scheduler

Maker = Callable[[SimulatedModel, Durations], Scheduler]
StageMaker = Callable[[SimulatedModel, Durations, int], Scheduler]

OURS, BLIND = "anytime", "anytime-blind"
PER_STAGE: dict[str, Callable[[SimulatedModel, Durations, int], Scheduler]] = {
    "fixed": Fixed,
    "clipper": Clipper,
    "clockwork": Clockwork,
}
WHOLE_LADDER: dict[str, Maker] = {
    OURS: Ours,
    BLIND: Ours.blind,
    "slackfit": SlackFit,
    "proteus": Proteus,
    "rtdeepiot": RTDeepIoT,
}


class UnknownPolicy(ValueError):
    """No scheduler has this name; the text lists those that there are."""


def names(stages: Sequence[str]) -> list[str]:
    """All, ours first: `fixed:column1` is one rung's."""
    return [*WHOLE_LADDER, *(f"{family}:{stage}" for family in PER_STAGE for stage in stages)]


def make(name: str, model: SimulatedModel, device: Durations) -> Scheduler:
    """The scheduler of that name, with nothing to do yet. Raises UnknownPolicy."""
    family, _, stage = name.partition(":")
    if name in WHOLE_LADDER:
        return WHOLE_LADDER[name](model, device)
    if family in PER_STAGE and stage in model.stages:
        return PER_STAGE[family](model, device, model.stages.index(stage))
    raise UnknownPolicy(f"no policy is called {name!r}; there are {', '.join(names(model.stages))}")
