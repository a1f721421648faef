"""The seam between the world and whoever schedules: the serving policy's own events and instructions.

A scheduler is told what happens and answers with orders; it knows no clock but the times it is told, and of images
nothing but the confidences that come with LaunchDone. Our policy fits in as it is; baselines speak its language.
"""

from collections.abc import Sequence
from typing import Protocol

from server.engine.policy import Arrived, Finish, Launch, LaunchDone, Reject, Tick, WaitUntil

Event = Arrived | LaunchDone | Tick
Instruction = Launch | Finish | Reject | WaitUntil


class Scheduler(Protocol):
    """Told every event in order of time; a Launch is obeyed only where it answers a Tick with the device free."""

    def step(self, event: Event, now_ns: int) -> Sequence[Instruction]:
        """What to do now. Keys of jobs are their places in what is offered."""
        ...
